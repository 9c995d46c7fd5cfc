"""Rolling caps for tests: setting them, letting hours pass, and looking at their buckets."""

from __future__ import annotations

from uuid import UUID

import orjson

from holdfast.database.engine import transaction
from holdfast.ledger import service
from holdfast.ledger.auditor import audit

from .world import Record, Tenant


async def limit(
    tenant: Tenant, amount: int, *, window: str = "3h", kind: str = "tenant", unit: str = "nano_usd", unlimited: bool = False,
    thresholds: list[int] | None = None,
) -> UUID:  # fmt: skip
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        return await service.set_limit(
            connection, tenant.tenant_id, tenant.scope(kind), unit, limit_amount=amount, unlimited=unlimited, window=window,
            thresholds=thresholds, actor="user:test", reason="test",
        )  # fmt: skip


async def pass_hours(tenant: Tenant, hours: int) -> None:
    """Moves every bucket that many hours into the past, as if time had passed."""
    async with tenant.database.superuser.acquire() as connection, connection.transaction():
        # the whole table: to lock the rows that are seen lets a bucket begin that is not, and which then stays where it is
        await connection.execute("LOCK TABLE caps IN EXCLUSIVE MODE")
        rows = await connection.fetch(
            "SELECT cap_id FROM caps WHERE tenant_id = $1 AND rolling_hours IS NOT NULL ORDER BY starts_at",
            tenant.tenant_id,
        )
        await connection.executemany(  # the oldest first: no two of one cap begin at the same time
            """UPDATE caps SET starts_at = starts_at - make_interval(hours => $2), ends_at = ends_at - make_interval(hours => $2)
               WHERE cap_id = $1""",
            [(row["cap_id"], hours) for row in rows],
        )


async def buckets(tenant: Tenant) -> list[Record]:
    return await tenant.database.fetch(
        "SELECT * FROM caps WHERE tenant_id = $1 AND rolling_hours IS NOT NULL ORDER BY starts_at", tenant.tenant_id
    )


async def carried(tenant: Tenant) -> tuple[int, int, int]:
    """What the newest bucket carries of the older ones."""
    newest = (await buckets(tenant))[-1]
    assert newest["newest"]
    return newest["carried_reserved"], newest["carried_committed"], newest["carried_debt"]


async def balances(tenant: Tenant) -> list[tuple[int, int, int]]:
    return [(row["reserved"], row["committed"], row["debt"]) for row in await buckets(tenant)]


async def audited(tenant: Tenant) -> list[str]:
    found = await audit(tenant.database.engine("auditor"))
    slug = await tenant.database.value("SELECT slug FROM tenants WHERE tenant_id = $1", tenant.tenant_id)
    return [f"{one.check}: {one.message}" for one in found.discrepancies if one.tenant == slug]


async def record(tenant: Tenant, decision_id: UUID) -> Record:
    return orjson.loads(await tenant.database.value("SELECT part_b FROM decisions WHERE decision_id = $1", decision_id))
