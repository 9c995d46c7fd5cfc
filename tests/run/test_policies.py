"""Runs under a written policy: what they have done and read counts, and every record gives its verdict again."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text as sql

from holdfast.database.engine import transaction
from holdfast.decisions import sealed
from holdfast.policies import shadow, store
from holdfast_verdict import Facts, decide
from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.canonical import canonical_bytes, digest
from holdfast_verdict.language.compiler import compile_policy

from .harness import Run, Tenant, call, calls, mail, refund, say, task

ALL = "role ROLE { permit llm.call permit tools }\n"


async def tool_codes(run: Run) -> list[str]:
    """Codes of the decisions on tool calls, in order."""
    assert await run.ended() == "succeeded", await run.story()
    return [each["reason_codes"][0] for each in await run.decisions() if each["kind"] == "tool.call"]


async def check_records(run: Run) -> None:
    """Decides again from each record alone, with the personal values that were taken out of it (LAW 8)."""
    tenant_id = run.tenant.tenant_id
    salt = await run.rig.value("SELECT salt FROM run_salts WHERE run_id = $1", run.run_id)
    async with transaction(run.rig.engine("governor"), tenant_id) as connection:
        policy = (await store.read_pinned(connection, tenant_id, run.run_id)).policy
    for each in await run.decisions():
        if each["kind"] not in ("tool.call", "llm.call"):
            continue
        part_a = sealed.opened(each["part_a"], salt)
        assert part_a is not None
        record: dict[str, Any] = json.loads(part_a)
        assert record["policy_hash"] == policy.policy_hash.hex()
        value = record["action"]
        name = value["tool"] if value["kind"] == "tool.call" else value["kind"]
        yields = {path: tuple(labels) for path, labels in record["boundary"]["yields"].items()}
        action = CanonicalAction(
            name, value["kind"], value, canonical_bytes(value), digest(value), record["boundary"]["external"], yields
        )
        again = decide(policy, action, Facts.from_json(record["facts"]))
        assert {"verdict": again.verdict, "code": again.code, "rule_id": again.rule_id} == record["evaluated"]


async def test_what_was_done_before_counts(tenant: Tenant) -> None:
    policy = ALL + "invariant two-mails: at most 2 mail.send per run\n"
    script = task(mail("one"), mail("two"), mail("three"), refund("A-1003"), say("done"))
    run = await tenant.start(script, policy=policy)
    assert await tool_codes(run) == ["policy.permitted", "policy.permitted", "policy.invariant", "policy.permitted"]
    await check_records(run)


async def test_actions_that_are_decided_side_by_side_see_one_another(tenant: Tenant) -> None:
    policy = ALL + "invariant one-mail: at most 1 mail.send per run\n"
    script = task(calls(*(mail(f"side by side {number}") for number in range(5))), say("done"))
    run = await tenant.start(script, policy=policy)
    codes = await tool_codes(run)
    assert sorted(codes) == ["policy.invariant"] * 4 + ["policy.permitted"]


async def test_what_is_required_must_have_succeeded(tenant: Tenant) -> None:
    policy = ALL + "invariant refund-first: mail.send requires payments.refund succeeded within 1h\n"
    script = task(mail("too early"), refund("A-1003"), mail("after it"), say("done"))
    run = await tenant.start(script, policy=policy)
    assert await tool_codes(run) == ["policy.invariant", "policy.permitted", "policy.permitted"]
    await check_records(run)


async def test_what_was_read_marks_the_run(tenant: Tenant) -> None:
    policy = ALL + 'forbid mail.send when run has untrusted code "mail.after_reading"\n'
    script = task(mail("before"), call("mail.list"), mail("after"), say("done"))
    run = await tenant.start(script, policy=policy)
    assert await tool_codes(run) == ["policy.permitted", "policy.permitted", "mail.after_reading"]
    await check_records(run)


async def test_a_policy_that_vouches_for_an_output_leaves_no_mark(tenant: Tenant) -> None:
    policy = (
        ALL
        + "label mail.list yields secret\nforbid mail.send when run has secret\nforbid payments.refund when run has secret2\n"
    )
    script = task(call("mail.list"), mail("after"), refund("A-1003"), say("done"))
    run = await tenant.start(script, policy=policy)
    assert await tool_codes(run) == ["policy.permitted", "policy.label", "policy.permitted"]


async def test_where_a_value_is_from_is_told_by_the_transcript(tenant: Tenant) -> None:
    policy = "role ROLE { permit llm.call permit mail.list permit mail.send where args.to from user }\n"
    script = task(mail("to whom I said"), say("done"), words="please write to jo@customer.example")
    run = await tenant.start(script, policy=policy)
    assert await tool_codes(run) == ["policy.permitted"]
    await check_records(run)


async def test_what_other_runs_of_the_tenant_did_counts(tenant: Tenant) -> None:
    policy = ALL + "invariant few: at most 2 mail.send within 1h per tenant\n"
    for run_number, expected in enumerate((["policy.permitted"], ["policy.permitted"], ["policy.invariant"])):
        run = await tenant.start(task(mail(f"of run {run_number}"), say("done")), policy=policy)
        assert await tool_codes(run) == expected
        await check_records(run)


@pytest.mark.usefixtures("hour")  # all of it is of one day
@pytest.mark.parametrize("per", ["per run", "per day per user"])
async def test_a_limit_holds(tenant: Tenant, per: str) -> None:
    policy = (
        ALL
        + f"limit payments.refund sum(args.amount_usd_cents) <= 2_000 {per} as refunds\nlimit spend <= usd(5) {per}\n"
    )
    script = task(refund("A-1003", 1_250), refund("A-1004", 900), refund("A-1004", 750), say("done"))
    run = await tenant.start(script, policy=policy)
    assert await tool_codes(run) == ["policy.permitted", "policy.limit", "policy.permitted"]
    await check_records(run)


@pytest.mark.usefixtures("hour")  # all of it is of one day
@pytest.mark.parametrize("per", ["per run", "per day per user"])
async def test_a_guaranteed_budget_uses_nothing_of_a_limit(tenant: Tenant, per: str) -> None:
    limits = f"limit spend <= usd(1) {per}\nlimit tools count <= 2 {per} as twice\n"
    run = await tenant.start(
        task(mail("one"), mail("two"), mail("three"), say("done")),
        policy=ALL + limits,
        guaranteed=True,
        run_cap_nano_usd=1_000_000_000,
    )
    assert await tool_codes(run) == ["policy.permitted", "policy.permitted", "policy.limit"]
    await check_records(run)


async def looked_at(run: Run, text: str) -> UUID:
    """Admits a candidate for the run's role into the shadow."""
    tenant = run.tenant
    async with transaction(run.rig.engine("api"), tenant.tenant_id) as connection:
        role = await connection.scalar(sql("SELECT role_name FROM runs WHERE run_id = :run_id"), {"run_id": run.run_id})
        source = text.replace("ROLE", role)
        put = await store.put(connection, tenant.tenant_id, source, compile_policy(source), put_by="test")
        await store.shadow(connection, tenant.tenant_id, put.policy_id, by="test")
    return put.policy_id


async def test_a_candidate_is_asked_beside_the_policy_and_changes_nothing(tenant: Tenant) -> None:
    """With its own history: it counts what was done, not what it would have let pass."""
    script = task(mail("one"), mail("two"), refund("A-1003"), mail("three"), say("done"))
    async with tenant.rig.nothing_swept():  # it starts when there is a candidate
        run = await tenant.admit(script, policy=ALL)
        candidate = await looked_at(
            run, ALL + "invariant one-mail: at most 1 mail.send per run\nforbid payments.refund as never\n"
        )
        await run.start()
    assert await tool_codes(run) == ["policy.permitted"] * 4
    await check_records(run)
    async with transaction(run.rig.engine("governor"), tenant.tenant_id) as connection:
        found = await shadow.report(connection, tenant.tenant_id, candidate, count=10)
    assert found.decisions == len([each for each in await run.decisions() if each["kind"] == "llm.call"]) + 4
    told = {(each.action, each.active_verdict, each.verdict, each.code, each.decisions) for each in found.differences}
    assert told == {
        ("mail.send", "allow", "deny", "policy.invariant", 2),
        ("payments.refund", "allow", "deny", "policy.forbidden", 1),
    }


async def test_a_candidate_that_cannot_be_recorded_hinders_nobody(tenant: Tenant) -> None:
    run = await tenant.admit(task(mail("unhindered"), say("done")), policy=ALL)
    candidate = await looked_at(run, "role other { permit llm.call }\n")
    database = run.rig.database
    await database.execute(
        f"ALTER TABLE shadow_verdicts ADD CONSTRAINT nothing_for_a_test CHECK (policy_id <> '{candidate}')"
    )
    try:
        await run.start()
        assert await tool_codes(run) == ["policy.permitted"]
    finally:
        await database.execute("ALTER TABLE shadow_verdicts DROP CONSTRAINT nothing_for_a_test")
    assert '"event":"shadow.not_recorded"' in run.rig.log("governor")
    assert await run.states() == ["committed"] * 3
