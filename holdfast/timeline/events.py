"""Appending to a run's timeline and reading it: events are numbered without gaps, under the lock of the run's row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.database.jsonb import jsonb
from holdfast.errors import RunUnknown
from holdfast.ids import new_id
from holdfast.ledger.types import Event
from holdfast_verdict.canonical import JsonValue

_APPEND = text("""
    WITH run AS (
        UPDATE runs SET timeline_seq = timeline_seq + :event_count WHERE tenant_id = :tenant_id AND run_id = :run_id
        RETURNING timeline_seq
    )
    INSERT INTO timeline_events (tenant_id, run_id, seq, event_id, channel, type, data)
    SELECT :tenant_id, :run_id, run.timeline_seq - :event_count + e.ordinal, e.event_id, e.channel, e.type, e.data::jsonb
    FROM run, unnest(CAST(:event_ids AS uuid[]), CAST(:channels AS text[]), CAST(:types AS text[]), CAST(:data AS text[]))
        WITH ORDINALITY AS e (event_id, channel, type, data, ordinal)
    RETURNING seq
""")

_READ = text("""
    SELECT seq, event_id, created_at, channel, type, data FROM timeline_events
    WHERE tenant_id = :tenant_id AND run_id = :run_id AND seq > :after ORDER BY seq LIMIT :count
""")


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """An event as it stands in the timeline."""

    seq: int
    event_id: UUID
    created_at: datetime
    channel: str
    type: str
    data: Mapping[str, JsonValue]


def parameters(events: Sequence[Event]) -> dict[str, object]:
    """Returns the parameters with which a statement appends events; see `_APPEND`."""
    return {
        "event_count": len(events),
        "event_ids": [new_id() for _ in events],
        "channels": [event.channel for event in events],
        "types": [event.type for event in events],
        "data": [jsonb(event.data) for event in events],
    }


async def append(connection: AsyncConnection, tenant_id: UUID, run_id: UUID, events: Sequence[Event]) -> int:
    """Appends events in the caller's transaction and returns the number of the last one (0 if there were none).

    Raises:
        RunUnknown: There is no such run in the tenant.
    """
    if not events:
        return 0
    result = await connection.execute(_APPEND, {"tenant_id": tenant_id, "run_id": run_id, **parameters(events)})
    numbers: list[int] = list(result.scalars())
    if not numbers:
        raise RunUnknown(f"there is no run {run_id}")
    return max(numbers)


async def read(
    connection: AsyncConnection, tenant_id: UUID, run_id: UUID, *, after: int, count: int
) -> list[TimelineEvent]:
    """Returns at most `count` events with numbers above `after`, in order."""
    rows = await connection.execute(_READ, {"tenant_id": tenant_id, "run_id": run_id, "after": after, "count": count})
    return [TimelineEvent(*row) for row in rows]
