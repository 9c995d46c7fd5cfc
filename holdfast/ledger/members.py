"""What goes into the schema's ledger functions and what comes out: one member an operation, in the order of the SQL types' fields."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

import orjson

from holdfast.database.jsonb import jsonb
from holdfast.ids import new_id
from holdfast.ledger.types import NANO_USD, Decision, Event, Reservation, Settlement
from holdfast_verdict.canonical import JsonValue, canonical_bytes, chain


@dataclass(frozen=True, slots=True)
class Reserve:
    """A reservation, with caps to lock besides those in force."""

    reservation: Reservation
    named_caps: tuple[UUID, ...] = ()


class ReserveAnswer(NamedTuple):
    """See the SQL type `reserve_answer`."""

    ord: int
    status: Literal["decided", "again", "changed", "no_run", "alone"]
    verdict: Literal["allow", "deny", "needs_approval"] | None
    code: str
    message: str | None
    retryable: bool
    hold_id: UUID | None
    expires_at: datetime
    record_hash: bytes
    superseded: UUID | None
    seq: int
    named_caps: Sequence[UUID]
    standing: str | None


class SettleAnswer(NamedTuple):
    """See the SQL type `settle_answer`."""

    ord: int
    status: Literal["settled", "changed", "conflict", "no_entry"]
    state: str | None
    seq: int


@dataclass(frozen=True, slots=True)
class Redeem:
    """A permit's hold, and what the fencing token of its lease will hash to."""

    tenant_id: UUID
    hold_id: UUID
    digest: bytes
    lease_hash: bytes


@dataclass(frozen=True, slots=True)
class RedeemAnswer:
    """See the SQL type `redeem_answer`."""

    ord: int
    status: Literal["redeemed", "used", "ended", "cancelled", "stopped"]
    lease_ms: int
    action: bytes
    reason: str | None


def reserve_rows(
    batch: Sequence[Reserve],
) -> tuple[list[tuple[object, ...]], list[tuple[UUID, str, str]], list[str]]:
    """Returns the members of a batch, the scopes that they point at by place, and the units of all of them."""
    # by tenant first: to hash its id takes longer than all the rest
    places: dict[UUID, dict[tuple[str, str], int]] = {}
    listed: list[tuple[UUID, str, str]] = []
    units = sorted({unit for member in batch for unit in member.reservation.amounts})
    rows = []
    for member in batch:
        reservation = member.reservation
        tenant_id = reservation.key.tenant_id
        mine = places.setdefault(tenant_id, {})
        scopes: list[int] = []
        for scope in reservation.scopes:
            name = (scope.kind, scope.scope_id)
            place = mine.get(name)
            if place is None:
                listed.append((tenant_id, *name))
                place = mine[name] = len(listed)
            if place not in scopes:
                scopes.append(place)
        rows.append(_reserve_row(reservation, units, scopes, member.named_caps))
    return rows, listed, units


def _reserve_row(
    reservation: Reservation, units: list[str], scopes: list[int], named_caps: tuple[UUID, ...]
) -> tuple[object, ...]:
    key, evaluated, request = reservation.key, reservation.evaluated, reservation.approval
    if evaluated.verdict != "needs_approval":
        request = None
    events = _expected_events(reservation)
    reply: dict[str, JsonValue] = {
        "code": evaluated.code,
        "message": evaluated.message,
        "rule_id": evaluated.rule_id,
        "retryable": False,
        "approval_expires_at": request.expires_at.isoformat() if request else None,
    }
    return (
        key.tenant_id,
        key.run_id,
        key.step,
        key.try_number,
        reservation.decision_id,
        reservation.hold_id,
        reservation.kind,
        reservation.tool,
        reservation.idempotent,
        reservation.digest,
        reservation.action,
        reservation.part_a,
        hashlib.sha256(reservation.part_a).digest(),
        evaluated.verdict,
        evaluated.code,
        reservation.versions.history,
        reservation.versions.role,
        [reservation.amounts.get(unit) for unit in units],
        scopes,
        reservation.funded,
        jsonb(reservation.estimate),
        reservation.lease_ms,
        reservation.hold_ms,
        reservation.consumes_approval_id,
        request.approval_id if request else None,
        request.binding if request else None,
        request.rule_id if request else None,
        canonical_bytes(request.gate.to_json()).decode() if request else None,
        request.requester_id if request else None,
        request.expires_at if request else None,
        jsonb(reply),
        _event_rows(events),
        list(named_caps),
    )


def _event_rows(events: Sequence[Event]) -> list[tuple[UUID, str, str, str]]:
    """Returns events, each with an id of its own, in the order of `ledger_event`."""
    return [(new_id(), event.channel, event.type, jsonb(event.data)) for event in events]


def _expected_events(reservation: Reservation) -> list[Event]:
    """What the timeline tells if the ledger decides as the evaluator said; a refusal of its own it writes over that."""
    key, evaluated, request = reservation.key, reservation.evaluated, reservation.approval
    allowed = evaluated.verdict == "allow"
    events = [
        Event(
            "decision",
            "decision.made",
            {
                "decision_id": str(reservation.decision_id),
                "step": key.step,
                "try": key.try_number,
                "kind": reservation.kind,
                "tool": reservation.tool,
                "verdict": evaluated.verdict,
                "code": evaluated.code,
                "message": evaluated.message,
                "rule": evaluated.rule_id,
                "hold_id": str(reservation.hold_id) if allowed else None,
                "held_nano_usd": reservation.amounts.get(NANO_USD, 0) if allowed else 0,
            },
        )
    ]
    if evaluated.verdict == "needs_approval":
        events.append(
            Event(
                "approval",
                "approval.requested",
                {
                    "approval_id": str(request.approval_id) if request else None,
                    "step": key.step,
                    "tool": reservation.tool,
                    "message": evaluated.message,
                    "expires_at": request.expires_at.isoformat() if request else None,
                },
            )
        )
    return events


def decision(reservation: Reservation, answer: ReserveAnswer) -> Decision:
    """Returns what was decided just now."""
    assert answer.verdict is not None  # what was decided has a verdict
    evaluated, allowed = reservation.evaluated, answer.verdict == "allow"
    request = reservation.approval if answer.verdict == "needs_approval" else None
    alarm = answer.code in ("run.ended", "hold.key_conflict") and answer.message is not None
    return Decision(
        verdict=answer.verdict,
        decision_id=reservation.decision_id,
        record_hash=answer.record_hash,
        code=answer.code,
        message=evaluated.message if answer.message is None else answer.message,
        rule_id="" if alarm else evaluated.rule_id,
        hold_id=answer.hold_id,
        hold_expires_at=answer.expires_at if allowed else None,
        max_cost_nano_usd=0 if alarm else reservation.amounts.get(NANO_USD, 0),
        lease_ms=0 if alarm else reservation.lease_ms,
        approval_id=request.approval_id if request else None,
        approval_expires_at=request.expires_at if request else None,
        retryable=answer.retryable,
        superseded=answer.superseded,
        timeline_seq=answer.seq,
    )


def decided_before(answer: ReserveAnswer) -> Decision:
    """Returns what was decided about this key when it came first; past `held`, that it is to be settled from what is recorded."""
    standing = orjson.loads(answer.standing or "{}")
    reply, approval_id, hold_id = standing["reply"], standing["approval_id"], standing["hold_id"]
    expires, approval_expires = standing["expires_at"], reply.get("approval_expires_at")
    return Decision(
        verdict=standing["verdict"] if standing["state"] in (None, "held") else "replayed",
        decision_id=UUID(standing["decision_id"]),
        record_hash=bytes.fromhex(standing["record_hash"]),
        code=reply["code"],
        message=reply["message"],
        rule_id=reply["rule_id"],
        hold_id=UUID(hold_id) if hold_id else None,
        hold_expires_at=datetime.fromisoformat(expires) if expires else None,
        max_cost_nano_usd=standing["max_cost_nano_usd"] or 0,
        lease_ms=standing["lease_ms"] or 0,
        approval_id=UUID(approval_id) if approval_id else None,
        approval_expires_at=datetime.fromisoformat(approval_expires) if approval_expires else None,
        retryable=reply["retryable"],
        timeline_seq=answer.seq,
    )


def settle_row(settlement: Settlement) -> tuple[object, ...]:
    """Returns a settlement in the order of `settle_member`."""
    return (
        settlement.tenant_id,
        settlement.hold_id,
        settlement.seen_state,
        settlement.seen_outcome,
        settlement.seen_outward,
        settlement.to,
        list(settlement.actual),
        list(settlement.actual.values()),
        settlement.actor,
        settlement.reason,
        _event_rows(settlement.events),
        [
            (entry.parent_id, chain(entry.parent_id or b"", entry.content), entry.content)
            for entry in settlement.entries
        ],
        settlement.returns_budget,
    )


def redeem_row(redeem: Redeem) -> tuple[object, ...]:
    """Returns a redemption in the order of `redeem_member`."""
    return (redeem.tenant_id, redeem.hold_id, redeem.digest, redeem.lease_hash)
