"""Guaranteed budgets: a hold on the caps above a run, taken at admission and returned when the run has nothing open any more.

While it stands, the run's actions count against the run's own money cap only; the caps above have given it all at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.ids import new_id
from holdfast.ledger import core
from holdfast.ledger.types import CapView, Scope
from holdfast_verdict.canonical import JsonValue, canonical_bytes, digest

# a window that has ended is read as the one that begins with the next hold: nothing of it is used, but for the buckets that would still
# count in a rolling one
_READ_APPLICABLE = text("""
    SELECT c.cap_id, c.scope_kind, c.scope_id, c.unit, c.window_kind, c.unlimited, c.limit_amount,
           CASE WHEN c.ends_at > now() THEN c.ceiling ELSE greatest(c.limit_amount, o.reserved + o.committed) END,
           CASE WHEN c.ends_at > now() THEN c.carried_reserved + c.reserved ELSE o.reserved END,
           CASE WHEN c.ends_at > now() THEN c.carried_committed + c.committed ELSE o.committed END,
           CASE WHEN c.ends_at > now() THEN c.carried_debt + c.debt ELSE o.debt END
    FROM caps c, LATERAL (
        SELECT CAST(coalesce(sum(b.reserved), 0) AS bigint) AS reserved, CAST(coalesce(sum(b.committed), 0) AS bigint) AS committed,
               CAST(coalesce(sum(b.debt), 0) AS bigint) AS debt
        FROM caps b WHERE c.rolling_hours IS NOT NULL AND c.ends_at <= now()
          AND b.tenant_id = c.tenant_id AND b.scope_kind = c.scope_kind AND b.scope_id = c.scope_id AND b.unit = c.unit
          AND b.window_kind = c.window_kind
          AND b.ends_at > date_trunc('hour', now(), 'UTC') - make_interval(hours => c.rolling_hours)) o
    WHERE c.tenant_id = :tenant_id AND c.unit = ANY(:units) AND c.newest
      AND (c.scope_kind, c.scope_id) IN (SELECT * FROM unnest(CAST(:kinds AS text[]), CAST(:ids AS text[])))
    ORDER BY c.cap_id
""")

_LOCK_FOR_BUDGET = """
    SELECT cap_id, scope_kind, scope_id, unit, window_kind, unlimited, limit_amount, ceiling, reserved, committed, debt
    FROM lock_for_budget($1::ledger_scope[])
"""

_TAKE_BUDGET = text("""
    SELECT take_budget(:tenant_id, :run_id, :hold_id, :decision_id, CAST(:cap_ids AS uuid[]), :amount, :action, :digest, :life_ms)
""")

_LOCK_FOR_RETURN = text("SELECT lock_for_return(:tenant_id, :run_id)")
_RETURN_BUDGET = text("SELECT return_budget(:tenant_id, :run_id)")


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
    return [CapView(row[0], Scope(row[1], row[2]), *row[3:]) for row in rows]


async def lock_for_budget(connection: AsyncConnection, tenant_id: UUID, scopes: Sequence[Scope]) -> list[CapView]:
    """Locks the money caps that a run's budget would be taken from, before anything of a run is locked."""
    raw: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
    rows = await raw.fetch(_LOCK_FOR_BUDGET, [(tenant_id, scope.kind, scope.scope_id) for scope in scopes])
    return [CapView(row[0], Scope(row[1], row[2]), *row[3:]) for row in rows]


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
        caps: What `lock_for_budget` returned, and what was judged to have that much left.
        amount_nano_usd: The budget.
        decision_id: The admission's decision.
        life_ms: The run's deadline, in milliseconds from now.
    """
    action: Mapping[str, JsonValue] = {
        "kind": core.RUN_BUDGET,
        "args": {"run": str(run_id), "nano_usd": str(amount_nano_usd)},
    }
    hold_id = new_id()
    await connection.execute(
        _TAKE_BUDGET,
        {
            "tenant_id": tenant_id,
            "run_id": run_id,
            "hold_id": hold_id,
            "decision_id": decision_id,
            "cap_ids": [cap.cap_id for cap in caps],
            "amount": amount_nano_usd,
            "action": canonical_bytes(action),
            "digest": digest(action),
            "life_ms": life_ms,
        },
    )
    return hold_id


async def lock_for_return(connection: AsyncConnection, tenant_id: UUID, run_id: UUID) -> None:
    """Locks every cap that ending a run and returning its budget touches, in the one lock order.

    Call it first in a transaction that ends a run and then calls `return_budget`.
    """
    await connection.execute(_LOCK_FOR_RETURN, {"tenant_id": tenant_id, "run_id": run_id})


async def return_budget(connection: AsyncConnection, tenant_id: UUID, run_id: UUID) -> bool:
    """Settles a guaranteed budget once the run has ended: what it spent is committed above, the rest returns.

    As long as a hold of the run is open (its outcome may be unknown for a day) the budget stays: returned before, the
    caps above would forget what that hold may still cost (LAW 4). A settlement with `returns_budget` does it then.

    Args:
        connection: A transaction that has locked nothing yet but by `lock_for_return`.
        tenant_id: The tenant.
        run_id: The run.

    Returns:
        Whether the run holds no budget any more.
    """
    await lock_for_return(connection, tenant_id, run_id)
    returned: bool = (await connection.execute(_RETURN_BUDGET, {"tenant_id": tenant_id, "run_id": run_id})).scalar_one()
    return returned
