"""Sums of settled actions, folded in as they are read, so that a decision reads what is open or recent, and a few buckets.

Holds stay the truth. A settled hold gets a number under the tenant's lock, and for each selector a mark says up to which number its
sums go. The mark moves in the transaction that writes the sums: whatever crashes in between, an action is in the sums or behind the
mark, never in both and never in neither. What a selector needs that was never asked before is folded in from the first number on, in
bounded steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.policies.deeds import Deed
from holdfast.policies.selectors import Selector
from holdfast_verdict.engine.numbers import Number, whole

FOLD_AT: Final = 8
"""Settled actions that are left lying before they are folded in."""
FOLD_MAX: Final = 1_000
"""Actions that are folded in at one step."""
RETRY: Final = timedelta(minutes=10)
"""How long a try that came to nothing waits for the next try of its step before it counts for itself."""
EVERYBODYS: Final = UUID(int=0)

_MARKS = text("""
    SELECT selector, newest FROM history_marks
    WHERE tenant_id = :tenant_id AND run_id = :owner AND selector = ANY (CAST(:selectors AS bytea[]))
""")
_BEGIN = text("INSERT INTO history_folds (tenant_id) VALUES (:tenant_id) ON CONFLICT DO NOTHING")
_LOCK = "SELECT newest FROM history_folds WHERE tenant_id = :tenant_id FOR UPDATE"
_WAIT = text(_LOCK)
_TRY = text(_LOCK + " SKIP LOCKED")
_NUMBER = text("SELECT hold_id, history_seq FROM number_history(:tenant_id, CAST(:holds AS uuid[]))")
_MOVE = text("""
    INSERT INTO history_marks AS m (tenant_id, selector, run_id, newest)
    SELECT :tenant_id, x, :owner, :newest FROM unnest(CAST(:selectors AS bytea[])) AS x
    ON CONFLICT (tenant_id, selector, run_id) DO UPDATE SET newest = greatest(m.newest, excluded.newest)
""")
_ADD = text("""
    INSERT INTO history_sums AS s (tenant_id, selector, scope, key, bucket_ms, until_ms, total, untold)
    SELECT :tenant_id, * FROM unnest(CAST(:selectors AS bytea[]), CAST(:scopes AS text[]), CAST(:keys AS bytea[]),
        CAST(:buckets AS bigint[]), CAST(:untils AS bigint[]), CAST(CAST(:totals AS text[]) AS numeric[]), CAST(:untold AS bigint[]))
    ON CONFLICT (tenant_id, selector, scope, key, bucket_ms) DO UPDATE SET until_ms = greatest(s.until_ms, excluded.until_ms),
        total = s.total + excluded.total, untold = s.untold + excluded.untold
""")
# each place on its own, by the primary key
_READ = text("""
    SELECT s.* FROM unnest(CAST(:selectors AS bytea[]), CAST(:scopes AS text[]), CAST(:keys AS bytea[]), CAST(:floors AS bigint[]))
        AS x (selector, scope, key, floor)
    CROSS JOIN LATERAL (
        SELECT s.selector, s.key, s.bucket_ms, s.until_ms, CAST(s.total AS text), s.untold FROM history_sums s
        WHERE s.tenant_id = :tenant_id AND s.selector = x.selector AND s.scope = x.scope AND s.key = x.key AND s.bucket_ms >= x.floor
        OFFSET 0
    ) s
""")


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look: what counts, whose it is, under which key."""

    selector: Selector
    scope: str
    key: bytes


@dataclass(slots=True)
class Sum:
    """What counts of a place.

    Attributes:
        total: How much of it can be told.
        untold: How often it cannot.
        until_ms: When it happened last.
    """

    total: Number = 0
    untold: int = 0
    until_ms: int | None = None


@dataclass(slots=True)
class _Bucket:
    until_ms: int
    total: Fraction = field(default_factory=Fraction)
    untold: int = 0


async def marks(
    connection: AsyncConnection, tenant_id: UUID, owner: UUID, selectors: Iterable[Selector]
) -> dict[bytes, int]:
    """Returns up to which number the sums of selectors go."""
    digests = [each.digest for each in selectors]
    rows = await connection.execute(_MARKS, {"tenant_id": tenant_id, "owner": owner, "selectors": digests})
    found = {bytes(selector): int(newest) for selector, newest in rows}
    return {digest: found.get(digest, 0) for digest in digests}


async def lock(connection: AsyncConnection, tenant_id: UUID, *, wait: bool = False) -> bool:
    """Takes the tenant's lock for folding until the transaction ends; without waiting, if somebody else has it.

    Returns:
        Whether it was taken.
    """
    statement = _WAIT if wait else _TRY
    if await connection.scalar(statement, {"tenant_id": tenant_id}) is not None:
        return True
    await connection.execute(_BEGIN, {"tenant_id": tenant_id})
    return await connection.scalar(statement, {"tenant_id": tenant_id}) is not None


def is_due(deed: Deed, now: datetime) -> bool:
    """Says whether an action is settled for good and has no number yet."""
    if deed.seq is not None or deed.settled_at is None:
        return False
    return not deed.is_void or deed.retried or now - deed.settled_at > RETRY


async def number(connection: AsyncConnection, tenant_id: UUID, deeds: Sequence[Deed]) -> list[Deed]:
    """Numbers settled actions, under the tenant's lock, and returns them with their numbers."""
    if not deeds:
        return []
    holds = [deed.hold_id for deed in deeds]
    rows = await connection.execute(_NUMBER, {"tenant_id": tenant_id, "holds": holds})
    numbers = {row.hold_id: int(row.history_seq) for row in rows}
    return [replace(deed, seq=numbers[deed.hold_id]) for deed in deeds if deed.hold_id in numbers]


async def fold(
    connection: AsyncConnection,
    tenant_id: UUID,
    owner: UUID,
    tenant: str,
    marked: Mapping[bytes, int],
    selectors: Sequence[Selector],
    deeds: Sequence[Deed],
) -> None:
    """Adds numbered actions to the sums, and moves the marks behind them, under the tenant's lock.

    Args:
        connection: The caller's transaction, which has the lock.
        tenant_id: The tenant.
        owner: The run whose history it is, or `EVERYBODYS`.
        tenant: The tenant's name, as rules see it.
        marked: Up to which number the sums went, read under the lock.
        selectors: What is summed up.
        deeds: All numbered actions from the smallest mark on, up to some number.
    """
    if not deeds:
        return
    buckets: dict[tuple[bytes, str, bytes, int], _Bucket] = {}
    for selector in selectors:
        for deed in deeds:
            assert deed.seq is not None  # they are numbered
            counts = not deed.is_budget and deed.seq > marked[selector.digest]
            touch = selector.touch(deed, tenant) if counts else None
            if touch is None:
                continue
            place = (selector.digest, touch.scope, touch.key, selector.span.bucket_ms(touch.at_ms))
            bucket = buckets.setdefault(place, _Bucket(touch.at_ms))
            bucket.until_ms = max(bucket.until_ms, touch.at_ms)
            if touch.amount is None:
                bucket.untold += 1
            else:
                bucket.total += touch.amount
    if buckets:
        await _write(connection, tenant_id, buckets)
    newest = max(deed.seq or 0 for deed in deeds)
    digests = [each.digest for each in selectors]
    await connection.execute(_MOVE, {"tenant_id": tenant_id, "owner": owner, "selectors": digests, "newest": newest})


async def _write(
    connection: AsyncConnection,
    tenant_id: UUID,
    buckets: Mapping[tuple[bytes, str, bytes, int], _Bucket],
) -> None:
    await connection.execute(
        _ADD,
        {
            "tenant_id": tenant_id,
            "selectors": [digest for digest, _, _, _ in buckets],
            "scopes": [scope for _, scope, _, _ in buckets],
            "keys": [key for _, _, key, _ in buckets],
            "buckets": [begins_ms for _, _, _, begins_ms in buckets],
            "untils": [bucket.until_ms for bucket in buckets.values()],
            "totals": [_decimal(bucket.total) for bucket in buckets.values()],
            "untold": [bucket.untold for bucket in buckets.values()],
        },
    )


def _decimal(number: Fraction) -> str:
    """Writes a sum of decimals exactly."""
    places = 0
    while number.denominator != 1:
        number *= 10
        places += 1
    return f"{number.numerator}e-{places}" if places else str(number.numerator)


async def read(
    connection: AsyncConnection, tenant_id: UUID, places: Sequence[Place], now_ms: int
) -> dict[tuple[bytes, bytes], Sum]:
    """Returns what counts now, by selector and key."""
    sums = {(place.selector.digest, place.key): Sum() for place in places}
    if not places:
        return sums
    spans = {place.selector.digest: place.selector.span for place in places}
    rows = await connection.execute(
        _READ,
        {
            "tenant_id": tenant_id,
            "selectors": [place.selector.digest for place in places],
            "scopes": [place.scope for place in places],
            "keys": [place.key for place in places],
            "floors": [place.selector.span.floor_ms(now_ms) for place in places],
        },
    )
    for selector, key, bucket_ms, until_ms, total, untold in rows:
        found = sums[bytes(selector), bytes(key)]
        found.until_ms = until_ms if found.until_ms is None else max(found.until_ms, until_ms)
        if spans[bytes(selector)].holds(bucket_ms, until_ms, now_ms):
            found.total = whole(found.total + Fraction(total))
            found.untold += untold
    return sums
