"""Gates with several needs in whole runs: a person and an agent, and what neither can do alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest

from holdfast.database.engine import transaction
from holdfast.ids import new_id
from holdfast.tenancy.principals import Principal
from holdfast.tenancy.service import create_user
from holdfast_verdict.canonical import canonical_bytes
from holdfast_verdict.verify.lines import Line
from tests.verify.checking import Check, said
from tests.verify.record_golden import content
from tests.verify.sealing import TestLog

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


async def voted(tenant: Tenant, carla: Principal) -> tuple[Run, Run]:
    """A run whose action a person and an agent have consented to, and the agent's run."""
    run = await tenant.start(task(refund("VOTE-1", 9_900), say("done")), policy=TWO)
    approval = await pending(run)
    reviewing = await review(tenant, carla, approval)
    await consent(run, approval)
    assert await run.ended() == "succeeded", await run.story()
    for each in (run, reviewing):
        await each.settled()
    return run, reviewing


def vote_in(lines: list[Line]) -> dict[str, Any]:
    """The line of the agent's vote."""
    return next(line for line in lines if line.get("kind") == "approval" and '"voter":"agent"' in str(line["part_a"]))


async def test_an_agents_vote_is_recorded_like_a_persons_and_verified(
    tenant: Tenant, carla: Principal, tmp_path: Path
) -> None:
    run, reviewing = await voted(tenant, carla)
    [vote] = [one for one in await run.decisions() if one["kind"] == "approval" and b'"voter":"agent"' in one["part_a"]]
    said_of_it = orjson.loads(vote["part_a"])
    assert canonical_bytes(said_of_it) == vote["part_a"]
    assert canonical_bytes(orjson.loads(vote["part_b"])) == vote["part_b"]
    facts = said_of_it["facts"]
    [cast] = [one for one in await reviewing.decisions() if str(one["decision_id"]) == facts["decision_id"]]
    assert facts["subject"] == orjson.loads(cast["part_a"])["subject"]
    assert facts["subject"]["run_id"] == facts["run_id"] == str(reviewing.run_id)
    [asked] = [one for one in await run.decisions() if one["verdict"] == "needs_approval"]
    assert (facts["step"], facts["rule"]) == (asked["step"], orjson.loads(asked["part_a"])["evaluated"]["rule_id"])
    check = Check(tmp_path / "bundle.jsonl")
    for scope in (run.run_id, None):
        lines = await content(tenant.rig, tenant.tenant_id, scope)
        report = check(TestLog(f"holdfast.example/{tenant.tenant_id}").bundle(lines))
        assert report.holds, said(report)


def set_facts(**changes: object) -> Callable[[list[Line]], None]:
    def change(lines: list[Line]) -> None:
        line = vote_in(lines)
        part = orjson.loads(line["part_a"])
        part["facts"].update({name: value for name, value in changes.items() if name != "subject"})
        part["facts"]["subject"].update(changes.get("subject", {}))
        line["part_a"] = canonical_bytes(part).decode()

    return change


def as_before(lines: list[Line]) -> None:
    """The record as it was when it had neither subject nor step nor rule."""
    line = vote_in(lines)
    part = orjson.loads(line["part_a"])
    kept = ("action_digest", "agent", "binding", "decision_id", "run_id", "state", "verdict")
    part["facts"] = {name: part["facts"][name] for name in kept}
    line["part_a"] = canonical_bytes(part).decode()


async def test_a_vote_that_is_forged_is_found(tenant: Tenant, carla: Principal, tmp_path: Path) -> None:
    """By somebody who has the log's key, too: records are changed and signed anew."""
    run, _ = await voted(tenant, carla)
    check = Check(tmp_path / "bundle.jsonl")
    [thought] = [one for one in await run.decisions() if one["step"] == 1]
    forgeries: dict[str, Callable[[list[Line]], None]] = {
        "given at another gate or step": set_facts(step=7),
        "at another gate or step": set_facts(rule="another"),
        "names another agent or run than its subject": set_facts(subject={"agent": "somebody"}),
        "and no record has one": set_facts(agent="somebody"),
        "which allowed no such vote": set_facts(decision_id=str(thought["decision_id"])),
        "cites another step than its subject's": set_facts(subject={"step": 1}),
        "by the agent that asked for it": set_facts(run_id=str(run.run_id), subject={"run_id": str(run.run_id)}),
        "a consent of the agent risk-reviewer": lambda lines: lines.remove(vote_in(lines)),
        "given for another action": set_facts(action_digest="00" * 32),
    }
    for words, forge in forgeries.items():
        lines = await content(tenant.rig, tenant.tenant_id, None)
        forge(lines)
        report = check(TestLog(f"holdfast.example/{tenant.tenant_id}").bundle(lines))
        assert not report.holds, words
        assert words in said(report), (words, said(report))
    lines = await content(tenant.rig, tenant.tenant_id, None)
    as_before(lines)
    report = check(TestLog(f"holdfast.example/{tenant.tenant_id}").bundle(lines))
    assert report.holds, said(report)
