"""Another tenant's things look as if they were not there: on every route that the API describes, now and later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from api.app import create_app
from holdfast.ids import new_id
from holdfast.settings import ApiSettings

from .world import AGENT, Tenant, World, problem

_APP = create_app(ApiSettings(redis_url="redis://x", codec_key_file=Path("/x"), api_database_url="postgresql://x"))
OPERATIONS = [
    (method.upper(), path, operation["operationId"])
    for path, methods in _APP.openapi()["paths"].items()
    for method, operation in methods.items()
]
WITHOUT_KEY = {"get_health", "get_readiness", "list_codes", "explain_code",
               "get_approval_link", "decide_by_link", "decide_by_signature"}  # fmt: skip

# Bodies with which each operation would succeed in the thing's own tenant.
BODIES: Mapping[str, dict[str, Any]] = {
    "send_input": {"mode": "followup", "content": "mine now"},
    "decide_approval": {"verdict": "approved"},
    "create_approval_token": {"verdict": "approved"},
    "create_approval_link": {},
    "delegate_approval": {"to": "somebody"},
    "withdraw_approval": {},
    "add_signer": {"name": "ours", "public_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
    "make_release": {"label": "secret", "reason": "because"},
    "resolve_hold": {"happened": False, "reason": "because"},
    "lift_stop": {"reason": "because"},
    "lift_legal_hold": {"reason": "because"},
}

# Operations that take no id of a thing: what they list and make is of the caller's tenant, which the tests below look at.
NAMELESS = {
    "create_run", "estimate_run",
    "list_runs", "list_approvals", "list_agents", "list_roles", "list_tools", "list_caps", "put_cap", "list_holds",
    "get_spend", "set_stop", "list_stops", "get_retention", "put_retention", "place_legal_hold", "list_legal_holds",
    "ask_erasure", "list_erasures", "add_webhook", "list_webhooks", "add_signer", "list_signers", "export_audit",
    "list_decisions", "stream_decisions", "get_me", "create_key", "list_keys", "create_user", "list_users", "create_project",
    "list_projects", "get_tenant", "put_time_zone", "list_tenants", "create_tenant", "list_credentials",
    "decode_payloads", "encode_payloads", "list_policies", "push_policy", "list_activations", "get_shadow_report",
    "check_policy", "compare_policies", "play_cases", "explain_decision", "activate_policy", "roll_back_policy",
    "shadow_policy", "start_rehearsal", "list_rehearsals",
    "get_log_status", "get_metrics", "get_sandbox_tiers", "put_sandbox_tier",
    "get_checkpoint", "list_checkpoints", "get_checkpoint_of_size", "get_consistency", "get_tile", "list_log_keys", "list_witnesses",
    "add_witness", "remove_witness", "add_cosignature",
}  # fmt: skip
# Operations that go by a name, which every tenant has for itself.
NAMED = {
    "put_agent",
    "get_agent",
    "put_role",
    "get_role",
    "put_tool",
    "get_tool",
    "get_policy",
    "put_credential",
    "delete_credential",
    "revoke_signer",
}


async def things(tenant: Tenant) -> dict[str, str]:
    """Makes one thing of each kind and returns its id by the name of the path's parameter."""
    run_id = await tenant.run()
    decision = await tenant.reserve(run_id)
    hold_id = await tenant.unknown_hold(await tenant.run())
    key_id = (await tenant.owner.get("/v1/me")).json()["key_id"]
    cap_id = (await tenant.owner.get("/v1/caps")).json()["items"][0]["cap_id"]
    body = {"scope": {"kind": "tool", "name": "mail.send"}, "reason": "because"}
    stop_id = (await tenant.owner.post("/v1/stops", json=body)).json()["stop_id"]
    hold = {"run": run_id, "reason": "because"}
    legal_hold_id = (await tenant.owner.post("/v1/audit/legal-holds", json=hold)).json()["legal_hold_id"]
    erasure = {"user": "owner", "reason": "because"}
    erasure_id = (await tenant.owner.post("/v1/audit/erasures", json=erasure)).json()["erasure_id"]
    hook = {"url": "https://hooks.example.com/x", "events": ["hold.unknown"]}
    webhook_id = (await tenant.owner.post("/v1/webhooks", json=hook)).json()["webhook_id"]
    rehearsal = {"source": "role helper { permit llm.call }", "from": "2020-01-01T00:00:00Z"}
    rehearsal_id = (await tenant.owner.post("/v1/policies/rehearsals", json=rehearsal)).json()["rehearsal_id"]
    await tenant.owner.post(f"/v1/policies/rehearsals/{rehearsal_id}/cancel")  # it shall not go on beside the test
    return {
        "rehearsal_id": rehearsal_id,
        "webhook_id": webhook_id,
        "run_id": run_id,
        "approval_id": str(decision.approval_id),
        "decision_id": str(decision.decision_id),
        "hold_id": hold_id,
        "key_id": key_id,
        "cap_id": cap_id,
        "stop_id": stop_id,
        "legal_hold_id": legal_hold_id,
        "erasure_id": erasure_id,
    }


def test_every_operation_is_looked_at() -> None:
    by_id = {name for _, path, name in OPERATIONS if "_id}" in path}
    assert by_id | NAMELESS | NAMED | WITHOUT_KEY == {name for _, _, name in OPERATIONS}
    assert not by_id & (NAMELESS | NAMED | WITHOUT_KEY)


@pytest.mark.parametrize(("method", "path", "name"), [o for o in OPERATIONS if "_id}" in o[1]])
async def test_a_foreign_id_is_not_found_and_nothing_happens(
    world: World, tenant: Tenant, other: Tenant, method: str, path: str, name: str
) -> None:
    mine = await things(tenant)
    stranger = await other.as_user("stranger", "owner", "admin", "developer", "approver", "auditor", "agent")
    tables = (
        "caps",
        "journal",
        "runs",
        "run_inputs",
        "approvals",
        "approval_tokens",
        "approval_votes",
        "approval_delegations",
        "approval_links",
        "signers",
        "releases",
        "policy_rehearsals",
        "holds",
        "api_keys",
        "timeline_events",
        "decisions",
        "stops",
        "webhooks",
        "webhook_deliveries",
    )

    async def state() -> list[Any]:
        queries = [f"SELECT t::text FROM {table} t WHERE tenant_id = $1 ORDER BY 1" for table in tables]
        return [[row[0] for row in await world.fetch(query, tenant.tenant_id)] for query in queries]

    before = await state()
    file = {"step": "0", "name": "orders.csv"}
    answer = await stranger.request(method, path.format(**mine, **file), json=BODIES.get(name))
    body = problem(answer, 404, "resource.not_found")
    nothing = {kind: str(new_id()) for kind in mine}
    missing = problem(
        await stranger.request(method, path.format(**nothing, **file), json=BODIES.get(name)), 404, "resource.not_found"
    )
    parameter = next(kind for kind in mine if f"{{{kind}}}" in path)
    assert body["detail"].replace(mine[parameter], "") == missing["detail"].replace(nothing[parameter], "")
    assert await state() == before


async def test_lists_show_only_what_is_ones_own(tenant: Tenant, other: Tenant) -> None:
    mine = await things(tenant)
    theirs = await things(other)
    for path in (
        "/v1/runs",
        "/v1/approvals",
        "/v1/decisions",
        "/v1/holds",
        "/v1/keys",
        "/v1/users",
        "/v1/caps",
        "/v1/spend?group_by=tenant,run",
        "/v1/stops",
        "/v1/webhooks",
        "/v1/signers",
    ):
        for params in ({}, {"run": theirs["run_id"]}):
            answer = await tenant.owner.get(path, params=params)
            assert answer.status_code == 200
            assert not [thing for thing in theirs.values() if thing in answer.text], path
            assert str(other.tenant_id) not in answer.text
    assert mine["run_id"] in (await tenant.owner.get("/v1/runs")).text


async def test_names_mean_ones_own_things(tenant: Tenant, other: Tenant) -> None:
    changed = {**AGENT, "instructions": "You help only us."}
    assert (await tenant.owner.put("/v1/agents/desk", json=changed)).json()["version"] == 2
    assert (await other.owner.get("/v1/agents/desk")).json()["version"] == 1
    assert (await tenant.owner.put("/v1/agents/only-ours", json=changed)).status_code == 200
    problem(await other.owner.get("/v1/agents/only-ours"), 404, "resource.not_found")
    theirs = {"agent": "only-ours", "input": "x"}
    problem(await other.owner.post("/v1/runs", json=theirs), 404, "resource.not_found")
    run_id = await tenant.run()
    body = {"scope": {"kind": "run", "name": run_id}, "limit_usd": "0", "reason": "x"}
    problem(await other.owner.put("/v1/caps", json=body), 404, "resource.not_found")
    child = {"agent": "desk", "input": "x", "parent_run_id": run_id}
    problem(await other.owner.post("/v1/runs", json=child), 404, "resource.not_found")
    on_run = {"scope_kind": "run", "scope_name": run_id}
    problem(await other.owner.get("/v1/caps", params=on_run), 404, "resource.not_found")


@pytest.mark.parametrize(("method", "path", "name"), [o for o in OPERATIONS if o[2] not in WITHOUT_KEY])
async def test_without_a_key_nothing_is_answered(world: World, method: str, path: str, name: str) -> None:
    names = (
        "run_id", "approval_id", "decision_id", "hold_id", "key_id", "cap_id", "stop_id", "webhook_id", "rehearsal_id",
        "legal_hold_id", "erasure_id",
    )  # fmt: skip
    given = {"name": "desk", "version": 1, "size": 1, "path": "0/000", "step": 0}
    filled = path.format(**given, **{kind: str(new_id()) for kind in names})
    async with world.api.client() as client:
        answer = await client.request(method, filled, json=BODIES.get(name, {} if method in ("POST", "PUT") else None))
    problem(answer, 401, "auth.not_authenticated")
