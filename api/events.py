"""Server-sent events of a run: resumable by `Last-Event-ID`, never slowing the run, never held up by a slow client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Final
from uuid import UUID

import orjson
import structlog
from fastapi import APIRouter, Header, Query
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.authentication import Caller
from api.context import STREAMS_MAX, Context, Parts
from api.problems import is_passing
from api.runs import read_visible
from holdfast.errors import RequestInvalid, Unavailable
from holdfast.timeline.follow import ALWAYS_SENT, Follower, Position, StreamEvent

router = APIRouter(prefix="/v1/runs", tags=["runs"])
_log = structlog.get_logger("api.events")

WRITE_TIMEOUT_S: Final = 20.0
"""A client that takes nothing for so long is dropped; it resumes from its last id."""
_CHANNELS_MAX: Final = 20
_BROWSER_RETRY_MS: Final = 1_000


def _frame(event: StreamEvent | None) -> bytes:
    if event is None:
        return b": heartbeat\n\n"
    return b"id: %s\ndata: %s\n\n" % (event.position.event_id.encode(), orjson.dumps(event.to_json()))


class EventStream(Response):
    """Writes events as they come until the run has ended, the client is gone or too slow, or the process stops."""

    media_type = "text/event-stream"

    def __init__(self, parts: Context, follower: Follower, channels: frozenset[str]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._parts = parts
        self._follower = follower
        self._channels = channels

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
        async for event in self._filtered():
            await self._send(send, _frame(event))

    async def _filtered(self) -> AsyncIterator[StreamEvent | None]:
        async for event in self._follower.events():
            if event is None or not self._channels or event.channel in self._channels or event.type in ALWAYS_SENT:
                yield event

    @staticmethod
    async def _send(send: Send, body: bytes) -> None:
        # waits while the connection's buffer is full, so that nothing piles up here
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await send({"type": "http.response.body", "body": body, "more_body": True})

    @staticmethod
    async def _gone(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


@router.get(
    "/{run_id}/events",
    summary="Follow a run's events",
    response_class=Response,
    responses={
        200: {
            "description": "events as they come; `data` is `{id, seq, run, time, channel, type, data}`",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        204: {"description": "the run has ended and the client has all its events"},
    },
)
async def stream_events(
    run_id: UUID,
    caller: Caller,
    parts: Parts,
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", max_length=40, description="resume after this event")
    ] = None,
    after: Annotated[str | None, Query(max_length=40, description="the same, for clients without headers")] = None,
    channels: Annotated[
        str | None, Query(max_length=500, description="only these, separated by commas; default: all")
    ] = None,
) -> Response:
    """Sends the run's events in one strict order, then ends after `run.ended`. Ids resume with nothing lost or doubled."""
    await read_visible(caller, parts, run_id)
    wanted = frozenset(filter(None, (channels or "").split(",")))
    if len(wanted) > _CHANNELS_MAX:
        raise RequestInvalid(f"`channels`: name {_CHANNELS_MAX} at most")
    follower = Follower(
        parts.engine, parts.redis, caller.tenant_id, run_id, Position.parse(last_event_id or after or "0")
    )
    if not await follower.check():
        return Response(status_code=204)
    if parts.streams >= STREAMS_MAX:
        raise Unavailable(f"this process serves {STREAMS_MAX} streams already", remedy="try again")
    return EventStream(parts, follower, wanted)
