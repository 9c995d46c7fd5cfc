"""Readiness, asked of the child itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx

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


def answers(url: str) -> Probe:
    """The child answers an HTTP request with success."""

    async def probe(_: LogFile) -> bool:
        try:
            async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as client:
                return (await client.get(url)).is_success
        except httpx.HTTPError:
            return False

    return probe
