"""Temporal's own means: Reset replays a run from an early event, terminate ends it without a word."""

from __future__ import annotations

import secrets

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowExecutionStatus

from holdfast.approvals.service import decide
from holdfast.runs import signals

from .harness import PERMIT_ALL, Rig, Run, Tenant, mail, refund, say, task, until

GATE = 'gate "consent": payments.refund needs 1 of role("approver"), expires 1d'


async def reset_to_start(run: Run) -> None:
    """Resets the workflow to its first task, as an operator may; signals come again."""
    events = (await run.history()).events
    first = next(one for one in events if one.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
    described = await run.handle.describe()
    assert described.run_id is not None
    await run.rig.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=run.rig.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=str(run.run_id), run_id=described.run_id),
            reason="test",
            workflow_task_finish_event_id=first.event_id,
            request_id=secrets.token_hex(8),
        )
    )


async def approve(run: Run) -> None:
    tenant, engine = run.tenant, run.rig.engine("api")
    approval_id = await run.rig.value("SELECT approval_id FROM approvals WHERE run_id = $1", run.run_id)
    await decide(engine, tenant.bob, approval_id, "approved")
    await signals.deliver_approval(run.rig.client, engine, tenant.tenant_id, approval_id)


async def test_a_reset_run_buys_and_sends_nothing_again(rig: Rig, tenant: Tenant) -> None:
    waiting = await tenant.start(task(mail("reset 1"), refund("RESET-1"), say("done")), rules=(*PERMIT_ALL, GATE))
    await waiting.until_status("waiting")
    rig.fault("mail", "gate")
    sending = await tenant.start(task(refund("RESET-2"), mail("reset 2"), say("done")))
    await rig.until_held()
    ended = await tenant.start(task(mail("reset 3"), say("done")))
    assert await ended.ended() == "succeeded"
    before = {run.run_id: await run.holds() for run in (waiting, ended)}
    calls, refusals = len(await rig.model_calls()), await rig.refusals()

    for run in (waiting, sending, ended):
        await reset_to_start(run)
    await approve(waiting)
    await sending.until_hold("unknown", tool="mail.send")  # whoever resets while it is on its way does not know
    rig.world.faults.release()

    assert await waiting.ended() == "succeeded", await waiting.story()
    assert await sending.ended() == "succeeded", await sending.story()

    async def over() -> bool:
        return (await ended.handle.describe()).status != WorkflowExecutionStatus.RUNNING

    await until(over, what="the end of the run that had ended")
    assert await ended.status() == "succeeded"
    assert [hold["hold_id"] for hold in await ended.holds()] == [hold["hold_id"] for hold in before[ended.run_id]]
    assert len(await rig.model_calls()) == calls + 2, (
        "one answer for each that had not ended, and none for what was answered"
    )
    for subject in ("reset 1", "reset 2", "reset 3"):
        assert len(rig.mails(subject)) == 1, subject
    assert len(rig.refunds("RESET-1")) == len(rig.refunds("RESET-2")) == 1
    assert await rig.refusals() == refusals, "no permit was tried that had been used"
    for run in (waiting, sending):
        assert set(await run.states()) == {"committed"}, await run.story()


async def test_a_reset_that_makes_a_run_take_another_way_is_refused_with_an_alarm(rig: Rig, tenant: Tenant) -> None:
    """What was said later comes at the start when the run is replayed, so that its first step asks for something else."""
    run = await tenant.start(task(mail("another way"), refund("WAY-1"), say("done")), rules=(*PERMIT_ALL, GATE))
    await run.until_status("waiting")
    await run.tell("followup", "and hurry")
    calls, holds = len(await rig.model_calls()), await run.holds()
    await reset_to_start(run)
    assert await run.ended() == "failed hold.key_conflict"
    [alarm] = await run.events("decision.alarm")
    assert alarm["data"]["step"] == 1
    assert len(await rig.model_calls()) == calls
    assert [hold["hold_id"] for hold in await run.holds()] == [hold["hold_id"] for hold in holds]
    assert len(rig.mails("another way")) == 1
    assert not rig.refunds("WAY-1")


async def test_a_terminated_run_holds_nothing(rig: Rig, tenant: Tenant) -> None:
    guaranteed = await tenant.start(task(refund("TERM-1")), rules=(*PERMIT_ALL, GATE), guaranteed=True)
    await guaranteed.until_status("waiting")
    rig.points.park("settle.before:tool.call")
    executed = await tenant.start(task(mail("term 2"), say("done")))
    await rig.points.until_parked("settle.before:tool.call")
    rig.points.park("redeem.before:tool.call")
    held = await tenant.start(task(mail("term 3"), say("done")))
    await rig.points.until_parked("redeem.before:tool.call")
    await rig.think_badly({"kind": "gate"})
    thinking = await tenant.start(task(mail("term 4"), say("done")), guaranteed=True)
    await rig.until_thinking()
    runs = (guaranteed, executed, held, thinking)
    for run in runs:
        await run.handle.terminate("an operator's whim")
    for run in runs:
        assert await run.ended() == "terminated workflow.terminated"
    await held.until_hold("voided", tool="mail.send")
    rig.points.clear()
    await rig.let_think()

    async def nothing_is_held() -> bool:
        return not await rig.value(
            "SELECT count(*) FROM caps WHERE tenant_id = $1 AND reserved > 0", tenant.tenant_id
        ) and not await rig.value(
            "SELECT count(*) FROM holds WHERE tenant_id = $1 AND state NOT IN ('committed', 'voided', 'expired')",
            tenant.tenant_id,
        )

    await until(nothing_is_held, what="the release of everything held")
    assert [len(rig.mails(f"term {n}")) for n in (2, 3, 4)] == [1, 0, 0]
    assert await executed.states("tool.call") == ["committed"]
