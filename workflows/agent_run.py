"""AgentRun: the workflow of a run, with the built-in loop agent: think, act, until there is nothing left to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from temporalio import workflow
from temporalio.common import RawValue, SearchAttributeKey
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from holdfast.contracts import names
    from holdfast.contracts.gate import ActionRef, CodeCall, NewHead, ProposedCall, WriteRefusal
    from holdfast.contracts.run import (
        AdoptInputs,
        ApprovalSignal,
        EndStatus,
        FinishedRun,
        FinishRun,
        InputSignal,
        MarkRun,
        ResolutionSignal,
        RunContext,
        RunProgress,
        RunResult,
        StartRun,
    )
    from workflows.code_calls import CodeCalls
    from workflows.governed_action import ActionResult, GovernedAction, Wakeups, call_local, cancel_requested, pause_for

_STATUS = SearchAttributeKey.for_keyword(names.SEARCH_ATTRIBUTES["status"])
_LOOK_AGAIN_S = 3_600.0


@dataclass(frozen=True)
class _End:
    status: EndStatus
    code: str = ""


def _progress(start: RawValue) -> RunProgress:
    """Reads what an earlier execution has handed over; whatever else a workflow is started with says nothing (rule 5)."""
    try:
        message: StartRun = workflow.payload_converter().from_payload(start.payload, StartRun)
    except Exception:  # noqa: BLE001 (a stranger can start a workflow with anything, and it must not get stuck on that)
        return RunProgress()
    return message.progress


@workflow.defn(name=names.AGENT_RUN, failure_exception_types=[ApplicationError])
class AgentRun:
    """A run. Its id is the workflow's id; everything else about it is read from its row (rule 5)."""

    def __init__(self) -> None:
        self._wakeups = Wakeups()
        self._context = RunContext(admitted=False)
        self._step = 0
        self._first_step = 0
        self._head = ""
        self._inputs_adopted = 0
        self._inputs_seen = 0
        self._steered_at = 0
        self._answered = False
        self._paused = False
        self._paused_by = 0
        self._code_calls = CodeCalls(self._perform_call, self._next_step, self._refusal_of_calls)

    @workflow.signal(name=names.SIGNAL_INPUT)
    def on_input(self, signal: InputSignal) -> None:
        """A person said something, or pauses or resumes the run."""
        self._inputs_seen = max(self._inputs_seen, signal.seq)
        if signal.mode == "steer":
            self._steered_at = max(self._steered_at, signal.seq)
        elif signal.mode in ("pause", "resume"):
            self._stand_still(signal.seq, paused=signal.mode == "pause")

    def _stand_still(self, seq: int, *, paused: bool) -> None:
        """Takes over what the newest of these inputs says: signals may come twice, and late."""
        if seq > self._paused_by:
            self._paused, self._paused_by = paused, seq

    @workflow.signal(name=names.SIGNAL_APPROVAL)
    def on_approval(self, signal: ApprovalSignal) -> None:
        """An approval may have been decided: whether it was, its record says."""
        self._wakeups.approval_tokens.setdefault(signal.approval_id, []).append(signal.token)

    @workflow.signal(name=names.SIGNAL_RESOLUTION)
    def on_resolution(self, signal: ResolutionSignal) -> None:
        """Somebody may have settled an unknown outcome: whether they did, the hold says."""
        self._wakeups.resolutions.add(signal.hold_id)

    @workflow.update(name=names.UPDATE_CODE_CALL)
    async def on_code_call(self, call: CodeCall) -> bool:
        """Running code asks for a call of a tool: whether it does, its request says. Says whether it is answered."""
        return await self._code_calls.ask(call)

    @on_code_call.validator
    def check_code_call(self, call: CodeCall) -> None:
        """Refuses what no running code asks for, without a trace in the history."""
        self._code_calls.refuse_stranger(call)

    @workflow.run
    async def run(self, start: RawValue) -> RunResult:
        """Runs until the model has nothing left to do, or something ends it."""
        self._context = await call_local(names.LOAD_RUN, None, RunContext)
        if not self._context.admitted:
            return RunResult(status="failed", code=self._context.refusal)
        self._restore(_progress(start))
        self._upsert_status("running")
        while True:
            try:
                end = await self._loop()
            except ApplicationError as error:
                end = _End("failed", error.type or "internal.error")
            finish = FinishRun(status=end.status, code=end.code, inputs=self._inputs_seen)
            finished = await call_local(names.FINISH_RUN, finish, FinishedRun)
            if finished.ended:
                break
            self._inputs_seen = max(self._inputs_seen, finished.inputs)
        self._upsert_status(end.status)
        workflow.set_current_details(f"{end.status} after {self._step} steps {end.code}".strip())
        return RunResult(status=end.status, code=end.code, steps=self._step)

    def _restore(self, progress: RunProgress) -> None:
        self._step = self._first_step = progress.step
        self._head = progress.head
        self._inputs_adopted = progress.inputs_adopted
        self._inputs_seen = max(self._inputs_seen, progress.inputs_seen, 1)
        self._answered = progress.answered
        self._stand_still(progress.paused_by, paused=progress.paused)

    def _upsert_status(self, status: str) -> None:
        workflow.upsert_search_attributes([_STATUS.value_set(status)])

    async def _loop(self) -> _End:
        while True:
            if end := await self._between_steps():
                return end
            self._continue_as_new_if_long()
            spoken = await self._adopt_inputs()
            if self._answered and not spoken:
                return _End("succeeded")  # it was only paused and resumed since
            if end := self._exhausted():
                return end
            thought = await self._perform(ActionRef(kind="llm.call", head=self._head, label="llm.call"))
            if thought.state != "done":
                if thought.state == "stopped":
                    continue
                return _End("failed", thought.code)
            assert thought.settled is not None  # a done action was settled
            self._head = thought.settled.head
            self._answered = not thought.settled.calls
            if self._answered and self._inputs_seen == self._inputs_adopted:
                return _End("succeeded")
            if end := await self._act(thought.settled.assistant, thought.settled.calls):
                return end

    async def _between_steps(self) -> _End | None:
        """Stands still while paused; says whether the run is over."""
        await self._stand_still_while_paused()
        return self._over()

    async def _stand_still_before_a_try(self) -> None:
        """A pause holds also between the tries of a step, and after a gate: nothing new begins."""
        # patched is asked only by a run that is paused here, so that no other run's history says anything of it
        if self._paused and workflow.patched("pause-before-a-try"):
            await self._stand_still_while_paused()

    async def _stand_still_while_paused(self) -> None:
        if self._paused and not self._over():
            await call_local(names.MARK_RUN, MarkRun(status="paused"), type(None))
            self._upsert_status("paused")
            workflow.set_current_details(f"paused after step {self._step}")
            while self._paused and not self._over():
                left_s = self._context.deadline_ms / 1000 - workflow.now().timestamp()
                await pause_for(min(max(left_s, 0.001), _LOOK_AGAIN_S), lambda: not self._paused)
            await call_local(names.MARK_RUN, MarkRun(status="running"), type(None))
            self._upsert_status("running")

    def _over(self) -> _End | None:
        if cancel_requested():
            return _End("cancelled", "run.cancelled")
        if workflow.now().timestamp() * 1000 >= self._context.deadline_ms:
            return _End("timed_out", "run.deadline")
        return None

    def _exhausted(self) -> _End | None:
        return _End("failed", "run.max_steps") if self._step >= self._context.max_steps else None

    def _continue_as_new_if_long(self) -> None:
        limit = self._context.steps_per_execution
        long_enough = limit > 0 and self._step - self._first_step >= limit
        long_enough = long_enough or self._history_is_long() or workflow.info().is_continue_as_new_suggested()
        if not long_enough or not workflow.all_handlers_finished():
            return
        progress = RunProgress(
            step=self._step,
            head=self._head,
            inputs_adopted=self._inputs_adopted,
            inputs_seen=self._inputs_seen,
            answered=self._answered,
            paused=self._paused,
            paused_by=self._paused_by,
        )
        workflow.continue_as_new(StartRun(progress=progress))

    def _history_is_long(self) -> bool:
        """Says whether this execution shall take nothing more that it need not: Temporal ends one that has 51,200 events."""
        return workflow.info().get_current_history_length() > self._context.history_events_max

    async def _adopt_inputs(self) -> bool:
        """Appends what people have said since to the transcript, and says whether there was anything."""
        if self._inputs_seen == self._inputs_adopted:
            return False
        before, adopted_to = self._head, self._inputs_seen
        request = AdoptInputs(head=before, first=self._inputs_adopted + 1, last=adopted_to)
        self._head = (await call_local(names.ADOPT_INPUTS, request, NewHead)).head
        self._inputs_adopted = adopted_to
        return self._head != before

    def _next_step(self) -> int:
        self._step += 1
        return self._step

    async def _perform(self, action: ActionRef) -> ActionResult:
        step = self._next_step()
        serve = self._code_calls.serve if action.kind == "code.exec" else None
        result = await GovernedAction(
            self._context, self._wakeups, step, action, self._stand_still_before_a_try, serve=serve
        ).perform()
        self._code_calls.forget(step)
        return result

    async def _perform_call(self, step: int, action: ActionRef, gone: Callable[[], bool]) -> ActionResult:
        return await GovernedAction(
            self._context, self._wakeups, step, action, self._stand_still_before_a_try, gone=gone
        ).perform()

    def _refusal_of_calls(self) -> str:
        """Says why code may not call anything more; a run's last step stays for the model to say what came of it all."""
        if self._steered_at > self._inputs_adopted:
            return "run.steered"
        if self._history_is_long():
            return "code.calls_exhausted"
        return "run.max_steps" if self._step + 1 >= self._context.max_steps else ""

    async def _act(self, assistant: str, calls: Sequence[ProposedCall]) -> _End | None:
        """Takes the model's proposed calls in order; a steer makes it drop the rest."""
        for call in calls:
            if self._steered_at > self._inputs_adopted:
                await self._write_refusal(assistant, call.index, "run.steered")
                continue
            if end := await self._between_steps() or self._exhausted():
                return end
            kind: Literal["tool.call", "code.exec"] = "code.exec" if call.tool == "code.exec" else "tool.call"
            action = ActionRef(kind=kind, head=self._head, assistant=assistant, call_index=call.index, label=call.tool)
            result = await self._perform(action)
            if result.settled is not None and result.settled.head:
                self._head = result.settled.head
            elif result.state != "stopped":
                await self._write_refusal(assistant, call.index, result.code, result.decision_id)
        return None

    async def _write_refusal(self, assistant: str, call_index: int, code: str, decision_id: str = "") -> None:
        request = WriteRefusal(
            head=self._head, assistant=assistant, call_index=call_index, code=code, decision_id=decision_id
        )
        self._head = (await call_local(names.WRITE_REFUSAL, request, NewHead)).head
