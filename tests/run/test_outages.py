"""Parts that go away in the middle of a run and come back: it waits, and goes on. Executors that freeze and wake too late."""

from __future__ import annotations

import asyncio
import os
import signal
from uuid import UUID

import pytest

from holdfast.approvals.service import decide

from .harness import PERMIT_ALL, Rig, Tenant, mail, refund, say, task, until

OUTAGE_S = 10
GATE = 'gate "consent": payments.refund needs 1 of role("approver"), expires 1d'


@pytest.mark.parametrize("part", ["postgres", "valkey", "temporal"])
async def test_a_part_killed_and_gone_for_ten_seconds_costs_nothing_but_time(
    rig: Rig, tenant: Tenant, part: str
) -> None:
    rig.fault("mail", "gate")
    mailing = await tenant.start(task(mail(f"outage of {part}"), say("done")))
    await rig.until_held()
    await rig.think_badly({"kind": "gate"})
    thinking = await tenant.start(task(say("an answer that was paid for")))
    await rig.until_thinking()
    rig.points.park("settle.before:tool.call")
    settling = await tenant.start(task(refund(f"OUTAGE-{part}".upper()), say("done")))
    await rig.points.until_parked("settle.before:tool.call")
    rig.points.park("reserve.before:tool.call")
    reserving = await tenant.start(task(mail(f"after the outage of {part}"), say("done")))
    await rig.points.until_parked("reserve.before:tool.call")
    # when it is back, the leases of what was under way are over
    await rig.rows(
        "UPDATE holds SET lease_expires_at = clock_timestamp() + interval '5 s' WHERE tenant_id = $1 AND state = 'executing'",
        tenant.tenant_id,
    )
    await rig.stack.kill(part, signal.SIGKILL, restart=False)
    # everything that was under way wants to go on now, and cannot
    rig.points.clear()
    rig.world.faults.release()
    await rig.let_think()
    await asyncio.sleep(OUTAGE_S)  # the outage itself
    await rig.stack.start_child(part)
    for run in (mailing, thinking, settling, reserving):
        assert await run.ended() == "succeeded", await run.story()
        await run.settled()
    assert len(rig.mails(f"outage of {part}")) == len(rig.mails(f"after the outage of {part}")) == 1
    assert len(rig.refunds(f"OUTAGE-{part}".upper())) == 1
    assert await thinking.states() == ["committed"], await thinking.story()
    key = f"{tenant.tenant_id}:{thinking.run_id}:1"
    assert len([one for one in await rig.model_calls() if one["idempotency_key"] == key]) == 1


async def test_what_temporal_could_not_be_told_is_delivered_later(rig: Rig, tenant: Tenant) -> None:
    rig.fault("mail", "gate", times=2)
    steered = await tenant.start(task(mail("told 1"), mail("told 2"), say("done")))
    cancelled = await tenant.start(task(mail("told 3"), mail("told 4"), say("done")))
    await rig.until_held(2)
    waiting = await tenant.start(task(refund("TOLD-1"), say("done")), rules=(*PERMIT_ALL, GATE))
    await waiting.until_status("waiting")
    approval: UUID = await rig.value("SELECT approval_id FROM approvals WHERE run_id = $1", waiting.run_id)
    await rig.stack.stop_child("temporal")
    unstarted = await tenant.admit(task(mail("told 5"), say("done")))
    await steered.tell("steer", "no more mails", deliver=False)
    await cancelled.cancel(deliver=False)
    await decide(rig.engine("api"), tenant.bob, approval, "approved")
    await rig.stack.start_child("temporal")
    assert await unstarted.ended() == "succeeded"
    rig.world.faults.release()
    assert await waiting.ended() == "succeeded"

    async def told() -> bool:
        rows = await rig.rows("SELECT 1 FROM run_inputs WHERE run_id = $1 AND signalled_at IS NULL", steered.run_id)
        return not rows and (await cancelled.row())["cancel_signalled_at"] is not None

    await until(told, what="the delivery of what was said")
    assert await steered.ended() == "succeeded"
    assert await cancelled.ended() == "cancelled run.cancelled"
    assert "no more mails" in [entry.get("text") for entry in await steered.transcript()]
    assert len(rig.mails("told 5")) == len(rig.refunds("TOLD-1")) == len(rig.mails("told 3")) == 1
    assert not rig.mails("told 4")


async def test_an_executor_frozen_until_it_was_given_up_sends_nothing_when_it_wakes(rig: Rig, tenant: Tenant) -> None:
    """Its own clock says that its lease is good; that its hold is void, only PostgreSQL knows."""
    place = "execute.before_outward:tool.call"
    rig.points.park(place)
    run = await tenant.start(task(mail("given up"), say("done")), max_tries=20)
    await rig.points.until_parked(place)
    pid = rig.pid("executor-1")
    os.kill(pid, signal.SIGSTOP)
    rig.points.clear()
    await run.until_hold("voided", tool="mail.send")
    [hold] = await rig.rows(
        "SELECT lease_expires_at > clock_timestamp() AS live FROM holds WHERE run_id = $1 AND step = 2 AND try = 1",
        run.run_id,
    )
    assert hold["live"], "the test is too slow to show anything"
    os.kill(pid, signal.SIGCONT)
    assert await run.ended() == "succeeded"
    assert len(rig.mails("given up")) == 1


async def test_an_executor_frozen_past_its_lease_sends_nothing_when_it_wakes(rig: Rig, tenant: Tenant) -> None:
    places = ("outcome.before", "execute.after_outward", "execute.before_outward")
    frozen = {}
    for place in places:  # each passes the earlier places before they are armed
        rig.points.park(f"{place}:tool.call")
        frozen[place] = await tenant.start(task(mail(f"frozen at {place}"), say("done")), max_tries=20)
        await rig.points.until_parked(f"{place}:tool.call")
    thinking = "execute.after_outward:llm.call"
    rig.points.park(thinking)
    thought = await tenant.start(task(say("not asked twice")), max_tries=20)
    await rig.points.until_parked(thinking)
    pid = rig.pid("executor-1")
    os.kill(pid, signal.SIGSTOP)
    rig.points.clear()

    async def leases_are_over() -> bool:
        left = await rig.value(
            "SELECT count(*) FROM holds WHERE tenant_id = $1 AND lease_expires_at > clock_timestamp()", tenant.tenant_id
        )
        return not left

    await until(leases_are_over, what="the end of every lease")
    # the runs have given it up: what had not gone outside is void, the rest nobody can know
    await frozen["execute.before_outward"].until_hold("voided", tool="mail.send")
    for place in ("outcome.before", "execute.after_outward"):
        await frozen[place].until_hold("unknown", tool="mail.send")
    assert len(rig.mails("frozen at outcome.before")) == 1
    os.kill(pid, signal.SIGCONT)
    for place, run in frozen.items():
        # and nobody had to be asked in the end: what it knows, it tells
        assert await run.ended() == "succeeded", f"{place}: {await run.story()}"
        assert len(rig.mails(f"frozen at {place}")) == 1, f"{place}: {await run.story()}"
    assert await thought.ended() == "succeeded"
    assert await frozen["outcome.before"].states("tool.call") == ["committed"]
    for run in (frozen["execute.after_outward"], frozen["execute.before_outward"], thought):
        # Temporal may have given the frozen one later tries as well, which came to nothing
        *given_up, last = [hold["state"] for hold in await run.holds() if hold["step"] == (1 if run is thought else 2)]
        assert (set(given_up), last) == ({"voided"}, "committed"), await run.story()
    key = f"{tenant.tenant_id}:{thought.run_id}:1"
    assert len([one for one in await rig.model_calls() if one["idempotency_key"] == key]) == 1
