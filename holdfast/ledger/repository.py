"""The ledger's SQL. Lock order of every path: caps (sorted by id), then run, then holds, then approvals.

No lock is stronger than `FOR NO KEY UPDATE`: foreign keys that point at a row do not wait for it, and whoever holds only
their share lock can still take this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.database.jsonb import jsonb
from holdfast.ledger.core import BalanceChange, Leg
from holdfast.ledger.types import (
    ApprovalRequest,
    CapView,
    Event,
    HoldView,
    OutcomeView,
    Reservation,
    Scope,
    Settlement,
    TryKey,
)
from holdfast.timeline import events

_CAP_COLUMNS = (
    "cap_id, scope_kind, scope_id, unit, window_kind, unlimited, limit_amount, ceiling, reserved, committed, debt"
)

_QUALIFIED_CAP_COLUMNS = ", ".join(f"c.{name}" for name in _CAP_COLUMNS.split(", "))

# Together with the caps that apply, those of a hold that stands for the key: it may have to be voided, and caps must be locked
# in one order by everybody.
_LOCK_CAPS_OF_TRY = text(f"""
    WITH applicable AS (
        SELECT c.cap_id FROM unnest(CAST(:kinds AS text[]), CAST(:ids AS text[])) AS scope (kind, id)
        JOIN caps c ON c.tenant_id = :tenant_id AND c.scope_kind = scope.kind AND c.scope_id = scope.id
        WHERE c.unit = ANY(:units) AND c.starts_at <= now() AND now() < c.ends_at
    ), standing AS (
        SELECT l.cap_id FROM holds h JOIN hold_legs l ON l.tenant_id = h.tenant_id AND l.hold_id = h.hold_id
        WHERE h.tenant_id = :tenant_id AND h.run_id = :run_id AND h.step = :step AND h.try = :try AND h.superseded_at IS NULL
    )
    SELECT {_CAP_COLUMNS}, cap_id IN (SELECT cap_id FROM applicable) AS applies FROM caps
    WHERE tenant_id = :tenant_id AND cap_id IN (SELECT cap_id FROM applicable UNION SELECT cap_id FROM standing)
    ORDER BY cap_id FOR NO KEY UPDATE OF caps
""")  # noqa: S608 (a constant list of columns)

_LOCK_CAPS = text(f"""
    SELECT {_CAP_COLUMNS} FROM caps WHERE tenant_id = :tenant_id AND cap_id = ANY(:cap_ids) ORDER BY cap_id FOR NO KEY UPDATE
""")  # noqa: S608 (a constant list of columns)

_LOCK_CAP = text(f"SELECT {_CAP_COLUMNS} FROM caps WHERE tenant_id = :tenant_id AND cap_id = :cap_id FOR NO KEY UPDATE")  # noqa: S608 (a constant list of columns)

_LOCK_RUN = text("""
    SELECT r.status, r.ended_at, r.history_version, r.timeline_seq, r.role_version, r.budget_hold_id,
           clock_timestamp() AS now
    FROM runs r WHERE r.tenant_id = :tenant_id AND r.run_id = :run_id FOR NO KEY UPDATE
""")

_LOCK_TRY = text("""
    SELECT d.decision_id, d.verdict, d.digest, d.reply, d.record_hash, d.approval_id,
           h.hold_id, h.state, h.expires_at, h.max_cost_nano_usd, h.lease_ms
    FROM decisions d LEFT JOIN holds h ON h.tenant_id = d.tenant_id AND h.hold_id = d.hold_id
    WHERE d.tenant_id = :tenant_id AND d.run_id = :run_id AND d.step = :step AND d.try = :try AND d.superseded_at IS NULL
    FOR NO KEY UPDATE OF d
""")

_LOCK_HOLD = text("SELECT state FROM holds WHERE tenant_id = :tenant_id AND hold_id = :hold_id FOR NO KEY UPDATE")

_LOCK_APPROVAL = text("""
    SELECT consumed_by FROM approvals
    WHERE tenant_id = :tenant_id AND approval_id = :approval_id AND run_id = :run_id AND step = :step FOR NO KEY UPDATE
""")

_STATE_OF_USE = text("""
    SELECT h.state, h.idempotent FROM decisions d JOIN holds h ON h.tenant_id = d.tenant_id AND h.hold_id = d.hold_id
    WHERE d.tenant_id = :tenant_id AND d.decision_id = :decision_id
""")

_CONSUME_APPROVAL = text(
    "UPDATE approvals SET consumed_by = :decision_id WHERE tenant_id = :tenant_id AND approval_id = :approval_id"
)

_INSERT_APPROVAL = text("""
    INSERT INTO approvals (tenant_id, approval_id, run_id, step, binding, action, rule, approver_role, max_cost_nano_usd,
                           requester_id, expires_at)
    VALUES (:tenant_id, :approval_id, :run_id, :step, :binding, :action, :rule, :approver_role, :max_cost_nano_usd,
            :requester_id, :expires_at)
""")

_SUPERSEDE_DECISION = text(
    "UPDATE decisions SET superseded_at = now() WHERE tenant_id = :tenant_id AND decision_id = :decision_id"
)

_WITHDRAW_APPROVAL = text("""
    UPDATE approvals SET expires_at = now() WHERE tenant_id = :tenant_id AND verdict IS NULL AND approval_id = (
        SELECT approval_id FROM decisions WHERE tenant_id = :tenant_id AND decision_id = :decision_id)
""")

_SUPERSEDE_HOLD = text("UPDATE holds SET superseded_at = now() WHERE tenant_id = :tenant_id AND hold_id = :hold_id")

_INSERT_HOLD = text("""
    INSERT INTO holds (tenant_id, hold_id, run_id, step, try, kind, tool, idempotent, digest, action, decision_id,
                       max_cost_nano_usd, estimate, lease_ms, expires_at)
    VALUES (:tenant_id, :hold_id, :run_id, :step, :try, :kind, :tool, :idempotent, :digest, :action, :decision_id,
            :max_cost_nano_usd, CAST(:estimate AS jsonb), :lease_ms, :expires_at)
""")

_INSERT_LEGS = text("""
    WITH leg AS (SELECT * FROM unnest(CAST(:cap_ids AS uuid[]), CAST(:amounts AS bigint[])) AS leg (cap_id, amount)),
    balance AS (
        UPDATE caps SET reserved = reserved + leg.amount FROM leg
        WHERE caps.tenant_id = :tenant_id AND caps.cap_id = leg.cap_id RETURNING caps.cap_id, caps.limit_amount, caps.unlimited
    ),
    entry AS (
        INSERT INTO journal (tenant_id, cap_id, hold_id, kind, reserved_delta, limit_amount, unlimited, actor, reason)
        SELECT :tenant_id, leg.cap_id, :hold_id, 'reserve', leg.amount, balance.limit_amount, balance.unlimited, 'run', :reason
        FROM leg JOIN balance USING (cap_id)
    )
    INSERT INTO hold_legs (tenant_id, hold_id, cap_id, amount) SELECT :tenant_id, :hold_id, leg.cap_id, leg.amount FROM leg
""")

# One statement for all that a decision writes: every round trip lengthens the time for which the caps are locked.
_WRITE_DECISION = text("""
    WITH leg AS (SELECT * FROM unnest(CAST(:cap_ids AS uuid[]), CAST(:amounts AS bigint[])) AS leg (cap_id, amount)),
    hold AS (
        INSERT INTO holds (tenant_id, hold_id, run_id, step, try, kind, tool, idempotent, digest, action, decision_id,
                           max_cost_nano_usd, estimate, lease_ms, expires_at)
        SELECT :tenant_id, CAST(:hold_id AS uuid), :run_id, CAST(:step AS integer), CAST(:try AS integer), CAST(:kind AS text), :tool,
               :idempotent, CAST(:digest AS bytea), :action, :decision_id, :max_cost_nano_usd, CAST(:estimate AS jsonb), :lease_ms,
               CAST(:expires_at AS timestamptz)
        WHERE CAST(:hold_id AS uuid) IS NOT NULL
    ),
    balance AS (
        UPDATE caps SET reserved = reserved + leg.amount FROM leg
        WHERE caps.tenant_id = :tenant_id AND caps.cap_id = leg.cap_id RETURNING caps.cap_id, caps.limit_amount, caps.unlimited
    ),
    entry AS (
        INSERT INTO journal (tenant_id, cap_id, hold_id, kind, reserved_delta, limit_amount, unlimited, actor, reason)
        SELECT :tenant_id, leg.cap_id, CAST(:hold_id AS uuid), 'reserve', leg.amount, balance.limit_amount, balance.unlimited, 'run',
               CAST(:kind AS text)
        FROM leg JOIN balance USING (cap_id)
    ),
    legs AS (
        INSERT INTO hold_legs (tenant_id, hold_id, cap_id, amount)
        SELECT :tenant_id, CAST(:hold_id AS uuid), leg.cap_id, leg.amount FROM leg
    ),
    decision AS (
        INSERT INTO decisions (tenant_id, decision_id, run_id, step, try, kind, digest, verdict, reason_codes, hold_id, approval_id,
                               reply, part_a, part_b, record_hash)
        VALUES (:tenant_id, :decision_id, :run_id, CAST(:key_step AS integer), CAST(:key_try AS integer), CAST(:kind AS text),
                CAST(:digest AS bytea), :verdict, :reason_codes, CAST(:hold_id AS uuid), :approval_id, CAST(:reply AS jsonb), :part_a,
                :part_b, :record_hash)
    ),
    run AS (
        UPDATE runs SET history_version = history_version + 1, timeline_seq = timeline_seq + :event_count,
            status = CASE WHEN ended_at IS NULL AND status IN ('running', 'waiting') THEN :status ELSE status END
        WHERE tenant_id = :tenant_id AND run_id = :run_id RETURNING timeline_seq
    )
    INSERT INTO timeline_events (tenant_id, run_id, seq, event_id, channel, type, data)
    SELECT :tenant_id, :run_id, run.timeline_seq - :event_count + e.ordinal, e.event_id, e.channel, e.type, e.data::jsonb
    FROM run, unnest(CAST(:event_ids AS uuid[]), CAST(:channels AS text[]), CAST(:types AS text[]), CAST(:data AS text[]))
        WITH ORDINALITY AS e (event_id, channel, type, data, ordinal)
    RETURNING seq
""")

_READ_HOLD = text("""
    SELECT h.tenant_id, h.run_id, h.step, h.try, h.hold_id, h.decision_id, h.kind, h.tool, h.idempotent, h.state, h.digest, h.action,
           h.max_cost_nano_usd, h.cost_nano_usd, h.estimate, h.outward_at IS NOT NULL AS went_outward, h.settled_by,
           o.hold_id IS NOT NULL AS has_outcome, o.ok, o.error_code, o.retryable, o.retry_after_ms,
           o.cost_class, o.provider_request_id, o.simulated, o.result
    FROM holds h LEFT JOIN outcomes o ON o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id
    WHERE h.tenant_id = :tenant_id AND h.hold_id = :hold_id
""")

_UNITS_OF_HOLD = text("""
    SELECT c.unit, max(l.amount) FROM hold_legs l JOIN caps c ON c.tenant_id = l.tenant_id AND c.cap_id = l.cap_id
    WHERE l.tenant_id = :tenant_id AND l.hold_id = :hold_id GROUP BY c.unit
""")

_LOCK_LEGS = text(f"""
    SELECT {_QUALIFIED_CAP_COLUMNS}, l.amount AS held FROM caps c
    JOIN hold_legs l ON l.tenant_id = c.tenant_id AND l.cap_id = c.cap_id
    WHERE l.tenant_id = :tenant_id AND l.hold_id = :hold_id ORDER BY c.cap_id FOR NO KEY UPDATE OF c
""")  # noqa: S608 (a constant list of columns)

_LOCK_RUN_OF_HOLD = text("""
    SELECT r.run_id FROM runs r JOIN holds h ON h.tenant_id = r.tenant_id AND h.run_id = r.run_id
    WHERE h.tenant_id = :tenant_id AND h.hold_id = :hold_id FOR NO KEY UPDATE OF r
""")

_LOCK_HOLD_TO_SETTLE = text("""
    SELECT h.state, h.outward_at IS NOT NULL AS went_outward, h.kind, h.run_id,
           EXISTS (SELECT 1 FROM outcomes o WHERE o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id) AS has_outcome
    FROM holds h WHERE h.tenant_id = :tenant_id AND h.hold_id = :hold_id FOR NO KEY UPDATE
""")

# One statement for all that a settlement writes, but the transcript.
_WRITE_SETTLEMENT = text("""
    WITH hold AS (
        UPDATE holds SET state = CAST(:state AS text), cost_nano_usd = CAST(:cost_nano_usd AS bigint),
            settled_by = CAST(:actor AS text),
            settled_at = CASE WHEN CAST(:state AS text) = 'unknown' THEN NULL ELSE now() END
        WHERE tenant_id = :tenant_id AND hold_id = :hold_id
    ),
    change AS (
        SELECT * FROM unnest(CAST(:cap_ids AS uuid[]), CAST(:reserved AS bigint[]), CAST(:committed AS bigint[]),
                             CAST(:debt AS bigint[]), CAST(:ceilings AS bigint[])) AS c (cap_id, reserved, committed, debt, ceiling)
    ), balance AS (
        UPDATE caps SET reserved = caps.reserved + change.reserved, committed = caps.committed + change.committed,
            debt = caps.debt + change.debt, ceiling = change.ceiling
        FROM change WHERE caps.tenant_id = :tenant_id AND caps.cap_id = change.cap_id
        RETURNING caps.cap_id, caps.limit_amount, caps.unlimited
    ), entry AS (
        INSERT INTO journal (tenant_id, cap_id, hold_id, kind, reserved_delta, committed_delta, debt_delta, limit_amount, unlimited,
                             actor, reason)
        SELECT :tenant_id, change.cap_id, :hold_id, CAST(:kind AS text), change.reserved, change.committed, change.debt,
               balance.limit_amount, balance.unlimited, CAST(:actor AS text), CAST(:reason AS text)
        FROM change JOIN balance USING (cap_id)
    ), run AS (
        UPDATE runs SET timeline_seq = timeline_seq + :event_count, simulated = simulated OR EXISTS (
            SELECT 1 FROM outcomes o WHERE o.tenant_id = :tenant_id AND o.hold_id = :hold_id AND o.simulated)
        WHERE tenant_id = :tenant_id AND run_id = :run_id
        RETURNING timeline_seq
    )
    INSERT INTO timeline_events (tenant_id, run_id, seq, event_id, channel, type, data)
    SELECT :tenant_id, :run_id, run.timeline_seq - :event_count + e.ordinal, e.event_id, e.channel, e.type, e.data::jsonb
    FROM run, unnest(CAST(:event_ids AS uuid[]), CAST(:channels AS text[]), CAST(:types AS text[]), CAST(:data AS text[]))
        WITH ORDINALITY AS e (event_id, channel, type, data, ordinal)
    RETURNING seq
""")

# Only the governor and the sweepers may call an outcome unknown, and only they have the right to that column.
_SET_UNKNOWN_AT = text("UPDATE holds SET unknown_at = now() WHERE tenant_id = :tenant_id AND hold_id = :hold_id")

_INSERT_CAP = text("""
    INSERT INTO caps (tenant_id, cap_id, scope_kind, scope_id, unit, unlimited, limit_amount, ceiling)
    VALUES (:tenant_id, :cap_id, :kind, :scope_id, :unit, false, 0, 0)
    ON CONFLICT (tenant_id, scope_kind, scope_id, unit, window_kind, starts_at) DO NOTHING
""")

_FIND_CAP = text("""
    SELECT cap_id FROM caps WHERE tenant_id = :tenant_id AND scope_kind = :kind AND scope_id = :scope_id AND unit = :unit
      AND window_kind = 'total'
""")

_SET_LIMIT = text("""
    UPDATE caps SET limit_amount = :limit_amount, unlimited = :unlimited, ceiling = :ceiling,
        committed = committed + :committed, debt = debt + :debt
    WHERE tenant_id = :tenant_id AND cap_id = :cap_id
""")

_INSERT_LIMIT_ENTRY = text("""
    INSERT INTO journal (tenant_id, cap_id, kind, committed_delta, debt_delta, limit_amount, unlimited, actor, reason)
    VALUES (:tenant_id, :cap_id, 'limit', :committed, :debt, :limit_amount, :unlimited, :actor, :reason)
""")

_LIST_CAPS = text(f"SELECT {_CAP_COLUMNS} FROM caps WHERE tenant_id = :tenant_id ORDER BY cap_id")  # noqa: S608 (a constant list of columns)


@dataclass(frozen=True, slots=True)
class RunLock:
    """What the ledger reads of a run under its lock."""

    status: str
    ended: bool
    history_version: int
    timeline_seq: int
    role_version: int
    budget_hold_id: UUID | None
    now: datetime


def _cap(row: Row[Any]) -> CapView:  # rows of text() statements carry no types
    return CapView(
        cap_id=row.cap_id,
        scope=Scope(row.scope_kind, row.scope_id),
        unit=row.unit,
        window_kind=row.window_kind,
        unlimited=row.unlimited,
        limit_amount=row.limit_amount,
        ceiling=row.ceiling,
        reserved=row.reserved,
        committed=row.committed,
        debt=row.debt,
    )


async def lock_caps_of_try(
    connection: AsyncConnection, key: TryKey, scopes: Sequence[Scope], units: Sequence[str]
) -> list[CapView]:
    """Locks the caps in force now on any of the scopes, in any of the units, and returns them, sorted by id.

    Locks also the caps of the hold that stands for the key, if there is one.
    """
    rows = await connection.execute(
        _LOCK_CAPS_OF_TRY,
        {
            "tenant_id": key.tenant_id,
            "run_id": key.run_id,
            "step": key.step,
            "try": key.try_number,
            "units": list(units),
            "kinds": [scope.kind for scope in scopes],
            "ids": [scope.scope_id for scope in scopes],
        },
    )
    return [_cap(row) for row in rows if row.applies]


async def lock_caps(connection: AsyncConnection, tenant_id: UUID, cap_ids: Sequence[UUID]) -> list[CapView]:
    """Locks and returns certain caps, sorted by id."""
    rows = await connection.execute(_LOCK_CAPS, {"tenant_id": tenant_id, "cap_ids": list(cap_ids)})
    return [_cap(row) for row in rows]


async def lock_cap(connection: AsyncConnection, tenant_id: UUID, cap_id: UUID) -> CapView | None:
    """Locks and returns one cap."""
    row = (await connection.execute(_LOCK_CAP, {"tenant_id": tenant_id, "cap_id": cap_id})).one_or_none()
    return None if row is None else _cap(row)


async def list_caps(connection: AsyncConnection, tenant_id: UUID) -> list[CapView]:
    """Returns all caps of the tenant."""
    return [_cap(row) for row in await connection.execute(_LIST_CAPS, {"tenant_id": tenant_id})]


async def lock_run(connection: AsyncConnection, tenant_id: UUID, run_id: UUID) -> RunLock | None:
    """Locks a run and returns what the ledger needs of it."""
    row = (await connection.execute(_LOCK_RUN, {"tenant_id": tenant_id, "run_id": run_id})).one_or_none()
    if row is None:
        return None
    return RunLock(row[0], row[1] is not None, row[2], row[3], row[4], row[5], row[6])


async def lock_try(connection: AsyncConnection, key: TryKey) -> Row[Any] | None:  # rows of text() carry no types
    """Locks and returns the decision that stands for a key, with its hold."""
    row = (
        await connection.execute(
            _LOCK_TRY,
            {"tenant_id": key.tenant_id, "run_id": key.run_id, "step": key.step, "try": key.try_number},
        )
    ).one_or_none()
    if row is not None and row.hold_id is not None:
        state = await connection.scalar(_LOCK_HOLD, {"tenant_id": key.tenant_id, "hold_id": row.hold_id})
        if state != row.state:  # an executor moved it between the two statements
            return (
                await connection.execute(
                    _LOCK_TRY,
                    {"tenant_id": key.tenant_id, "run_id": key.run_id, "step": key.step, "try": key.try_number},
                )
            ).one()
    return row


async def approval_is_free(connection: AsyncConnection, key: TryKey, approval_id: UUID) -> bool:
    """Locks an approval and says whether it may be used.

    It is bound to one step and used up by the try that executes. A try that came to nothing, or whose idempotent action
    is repeated because its outcome was lost, leaves it for the next try of the same step.
    """
    parameters = {
        "tenant_id": key.tenant_id,
        "approval_id": approval_id,
        "run_id": key.run_id,
        "step": key.step,
    }
    row = (await connection.execute(_LOCK_APPROVAL, parameters)).one_or_none()
    if row is None or row.consumed_by is None:
        return row is not None
    use = (
        await connection.execute(_STATE_OF_USE, {"tenant_id": key.tenant_id, "decision_id": row.consumed_by})
    ).one_or_none()
    if use is None:
        return False
    return use.state in ("voided", "expired") or (use.state == "unknown" and use.idempotent)


async def consume_approval(connection: AsyncConnection, tenant_id: UUID, approval_id: UUID, decision_id: UUID) -> None:
    """Uses an approval up."""
    await connection.execute(
        _CONSUME_APPROVAL, {"tenant_id": tenant_id, "approval_id": approval_id, "decision_id": decision_id}
    )


async def insert_approval(connection: AsyncConnection, reservation: Reservation, request: ApprovalRequest) -> None:
    """Records that an approval is asked for."""
    await connection.execute(
        _INSERT_APPROVAL,
        {
            "tenant_id": reservation.key.tenant_id,
            "approval_id": request.approval_id,
            "run_id": reservation.key.run_id,
            "step": reservation.key.step,
            "binding": request.binding,
            "action": reservation.action,
            "rule": request.rule_id,
            "approver_role": request.approver_role,
            "max_cost_nano_usd": reservation.amounts.get("nano_usd", 0),
            "requester_id": request.requester_id,
            "expires_at": request.expires_at,
        },
    )


async def supersede(connection: AsyncConnection, tenant_id: UUID, decision_id: UUID, hold_id: UUID | None) -> None:
    """Takes a decision out of its key's place, with its already voided hold and the approval it asked for."""
    await connection.execute(_SUPERSEDE_DECISION, {"tenant_id": tenant_id, "decision_id": decision_id})
    if hold_id is not None:
        await connection.execute(_SUPERSEDE_HOLD, {"tenant_id": tenant_id, "hold_id": hold_id})
    await connection.execute(_WITHDRAW_APPROVAL, {"tenant_id": tenant_id, "decision_id": decision_id})


async def insert_hold(
    connection: AsyncConnection, reservation: Reservation, legs: Sequence[Leg], expires_at: datetime
) -> None:
    """Writes a hold with its legs and their journal, and takes the amounts from the caps."""
    key = reservation.key
    await connection.execute(
        _INSERT_HOLD,
        {
            "tenant_id": key.tenant_id,
            "hold_id": reservation.hold_id,
            "run_id": key.run_id,
            "step": key.step,
            "try": key.try_number,
            "kind": reservation.kind,
            "tool": reservation.tool,
            "idempotent": reservation.idempotent,
            "digest": reservation.digest,
            "action": reservation.action,
            "decision_id": reservation.decision_id,
            "max_cost_nano_usd": reservation.amounts.get("nano_usd", 0),
            "estimate": jsonb(reservation.estimate),
            "lease_ms": reservation.lease_ms,
            "expires_at": expires_at,
        },
    )
    if legs:
        await connection.execute(
            _INSERT_LEGS,
            {
                "tenant_id": key.tenant_id,
                "hold_id": reservation.hold_id,
                "cap_ids": [leg.cap_id for leg in legs],
                "amounts": [leg.amount for leg in legs],
                "reason": reservation.kind,
            },
        )


async def write_decision(
    connection: AsyncConnection,
    reservation: Reservation,
    row: Mapping[str, object],
    *,
    legs: Sequence[Leg],
    expires_at: datetime,
    status: str,
    timeline: Sequence[Event],
) -> int:
    """Writes a decision record with its timeline events and, if `row` names a hold, that hold with legs and journal.

    Returns:
        Number of the run's newest event.
    """
    key = reservation.key
    result = await connection.execute(
        _WRITE_DECISION,
        {
            "tenant_id": key.tenant_id,
            "run_id": key.run_id,
            "step": key.step,
            "try": key.try_number,
            "kind": reservation.kind,
            "tool": reservation.tool,
            "idempotent": reservation.idempotent,
            "digest": reservation.digest,
            "action": reservation.action,
            "max_cost_nano_usd": reservation.amounts.get("nano_usd", 0),
            "estimate": jsonb(dict(reservation.estimate)),
            "lease_ms": reservation.lease_ms,
            "expires_at": expires_at,
            "cap_ids": [leg.cap_id for leg in legs],
            "amounts": [leg.amount for leg in legs],
            "part_a": reservation.part_a,
            "status": status,
            **row,
            **events.parameters(timeline),
        },
    )
    newest: int = max(result.scalars())
    return newest


async def read_hold(connection: AsyncConnection, tenant_id: UUID, hold_id: UUID) -> HoldView | None:
    """Returns a hold with its outcome, without locking it."""
    row = (await connection.execute(_READ_HOLD, {"tenant_id": tenant_id, "hold_id": hold_id})).one_or_none()
    if row is None:
        return None
    outcome = None
    if row.has_outcome:
        outcome = OutcomeView(
            row.ok,
            row.error_code,
            row.retryable,
            row.retry_after_ms,
            row.cost_class,
            row.provider_request_id,
            row.simulated,
            row.result,
        )
    return HoldView(
        key=TryKey(row.tenant_id, row.run_id, row.step, getattr(row, "try")),
        hold_id=row.hold_id,
        decision_id=row.decision_id,
        kind=row.kind,
        tool=row.tool,
        idempotent=row.idempotent,
        state=row.state,
        digest=row.digest,
        action=row.action,
        max_cost_nano_usd=row.max_cost_nano_usd,
        cost_nano_usd=row.cost_nano_usd,
        estimate=row.estimate,
        went_outward=row.went_outward,
        settled_by=row.settled_by,
        outcome=outcome,
    )


async def held_by_unit(connection: AsyncConnection, tenant_id: UUID, hold_id: UUID) -> dict[str, int]:
    """Returns what a hold reserved, by unit."""
    rows = await connection.execute(_UNITS_OF_HOLD, {"tenant_id": tenant_id, "hold_id": hold_id})
    return {row[0]: row[1] for row in rows}


async def lock_legs(connection: AsyncConnection, tenant_id: UUID, hold_id: UUID) -> list[tuple[CapView, int]]:
    """Locks the caps on which a hold stands, sorted by id, and returns them with what it reserved on each."""
    rows = await connection.execute(_LOCK_LEGS, {"tenant_id": tenant_id, "hold_id": hold_id})
    return [(_cap(row), row.held) for row in rows]


async def lock_hold_to_settle(
    connection: AsyncConnection, tenant_id: UUID, hold_id: UUID
) -> Row[Any] | None:  # rows of text() carry no types
    """Locks a hold's run, then the hold, and returns what a settlement must have seen."""
    parameters = {"tenant_id": tenant_id, "hold_id": hold_id}
    await connection.execute(_LOCK_RUN_OF_HOLD, parameters)
    return (await connection.execute(_LOCK_HOLD_TO_SETTLE, parameters)).one_or_none()


async def write_settlement(
    connection: AsyncConnection,
    settlement: Settlement,
    run_id: UUID,
    changes: Mapping[UUID, BalanceChange],
    *,
    kind: str,
    cost_nano_usd: int | None,
) -> int:
    """Moves a hold to its next state, with balances, journal and timeline; returns the number of the newest event, or 0."""
    result = await connection.execute(
        _WRITE_SETTLEMENT,
        {
            "tenant_id": settlement.tenant_id,
            "hold_id": settlement.hold_id,
            "run_id": run_id,
            "state": settlement.to,
            "cost_nano_usd": cost_nano_usd,
            "kind": kind,
            "actor": settlement.actor,
            "reason": settlement.reason,
            "cap_ids": list(changes),
            "reserved": [change.reserved_delta for change in changes.values()],
            "committed": [change.committed_delta for change in changes.values()],
            "debt": [change.debt_delta for change in changes.values()],
            "ceilings": [change.ceiling for change in changes.values()],
            **events.parameters(settlement.events),
        },
    )
    newest: int = max(result.scalars(), default=0)
    if settlement.to == "unknown":
        await connection.execute(_SET_UNKNOWN_AT, {"tenant_id": settlement.tenant_id, "hold_id": settlement.hold_id})
    return newest


async def ensure_cap(connection: AsyncConnection, tenant_id: UUID, cap_id: UUID, scope: Scope, unit: str) -> UUID:
    """Makes a cap with limit 0 unless there is one, and returns its id."""
    parameters = {"tenant_id": tenant_id, "kind": scope.kind, "scope_id": scope.scope_id, "unit": unit}
    await connection.execute(_INSERT_CAP, {**parameters, "cap_id": cap_id})
    found: UUID = (await connection.execute(_FIND_CAP, parameters)).scalar_one()
    return found


async def set_limit(
    connection: AsyncConnection,
    tenant_id: UUID,
    cap_id: UUID,
    *,
    limit_amount: int,
    unlimited: bool,
    change: BalanceChange,
    actor: str,
    reason: str,
) -> None:
    """Sets a cap's limit and journals who did it and why."""
    parameters = {
        "tenant_id": tenant_id,
        "cap_id": cap_id,
        "limit_amount": limit_amount,
        "unlimited": unlimited,
        "committed": change.committed_delta,
        "debt": change.debt_delta,
    }
    await connection.execute(_SET_LIMIT, {**parameters, "ceiling": change.ceiling})
    await connection.execute(_INSERT_LIMIT_ENTRY, {**parameters, "actor": actor, "reason": reason})
