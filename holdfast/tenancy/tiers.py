"""How hard code is to be isolated: what a tenant and its roles ask for. Runs keep what held when they were admitted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.contracts.tiers import Tier, strictest

WHOLE_TENANT: Final = ""
"""The role's name under which the tenant itself stands."""

_LIST = text(
    "SELECT role_name, tier, set_by, set_at FROM sandbox_tiers WHERE tenant_id = :tenant_id AND tier IS NOT NULL "
    "ORDER BY role_name"
)
_ASKED = text("""
    SELECT tier FROM sandbox_tiers WHERE tenant_id = :tenant_id AND role_name IN ('', :role)
    UNION ALL SELECT sandbox_tier FROM runs WHERE tenant_id = :tenant_id AND run_id = :parent_run_id
""")
_SET = text("""
    INSERT INTO sandbox_tiers (tenant_id, role_name, tier, set_by) VALUES (:tenant_id, :role, :tier, :by)
    ON CONFLICT (tenant_id, role_name) DO UPDATE SET tier = excluded.tier, set_by = excluded.set_by, set_at = clock_timestamp()
""")


@dataclass(frozen=True, slots=True)
class AskedTier:
    """What is asked for.

    Attributes:
        role: By which role; empty for the tenant itself.
        tier: At least this tier.
        set_by: Who has set it.
        set_at: When.
    """

    role: str
    tier: Tier
    set_by: str
    set_at: datetime


async def list_tiers(connection: AsyncConnection, tenant_id: UUID) -> list[AskedTier]:
    """Returns what the tenant and its roles ask for, the tenant first."""
    return [AskedTier(*row) for row in await connection.execute(_LIST, {"tenant_id": tenant_id})]


async def set_tier(connection: AsyncConnection, tenant_id: UUID, role: str, tier: Tier | None, *, by: str) -> None:
    """Sets what a role or the tenant asks for; nothing takes it away."""
    await connection.execute(_SET, {"tenant_id": tenant_id, "role": role, "tier": tier, "by": by})


async def tier_of_run(
    connection: AsyncConnection, tenant_id: UUID, role: str, parent_run_id: UUID | None, least: Tier
) -> Tier:
    """Returns the tier of a run that is admitted now: the strictest of deployment, tenant, role and parent run."""
    found = await connection.scalars(_ASKED, {"tenant_id": tenant_id, "role": role, "parent_run_id": parent_run_id})
    return strictest(least, *found)
