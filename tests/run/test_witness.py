"""No run of these tests goes unheld, and whoever forges a history, with its digest and record, is found and named."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
import pytest
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory

from holdfast.histories import document
from holdfast.histories.cross_check import CrossCheck
from holdfast.histories.document import Sealing
from holdfast.histories.fetching import Execution
from holdfast.ids import new_id
from holdfast_verdict.record import record_hash
from tests.forging import write_past_triggers
from tests.stack.places import ROOT
from tests.syntax import parsed

from .captured import permit_of
from .harness import Rig, Run, Tenant
from .test_cross_check import codes, done, forget
from .test_permits import opened, signed

MAIL = "step-2-try-1"
FORGED = "history, digest and record are forged together"
STACKS = {"tests/run/rigs.py"}
"""Files of tests of runs that build a stack: there, every run is held when the stack ends."""

Events = list[HistoryEvent]


async def forge(run: Run, change: Callable[[Events], None]) -> None:
    """Alters the history of a run that Temporal has forgotten, and digest and record with it, as somebody can who has the database."""
    where = "WHERE run_id = $1 AND kind = 'run.history'"
    pieces = [row["data"] for row in await run.rig.rows("SELECT data FROM run_histories WHERE run_id = $1", run.run_id)]
    sealing = Sealing()
    for execution in document.read(document.unpack(pieces), str(run.run_id)):
        events = list(execution.history.events)
        change(events)
        sealing.add(Execution(execution.run_id, WorkflowHistory(str(run.run_id), events)))
    [record] = await run.rig.rows(f"SELECT * FROM decisions {where}", run.run_id)
    part_a = orjson.loads(record["part_a"])
    old = part_a["facts"]["digest"].encode()
    forged = record["part_a"].replace(old, sealing.digest.hex().encode())
    await write_past_triggers(
        run.rig.database,
        f"UPDATE decisions SET part_a = $2, record_hash = $3 {where}",
        run.run_id,
        forged,
        record_hash(forged, record["part_b"]),
    )
    [piece] = sealing.pieces()
    await run.rig.database.execute("UPDATE run_histories SET data = $2 WHERE run_id = $1", run.run_id, piece)


async def forgotten(tenant: Tenant, subject: str) -> Run:
    run = await done(tenant, subject)
    run.excuse(FORGED)
    await forget(run)
    return run


def scheduled(events: Events, activity_id: str) -> HistoryEvent:
    return next(event for event in events if event.activity_task_scheduled_event_attributes.activity_id == activity_id)


def is_of(event: HistoryEvent, place: int) -> bool:
    """Whether an event is about the activity that was scheduled there."""
    about = (
        event.activity_task_started_event_attributes.scheduled_event_id,
        event.activity_task_completed_event_attributes.scheduled_event_id,
        event.activity_task_failed_event_attributes.scheduled_event_id,
        event.activity_task_timed_out_event_attributes.scheduled_event_id,
    )
    return place in about or event.event_id == place


def without_the_mail(events: Events) -> None:
    place = scheduled(events, MAIL).event_id
    events[:] = [event for event in events if not is_of(event, place)]


async def test_an_activity_that_was_taken_out_of_the_history_is_found(rig: Rig, tenant: Tenant) -> None:
    run = await forgotten(tenant, "taken out")
    assert await codes(run) == set()
    await forge(run, without_the_mail)
    checked = await run.cross_check()
    [found] = checked.differences
    assert (checked.source, found.code) == ("stored", "witness.no_activity")
    assert "step 2, try 1 (mail.send) was executed" in found.sentence

    # the same for a hold that says nothing more than that its permit was redeemed
    [hold] = await run.holds(tool="mail.send")
    execute = rig.database.execute
    await rig.stack.stop_child("governor")
    await execute("ALTER TABLE holds DISABLE TRIGGER USER")
    try:
        outcome = await rig.rows("DELETE FROM outcomes WHERE hold_id = $1 RETURNING *", hold["hold_id"])
        await execute("UPDATE holds SET state = 'voided', outward_at = NULL WHERE hold_id = $1", hold["hold_id"])
        [found] = (await run.cross_check()).differences
        assert found.code == "witness.no_activity"
        assert "the permit of step 2, try 1 (mail.send) was redeemed" in found.sentence
        await execute("UPDATE holds SET lease_hash = NULL WHERE hold_id = $1", hold["hold_id"])
        assert await codes(run) == set(), "a hold that nobody redeemed needs no activity"
        await execute(
            "UPDATE holds SET state = 'committed', outward_at = $2, lease_hash = $3 WHERE hold_id = $1",
            hold["hold_id"],
            hold["outward_at"],
            hold["lease_hash"],
        )
        marks = ", ".join(f"${number}" for number in range(1, len(outcome[0]) + 1))
        await execute(f"INSERT INTO outcomes VALUES ({marks})", *outcome[0])
    finally:
        await execute("ALTER TABLE holds ENABLE TRIGGER USER")
        rig.restart("governor")
        await rig.all_up()


async def added(rig: Rig, run: Run, permit: str, activity_id: str) -> CrossCheck:
    """Puts one more activity into the history, with a permit, and holds it."""
    converter = rig.client.data_converter
    [payload] = await converter.encode([{"permit": permit}])

    def add(events: Events) -> None:
        one = HistoryEvent()
        one.CopyFrom(scheduled(events, MAIL))
        one.event_id = events[-1].event_id + 1
        one.activity_task_scheduled_event_attributes.activity_id = activity_id
        one.activity_task_scheduled_event_attributes.input.payloads[0].CopyFrom(payload)
        events.append(one)

    await forge(run, add)
    return await run.cross_check()


async def test_an_activity_that_was_put_into_the_history_is_found(rig: Rig, tenant: Tenant) -> None:
    run = await done(tenant, "put into")
    token = await permit_of(rig, run, MAIL)
    run.excuse(FORGED)
    await forget(run)
    of_nobody = signed(rig, opened(rig, token), hold_id=str(new_id()))
    for permit, activity_id, code in (
        (of_nobody, "step-9-try-1", "witness.no_allow"),
        (token, "step-9-try-1", "witness.other_action"),
        (token, MAIL, "witness.permit_twice"),
        (signed(rig, opened(rig, token), digest="00" * 32), MAIL, "witness.other_action"),
        ("", "step-9-try-1", "witness.no_permit"),
    ):
        checked = await added(rig, run, permit, activity_id)
        found = [one for one in checked.differences if one.code == code]
        assert found, (activity_id, code, checked.differences)
        assert found[0].activity_id == activity_id
        assert activity_id in found[0].sentence
        await forge(run, lambda events: events.__delitem__(-1))
        assert await codes(run) == set()


async def test_a_hold_that_was_settled_without_an_activity_is_found(rig: Rig, tenant: Tenant) -> None:
    run = await done(tenant, "settled alone")
    run.excuse("a settled hold is made up")
    [hold] = await run.holds(tool="mail.send")
    made_up = dict((await rig.rows("SELECT * FROM holds WHERE hold_id = $1", hold["hold_id"]))[0])
    made_up |= {"hold_id": new_id(), "step": 9}
    names, marks = ", ".join(made_up), ", ".join(f"${number}" for number in range(1, len(made_up) + 1))
    await rig.database.execute(f"INSERT INTO holds ({names}) VALUES ({marks})", *made_up.values())
    try:
        [found] = (await run.cross_check()).differences
        assert (found.code, found.hold_id) == ("witness.no_allow", str(made_up["hold_id"]))
        assert "of step 9, try 1 (mail.send) is committed, and no decision allowed it" in found.sentence
    finally:
        await rig.database.execute("DELETE FROM holds WHERE hold_id = $1", made_up["hold_id"])
    assert await codes(run) == set()
    run.excuse_no_more()


async def test_a_run_that_a_test_never_names_is_held_too(rig: Rig, tenant: Tenant) -> None:
    run = await done(tenant, "held by itself")
    tenant.runs.clear()
    await rig.cross_check()
    assert run.run_id in rig.witness.held
    excused = await done(tenant, "let be")
    excused.excuse("to see that this is possible")
    await rig.cross_check()
    assert excused.run_id not in rig.witness.held
    excused.excuse_no_more()
    await rig.cross_check()
    assert excused.run_id in rig.witness.held
    with pytest.raises(AssertionError, match="say why"):
        run.excuse(" ")


def stacks(files: Sequence[Path]) -> set[str]:
    """The files in which a stack is built."""
    return {
        str(file.relative_to(ROOT))
        for file in files
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Stack"
    }


def test_no_test_of_runs_builds_a_stack_of_its_own() -> None:
    assert stacks(sorted((ROOT / "tests" / "run").rglob("*.py"))) == STACKS
