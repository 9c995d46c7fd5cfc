"""A tenant and its roles ask for a tier; a run gets the strictest, when it is admitted, and keeps it."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text

from holdfast.contracts.tiers import strictest
from holdfast.database.engine import transaction
from holdfast.tenancy.tiers import tier_of_run

from .test_cap_windows import items
from .world import Tenant, problem

PATH = "/v1/sandbox-tiers"
_RUN = text("SELECT role_name, sandbox_tier FROM runs WHERE run_id = :run_id")


async def ask(tenant: Tenant, tier: str | None, role: str = "") -> None:
    body = {"tier": tier, "role": role, "reason": "our customers' data"}
    assert (await tenant.owner.put(PATH, json=body)).status_code == 200


async def test_nothing_is_asked_for_at_first(tenant: Tenant) -> None:
    found = (await tenant.owner.get(PATH)).json()
    assert found == {"deployment": "process", "available": ["process"], "asked": []}


async def test_what_is_asked_for_is_shown_recorded_and_taken_back(tenant: Tenant) -> None:
    await ask(tenant, "kernel")
    await ask(tenant, "process", "clerk")
    found = (await tenant.owner.get(PATH)).json()
    assert [(one["role"], one["tier"]) for one in found["asked"]] == [("", "kernel"), ("clerk", "process")]
    assert len(await items(tenant, "/v1/decisions", code="tenant.sandbox_tier")) == 2
    await ask(tenant, None)
    await ask(tenant, "kernel", "clerk")
    found = (await tenant.owner.get(PATH)).json()
    assert [(one["role"], one["tier"]) for one in found["asked"]] == [("clerk", "kernel")]


async def test_who_may_not_ask_is_refused(tenant: Tenant) -> None:
    developer = await tenant.as_user("dev", "developer")
    body = {"tier": "process", "reason": "x"}
    problem(await developer.put(PATH, json=body), 403, "auth.not_permitted")
    for wrong in ({"tier": "none"}, {"tier": "kernel", "role": "No Role"}, {"reason": ""}):
        problem(await tenant.owner.put(PATH, json={**body, **wrong}), 422, "request.invalid")


async def test_a_run_gets_the_strictest_and_keeps_it(tenant: Tenant) -> None:
    async def now(role: str, parent: UUID | None = None) -> str:
        async with transaction(tenant.world.engine("api"), tenant.tenant_id) as connection:
            return await tier_of_run(connection, tenant.tenant_id, role, parent, "process")

    async def of(run: str) -> tuple[str, str]:
        async with transaction(tenant.world.engine("api"), tenant.tenant_id) as connection:
            row = (await connection.execute(_RUN, {"run_id": UUID(run)})).one()
            return row.role_name, row.sandbox_tier

    first = await tenant.run()
    role, _ = await of(first)
    assert await now(role) == "process"
    await ask(tenant, "kernel", role)
    assert (await now(role), await now("another")) == ("kernel", "process")
    second = await tenant.run()
    assert [(await of(run))[1] for run in (first, second)] == ["process", "kernel"]
    await ask(tenant, None, role)
    assert (await now(role), await now(role, UUID(second))) == ("process", "kernel")
    await ask(tenant, "kernel")
    assert await now("another") == "kernel"


def test_the_strictest_is_the_strictest() -> None:
    assert (strictest(), strictest(None, "process"), strictest("process", "kernel", None)) == (
        "process",
        "process",
        "kernel",
    )
