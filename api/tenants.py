"""Tenants, for the platform's operator."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from api.authentication import Caller, require_reader
from api.context import Parts
from api.forms import Answer, Form, Name, Time
from api.keys import CreatedKey
from holdfast.database.engine import transaction
from holdfast.decisions.record import record_change
from holdfast.ids import PLATFORM_TENANT_ID, new_id
from holdfast.policies import starter
from holdfast.tenancy import keys, service
from holdfast.tenancy.principals import ADMIN, APPROVER, OPERATOR, OWNER

router = APIRouter(prefix="/v1", tags=["tenants"])

FIRST_PROJECT = "default"
FIRST_USER = "owner"


class CreateTenant(Form):
    """A tenant to be made, with its first project, user and key."""

    slug: Name
    name: str = Field(min_length=1, max_length=200)
    time_zone: str = Field(default="UTC", max_length=60, description="such as Europe/Paris; windows of caps follow it")


class Tenant(Answer):
    """A tenant."""

    tenant_id: UUID
    slug: str
    name: str
    time_zone: str
    created_at: Time


class Tenants(Answer):
    """All tenants."""

    items: list[Tenant]


class SetTimeZone(Form):
    """Another time zone for the tenant."""

    time_zone: str = Field(min_length=1, max_length=60, description="such as Europe/Paris")
    reason: str = Field(min_length=1, max_length=500, description="stands in the decision log")


class CreatedTenant(Answer):
    """A tenant with the first key of its owner, shown this once."""

    tenant_id: UUID
    slug: str
    key: CreatedKey


@router.post("/tenants", status_code=201, summary="Make a tenant")
async def create_tenant(body: CreateTenant, caller: Caller, parts: Parts) -> CreatedTenant:
    """Makes a tenant with a project `default`, a user `owner` and their first key. It has no cap, so it cannot spend yet.

    It begins with the starter policy: a role `assistant` that needs somebody's consent for what leaves the tenant.
    """
    caller.require(OPERATOR)
    tenant_id = new_id()
    async with transaction(parts.engine, tenant_id) as connection:
        await service.create_tenant(connection, tenant_id, slug=body.slug, name=body.name, time_zone=body.time_zone)
        project_id = await service.create_project(connection, tenant_id, FIRST_PROJECT)
        user_id = await service.create_user(connection, tenant_id, FIRST_USER)
        key_id, key = await keys.create_key(
            connection, tenant_id, user_id=user_id, project_id=project_id, roles=(OWNER, ADMIN, APPROVER)
        )
        await starter.give(connection, tenant_id, by=caller.actor)
        await record_change(
            connection,
            tenant_id,
            caller,
            "tenant.created",
            f"tenant {body.slug} was made",
            {"tenant": body.slug, "key_id": str(key_id)},
        )
        view = await keys.read_key(connection, tenant_id, key_id)
    return CreatedTenant(tenant_id=tenant_id, slug=body.slug, key=CreatedKey.of(view, key))


@router.get("/tenants", summary="List tenants")
async def list_tenants(caller: Caller, parts: Parts) -> Tenants:
    """Lists all tenants, by slug."""
    caller.require(OPERATOR)
    tenants = await service.list_tenants(parts.engine)
    return Tenants(
        items=[Tenant.model_validate(tenant) for tenant in tenants if tenant.tenant_id != PLATFORM_TENANT_ID]
    )


@router.get("/tenant", summary="Show the key's tenant")
async def get_tenant(caller: Caller, parts: Parts) -> Tenant:
    """Shows the caller's own tenant and the time zone that windows of its caps follow."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        return Tenant.model_validate(await service.read_tenant(connection, caller.tenant_id))


@router.put("/tenant/time-zone", summary="Set the tenant's time zone")
async def put_time_zone(body: SetTimeZone, caller: Caller, parts: Parts) -> Tenant:
    """Sets the time zone that windows of caps and days of spend follow. A window that has begun ends as it was announced."""
    caller.require(OWNER, ADMIN)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        before = (await service.read_tenant(connection, caller.tenant_id)).time_zone
        await service.set_time_zone(connection, caller.tenant_id, body.time_zone)
        await record_change(
            connection,
            caller.tenant_id,
            caller,
            "tenant.time_zone",
            f"the tenant's time zone is {body.time_zone}",
            {"from": before, "to": body.time_zone, "reason": body.reason},
        )
        return Tenant.model_validate(await service.read_tenant(connection, caller.tenant_id))
