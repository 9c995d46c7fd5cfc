"""Runs a tool of the tenant's own that is an operation of an HTTP service."""

from __future__ import annotations

from activities.tools.invocation import ToolInvocation, ToolResult


async def run(call: ToolInvocation) -> ToolResult:
    """Runs the call."""
    return ToolResult.nothing("tool.unsupported", f"{call.tool} cannot be run by this executor")
