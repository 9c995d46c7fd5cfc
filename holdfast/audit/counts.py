"""What is counted for who watches the audit side; all of it one tenant's, by PostgreSQL's numbers and PostgreSQL's clock.

Decisions are counted as far as the log has numbered them, from where the last count ended: a number is given once and without a gap, so
each is counted once, whoever asks and however often.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.transparency import reading
from holdfast.transparency.reading import LogStatus

STEP: Final = 50_000
"""Records that are counted in one transaction; who asks again sees further."""

Event = Literal["cosignature_refused", "cross_check", "cross_check_difference"]

_BEGIN: Final = text("INSERT INTO counted_decisions (tenant_id) VALUES (:tenant_id) ON CONFLICT DO NOTHING")
_TAKE: Final = text("SELECT size FROM counted_decisions WHERE tenant_id = :tenant_id FOR UPDATE SKIP LOCKED")
_COUNT: Final = text("""
    INSERT INTO decision_counts AS c (tenant_id, verdict, code, count)
    SELECT :tenant_id, d.verdict, coalesce(d.facet_code, ''), count(*) FROM decisions d
    WHERE d.tenant_id = :tenant_id AND d.leaf_index IS NOT NULL AND d.leaf_index >= :first AND d.leaf_index < :until
    GROUP BY d.verdict, coalesce(d.facet_code, '')
    ON CONFLICT (tenant_id, verdict, code) DO UPDATE SET count = c.count + excluded.count
""")
_ADVANCE: Final = text("UPDATE counted_decisions SET size = :until WHERE tenant_id = :tenant_id")
_COUNTED: Final = text("SELECT coalesce((SELECT size FROM counted_decisions WHERE tenant_id = :tenant_id), 0)")
_DECISIONS: Final = text(
    "SELECT verdict, code, count AS number FROM decision_counts WHERE tenant_id = :tenant_id ORDER BY verdict, code"
)
_ADD: Final = text("""
    INSERT INTO audit_counts AS c (tenant_id, event, detail, count) VALUES (:tenant_id, :event, left(:detail, 100), :count)
    ON CONFLICT (tenant_id, event, detail) DO UPDATE SET count = c.count + excluded.count
""")
_EVENTS: Final = text(
    "SELECT event, detail, count AS number FROM audit_counts WHERE tenant_id = :tenant_id ORDER BY event, detail"
)
_SIGNED: Final = text("""
    SELECT (SELECT count(*) FROM log_checkpoints WHERE tenant_id = :tenant_id) AS checkpoints,
        (SELECT count(*) FROM log_keys WHERE tenant_id = :tenant_id AND retired_size IS NULL) AS keys
""")
_WITNESSES: Final = text("""
    SELECT split_part(w.vkey, '+', 1) || '+' || split_part(w.vkey, '+', 2) AS name,
        (SELECT count(*) FROM log_cosignatures c WHERE c.tenant_id = w.tenant_id AND c.vkey = w.vkey) AS cosignatures,
        (SELECT max(c.size) FROM log_cosignatures c WHERE c.tenant_id = w.tenant_id AND c.vkey = w.vkey) AS size
    FROM log_witnesses w WHERE w.tenant_id = :tenant_id AND w.removed_at IS NULL ORDER BY 1
""")
# Of holds that are not settled yet, which are few. What is settled is the cross-check's of its run.
_ALARMS: Final = text("""
    SELECT count(*) FILTER (WHERE NOT has_outcome AND (h.state = 'unknown'
               OR (h.state = 'executing' AND h.lease_expires_at < clock_timestamp()))) AS allow_without_outcome,
           count(*) FILTER (WHERE has_outcome AND NOT is_allowed) AS outcome_without_allow
    FROM holds h, LATERAL (
        SELECT EXISTS (SELECT 1 FROM outcomes o WHERE o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id) AS has_outcome,
               EXISTS (SELECT 1 FROM decisions d WHERE d.tenant_id = h.tenant_id AND d.decision_id = h.decision_id
                       AND d.hold_id = h.hold_id AND d.verdict = 'allow') AS is_allowed) s
    WHERE h.tenant_id = :tenant_id AND h.settled_at IS NULL
""")


@dataclass(frozen=True, slots=True)
class Witnessed:
    """How far a witness has come.

    Attributes:
        name: Name and id of its key.
        cosignatures: How many of them the log has.
        size: Size of the largest checkpoint that it has cosigned; 0 if there is none.
    """

    name: str
    cosignatures: int
    size: int


@dataclass(frozen=True, slots=True)
class AuditCounts:
    """How a tenant's audit side stands.

    Attributes:
        log: Size, newest checkpoint, and what waits for its number.
        checkpoints: How many were signed.
        keys: How many keys sign.
        witnesses: Whose cosignatures are taken.
        counted: How many records of the log are in `decisions`.
        decisions: How many, by verdict and code.
        events: How many, by event and detail.
        allow_without_outcome: Open holds whose execution ended, and nobody knows how.
        outcome_without_allow: Open holds with an outcome that no decision allowed.
    """

    log: LogStatus
    checkpoints: int
    keys: int
    witnesses: tuple[Witnessed, ...]
    counted: int
    decisions: Mapping[tuple[str, str], int]
    events: Mapping[tuple[Event, str], int]
    allow_without_outcome: int
    outcome_without_allow: int


async def count_event(connection: AsyncConnection, tenant_id: UUID, event: Event, detail: str, count: int = 1) -> None:
    """Counts something that happened."""
    await connection.execute(_ADD, {"tenant_id": tenant_id, "event": event, "detail": detail, "count": count})


async def count_decisions(connection: AsyncConnection, tenant_id: UUID) -> None:
    """Counts what was numbered since the last count, up to a bound; where another does so at this moment, nothing."""
    own = {"tenant_id": tenant_id}
    await connection.execute(_BEGIN, own)
    first = await connection.scalar(_TAKE, own)
    if first is None:
        return
    # asked for first: what is below it is committed, and so is seen by the next statement
    size = (await reading.status(connection, tenant_id)).size
    until = min(size, first + STEP)
    if until > first:
        await connection.execute(_COUNT, {**own, "first": first, "until": until})
        await connection.execute(_ADVANCE, {**own, "until": until})


async def read_counts(connection: AsyncConnection, tenant_id: UUID) -> AuditCounts:
    """Returns how the tenant's audit side stands."""
    own = {"tenant_id": tenant_id}
    signed = (await connection.execute(_SIGNED, own)).one()
    alarms = (await connection.execute(_ALARMS, own)).one()
    return AuditCounts(
        log=await reading.status(connection, tenant_id),
        checkpoints=signed.checkpoints,
        keys=signed.keys,
        witnesses=tuple(
            Witnessed(row.name, row.cosignatures, row.size or 0) for row in await connection.execute(_WITNESSES, own)
        ),
        counted=await connection.scalar(_COUNTED, own) or 0,
        decisions={(row.verdict, row.code): row.number for row in await connection.execute(_DECISIONS, own)},
        events={(row.event, row.detail): row.number for row in await connection.execute(_EVENTS, own)},
        allow_without_outcome=alarms.allow_without_outcome,
        outcome_without_allow=alarms.outcome_without_allow,
    )
