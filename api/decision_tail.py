"""Decisions as they come into the log: each once, in the log's order, from any number on."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from api.event_stream import frame
from holdfast.database.engine import transaction
from holdfast.decisions.query import BATCH, DecisionFilter, log_size, numbered_from
from holdfast.decisions.writing import flat
from holdfast.errors import RequestInvalid

_POLL_S: Final = 0.5
_HEARTBEAT_S: Final = 15.0


def _place(event_id: str, size: int) -> int:
    if re.fullmatch(r"[0-9]{1,18}", event_id) is None:
        raise RequestInvalid("the last event id is not one of this stream", remedy="send an id as it was received")
    if int(event_id) > size:
        raise RequestInvalid("the last event id is ahead of the log", remedy="send an id as it was received")
    return int(event_id)


async def first_place(engine: AsyncEngine, tenant_id: UUID, last_event_id: str | None) -> int:
    """Returns the number of the first record to send: after the last that the client has, or what comes from now on.

    An id is how many records of the log lie before what comes next.

    Raises:
        RequestInvalid: The id is none of this stream.
    """
    async with transaction(engine, tenant_id) as connection:
        size = await log_size(connection, tenant_id)
    return size if last_event_id is None else _place(last_event_id, size)


async def tail(engine: AsyncEngine, tenant_id: UUID, wanted: DecisionFilter, first: int) -> AsyncIterator[bytes]:
    """Yields frames without an end.

    A frame without data carries the place that was read up to: a client that resumes does not have everything filtered for it again.
    """
    sent_at = time.monotonic()
    yield b"id: %d\n\n" % first
    while True:
        async with transaction(engine, tenant_id) as connection:
            found, first = await numbered_from(connection, tenant_id, wanted, first=first)
        for each in found:
            number = each.row.leaf_index
            assert number is not None  # only what is numbered was asked for
            yield frame(str(number + 1), orjson.dumps(flat(each)))
            sent_at = time.monotonic()
        if len(found) == BATCH:
            continue
        if time.monotonic() - sent_at >= _HEARTBEAT_S:
            yield b": heartbeat\nid: %d\n\n" % first
            sent_at = time.monotonic()
        await asyncio.sleep(_POLL_S)
