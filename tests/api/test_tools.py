"""Tools of the tenant's own: who may put them, versions, and what refers to them."""

from __future__ import annotations

from typing import Any

import pytest

from .world import AGENT, GATED, Tenant, World, problem, role

TOOL: dict[str, Any] = {
    "description": "Looks a customer up.",
    "parameters": {
        "type": "object",
        "properties": {"customer": {"type": "string", "maxLength": 40}},
        "required": ["customer"],
    },
    "external": False,
    "idempotent": True,
    "reversible": True,
    "yields": ["untrusted"],
    "credential": "tool.crm",
    "binding": {
        "source": "openapi",
        "method": "GET",
        "path": "/customers/{customer}",
        "places": {"customer": {"where": "path", "name": "customer"}},
    },
}


async def test_a_change_is_a_new_version_and_the_same_again_is_not(tenant: Tenant, world: World) -> None:
    first = (await tenant.owner.put("/v1/tools/crm.lookup", json=TOOL)).json()
    again = (await tenant.owner.put("/v1/tools/crm.lookup", json=TOOL)).json()
    assert (first["version"], again["version"], again["digest"]) == (1, 1, first["digest"])
    other = (await tenant.owner.put("/v1/tools/crm.lookup", json={**TOOL, "description": "Finds one."})).json()
    assert other["version"] == 2
    assert other["digest"] != first["digest"]
    assert (await tenant.owner.get("/v1/tools/crm.lookup")).json() == other
    back = (await tenant.owner.put("/v1/tools/crm.lookup", json=TOOL)).json()
    assert (back["version"], back["digest"]) == (3, first["digest"])
    (recorded,) = (await tenant.owner.get("/v1/decisions", params={"code": "tool.put", "limit": 1})).json()["items"]
    assert recorded["kind"] == "config"


async def test_tools_are_listed_by_name_page_by_page(tenant: Tenant) -> None:
    for name in ("crm.c", "crm.a", "crm.b"):
        assert (await tenant.owner.put(f"/v1/tools/{name}", json=TOOL)).status_code == 200
    page = (await tenant.owner.get("/v1/tools", params={"limit": 2})).json()
    rest = (await tenant.owner.get("/v1/tools", params={"cursor": page["next_cursor"]})).json()
    assert [one["name"] for one in (*page["items"], *rest["items"])] == ["crm.a", "crm.b", "crm.c"]


@pytest.mark.parametrize("roles", [["developer"], ["approver"], ["viewer"], ["auditor"]])
async def test_only_owners_and_admins_say_which_credential_goes_where(tenant: Tenant, roles: list[str]) -> None:
    other = await tenant.as_user("someone", *roles)
    problem(await other.put("/v1/tools/crm.lookup", json=TOOL), 403, "auth.not_permitted")


async def test_another_tenants_tool_is_not_there(tenant: Tenant, other: Tenant) -> None:
    assert (await tenant.owner.put("/v1/tools/crm.lookup", json=TOOL)).status_code == 200
    problem(await other.owner.get("/v1/tools/crm.lookup"), 404, "resource.not_found")
    assert (await other.owner.get("/v1/tools")).json()["items"] == []
    agent = {**AGENT, "tools": ["crm.lookup"]}
    problem(await other.owner.put("/v1/agents/helper", json=agent), 422, "request.invalid")


@pytest.mark.parametrize(
    "name", ["mail.send", "crm", "Crm.lookup", "crm.look__up", "crm..x", "a.b.c.d.e", "x." + "y" * 60]
)
async def test_a_name_is_dotted_and_not_one_that_is_taken(tenant: Tenant, name: str) -> None:
    problem(await tenant.owner.put(f"/v1/tools/{name}", json=TOOL), 422, "request.invalid")


@pytest.mark.parametrize(
    "change",
    [
        {"credential": "provider.anthropic"},
        {"credential": None},
        {"external": None},
        {"parameters": {"type": "object", "properties": {"customer": {"type": "number"}}}},
        {"parameters": {"type": "object", "properties": {"other": {"type": "string"}}}},
        {"binding": {"source": "shell", "command": "rm"}},
        {"binding": {**TOOL["binding"], "path": "/customers"}},
        {"binding": {**TOOL["binding"], "path": "https://elsewhere.example/{customer}"}},
        {"binding": {**TOOL["binding"], "places": {}}},
        {"binding": {**TOOL["binding"], "places": {"customer": {"where": "body", "name": "x"}}, "path": "/customers"}},
        {"binding": {"source": "python", "function": "os.system"}},
        {"external": True, "binding": {"source": "sql", "statement": "SELECT $1", "arguments": ["customer"]}},
        {"binding": {"source": "sql", "statement": "SELECT 1", "arguments": []}},
        {"timeout_ms": 0},
        {"more": 1},
        {"description": "x" * 4_001},
    ],
)
async def test_a_definition_says_all_that_has_to_be_known(tenant: Tenant, change: dict[str, Any]) -> None:
    problem(await tenant.owner.put("/v1/tools/crm.lookup", json={**TOOL, **change}), 422, "request.invalid")


async def test_agents_and_rules_name_tools_that_exist(tenant: Tenant) -> None:
    looking = role(f"{GATED}  permit crm.lookup\n")
    agent = {**AGENT, "tools": ["crm.lookup", "mail.list"]}
    refused = problem(await tenant.owner.put("/v1/roles/helper", json=looking), 422, "policy.refused")
    assert "crm.lookup" in refused["detail"]
    problem(await tenant.owner.put("/v1/agents/helper", json=agent), 422, "request.invalid")
    await tenant.owner.put("/v1/tools/crm.lookup", json=TOOL)
    assert (await tenant.owner.put("/v1/roles/helper", json=looking)).status_code == 200
    assert (await tenant.owner.put("/v1/agents/helper", json=agent)).status_code == 200


async def test_a_run_is_pinned_to_the_versions_that_were_newest(tenant: Tenant, world: World) -> None:
    await tenant.owner.put("/v1/tools/crm.lookup", json=TOOL)
    await tenant.owner.put("/v1/agents/helper", json={**AGENT, "tools": ["crm.lookup", "mail.list"]})
    runs = []
    for description in ("one", "two"):
        put = await tenant.owner.put("/v1/tools/crm.lookup", json={**TOOL, "description": description})
        started = await tenant.owner.post("/v1/runs", json={"agent": "helper", "input": "hello"})
        assert started.status_code in (200, 201), started.text
        runs.append((started.json()["run_id"], put.json()["version"]))
    for run_id, version in runs:
        (row,) = await world.fetch("SELECT tools FROM runs WHERE run_id = $1::uuid", run_id)
        assert row["tools"] in ({"crm.lookup": version}, f'{{"crm.lookup": {version}}}')
