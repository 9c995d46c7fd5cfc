"""Readiness, asked of the child itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cli.stack.log_file import LogFile

Probe = Callable[[LogFile], Awaitable[bool]]
"""Says whether a child is ready, given what it has logged since it was started."""

_TIMEOUT_S = 2.0


def logs_ready() -> Probe:
    """The child has logged a JSON line whose `event` is `ready`."""

    async def probe(log: LogFile) -> bool:
        return log.has_event("ready")

    return probe


def listens(host: str, port: int) -> Probe:
    """The child accepts connections."""

    async def probe(_: LogFile) -> bool:
        try:
            _reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _TIMEOUT_S)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    return probe
