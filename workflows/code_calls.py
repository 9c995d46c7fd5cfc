"""The calls of tools that code asks for while it runs: each is an action of the run, one after another, while the code waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from holdfast.contracts import names
    from holdfast.contracts.gate import ActionRef, AnswerCode, CodeCall
    from workflows.governed_action import ActionResult, call_local, cancel_requested

Perform = Callable[
    [int, ActionRef, Callable[[], bool]], Coroutine[Any, Any, ActionResult]
]  # Any: nothing is sent into it
"""Takes an action through the gate: its step, the action, and whether the code that asked is gone."""


class CodeCalls:
    """Takes requests of the code that runs right now, and performs them one after another.

    A request gets the run's next step, and keeps it: code that is run again after its host had died, and asks for the same as before,
    asks under the same keys, and is told what it was told (LAW 9).

    Args:
        perform: Takes an action through the gate.
        next_step: Takes the run's next step.
        refusal: Why nothing new may begin, or an empty text.
    """

    def __init__(self, perform: Perform, next_step: Callable[[], int], refusal: Callable[[], str]) -> None:
        self._perform = perform
        self._next_step = next_step
        self._refusal = refusal
        self._hold_id = ""
        self._waiting: list[int] = []
        self._answered: set[int] = set()
        self._steps: dict[tuple[int, int], int] = {}

    def refuse_stranger(self, call: CodeCall) -> None:
        """Refuses a request of code that does not run right now.

        Raises:
            ApplicationError: No such code runs.
        """
        if not self._hold_id or call.hold_id != self._hold_id or call.number < 1:
            raise ApplicationError("no such code runs", type="code.call_unanswered", non_retryable=True)

    async def ask(self, call: CodeCall) -> bool:
        """Says whether the request was answered; the answer stands in PostgreSQL."""
        if call.hold_id != self._hold_id:
            return False
        if call.number not in self._answered and call.number not in self._waiting:
            self._waiting.append(call.number)
        await workflow.wait_condition(lambda: self._hold_id != call.hold_id or call.number in self._answered)
        return self._hold_id == call.hold_id

    async def serve(self, step: int, hold_id: str, job: workflow.ActivityHandle[Any]) -> None:
        """Performs what the code of a step asks for until its execution has ended.

        Args:
            step: The step of the code.
            hold_id: The hold of this try of it.
            job: Its execution.
        """
        self._hold_id, self._waiting, self._answered = hold_id, [], set()
        try:
            while not job.done():
                await workflow.wait_condition(lambda: job.done() or bool(self._waiting))
                if cancel_requested():
                    raise asyncio.CancelledError  # what was performed meanwhile has not let it through
                if self._waiting and not job.done():
                    await self._call(step, CodeCall(hold_id=hold_id, number=self._waiting[0]), job.done)
                    # only now: a request that is asked again meanwhile waits for the same answer
                    self._answered.add(self._waiting.pop(0))
        finally:
            self._hold_id = ""  # whoever still waits is told that nothing was done

    def forget(self, step: int) -> None:
        """Lets go of a step whose code will not be run again."""
        self._steps = {key: value for key, value in self._steps.items() if key[0] != step}

    async def _call(self, step: int, call: CodeCall, gone: Callable[[], bool]) -> None:
        key = (step, call.number)
        code = "" if key in self._steps else self._refusal()
        if code:
            await call_local(names.ANSWER_CODE, AnswerCode(call=call, code=code), type(None))
            return
        if key not in self._steps:
            self._steps[key] = self._next_step()
        action = ActionRef(
            kind="tool.call",
            head="",
            label=f"call {call.number} of the code of step {step}",
            code_hold_id=call.hold_id,
            code_request=call.number,
        )
        try:
            result = await self._perform(self._steps[key], action, gone)
        except ApplicationError as error:
            result = ActionResult("failed", error.type or "internal.error")
        code = result.code
        if result.state == "stopped":
            code = "run.cancelled" if cancel_requested() else "code.call_unanswered"
        elif result.state == "failed":
            code = code or "tool.failed"
        answer = AnswerCode(
            call=call,
            called_step=self._steps[key],
            called_hold_id=result.hold_id,
            code=code,
            decision_id=result.decision_id,
        )
        await call_local(names.ANSWER_CODE, answer, type(None))
