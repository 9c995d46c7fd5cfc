"""Bounds for what is to be cut off once it was sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from activities.tools.invocation import ToolResult

BOUNDS_MS: Final = (300, 3_000, 30_000)
_UNSENT: Final = (".unreachable", ".unavailable")


async def cut_off(attempt: Callable[[int], Awaitable[ToolResult]]) -> ToolResult:
    """Tries with a short bound, and with a longer one where a busy machine sent nothing before it passed."""
    for bound_ms in BOUNDS_MS:
        result = await attempt(bound_ms)
        if not (result.error_code or "").endswith(_UNSENT):
            break
    return result
