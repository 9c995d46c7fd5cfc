"""`tool.call`: runs a tool under a redeemed permit and stores the outcome as its last act."""

from __future__ import annotations

import asyncio

import orjson
from temporalio import activity

from activities import execution
from activities.lease import Lease
from activities.tools.dispatch import run_tool
from activities.tools.invocation import ToolInvocation, ToolResult
from holdfast.contracts import names
from holdfast.contracts.execution import ExecuteReply, ExecuteRequest
from holdfast.errors import ExecutorStopped, LeaseLost
from holdfast.ledger.types import OutcomeView
from holdfast_verdict.canonical import JsonValue

CONTENT_LENGTH_MAX = 200_000
_HAND_BACK_MAX_S = 2.0


def _view(result: ToolResult) -> OutcomeView:
    content = result.content
    if len(content) > CONTENT_LENGTH_MAX:
        content = content[:CONTENT_LENGTH_MAX] + " … (cut)"
    stored: dict[str, JsonValue] = {"content": content}
    return OutcomeView(
        ok=result.ok,
        error_code=result.error_code or "",
        retryable=result.retryable,
        retry_after_ms=result.retry_after_ms,
        cost_class=result.cost,
        provider_request_id="",
        simulated=False,
        result=orjson.dumps(stored),
    )


class ToolCall:
    """The executing activity of `tool.call`.

    Args:
        memory_bytes_max: Bound of a process that is started for a call.
    """

    def __init__(self, memory_bytes_max: int) -> None:
        self._memory_bytes_max = memory_bytes_max

    @activity.defn(name=names.EXECUTE_TOOL_CALL)
    async def execute_tool_call(self, request: ExecuteRequest) -> ExecuteReply:
        """Runs the tool once. Retries are the workflow's, each with a hold of its own (rule 2)."""
        current = execution.current()
        lease = current.lease
        arguments = current.action["args"]
        assert isinstance(arguments, dict)  # the action's digest was checked, and build() makes them an object
        assert current.tool is not None  # the broker's client checked that the definition came along
        call = ToolInvocation(
            tool=str(current.action["tool"]),
            definition=current.tool,
            arguments=arguments,
            credential=dict(current.credential),
            tenant=current.tenant,
            idempotency_key=current.idempotency_key,
            outward=lease,
            memory_bytes_max=self._memory_bytes_max,
            approvals=lease,
        )
        running = asyncio.create_task(_run(call, lease))
        try:
            result = await asyncio.shield(running)
        except asyncio.CancelledError:
            # A run that is cancelled does not cut a mail off half-way: what has begun comes to its end, which the lease
            # bounds, so that its outcome is known. Whoever cancels a second time means it.
            if execution.handed_back():
                result = await _hand_back(running, call, lease)
            else:
                result = await _finish(running, call, lease)
            await lease.store(_view(result))
            raise
        await lease.store(_view(result))
        return ExecuteReply(stored=True)


async def _finish(running: asyncio.Task[ToolResult], call: ToolInvocation, lease: Lease) -> ToolResult:
    """Lets what has begun come to its end, and stops what has not."""
    if not lease.began:
        running.cancel()
    try:
        return await running
    except asyncio.CancelledError:
        if lease.released:
            raise
        return ToolResult.nothing("run.cancelled", f"{call.tool} was stopped before anything was sent")


async def _hand_back(running: asyncio.Task[ToolResult], call: ToolInvocation, lease: Lease) -> ToolResult:
    """The process ends, and its grace is over: says what is true of the call, so that the run can go on elsewhere."""
    running.cancel()
    await asyncio.wait([running], timeout=_HAND_BACK_MAX_S)
    if running.done() and not running.cancelled() and running.exception() is None:
        return running.result()  # it ended just then
    content = f"{call.tool} was stopped with its process"
    # INVARIANT (LAW 4): a tool whose effect is outside has the lease looked at right before it writes
    if lease.released or (lease.began and not call.definition.external):
        return ToolResult.unknown(ExecutorStopped.code, content, retryable=True)
    return ToolResult.nothing(ExecutorStopped.code, f"{content}; nothing was sent", retryable=True)


async def _run(call: ToolInvocation, lease: Lease) -> ToolResult:
    try:
        async with asyncio.timeout(lease.remaining_ms / 1000):
            return await run_tool(call)
    except TimeoutError:
        content = f"{call.tool} did not answer in time"
        # INVARIANT (LAW 4): a tool whose effect is outside has the lease looked at right before it writes
        if lease.released or (lease.began and not call.definition.external):
            return ToolResult.unknown("tool.timeout", content, retryable=True)
        return ToolResult.nothing("tool.timeout", f"{content}; nothing was sent", retryable=True)
    except LeaseLost as error:
        if not lease.withheld:
            raise  # never begun: settling sees by itself that nothing went outside
        return ToolResult.nothing(error.code, f"{call.tool} was too late, nothing was sent", retryable=True)
