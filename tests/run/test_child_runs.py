"""Runs that start runs: what is told to one is no word of the user's, and each carries what any of them has read."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from holdfast.database.engine import transaction
from holdfast.errors import NotPermitted
from holdfast.policies import releases
from holdfast.runs import service as runs
from holdfast.runs.service import RunRequest

from .harness import Rig, Run, Step, Tenant, call, mail, refund, say, task
from .test_audit_export import checked, exported, logged
from .test_gate import consent, pending
from .test_policies import check_records

WAITS = 'permit payments.refund gate waits: payments.refund needs 1 of role("approver"), expires 1d }\n'
USERS_WORDS = "role ROLE { permit llm.call permit mail.list permit mail.send where args.to from user " + WAITS
UNTOUCHED = "role ROLE { permit llm.call permit tools " + WAITS + "forbid mail.send when args.to from untrusted\n"
UNREAD = "role ROLE { permit llm.call permit tools " + WAITS + "forbid mail.send when run has untrusted\n"
RELEASED = UNREAD.replace("untrusted\n", 'untrusted unless released by role("approver")\n')
CASES = pytest.mark.parametrize(
    ("policy", "code"),
    [(USERS_WORDS, "policy.not_permitted"), (UNTOUCHED, "policy.provenance"), (UNREAD, "policy.label")],
    ids=["from-user", "not-untrusted", "run-has"],
)


async def child_of(parent: Run, content: str) -> Run:
    """Starts a run that is a part of another, as an agent or its program does."""
    tenant = parent.tenant
    agent = (await parent.row())["agent_name"]
    left = 50_000_000 if (await parent.row())["parent_run_id"] else 200_000_000
    request = RunRequest(agent=agent, content=content, cap_nano_usd=left, parent_run_id=parent.run_id)
    admitted = await runs.admit(tenant.rig.engine("api"), tenant.ada, request)
    run = Run(tenant, admitted.run_id)
    tenant.runs.append(run)
    await run.start()
    return run


async def waiting(
    tenant: Tenant, policy: str, *script: Step, then: tuple[Step, ...] = (), words: str = "get on"
) -> Run:
    """Starts a run that does something, waits for a consent, and then does something else."""
    run = await tenant.start(task(*script, wait(), *then, say("done"), words=words), policy=policy)
    await pending(run)
    return run


def wait() -> Step:
    """Waits for a consent."""
    return refund(f"W-{secrets.token_hex(4)}")


async def go_on(run: Run) -> None:
    await consent(run, await pending(run))


async def mail_codes(run: Run) -> list[str]:
    """Codes of the decisions on mails, in order, each of which its record gives again."""
    assert await run.ended() == "succeeded", await run.story()
    await check_records(run)
    told = [(json.loads(each["part_a"]), each) for each in await run.decisions() if each["kind"] == "tool.call"]
    return [each["reason_codes"][0] for record, each in told if record["action"]["tool"] == "mail.send"]


async def facts_of_mail(run: Run) -> dict[str, Any]:
    """The facts in the record of the last decision on a mail."""
    told = [json.loads(each["part_a"]) for each in await run.decisions() if each["kind"] == "tool.call"]
    facts: dict[str, Any] = [each for each in told if each["action"]["tool"] == "mail.send"][-1]["facts"]
    return facts


async def origin_of_mail(run: Run) -> dict[str, Any]:
    """Where the address of the last mail is from."""
    (origin,) = (await facts_of_mail(run))["origins"].values()
    found: dict[str, Any] = origin
    return found


@CASES
async def test_what_a_run_puts_into_a_childs_task_is_no_word_of_the_users(
    tenant: Tenant, policy: str, code: str
) -> None:
    parent = await waiting(tenant, policy, call("mail.list"))
    # whom to write to stands in what the parent has read, and in the child's task, which the parent wrote
    child = await child_of(parent, task(mail("put into a task"), say("done"), words="write to jo@customer.example"))
    assert await mail_codes(child) == [code]
    if policy != UNREAD:
        assert (await origin_of_mail(child))["kinds"] == ["model"], "the parent's model wrote it"
    await go_on(parent)


async def test_what_a_task_copies_is_found_in_what_the_parent_has_read(tenant: Tenant) -> None:
    parent = await waiting(tenant, UNTOUCHED + "label agent.spawn yields nothing\n", call("mail.list"))
    listed = "maria.lindgren@customer.example"
    child = await child_of(parent, task(mail("copied", to=listed), say("done"), words=f"write to {listed}"))
    assert await mail_codes(child) == ["policy.provenance"]
    origin = await origin_of_mail(child)
    assert (origin["kinds"], origin["labels"]) == (["tool"], ["untrusted"])
    assert [source.rpartition("#")[0] for source in origin["sources"]] == ["mail.list"]
    await go_on(parent)


async def test_what_only_the_parents_model_said_is_of_agent_spawn(tenant: Tenant) -> None:
    parent = await waiting(tenant, UNTOUCHED)
    child = await child_of(parent, task(mail("made up"), say("done"), words="write to jo@customer.example"))
    assert await mail_codes(child) == ["policy.provenance"]
    origin = await origin_of_mail(child)
    assert (origin["kinds"], origin["labels"]) == (["model"], ["untrusted"])
    assert [source.rpartition("#")[0] for source in origin["sources"]] == ["agent.spawn"]
    await go_on(parent)


@pytest.mark.parametrize("words", ["please write to jo@customer.example", "please write to whom it says"])
async def test_a_child_may_do_what_the_user_said_to_the_first_run(tenant: Tenant, words: str) -> None:
    parent = await waiting(tenant, USERS_WORDS, words=words)
    child = await child_of(parent, task(mail("from a child"), say("done"), words="write to jo@customer.example"))
    expected = "policy.permitted" if "jo@" in words else "policy.not_permitted"
    assert await mail_codes(child) == [expected]
    await go_on(parent)


@CASES
async def test_what_a_child_has_read_keeps_its_labels_in_its_siblings(tenant: Tenant, policy: str, code: str) -> None:
    parent = await waiting(tenant, policy)
    child = await child_of(parent, task(call("mail.list"), say("write to jo@customer.example")))
    assert await child.ended() == "succeeded"
    sibling = await child_of(parent, task(mail("told to a sibling"), say("done"), words="to jo@customer.example"))
    assert await mail_codes(sibling) == [code]
    await go_on(parent)


async def test_a_run_carries_what_its_children_have_read(tenant: Tenant) -> None:
    parent = await waiting(tenant, UNREAD, then=(mail("what a child told"),))
    child = await child_of(parent, task(call("mail.list"), say("write to jo@customer.example")))
    assert await child.ended() == "succeeded"
    await parent.tell("followup", "the child says: write to jo@customer.example")
    await go_on(parent)
    assert await mail_codes(parent) == ["policy.label"]
    assert (await facts_of_mail(parent))["labels"] == ["untrusted"]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_run_carries_what_those_below_its_children_have_read(tenant: Tenant, cancelled: bool) -> None:
    parent = await waiting(tenant, UNREAD, then=(mail("after a grandchild has read"),))
    child = await waiting_child(parent)
    grandchild = await child_of(child, task(call("mail.list"), *([wait()] if cancelled else []), say("done")))
    if cancelled:
        await pending(grandchild)
        await child.cancel()
        assert await child.ended() == "cancelled run.cancelled"
        assert (await grandchild.row())["cancel_requested_at"] is not None
        await grandchild.cancel()  # delivers what was asked
        assert await grandchild.ended() == "cancelled run.cancelled"
    else:
        assert await grandchild.ended() == "succeeded"
        await go_on(child)
    await go_on(parent)
    assert await mail_codes(parent) == ["policy.label"]


async def waiting_child(parent: Run) -> Run:
    child = await child_of(parent, task(wait(), say("done")))
    await pending(child)
    return child


async def test_a_release_is_of_what_the_family_had_read_and_of_one_run(tenant: Tenant) -> None:
    parent = await waiting(tenant, RELEASED, then=(mail("after a release"), wait(), mail("after more was read")))
    child = await child_of(parent, task(call("mail.list"), say("done")))
    assert await child.ended() == "succeeded"
    async with transaction(tenant.rig.engine("api"), tenant.tenant_id) as connection:
        with pytest.raises(NotPermitted):
            await releases.release(connection, tenant.ada, parent.run_id, "untrusted", "it is mine")
        await releases.release(connection, tenant.bob, parent.run_id, "untrusted", "read through")
    beside = await child_of(parent, task(mail("of a child"), say("done")))
    assert await mail_codes(beside) == ["policy.label"]
    await go_on(parent)
    await pending(parent)
    again = await child_of(parent, task(call("mail.list"), say("done")))
    assert await again.ended() == "succeeded"
    await go_on(parent)
    assert await mail_codes(parent) == ["policy.permitted", "policy.label"]


async def test_a_budget_that_a_run_holds_is_nothing_that_it_has_read(tenant: Tenant) -> None:
    run = await tenant.start(task(mail("of a guaranteed run"), say("done")), policy=UNREAD, guaranteed=True)
    assert await mail_codes(run) == ["policy.permitted"]


async def test_a_family_that_has_read_nothing_may_do_what_its_rules_permit(tenant: Tenant) -> None:
    parent = await waiting(tenant, UNREAD, then=(mail("of the parent"),))
    child = await child_of(parent, task(mail("of the child"), say("done")))
    assert await mail_codes(child) == ["policy.permitted"]
    await go_on(parent)
    assert await mail_codes(parent) == ["policy.permitted"]


async def test_the_records_of_a_family_are_verified_offline(rig: Rig, tenant: Tenant, tmp_path: Path) -> None:
    policy = (
        UNTOUCHED
        + 'forbid mail.send when run has untrusted and args.subject == "of the parent" code "mail.after_child"\n'
    )
    parent = await waiting(tenant, policy, then=(mail("of the parent", to="ann@customer.example"),))
    child = await child_of(
        parent, task(call("mail.list"), mail("of the child"), say("done"), words="to jo@customer.example")
    )
    assert await mail_codes(child) == ["policy.provenance"]
    await parent.tell("followup", "the child says: write to jo@customer.example")
    await go_on(parent)
    assert await mail_codes(parent) == ["mail.after_child"]
    for run in (parent, child):
        await run.settled()
    await logged(rig, tenant)
    for run_id, code in (
        (parent.run_id, b"mail.after_child"),
        (child.run_id, b"policy.provenance"),
        (None, b"agent.spawn#"),
    ):
        bundle = await exported(tenant, run_id)
        report = await checked(tmp_path, bundle)
        assert report.holds, report.findings
        assert code in bundle
    forged = bundle.replace(b'\\"labels\\":[\\"untrusted\\"]', b'\\"labels\\":[]', 1)
    assert forged != bundle
    assert not (await checked(tmp_path, forged)).holds
