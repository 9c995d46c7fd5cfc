"""`tool.call`: runs a tool under a redeemed permit and stores the outcome as its last act."""

from __future__ import annotations

import asyncio

import orjson
from temporalio import activity

from activities import execution
from activities.heartbeat import beating
from activities.tools.dispatch import run_tool
from activities.tools.invocation import ToolInvocation, ToolResult
from holdfast.contracts import names
from holdfast.contracts.execution import ExecuteReply, ExecuteRequest
from holdfast.ledger.types import OutcomeView
from holdfast_verdict.canonical import JsonValue

CONTENT_LENGTH_MAX = 200_000


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
    """The executing activity of `tool.call`."""

    @activity.defn(name=names.EXECUTE_TOOL_CALL)
    async def execute_tool_call(self, request: ExecuteRequest) -> ExecuteReply:
        """Runs the tool once. Retries are the workflow's, each with a hold of its own (rule 2)."""
        current = execution.current()
        lease = current.lease
        arguments = current.action["args"]
        assert isinstance(arguments, dict)  # the action's digest was checked, and build() makes them an object
        call = ToolInvocation(
            tool=str(current.action["tool"]),
            arguments=arguments,
            credential=dict(current.credential),
            tenant=current.tenant,
            idempotency_key=current.idempotency_key,
            outward=lease,
        )
        async with beating():
            try:
                async with asyncio.timeout(lease.remaining_ms / 1000):
                    result = await run_tool(call)
            except TimeoutError:
                result = ToolResult(
                    ok=False,
                    content=f"{call.tool} did not answer in time",
                    error_code="tool.timeout",
                    retryable=True,
                    retry_after_ms=None,
                    cost="unknown" if lease.began else "nothing",
                )
            await lease.store(_view(result))
        return ExecuteReply(stored=True)
