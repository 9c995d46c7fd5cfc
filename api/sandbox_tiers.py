"""How hard code of the tenant is isolated: what the deployment has, and what tenant and roles ask for."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from api.authentication import Caller, require_reader
from api.context import Parts
from api.forms import Answer, Form, Time
from holdfast.contracts.tiers import Tier, by_tier
from holdfast.database.engine import transaction
from holdfast.decisions.record import record_change
from holdfast.tenancy import tiers
from holdfast.tenancy.principals import ADMIN, OWNER

router = APIRouter(prefix="/v1", tags=["tenants"])

TierName = Literal["process", "kernel"]


class AskedTier(Answer):
    """What the tenant or a role asks for."""

    role: str = Field(description="empty for the tenant itself")
    tier: TierName
    set_by: str
    set_at: Time


class SandboxTiers(Answer):
    """How hard code is isolated: a run gets the strictest of deployment, tenant, role and parent run, when it is admitted."""

    deployment: TierName = Field(description="what all code of this deployment gets at least")
    available: list[TierName] = Field(
        description="tiers that a backend is set up for; code that is to run in another is refused"
    )
    asked: list[AskedTier] = Field(description="by the tenant and its roles")


class PutSandboxTier(Form):
    """What the tenant or a role asks for."""

    role: str = Field(
        default="", pattern=r"^$|^[a-z0-9][a-z0-9-]{0,62}$", description="name of the role; empty for the tenant itself"
    )
    tier: TierName | None = Field(description="at least this tier; null asks for nothing")
    reason: str = Field(min_length=1, max_length=500, description="stands in the decision log")


async def _read(caller: Caller, parts: Parts) -> SandboxTiers:
    async with transaction(parts.engine, caller.tenant_id) as connection:
        asked = await tiers.list_tiers(connection, caller.tenant_id)
    there: list[Tier] = list(by_tier(parts.settings.sandbox_backends.split(",")))
    return SandboxTiers(
        deployment=parts.settings.sandbox_tier,
        available=there,
        asked=[AskedTier.model_validate(one) for one in asked],
    )


@router.get("/sandbox-tiers", summary="Show how hard code is isolated")
async def get_sandbox_tiers(caller: Caller, parts: Parts) -> SandboxTiers:
    """Shows the tiers of the deployment, and what the tenant and its roles ask for."""
    require_reader(caller)
    return await _read(caller, parts)


@router.put("/sandbox-tiers", summary="Set how hard code is isolated")
async def put_sandbox_tier(body: PutSandboxTier, caller: Caller, parts: Parts) -> SandboxTiers:
    """Sets the least tier of the tenant or of a role, for runs that are admitted from now on.

    A tier that is not available may be asked for: then code is refused until it is.
    """
    caller.require(OWNER, ADMIN)
    of = f"role {body.role}" if body.role else "the tenant"
    async with transaction(parts.engine, caller.tenant_id) as connection:
        await tiers.set_tier(connection, caller.tenant_id, body.role, body.tier, by=caller.actor)
        await record_change(
            connection,
            caller.tenant_id,
            caller,
            "tenant.sandbox_tier",
            f"code of {of} runs in the tier {body.tier} at least" if body.tier else f"{of} asks for no tier",
            {"role": body.role, "tier": body.tier, "reason": body.reason},
        )
    return await _read(caller, parts)
