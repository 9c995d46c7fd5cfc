"""Gates with several needs in whole runs: a person and an agent, and what neither can do alone."""

from __future__ import annotations

import dataclasses
import json
from uuid import UUID

import pytest

from holdfast.database.engine import transaction
from holdfast.ids import new_id
from holdfast.tenancy.principals import Principal
from holdfast.tenancy.service import create_user

from .harness import Run, Tenant, call, refund, say, task, until
from .test_gate import consent, pending

ALL = "role ROLE { permit llm.call permit tools }\n"
TWO = (
    ALL + "gate four-eyes: payments.refund where args.amount_usd_cents > 100\n"
    '  needs 1 of role("approver"), 1 of agent("risk-reviewer"), expires 30m, not requester\n'
)


@pytest.fixture
async def carla(tenant: Tenant) -> Principal:
    async with transaction(tenant.rig.engine("api"), tenant.tenant_id) as connection:
        user_id = await create_user(connection, tenant.tenant_id, "carla")
    return dataclasses.replace(tenant.ada, user_id=user_id, user="carla", key_id=new_id())


async def review(tenant: Tenant, by: Principal, approval_id: UUID, verdict: str = "approved") -> Run:
    """A run of the reviewing agent, which reads and votes; its model copies the binding that it was shown."""
    binding = await tenant.rig.value("SELECT encode(binding, 'hex') FROM approvals WHERE approval_id = $1", approval_id)
    vote = call(
        "approval.vote", approval_id=str(approval_id), binding=binding, verdict=verdict, reason="looked into it"
    )
    script = task(call("approval.read", approval_id=str(approval_id)), vote, say("done"))
    run = await tenant.start(script, by=by, policy=ALL, agent="risk-reviewer", tools=("approval.read", "approval.vote"))
    assert await run.ended() == "succeeded", await run.story()
    return run


async def told(run: Run) -> list[str]:
    return [entry["content"] for entry in await run.transcript() if entry["kind"] == "tool_result"]


async def test_a_person_and_an_agent_have_to_consent_and_then_it_happens_once(tenant: Tenant, carla: Principal) -> None:
    run = await tenant.start(task(refund("TWO-1", 9_900), say("done")), policy=TWO)
    approval = await pending(run)
    reviewing = await review(tenant, carla, approval)
    read, voted = await told(reviewing)
    assert json.loads(read)["action"]["args"]["order_id"] == "TWO-1", "it saw exactly what would be done"
    assert json.loads(voted) == {"counted": True, "state": "pending"}
    assert not tenant.rig.refunds("TWO-1")
    await consent(run, approval)
    assert await run.ended() == "succeeded", await run.story()
    assert len(tenant.rig.refunds("TWO-1")) == 1
    assert {each["kind"] for each in await reviewing.decisions()} >= {"llm.call", "tool.call"}, "its vote is an action"


async def test_what_the_agent_says_last_releases_the_run_by_itself(tenant: Tenant, carla: Principal) -> None:
    run = await tenant.start(task(refund("TWO-2", 9_900), say("done")), policy=TWO)
    approval = await pending(run)
    await consent(run, approval)
    assert await run.status() == "waiting"
    await review(tenant, carla, approval)
    assert await run.ended() == "succeeded", await run.story()
    assert len(tenant.rig.refunds("TWO-2")) == 1


async def test_the_agents_denial_ends_it_whoever_has_consented(tenant: Tenant, carla: Principal) -> None:
    run = await tenant.start(task(refund("TWO-3", 9_900), say("a pity")), policy=TWO)
    approval = await pending(run)
    await consent(run, approval)
    await review(tenant, carla, approval, "denied")
    assert await run.ended() == "succeeded", await run.story()
    assert not tenant.rig.refunds("TWO-3")
    assert "approval.denied" in await run.codes()


async def test_a_reviewer_that_the_requester_started_is_heard_by_nobody(tenant: Tenant) -> None:
    run = await tenant.start(task(refund("TWO-4", 9_900), say("done")), policy=TWO)
    approval = await pending(run)
    reviewing = await review(tenant, tenant.ada, approval)
    assert "started by the one whose run asks" in (await told(reviewing))[-1]
    assert await tenant.rig.value("SELECT count(*) FROM approval_votes WHERE approval_id = $1", approval) == 0
    await consent(run, approval)
    assert await run.status() == "waiting", "one of two needs is met"
    await run.cancel()
    await run.ended()
    assert not tenant.rig.refunds("TWO-4")


async def test_each_gate_that_speaks_of_an_action_has_to_be_met(tenant: Tenant, carla: Principal) -> None:
    both = TWO + 'gate always: payments.refund needs 1 of role("finance"), expires 30m\n'
    run = await tenant.start(task(refund("TWO-5", 9_900), say("done")), policy=both)
    approval = await pending(run)
    await review(tenant, carla, approval)
    await consent(run, approval)
    assert await run.status() == "waiting", "finance has not been heard"
    assert not tenant.rig.refunds("TWO-5")
    asked = "SELECT count(*) FROM approvals WHERE run_id = $1 AND verdict IS NULL"

    async def still() -> bool:
        return bool(await tenant.rig.value(asked, run.run_id))

    await until(still, what="a question that is open")
    await run.cancel()
    await run.ended()
    assert not tenant.rig.refunds("TWO-5")
