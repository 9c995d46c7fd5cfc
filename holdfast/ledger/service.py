"""The ledger's operations, each one transaction. This engine takes plain row locks, one caller at a time a cap.

Callers see only this interface: asynchronous, many at once, and every judgement (a verdict, a cost) made beforehand from facts
whose versions are compared under lock. An engine that coalesces many callers into one transaction fits behind it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast import transcript
from holdfast.database.engine import transaction
from holdfast.database.jsonb import jsonb
from holdfast.errors import Conflict, HoldConflict, NotFound, PermitUsed, RunUnknown
from holdfast.ids import new_id
from holdfast.ledger import core, repository
from holdfast.ledger.types import (
    NANO_USD,
    SETTLED_STATES,
    CapView,
    Decision,
    Event,
    FactsChanged,
    HoldView,
    Reservation,
    Scope,
    Settlement,
)
from holdfast_verdict import record
from holdfast_verdict.canonical import JsonValue

_REDEEM = text("""
    UPDATE holds SET state = 'executing', lease_hash = :lease_hash,
        lease_expires_at = clock_timestamp() + lease_ms * interval '1 millisecond'
    WHERE tenant_id = :tenant_id AND hold_id = :hold_id AND digest = :digest AND state = 'held' AND expires_at > clock_timestamp()
    RETURNING lease_ms, action
""")

_SETTLED_KIND = {"committed": "commit", "voided": "void", "expired": "expire"}


@dataclass(frozen=True, slots=True)
class Redemption:
    """What the one who redeems a permit gets.

    Attributes:
        lease_token: Fencing token: whoever holds it, and nobody else, may go outside and store the outcome.
        lease_ms: For how long.
        action: Canonical bytes of what to execute.
    """

    lease_token: bytes
    lease_ms: int
    action: bytes


class Ledger:
    """Grants, moves and settles holds."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def reserve(self, reservation: Reservation) -> Decision:
        """Records a decision and, for an allow, takes the hold: one transaction (LAW 2).

        The same key with the same digest gets the same answer. With another digest, what is still `held` is voided and
        superseded; anything later is refused with an alarm.

        Raises:
            FactsChanged: What the evaluator read is no longer so; nothing was written.
            RunUnknown: There is no such run in the tenant.
        """
        key = reservation.key
        async with transaction(self._engine, key.tenant_id) as connection:
            caps = await self._caps(connection, reservation)
            run = await repository.lock_run(connection, key.tenant_id, key.run_id)
            if run is None:
                raise RunUnknown(f"there is no run {key.run_id}")
            standing = await repository.lock_try(connection, key)
            if standing is not None and standing.digest == reservation.digest:
                return _answer_again(standing, run.timeline_seq)
            if (run.history_version, run.role_version) != (reservation.versions.history, reservation.versions.role):
                raise FactsChanged
            if run.ended:
                return await _refuse(connection, reservation, "run.ended", "the run has ended", run.now)
            superseded: UUID | None = None
            if standing is not None:
                if standing.state not in (None, "held"):
                    message = f"this step was executed before with other arguments (hold {standing.hold_id})"
                    return await _refuse(connection, reservation, HoldConflict.code, message, run.now)
                superseded = standing.hold_id
                await self._supersede(connection, reservation, standing.decision_id, standing.hold_id)
                # the superseded hold's amounts are free again; asked for by id, so that no lock is new
                caps = await repository.lock_caps(connection, key.tenant_id, [cap.cap_id for cap in caps])
            return await _decide(connection, reservation, caps, run.now, superseded)

    @staticmethod
    async def _caps(connection: AsyncConnection, reservation: Reservation) -> list[CapView]:
        caps = await repository.lock_caps_of_try(
            connection, reservation.key, reservation.scopes, sorted(reservation.amounts)
        )
        if reservation.funded:
            return [cap for cap in caps if cap.unit != NANO_USD or cap.scope.kind == "run"]
        return caps

    async def _supersede(
        self, connection: AsyncConnection, reservation: Reservation, decision_id: UUID, hold_id: UUID | None
    ) -> None:
        key = reservation.key
        if hold_id is not None:
            # INVARIANT (lock order): its caps are locked already. Had the hold come only after they were, the run's history
            # would be newer than what the evaluator read, and nobody would get here.
            await settle_in(
                connection,
                Settlement(
                    key.tenant_id, hold_id, "held", False, False, "voided", {}, "run", "superseded by other arguments"
                ),
            )
        await repository.supersede(connection, key.tenant_id, decision_id, hold_id)

    async def redeem(self, tenant_id: UUID, hold_id: UUID, digest: bytes) -> Redemption:
        """Moves a hold from `held` to `executing`, once (LAW 1); see `redeem_in`."""
        async with transaction(self._engine, tenant_id, durable=False) as connection:
            return await redeem_in(connection, tenant_id, hold_id, digest)

    async def read_hold(self, tenant_id: UUID, hold_id: UUID) -> HoldView | None:
        """Returns a hold with its outcome, if there is such a hold in the tenant."""
        async with transaction(self._engine, tenant_id) as connection:
            return await repository.read_hold(connection, tenant_id, hold_id)

    async def settle(self, settlement: Settlement) -> int:
        """Moves a hold to its next state, with balances, journal, timeline and transcript: one transaction (LAW 4).

        Returns:
            Number of the run's newest timeline event, or 0 if there is none new.

        Raises:
            FactsChanged: The hold is not as the caller saw it; nothing was written.
        Conflict: No hold may go that way (LAW 4); nothing was written.
        """
        async with transaction(self._engine, settlement.tenant_id) as connection:
            return await settle_in(connection, settlement)


async def redeem_in(connection: AsyncConnection, tenant_id: UUID, hold_id: UUID, digest: bytes) -> Redemption:
    """Moves a hold from `held` to `executing`, once (LAW 1), in the caller's transaction.

    Its commit need not wait for the disk: should PostgreSQL crash and forget it, the lease is forgotten too and
    `begin_outward` fails, so nothing has gone outside.

    Raises:
        PermitUsed: The hold is not held any more, has expired, or is for other arguments.
    """
    lease_token = secrets.token_bytes(32)
    parameters = {
        "tenant_id": tenant_id,
        "hold_id": hold_id,
        "digest": digest,
        "lease_hash": hashlib.sha256(lease_token).digest(),
    }
    row = (await connection.execute(_REDEEM, parameters)).one_or_none()
    if row is None:
        raise PermitUsed("the permit was used, has expired, or its hold is gone", remedy="reserve anew")
    return Redemption(lease_token, row.lease_ms, row.action)


async def settle_in(connection: AsyncConnection, settlement: Settlement) -> int:
    """Settles in the caller's transaction; see `Ledger.settle`."""
    tenant_id = settlement.tenant_id
    legs = await repository.lock_legs(connection, tenant_id, settlement.hold_id)
    locked = await repository.lock_hold_to_settle(connection, tenant_id, settlement.hold_id)
    seen = (settlement.seen_state, settlement.seen_outcome, settlement.seen_outward)
    if locked is None or (locked.state, locked.has_outcome, locked.went_outward) != seen:
        raise FactsChanged
    if not core.may_settle(locked.kind, locked.state, settlement.to, went_outward=locked.went_outward):
        raise Conflict(f"hold {settlement.hold_id} is {locked.state} and cannot become {settlement.to}")
    if settlement.actual and settlement.to != "committed":
        raise Conflict(f"hold {settlement.hold_id} cannot become {settlement.to} and cost something")
    kind, cost, changes = "", None, {}
    if settlement.to != "unknown":
        kind, cost = _SETTLED_KIND[settlement.to], settlement.actual.get(NANO_USD, 0)
        changes = {cap.cap_id: core.settle_leg(cap, held, settlement.actual.get(cap.unit, 0)) for cap, held in legs}
    for entry in settlement.entries:
        await transcript.write(connection, tenant_id, locked.run_id, entry.parent_id, entry.content)
    return await repository.write_settlement(
        connection, settlement, locked.run_id, changes, kind=kind, cost_nano_usd=cost
    )


def _answer_again(standing: object, timeline_seq: int) -> Decision:
    row: Mapping[str, object] = standing._mapping  # type: ignore[attr-defined]  # a Row of text() has no types
    reply = row["reply"]
    assert isinstance(reply, dict)
    expires = reply.get("approval_expires_at")
    replayed = row["state"] not in (None, "held")
    return Decision(
        verdict="replayed" if replayed else row["verdict"],  # type: ignore[arg-type]  # a CHECK allows no other
        decision_id=row["decision_id"],  # type: ignore[arg-type]  # typed by the column
        record_hash=row["record_hash"],  # type: ignore[arg-type]  # typed by the column
        code=reply["code"],
        message=reply["message"],
        rule_id=reply["rule_id"],
        hold_id=row["hold_id"],  # type: ignore[arg-type]  # typed by the column
        hold_expires_at=row["expires_at"],  # type: ignore[arg-type]  # typed by the column
        max_cost_nano_usd=row["max_cost_nano_usd"] or 0,  # type: ignore[arg-type]  # typed by the column
        lease_ms=row["lease_ms"] or 0,  # type: ignore[arg-type]  # typed by the column
        approval_id=row["approval_id"],  # type: ignore[arg-type]  # typed by the column
        approval_expires_at=datetime.fromisoformat(expires) if expires else None,
        retryable=reply["retryable"],
        timeline_seq=timeline_seq,
    )


def _legs_json(caps: Sequence[CapView], amounts: Mapping[str, int]) -> list[JsonValue]:
    return [
        {
            "cap_id": str(cap.cap_id),
            "scope": [cap.scope.kind, cap.scope.scope_id],
            "unit": cap.unit,
            "limit": None if cap.unlimited else str(cap.limit_amount),
            "reserved": str(cap.reserved),
            "committed": str(cap.committed),
            "debt": str(cap.debt),
            "amount": str(amounts[cap.unit]),
        }
        for cap in caps
    ]


async def _decide(
    connection: AsyncConnection,
    reservation: Reservation,
    caps: Sequence[CapView],
    now: datetime,
    superseded: UUID | None,
) -> Decision:
    """Decides under lock, and writes hold, record, approval and timeline."""
    evaluated, key = reservation.evaluated, reservation.key
    verdict, code, message, retryable = evaluated.verdict, evaluated.code, evaluated.message, False
    consumes = reservation.consumes_approval_id
    if verdict == "allow":
        refusal = core.refusal_for(caps, reservation.amounts, funded=reservation.funded)
        if refusal is not None:
            verdict, code, message, retryable = "deny", refusal.code, refusal.message, refusal.outstanding
        elif consumes and not await repository.approval_is_free(connection, key, consumes):
            verdict, code, message = "deny", "approval.consumed", "the approval was used already"
    allowed, legs = verdict == "allow", list[core.Leg]()
    expires_at = now + timedelta(milliseconds=reservation.hold_ms)
    request = reservation.approval if verdict == "needs_approval" else None
    if allowed:
        legs = core.legs_for(caps, reservation.amounts)
        if consumes:
            await repository.consume_approval(connection, key.tenant_id, consumes, reservation.decision_id)
    if request is not None:
        await repository.insert_approval(connection, reservation, request)
    decision = Decision(
        verdict=verdict,
        decision_id=reservation.decision_id,
        record_hash=b"",
        code=code,
        message=message,
        rule_id=evaluated.rule_id,
        hold_id=reservation.hold_id if allowed else None,
        hold_expires_at=expires_at if allowed else None,
        max_cost_nano_usd=reservation.amounts.get(NANO_USD, 0),
        lease_ms=reservation.lease_ms,
        approval_id=request.approval_id if request else None,
        approval_expires_at=request.expires_at if request else None,
        retryable=retryable,
        superseded=superseded,
    )
    balances = _legs_json(caps, reservation.amounts)
    return await _record(connection, reservation, decision, balances, now, legs=legs, expires_at=expires_at)


async def _refuse(
    connection: AsyncConnection, reservation: Reservation, code: str, message: str, now: datetime
) -> Decision:
    """Refuses without touching what stands for the key: recorded as an alarm (rule 1)."""
    decision = Decision("deny", reservation.decision_id, b"", code, message)
    return await _record(connection, reservation, decision, [], now, standing=False, expires_at=now)


async def _record(
    connection: AsyncConnection,
    reservation: Reservation,
    decision: Decision,
    balances: list[JsonValue],
    now: datetime,
    *,
    expires_at: datetime,
    legs: Sequence[core.Leg] = (),
    standing: bool = True,
) -> Decision:
    """Writes the decision record, its hold and its timeline events; `standing` records answer their key from now on."""
    key = reservation.key
    part_b = record.part_b(
        decision_id=decision.decision_id,
        time_ms=int(now.timestamp() * 1000),
        verdict=decision.verdict,
        reason_codes=(decision.code,),
        hold_id=decision.hold_id,
        legs=balances,
    )
    record_hash = record.record_hash(reservation.part_a, part_b)
    approval_expires_at = decision.approval_expires_at
    reply: dict[str, JsonValue] = {
        "code": decision.code,
        "message": decision.message,
        "rule_id": decision.rule_id,
        "retryable": decision.retryable,
        "approval_expires_at": approval_expires_at.isoformat() if approval_expires_at else None,
    }
    seq = await repository.write_decision(
        connection,
        reservation,
        {
            "decision_id": decision.decision_id,
            "key_step": key.step if standing else None,
            "key_try": key.try_number if standing else None,
            "verdict": decision.verdict,
            "reason_codes": [decision.code],
            "hold_id": decision.hold_id,
            "approval_id": decision.approval_id or reservation.consumes_approval_id,
            "reply": jsonb(reply),
            "part_b": part_b,
            "record_hash": record_hash,
        },
        legs=legs,
        expires_at=expires_at,
        status="waiting" if decision.verdict == "needs_approval" else "running",
        timeline=_timeline(reservation, decision, standing=standing),
    )
    return replace(decision, record_hash=record_hash, timeline_seq=seq)


def _timeline(reservation: Reservation, decision: Decision, *, standing: bool) -> list[Event]:
    key = reservation.key
    data: dict[str, JsonValue] = {
        "decision_id": str(decision.decision_id),
        "step": key.step,
        "try": key.try_number,
        "kind": reservation.kind,
        "tool": reservation.tool,
        "verdict": decision.verdict,
        "code": decision.code,
        "message": decision.message,
        "rule": decision.rule_id,
        "hold_id": str(decision.hold_id) if decision.hold_id else None,
        "held_nano_usd": decision.max_cost_nano_usd if decision.hold_id else 0,
    }
    timeline = [Event("decision", "decision.made" if standing else "decision.alarm", data)]
    if decision.verdict == "needs_approval":
        expires_at = decision.approval_expires_at
        timeline.append(
            Event(
                "approval",
                "approval.requested",
                {
                    "approval_id": str(decision.approval_id),
                    "step": key.step,
                    "tool": reservation.tool,
                    "message": decision.message,
                    "expires_at": expires_at.isoformat() if expires_at else None,
                },
            )
        )
    return timeline


async def set_limit(
    connection: AsyncConnection,
    tenant_id: UUID,
    scope: Scope,
    unit: str,
    *,
    limit_amount: int,
    unlimited: bool,
    actor: str,
    reason: str,
) -> UUID:
    """Sets a cap's limit, making the cap if need be; journalled with actor and reason. Returns the cap's id.

    Raising pays off debt first; lowering stops new holds and never running ones.
    """
    cap_id = await repository.ensure_cap(connection, tenant_id, new_id(), scope, unit)
    cap = await repository.lock_cap(connection, tenant_id, cap_id)
    assert cap is not None  # made or found one line above, and caps are never deleted
    change = core.change_limit(cap, limit_amount, unlimited=unlimited)
    await repository.set_limit(
        connection,
        tenant_id,
        cap_id,
        limit_amount=limit_amount,
        unlimited=unlimited,
        change=change,
        actor=actor,
        reason=reason,
    )
    return cap_id


async def resolve_unknown(
    connection: AsyncConnection,
    tenant_id: UUID,
    hold_id: UUID,
    *,
    happened: bool,
    cost_nano_usd: int | None,
    actor: str,
    reason: str,
) -> HoldView:
    """Settles, on a person's word, a hold whose outcome is unknown.

    Args:
        connection: The caller's transaction.
        tenant_id: The tenant.
        hold_id: The hold.
        happened: Whether the action took effect.
        cost_nano_usd: What it cost; `None` = the whole hold if it happened, nothing if not.
        actor: Who says so.
        reason: How they know.

    Raises:
        NotFound: No such hold in this tenant.
        Conflict: Its outcome is not unknown.
    """
    hold = await repository.read_hold(connection, tenant_id, hold_id)
    if hold is None:
        raise NotFound(f"there is no hold {hold_id}")
    if hold.state != "unknown":
        done = "is settled" if hold.state in SETTLED_STATES else "is not lost"
        raise Conflict(f"hold {hold_id} is {hold.state}: it {done}", remedy="only unknown holds can be resolved")
    cost = cost_nano_usd if cost_nano_usd is not None else (hold.max_cost_nano_usd if happened else 0)
    settled = happened or cost > 0
    # what nobody measured, such as tokens, counts as held: never a silent refund (LAW 4)
    held = await repository.held_by_unit(connection, tenant_id, hold_id) if settled else {}
    try:
        await settle_in(
            connection,
            Settlement(
                tenant_id,
                hold_id,
                "unknown",
                hold.outcome is not None,
                hold.went_outward,
                "committed" if settled else "voided",
                {**held, NANO_USD: cost} if settled else {},
                actor,
                reason,
                (
                    Event(
                        "budget",
                        "hold.resolved",
                        {
                            "hold_id": str(hold_id),
                            "step": hold.key.step,
                            "happened": happened,
                            "cost_nano_usd": cost,
                            "reason": reason,
                        },
                    ),
                ),
            ),
        )
    except FactsChanged:
        raise Conflict(f"hold {hold_id} was settled just now", remedy="look at it again") from None
    resolved = await repository.read_hold(connection, tenant_id, hold_id)
    assert resolved is not None  # read above, and holds are never deleted
    return resolved
