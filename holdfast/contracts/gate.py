"""Messages of the gate: reserve, approval, settle."""

from __future__ import annotations

from typing import Literal

from holdfast.contracts.run import Message


class ActionRef(Message):
    """Points at an action; its values are read from PostgreSQL.

    Attributes:
        kind: `llm.call`, `tool.call` or `code.exec`.
        head: Transcript head. For `llm.call`, the conversation to continue.
        assistant: For the others, the transcript entry in which the model proposed it.
        call_index: For the others, which of that entry's calls.
        label: Name for people: the model's route or the tool's name.
        code_hold_id: For a call that code makes while it runs, the hold of that `code.exec`; no transcript entry proposes it.
        code_request: Which request of that code it is.
    """

    kind: Literal["llm.call", "tool.call", "code.exec"]
    head: str
    assistant: str = ""
    call_index: int = 0
    label: str = ""
    code_hold_id: str = ""
    code_request: int = 0


class ReserveRequest(Message):
    """Asks for a decision and a hold.

    Attributes:
        step: Number of the action within the run, from 1.
        try_number: Number of this try of the step, from 1.
        action: What is to be done.
        approval_id: An approval that was asked for this step, or empty.
    """

    step: int
    try_number: int
    action: ActionRef
    approval_id: str = ""


class Reason(Message):
    """Why: a stable code, and the rule; the sentence stands in the decision, for it may quote values (rule 8)."""

    code: str
    rule: str = ""


class ReserveReply(Message):
    """The decision.

    Attributes:
        verdict: `allow` comes with a permit; `replayed` with a hold that is settled already or about to be.
        permit: The signed capability; it is worth something once, and only for the arguments it was given for.
        retryable: Whether a denial may go away by itself (a part is unavailable, outstanding holds stand in the way).
    """

    verdict: Literal["allow", "deny", "needs_approval", "replayed"]
    decision_id: str
    hold_id: str = ""
    permit: str = ""
    max_cost_nano_usd: int = 0
    reasons: tuple[Reason, ...] = ()
    retryable: bool = False
    approval_id: str = ""
    approval_expires_ms: int = 0


class VerifyApproval(Message):
    """Asks whether an approval is decided; a token, if there is one, decides it."""

    approval_id: str
    token: str = ""


class ApprovalState(Message):
    """Where an approval stands."""

    state: Literal["pending", "approved", "denied", "expired", "withdrawn", "unknown"]


class SettleRequest(Message):
    """Asks to settle a try's hold by what is recorded of it; a final outcome is written after `action.head`."""

    step: int
    try_number: int
    hold_id: str
    action: ActionRef


class ProposedCall(Message):
    """A tool call that the model proposed, without its arguments."""

    index: int
    tool: str


class SettleReply(Message):
    """What became of the hold, and what came of the action.

    Attributes:
        state: `voided` = nothing happened and nothing was spent; `unknown` = nobody knows yet.
        ok: Whether the action did what it should.
        asks_person: The outcome is unknown and the action must not be repeated: a person has to say what happened.
        head: Transcript head with the outcome, if it was written down.
        assistant: The entry that holds the model's proposed calls.
    """

    state: Literal["committed", "voided", "expired", "unknown"]
    ok: bool = False
    error_code: str = ""
    retryable: bool = False
    retry_after_ms: int = 0
    asks_person: bool = False
    head: str = ""
    assistant: str = ""
    calls: tuple[ProposedCall, ...] = ()


class WriteRefusal(Message):
    """Asks to write down, for the model to read, that a proposed call was not made.

    Attributes:
        head: Entry after which it comes.
        assistant: The entry in which the call was proposed.
        call_index: Which of its calls.
        code: Why not.
        decision_id: The decision whose sentence is to be quoted, or empty.
    """

    head: str
    assistant: str
    call_index: int
    code: str
    decision_id: str = ""


class CodeCall(Message):
    """Says that running code asks for a call of a tool; what it asks for stands in PostgreSQL, and nothing here is believed.

    Attributes:
        hold_id: The hold of the `code.exec` whose code asks.
        number: Which of its requests.
    """

    hold_id: str
    number: int


class AnswerCode(Message):
    """Asks to write down what running code is told.

    Attributes:
        call: The request.
        called_step: The step that the call was, or 0 if it was none.
        called_hold_id: The hold of the call, if it was made.
        code: Why it was not, or why it failed.
        decision_id: The decision whose sentence is to be quoted, or empty.
    """

    call: CodeCall
    called_step: int = 0
    called_hold_id: str = ""
    code: str = ""
    decision_id: str = ""


class NewHead(Message):
    """The transcript's head after something was written."""

    head: str
