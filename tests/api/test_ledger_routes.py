"""Caps, holds, decisions: what people see and change of the ledger."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Any, Final
from uuid import UUID

import httpx
import orjson
import pytest

from .world import LOOSE, Tenant, World, problem, role, until


async def put_cap(tenant: Tenant, **body: Any) -> httpx.Response:
    return await tenant.owner.put("/v1/caps", json={"scope": {"kind": "tenant"}, "reason": "test", **body})


async def test_a_cap_is_set_journalled_and_recorded(tenant: Tenant, world: World) -> None:
    raised = await put_cap(tenant, limit_usd="12.5", reason="more customers")
    assert raised.status_code == 200, raised.text
    cap = raised.json()
    assert (cap["limit_amount"], cap["limit_usd"], cap["available"]) == (12_500_000_000, "12.5", 12_500_000_000)
    journal = await world.fetch(
        "SELECT kind, actor, reason FROM journal_legs WHERE cap_id = $1 ORDER BY entry_id", UUID(cap["cap_id"])
    )
    assert [tuple(entry) for entry in journal][-1] == ("limit", "user:owner", "more customers")
    (decision,) = (await tenant.owner.get("/v1/decisions", params={"code": "cap.set", "limit": 1})).json()["items"]
    assert decision["kind"] == "config"
    assert (await put_cap(tenant, unlimited=True)).json()["available"] is None
    tokens = (await put_cap(tenant, unit="tokens", limit_amount=1_000)).json()
    assert (tokens["limit_usd"], tokens["limit_amount"]) == (None, 1_000)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"limit_usd": "1", "limit_amount": 1},
        {"limit_usd": "1", "unlimited": True},
        {"unlimited": False},
        {"limit_usd": "1", "unit": "calls"},
        {"limit_amount": -1},
        {"limit_amount": 2**53},
        {"limit_usd": "9007199.254740992"},
        {"limit_usd": "1", "reason": ""},
        {"limit_usd": "1", "unit": "bananas"},
        {"limit_usd": "1", "scope": {"kind": "tenant", "name": "other"}},
        {"limit_usd": "1", "scope": {"kind": "project"}},
        {"limit_usd": "1", "scope": {"kind": "run", "name": "x"}},
        {"limit_usd": "1", "scope": {"kind": "galaxy"}},
    ],
)
async def test_a_cap_says_one_limit_on_one_thing(tenant: Tenant, body: dict[str, Any]) -> None:
    problem(await put_cap(tenant, **body), 422, "request.invalid")


async def test_caps_on_what_is_not_there(tenant: Tenant) -> None:
    for scope in ({"kind": "project", "name": "x"}, {"kind": "user", "name": "x"}, {"kind": "role", "name": "x"}):
        problem(await put_cap(tenant, limit_usd="1", scope=scope), 404, "resource.not_found")


async def test_caps_are_listed_by_name(tenant: Tenant) -> None:
    scopes = [
        {"kind": "project", "name": "default"},
        {"kind": "user", "name": "owner"},
        {"kind": "role", "name": "helper"},
        {"kind": "user_project", "name": "owner/default"},
    ]
    for scope in scopes:
        assert (await put_cap(tenant, limit_usd="1", scope=scope)).json()["scope_name"] == scope["name"]
    run_id = await tenant.run()
    listed = (await tenant.owner.get("/v1/caps")).json()["items"]
    assert [(cap["scope_kind"], cap["scope_name"]) for cap in listed[1:]] == [(s["kind"], s["name"]) for s in scopes]
    of_run = (await tenant.owner.get("/v1/caps", params={"run": run_id})).json()["items"]
    assert {cap["unit"] for cap in of_run} == {"calls", "nano_usd"}


async def test_an_unknown_hold_is_resolved_once(tenant: Tenant, world: World) -> None:
    run_id = await tenant.run()
    hold = await tenant.unknown_hold(run_id, nano_usd=1_000_000)
    (listed,) = (await tenant.owner.get("/v1/holds", params={"state": "unknown"})).json()["items"]
    assert (listed["hold_id"], listed["max_cost_usd"]) == (hold, "0.001")
    body = {"happened": True, "cost_usd": "0.0005", "reason": "seen on the bill"}
    answers = await asyncio.gather(*(tenant.owner.post(f"/v1/holds/{hold}/resolve", json=body) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5
    shown = (await tenant.owner.get(f"/v1/holds/{hold}")).json()
    assert (shown["state"], shown["cost_usd"], shown["settled_by"]) == ("committed", "0.0005", "user:owner")

    async def heard() -> bool:
        return await world.heard(run_id) == [f"resolution {hold}"]

    await until(heard)
    (cap,) = (await tenant.owner.get("/v1/caps")).json()["items"]
    assert (cap["reserved"], cap["committed"]) == (0, 500_000)


async def test_resolving_again_with_its_key_answers_the_same(tenant: Tenant) -> None:
    hold = await tenant.unknown_hold(await tenant.run(), nano_usd=1_000)
    headers = {"idempotency-key": "resolve"}
    path = f"/v1/holds/{hold}/resolve"
    first = await tenant.owner.post(path, json={"happened": False, "reason": "asked them"}, headers=headers)
    assert (first.json()["state"], first.json()["cost_usd"]) == ("voided", "0")
    again = await tenant.owner.post(path, json={"happened": False, "reason": "asked them"}, headers=headers)
    assert again.json() == first.json()
    changed = await tenant.owner.post(path, json={"happened": True, "reason": "asked them"}, headers=headers)
    problem(changed, 409, "idempotency.conflict")


async def test_only_unknown_holds_can_be_resolved(tenant: Tenant) -> None:
    run_id = await tenant.run()
    decision = await tenant.reserve(run_id, tool="mail.list", args={})
    answer = await tenant.owner.post(f"/v1/holds/{decision.hold_id}/resolve", json={"happened": False, "reason": "x"})
    problem(answer, 409, "resource.conflict")


async def test_decisions_can_be_checked_by_hash(tenant: Tenant) -> None:
    run_id = await tenant.run()
    await tenant.reserve(run_id)
    await tenant.reserve(run_id, step=2, tool="mail.list", args={})
    listed = (await tenant.owner.get("/v1/decisions", params={"run": run_id})).json()["items"]
    assert [(d["kind"], d["verdict"]) for d in listed] == [
        ("tool.call", "allow"),
        ("tool.call", "needs_approval"),
        ("run.admission", "allow"),
    ]
    asked = (await tenant.owner.get("/v1/decisions", params={"run": run_id, "verdict": "needs_approval"})).json()[
        "items"
    ]
    assert [d["reason_codes"] for d in asked] == [["approval.required"]]
    for decision in listed:
        detail = (await tenant.owner.get(f"/v1/decisions/{decision['decision_id']}")).json()
        a, b = (base64.b64decode(detail[f"part_{part}_base64"]) for part in "ab")
        assert (orjson.loads(a), orjson.loads(b)) == (detail["part_a"], detail["part_b"])
        leaf = hashlib.sha256(b"\x00" + hashlib.sha256(a).digest() + hashlib.sha256(b).digest())
        assert leaf.hexdigest() == detail["decision"]["record_hash"]


async def test_roles_and_agents_get_versions_and_runs_keep_theirs(tenant: Tenant, world: World) -> None:
    run_id = await tenant.run()
    before = (await tenant.owner.get("/v1/roles/helper")).json()
    puts = await asyncio.gather(*(tenant.owner.put("/v1/roles/helper", json=role(LOOSE)) for _ in range(5)))
    assert sorted(put.json()["version"] for put in puts) == [2, 3, 4, 5, 6]
    assert puts[0].json()["policy_hash"] != before["policy_hash"]
    assert await world.value("SELECT role_version FROM runs WHERE run_id = $1", UUID(run_id)) == 1
    assert (await tenant.reserve(run_id)).verdict == "needs_approval"
    assert (await tenant.reserve(await tenant.run())).verdict == "allow"


_THINK: Final = {"rule_id": "think", "effect": "permit", "kind": "llm.call"}


@pytest.mark.parametrize(
    "body",
    [
        {"rules": [_THINK]},
        {"rules": []},
        {"rules": "x"},
        {"rules": None},
        {"rules": [_THINK], **role(LOOSE)},
        {"rules": [_THINK], "more": 1},
    ],
)
async def test_a_table_is_refused_and_how_to_say_it_is_told(tenant: Tenant, body: dict[str, Any]) -> None:
    before = (await tenant.owner.get("/v1/roles/helper")).json()
    refused = problem(await tenant.owner.put("/v1/roles/helper", json=body), 422, "role.table")
    assert refused["detail"].startswith("rules: ")
    assert "holdfast policy translate" in refused["remedy"]
    assert (await tenant.owner.get("/v1/roles/helper")).json() == before


@pytest.mark.parametrize(
    "statements",
    [
        "  permit no.such\n",
        "  permit llm.call as x\n  permit mail.list as x\n",
        "  maybe llm.call\n",
        "  permit mail.send where args.none == 1\n",
        '  gate "x": mail.send needs 1 of role("approver"), expires 0s\n',
    ],
)
async def test_a_text_that_means_nothing_is_refused(tenant: Tenant, statements: str) -> None:
    problem(await tenant.owner.put("/v1/roles/helper", json=role(statements)), 422, "policy.refused")


async def test_agents_name_what_exists(tenant: Tenant) -> None:
    good = (await tenant.owner.get("/v1/agents/desk")).json()["definition"]
    for change in (
        {"tools": ["no.such"]},
        {"tools": ["mail.list", "mail.list"]},
        {"role": "nobody"},
        {"limits": {"max_steps": 0}},
        {"model": {"wire": "gemini", "name": "x"}},
        {"temperature": 1},
    ):
        problem(await tenant.owner.put("/v1/agents/desk", json={**good, **change}), 422, "request.invalid")
