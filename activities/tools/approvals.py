"""Runs `approval.read` and `approval.vote`: an agent consents as an action of its own run.

The executor has no right on approvals. It hands in its lease; PostgreSQL takes who votes, on what and how from the hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from activities.tools.invocation import ToolInvocation, ToolResult
from holdfast.errors import LeaseLost

_REFUSALS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "unknown": ("resource.not_found", "there is no such approval"),
        "requester": ("approval.not_eligible", "this run was started by the one whose run asks for the consent"),
        "own_action": ("approval.not_eligible", "no agent consents to what it, or a run of its own family, asks for"),
        "not_eligible": ("approval.not_eligible", "this approval does not ask for you"),
        "decided": ("approval.decided", "it was decided otherwise before"),
        "ended": ("approval.expired", "the run that asked has ended"),
        "expired": ("approval.expired", "it is too late"),
        "changed": (
            "approval.changed",
            "the arguments are not those of this binding any more: read the approval again",
        ),
        "voted": ("approval.vote_stands", "you have denied it, and that stands"),
    }
)


async def run(call: ToolInvocation) -> ToolResult:
    """Reads an approval, or votes on it."""
    if call.approvals is None:
        return ToolResult.nothing("tool.failed", "this process can reach no approvals; nothing was done")
    await call.outward.begin()
    call.outward.assert_live()
    if call.tool == "approval.read":
        found = await call.approvals.read_approval()
        if found is None:
            return ToolResult.answered("resource.not_found", "there is no such approval that asks for you")
        return ToolResult.done(found)
    status, state = await call.approvals.vote()
    if status == "lease_lost":
        raise LeaseLost("the lease ran out before the vote was counted")
    if status in _REFUSALS:
        return ToolResult.answered(*_REFUSALS[status])
    return ToolResult.done(json.dumps({"counted": True, "state": state}))
