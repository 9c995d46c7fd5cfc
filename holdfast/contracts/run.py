"""Messages of the run: how it starts, what it knows of itself, what wakes it, how it ends."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

RunStatus = Literal[
    "pending", "running", "waiting", "paused", "succeeded", "failed", "cancelled", "timed_out", "terminated"
]
EndStatus = Literal["succeeded", "failed", "cancelled", "timed_out"]


class Message(BaseModel):
    """Base of all messages: unknown fields are kept out, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RunProgress(Message):
    """What one execution of the workflow hands to the next when it continues as new.

    Attributes:
        step: Number of the newest step.
        head: Newest transcript entry, hex; empty before the first.
        inputs_adopted: Inputs that are part of the transcript.
        inputs_seen: Inputs that the run knows of.
        answered: Whether the model had nothing left to do.
        paused: Whether the run stands still.
        paused_by: Number of the input that made it so, or not so; older ones that come late change nothing.
    """

    step: int = 0
    head: str = ""
    inputs_adopted: int = 0
    inputs_seen: int = 0
    answered: bool = False
    paused: bool = False
    paused_by: int = 0


class StartRun(Message):
    """Input of the workflow. Nothing in it is believed: what a run is, is read from its row (rule 5)."""

    progress: RunProgress = RunProgress()


class RunContext(Message):
    """What the workflow needs to know of its run, read from the run's row.

    Attributes:
        admitted: False if no open run stands behind this workflow id; `refusal` then says why.
        llm_timeout_ms: Hard deadline of one model call.
        tool_timeout_ms: Hard deadline of one tool call.
        code_timeout_ms: Hard deadline of one run of code.
        max_steps: Steps after which the run ends as failed.
        max_tries: Tries a step may have when tries fail for passing reasons.
        deadline_ms: Milliseconds of the epoch at which the run is timed out.
        steps_per_execution: Continue as new after so many steps at the latest; 0 leaves it to Temporal's advice.
        history_events_max: Events of one execution's history after which code is refused further calls, and the next step is another
            execution's.
    """

    admitted: bool
    refusal: str = ""
    tenant_id: str = ""
    tenant: str = ""
    project: str = ""
    user: str = ""
    agent: str = ""
    role: str = ""
    llm_timeout_ms: int = 600_000
    tool_timeout_ms: int = 60_000
    code_timeout_ms: int = 120_000
    heartbeat_timeout_ms: int = 10_000
    max_steps: int = 100
    max_tries: int = 5
    deadline_ms: int = 0
    steps_per_execution: int = 0
    history_events_max: int = 30_000
    inputs: int = 0


class InputSignal(Message):
    """A person said something, or pauses or resumes the run; the words are in the run's inputs, not here."""

    seq: int
    mode: Literal["start", "followup", "steer", "pause", "resume"]


class ApprovalSignal(Message):
    """An approval was decided. It names the record; with a token it asks for the record to be written.

    Attributes:
        approval_id: The approval.
        token: The approver's one-time token, or empty if the record was written already.
    """

    approval_id: str
    token: str = ""


class ResolutionSignal(Message):
    """A person has settled a hold whose outcome was unknown."""

    hold_id: str


class AdoptInputs(Message):
    """Asks to append inputs to the transcript.

    Attributes:
        head: Entry after which they come, hex; empty at the start.
        first: First input to adopt.
        last: Last input to adopt.
    """

    head: str
    first: int
    last: int


class MarkRun(Message):
    """Records a change of the run's status that no decision causes."""

    status: Literal["running", "paused", "waiting"]
    code: str = ""


class FinishRun(Message):
    """Ends the run; as succeeded only if nobody has said anything since.

    Attributes:
        inputs: Number of the newest input that the run knows of.
    """

    status: EndStatus
    code: str = ""
    inputs: int = 0


class FinishedRun(Message):
    """Whether the run is ended; if not, there are newer inputs."""

    ended: bool
    inputs: int = 0


class RunResult(Message):
    """Result of the workflow."""

    status: EndStatus
    code: str = ""
    steps: int = 0
