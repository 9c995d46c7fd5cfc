"""Policies over HTTP: pushed, proved, made active, looked at in the shadow, rolled back; and what goes wrong."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest

from holdfast.database.engine import transaction
from holdfast.ids import new_id
from holdfast.policies import shadow, store
from holdfast.policies.shadow import ShadowVerdict
from holdfast_verdict import compile_policy

from .world import Json, Tenant, problem

pytestmark = pytest.mark.usefixtures("patient_solver")

POLICY = """role helper {
  permit llm.call
  permit mail.list
  permit payments.refund where args.amount_usd_cents <= 5000 as small
}
"""
WIDER = POLICY.replace("5000", "9000")
CASES = """
[defaults]
role = "helper"

[[case]]
name = "a small refund"
action = "payments.refund"
args = { order_id = "A-1003", amount_usd_cents = 1250, reason = "broken" }
expect = "allow"
rule = "small"

[[case]]
name = "a large refund"
action = "payments.refund"
args = { order_id = "A-1003", amount_usd_cents = 7000, reason = "broken" }
expect = "deny"
"""


async def push(client: httpx.AsyncClient, source: str = POLICY, **more: Any) -> Json:
    answer = await client.post("/v1/policies", json={"source": source, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_a_policy_is_pushed_activated_and_rolled_back(tenant: Tenant) -> None:
    first = await push(tenant.owner, cases=CASES, note="to begin with")
    assert (first["origin"], first["put_by"], first["note"]) == ("written", "user:owner", "to begin with")
    assert not first["active"]
    second = await push(tenant.owner, WIDER)
    assert second["version"] == first["version"] + 1
    for version in (first["version"], second["version"]):
        done = await tenant.owner.post("/v1/policies/activate", json={"version": version, "reason": "approved by ann"})
        assert (done.json()["version"], done.json()["action"]) == (version, "activate")
    back = (await tenant.owner.post("/v1/policies/roll-back", json={"reason": "it paid too much"})).json()
    assert (back["version"], back["action"], back["reason"]) == (first["version"], "roll_back", "it paid too much")
    listed = (await tenant.owner.get("/v1/policies")).json()["items"]
    assert [(each["version"], each["active"]) for each in listed[:2]] == [
        (second["version"], False),
        (first["version"], True),
    ]
    log = (await tenant.owner.get("/v1/policies/activations", params={"limit": 2})).json()
    assert [each["seq"] for each in log["items"]] == [back["seq"], back["seq"] - 1]
    older = await tenant.owner.get("/v1/policies/activations", params={"limit": 2, "cursor": log["next_cursor"]})
    assert older.json()["items"][0]["seq"] == back["seq"] - 2
    shown = (await tenant.owner.get(f"/v1/policies/{first['version']}")).json()
    assert (shown["source"], shown["cases"], shown["active"]) == (POLICY, CASES, True)
    assert shown["compiled"]["rules"][2]["id"] == "small"
    recorded = (await tenant.owner.get("/v1/decisions", params={"code": "policy.roll_back"})).json()["items"]
    assert len(recorded) == 1


async def test_the_newest_version_again_makes_no_new_one_and_a_key_has_its_effect_once(tenant: Tenant) -> None:
    first = await push(tenant.owner)
    assert (await push(tenant.owner))["version"] == first["version"]
    headers = {"idempotency-key": "k-1"}
    body = {"source": WIDER}
    answers = [await tenant.owner.post("/v1/policies", json=body, headers=headers) for _ in range(2)]
    await push(tenant.owner)
    answers.append(await tenant.owner.post("/v1/policies", json=body, headers=headers))
    assert {answer.json()["version"] for answer in answers} == {first["version"] + 1}
    answers = [
        await tenant.owner.post("/v1/policies/activate", json={"version": first["version"]}, headers=headers)
        for _ in range(2)
    ]
    assert answers[0].json() == answers[1].json()
    other = await tenant.owner.post("/v1/policies/activate", json={"version": 99}, headers=headers)
    problem(other, 409, "idempotency.conflict")


async def test_what_is_wrong_with_a_policy_is_said_with_line_and_column_all_at_once(tenant: Tenant) -> None:
    text = "role helper {\n  permit mail.lst\n  permit payments.refund where args.amount <= 5\n}\n"
    answer = await tenant.owner.post("/v1/policies", json={"source": text})
    body = problem(answer, 422, "policy.refused")
    assert [(each["line"], each["code"]) for each in body["problems"]] == [(2, "policy.meaning"), (3, "policy.meaning")]
    assert "policy:2:10" in body["detail"]
    assert "permit mail.lst" in body["detail"]
    assert not [
        each for each in (await tenant.owner.get("/v1/policies")).json()["items"] if each["origin"] == "written"
    ]


async def test_a_policy_whose_cases_fail_is_not_stored(tenant: Tenant) -> None:
    before = (await tenant.owner.get("/v1/policies")).json()
    body = problem(
        await tenant.owner.post("/v1/policies", json={"source": WIDER, "cases": CASES}), 422, "policy.cases_failed"
    )
    assert [each["name"] for each in body["problems"]] == ["a large refund"]
    assert "case 'a large refund'" in body["detail"]
    assert (await tenant.owner.get("/v1/policies")).json() == before
    answer = await tenant.owner.post("/v1/policies", json={"source": WIDER, "cases": "[[case]]\nname = 1"})
    problem(answer, 422, "request.invalid")


async def test_a_policy_is_proved_compared_tested_and_explained(tenant: Tenant) -> None:
    stored = await push(tenant.owner, cases=CASES)
    version = stored["version"]
    dead = POLICY.replace("}\n", '  permit mail.send where args.subject == "a" and args.subject == "b" as never\n}\n')
    report = (await tenant.owner.post("/v1/policies/check", json={"source": dead})).json()
    assert not report["ok"]
    assert ("rule-never-fires", "never", 5) in [
        (each["kind"], each["rule_id"], each["line"]) for each in report["findings"]
    ]
    change = {"before": {"version": version}, "after": {"source": WIDER}}
    report = (await tenant.owner.post("/v1/policies/diff", json=change)).json()
    (newly,) = report["findings"]
    assert (newly["kind"], newly["action"]) == ("newly-allowed", "payments.refund")
    assert 5000 < newly["example"]["args"]["amount_usd_cents"] <= 9000
    tested = (await tenant.owner.post("/v1/policies/test", json={"version": version})).json()
    assert (tested["ok"], len(tested["cases"])) == (True, 2)
    tested = (await tenant.owner.post("/v1/policies/test", json={"source": WIDER, "cases": CASES})).json()
    assert [each["passed"] for each in tested["cases"]] == [True, False]
    request = {
        "role": "helper",
        "action": "payments.refund",
        "args": {"order_id": "A-1", "amount_usd_cents": 7000, "reason": "x"},
    }
    told = (await tenant.owner.post("/v1/policies/explain", json={"version": version, "request": request})).json()
    assert (told["verdict"], told["nearly"][0]) == ("deny", "small")
    request["args"] = {"order": 1}
    told = (await tenant.owner.post("/v1/policies/explain", json={"version": version, "request": request})).json()
    assert (told["verdict"], told["code"]) == ("deny", "action.malformed")


async def test_a_candidate_is_compared_with_what_decided(tenant: Tenant) -> None:
    problem(await tenant.owner.get("/v1/policies/shadow"), 404, "resource.not_found")
    stored = await push(tenant.owner, WIDER)
    version = {"version": stored["version"]}
    assert (await tenant.owner.post("/v1/policies/shadow", json=version)).json()["action"] == "shadow"
    run_id = UUID(await tenant.run())
    for number, verdict in enumerate(("allow", "deny", "deny")):
        looked = ShadowVerdict(
            new_id(), stored["policy_id"], run_id, number, 1, "payments.refund", "helper", None, "allow", "policy.permitted",
            "small", verdict, "policy.not_permitted", "",
        )  # fmt: skip
        async with transaction(tenant.world.engine("governor"), tenant.tenant_id) as connection:
            await shadow.record(connection, tenant.tenant_id, looked)
            await shadow.record(connection, tenant.tenant_id, looked)
    report = (await tenant.owner.get("/v1/policies/shadow")).json()
    assert (report["version"], report["decisions"], report["different"]) == (stored["version"], 3, 2)
    (difference,) = report["differences"]
    assert (difference["active_verdict"], difference["verdict"], difference["decisions"]) == ("allow", "deny", 2)
    assert difference["newest_id"] == str(looked.decision_id)
    assert (await tenant.owner.post("/v1/policies/shadow", json={"version": None})).json()["action"] == "end_shadow"
    problem(await tenant.owner.post("/v1/policies/shadow", json={"version": None}), 409, "resource.conflict")
    assert (await tenant.owner.get("/v1/policies/shadow", params=version)).json()["different"] == 2


async def test_only_owners_and_admins_change_what_is_allowed(tenant: Tenant) -> None:
    version = (await push(tenant.owner))["version"]
    developer = await tenant.as_user("dev", "developer")
    viewer = await tenant.as_user("vic", "viewer")
    agent = await tenant.as_user("amy", "agent")
    for client in (developer, viewer, agent):
        problem(await client.post("/v1/policies", json={"source": WIDER}), 403, "auth.not_permitted")
        for path in ("activate", "roll-back", "shadow"):
            answer = await client.post(f"/v1/policies/{path}", json={"version": version})
            problem(answer, 403, "auth.not_permitted")
    assert (await developer.post("/v1/policies/check", json={"version": version})).status_code == 200
    problem(await viewer.post("/v1/policies/check", json={"version": version}), 403, "auth.not_permitted")
    assert (await viewer.get(f"/v1/policies/{version}")).status_code == 200
    problem(await agent.get(f"/v1/policies/{version}"), 403, "auth.not_permitted")


async def test_another_tenants_versions_are_not_there(tenant: Tenant, other: Tenant) -> None:
    version = 1000
    for _ in range(2):
        version = (await push(tenant.owner, f"{POLICY}# {version}\n"))["version"]
    assert version > 1
    newest = max([each["version"] for each in (await other.owner.get("/v1/policies")).json()["items"]], default=0)
    assert newest < version
    problem(await other.owner.get(f"/v1/policies/{version}"), 404, "resource.not_found")
    problem(await other.owner.post("/v1/policies/activate", json={"version": version}), 404, "resource.not_found")


async def test_a_run_is_pinned_unless_it_follows_the_latest(tenant: Tenant) -> None:
    stored = await push(tenant.owner)
    await tenant.owner.post("/v1/policies/activate", json={"version": stored["version"]})
    body = {"agent": "desk", "input": "hello"}
    pinned = (await tenant.owner.post("/v1/runs", json=body)).json()
    assert (pinned["policy_id"], pinned["follows_latest"]) == (stored["policy_id"], False)
    latest = (await tenant.owner.post("/v1/runs", json={**body, "follows_latest": True})).json()
    assert (latest["policy_id"], latest["follows_latest"]) == (None, True)
    later = await push(tenant.owner, WIDER)
    await tenant.owner.post("/v1/policies/activate", json={"version": later["version"]})
    for run, expected in ((pinned, stored), (latest, later)):
        async with transaction(tenant.world.engine("governor"), tenant.tenant_id) as connection:
            found = await store.read_pinned(connection, tenant.tenant_id, UUID(run["run_id"]))
        assert str(found.policy_id) == expected["policy_id"]


class _Killed(Exception):
    """The process ends here: nobody commits."""


async def _killed_push(tenant: Tenant) -> None:
    async with transaction(tenant.world.engine("api"), tenant.tenant_id) as connection:
        await store.put(connection, tenant.tenant_id, WIDER, compile_policy(WIDER), put_by="user:x")
        raise _Killed


@pytest.mark.parametrize("lost", ["client", "transaction"])
async def test_a_push_that_is_cut_off_is_whole_or_not_there(tenant: Tenant, lost: str) -> None:
    before = await tenant.world.value("SELECT count(*) FROM policies WHERE tenant_id = $1", tenant.tenant_id)
    if lost == "client":
        pushing = asyncio.create_task(tenant.owner.post("/v1/policies", json={"source": WIDER, "cases": ""}))
        await asyncio.sleep(0)
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)
    else:
        with pytest.raises(_Killed):
            await _killed_push(tenant)
    again = await push(tenant.owner, WIDER)
    shown = (await tenant.owner.get(f"/v1/policies/{again['version']}")).json()
    assert shown["source"] == WIDER
    assert (
        await tenant.world.value("SELECT count(*) FROM policies WHERE tenant_id = $1", tenant.tenant_id) == before + 1
    )
