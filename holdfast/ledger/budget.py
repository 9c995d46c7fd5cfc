"""Guaranteed budgets: a hold on the caps above a run, taken at admission and returned when the run has nothing open any more.

While it stands, the run's actions count against the run's own money cap only; the caps above have given it all at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.ids import new_id
from holdfast.ledger import core, repository
from holdfast.ledger.core import Refusal
from holdfast.ledger.service import settle_in
from holdfast.ledger.types import (
    NANO_USD,
    CapView,
    Event,
    FactVersions,
    Reservation,
    Scope,
    Settlement,
    TryKey,
)
from holdfast_verdict.canonical import JsonValue, canonical_bytes, digest
from holdfast_verdict.decide import Verdict

_READ_APPLICABLE = text("""
    SELECT cap_id, scope_kind, scope_id, unit, window_kind, unlimited, limit_amount, ceiling, reserved, committed, debt
    FROM caps
    WHERE tenant_id = :tenant_id AND unit = ANY(:units) AND starts_at <= now() AND now() < ends_at
      AND (scope_kind, scope_id) IN (SELECT * FROM unnest(CAST(:kinds AS text[]), CAST(:ids AS text[])))
    ORDER BY cap_id
""")

_LATER = text("SELECT now() + CAST(:ms AS bigint) * interval '1 millisecond'")

_SET_BUDGET_HOLD = text("UPDATE runs SET budget_hold_id = :hold_id WHERE tenant_id = :tenant_id AND run_id = :run_id")

# Whatever a run may settle last has to lock, in one statement and so in the one order: the budget's caps, its own, the hold's.
_LOCK_ALL = text("""
    SELECT c.cap_id FROM caps c
    WHERE c.tenant_id = :tenant_id AND (
        (c.scope_kind = 'run' AND c.scope_id = CAST(CAST(:run_id AS uuid) AS text))
        OR c.cap_id IN (
            SELECT l.cap_id FROM hold_legs l JOIN runs r ON r.tenant_id = l.tenant_id
            WHERE l.tenant_id = :tenant_id AND r.run_id = :run_id AND l.hold_id IN (r.budget_hold_id, CAST(:hold_id AS uuid))))
    ORDER BY c.cap_id FOR NO KEY UPDATE OF c
""")

_STANDING = text("""
    SELECT h.hold_id, h.state, r.ended_at IS NOT NULL AS ended FROM runs r
    JOIN holds h ON h.tenant_id = r.tenant_id AND h.hold_id = r.budget_hold_id
    WHERE r.tenant_id = :tenant_id AND r.run_id = :run_id
""")

_SPENT = text("""
    SELECT reserved, committed + debt FROM caps
    WHERE tenant_id = :tenant_id AND scope_kind = 'run' AND scope_id = CAST(CAST(:run_id AS uuid) AS text) AND unit = 'nano_usd'
""")


async def read_applicable_caps(
    connection: AsyncConnection, tenant_id: UUID, scopes: Sequence[Scope], units: Sequence[str]
) -> list[CapView]:
    """Returns the caps in force now on any of the scopes, without locking them: for judging, not for taking."""
    rows = await connection.execute(
        _READ_APPLICABLE,
        {
            "tenant_id": tenant_id,
            "units": list(units),
            "kinds": [scope.kind for scope in scopes],
            "ids": [scope.scope_id for scope in scopes],
        },
    )
    return [
        CapView(row[0], Scope(row[1], row[2]), row[3], row[4], row[5], row[6], row[7], row[8], row[9], row[10])
        for row in rows
    ]


async def lock_for_budget(
    connection: AsyncConnection, tenant_id: UUID, run_id: UUID, scopes: Sequence[Scope], amount_nano_usd: int
) -> tuple[list[CapView], Refusal | None]:
    """Locks the money caps above a run and says whether they can give it that budget. Before anything of the run is locked."""
    caps = await repository.lock_caps_of_try(connection, TryKey(tenant_id, run_id, 0, 0), scopes, [NANO_USD])
    return caps, core.refusal_for(caps, {NANO_USD: amount_nano_usd})


async def admit_budget(
    connection: AsyncConnection,
    tenant_id: UUID,
    run_id: UUID,
    caps: Sequence[CapView],
    amount_nano_usd: int,
    *,
    decision_id: UUID,
    life_ms: int,
) -> UUID:
    """Takes a run's guaranteed budget and returns the hold: step 0, try 0 of the run.

    Args:
        connection: The admitting transaction.
        tenant_id: The tenant.
        run_id: The run; its row is written already.
        caps: What `lock_for_budget` returned, without a refusal.
        amount_nano_usd: The budget.
        decision_id: The admission's decision.
        life_ms: The run's deadline, in milliseconds from now.
    """
    action: Mapping[str, JsonValue] = {
        "kind": core.RUN_BUDGET,
        "args": {"run": str(run_id), "nano_usd": str(amount_nano_usd)},
    }
    amounts = {NANO_USD: amount_nano_usd}
    reservation = Reservation(
        key=TryKey(tenant_id, run_id, 0, 0),
        decision_id=decision_id,
        hold_id=new_id(),
        action=canonical_bytes(action),
        digest=digest(action),
        kind=core.RUN_BUDGET,
        tool="",
        idempotent=False,
        evaluated=Verdict("allow", "admission.affordable", "the caps above the run can give it its budget"),
        part_a=b"",
        versions=FactVersions(0, 0),
        amounts=amounts,
        scopes=(),
        estimate={},
        lease_ms=1,
        hold_ms=life_ms,
    )
    expires_at: datetime = (await connection.execute(_LATER, {"ms": life_ms})).scalar_one()
    await repository.insert_hold(connection, reservation, core.legs_for(caps, amounts), expires_at)
    await connection.execute(
        _SET_BUDGET_HOLD, {"tenant_id": tenant_id, "run_id": run_id, "hold_id": reservation.hold_id}
    )
    return reservation.hold_id


async def lock_for_return(
    connection: AsyncConnection, tenant_id: UUID, run_id: UUID, hold_id: UUID | None = None
) -> None:
    """Locks every cap that settling a hold of an ended run and returning its budget touches, in the one lock order.

    Call it first in a transaction that settles a hold of a run and then calls `return_budget`.
    """
    await connection.execute(_LOCK_ALL, {"tenant_id": tenant_id, "run_id": run_id, "hold_id": hold_id})


async def return_budget(connection: AsyncConnection, tenant_id: UUID, run_id: UUID) -> bool:
    """Settles a guaranteed budget once the run has ended: what it spent is committed above, the rest returns.

    As long as a hold of the run is open (its outcome may be unknown for a day) the budget stays: returned before, the
    caps above would forget what that hold may still cost (LAW 4). Whoever settles the last one calls this again.

    Args:
        connection: A transaction that has locked nothing yet but by `lock_for_return`.
        tenant_id: The tenant.
        run_id: The run.

    Returns:
        Whether the run holds no budget any more.
    """
    await lock_for_return(connection, tenant_id, run_id)
    parameters = {"tenant_id": tenant_id, "run_id": run_id}
    standing = (await connection.execute(_STANDING, parameters)).one_or_none()
    if standing is None or standing.state != "held":
        return True
    if not standing.ended:
        return False
    reserved, spent = (await connection.execute(_SPENT, parameters)).one()
    if reserved > 0:
        return False
    await settle_in(
        connection,
        Settlement(
            tenant_id=tenant_id,
            hold_id=standing.hold_id,
            seen_state="held",
            seen_outcome=False,
            seen_outward=False,
            to="committed",
            actual={NANO_USD: spent},
            actor="run",
            reason="the run has ended: its budget is settled at what it spent",
            events=(Event("budget", "budget.returned", {"hold_id": str(standing.hold_id), "spent_nano_usd": spent}),),
        ),
    )
    return True


async def settle_and_return(connection: AsyncConnection, settlement: Settlement, run_id: UUID) -> int:
    """Settles a hold, and returns the run's budget if the run has ended and this was its last open hold.

    Returns:
        Number of the run's newest timeline event that this wrote, or 0.
    """
    await lock_for_return(connection, settlement.tenant_id, run_id, settlement.hold_id)
    seq = await settle_in(connection, settlement)
    await return_budget(connection, settlement.tenant_id, run_id)
    return seq
