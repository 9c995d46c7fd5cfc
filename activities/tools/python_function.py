"""Runs a tool of the tenant's own that is a function of an installed package."""

from __future__ import annotations

from activities.tools.invocation import ToolInvocation, ToolResult


async def run(call: ToolInvocation) -> ToolResult:
    """Runs the call."""
    return ToolResult.nothing("tool.unsupported", f"{call.tool} cannot be run by this executor")
