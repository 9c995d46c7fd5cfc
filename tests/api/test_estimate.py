"""Estimating a run: the same economics as admission, against every cap that applies, and nothing is taken."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .world import AGENT, Tenant, World, problem

BODY: dict[str, Any] = {"agent": "desk", "input": "hello"}


async def estimated(tenant: Tenant, **body: Any) -> dict[str, Any]:
    answer = await tenant.owner.post("/v1/estimate", json={**BODY, **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_each_cap_that_applies_is_named_with_what_it_has_left(tenant: Tenant) -> None:
    for unit, amount in (("tokens", 10), ("calls", 1), ("slots", 1)):
        body = {"scope": {"kind": "user", "name": "owner"}, "unit": unit, "limit_amount": amount, "reason": "test"}
        (await tenant.owner.put("/v1/caps", json=body)).raise_for_status()
    found = await estimated(tenant)
    assert (found["admitted"], found["code"]) == (True, "admission.affordable")
    assert found["output_tokens_bound"] == AGENT["max_tokens"]
    assert 0 < found["floor_nano_usd"] < found["first_call_nano_usd"]
    caps = {(cap["scope_kind"], cap["scope_name"], cap["unit"]): cap for cap in found["caps"]}
    assert set(caps) == {
        ("tenant", tenant.slug, "nano_usd"),
        ("user", "owner", "tokens"),
        ("user", "owner", "calls"),
        ("user", "owner", "slots"),
    }
    money = caps["tenant", tenant.slug, "nano_usd"]
    assert (money["available"], money["needed"], money["affords"]) == (
        5_000_000_000,
        found["first_call_nano_usd"],
        True,
    )
    tokens = caps["user", "owner", "tokens"]
    assert tokens["needed"] == found["input_tokens_bound"] + found["output_tokens_bound"]
    assert not tokens["affords"]
    assert caps["user", "owner", "calls"]["affords"]


async def test_it_says_what_admission_would_say(tenant: Tenant) -> None:
    for limit_usd, body in (("0", {}), ("0.0001", {}), ("5", {"cap_usd": "0.000001"}), ("0.2", {"guaranteed": True})):
        await tenant.set_cap(limit_usd)
        found = await estimated(tenant, **body)
        assert not found["admitted"]
        refused = problem(await tenant.owner.post("/v1/runs", json={**BODY, **body}), 402, "budget.insufficient")
        assert found["code"] == "budget.insufficient"
        assert refused["detail"].startswith(found["message"])


async def test_nothing_is_reserved_recorded_or_started(tenant: Tenant, world: World) -> None:
    tables = ("holds", "decisions", "runs", "journal", "timeline_events", "idempotency_keys")

    async def counts() -> list[int]:
        where = "WHERE tenant_id = $1"
        return [await world.value(f"SELECT count(*) FROM {table} {where}", tenant.tenant_id) for table in tables]

    before = await counts()
    await asyncio.gather(*(estimated(tenant, guaranteed=bool(n % 2)) for n in range(10)))
    assert await counts() == before
    (cap,) = (await tenant.owner.get("/v1/caps")).json()["items"]
    assert (cap["reserved"], cap["committed"]) == (0, 0)


async def test_a_model_without_a_price_cannot_be_estimated_and_that_is_said(tenant: Tenant) -> None:
    model = {"wire": "openai", "name": "nobody-knows-this"}
    (await tenant.owner.put("/v1/agents/odd", json={**AGENT, "model": model})).raise_for_status()
    found = await estimated(tenant, agent="odd")
    assert (found["admitted"], found["code"], found["first_call_nano_usd"]) == (False, "price.unknown", None)
    assert found["caps"] == []


async def test_the_dearest_of_all_targets_counts(tenant: Tenant) -> None:
    model = {**AGENT["model"], "fallbacks": [{"wire": "openai", "name": "gpt-4o-mini"}]}
    dear = {"wire": "anthropic", "name": "claude-opus-4-1"}
    amounts = []
    for fallbacks in (model["fallbacks"], [*model["fallbacks"], dear]):
        agent = {**AGENT, "model": {**model, "fallbacks": fallbacks}}
        (await tenant.owner.put("/v1/agents/routed", json=agent)).raise_for_status()
        found = await estimated(tenant, agent="routed")
        amounts.append((found["dearest_model"], found["first_call_nano_usd"], found["floor_nano_usd"]))
        assert found["model"] == AGENT["model"]["name"]
        assert {cap["needed"] for cap in found["caps"] if cap["unit"] == "nano_usd"} == {found["first_call_nano_usd"]}
    plain = await estimated(tenant)
    assert amounts[0] == (AGENT["model"]["name"], plain["first_call_nano_usd"], plain["floor_nano_usd"])
    assert amounts[1][0] == dear["name"]
    assert amounts[1][1] > 4 * amounts[0][1]
    assert amounts[1][2] > 4 * amounts[0][2]
    unpriced = {**AGENT, "model": {**model, "fallbacks": [{"wire": "openai", "name": "nobody-knows-this"}]}}
    (await tenant.owner.put("/v1/agents/routed", json=unpriced)).raise_for_status()
    assert (await estimated(tenant, agent="routed"))["code"] == "price.unknown"


async def test_a_route_names_no_target_twice(tenant: Tenant) -> None:
    model = {**AGENT["model"], "fallbacks": [AGENT["model"]]}
    refused = problem(
        await tenant.owner.put("/v1/agents/routed", json={**AGENT, "model": model}), 422, "request.invalid"
    )
    assert "twice" in refused["detail"]


async def test_without_a_bound_the_estimate_shows_the_one_that_a_call_would_get(tenant: Tenant) -> None:
    agent = {name: value for name, value in AGENT.items() if name != "max_tokens"}
    (await tenant.owner.put("/v1/agents/open", json=agent)).raise_for_status()
    assert (await estimated(tenant, agent="open"))["output_tokens_bound"] == 4_096
    scarce = await estimated(tenant, agent="open", cap_usd="0.05")
    assert 256 < scarce["output_tokens_bound"] < 4_096
    assert scarce["run_affords"]
    policy = (await tenant.owner.get("/v1/roles/helper")).json()["policy"]
    role = {"policy": policy, "max_tokens_default": 700}
    stored = (await tenant.owner.put("/v1/roles/helper", json=role)).raise_for_status().json()
    assert stored["max_tokens_default"] == 700
    assert (await estimated(tenant, agent="open"))["output_tokens_bound"] == 700
    assert (await estimated(tenant))["output_tokens_bound"] == AGENT["max_tokens"]
    for wrong in (255, 200_001, "700"):
        answer = await tenant.owner.put("/v1/roles/helper", json={"policy": policy, "max_tokens_default": wrong})
        problem(answer, 422, "request.invalid")
    assert scarce["floor_nano_usd"] == (await estimated(tenant, agent="open"))["floor_nano_usd"]


@pytest.mark.parametrize("body", [{"agent": "nobody"}, {"project": "nowhere"}])
async def test_what_is_not_there_is_said(tenant: Tenant, body: dict[str, Any]) -> None:
    problem(await tenant.owner.post("/v1/estimate", json={**BODY, **body}), 404, "resource.not_found")


async def test_only_those_who_may_start_a_run_may_ask(tenant: Tenant) -> None:
    viewer = await tenant.as_user("vera", "viewer")
    problem(await viewer.post("/v1/estimate", json=BODY), 403, "auth.not_permitted")
    agent = await tenant.as_user("agent", "agent")
    assert (await agent.post("/v1/estimate", json=BODY)).status_code == 200
