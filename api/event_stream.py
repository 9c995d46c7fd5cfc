"""Server-sent events over one connection: never held up by a slow client, and ended when the client is gone or the process stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.context import STREAMS_MAX, Context
from api.problems import is_passing
from holdfast.errors import Unavailable

_log = structlog.get_logger("api.events")

WRITE_TIMEOUT_S: Final = 20.0
"""A client that takes nothing for so long is dropped; it resumes from its last id."""
HEARTBEAT: Final = b": heartbeat\n\n"
_BROWSER_RETRY_MS: Final = 1_000


def check_free(parts: Context) -> None:
    """Looks whether this process can serve one more stream.

    Raises:
        Unavailable: It cannot.
    """
    if parts.streams >= STREAMS_MAX:
        raise Unavailable(f"this process serves {STREAMS_MAX} streams already", remedy="try again")


def frame(event_id: str, data: bytes) -> bytes:
    """Returns an event as it is sent."""
    return b"id: %s\ndata: %s\n\n" % (event_id.encode(), data)


class EventStream(Response):
    """Writes frames as they come until there are no more, the client is gone or too slow, or the process stops."""

    media_type = "text/event-stream"

    def __init__(self, parts: Context, frames: AsyncIterator[bytes]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._parts = parts
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves the stream."""
        self._parts.streams += 1
        writing = asyncio.create_task(self._write(send))
        gone = asyncio.create_task(self._gone(receive))
        stopping = asyncio.create_task(self._parts.stopping.wait())
        ends = (writing, gone, stopping)
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._parts.streams -= 1
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        if writing in done:
            await self._close(writing, send)
        elif gone not in done:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})

    @staticmethod
    async def _close(writing: asyncio.Task[None], send: Send) -> None:
        error = writing.exception()
        if isinstance(error, TimeoutError):
            _log.info("events.slow_client_dropped")
            return  # nothing more can be written; the server closes the connection
        if error is not None:
            if not is_passing(error):
                raise error
            _log.warning("events.interrupted", error=type(error).__name__, effect="the client resumes")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        await self._send(send, b"retry: %d\n\n" % _BROWSER_RETRY_MS)
        async for each in self._frames:
            await self._send(send, each)

    @staticmethod
    async def _send(send: Send, body: bytes) -> None:
        # waits while the connection's buffer is full, so that nothing piles up here
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await send({"type": "http.response.body", "body": body, "more_body": True})

    @staticmethod
    async def _gone(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
