"""The baseline: an honest plain ledger. One transaction a request; caps, run and hold locked in a fixed order, then written.

It takes what the product's ledger takes, judges with the same arithmetic, and writes the same rows: hold, legs, journal, decision
record, timeline. What no load here ever does is left out: approvals, superseding, alarms.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from bench.ledger import naive_core as core
from holdfast.database.engine import transaction
from holdfast.database.jsonb import jsonb
from holdfast.errors import Conflict, PermitUsed, RunUnknown
from holdfast.ledger.types import (
    NANO_USD,
    CapView,
    Decision,
    Event,
    FactsChanged,
    Redemption,
    Reservation,
    Scope,
    Settlement,
)
from holdfast.timeline import events
from holdfast_verdict import record
from holdfast_verdict.canonical import JsonValue

_SETTLED_KIND: Final = {"committed": "commit", "voided": "void", "expired": "expire"}

_LOCK_CAPS = text("""
    SELECT c.cap_id, c.scope_kind, c.scope_id, c.unit, c.window_kind, c.unlimited, c.limit_amount, c.ceiling, c.reserved, c.committed,
           c.debt
    FROM unnest(CAST(:kinds AS text[]), CAST(:ids AS text[])) AS scope (kind, id)
    JOIN caps c ON c.tenant_id = :tenant_id AND c.scope_kind = scope.kind AND c.scope_id = scope.id
    WHERE c.unit = ANY(:units) AND c.starts_at <= now() AND now() < c.ends_at
    ORDER BY c.cap_id FOR NO KEY UPDATE OF c
""")

_LOCK_RUN = text("""
    SELECT ended_at IS NOT NULL AS ended, history_version, role_version, timeline_seq, clock_timestamp() AS now
    FROM runs WHERE tenant_id = :tenant_id AND run_id = :run_id FOR NO KEY UPDATE
""")

_LOCK_TRY = text("""
    SELECT d.decision_id, d.verdict, d.digest, d.reply, d.record_hash, h.hold_id, h.state, h.expires_at, h.max_cost_nano_usd, h.lease_ms
    FROM decisions d LEFT JOIN holds h ON h.tenant_id = d.tenant_id AND h.hold_id = d.hold_id
    WHERE d.tenant_id = :tenant_id AND d.run_id = :run_id AND d.step = :step AND d.try = :try AND d.superseded_at IS NULL
    FOR NO KEY UPDATE OF d
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
        INSERT INTO decisions (tenant_id, decision_id, run_id, step, try, kind, digest, verdict, reason_codes, hold_id, reply, part_a,
                               part_b, record_hash)
        VALUES (:tenant_id, :decision_id, :run_id, CAST(:step AS integer), CAST(:try AS integer), CAST(:kind AS text),
                CAST(:digest AS bytea), :verdict, :reason_codes, CAST(:hold_id AS uuid), CAST(:reply AS jsonb), :part_a, :part_b,
                :record_hash)
    ),
    run AS (
        UPDATE runs SET history_version = history_version + 1, timeline_seq = timeline_seq + :event_count,
            status = CASE WHEN ended_at IS NULL AND status IN ('running', 'waiting') THEN 'running' ELSE status END
        WHERE tenant_id = :tenant_id AND run_id = :run_id RETURNING timeline_seq
    )
    INSERT INTO timeline_events (tenant_id, run_id, seq, event_id, channel, type, data)
    SELECT :tenant_id, :run_id, run.timeline_seq - :event_count + e.ordinal, e.event_id, e.channel, e.type, e.data::jsonb
    FROM run, unnest(CAST(:event_ids AS uuid[]), CAST(:channels AS text[]), CAST(:types AS text[]), CAST(:data AS text[]))
        WITH ORDINALITY AS e (event_id, channel, type, data, ordinal)
    RETURNING seq
""")

_REDEEM = text("""
    UPDATE holds SET state = 'executing', lease_hash = :lease_hash,
        lease_expires_at = clock_timestamp() + lease_ms * interval '1 millisecond'
    WHERE tenant_id = :tenant_id AND hold_id = :hold_id AND digest = :digest AND state = 'held' AND expires_at > clock_timestamp()
    RETURNING lease_ms, action
""")

_LOCK_LEGS = text("""
    SELECT c.cap_id, c.scope_kind, c.scope_id, c.unit, c.window_kind, c.unlimited, c.limit_amount, c.ceiling, c.reserved, c.committed,
           c.debt, l.amount AS held
    FROM caps c JOIN hold_legs l ON l.tenant_id = c.tenant_id AND l.cap_id = c.cap_id
    WHERE l.tenant_id = :tenant_id AND l.hold_id = :hold_id ORDER BY c.cap_id FOR NO KEY UPDATE OF c
""")

_LOCK_RUN_OF_HOLD = text("""
    SELECT r.run_id FROM runs r JOIN holds h ON h.tenant_id = r.tenant_id AND h.run_id = r.run_id
    WHERE h.tenant_id = :tenant_id AND h.hold_id = :hold_id FOR NO KEY UPDATE OF r
""")

_LOCK_HOLD = text("""
    SELECT h.state, h.outward_at IS NOT NULL AS went_outward, h.kind, h.run_id,
           EXISTS (SELECT 1 FROM outcomes o WHERE o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id) AS has_outcome
    FROM holds h WHERE h.tenant_id = :tenant_id AND h.hold_id = :hold_id FOR NO KEY UPDATE
""")

_WRITE_SETTLEMENT = text("""
    WITH hold AS (
        UPDATE holds SET state = CAST(:state AS text), cost_nano_usd = CAST(:cost_nano_usd AS bigint),
            settled_by = CAST(:actor AS text), settled_at = now()
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


class NaiveLedger:
    """Grants, moves and settles holds, each in a transaction of its own; the same calls as `holdfast.ledger.service.Ledger`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def reserve(self, reservation: Reservation) -> Decision:
        """Records a decision and, for an allow, takes the hold."""
        key = reservation.key
        place = {"tenant_id": key.tenant_id, "run_id": key.run_id}
        async with transaction(self._engine, key.tenant_id) as connection:
            caps = await _lock_caps(connection, reservation)
            run = (await connection.execute(_LOCK_RUN, place)).one_or_none()
            if run is None:
                raise RunUnknown(f"there is no run {key.run_id}")
            standing = (
                await connection.execute(_LOCK_TRY, {**place, "step": key.step, "try": key.try_number})
            ).one_or_none()
            if standing is not None:
                if standing.digest != reservation.digest:
                    raise Conflict("the baseline knows no superseding")
                return _answer_again(standing)
            if (run.history_version, run.role_version) != (reservation.versions.history, reservation.versions.role):
                raise FactsChanged
            if run.ended:
                raise Conflict("the baseline knows no ended runs")
            return await _decide(connection, reservation, caps, run.now)

    async def redeem(self, tenant_id: UUID, hold_id: UUID, digest: bytes) -> Redemption:
        """Moves a hold from `held` to `executing`, once."""
        lease_token = secrets.token_bytes(32)
        parameters = {
            "tenant_id": tenant_id,
            "hold_id": hold_id,
            "digest": digest,
            "lease_hash": hashlib.sha256(lease_token).digest(),
        }
        async with transaction(self._engine, tenant_id) as connection:
            row = (await connection.execute(_REDEEM, parameters)).one_or_none()
        if row is None:
            raise PermitUsed("the permit was used, has expired, or its hold is gone", remedy="reserve anew")
        return Redemption(lease_token, row.lease_ms, row.action)

    async def settle(self, settlement: Settlement) -> int:
        """Moves a hold to a settled state; returns the number of the run's newest timeline event."""
        place = {"tenant_id": settlement.tenant_id, "hold_id": settlement.hold_id}
        async with transaction(self._engine, settlement.tenant_id) as connection:
            legs = [(_cap(row), row.held) for row in await connection.execute(_LOCK_LEGS, place)]
            await connection.execute(_LOCK_RUN_OF_HOLD, place)
            locked = (await connection.execute(_LOCK_HOLD, place)).one_or_none()
            seen = (settlement.seen_state, settlement.seen_outcome, settlement.seen_outward)
            if locked is None or (locked.state, locked.has_outcome, locked.went_outward) != seen:
                raise FactsChanged
            if not core.may_settle(locked.kind, locked.state, settlement.to, went_outward=locked.went_outward):
                raise Conflict(f"hold {settlement.hold_id} is {locked.state} and cannot become {settlement.to}")
            changes = {cap.cap_id: core.settle_leg(cap, held, settlement.actual.get(cap.unit, 0)) for cap, held in legs}
            result = await connection.execute(
                _WRITE_SETTLEMENT,
                {
                    **place,
                    "run_id": locked.run_id,
                    "state": settlement.to,
                    "cost_nano_usd": settlement.actual.get(NANO_USD, 0),
                    "kind": _SETTLED_KIND[settlement.to],
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
            return newest


def _cap(row: Row[Any]) -> CapView:  # rows of text() statements carry no types
    return CapView(
        row.cap_id,
        Scope(row.scope_kind, row.scope_id),
        row.unit,
        row.window_kind,
        row.unlimited,
        row.limit_amount,
        row.ceiling,
        row.reserved,
        row.committed,
        row.debt,
    )


async def _lock_caps(connection: AsyncConnection, reservation: Reservation) -> list[CapView]:
    parameters = {
        "tenant_id": reservation.key.tenant_id,
        "units": sorted(reservation.amounts),
        "kinds": [scope.kind for scope in reservation.scopes],
        "ids": [scope.scope_id for scope in reservation.scopes],
    }
    return [_cap(row) for row in await connection.execute(_LOCK_CAPS, parameters)]


def _answer_again(standing: Row[Any]) -> Decision:  # rows of text() statements carry no types
    reply = standing.reply
    return Decision(
        verdict=standing.verdict if standing.state in (None, "held") else "replayed",
        decision_id=standing.decision_id,
        record_hash=standing.record_hash,
        code=reply["code"],
        message=reply["message"],
        rule_id=reply["rule_id"],
        hold_id=standing.hold_id,
        hold_expires_at=standing.expires_at,
        max_cost_nano_usd=standing.max_cost_nano_usd or 0,
        lease_ms=standing.lease_ms or 0,
        retryable=reply["retryable"],
    )


async def _decide(
    connection: AsyncConnection, reservation: Reservation, caps: Sequence[CapView], now: datetime
) -> Decision:
    """Decides under lock, and writes it down."""
    evaluated = reservation.evaluated
    verdict, code, message, retryable = evaluated.verdict, evaluated.code, evaluated.message, False
    refusal = core.refusal_for(caps, reservation.amounts) if verdict == "allow" else None
    if refusal is not None:
        verdict, code, message, retryable = "deny", refusal.code, refusal.message, refusal.outstanding
    allowed = verdict == "allow"
    decision = Decision(
        verdict=verdict,
        decision_id=reservation.decision_id,
        record_hash=b"",
        code=code,
        message=message,
        rule_id=evaluated.rule_id,
        hold_id=reservation.hold_id if allowed else None,
        hold_expires_at=now + timedelta(milliseconds=reservation.hold_ms) if allowed else None,
        max_cost_nano_usd=reservation.amounts.get(NANO_USD, 0),
        lease_ms=reservation.lease_ms,
        retryable=retryable,
    )
    part_b = record.part_b(
        decision_id=decision.decision_id,
        time_ms=int(now.timestamp() * 1000),
        verdict=decision.verdict,
        reason_codes=(decision.code,),
        hold_id=decision.hold_id,
        legs=[_leg_json(cap, reservation.amounts[cap.unit]) for cap in caps],
    )
    record_hash = record.record_hash(reservation.part_a, part_b)
    legs = core.legs_for(caps, reservation.amounts) if allowed else []
    seq = await _write(connection, reservation, decision, legs, part_b=part_b, record_hash=record_hash)
    return replace(decision, record_hash=record_hash, timeline_seq=seq)


def _leg_json(cap: CapView, amount: int) -> dict[str, JsonValue]:
    return {
        "cap_id": str(cap.cap_id),
        "scope": [cap.scope.kind, cap.scope.scope_id],
        "unit": cap.unit,
        "limit": None if cap.unlimited else str(cap.limit_amount),
        "reserved": str(cap.reserved),
        "committed": str(cap.committed),
        "debt": str(cap.debt),
        "amount": str(amount),
    }


async def _write(
    connection: AsyncConnection,
    reservation: Reservation,
    decision: Decision,
    legs: Sequence[core.Leg],
    *,
    part_b: bytes,
    record_hash: bytes,
) -> int:
    key = reservation.key
    reply: dict[str, JsonValue] = {
        "code": decision.code,
        "message": decision.message,
        "rule_id": decision.rule_id,
        "retryable": decision.retryable,
        "approval_expires_at": None,
    }
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
            "max_cost_nano_usd": reservation.amounts.get(NANO_USD, 0),
            "estimate": jsonb(reservation.estimate),
            "lease_ms": reservation.lease_ms,
            "expires_at": decision.hold_expires_at,
            "cap_ids": [leg.cap_id for leg in legs],
            "amounts": [leg.amount for leg in legs],
            "decision_id": decision.decision_id,
            "hold_id": decision.hold_id,
            "verdict": decision.verdict,
            "reason_codes": [decision.code],
            "reply": jsonb(reply),
            "part_a": reservation.part_a,
            "part_b": part_b,
            "record_hash": record_hash,
            **events.parameters([_event(reservation, decision)]),
        },
    )
    newest: int = max(result.scalars())
    return newest


def _event(reservation: Reservation, decision: Decision) -> Event:
    data: Mapping[str, JsonValue] = {
        "decision_id": str(decision.decision_id),
        "step": reservation.key.step,
        "try": reservation.key.try_number,
        "kind": reservation.kind,
        "tool": reservation.tool,
        "verdict": decision.verdict,
        "code": decision.code,
        "message": decision.message,
        "rule": decision.rule_id,
        "hold_id": str(decision.hold_id) if decision.hold_id else None,
        "held_nano_usd": decision.max_cost_nano_usd if decision.hold_id else 0,
    }
    return Event("decision", "decision.made", data)
