"""What people say to a run while it runs: cancel, pause, resume, follow up, steer; and the bounds that end it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus

from holdfast.contracts import names
from holdfast.contracts.run import InputSignal

from .captured import scheduled
from .harness import PERMIT_ALL, TASK_TIMEOUT, Rig, Run, Tenant, calls, mail, refund, say, task, until

GATE = 'gate "consent": payments.refund needs 1 of role("approver"), expires 1d'


async def user_words(run: Run) -> list[str]:
    return [entry["text"] for entry in await run.transcript() if entry["kind"] == "user"]


async def results(run: Run) -> list[str]:
    return [entry["content"] for entry in await run.transcript() if entry["kind"] == "tool_result"]


async def refused(run: Run) -> bool:
    return "permit.invalid" in await run.codes()


async def heard(run: Run, since: datetime) -> bool:
    """Whether the run's execution has sent a heartbeat since then."""
    [pending] = (await run.handle.describe()).raw_description.pending_activities
    return pending.last_heartbeat_time.ToDatetime(UTC) > since


async def told(run: Run) -> bool:
    """Whether the run's workflow has had a task since it was asked to cancel."""
    types = [event.event_type for event in (await run.history()).events]
    asked = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
    return asked in types and EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED in types[types.index(asked) :]


async def test_cancelled_in_any_phase_a_run_starts_nothing_more_and_holds_nothing(rig: Rig, tenant: Tenant) -> None:
    async def run_at(place: str, subject: str, task_timeout: timedelta = TASK_TIMEOUT) -> Run:
        rig.points.park(place)
        run = await tenant.start(task(mail(subject), mail(f"{subject} again")), task_timeout=task_timeout)
        await rig.points.until_parked(place)
        return run

    rig.fault("mail", "answer_lost")
    asking = await tenant.start(task(mail("cancel asking"), mail("cancel asking again")))
    await asking.until_status("waiting")
    consenting = await tenant.start(task(refund("CANCEL-1")), rules=(*PERMIT_ALL, GATE))
    await consenting.until_status("waiting")
    rig.fault("mail", "gate")
    sending = await tenant.start(task(mail("cancel sending"), mail("cancel sending again")))
    await rig.until_held()
    settling = await run_at("settle.before:tool.call", "cancel settling")
    redeeming = await run_at("redeem.before:tool.call", "cancel redeeming")
    # so short a task tells the workflow of the cancellation while it still reserves
    reserving = await run_at("reserve.after:tool.call", "cancel reserving", timedelta(seconds=1))
    await rig.think_badly({"kind": "status", "status": 429, "retry_after": "30"})
    backing_off = await tenant.start(task(mail("cancel waiting")))
    await backing_off.until_hold("voided")
    await rig.think_badly({"kind": "gate"})
    thinking = await tenant.start(task(mail("cancel thinking")))
    await rig.until_thinking()
    every = [sending, asking, consenting, settling, redeeming, reserving, backing_off, thinking]
    # Temporal hears of this one later: from now on the broker gives it nothing
    async with rig.nothing_swept():
        await redeeming.cancel(deliver=False)
        rig.points.release("redeem.before:tool.call")
        await until(lambda: refused(redeeming), what="the broker's refusal")
    await asyncio.gather(*(run.cancel() for run in every))
    cancelled_at = datetime.now(UTC)
    # the executor hears of it with its next heartbeat
    assert await thinking.ended() == "cancelled run.cancelled"
    await until(lambda: heard(sending, cancelled_at), what="a heartbeat that comes back with the cancellation")
    await until(lambda: told(reserving), what="a workflow task that comes with the cancellation")
    rig.points.clear()
    rig.world.faults.release()
    await rig.let_think()
    for run in every:
        assert await run.ended() == "cancelled run.cancelled", await run.story()
        assert (await run.handle.describe()).status == WorkflowExecutionStatus.COMPLETED
    assert await sending.states("tool.call") == ["committed"], "a mail that was on its way comes to its end"
    assert await asking.states("tool.call") == ["unknown"]
    assert await settling.states("tool.call") == ["committed"]
    assert await redeeming.states("tool.call") == ["voided"]
    assert await reserving.states("tool.call") == ["voided"]
    with pytest.raises(AssertionError, match="never scheduled"):
        await scheduled(reserving, "step-2-try-1")
    assert await backing_off.states() == ["voided"]
    for subject, count in {
        "sending": 1,
        "asking": 1,
        "settling": 1,
        "redeeming": 0,
        "reserving": 0,
        "waiting": 0,
    }.items():
        assert len(rig.mails(f"cancel {subject}")) == count, subject
        assert not rig.mails(f"cancel {subject} again")
    assert not rig.refunds("CANCEL-1")
    await asking.resolve((await asking.holds(tool="mail.send"))[0]["hold_id"], happened=True)


async def test_a_paused_run_stands_still_whatever_comes_twice_or_late(rig: Rig, tenant: Tenant) -> None:
    rig.fault("mail", "gate")
    run = await tenant.start(task(mail("pause 1"), mail("pause 2"), say("done")))
    await rig.until_held()
    pause = await run.tell("pause")
    rig.world.faults.release()
    await run.until_status("paused")
    resume = await run.tell("resume")
    # a sweeper that did not see that the API had delivered it
    await run.handle.signal(names.SIGNAL_INPUT, InputSignal(seq=pause, mode="pause"))
    assert await run.ended() == "succeeded"
    assert pause < resume
    assert len(rig.mails("pause 1")) == len(rig.mails("pause 2")) == 1


async def test_pausing_a_run_that_has_answered_asks_the_model_nothing_more(rig: Rig, tenant: Tenant) -> None:
    await rig.think_badly({"kind": "gate"})
    run = await tenant.start(task(say("that was all")))
    await rig.until_thinking()
    await run.tell("pause")
    await rig.let_think()
    await run.until_status("paused")
    await run.tell("resume")
    assert await run.ended() == "succeeded"
    assert len(await rig.model_calls()) == 1
    assert await run.states() == ["committed"]


async def test_what_is_said_while_a_run_works_is_heard(rig: Rig, tenant: Tenant) -> None:
    await rig.think_badly({"kind": "gate"})
    run = await tenant.start(task(say("first answer"), say("second answer")))
    await rig.until_thinking()
    await run.tell("followup", "and one thing more")
    await rig.let_think()
    assert await run.ended() == "succeeded"
    assert (await user_words(run))[1:] == ["and one thing more"]
    assert [entry["text"] for entry in await run.transcript() if entry["kind"] == "assistant"] == [
        "first answer",
        "second answer",
    ]


async def test_what_is_said_while_a_run_finishes_is_heard(rig: Rig, tenant: Tenant) -> None:
    rig.points.park("finish.before")
    run = await tenant.start(task(say("first answer"), say("second answer")))
    await rig.points.until_parked("finish.before")
    await run.tell("followup", "wait", deliver=False)
    rig.points.release("finish.before")
    assert await run.ended() == "succeeded"
    assert (await user_words(run))[1:] == ["wait"]
    assert len(await rig.model_calls()) == 2


async def test_a_steer_makes_the_run_drop_what_it_has_not_begun(rig: Rig, tenant: Tenant) -> None:
    rig.fault("mail", "gate")
    run = await tenant.start(task(calls(mail("steer 1"), mail("steer 2"), mail("steer 3")), say("as you wish")))
    await rig.until_held()
    await run.tell("steer", "stop mailing")
    rig.world.faults.release()
    assert await run.ended() == "succeeded"
    assert [len(rig.mails(f"steer {n}")) for n in (1, 2, 3)] == [1, 0, 0]
    assert [result.startswith("not done: run.steered") for result in await results(run)] == [False, True, True]
    assert (await user_words(run))[1:] == ["stop mailing"]


async def test_a_run_goes_on_in_new_executions_and_forgets_nothing(rig: Rig, tenant: Tenant) -> None:
    rig.fault("mail", "gate")
    script = task(mail("long 1"), mail("long 2"), refund("LONG-1"), say("done"), say("and that"))
    run = await tenant.start(script, steps_per_execution=2)
    await rig.until_held()
    await run.tell("pause")
    await run.tell("followup", "and that")
    rig.world.faults.release()
    await run.until_status("paused")
    await run.tell("resume")
    assert await run.ended() == "succeeded"
    executions = [one async for one in rig.client.list_workflows(f'WorkflowId = "{run.run_id}"')]
    assert len(executions) > 2
    assert [hold["step"] for hold in await run.holds()] == list(range(1, 8))
    assert (await user_words(run))[1:] == ["and that"]
    assert len(rig.mails("long 1")) == len(rig.mails("long 2")) == len(rig.refunds("LONG-1")) == 1
    digest = await rig.value("SELECT part_a FROM decisions WHERE run_id = $1 AND kind = 'run.history'", run.run_id)
    if digest is None:

        async def digested() -> bool:
            return (await run.row())["history_digest"] is not None

        await until(digested, what="the digest of the history")


async def test_a_deadline_ends_a_run_wherever_it_is(rig: Rig, tenant: Tenant) -> None:
    waiting = await tenant.start(task(refund("LATE-1")), rules=(*PERMIT_ALL, GATE), deadline_s=12)
    await waiting.until_status("waiting")
    await rig.think_badly({"kind": "status", "status": 429, "retry_after": "600"})
    backing_off = await tenant.start(task(say("never")), deadline_s=12)
    await backing_off.until_hold("voided")
    for run in (waiting, backing_off):
        assert await run.ended() == "timed_out run.deadline"
    assert not rig.refunds("LATE-1")


async def test_a_run_ends_after_its_steps_but_may_answer_with_the_last(rig: Rig, tenant: Tenant) -> None:
    endless = await tenant.start(task(mail("steps 1"), mail("steps 2"), say("done")), max_steps=3)
    exact = await tenant.start(task(mail("steps 3"), say("done")), max_steps=3)
    assert await endless.ended() == "failed run.max_steps"
    assert await exact.ended() == "succeeded"
    assert (len(rig.mails("steps 1")), len(rig.mails("steps 2"))) == (1, 0)
