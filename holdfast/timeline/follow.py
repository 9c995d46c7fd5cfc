"""Reading a run's events as they happen: durable ones from PostgreSQL, live ones from Redis, in one strict order.

Order is that of `(seq, n)`. Before a durable event `S` is given out, the Redis stream is raised to at least `S-0`: from then
on nothing can be added before `S`, so whatever lies before it can be read to the end first. That fence is why an id is enough to
resume from with nothing lost or doubled. Without Redis the durable events still come, by polling.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, cast
from uuid import UUID

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.database.engine import transaction
from holdfast.errors import NotFound, RequestInvalid
from holdfast.timeline import events
from holdfast.timeline.stream import RAISE_SCRIPT, raise_arguments, stream_key
from holdfast_verdict.canonical import JsonValue

_log = structlog.get_logger(__name__)

ALWAYS_SENT: Final = frozenset({"run.ended", "attempt_reset", "stream.gap"})
"""Types that no channel filter withholds: without them a client cannot make sense of the rest."""

_ID: Final = re.compile(r"(0|[1-9][0-9]{0,14})(?:\.([1-9][0-9]{0,8}))?")
_PAGE: Final = 500
_REDIS_PAUSE_S: Final = 1.0

_RUN = text("SELECT ended_at IS NOT NULL, timeline_seq FROM runs WHERE tenant_id = :tenant_id AND run_id = :run_id")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Place in a run's events: after durable event `seq` and `n` live ones."""

    seq: int = 0
    n: int = 0

    @classmethod
    def parse(cls, text_: str) -> Position:
        """Reads an event id, `seq` or `seq.n`.

        Raises:
            RequestInvalid: It is none.
        """
        match = _ID.fullmatch(text_)
        if match is None:
            raise RequestInvalid("the last event id is not one of this stream", remedy="send an id as it was received")
        return cls(int(match[1]), int(match[2] or 0))

    @property
    def event_id(self) -> str:
        """The id as clients see it."""
        return f"{self.seq}.{self.n}" if self.n else str(self.seq)


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event in the envelope that every protocol uses."""

    position: Position
    run_id: UUID
    time: datetime
    channel: str
    type: str
    data: Mapping[str, JsonValue]

    def to_json(self) -> dict[str, JsonValue]:
        """Returns the envelope `{id, seq, run, time, channel, type, data}`."""
        return {
            "id": self.position.event_id,
            "seq": self.position.seq,
            "run": str(self.run_id),
            "time": self.time.isoformat().replace("+00:00", "Z"),
            "channel": self.channel,
            "type": self.type,
            "data": dict(self.data),
        }


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of the Redis stream; a mark has no event."""

    position: Position
    event: StreamEvent | None


@dataclass(slots=True)
class Follower:
    """Follows one run from a position on.

    Attributes:
        engine: Database of any role that may read timelines.
        redis: Redis; it may be down.
        tenant_id: The tenant.
        run_id: The run.
        position: The last event that the client has.
        poll_ms: How often PostgreSQL is asked even if nothing was announced: announcements may be lost.
        heartbeat_ms: After so long without an event, `None` is given out.
    """

    engine: AsyncEngine
    redis: Redis
    tenant_id: UUID
    run_id: UUID
    position: Position = Position()
    poll_ms: int = 2_000
    heartbeat_ms: int = 15_000
    _seen: Position = field(default=Position(), init=False)
    _redis_pause_until: float = field(default=0.0, init=False)
    _polled_at: float = field(default=0.0, init=False)

    async def check(self) -> bool:
        """Says whether anything can still come.

        Raises:
            NotFound: The tenant has no such run (LAW 5).
            RequestInvalid: The position is ahead of the run.
        """
        ended, newest = await self._run()
        if self.position.seq > newest:
            raise RequestInvalid("the last event id is ahead of this run", remedy="send an id as it was received")
        return not (ended and self.position.seq >= newest)

    async def events(self) -> AsyncIterator[StreamEvent | None]:
        """Yields events after the position until the run has ended and all are out; `None` is a heartbeat."""
        sent_at = time.monotonic()
        ended = False
        pending: list[StreamEvent] = []
        while True:
            for event in pending:
                yield event
                sent_at = time.monotonic()
            pending = []
            if self._poll_is_due():
                ended, _ = await self._run()
                while batch := await self._drain():
                    for event in batch:
                        yield event
                    sent_at = time.monotonic()
                self._polled_at = time.monotonic()
                if ended:
                    return
            pending = await self._wait()
            if not pending and (time.monotonic() - sent_at) * 1000 >= self.heartbeat_ms:
                sent_at = time.monotonic()
                yield None

    def _poll_is_due(self) -> bool:
        return self._polled_at == 0 or (time.monotonic() - self._polled_at) * 1000 >= self.poll_ms

    async def _run(self) -> tuple[bool, int]:
        async with transaction(self.engine, self.tenant_id) as connection:
            row = (await connection.execute(_RUN, {"tenant_id": self.tenant_id, "run_id": self.run_id})).one_or_none()
        if row is None:
            raise NotFound(f"there is no run {self.run_id}")
        return row[0], row[1]

    async def _drain(self) -> list[StreamEvent]:
        """Returns the next events, durable and live, merged; empty if there are none now."""
        async with transaction(self.engine, self.tenant_id) as connection:
            durable = await events.read(connection, self.tenant_id, self.run_id, after=self.position.seq, count=_PAGE)
        top = Position(durable[-1].seq) if durable else self.position
        entries = await self._fenced_read(top)
        bound = top if durable else Position(top.seq, 2**62)
        if len(entries) == _PAGE:
            bound = min(bound, entries[-1].position)  # there may be more before the next durable event
        merged = [entry.event for entry in entries if entry.event and entry.position <= bound]
        merged += [
            StreamEvent(Position(event.seq), self.run_id, event.created_at, event.channel, event.type, event.data)
            for event in durable
            if Position(event.seq) <= bound
        ]
        merged.sort(key=lambda event: event.position)
        if not merged and len(entries) == _PAGE:
            self.position = max(self.position, bound)  # a page of nothing but marks
            return await self._drain()
        return self._advance(merged)

    async def _fenced_read(self, top: Position) -> list[_Entry]:
        """Raises the stream to `top`, then returns what lies after the position and belongs before or at `top.seq`."""
        if self._redis_is_paused():
            return []
        key = stream_key(self.tenant_id, self.run_id)
        upper = f"{top.seq}-0" if top.seq > self.position.seq else f"{top.seq}-18446744073709551615"
        try:
            async with self.redis.pipeline(transaction=False) as pipeline:
                # INVARIANT: the fence comes first, so that nothing can be added between what is read and `top`
                pipeline.eval(RAISE_SCRIPT, 1, key, *raise_arguments(top.seq, top.n))
                pipeline.xrange(key, min=f"({self.position.seq}-{self.position.n}", max=upper, count=_PAGE)
                _, rows = await pipeline.execute()
        except (RedisError, OSError) as error:
            self._pause_redis(error)
            return []
        return [self._entry(row) for row in rows]

    async def _wait(self) -> list[StreamEvent]:
        """Waits until something may have happened; returns live events if nothing durable can lie before them."""
        if self._redis_is_paused():
            await asyncio.sleep(min(_REDIS_PAUSE_S, self.poll_ms / 1000))
            self._polled_at = 0
            return []
        after = max(self.position, self._seen)
        remaining_ms = self.poll_ms - int((time.monotonic() - self._polled_at) * 1000)
        try:
            found = await self.redis.xread(
                {stream_key(self.tenant_id, self.run_id): f"{after.seq}-{after.n}"},
                count=_PAGE,
                block=min(max(remaining_ms, 1), self.poll_ms),
            )
        except (RedisError, OSError) as error:
            self._pause_redis(error)
            return []
        if not found:
            return []
        # redis-py types this reply as `object`: a list of one stream, with its key and its entries
        entries = [self._entry(row) for row in cast("list[tuple[str, list[tuple[str, dict[str, str]]]]]", found)[0][1]]
        contiguous = after == self.position and all(
            entry.event and entry.position.seq == self.position.seq for entry in entries
        )
        if contiguous:
            return self._advance([entry.event for entry in entries if entry.event])
        self._seen = entries[-1].position
        self._polled_at = 0  # something durable was announced: read it from PostgreSQL
        return []

    def _advance(self, batch: Sequence[StreamEvent]) -> list[StreamEvent]:
        """Moves the position over a batch, and says where live events were dropped because there were too many."""
        out: list[StreamEvent] = []
        for event in batch:
            at, before = event.position, self.position
            expected = before.n + 1 if at.seq == before.seq else 1
            if at.n > expected:
                missed: dict[str, JsonValue] = {"after": before.event_id, "missed": at.n - expected}
                gap = Position(at.seq, at.n - 1)
                out.append(StreamEvent(gap, self.run_id, event.time, "lifecycle", "stream.gap", missed))
            out.append(event)
            self.position = at
        return out

    def _entry(self, row: tuple[str, Mapping[str, str]]) -> _Entry:
        entry_id, fields = row
        seq, _, n = entry_id.partition("-")
        position = Position(int(seq), int(n))
        if fields.get("k") != "delta":
            return _Entry(position, None)
        at = datetime.fromtimestamp(int(fields["at"]) // 1000, UTC).replace(microsecond=int(fields["at"][-3:]) * 1000)
        data: dict[str, JsonValue] = orjson.loads(fields["d"])
        return _Entry(position, StreamEvent(position, self.run_id, at, fields["c"], fields["t"], data))

    def _redis_is_paused(self) -> bool:
        return time.monotonic() < self._redis_pause_until

    def _pause_redis(self, error: Exception) -> None:
        if self._redis_pause_until == 0:
            _log.warning("redis.unavailable", run_id=str(self.run_id), error=type(error).__name__, effect="polling")
        self._redis_pause_until = time.monotonic() + _REDIS_PAUSE_S
        self._polled_at = 0
