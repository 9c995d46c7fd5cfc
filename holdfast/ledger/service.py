"""The ledger's operations. What they do is in the functions of the schema; here they are asked for, many callers at a time.

Every judgement (a verdict, a cost) is made beforehand by the caller, from facts whose versions are compared under lock.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.database.engine import transaction
from holdfast.errors import Conflict, NotFound, PermitInvalid, PermitUsed, RunUnknown, StopActive
from holdfast.ledger import members, repository
from holdfast.ledger.lanes import Lanes
from holdfast.ledger.members import RedeemAnswer, ReserveAnswer, SettleAnswer
from holdfast.ledger.types import (
    CALLS,
    INPUT_TOKENS,
    NANO_USD,
    SETTLED_STATES,
    TOKENS,
    Decision,
    Event,
    FactsChanged,
    HoldView,
    Redemption,
    Reservation,
    Scope,
    Settlement,
    WindowKind,
)
from holdfast.transcript import TranscriptBroken

_RESERVE = "SELECT * FROM ledger_reserve($1::reserve_member[], $2::ledger_scope[], $3::text[])"
_SETTLE = "SELECT * FROM ledger_settle($1::settle_member[])"
_SET_LIMIT = text("""
    SELECT set_limit(:tenant_id, :kind, :scope_id, :unit, :window, :limit_amount, :unlimited, CAST(:thresholds AS smallint[]), :actor,
                     :reason)
""")
_LOCK_HISTORY = "SELECT tenant_id, version FROM lock_history($1::uuid[])"
_RAISE_HISTORY = "SELECT raise_history($1::uuid[])"
_REDEEM = "SELECT * FROM ledger_redeem($1::redeem_member[])"


_CHANGED = ReserveAnswer(
    0, "changed", None, "", None, False, None, datetime.min, b"", None, 0, (), None
)  # nothing of it but the status is read


class Ledger:
    """Grants, moves and settles holds.

    Args:
        engine: Database of the process. Which operations it may do is a matter of its role.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.reserving: Lanes[members.Reserve, ReserveAnswer] = Lanes(engine, _reserve)
        self.settling: Lanes[Settlement, SettleAnswer] = Lanes(engine, _settle)
        self.redeeming: Lanes[members.Redeem, RedeemAnswer] = Lanes(engine, _redeem)

    async def reserve(self, reservation: Reservation) -> Decision:
        """Records a decision and, for an allow, takes the hold: one transaction (LAW 2).

        The same key with the same digest gets the same answer. With another digest, what is still `held` is voided and
        superseded; anything later is refused with an alarm.

        Raises:
            FactsChanged: What the evaluator read is no longer so; nothing was written.
            RunUnknown: There is no such run in the tenant.
            LedgerBusy: Too many wait already; nothing was written.
        """
        key = reservation.key
        answer = await self.reserving.submit(key.tenant_id, members.Reserve(reservation))
        while answer.status == "alone":
            answer = await self.reserving.alone(members.Reserve(reservation, tuple(answer.named_caps)))
        if answer.status == "no_run":
            raise RunUnknown(f"there is no run {key.run_id}")
        if answer.status == "changed":
            raise FactsChanged
        if answer.status == "again":
            return members.decided_before(answer)
        return members.decision(reservation, answer)

    async def redeem(self, tenant_id: UUID, hold_id: UUID, digest: bytes) -> Redemption:
        """Moves a hold from `held` to `executing`, once (LAW 1).

        Its commit need not wait for the disk: should PostgreSQL crash and forget it, the lease is forgotten too and
        `begin_outward` fails, so nothing has gone outside.

        Raises:
            PermitUsed: The hold is not held any more, has expired, or is for other arguments.
            PermitInvalid: The run has ended or was cancelled.
            StopActive: An emergency stop is on.
        """
        lease_token = secrets.token_bytes(32)
        lease_hash = hashlib.sha256(lease_token).digest()
        answer = await self.redeeming.submit(tenant_id, members.Redeem(tenant_id, hold_id, digest, lease_hash))
        if answer.status == "ended":
            raise PermitInvalid("the run has ended")
        if answer.status == "cancelled":
            raise PermitInvalid("the run was cancelled")
        if answer.status == "stopped":
            raise StopActive(f"an emergency stop is on: {answer.reason}", remedy="reserve anew when it is lifted")
        if answer.status != "redeemed":
            raise PermitUsed("the permit was used, has expired, or its hold is gone", remedy="reserve anew")
        return Redemption(lease_token, answer.lease_ms, answer.action)

    async def settle(self, settlement: Settlement) -> int:
        """Moves a hold to its next state, with balances, journal, rollups, timeline and transcript: one transaction (LAW 4).

        Returns:
            Number of the run's newest timeline event, or 0 if there is none new.

        Raises:
            FactsChanged: The hold is not as the caller saw it; nothing was written.
            Conflict: No hold may go that way (LAW 4); nothing was written.
            TranscriptBroken: The run has no such entry to go on from; nothing was written.
            LedgerBusy: Too many wait already; nothing was written.
        """
        return _settled(settlement, await self.settling.submit(settlement.tenant_id, settlement))

    async def read_hold(self, tenant_id: UUID, hold_id: UUID) -> HoldView | None:
        """Returns a hold with its outcome, if there is such a hold in the tenant."""
        async with transaction(self._engine, tenant_id) as connection:
            return await repository.read_hold(connection, tenant_id, hold_id)


def _settled(settlement: Settlement, answer: SettleAnswer) -> int:
    if answer.status == "changed":
        raise FactsChanged
    if answer.status == "conflict":
        raise Conflict(f"hold {settlement.hold_id} is {answer.state} and cannot become {settlement.to} like that")
    if answer.status == "no_entry":
        raise TranscriptBroken("the run has no such transcript entry to go on from")
    return answer.seq if settlement.events else 0


async def settle_in(connection: AsyncConnection, settlement: Settlement) -> int:
    """Settles in the caller's transaction; see `Ledger.settle`."""
    raw: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
    return _settled(settlement, (await _settle(raw, [settlement]))[0])


async def _reserve(connection: asyncpg.Connection, batch: Sequence[members.Reserve]) -> Sequence[ReserveAnswer]:
    if all(member.reservation.history_head is None for member in batch):
        return await _send_reserve(connection, batch)
    return await _reserve_by_history(connection, batch)


async def _send_reserve(connection: asyncpg.Connection, batch: Sequence[members.Reserve]) -> Sequence[ReserveAnswer]:
    rows, scopes, units = members.reserve_rows(batch)
    return [ReserveAnswer(*row) for row in await connection.fetch(_RESERVE, rows, scopes, units)]


async def _reserve_by_history(
    connection: asyncpg.Connection, batch: Sequence[members.Reserve]
) -> Sequence[ReserveAnswer]:
    """Reserves where what other runs did has a part in it: whose tenant's history has changed since it was read, decides anew.

    INVARIANT: of the decisions of a tenant that count one another, one at a time is made, and each has seen the one before.
    """
    heads = {member.reservation.key.tenant_id for member in batch if member.reservation.history_head is not None}
    async with connection.transaction():
        versions = {row[0]: row[1] for row in await connection.fetch(_LOCK_HISTORY, list(heads))}
        answers: list[ReserveAnswer | None] = []
        sent: list[members.Reserve] = []
        counting: set[UUID] = set()
        for member in batch:
            tenant_id, head = member.reservation.key.tenant_id, member.reservation.history_head
            if head is not None and (tenant_id in counting or versions[tenant_id] != head):
                answers.append(_CHANGED)
                continue
            if _counts(member):
                counting.add(tenant_id)
            answers.append(None)
            sent.append(member)
        replies = await _send_reserve(connection, sent) if sent else ()
        # what has to be asked again, alone, is decided on the history that it has read: nothing of it is in there yet
        raised = {
            member.reservation.key.tenant_id
            for member, reply in zip(sent, replies, strict=True)
            if _counts(member) and reply.status == "decided"
        }
        if raised:
            await connection.execute(_RAISE_HISTORY, list(raised))
    told = iter(replies)
    return [next(told) if answer is None else answer for answer in answers]


def _counts(member: members.Reserve) -> bool:
    """Says whether what is decided may count for decisions of other runs."""
    return member.reservation.history_head is not None and member.reservation.evaluated.verdict == "allow"


async def _settle(connection: asyncpg.Connection, batch: Sequence[Settlement]) -> Sequence[SettleAnswer]:
    return [
        SettleAnswer(*row)
        for row in await connection.fetch(_SETTLE, [members.settle_row(settlement) for settlement in batch])
    ]


async def _redeem(connection: asyncpg.Connection, batch: Sequence[members.Redeem]) -> Sequence[RedeemAnswer]:
    answers = [RedeemAnswer(number, "used", 0, b"", "") for number in range(1, len(batch) + 1)]
    for row in await connection.fetch(_REDEEM, [members.redeem_row(each) for each in batch]):
        answers[row["ord"] - 1] = RedeemAnswer(*row)
    return answers


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
    window: WindowKind = "total",
    thresholds: Sequence[int] | None = None,
) -> UUID:
    """Sets a cap's limit, making the cap if need be; journalled with actor and reason. Returns the cap's id.

    Raising pays off debt first; lowering stops new holds and never running ones.

    Args:
        connection: The caller's transaction.
        tenant_id: The tenant.
        scope: What is limited.
        unit: In what.
        limit_amount: The limit, in the unit.
        unlimited: Whether there is none.
        actor: Who sets it.
        reason: Why.
        window: For how long what was used counts; a window other than `total` is the tenant's, by its time zone.
        thresholds: Percentages that are told once a window when they are reached; None leaves them as they are.
    """
    cap_id: UUID = (
        await connection.execute(
            _SET_LIMIT,
            {
                "tenant_id": tenant_id,
                "kind": scope.kind,
                "scope_id": scope.scope_id,
                "unit": unit,
                "window": window,
                "limit_amount": limit_amount,
                "unlimited": unlimited,
                "thresholds": None if thresholds is None else list(thresholds),
                "actor": actor,
                "reason": reason,
            },
        )
    ).scalar_one()
    return cap_id


def _bounds(hold: HoldView) -> dict[str, int]:
    """Returns what the rollups count of an action that no cap may have counted: one call, and the tokens it can have taken."""
    tokens_in, tokens_out = (hold.estimate.get(f"{way}_tokens_bound", 0) for way in ("input", "output"))
    if not isinstance(tokens_in, int) or not isinstance(tokens_out, int):
        return {CALLS: 1}
    return {CALLS: 1, TOKENS: tokens_in + tokens_out, INPUT_TOKENS: tokens_in}


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
        Conflict: Its outcome is not unknown, or is known by now and settles it.
    """
    hold = await repository.read_hold(connection, tenant_id, hold_id)
    if hold is None:
        raise NotFound(f"there is no hold {hold_id}")
    if hold.state != "unknown":
        done = "is settled" if hold.state in SETTLED_STATES else "is not lost"
        raise Conflict(f"hold {hold_id} is {hold.state}: it {done}", remedy="only unknown holds can be resolved")
    if hold.outcome is not None and hold.outcome.cost_class != "unknown":
        # LAW 4: nobody's word makes undone what was measured
        raise Conflict(
            f"the outcome of hold {hold_id} has come: it is settled by that", remedy="look at it again in a moment"
        )
    cost = cost_nano_usd if cost_nano_usd is not None else (hold.max_cost_nano_usd if happened else 0)
    settled = happened or cost > 0
    # what nobody measured, such as tokens, counts at its worst: never a silent refund (LAW 4)
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
                {**_bounds(hold), **held, NANO_USD: cost} if settled else {},
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
                returns_budget=True,
            ),
        )
    except FactsChanged:
        raise Conflict(f"hold {hold_id} was settled just now", remedy="look at it again") from None
    resolved = await repository.read_hold(connection, tenant_id, hold_id)
    assert resolved is not None  # read above, and holds are never deleted
    return resolved
