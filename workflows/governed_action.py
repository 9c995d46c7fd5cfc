"""One action of a run: reserve → (gate) → execute → settle, tried again with a hold of its own where that makes sense."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from holdfast.contracts import names
    from holdfast.contracts.execution import ExecuteRequest
    from holdfast.contracts.gate import (
        ActionRef,
        ApprovalState,
        ReserveReply,
        ReserveRequest,
        SettleReply,
        SettleRequest,
        VerifyApproval,
    )
    from holdfast.contracts.run import MarkRun, Message, RunContext
    from holdfast.errors import ExecutorStopped

ReplyT = TypeVar("ReplyT")

_RESERVE_BOUND = timedelta(seconds=15)
_LOCAL_BOUND = timedelta(seconds=60)
_BACKOFF_FIRST_S = 0.5
_BACKOFF_MAX_S = 60.0
_LOOK_AGAIN_FIRST_S = 30.0
_LOOK_AGAIN_MAX_S = 3_600.0
_LASTING = frozenset({"vault.credential_missing", "configuration.invalid"})
"""Refusals of an executor that no new try overcomes: a person has to do something first."""


@dataclass
class Wakeups:
    """What signals have brought, until the run looks at it.

    Attributes:
        approval_tokens: Signalled approvals with the token that came along.
        resolutions: Whether somebody says that an unknown outcome was settled.
    """

    approval_tokens: dict[str, list[str]] = field(default_factory=dict)
    resolutions: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class ActionResult:
    """What came of an action.

    Attributes:
        state: `stopped` = the run was cancelled or timed out before it came to an end.
        code: Why not.
        decision_id: The decision that denied it.
        settled: For `done` and `failed`, the settlement of the last try.
        hold_id: For these, its hold.
    """

    state: Literal["done", "denied", "failed", "stopped"]
    code: str = ""
    decision_id: str = ""
    settled: SettleReply | None = None
    hold_id: str = ""


def cancel_requested() -> bool:
    """Says whether somebody has asked Temporal to cancel this run."""
    return workflow.cancellation_reason() is not None


async def call_local(
    name: str, argument: Message | None, result: type[ReplyT], *, bound: timedelta | None = None
) -> ReplyT:
    """Runs a local activity to its end, whatever happens to the run meanwhile (rule 4).

    Args:
        name: The local activity.
        argument: Its message, if it takes one.
        result: Type of its reply.
        bound: Time after which it is given up; without one it is tried again without end.

    Raises:
        ApplicationError: It cannot be done, now or later.
        ActivityError: It could not be done within the bound.
    """
    handle = workflow.start_local_activity(
        name,
        args=[] if argument is None else [argument],
        result_type=result,
        start_to_close_timeout=_LOCAL_BOUND if bound is None else bound,
        schedule_to_close_timeout=bound,
        retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=5)),
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )
    while True:
        try:
            reply: ReplyT = await asyncio.shield(handle)
        except asyncio.CancelledError:
            if handle.cancelled():
                raise  # the whole workflow is being evicted from this worker, not cancelled
            continue  # the run was asked to cancel: the effect in PostgreSQL goes on to its record all the same
        except ActivityError as error:
            if isinstance(error.cause, ApplicationError) and error.cause.non_retryable:
                raise error.cause from None
            raise
        return reply


async def pause_for(seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    """Waits for a time or a condition; a request to cancel ends it early."""
    try:
        await workflow.wait_condition(lambda: until() or cancel_requested(), timeout=timedelta(seconds=seconds))
    except (TimeoutError, asyncio.CancelledError):
        return


Serve = Callable[
    [int, str, workflow.ActivityHandle[Any]], Awaitable[None]
]  # Any: what an execution returns says nothing
"""Does what an action asks of the run while it executes, until it has ended: its step, its hold, its execution."""


class GovernedAction:
    """Takes one action of a run through the gate.

    Args:
        context: What is known of the run.
        wakeups: What signals have brought.
        step: Number of the action.
        action: The action.
        stand_still: Waits while the run is paused.
        serve: Serves the action while it executes, if it asks for anything.
        gone: Whether nobody waits for the action any more: then nothing new begins.
    """

    def __init__(
        self,
        context: RunContext,
        wakeups: Wakeups,
        step: int,
        action: ActionRef,
        stand_still: Callable[[], Awaitable[None]],
        *,
        serve: Serve | None = None,
        gone: Callable[[], bool] = lambda: False,
    ) -> None:
        self._context = context
        self._wakeups = wakeups
        self._step = step
        self._action = action
        self._stand_still = stand_still
        self._serve = serve
        self._gone = gone
        self._approval_id = ""

    def _out_of_time(self) -> bool:
        return workflow.now().timestamp() * 1000 >= self._context.deadline_ms

    def _stopped(self) -> bool:
        return cancel_requested() or self._out_of_time()

    def _may_not_begin(self) -> bool:
        return self._stopped() or self._gone()

    def _remaining_s(self) -> float:
        return max(self._context.deadline_ms / 1000 - workflow.now().timestamp(), 0.001)

    async def perform(self) -> ActionResult:
        """Performs the action; the workflow retries, with `try + 1` and a hold of its own for each try (rule 2)."""
        try_number, failures = 0, 0
        while True:
            await self._stand_still()
            if self._may_not_begin():
                break
            try_number += 1
            reply = await self._reserve(try_number)
            if reply is None:
                return ActionResult("stopped")
            if reply.verdict == "needs_approval":
                self._approval_id = reply.approval_id
                await self._wait_for_approval(reply)
                continue
            code = reply.reasons[0].code if reply.reasons else ""
            if reply.verdict == "deny":
                failures += 1
                if reply.retryable and failures < self._context.max_tries:
                    await self._back_off(failures, 0)
                    continue
                return ActionResult("denied", code, reply.decision_id)
            refusal = ""
            # cancelled, timed out or given up while it was decided: settling voids the hold, for nothing has begun
            if reply.verdict == "allow" and not self._may_not_begin():
                refusal = await self._execute(try_number, reply.permit, reply.hold_id)
            settled = await self._settle(try_number, reply.hold_id)
            if settled.ok:
                return ActionResult("done", settled=settled, hold_id=reply.hold_id)
            if refusal == ExecutorStopped.code and settled.retryable:
                continue  # handed back by an executor that stops: no failure of the action, and others are there for it
            failures += 1
            if not settled.retryable or refusal in _LASTING or failures >= self._context.max_tries:
                never_ran = refusal and settled.state == "voided"
                failed = refusal if never_ran else settled.error_code
                return ActionResult("failed", failed, settled=settled, hold_id=reply.hold_id)
            await self._back_off(failures, settled.retry_after_ms)
        return ActionResult("stopped")

    async def _back_off(self, failures: int, retry_after_ms: int) -> None:
        seconds = min(_BACKOFF_FIRST_S * 2 ** (failures - 1), _BACKOFF_MAX_S)
        await pause_for(min(max(seconds, retry_after_ms / 1000), self._remaining_s()))

    async def _reserve(self, try_number: int) -> ReserveReply | None:
        """Reserves; while the governor's database is away it asks again with the same key, which gets the same answer."""
        request = ReserveRequest(
            step=self._step, try_number=try_number, action=self._action, approval_id=self._approval_id
        )
        waits = 0
        while not self._stopped():
            try:
                return await call_local(names.RESERVE, request, ReserveReply, bound=_RESERVE_BOUND)
            except ActivityError:
                waits += 1
            self._tell("the gate is unavailable: waiting")
            await self._back_off(waits, 0)
        return None

    async def _wait_for_approval(self, reply: ReserveReply) -> None:
        """Waits until the approval is decided, by its record, or has expired. A bare signal only makes it look."""
        self._tell(f"waiting for approval {reply.approval_id}")
        tokens = self._wakeups.approval_tokens.setdefault(reply.approval_id, [])
        while not self._stopped():
            left_s = reply.approval_expires_ms / 1000 - workflow.now().timestamp()
            if left_s <= 0:
                return  # the next try finds it expired, by PostgreSQL's time
            if not tokens:
                await pause_for(min(left_s, self._remaining_s()), lambda: bool(tokens))
                continue
            request = VerifyApproval(approval_id=reply.approval_id, token=tokens.pop(0))
            if (await call_local(names.VERIFY_APPROVAL, request, ApprovalState)).state in (
                "approved",
                "denied",
                "expired",
                "withdrawn",
            ):
                return

    async def _execute(self, try_number: int, permit: str, hold_id: str) -> str:
        """Runs the executing activity, once (rule 2). What came of it stands in PostgreSQL, not in its result.

        Returns:
            The code with which the executor refused to run it, or an empty text.
        """
        kind = self._action.kind
        context = self._context
        timeout_ms = {
            "llm.call": context.llm_timeout_ms,
            "tool.call": context.tool_timeout_ms,
            "code.exec": context.code_timeout_ms,
        }[kind]
        start_to_close = timedelta(milliseconds=timeout_ms + names.REDEEM_WAIT_MS)
        self._tell("executing")
        handle = workflow.start_activity(
            names.EXECUTING_ACTIVITIES[kind],
            ExecuteRequest(permit=permit),
            activity_id=f"step-{self._step}-try-{try_number}",
            task_queue=names.EXECUTING_QUEUES[kind],
            start_to_close_timeout=start_to_close,
            schedule_to_close_timeout=timedelta(milliseconds=timeout_ms + names.QUEUE_WAIT_MS),
            heartbeat_timeout=timedelta(milliseconds=self._context.heartbeat_timeout_ms),
            retry_policy=RetryPolicy(maximum_attempts=1),
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=f"step {self._step} try {try_number}: {self._action.label}",
        )
        try:
            if self._serve is not None:
                await self._serve(self._step, hold_id, handle)
            await handle
        except ActivityError as error:
            refused = error.cause.type if isinstance(error.cause, ApplicationError) else None
            ids = {"tenant_id": self._context.tenant_id, "step": self._step, "try_number": try_number}
            cause = refused or type(error.cause).__name__
            # under a name of our own, which the log's form knows; the SDK says nothing while it replays
            workflow.logger.info("execution.ended_early", extra={"holdfast": {**ids, "cause": cause}})
            return refused or ""
        except asyncio.CancelledError:
            if not handle.done():  # cancelled before the activity was told: tell it, and wait for its end
                handle.cancel()
                await asyncio.wait([handle])
        return ""

    async def _settle(self, try_number: int, hold_id: str) -> SettleReply:
        request = SettleRequest(step=self._step, try_number=try_number, hold_id=hold_id, action=self._action)
        settled = await call_local(names.SETTLE, request, SettleReply)
        if not settled.asks_person:
            return settled
        self._tell(f"the outcome of {self._action.label} is unknown: a person has to settle hold {hold_id}")
        await call_local(names.MARK_RUN, MarkRun(status="waiting", code="outcome.unknown"), type(None))
        wait_s = _LOOK_AGAIN_FIRST_S
        while settled.asks_person and not self._stopped():
            await pause_for(min(wait_s, self._remaining_s()), lambda: hold_id in self._wakeups.resolutions)
            self._wakeups.resolutions.discard(hold_id)
            wait_s = min(wait_s * 2, _LOOK_AGAIN_MAX_S)
            settled = await call_local(names.SETTLE, request, SettleReply)
        await call_local(names.MARK_RUN, MarkRun(status="running"), type(None))
        return settled

    def _tell(self, what: str) -> None:
        workflow.set_current_details(f"step {self._step}: {self._action.label}: {what}")
