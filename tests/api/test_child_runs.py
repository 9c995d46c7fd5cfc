"""Child runs: their budget is a part of their parent's cap, and nobody gets a cent of it twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from temporalio.client import WorkflowExecutionStatus

from activities.run_state import end_run
from holdfast.database.engine import tenantless, transaction
from holdfast.ledger.auditor import audit
from holdfast.ledger.budget import return_budget
from holdfast.settings import GovernorSettings
from workers.sweepers import Sweepers

from .world import AGENT, LOOSE, Tenant, World, problem, role, until

USD = 10**9


async def child(tenant: Tenant, parent: str, cap_usd: str = "0.2", **body: Any) -> httpx.Response:
    asked = {"agent": "desk", "input": "x", "cap_usd": cap_usd, "parent_run_id": parent, **body}
    return await tenant.owner.post("/v1/runs", json=asked)


async def admitted(tenant: Tenant, parent: str, cap_usd: str = "0.2") -> str:
    answer = await child(tenant, parent, cap_usd)
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["guaranteed"], body["parent_run_id"]) == (True, parent)
    run_id: str = body["run_id"]
    return run_id


async def money(tenant: Tenant, run_id: str | None = None) -> tuple[int, int, int]:
    """Returns reserved, committed and debt of the money cap on a run, or on the tenant."""
    answer = await tenant.owner.get("/v1/caps", params={"run": run_id} if run_id else {})
    (cap,) = [cap for cap in answer.json()["items"] if cap["unit"] == "nano_usd"]
    return cap["reserved"], cap["committed"], cap["debt"]


async def spend(tenant: Tenant, run_id: str, held: int, cost_usd: str) -> None:
    hold = await tenant.unknown_hold(run_id, nano_usd=held)
    body = {"happened": True, "cost_usd": cost_usd, "reason": "the bill"}
    assert (await tenant.owner.post(f"/v1/holds/{hold}/resolve", json=body)).status_code == 200


async def end(tenant: Tenant, world: World, run_id: str) -> None:
    """Ends a run as the governor does."""
    async with transaction(world.engine("governor"), tenant.tenant_id) as connection:
        await end_run(connection, tenant.tenant_id, UUID(run_id), status="succeeded", code="")


async def sweep(tenant: Tenant, world: World) -> int:
    """Returns budgets as the sweeper does; says how many there were."""
    async with tenantless(world.engine("sweeper")) as connection:
        due = list(await connection.execute(text("SELECT * FROM due_returns(1000)")))
    mine = [row.run_id for row in due if row.tenant_id == tenant.tenant_id]
    for run_id in mine:
        async with transaction(world.engine("sweeper"), tenant.tenant_id) as connection:
            assert await return_budget(connection, tenant.tenant_id, run_id)
    return len(mine)


async def books_are_right(tenant: Tenant, world: World) -> None:
    found = await audit(world.engine("auditor"))
    assert [one for one in found.discrepancies if one.tenant == tenant.slug] == []


@pytest.mark.parametrize("funded", [False, True])
async def test_a_childs_budget_is_a_part_of_its_parents(tenant: Tenant, world: World, funded: bool) -> None:
    parent = await tenant.run(cap_usd="0.8", guaranteed=funded)
    above = 8 * USD // 10 if funded else 2 * USD // 10
    first = await admitted(tenant, parent)
    assert await money(tenant, parent) == (2 * USD // 10, 0, 0)
    assert await money(tenant) == (above, 0, 0), "a funded parent has got it from the caps above already"
    grandchild = await admitted(tenant, first, "0.1")
    assert await money(tenant, first) == (USD // 10, 0, 0)
    assert await money(tenant, parent) == (2 * USD // 10, 0, 0)
    await spend(tenant, grandchild, USD // 20, "0.04")
    await spend(tenant, first, USD // 20, "0.05")
    await end(tenant, world, grandchild)
    assert await money(tenant, first) == (0, 9 * USD // 100, 0)
    await end(tenant, world, first)
    assert await money(tenant, parent) == (0, 9 * USD // 100, 0)
    assert await money(tenant) == ((above, 0, 0) if funded else (0, 9 * USD // 100, 0))
    await end(tenant, world, parent)
    assert await money(tenant) == (0, 9 * USD // 100, 0)
    assert await sweep(tenant, world) == 0
    await books_are_right(tenant, world)


async def test_a_child_that_is_billed_more_makes_debt_where_nothing_is_left(tenant: Tenant, world: World) -> None:
    parent = await tenant.run(cap_usd="0.3", guaranteed=True)
    run_id = await admitted(tenant, parent, "0.2")
    await spend(tenant, run_id, 2 * USD // 10, "0.5")
    assert await money(tenant, run_id) == (0, 2 * USD // 10, 3 * USD // 10)
    await end(tenant, world, run_id)
    assert await money(tenant, parent) == (0, 3 * USD // 10, 2 * USD // 10)
    problem(await child(tenant, parent, "0.1"), 402, "budget.insufficient")
    await end(tenant, world, parent)
    assert await money(tenant) == (0, 5 * USD // 10, 0)
    await books_are_right(tenant, world)


@pytest.mark.parametrize("funded", [False, True])
async def test_children_racing_for_the_last_cent_get_what_fits(tenant: Tenant, world: World, funded: bool) -> None:
    parent = await tenant.run(cap_usd="1", guaranteed=funded)
    answers = await asyncio.gather(*(child(tenant, parent) for _ in range(14)))
    assert Counter(answer.status_code for answer in answers) == {201: 5, 402: 9}
    assert await money(tenant, parent) == (USD, 0, 0)
    refused = next(answer for answer in answers if answer.status_code == 402)
    assert "the cap on run has" in refused.json()["detail"]
    await books_are_right(tenant, world)


async def test_the_caps_above_have_to_give_it_too_unless_they_gave_it_before(tenant: Tenant) -> None:
    funded = await tenant.run(cap_usd="0.9", guaranteed=True)
    unfunded = await tenant.run(cap_usd="0.9")
    await tenant.set_cap("0.95")
    body = problem(await child(tenant, unfunded), 402, "budget.insufficient")
    assert "the cap on tenant" in body["detail"]
    assert (await child(tenant, funded)).status_code == 201


async def test_a_parent_ends_with_open_children_and_returns_its_budget_after_the_last(
    tenant: Tenant, world: World
) -> None:
    parent = await tenant.run(cap_usd="1", guaranteed=True)
    children = [await admitted(tenant, parent) for _ in range(2)]
    await end(tenant, world, parent)
    assert await money(tenant) == (USD, 0, 0), "what its children may still cost stays held"
    assert await sweep(tenant, world) == 0
    problem(await child(tenant, parent), 409, "resource.conflict")
    await spend(tenant, children[0], USD // 10, "0.1")
    for run_id in children:
        assert await sweep(tenant, world) == 0
        await end(tenant, world, run_id)
    assert await sweep(tenant, world) == 1
    assert await sweep(tenant, world) == 0
    assert await money(tenant) == (0, USD // 10, 0)
    await books_are_right(tenant, world)


async def test_children_that_race_with_their_parents_end_are_in_or_out(tenant: Tenant, world: World) -> None:
    for _ in range(3):
        parent = await tenant.run(cap_usd="1", guaranteed=True)
        answers, _ = await asyncio.gather(
            asyncio.gather(*(child(tenant, parent, "0.1") for _ in range(8))), end(tenant, world, parent)
        )
        assert {answer.status_code for answer in answers} <= {201, 409}
        inside = [answer.json()["run_id"] for answer in answers if answer.status_code == 201]
        assert await money(tenant) == ((USD, 0, 0) if inside else (0, 0, 0))
        await asyncio.gather(*(end(tenant, world, run_id) for run_id in inside))
        await sweep(tenant, world)
        assert await money(tenant) == (0, 0, 0)
    await books_are_right(tenant, world)


async def test_a_child_may_no_more_than_its_parent(tenant: Tenant, world: World) -> None:
    parent = await tenant.run(cap_usd="1", deadline_s=600)
    assert (await tenant.owner.put("/v1/roles/helper", json=role(LOOSE))).status_code == 200
    assert (await tenant.owner.get("/v1/roles/helper")).json()["version"] == 2
    body = (await child(tenant, parent)).json()
    assert body["role_version"] == 1, "the version of its parent's role"
    until = (await tenant.owner.get(f"/v1/runs/{parent}")).json()["deadline_at"]
    assert datetime.fromisoformat(body["deadline_at"]) == datetime.fromisoformat(until)
    assert (await tenant.owner.get(f"/v1/runs/{body['run_id']}")).json()["parent_run_id"] == parent
    (await tenant.owner.put("/v1/roles/other", json=role("  permit llm.call\n", "other"))).raise_for_status()
    (await tenant.owner.put("/v1/agents/else", json={**AGENT, "role": "other"})).raise_for_status()
    problem(await child(tenant, parent, agent="else"), 422, "request.invalid")
    (await tenant.owner.post("/v1/projects", json={"slug": "elsewhere"})).raise_for_status()
    problem(await child(tenant, parent, project="elsewhere"), 422, "request.invalid")
    raised = {"scope": {"kind": "run", "name": body["run_id"]}, "limit_usd": "0.3", "reason": "more"}
    problem(await tenant.owner.put("/v1/caps", json=raised), 409, "resource.conflict")


async def test_only_its_own_user_has_a_run_have_children(tenant: Tenant) -> None:
    dora = await tenant.as_user("dora", "developer")
    parent = await tenant.run(cap_usd="1")
    asked = {"agent": "desk", "input": "x", "cap_usd": "0.2", "parent_run_id": parent}
    hers = (await dora.post("/v1/runs", json={"agent": "desk", "input": "x"})).json()["run_id"]
    # a developer sees all runs, so that the refusal may say whose it is; an agent's key does not
    problem(await dora.post("/v1/runs", json=asked), 422, "request.invalid")
    agent = await tenant.as_user("bot", "agent")
    problem(await agent.post("/v1/runs", json=asked), 404, "resource.not_found")
    problem(await child(tenant, hers), 422, "request.invalid")
    assert (await dora.post("/v1/runs", json={**asked, "parent_run_id": hers})).status_code == 201


async def test_a_parent_that_is_stopping_has_no_more_children(tenant: Tenant, world: World) -> None:
    parent = await tenant.run(cap_usd="1")
    assert (await tenant.owner.post(f"/v1/runs/{parent}/cancel")).status_code == 202
    problem(await child(tenant, parent), 409, "resource.conflict")
    late = await tenant.run(cap_usd="1")
    await world.execute("UPDATE runs SET deadline_at = now() WHERE run_id = $1", UUID(late))
    problem(await child(tenant, late), 409, "resource.conflict")
    problem(await child(tenant, "0199f3a0-0000-7000-8000-000000000000"), 404, "resource.not_found")


async def test_cancelling_a_run_cancels_all_that_it_started(tenant: Tenant, world: World) -> None:
    top = await tenant.run(cap_usd="1")
    open_one, ended = await admitted(tenant, top), await admitted(tenant, top)
    below_open, below_ended = await admitted(tenant, open_one, "0.1"), await admitted(tenant, ended, "0.1")
    apart = await tenant.run(cap_usd="0.1")
    await end(tenant, world, ended)

    answer = await tenant.owner.post(f"/v1/runs/{open_one}/cancel")
    assert (answer.status_code, answer.json()["run_id"]) == (202, open_one)
    assert await cancelled(world, tenant) == {open_one, below_open}, "not what is above or beside it"
    for _ in range(2):
        assert (await tenant.owner.post(f"/v1/runs/{top}/cancel")).status_code == 202
    assert await cancelled(world, tenant) == {top, open_one, below_open, below_ended}
    told = "SELECT data ->> 'of_run_id' FROM timeline_events WHERE run_id = $1 AND type = 'run.cancel_requested'"
    said = {
        one: [row[0] for row in await world.fetch(told, UUID(one))] for one in (top, open_one, below_open, below_ended)
    }
    assert said == {top: [None], open_one: [None], below_open: [open_one], below_ended: [top]}

    async def all_have_heard() -> bool:
        described = [await world.temporal.get_workflow_handle(run_id).describe() for run_id in said]
        return {one.status.name for one in described if one.status is not None} == {"CANCELED"}

    await until(all_have_heard)
    assert (await world.temporal.get_workflow_handle(apart).describe()).status != WorkflowExecutionStatus.CANCELED


async def test_no_child_comes_in_behind_a_cancellation(tenant: Tenant, world: World) -> None:
    async def cancel(run_id: str, after_ms: int) -> httpx.Response:
        await asyncio.sleep(after_ms / 1000)
        return await tenant.owner.post(f"/v1/runs/{run_id}/cancel")

    for after_ms in (0, 50, 150):
        top = await tenant.run(cap_usd="1")
        middle = await admitted(tenant, top, "0.5")
        children = (child(tenant, above, "0.1") for above in (top, middle) * 6)
        answers = await asyncio.gather(cancel(top, after_ms), *children)
        admissions = Counter(answer.status_code for answer in answers)
        assert set(admissions) <= {201, 202, 402, 409}, [answer.text for answer in answers]
        below = """
            WITH RECURSIVE line AS (SELECT run_id, cancel_requested_at FROM runs WHERE run_id = $1
                UNION ALL SELECT r.run_id, r.cancel_requested_at FROM line JOIN runs r ON r.parent_run_id = line.run_id)
            SELECT count(*), count(*) FILTER (WHERE cancel_requested_at IS NULL) FROM line
        """
        (row,) = await world.fetch(below, UUID(top))
        assert tuple(row) == (2 + admissions[201], 0)


@pytest.mark.parametrize("is_child", [False, True])
async def test_a_budget_waits_for_what_was_held_at_no_cost_and_cost_something(
    tenant: Tenant, world: World, is_child: bool
) -> None:
    parent = await tenant.run(cap_usd="1", guaranteed=True)
    run_id = await admitted(tenant, parent, "0.8") if is_child else parent
    hold = await tenant.unknown_hold(run_id, nano_usd=0)
    for ended in {run_id, parent}:
        await end(tenant, world, ended)
    assert await sweep(tenant, world) == 0
    assert await money(tenant) == (USD, 0, 0), "nobody knows yet what it has spent"
    body = {"happened": True, "cost_usd": "0.4", "reason": "the bill"}
    assert (await tenant.owner.post(f"/v1/holds/{hold}/resolve", json=body)).status_code == 200
    await sweep(tenant, world)
    assert await money(tenant) == (0, 4 * USD // 10, 0)
    await books_are_right(tenant, world)


async def cancelled(world: World, tenant: Tenant) -> set[str]:
    asked = "SELECT run_id FROM runs WHERE tenant_id = $1 AND cancel_requested_at IS NOT NULL"
    return {str(row[0]) for row in await world.fetch(asked, tenant.tenant_id)}


async def test_the_sweeper_returns_what_waited_for_children(tenant: Tenant, world: World) -> None:
    parent = await tenant.run(cap_usd="1", guaranteed=True)
    run_id = await admitted(tenant, parent)
    await end(tenant, world, parent)
    await end(tenant, world, run_id)
    assert await money(tenant) == (USD, 0, 0)
    timing = GovernorSettings.model_construct(sweep_interval_ms=50, unknown_deadline_ms=86_400_000)
    sweepers = Sweepers(
        world.engine("sweeper"), world.temporal, world.api.parts.publisher, timing, Ed25519PrivateKey.generate()
    )
    sweeping = asyncio.create_task(sweepers.run())

    async def returned() -> bool:
        return await money(tenant) == (0, 0, 0)

    try:
        await until(returned)
    finally:
        sweepers.stop()
        await sweeping
    await books_are_right(tenant, world)
