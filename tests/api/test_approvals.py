"""Approvals: the right person, once, in time, for exactly these arguments."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest

from holdfast.approvals import tokens
from holdfast.database.engine import transaction
from holdfast_verdict.canonical import digest
from holdfast_verdict.engine.gates import approval_binding
from holdfast_verdict.language.compiler import compile_policy

from .world import REFUND, Tenant, World, problem, until


async def asked(tenant: Tenant, **how: Any) -> tuple[str, str]:
    """Returns a run and the approval that it waits for."""
    run_id = await tenant.run()
    decision = await tenant.reserve(run_id, **how)
    assert decision.verdict == "needs_approval"
    return run_id, str(decision.approval_id)


async def decide(client: httpx.AsyncClient, approval: str, verdict: str, **more: Any) -> httpx.Response:
    return await client.post(f"/v1/approvals/{approval}/decide", json={"verdict": verdict, **more})


async def test_an_approver_sees_everything_and_decides(tenant: Tenant, world: World) -> None:
    run_id, approval = await asked(tenant)
    approver = await tenant.as_user("anna", "approver")
    (listed,) = (await approver.get("/v1/approvals", params={"state": "pending", "run": run_id})).json()["items"]
    assert listed["action"] == {"kind": "tool.call", "tool": "payments.refund", "args": REFUND}
    assert (listed["rule"], listed["approver_role"], listed["requester"]) == ("big-refund", "approver", "owner")
    decided = await decide(approver, approval, "approved", comment="fine")
    assert decided.status_code == 200, decided.text
    assert (decided.json()["state"], decided.json()["decided_by"]) == ("approved", "anna")
    (record,) = await world.fetch(
        "SELECT * FROM decisions WHERE approval_id = $1 AND kind = 'approval'", UUID(approval)
    )
    assert (record["verdict"], list(record["reason_codes"])) == ("allow", ["approval.approved"])
    facts = orjson.loads(record["part_a"])["facts"]
    assert facts["subject"]["user"] == "anna"
    (event,) = await world.fetch(
        "SELECT channel, data FROM timeline_events WHERE run_id = $1 AND type = 'approval.decided'", UUID(run_id)
    )
    assert event["channel"] == "approval"

    async def heard() -> bool:
        return await world.heard(run_id) == [f"approval {approval}"]

    await until(heard)
    assert await world.value("SELECT signalled_at FROM approvals WHERE approval_id = $1", UUID(approval)) is not None


async def test_the_same_again_gets_the_same_answer_and_another_is_refused(tenant: Tenant) -> None:
    _, approval = await asked(tenant)
    approver = await tenant.as_user("anna", "approver")
    first = await decide(approver, approval, "denied")
    assert first.status_code == 200
    assert (await decide(approver, approval, "denied")).json() == first.json()
    problem(await decide(approver, approval, "approved"), 409, "approval.decided")


async def test_approve_and_deny_at_once_is_exactly_one(tenant: Tenant, world: World) -> None:
    approvers = [await tenant.as_user(f"anna{n}", "approver") for n in range(4)]
    for _ in range(5):
        run_id, approval = await asked(tenant)
        answers = await asyncio.gather(
            *(decide(client, approval, ("approved", "denied")[n % 2]) for n, client in enumerate(approvers))
        )
        assert sorted(answer.status_code for answer in answers) == [200, 200, 409, 409]
        states = {answer.json()["state"] for answer in answers if answer.status_code == 200}
        assert len(states) == 1
        kinds = "SELECT count(*) FROM decisions WHERE approval_id = $1 AND kind = 'approval'"
        assert await world.value(kinds, UUID(approval)) == 1
        events = "SELECT count(*) FROM timeline_events WHERE run_id = $1 AND type = 'approval.decided'"
        assert await world.value(events, UUID(run_id)) == 1


@pytest.mark.parametrize("roles", [["owner"], ["admin"], ["owner", "admin", "developer", "auditor"], ["approver-x"]])
async def test_other_roles_do_not_stand_in_for_the_approver(tenant: Tenant, world: World, roles: list[str]) -> None:
    _, approval = await asked(tenant)
    someone = await tenant.as_user("someone", *roles)
    problem(await decide(someone, approval, "approved"), 403, "approval.not_eligible")
    refused = "SELECT count(*) FROM decisions WHERE approval_id = $1 AND verdict = 'deny' AND kind = 'approval'"
    assert await world.value(refused, UUID(approval)) == 1
    assert await world.value("SELECT verdict FROM approvals WHERE approval_id = $1", UUID(approval)) is None


async def test_the_requester_cannot_approve_with_any_key(tenant: Tenant) -> None:
    _, approval = await asked(tenant)
    problem(await decide(tenant.owner, approval, "approved"), 403, "approval.not_eligible")
    another_key = await tenant.as_user("owner", "approver")
    problem(await decide(another_key, approval, "approved"), 403, "approval.not_eligible")
    problem(
        await another_key.post(f"/v1/approvals/{approval}/tokens", json={"verdict": "approved"}),
        403,
        "approval.not_eligible",
    )


async def test_too_late_is_too_late(tenant: Tenant) -> None:
    approver = await tenant.as_user("anna", "approver")
    _, expired = await asked(tenant, approval_s=-1)
    problem(await decide(approver, expired, "approved"), 409, "approval.expired")
    assert (await approver.get(f"/v1/approvals/{expired}")).json()["state"] == "expired"
    run_id, ended = await asked(tenant)
    await tenant.end(run_id)
    problem(await decide(approver, ended, "approved"), 409, "approval.expired")


async def test_edited_arguments_are_checked_and_bound(tenant: Tenant, world: World) -> None:
    _, approval = await asked(tenant)
    approver = await tenant.as_user("anna", "approver")
    for wrong in ({**REFUND, "amount_usd_cents": "1"}, {**REFUND, "more": 1}, {}):
        answer = await decide(approver, approval, "approved", edited_arguments=wrong)
        problem(answer, 422, "request.invalid")
    problem(await decide(approver, approval, "denied", edited_arguments=REFUND), 422, "request.invalid")
    smaller = {**REFUND, "order_id": "a-1003", "amount_usd_cents": 500}
    decided = await decide(approver, approval, "approved", edited_arguments=smaller)
    normal = {"kind": "tool.call", "tool": "payments.refund", "args": {**REFUND, "amount_usd_cents": 500}}
    assert decided.json()["edited_action"] == normal
    problem(await decide(approver, approval, "approved"), 409, "approval.decided")
    assert (await decide(approver, approval, "approved", edited_arguments=smaller)).status_code == 200
    (row,) = await world.fetch(
        """SELECT a.binding, a.expires_at, o.source FROM approvals a JOIN runs r USING (tenant_id, run_id)
           JOIN roles o ON o.tenant_id = r.tenant_id AND o.name = r.role_name AND o.version = r.role_version
           WHERE approval_id = $1""",
        UUID(approval),
    )
    policy = compile_policy(row["source"])
    gate = next(rule.gate for rule in policy.rules if rule.id == "big-refund")
    assert gate is not None
    expiry = int(row["expires_at"].timestamp() * 1000)
    assert row["binding"] == approval_binding(policy.policy_hash, digest(normal), "big-refund", gate, expiry)


async def test_arguments_that_were_only_spelled_differently_are_not_edited(tenant: Tenant) -> None:
    _, approval = await asked(tenant)
    approver = await tenant.as_user("anna", "approver")
    same = {**REFUND, "order_id": "a-1003"}
    assert (await decide(approver, approval, "approved", edited_arguments=same)).json()["edited_action"] is None


async def token_for(client: httpx.AsyncClient, approval: str, verdict: str) -> str:
    answer = await client.post(f"/v1/approvals/{approval}/tokens", json={"verdict": verdict})
    assert answer.status_code == 201, answer.text
    token: str = answer.json()["token"]
    return token


async def redeem(world: World, tenant: Tenant, run_id: str, approval: str, token: str) -> str:
    """Does what the governor does when a signal with a token comes."""
    async with transaction(world.engine("governor"), tenant.tenant_id) as connection:
        return await tokens.state_for_run(connection, tenant.tenant_id, UUID(run_id), UUID(approval), token=token)


async def test_a_token_decides_once_and_only_its_own_approval(tenant: Tenant, world: World) -> None:
    run_id, approval = await asked(tenant)
    other_run, other_approval = await asked(tenant)
    approver = await tenant.as_user("anna", "approver")
    token = await token_for(approver, approval, "approved")
    assert await redeem(world, tenant, other_run, other_approval, token) == "pending"
    for wrong in ("", "x", token[:-1], token + "A", "A" * 43, "ä" * 43):
        assert await redeem(world, tenant, run_id, approval, wrong) == "pending"
    assert await redeem(world, tenant, other_run, approval, token) == "unknown"
    states = await asyncio.gather(*(redeem(world, tenant, run_id, approval, token) for _ in range(5)))
    assert set(states) == {"approved"}
    (record,) = await world.fetch(
        "SELECT part_a FROM decisions WHERE approval_id = $1 AND kind = 'approval'", UUID(approval)
    )
    assert orjson.loads(record["part_a"])["facts"]["subject"]["user"] == "anna"
    assert token.encode() not in record["part_a"]
    problem(await decide(approver, approval, "denied"), 409, "approval.decided")


async def test_a_token_is_worth_nothing_when_it_is_too_late(tenant: Tenant, world: World) -> None:
    run_id, approval = await asked(tenant)
    approver = await tenant.as_user("anna", "approver")
    token = await token_for(approver, approval, "approved")
    await world.execute(
        "UPDATE approvals SET expires_at = now() - interval '1 second' WHERE approval_id = $1", UUID(approval)
    )
    assert await redeem(world, tenant, run_id, approval, token) == "expired"
    problem(
        await approver.post(f"/v1/approvals/{approval}/tokens", json={"verdict": "denied"}), 409, "approval.expired"
    )


async def test_a_token_and_a_call_race_to_one_decision(tenant: Tenant, world: World) -> None:
    approver = await tenant.as_user("anna", "approver")
    for _ in range(5):
        run_id, approval = await asked(tenant)
        token = await token_for(approver, approval, "denied")
        state, answer = await asyncio.gather(
            redeem(world, tenant, run_id, approval, token), decide(approver, approval, "approved")
        )
        assert (state, answer.status_code) in {("denied", 409), ("approved", 200)}
