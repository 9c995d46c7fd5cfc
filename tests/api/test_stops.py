"""Emergency stops over HTTP: who may set them, on what, how they read, and what they refuse at once."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from .test_tools import TOOL as TOOL_OF_OURS
from .world import REFUND, Tenant, World, problem

TOOL = {"kind": "tool", "name": "payments.refund"}


async def stop(tenant: Tenant, scope: dict[str, str] | None = None, key: str = "") -> httpx.Response:
    body = {"scope": scope or {"kind": "tenant"}, "reason": "it refunds everything"}
    return await tenant.owner.post("/v1/stops", json=body, headers={"idempotency-key": key} if key else {})


async def codes(tenant: Tenant) -> list[str]:
    listed = (await tenant.owner.get("/v1/decisions", params={"kind": "config"})).json()["items"]
    return [one["reason_codes"][0] for one in listed if one["reason_codes"][0].startswith("stop.")]


async def test_a_stop_is_set_once_seen_and_lifted(tenant: Tenant) -> None:
    assert (await tenant.owner.get("/v1/stops")).json() == {"items": [], "next_cursor": None}
    first = await stop(tenant, TOOL)
    assert first.status_code == 201, first.text
    made = first.json()
    assert (made["scope_kind"], made["scope_name"], made["actor"]) == ("tool", "payments.refund", "user:owner")
    assert (made["reason"], made["was_on"], made["outside"]) == ("it refunds everything", False, 0)
    again = {"scope": TOOL, "reason": "another reason"}
    standing = (await tenant.owner.post("/v1/stops", json=again)).json()
    assert standing == {**made, "was_on": True}, "the one that stands, as it is"
    stop_id = made["stop_id"]
    assert [one["stop_id"] for one in (await tenant.owner.get("/v1/stops")).json()["items"]] == [stop_id]
    lifted = (await tenant.owner.post(f"/v1/stops/{stop_id}/lift", json={"reason": "repaired"})).json()
    assert (lifted["lifted_by"], lifted["lift_reason"]) == ("user:owner", "repaired")
    second = await tenant.owner.post(f"/v1/stops/{stop_id}/lift", json={"reason": "once more"})
    assert second.json() == lifted, "lifting again changes nothing"
    assert (await tenant.owner.get("/v1/stops")).json()["items"] == []
    assert (await tenant.owner.get("/v1/stops", params={"all": "true"})).json()["items"] == [lifted]
    assert await codes(tenant) == ["stop.lifted", "stop.set"]
    assert (await stop(tenant, TOOL)).json()["stop_id"] != stop_id


async def test_stops_are_paged_newest_first(tenant: Tenant) -> None:
    scopes = [{"kind": "tenant"}, {"kind": "agent", "name": "desk"}, {"kind": "role", "name": "helper"}, TOOL]
    made = [(await stop(tenant, scope)).json()["stop_id"] for scope in scopes]
    seen: list[str] = []
    cursor = None
    while True:
        page = (
            await tenant.owner.get("/v1/stops", params={"limit": 3, **({"cursor": cursor} if cursor else {})})
        ).json()
        seen += [one["stop_id"] for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]


@pytest.mark.parametrize(
    ("scope", "status", "code"),
    [
        ({"kind": "tenant", "name": "other"}, 422, "request.invalid"),
        ({"kind": "agent"}, 422, "request.invalid"),
        ({"kind": "galaxy"}, 422, "request.invalid"),
        ({"kind": "agent", "name": "nobody"}, 404, "resource.not_found"),
        ({"kind": "role", "name": "nobody"}, 404, "resource.not_found"),
        ({"kind": "tool", "name": "no.such"}, 404, "resource.not_found"),
    ],
)
async def test_only_what_is_there_can_be_stopped(tenant: Tenant, scope: dict[str, str], status: int, code: str) -> None:
    body = problem(await stop(tenant, scope), status, code)
    assert status == 422 or scope["name"] in body["detail"]
    for wrong in ({}, {"reason": ""}, {"reason": "x" * 501}, {"reason": "x", "scope": {"kind": "tenant"}, "y": 1}):
        problem(await tenant.owner.post("/v1/stops", json=wrong), 422, "request.invalid")
    assert await codes(tenant) == []


async def test_a_tool_of_ones_own_can_be_stopped(tenant: Tenant) -> None:
    assert (await tenant.owner.put("/v1/tools/crm.lookup", json=TOOL_OF_OURS)).status_code == 200
    assert (await stop(tenant, {"kind": "tool", "name": "crm.lookup"})).status_code == 201


async def test_owners_and_admins_stop_readers_look(tenant: Tenant) -> None:
    made = (await stop(tenant)).json()
    for roles in (["developer"], ["approver", "auditor"], ["viewer"], ["agent"]):
        client = await tenant.as_user("-".join(roles), *roles)
        body: dict[str, Any] = {"scope": {"kind": "tenant"}, "reason": "x"}
        problem(await client.post("/v1/stops", json=body), 403, "auth.not_permitted")
        problem(await client.post(f"/v1/stops/{made['stop_id']}/lift", json={"reason": "x"}), 403, "auth.not_permitted")
        listed = await client.get("/v1/stops")
        if roles == ["agent"]:
            problem(listed, 403, "auth.not_permitted")
        else:
            assert [one["stop_id"] for one in listed.json()["items"]] == [made["stop_id"]]
    admin = await tenant.as_user("root", "admin")
    assert (await admin.post(f"/v1/stops/{made['stop_id']}/lift", json={"reason": "x"})).status_code == 200


async def test_the_same_key_stops_and_lifts_once(tenant: Tenant) -> None:
    answers = await asyncio.gather(*(stop(tenant, TOOL, "stop") for _ in range(6)))
    assert {answer.text for answer in answers} == {answers[0].text}
    stop_id = answers[0].json()["stop_id"]
    path, headers = f"/v1/stops/{stop_id}/lift", {"idempotency-key": "lift"}
    lifts = [await tenant.owner.post(path, json={"reason": "x"}, headers=headers) for _ in range(2)]
    assert lifts[0].json() == lifts[1].json()
    problem(await tenant.owner.post(path, json={"reason": "y"}, headers=headers), 409, "idempotency.conflict")
    problem(await stop(tenant, key="stop"), 409, "idempotency.conflict")
    assert await codes(tenant) == ["stop.lifted", "stop.set"]


@pytest.mark.parametrize(
    "scope", [{"kind": "tenant"}, {"kind": "agent", "name": "desk"}, {"kind": "role", "name": "helper"}]
)
async def test_a_run_that_could_do_nothing_is_not_admitted(tenant: Tenant, scope: dict[str, str]) -> None:
    made = (await stop(tenant, scope)).json()
    body = {"agent": "desk", "input": "hello"}
    refused = problem(await tenant.owner.post("/v1/runs", json=body), 403, "stop.active")
    assert "it refunds everything" in refused["detail"]
    assert "holdfast stops" in refused["remedy"]
    (recorded,) = (await tenant.owner.get("/v1/decisions", params={"code": "stop.active"})).json()["items"]
    assert (recorded["kind"], recorded["verdict"]) == ("run.admission", "deny")
    estimate = (await tenant.owner.post("/v1/estimate", json=body)).json()
    assert (estimate["admitted"], estimate["code"]) == (False, "stop.active")
    assert estimate["first_call_nano_usd"] > 0
    await tenant.owner.post(f"/v1/stops/{made['stop_id']}/lift", json={"reason": "repaired"})
    assert await tenant.run()


async def test_a_stopped_tool_is_denied_and_admits_runs(tenant: Tenant) -> None:
    run_id = await tenant.run()
    await stop(tenant, TOOL)
    assert (await tenant.reserve(run_id, tool="mail.list", args={})).verdict == "allow"
    await stop(tenant, {"kind": "tool", "name": "mail.list"})
    denied = await tenant.reserve(run_id, step=2, tool="mail.list", args={})
    assert (denied.verdict, denied.code) == ("deny", "stop.active")
    assert await tenant.run()


async def test_consent_does_not_overcome_a_stop(tenant: Tenant, world: World) -> None:
    run_id = await tenant.run()
    asked = await tenant.reserve(run_id, args=REFUND)
    assert asked.verdict == "needs_approval"
    await stop(tenant, TOOL)
    approver = await tenant.as_user("bob", "approver")
    approved = await approver.post(f"/v1/approvals/{asked.approval_id}/decide", json={"verdict": "approved"})
    assert approved.status_code == 200, approved.text
    assert await world.value("SELECT consumed_by FROM approvals WHERE approval_id = $1", asked.approval_id) is None
