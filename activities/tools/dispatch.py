"""The way in: runs a tool by name and turns whatever it does into a result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import structlog

from activities.tools import (
    accounts,
    approvals,
    http_request,
    mail,
    openapi_request,
    orders,
    payments,
    python_function,
    sql_query,
)
from activities.tools.invocation import ToolInvocation, ToolResult
from holdfast.errors import HoldfastError, LeaseLost, Unavailable
from holdfast.tools.definition import OwnTool

if TYPE_CHECKING:
    from activities.lease import Outward

_log = structlog.get_logger(__name__)

_RUNNERS: Final[Mapping[str, Callable[[ToolInvocation], Awaitable[ToolResult]]]] = MappingProxyType(
    {
        "mail.list": mail.run,
        "mail.read": mail.run,
        "mail.send": mail.run,
        "orders.lookup": orders.run,
        "payments.refund": payments.run,
        "http.request": http_request.run,
        "account.delete": accounts.run,
        "approval.read": approvals.run,
        "approval.vote": approvals.run,
    }
)
_OWN_RUNNERS: Final[Mapping[str, Callable[[ToolInvocation], Awaitable[ToolResult]]]] = MappingProxyType(
    {"openapi": openapi_request.run, "python": python_function.run, "sql": sql_query.run}
)


def _runner(call: ToolInvocation) -> Callable[[ToolInvocation], Awaitable[ToolResult]] | None:
    if isinstance(call.definition, OwnTool):
        return _OWN_RUNNERS.get(call.definition.form.binding.source)
    return _RUNNERS.get(call.tool)


class _CountedOutward:
    """Passes on to the lease and remembers whether anything may have gone outside; a second begin is refused."""

    def __init__(self, outward: Outward) -> None:
        self._outward = outward
        self.begun = False

    @property
    def remaining_ms(self) -> int:
        return self._outward.remaining_ms

    async def begin(self) -> None:
        if self.begun:
            raise LeaseLost("a tool tried to begin twice under one lease")
        await self._outward.begin()
        self.begun = True

    def assert_live(self) -> None:
        self._outward.assert_live()


async def run_tool(call: ToolInvocation) -> ToolResult:
    """Runs a tool under its lease.

    The arguments are validated again and must be a fixed point: what runs is what was decided, or nothing (LAW 1).
    A tool that raises leaves an unknown outcome if it had begun, and provably none if not (LAW 4).

    Raises:
        LeaseLost: The lease is gone; nothing more went outside.
    """
    outward = _CountedOutward(call.outward)
    try:
        if call.definition.validate(call.arguments) != call.arguments:
            return ToolResult.nothing("tool.arguments_altered", "the arguments are not in the form that was decided")
        runner = _runner(call)
        if runner is None:
            return ToolResult.nothing("tool.unknown", f"there is no tool {call.tool}")
        return await runner(replace(call, outward=outward))
    except LeaseLost:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a tool raises, the run needs a result to settle
        if isinstance(error, HoldfastError) and not outward.begun:
            return ToolResult.nothing(error.code, error.message, retryable=isinstance(error, Unavailable))
        _log.exception("tool.failed", tool=call.tool, begun=outward.begun)
        content = f"{call.tool} failed inside ({type(error).__name__})"
        if not outward.begun:
            return ToolResult.nothing("tool.failed", f"{content}; nothing was done")
        return ToolResult.unknown("tool.failed", f"{content}; whether it was done is not known")
