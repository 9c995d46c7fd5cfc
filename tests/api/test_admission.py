"""Admission: economics first, one run for one request, nothing lost when Temporal is away."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest
from temporalio.client import Client

from holdfast.contracts import names
from holdfast.database.engine import transaction
from holdfast.ledger.budget import return_budget

from .world import AGENT, Tenant, World, problem, running_api, settings_for, until


async def test_an_admitted_run_is_whole(tenant: Tenant, world: World) -> None:
    answer = await tenant.owner.post("/v1/runs", json={"agent": "desk", "input": "hello", "cap_usd": "0.5"})
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert answer.headers["location"] == f"/v1/runs/{body['run_id']}"
    run_id = UUID(body["run_id"])
    (run,) = await world.fetch("SELECT * FROM runs WHERE run_id = $1", run_id)
    assert (run["agent_version"], run["role_version"], run["status"]) == (1, 1, "pending")
    assert run["started_at"] is not None
    caps = await world.fetch("SELECT unit, limit_amount FROM caps WHERE scope_id = $1 ORDER BY unit", str(run_id))
    assert [tuple(cap) for cap in caps] == [("calls", 1_000), ("nano_usd", 500_000_000)]
    (said,) = await world.fetch("SELECT seq, mode, content FROM run_inputs WHERE run_id = $1", run_id)
    assert tuple(said) == (1, "start", "hello")
    (decision,) = await world.fetch("SELECT * FROM decisions WHERE run_id = $1", run_id)
    assert (decision["kind"], decision["verdict"]) == ("run.admission", "allow")
    assert str(decision["decision_id"]) == body["decision_id"]
    assert b"hello" not in decision["part_a"]
    (event,) = await world.fetch("SELECT seq, channel, type FROM timeline_events WHERE run_id = $1", run_id)
    assert tuple(event) == (1, "lifecycle", "run.created")
    shown = (await tenant.owner.get(f"/v1/runs/{run_id}")).json()
    assert (shown["cap_usd"], shown["spent_usd"], shown["inputs"][0]["content"]) == ("0.5", "0", "hello")


async def test_the_workflow_is_found_by_names_and_carries_no_values(tenant: Tenant, world: World) -> None:
    run_id = await tenant.run(input="the secret question")
    handle = world.temporal.get_workflow_handle(run_id)
    described = await handle.describe()
    attributes = {pair.key.name: pair.value for pair in described.typed_search_attributes}
    assert attributes[names.SEARCH_ATTRIBUTES["tenant"]] == tenant.slug
    assert attributes[names.SEARCH_ATTRIBUTES["agent"]] == "desk"
    history = (await handle.fetch_history()).to_json()
    assert "secret question" not in history
    raw = await Client.connect(world.stack.urls.temporal, namespace="holdfast")
    events = (await raw.get_workflow_handle(run_id).fetch_history()).events
    (payload,) = events[0].workflow_execution_started_event_attributes.input.payloads
    assert payload.metadata["encoding"] == b"binary/holdfast-encrypted"


async def test_twenty_at_once_with_one_key_make_one_run(tenant: Tenant, world: World) -> None:
    headers = {"idempotency-key": str(uuid4())}
    body = {"agent": "desk", "input": "once"}
    answers = await asyncio.gather(*(tenant.owner.post("/v1/runs", json=body, headers=headers) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert await world.value("SELECT count(*) FROM runs WHERE tenant_id = $1", tenant.tenant_id) == 1


async def test_a_key_is_good_for_one_request_of_one_tenant_and_user(tenant: Tenant, other: Tenant) -> None:
    headers = {"idempotency-key": "k"}
    first = await tenant.owner.post("/v1/runs", json={"agent": "desk", "input": "a"}, headers=headers)
    changed = await tenant.owner.post("/v1/runs", json={"agent": "desk", "input": "b"}, headers=headers)
    problem(changed, 409, "idempotency.conflict")
    someone = await tenant.as_user("someone", "developer")
    problem(
        await someone.post("/v1/runs", json={"agent": "desk", "input": "a"}, headers=headers),
        409,
        "idempotency.conflict",
    )
    foreign = await other.owner.post("/v1/runs", json={"agent": "desk", "input": "a"}, headers=headers)
    assert foreign.status_code == 201
    assert foreign.json()["run_id"] != first.json()["run_id"]


async def test_without_a_cap_there_is_no_spending(world: World) -> None:
    tenant = await world.tenant(cap_usd=None)
    answer = await tenant.owner.post("/v1/runs", json={"agent": "desk", "input": "x"})
    body = problem(answer, 402, "budget.insufficient")
    assert "no money cap" in body["detail"]
    (decision,) = await world.fetch(
        "SELECT verdict, run_id FROM decisions WHERE tenant_id = $1 AND kind = 'run.admission'", tenant.tenant_id
    )
    assert tuple(decision) == ("deny", None)
    assert await world.value("SELECT count(*) FROM runs WHERE tenant_id = $1", tenant.tenant_id) == 0
    await tenant.close()


@pytest.mark.parametrize(
    "scope",
    [
        {"kind": "tenant"},
        {"kind": "project", "name": "default"},
        {"kind": "user", "name": "owner"},
        {"kind": "role", "name": "helper"},
        {"kind": "user_project", "name": "owner/default"},
    ],
)
async def test_an_exhausted_cap_on_any_scope_refuses(tenant: Tenant, scope: dict[str, str]) -> None:
    await tenant.set_cap("0.000001", **scope)
    problem(await tenant.owner.post("/v1/runs", json={"agent": "desk", "input": "x"}), 402, "budget.insufficient")
    await tenant.set_cap("5", **scope)
    await tenant.run()


async def test_a_run_cap_below_its_first_call_refuses(tenant: Tenant) -> None:
    answer = await tenant.owner.post("/v1/runs", json={"agent": "desk", "input": "x", "cap_usd": "0.0001"})
    problem(answer, 402, "budget.insufficient")


async def test_the_agents_limits_bound_what_a_request_may_ask(tenant: Tenant) -> None:
    for more in ({"cap_usd": "1.01"}, {"deadline_s": 86_401}):
        problem(
            await tenant.owner.post("/v1/runs", json={"agent": "desk", "input": "x", **more}), 422, "request.invalid"
        )


async def test_a_model_without_price_refuses_and_is_recorded(tenant: Tenant, world: World) -> None:
    agent = {**AGENT, "model": {"wire": "openai", "name": "no-such-model"}}
    (await tenant.owner.put("/v1/agents/odd", json=agent)).raise_for_status()
    problem(await tenant.owner.post("/v1/runs", json={"agent": "odd", "input": "x"}), 422, "price.unknown")
    codes = await world.value(
        "SELECT reason_codes FROM decisions WHERE tenant_id = $1 AND kind = 'run.admission'", tenant.tenant_id
    )
    assert codes == ["price.unknown"]


async def test_what_is_not_there_cannot_run(tenant: Tenant) -> None:
    problem(await tenant.owner.post("/v1/runs", json={"agent": "nobody", "input": "x"}), 404, "resource.not_found")
    elsewhere = {"agent": "desk", "input": "x", "project": "elsewhere"}
    problem(await tenant.owner.post("/v1/runs", json=elsewhere), 404, "resource.not_found")
    developer = await tenant.as_user("dev", "developer")
    problem(await developer.post("/v1/runs", json=elsewhere), 403, "auth.not_permitted")


async def test_a_guaranteed_budget_is_held_and_returned(tenant: Tenant, world: World) -> None:
    run_id = await tenant.run(cap_usd="1", guaranteed=True)
    (cap,) = (await tenant.owner.get("/v1/caps")).json()["items"]
    assert (cap["reserved"], cap["available"]) == (1_000_000_000, 4_000_000_000)
    (hold,) = (await tenant.owner.get("/v1/holds", params={"run": run_id})).json()["items"]
    assert (hold["kind"], hold["step"], hold["state"]) == ("run.budget", 0, "held")
    raised = {"scope": {"kind": "run", "name": run_id}, "limit_usd": "1.5", "reason": "more"}
    problem(await tenant.owner.put("/v1/caps", json=raised), 409, "resource.conflict")

    unknown = await tenant.unknown_hold(run_id, nano_usd=200_000_000)

    async def give_back() -> bool:
        async with transaction(world.engine("governor"), tenant.tenant_id) as connection:
            return await return_budget(connection, tenant.tenant_id, UUID(run_id))

    assert not await give_back(), "the run is still open"
    await tenant.end(run_id)
    assert not await give_back(), "a hold of it is still open"
    assert (await tenant.owner.get("/v1/caps")).json()["items"][0]["reserved"] == 1_000_000_000
    resolved = await tenant.owner.post(
        f"/v1/holds/{unknown}/resolve", json={"happened": True, "cost_usd": "0.15", "reason": "the provider's bill"}
    )
    assert resolved.status_code == 200, resolved.text
    (cap,) = (await tenant.owner.get("/v1/caps")).json()["items"]
    assert (cap["reserved"], cap["committed"], cap["debt"]) == (0, 150_000_000, 0)
    assert await give_back(), "there is nothing left to return"


async def test_guaranteed_budgets_never_exceed_the_cap(tenant: Tenant) -> None:
    body = {"agent": "desk", "input": "x", "cap_usd": "1", "guaranteed": True}
    answers = await asyncio.gather(*(tenant.owner.post("/v1/runs", json=body) for _ in range(12)))
    assert sorted(answer.status_code for answer in answers) == [201] * 5 + [402] * 7


async def test_with_temporal_away_the_run_waits_and_a_sweeper_starts_it(tenant: Tenant, world: World) -> None:
    away = settings_for(world.stack, temporal_address="127.0.0.1:9")
    async with running_api(away) as api, api.client(tenant.keys["owner"]) as client:
        answer = await client.post("/v1/runs", json={"agent": "desk", "input": "later"})
        assert answer.status_code == 201
        run_id = answer.json()["run_id"]
        assert (await client.post(f"/v1/runs/{run_id}/cancel")).status_code == 202
    assert await world.value("SELECT started_at FROM runs WHERE run_id = $1", UUID(run_id)) is None
    assert await tenant.start(run_id, "sweeper")
    assert not await tenant.start(run_id, "sweeper"), "a second start changes nothing"
    assert (await world.temporal.get_workflow_handle(run_id).describe()).id == run_id


async def test_inputs_and_cancellation_reach_the_workflow(tenant: Tenant, world: World) -> None:
    run_id = await tenant.run()
    headers = {"idempotency-key": "said"}
    told = {"mode": "followup", "content": "and then?"}
    answers = await asyncio.gather(
        *(tenant.owner.post(f"/v1/runs/{run_id}/input", json=told, headers=headers) for _ in range(5))
    )
    assert {answer.text for answer in answers} == {answers[0].text}
    await tenant.owner.post(f"/v1/runs/{run_id}/input", json={"mode": "pause"})

    async def all_heard() -> bool:
        # the five may have signalled the one input five times: the outbox delivers at least once
        return sorted(set(await world.heard(run_id))) == ["input 2 followup", "input 3 pause"]

    await until(all_heard)
    cancelled = await tenant.owner.post(f"/v1/runs/{run_id}/cancel")
    assert cancelled.status_code == 202
    assert cancelled.json()["cancel_requested_at"]
    assert (await tenant.owner.post(f"/v1/runs/{run_id}/cancel")).status_code == 202

    async def is_cancelled() -> bool:
        described = await world.temporal.get_workflow_handle(run_id).describe()
        return described.status is not None and described.status.name == "CANCELED"

    await until(is_cancelled)
    requests = "SELECT count(*) FROM timeline_events WHERE run_id = $1 AND type = 'run.cancel_requested'"
    assert await world.value(requests, UUID(run_id)) == 1


async def test_an_ended_run_takes_no_input(tenant: Tenant) -> None:
    run_id = await tenant.run()
    await tenant.end(run_id)
    told = {"mode": "followup", "content": "hello?"}
    problem(await tenant.owner.post(f"/v1/runs/{run_id}/input", json=told), 409, "resource.conflict")


async def test_wait_answers_when_the_run_has_ended(tenant: Tenant) -> None:
    run_id = await tenant.run()
    soon = await tenant.owner.get(f"/v1/runs/{run_id}/wait", params={"timeout_s": 0})
    assert soon.json()["status"] == "pending"
    waiting = asyncio.create_task(tenant.owner.get(f"/v1/runs/{run_id}/wait", params={"timeout_s": 20}))
    await tenant.end(run_id)
    assert (await waiting).json()["status"] == "succeeded"


async def test_lists_are_paged_without_gaps(tenant: Tenant) -> None:
    made = [await tenant.run() for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params: dict[str, str] = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = (await tenant.owner.get("/v1/runs", params=params)).json()
        seen += [run["run_id"] for run in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]


async def test_an_agents_key_sees_only_its_users_runs(tenant: Tenant) -> None:
    foreign = await tenant.run()
    machine = await tenant.as_user("machine", "agent")
    own = (await machine.post("/v1/runs", json={"agent": "desk", "input": "x"})).json()["run_id"]
    assert [run["run_id"] for run in (await machine.get("/v1/runs")).json()["items"]] == [own]
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("GET", "/wait")):
        problem(await machine.request(method, f"/v1/runs/{foreign}{path}"), 404, "resource.not_found")
    problem(await machine.get("/v1/decisions"), 403, "auth.not_permitted")


async def test_a_run_keeps_the_roles_of_the_key_that_started_it(world: World, tenant: Tenant) -> None:
    trainee = await tenant.as_user("tina", "agent", "trainee")
    run = (await trainee.post("/v1/runs", json={"agent": "desk", "input": "hello"})).json()["run_id"]
    [row] = await world.fetch("SELECT user_roles FROM runs WHERE run_id = $1", run)
    assert row["user_roles"] == ["agent", "trainee"]
