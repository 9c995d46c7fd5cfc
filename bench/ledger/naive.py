"""The baseline: an honest plain ledger. One transaction a request; caps, run and hold locked in a fixed order, then written.

It takes what the product's ledger takes, judges with the same arithmetic, and writes the same rows: hold, journal, decision record,
timeline, rollup. What no load here ever does is left out: approvals, superseding, alarms, windows that end, thresholds.

The product's processes may write none of that but by the schema's functions; so it has a database role of its own.
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

from holdfast.database.engine import tenantless, transaction
from holdfast.database.jsonb import jsonb
from holdfast.database.roles import DATABASE
from holdfast.errors import Conflict, PermitUsed, RunUnknown
from holdfast.ledger.core import refusal_for
from holdfast.ledger.types import (
    CACHED_TOKENS,
    CALLS,
    INPUT_TOKENS,
    NANO_USD,
    TOKENS,
    CapView,
    Decision,
    Event,
    FactsChanged,
    OutcomeView,
    Redemption,
    Reservation,
    Scope,
    Settlement,
)
from holdfast.timeline import events
from holdfast_verdict import record
from holdfast_verdict.canonical import JsonValue

ROLE: Final = "bench_naive"
GRANTS: Final = f"""
    GRANT CONNECT ON DATABASE {DATABASE} TO {ROLE};
    GRANT USAGE ON SCHEMA public TO {ROLE};
    GRANT SELECT ON tenants, stops, outcomes TO {ROLE};
    GRANT SELECT, INSERT, UPDATE ON caps, holds, journal, decisions, timeline_events, rollups, runs TO {ROLE};
    GRANT USAGE ON SEQUENCE journal_entry_id TO {ROLE};
    GRANT EXECUTE ON FUNCTION current_tenant() TO {ROLE}
"""

_LOCK_CAPS = text("""
    SELECT c.cap_id, c.scope_kind, c.scope_id, c.unit, c.window_kind, c.unlimited, c.limit_amount, c.ceiling, c.reserved, c.committed,
           c.debt
    FROM unnest(CAST(:kinds AS text[]), CAST(:ids AS text[])) AS scope (kind, id)
    JOIN caps c ON c.newest AND c.tenant_id = :tenant_id AND c.scope_kind = scope.kind AND c.scope_id = scope.id
    WHERE c.unit = ANY(:units) AND c.starts_at <= now() AND now() < c.ends_at
    ORDER BY c.cap_id FOR NO KEY UPDATE OF c
""")

_LOCK_RUN = text("""
    SELECT r.ended_at IS NOT NULL AS ended, r.history_version, r.role_version, clock_timestamp() AS now,
        (SELECT s.reason FROM stops s WHERE s.tenant_id = r.tenant_id AND s.lifted_at IS NULL AND (s.scope_kind = 'tenant'
            OR (s.scope_kind, s.scope_name) IN (('agent', r.agent_name), ('role', r.role_name), ('tool', :tool))) LIMIT 1) AS stop
    FROM runs r WHERE r.tenant_id = :tenant_id AND r.run_id = :run_id FOR NO KEY UPDATE OF r
""")

_LOCK_TRY = text("""
    SELECT d.decision_id, d.verdict, d.digest, d.reply, d.record_hash, h.hold_id, h.state, h.expires_at, h.max_cost_nano_usd, h.lease_ms
    FROM decisions d LEFT JOIN holds h ON h.tenant_id = d.tenant_id AND h.hold_id = d.hold_id
    WHERE d.tenant_id = :tenant_id AND d.run_id = :run_id AND d.step = :step AND d.try = :try AND d.superseded_at IS NULL
    FOR NO KEY UPDATE OF d
""")

# One statement for all that a decision writes: every round trip lengthens the time for which the caps are locked.
_WRITE_DECISION = text("""
    WITH leg AS (
        SELECT * FROM unnest(CAST(:cap_ids AS uuid[]), CAST(:amounts AS bigint[])) AS leg (cap_id, amount)
    ),
    hold AS (
        INSERT INTO holds (tenant_id, hold_id, run_id, step, try, kind, tool, idempotent, digest, action, decision_id,
                           max_cost_nano_usd, estimate, lease_ms, expires_at, leg_cap_ids, leg_amounts)
        SELECT :tenant_id, CAST(:hold_id AS uuid), :run_id, CAST(:step AS integer), CAST(:try AS integer), CAST(:kind AS text), :tool,
               :idempotent, CAST(:digest AS bytea), :action, :decision_id, :max_cost_nano_usd, CAST(:estimate AS jsonb), :lease_ms,
               CAST(:expires_at AS timestamptz), CAST(:cap_ids AS uuid[]), CAST(:amounts AS bigint[])
        WHERE CAST(:hold_id AS uuid) IS NOT NULL
    ),
    balance AS (
        UPDATE caps SET reserved = reserved + leg.amount FROM leg WHERE caps.tenant_id = :tenant_id AND caps.cap_id = leg.cap_id
    ),
    entry AS (
        INSERT INTO journal (tenant_id, kind, hold_id, run_id, cap_ids, reserved_deltas, committed_deltas, debt_deltas, limit_amounts,
                             unlimited, actor, reason)
        SELECT :tenant_id, 'reserve', CAST(:hold_id AS uuid), :run_id, CAST(:cap_ids AS uuid[]), CAST(:amounts AS bigint[]),
               CAST(:nothing AS bigint[]), CAST(:nothing AS bigint[]), CAST(:limits AS bigint[]), CAST(:unlimited AS boolean[]), 'run',
               CAST(:kind AS text)
        WHERE CAST(:hold_id AS uuid) IS NOT NULL
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
    WITH not_durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS value)
    UPDATE holds SET state = 'executing', lease_hash = :lease_hash,
        lease_expires_at = clock_timestamp() + lease_ms * interval '1 millisecond'
    FROM not_durable
    WHERE tenant_id = :tenant_id AND hold_id = :hold_id AND digest = :digest AND state = 'held' AND expires_at > clock_timestamp()
      AND not_durable.value = 'off'
    RETURNING lease_ms, action
""")

_BEGIN = text("SELECT begin_outward(:hold_id, :lease_token)")

_STORE = text("""
    SELECT store_outcome(:hold_id, :lease_token, :ok, :error_code, :retryable, :retry_after_ms, :cost_class, :provider_request_id,
                         :simulated, :result)
""")

_LOCK_LEGS = text("""
    SELECT c.cap_id, c.scope_kind, c.scope_id, c.unit, c.window_kind, c.unlimited, c.limit_amount, c.ceiling, c.reserved, c.committed,
           c.debt, l.amount AS held
    FROM holds h, unnest(h.leg_cap_ids, h.leg_amounts) AS l (cap_id, amount), caps c
    WHERE h.tenant_id = :tenant_id AND h.hold_id = :hold_id AND c.tenant_id = h.tenant_id AND c.cap_id = l.cap_id
    ORDER BY c.cap_id FOR NO KEY UPDATE OF c
""")

_LOCK_RUN_OF_HOLD = text("""
    SELECT r.run_id, r.project_id, r.user_id, r.agent_name, r.role_name, t.time_zone
    FROM holds h JOIN runs r ON r.tenant_id = h.tenant_id AND r.run_id = h.run_id JOIN tenants t ON t.tenant_id = r.tenant_id
    WHERE h.tenant_id = :tenant_id AND h.hold_id = :hold_id FOR NO KEY UPDATE OF r
""")

_LOCK_HOLD = text("""
    SELECT h.state, h.outward_at IS NOT NULL AS went_outward, h.kind, h.tool, h.estimate #>> '{prices_used,model}' AS model,
           EXISTS (SELECT 1 FROM outcomes o WHERE o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id) AS has_outcome
    FROM holds h WHERE h.tenant_id = :tenant_id AND h.hold_id = :hold_id FOR NO KEY UPDATE
""")

_WRITE_SETTLEMENT = text("""
    WITH hold AS (
        UPDATE holds SET state = 'committed', cost_nano_usd = CAST(:cost_nano_usd AS bigint), settled_by = CAST(:actor AS text),
            settled_at = now()
        WHERE tenant_id = :tenant_id AND hold_id = :hold_id
    ),
    change AS (
        SELECT * FROM unnest(CAST(:cap_ids AS uuid[]), CAST(:reserved AS bigint[]), CAST(:committed AS bigint[]),
                             CAST(:debt AS bigint[]), CAST(:ceilings AS bigint[])) AS c (cap_id, reserved, committed, debt, ceiling)
    ), balance AS (
        UPDATE caps SET reserved = caps.reserved + change.reserved, committed = caps.committed + change.committed,
            debt = caps.debt + change.debt, ceiling = change.ceiling
        FROM change WHERE caps.tenant_id = :tenant_id AND caps.cap_id = change.cap_id
    ), entry AS (
        INSERT INTO journal (tenant_id, kind, hold_id, run_id, cap_ids, reserved_deltas, committed_deltas, debt_deltas, limit_amounts,
                             unlimited, cost_nano_usd, tokens, calls, input_tokens, cached_tokens, simulated, day, actor, reason)
        VALUES (:tenant_id, 'commit', :hold_id, :run_id, CAST(:cap_ids AS uuid[]), CAST(:reserved AS bigint[]),
                CAST(:committed AS bigint[]), CAST(:debt AS bigint[]), CAST(:limits AS bigint[]), CAST(:unlimited AS boolean[]),
                CAST(:cost_nano_usd AS bigint), CAST(:tokens AS bigint), CAST(:calls AS bigint),
                CAST(:input_tokens AS bigint), CAST(:cached_tokens AS bigint), EXISTS (
                    SELECT 1 FROM outcomes o WHERE o.tenant_id = :tenant_id AND o.hold_id = :hold_id AND o.simulated),
                (now() AT TIME ZONE CAST(:zone AS text))::date, CAST(:actor AS text), CAST(:reason AS text))
        RETURNING day, simulated, input_tokens, cached_tokens
    ), rollup AS (
        INSERT INTO rollups AS old (tenant_id, day, run_id, kind, tool, model, project_id, user_id, agent, role, simulated, holds,
                                    calls, tokens, input_tokens, cached_tokens, cost_nano_usd)
        SELECT :tenant_id, entry.day, :run_id, :kind, :tool, :model, :project_id, :user_id, :agent, :role, entry.simulated, 1,
            CAST(:calls AS bigint), CAST(:tokens AS bigint), entry.input_tokens, entry.cached_tokens,
            CAST(:cost_nano_usd AS bigint) FROM entry
        ON CONFLICT (tenant_id, day, run_id, kind, tool, model, simulated) DO UPDATE SET holds = old.holds + excluded.holds,
            calls = old.calls + excluded.calls, tokens = old.tokens + excluded.tokens,
            input_tokens = old.input_tokens + excluded.input_tokens, cached_tokens = old.cached_tokens + excluded.cached_tokens,
            cost_nano_usd = old.cost_nano_usd + excluded.cost_nano_usd
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
            run = (await connection.execute(_LOCK_RUN, {**place, "tool": reservation.tool})).one_or_none()
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
            if run.ended or run.stop is not None:
                raise Conflict("the baseline knows no runs that have ended or are stopped")
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
        """Commits an executed hold; returns the number of the run's newest timeline event."""
        place = {"tenant_id": settlement.tenant_id, "hold_id": settlement.hold_id}
        async with transaction(self._engine, settlement.tenant_id) as connection:
            legs = [(_cap(row), row.held) for row in await connection.execute(_LOCK_LEGS, place)]
            run = (await connection.execute(_LOCK_RUN_OF_HOLD, place)).one_or_none()
            locked = (await connection.execute(_LOCK_HOLD, place)).one_or_none()
            seen = (settlement.seen_state, settlement.seen_outcome, settlement.seen_outward)
            if run is None or locked is None or (locked.state, locked.has_outcome, locked.went_outward) != seen:
                raise FactsChanged
            if (locked.state, settlement.to) != ("executed", "committed"):
                raise Conflict("the baseline only commits what was executed")
            return await _commit(connection, settlement, legs, run, locked)


class NaiveExecutions:
    """The executor's two operations, each a statement and a commit of its own."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def begin(self, hold_id: UUID, lease_token: bytes) -> int | None:
        """Asks whether it may go outside."""
        async with tenantless(self._engine) as connection:
            remaining_ms: int | None = await connection.scalar(_BEGIN, {"hold_id": hold_id, "lease_token": lease_token})
        return remaining_ms

    async def store(self, hold_id: UUID, lease_token: bytes, outcome: OutcomeView) -> bool:
        """Stores what came of it."""
        parameters = {
            "hold_id": hold_id,
            "lease_token": lease_token,
            "ok": outcome.ok,
            "error_code": outcome.error_code,
            "retryable": outcome.retryable,
            "retry_after_ms": outcome.retry_after_ms,
            "cost_class": outcome.cost_class,
            "provider_request_id": outcome.provider_request_id,
            "simulated": outcome.simulated,
            "result": outcome.result,
        }
        async with tenantless(self._engine) as connection:
            stored: bool = await connection.scalar(_STORE, parameters)
        return stored


async def _commit(
    connection: AsyncConnection,
    settlement: Settlement,
    legs: Sequence[tuple[CapView, int]],
    run: Row[Any],  # rows of text() statements carry no types
    hold: Row[Any],
) -> int:
    actual = settlement.actual
    changes = [_settle_leg(cap, held, actual.get(cap.unit, 0)) for cap, held in legs]
    result = await connection.execute(
        _WRITE_SETTLEMENT,
        {
            "tenant_id": settlement.tenant_id,
            "hold_id": settlement.hold_id,
            "run_id": run.run_id,
            "cost_nano_usd": actual.get(NANO_USD, 0),
            "tokens": actual.get(TOKENS, 0),
            "input_tokens": actual.get(INPUT_TOKENS, 0),
            "cached_tokens": actual.get(CACHED_TOKENS, 0),
            "calls": actual.get(CALLS, 0),
            "actor": settlement.actor,
            "reason": settlement.reason,
            "cap_ids": [cap.cap_id for cap, _ in legs],
            "reserved": [change[0] for change in changes],
            "committed": [change[1] for change in changes],
            "debt": [change[2] for change in changes],
            "ceilings": [change[3] for change in changes],
            "limits": [cap.limit_amount for cap, _ in legs],
            "unlimited": [cap.unlimited for cap, _ in legs],
            "zone": run.time_zone,
            "kind": hold.kind,
            "tool": hold.tool,
            "model": hold.model or "",
            "project_id": run.project_id,
            "user_id": run.user_id,
            "agent": run.agent_name,
            "role": run.role_name,
            **events.parameters(settlement.events),
        },
    )
    newest: int = max(result.scalars(), default=0)
    return newest


def _settle_leg(cap: CapView, held: int, actual: int) -> tuple[int, int, int, int]:
    """Returns what settling a leg does to reserved, committed and debt, and the ceiling after it.

    Up to the hold it is committed and the rest returns; what exceeds it takes free headroom first, and what is left is debt.
    """
    within = min(actual, held)
    excess = actual - within
    headroom = max(cap.limit_amount - cap.reserved - cap.committed - cap.debt + held - within, 0)
    fits = excess if cap.unlimited else min(excess, headroom)
    used = cap.reserved - held + cap.committed + within + fits
    return -held, within + fits, excess - fits, max(cap.limit_amount, min(cap.ceiling, used))


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
    refusal = refusal_for(caps, reservation.amounts) if verdict == "allow" else None
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
    legs = caps if allowed else []
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
    legs: Sequence[CapView],
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
            "cap_ids": [cap.cap_id for cap in legs],
            "amounts": [reservation.amounts[cap.unit] for cap in legs],
            "limits": [cap.limit_amount for cap in legs],
            "unlimited": [cap.unlimited for cap in legs],
            "nothing": [0 for _ in legs],
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
