"""Temporal's history as a second witness: what was executed was allowed and settled, and whoever changes either side is found."""

from __future__ import annotations

import secrets
import zlib
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.common import WorkflowIDReusePolicy
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from holdfast.contracts import names
from holdfast.contracts.execution import ExecuteReply, ExecuteRequest
from holdfast.histories import fetching, storing
from tests.forging import write_past_triggers

from .captured import permit_of
from .harness import PERMIT_ALL, Rig, Run, Tenant, mail, refund, say, task, until
from .rogue import Rogue, Wish
from .test_resets import GATE


async def kept(run: Run) -> None:
    """Waits until the run's history is kept."""

    async def digested() -> bool:
        return (await run.row())["history_digest"] is not None

    await until(digested, what="the keeping of the history")


async def forget(run: Run) -> None:
    """Lets Temporal forget the run, as it does when its retention has passed."""
    service, execution = run.rig.client.workflow_service, WorkflowExecution(workflow_id=str(run.run_id))
    request = DeleteWorkflowExecutionRequest(namespace=run.rig.client.namespace, workflow_execution=execution)
    await service.delete_workflow_execution(request)

    async def forgotten() -> bool:
        return await fetching.newest(run.rig.client, str(run.run_id)) is None

    await until(forgotten, what="the end of what Temporal knows")


async def done(tenant: Tenant, subject: str) -> Run:
    run = await tenant.start(task(mail(subject), say("done")))
    assert await run.ended() == "succeeded"
    await run.settled()
    await kept(run)
    return run


async def codes(run: Run) -> set[str]:
    return {one.code for one in (await run.cross_check()).differences}


async def test_record_and_history_are_read_as_of_one_moment(
    rig: Rig, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await done(tenant, "one moment")
    read = storing.read_recorded

    async def read_and_changed(connection: AsyncConnection, tenant_id: UUID, run_id: UUID) -> storing.Recorded | None:
        recorded = await read(connection, tenant_id, run_id)
        await rig.rows("UPDATE run_histories SET piece = piece + 100, data = 'other' WHERE run_id = $1", run_id)
        return recorded

    pieces = await rig.rows("SELECT piece, data FROM run_histories WHERE run_id = $1", run.run_id)
    assert pieces
    with monkeypatch.context() as patched:
        patched.setattr(storing, "read_recorded", read_and_changed)
        assert await codes(run) == set(), "what is written meanwhile belongs to the next look"
    assert await codes(run) == {"witness.history_altered"}
    for row in pieces:
        was = "UPDATE run_histories SET piece = $2, data = $3 WHERE run_id = $1 AND piece = $2 + 100"
        await rig.rows(was, run.run_id, row["piece"], row["data"])
    assert await codes(run) == set()


async def test_both_say_the_same_while_a_run_goes_on_and_when_it_has_ended(rig: Rig, tenant: Tenant) -> None:
    rig.fault("mail", "gate")
    run = await tenant.start(task(mail("two witnesses"), refund("WITNESS-1"), say("done")), steps_per_execution=2)
    await rig.until_held()
    under_way = await run.cross_check()
    assert under_way.agrees, under_way
    assert under_way.is_open
    assert under_way.digest == ""
    assert any("under way" in note for note in under_way.notes)
    rig.world.faults.release()
    assert await run.ended() == "succeeded"
    await run.settled()
    await kept(run)
    live = await run.cross_check()
    assert (live.agrees, live.source, live.is_open) == (True, "temporal", False)
    assert live.executions > 1, "it continued as new"
    assert live.activities == live.allowed == 5

    await forget(run)
    stored = await run.cross_check()
    assert (stored.agrees, stored.source) == (True, "stored")
    assert (stored.executions, stored.events, stored.activities) == (live.executions, live.events, live.activities)
    recorded = await rig.rows("SELECT kind, leaf_index FROM decisions WHERE decision_id::text = $1", stored.recorded_in)
    assert recorded[0]["kind"] == "run.history"


async def test_a_terminated_run_is_kept_too_and_what_nobody_knows_is_named(rig: Rig, tenant: Tenant) -> None:
    rig.fault("mail", "answer_lost")
    asking = await tenant.start(task(mail("nobody knows"), say("done")))
    hold_id = await asking.until_hold("unknown")
    checked = await asking.cross_check()
    assert checked.agrees, checked
    assert any(str(hold_id) in note and "nobody knows" in note for note in checked.notes)
    await asking.handle.terminate("an operator's whim")
    assert await asking.ended() == "terminated workflow.terminated"
    await kept(asking)
    checked = await asking.cross_check()
    assert (checked.agrees, checked.is_open) == (True, False)
    assert any(str(hold_id) in note for note in checked.notes)
    await asking.resolve(hold_id, happened=True)


@activity.defn(name=names.EXECUTE_TOOL_CALL)
async def send_without_asking(request: ExecuteRequest | None = None) -> ExecuteReply:
    """A tool's activity of somebody who asks no broker."""
    return ExecuteReply(stored=request is None or True)


async def play(client: Client, run: Run, permit: str) -> None:
    """Has the run's workflow execute an activity on a worker that checks nothing; the workflow is another's under its id."""
    queue = f"forged-{secrets.token_hex(4)}"
    worker = Worker(
        client,
        task_queue=queue,
        workflows=[Rogue],
        activities=[send_without_asking],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    async with worker:
        await client.execute_workflow(
            "Rogue",
            Wish("activity", names.EXECUTE_TOOL_CALL, queue, permit),
            id=str(run.run_id),
            task_queue=queue,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            execution_timeout=timedelta(seconds=60),
        )


async def test_an_activity_without_a_permit_is_found(rig: Rig, tenant: Tenant) -> None:
    """Somebody who reaches Temporal runs a tool under the run's own id, with workers of their own."""
    run = await done(tenant, "forged activity")
    other = await done(tenant, "forged elsewhere")
    run.excuse("an activity was forged under its id")
    await play(rig.client, run, "none")
    checked = await run.cross_check()
    found = [one for one in checked.differences if one.code == "witness.no_permit"]
    assert len(found) == 1
    assert "was given no permit" in found[0].sentence
    run.excuse_no_more()
    with pytest.raises(AssertionError, match=r"witness\.no_permit"):
        await rig.cross_check()  # what every test of these ends with
    run.excuse("an activity was forged under its id")
    await play(rig.client, run, await permit_of(rig, other, "step-2-try-1"))
    assert "witness.no_allow" in await codes(run)


async def test_a_settlement_that_was_taken_away_is_found(rig: Rig, tenant: Tenant) -> None:
    run = await done(tenant, "settlement")
    run.excuse("its settlement is taken away")
    await rig.stack.stop_child("governor")  # its sweeper would settle anew
    [hold] = await run.holds(tool="mail.send")
    hold_id = hold["hold_id"]
    execute = rig.database.execute
    await execute("ALTER TABLE holds DISABLE TRIGGER USER")
    try:
        await execute("UPDATE holds SET state = 'executed', settled_at = NULL WHERE hold_id = $1", hold_id)
        assert await codes(run) == {"witness.not_settled"}
        outcome = await rig.rows("DELETE FROM outcomes WHERE hold_id = $1 RETURNING *", hold_id)
        await execute(
            "UPDATE holds SET state = 'voided', settled_at = $2 WHERE hold_id = $1", hold_id, hold["settled_at"]
        )
        [found] = (await run.cross_check()).differences
        assert (found.code, found.hold_id) == ("witness.contradicted", str(hold_id))
        assert "is voided without an outcome" in found.sentence
        await execute("UPDATE holds SET state = 'committed' WHERE hold_id = $1", hold_id)
        marks = ", ".join(f"${number}" for number in range(1, len(outcome[0]) + 1))
        await execute(f"INSERT INTO outcomes VALUES ({marks})", *outcome[0])
        assert await codes(run) == set()
        await execute("UPDATE decisions SET hold_id = NULL WHERE hold_id = $1", hold_id)
        assert await codes(run) == {"witness.no_allow"}
        await execute("UPDATE decisions SET hold_id = $1 WHERE decision_id = $2", hold_id, hold["decision_id"])
    finally:
        await execute("ALTER TABLE holds ENABLE TRIGGER USER")
        rig.restart("governor")
        await rig.all_up()
    run.excuse_no_more()


async def test_an_execution_that_the_history_lacks_is_found(rig: Rig, tenant: Tenant) -> None:
    run = await tenant.start(task(mail("not in history"), refund("LACK-1"), say("done")), rules=(*PERMIT_ALL, GATE))
    await run.until_status("waiting")
    run.excuse("its history is altered")
    await run.handle.terminate("to begin anew")
    assert await run.ended() == "terminated workflow.terminated"
    await run.settled()
    await kept(run)
    await forget(run)
    # somebody puts another history in the place of the one that was
    await rig.client.start_workflow("Rogue", id=str(run.run_id), task_queue="nobody")
    await run.handle.terminate("as if nothing had been")
    found = (await run.cross_check()).differences
    lacking = [one for one in found if one.code == "witness.no_activity"]
    assert len(lacking) == 3, found  # two thoughts and a mail
    assert any("step 2, try 1 (mail.send)" in one.sentence for one in lacking)
    assert any(one.code == "witness.history_altered" for one in found)


async def test_a_kept_history_that_was_altered_is_found(rig: Rig, tenant: Tenant) -> None:
    run = await done(tenant, "kept history")
    run.excuse("its history is altered")
    where = "WHERE run_id = $1 AND piece = 0"
    data = await rig.value(f"SELECT data FROM run_histories {where}", run.run_id)
    altered = bytearray(zlib.decompress(data))
    altered[-1] ^= 1
    write = f"UPDATE run_histories SET data = $2 {where}"
    for what, forged in {
        "altered": zlib.compress(bytes(altered)),
        "truncated": data[: len(data) // 2],
        "a whole execution less": zlib.compress(b""),
        "rubbish": b"rubbish",
        "something behind it": data + b"x",
    }.items():
        await rig.database.execute(write, run.run_id, forged)
        checked = await run.cross_check()
        assert [one.code for one in checked.differences] == ["witness.history_altered"], what
        assert checked.source == "temporal", what
    await rig.database.execute("DELETE FROM run_histories WHERE run_id = $1", run.run_id)
    assert await codes(run) == {"witness.history_altered"}
    await forget(run)
    assert await codes(run) == {"witness.history_altered", "witness.history_missing"}
    await rig.database.execute("INSERT INTO run_histories VALUES ($1, $2, 0, $3)", tenant.tenant_id, run.run_id, data)
    assert await codes(run) == set()

    write = "UPDATE decisions SET part_a = $2 WHERE run_id = $1 AND kind = 'run.history'"
    [record] = [one for one in await run.decisions() if one["kind"] == "run.history"]
    other_digest = record["part_a"].replace(b'"digest":"', b'"digest":"00')
    await write_past_triggers(rig.database, write, run.run_id, other_digest)
    assert {"witness.record_altered", "witness.history_altered"} <= await codes(run)
    await write_past_triggers(rig.database, write, run.run_id, record["part_a"])
    run.excuse_no_more()


async def test_nobody_of_ours_may_change_what_is_kept(rig: Rig, tenant: Tenant) -> None:
    rights = await rig.rows(
        """SELECT grantee, privilege_type FROM information_schema.role_table_grants WHERE table_name = 'run_histories'
           AND grantee LIKE 'holdfast_%' AND grantee <> 'holdfast_owner' ORDER BY 1, 2"""
    )
    assert {(row["grantee"], row["privilege_type"]) for row in rights} == {
        ("holdfast_api", "SELECT"),
        ("holdfast_auditor", "SELECT"),
        ("holdfast_sweeper", "INSERT"),
    }


async def test_a_run_that_temporal_was_never_told_of_has_nothing_to_compare(rig: Rig, tenant: Tenant) -> None:
    run = await tenant.admit(task(say("done")))
    checked = await run.cross_check()
    assert (checked.agrees, checked.source) == (
        True,
        "none",
    ) or checked.source == "temporal"  # a sweeper may have started it
    await run.start()
    assert await run.ended() == "succeeded"
    with pytest.raises(RPCError):
        await rig.client.get_workflow_handle(secrets.token_hex(8)).describe()
