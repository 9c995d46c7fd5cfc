"""Rehearsals over HTTP: started once, watched, cancelled, taken up again, and never another tenant's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from holdfast.database.engine import transaction
from holdfast.ids import new_id
from holdfast.policies import rehearsal
from holdfast.policies.rehearsing import LOST, Rehearsing
from holdfast_verdict import compile_policy
from tests.forging import write_past_triggers

from .test_policies import POLICY
from .world import REFUND, Json, Tenant, World, problem, until

ROUTE = "/v1/policies/rehearsals"
FROM = "2020-01-01T00:00:00Z"
SMALL = POLICY.replace("5000", "1000")
"""Of the policy that permits refunds of up to 50 dollars, one that permits 10."""


async def start(client: httpx.AsyncClient, key: str | None = None, **body: Any) -> Json:
    headers = {"idempotency-key": key} if key else {}
    answer = await client.post(ROUTE, json={"from": FROM, **body}, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def ended(client: httpx.AsyncClient, rehearsal_id: str) -> Json:
    found: Json = {}

    async def is_over() -> bool:
        nonlocal found
        answer = await client.get(f"{ROUTE}/{rehearsal_id}")
        assert answer.status_code == 200, answer.text
        found = answer.json()
        return found["state"] in ("done", "cancelled", "failed")

    await until(is_over, timeout_s=150)  # who evaluates stands back behind all else that this machine does
    return found


async def decided(tenant: Tenant) -> str:
    """Has a refund of 12.50 dollars allowed by the policy, and a list of mails; returns the run."""
    pushed = await tenant.owner.post("/v1/policies", json={"source": POLICY})
    await tenant.owner.post("/v1/policies/activate", json={"version": pushed.json()["version"]})
    run_id = await tenant.run()
    decision = await tenant.reserve(run_id)
    assert decision.verdict == "allow"
    await tenant.reserve(run_id, step=2, tool="mail.list", args={})
    return run_id


async def test_a_candidate_is_rehearsed_over_what_was_decided(tenant: Tenant) -> None:
    run_id = await decided(tenant)
    asked = await start(tenant.owner, source=SMALL)
    assert asked["state"] in ("waiting", "running")
    assert asked["asked_by"] == "user:owner"
    found = await ended(tenant.owner, asked["rehearsal_id"])
    assert (found["state"], found["error"]) == ("done", "")
    assert found["done"] == found["total"] == 3  # the admission, and two actions
    result = found["result"]
    assert result["decisions"] == 2
    [change] = result["changes"]
    assert (change["change"], change["action"], change["role"]) == ("newly_refused", "payments.refund", "helper")
    assert change["was"] == {"verdict": "allow", "code": "policy.permitted", "rule": "small"}
    assert change["would"]["code"] == "policy.not_permitted"
    assert change["as_recorded"] == change["as_become"] == 1
    [example] = change["examples"]
    assert example["run_id"] == run_id
    assert str(REFUND["reason"]) not in str(result)  # what arguments say does not leave the records
    listed = (await tenant.owner.get(ROUTE)).json()["items"]
    assert [(each["rehearsal_id"], each["result"]) for each in listed] == [(asked["rehearsal_id"], None)]


async def test_what_retention_has_deleted_is_counted_and_stands_against_what_hangs_on_it(tenant: Tenant) -> None:
    run_id = await decided(tenant)
    limit = POLICY.rstrip().removesuffix("}") + "  limit mail.list count <= 5 per run as few\n}\n"
    before = await ended(tenant.owner, (await start(tenant.owner, source=limit))["rehearsal_id"])
    assert (before["result"]["skipped"], before["result"]["untold"]) == ({}, [])
    gone = "UPDATE decisions SET part_a_sha256 = sha256(part_a), part_a = NULL WHERE run_id = $1 AND step = 1"
    await write_past_triggers(tenant.world.superuser, gone, UUID(run_id))
    result = (await ended(tenant.owner, (await start(tenant.owner, source=limit))["rehearsal_id"]))["result"]
    assert (result["decisions"], result["skipped"]) == (1, {"deleted": 1})
    assert [each["needs"] for each in result["untold"]] == [["use of limit few"]]


async def test_the_policy_that_decided_changes_nothing(tenant: Tenant) -> None:
    await decided(tenant)
    active = (await tenant.owner.get("/v1/policies")).json()["items"][0]
    found = await ended(tenant.owner, (await start(tenant.owner, version=active["version"]))["rehearsal_id"])
    assert found["version"] == active["version"]
    assert found["result"]["changes"] == found["result"]["untold"] == []
    assert found["result"]["decisions"] == 2


async def test_a_tenant_without_decisions_gets_an_empty_result(tenant: Tenant) -> None:
    found = await ended(
        tenant.owner, (await start(tenant.owner, source=SMALL, to="2020-01-02T00:00:00Z"))["rehearsal_id"]
    )
    assert (found["state"], found["total"], found["result"]["decisions"]) == ("done", 0, 0)


async def test_only_decisions_of_the_time_are_asked_about(tenant: Tenant) -> None:
    await decided(tenant)
    later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    asked = await start(
        tenant.owner, source=SMALL, **{"from": later, "to": (datetime.now(UTC) + timedelta(minutes=2)).isoformat()}
    )
    assert (await ended(tenant.owner, asked["rehearsal_id"]))["result"]["decisions"] == 0


async def test_the_same_request_under_a_key_starts_one(tenant: Tenant) -> None:
    first = await start(tenant.owner, "k-1", source=SMALL)
    again = await start(tenant.owner, "k-1", source=SMALL)
    assert again["rehearsal_id"] == first["rehearsal_id"]
    assert len((await tenant.owner.get(ROUTE)).json()["items"]) == 1


async def test_a_candidate_that_does_not_compile_has_the_problems_of_a_check(tenant: Tenant) -> None:
    source = "role helper { permit no.such.tool where args.x = 1 }"
    checked = problem(await tenant.owner.post("/v1/policies/check", json={"source": source}), 422, "policy.refused")
    refused = problem(await tenant.owner.post(ROUTE, json={"source": source, "from": FROM}), 422, "policy.refused")
    assert refused["problems"] == checked["problems"]
    assert refused["problems"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"source": SMALL}, "request.invalid"),
        ({"from": FROM}, "request.invalid"),
        ({"source": SMALL, "version": 1, "from": FROM}, "request.invalid"),
        ({"source": SMALL, "from": "2020-01-01T00:00:00"}, "request.invalid"),
        ({"source": SMALL, "from": FROM, "to": "2019-01-01T00:00:00Z"}, "request.invalid"),
    ],
)
async def test_what_is_wrong_is_said(tenant: Tenant, body: Json, code: str) -> None:
    problem(await tenant.owner.post(ROUTE, json=body), 422, code)


async def test_a_version_that_is_not_there_is_not_found(tenant: Tenant) -> None:
    problem(await tenant.owner.post(ROUTE, json={"version": 99, "from": FROM}), 404, "resource.not_found")


async def test_who_may_not_look_at_decisions_may_not_rehearse(tenant: Tenant) -> None:
    viewer = await tenant.as_user("looker", "viewer")
    problem(await viewer.post(ROUTE, json={"source": SMALL, "from": FROM}), 403, "auth.not_permitted")
    problem(await viewer.get(ROUTE), 403, "auth.not_permitted")


async def waiting(world: World, tenant: Tenant) -> UUID:
    """Asks for a rehearsal that nobody works at yet."""
    async with transaction(world.engine("api"), tenant.tenant_id) as connection:
        asked = await rehearsal.ask(
            connection,
            tenant.tenant_id,
            compile_policy(SMALL),
            version=None,
            since=datetime(2020, 1, 1, tzinfo=UTC),
            until=datetime.now(UTC) + timedelta(minutes=1),
            by="user:owner",
        )
    return asked.rehearsal_id


async def test_a_cancelled_rehearsal_stays_so_and_finds_nothing(world: World, tenant: Tenant) -> None:
    await decided(tenant)
    rehearsal_id = await waiting(world, tenant)
    async with transaction(world.engine("api"), tenant.tenant_id) as connection:
        held = await rehearsal.hold(connection, tenant.tenant_id, rehearsal_id)
    assert held is not None
    answer = (await tenant.owner.post(f"{ROUTE}/{rehearsal_id}/cancel")).json()
    assert (answer["state"], answer["result"]) == ("cancelled", None)
    async with transaction(world.engine("api"), tenant.tenant_id) as connection:
        assert not await rehearsal.step(connection, held, 1)  # whoever works at it hears of it with the next step
        assert not await rehearsal.end(connection, held, result={})
        assert await rehearsal.hold(connection, tenant.tenant_id, rehearsal_id) is None
    again = await tenant.owner.post(f"{ROUTE}/{rehearsal_id}/cancel")
    assert again.json()["ended_at"] == answer["ended_at"]


async def test_one_whose_process_died_is_taken_up_by_who_looks(world: World, tenant: Tenant) -> None:
    await decided(tenant)
    rehearsal_id = await waiting(world, tenant)
    async with transaction(world.engine("api"), tenant.tenant_id) as connection:
        assert await rehearsal.hold(connection, tenant.tenant_id, rehearsal_id)
    running = (await tenant.owner.get(f"{ROUTE}/{rehearsal_id}")).json()
    assert running["state"] == "running"  # somebody holds it, and nobody else takes it
    await world.execute(
        "UPDATE policy_rehearsals SET held_until = now() - interval '1 s' WHERE rehearsal_id = $1", rehearsal_id
    )
    found = await ended(tenant.owner, str(rehearsal_id))
    assert found["result"]["totals"]["as_recorded"]["newly_refused"] == 1


async def test_one_that_is_lost_again_and_again_says_so(world: World, tenant: Tenant) -> None:
    rehearsal_id = await waiting(world, tenant)
    await world.execute(
        "UPDATE policy_rehearsals SET state = 'running', tries = $2 WHERE rehearsal_id = $1",
        rehearsal_id,
        rehearsal.TRIES_MAX,
    )
    found = await ended(tenant.owner, str(rehearsal_id))
    assert (found["state"], found["error"]) == ("failed", LOST)


async def test_a_process_that_ends_leaves_it_to_others_at_once(world: World, tenant: Tenant) -> None:
    rehearsal_id = await waiting(world, tenant)
    mine = Rehearsing(world.engine("api"), workers=1)
    mine.begin(tenant.tenant_id, rehearsal_id)

    async def begun() -> bool:
        state = await world.value("SELECT state FROM policy_rehearsals WHERE rehearsal_id = $1", rehearsal_id)
        return bool(state != "waiting")

    await until(begun, timeout_s=150)
    await mine.close()
    assert (await ended(tenant.owner, str(rehearsal_id)))["state"] == "done"


async def test_a_tenant_has_so_many_open_at_once(world: World, tenant: Tenant) -> None:
    for _ in range(rehearsal.OPEN_MAX):
        await waiting(world, tenant)
    problem(await tenant.owner.post(ROUTE, json={"source": SMALL, "from": FROM}), 409, "resource.conflict")


async def test_another_tenants_decisions_are_not_asked_about(world: World, tenant: Tenant, other: Tenant) -> None:
    await decided(tenant)
    asked = await start(other.owner, source=SMALL)
    assert (await ended(other.owner, asked["rehearsal_id"]))["result"]["decisions"] == 0
    problem(await tenant.owner.get(f"{ROUTE}/{asked['rehearsal_id']}"), 404, "resource.not_found")
    problem(await tenant.owner.post(f"{ROUTE}/{asked['rehearsal_id']}/cancel"), 404, "resource.not_found")
    assert (await tenant.owner.get(ROUTE)).json()["items"] == []
    problem(await tenant.owner.get(f"{ROUTE}/{new_id()}"), 404, "resource.not_found")
