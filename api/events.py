"""Server-sent events of a run: resumable by `Last-Event-ID`, never slowing the run, never held up by a slow client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Final
from uuid import UUID

import orjson
from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from api.authentication import Caller
from api.context import Parts
from api.event_stream import HEARTBEAT, EventStream, check_free, frame
from api.runs import read_visible
from holdfast.errors import RequestInvalid
from holdfast.timeline.follow import ALWAYS_SENT, Follower, Position

router = APIRouter(prefix="/v1/runs", tags=["runs"])

_CHANNELS_MAX: Final = 20


async def _frames(follower: Follower, channels: frozenset[str]) -> AsyncIterator[bytes]:
    async for event in follower.events():
        if event is None:
            yield HEARTBEAT
        elif not channels or event.channel in channels or event.type in ALWAYS_SENT:
            yield frame(event.position.event_id, orjson.dumps(event.to_json()))


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
    check_free(parts)
    return EventStream(parts, _frames(follower, wanted))
