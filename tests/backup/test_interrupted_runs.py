"""A stack is backed up while it works, destroyed, and restored under other names: every run that was interrupted finishes.

What exists in the world outside stays as it is, as it does when a server burns down.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from uuid import UUID

import pytest

from cli.backup.restore import Restored, restore
from cli.backup.take import take
from cli.stack.data_folder import DataFolder
from cli.stack.ports import Ports
from demo.refund_desk.world.servers import World
from holdfast.approvals.service import decide
from holdfast.runs import signals
from holdfast_verdict.record import record_hash
from tests.run.harness import PERMIT_ALL, Rig, Run, Tenant, mail, refund, say, task, until
from tests.run.points import Points
from tests.run.rigs import standing_in

RULES = (*PERMIT_ALL, 'gate "consent": payments.refund needs 1 of role("approver"), expires 1d')


@dataclass(slots=True)
class Disaster:
    """One world, and the stacks that stand in it, one after the other."""

    folder: Path
    world: World
    points: Points
    lines: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def first(self) -> AsyncIterator[Rig]:
        """The stack that will be destroyed: without another word when the block ends."""
        async with standing_in(self.folder, self.world, self.points, data="first") as rig:
            rig.witness.excuse_all(
                "it is destroyed while its runs go on; they are held in the stack that is restored from it"
            )
            yield rig
            # the test's own connections go first: they would notice the end of their server
            rig.database.terminate()
            for engine in rig.engines.values():
                await engine.dispose()
            rig.stack.kill_all()
        shutil.rmtree(self.folder / "first")

    async def back_up(self, rig: Rig) -> Path:
        target = self.folder / "backup.tar"
        await take(rig.stack.folder, target, say=self.lines.append)
        return target

    @asynccontextmanager
    async def second(self, ports: Ports) -> AsyncIterator[Rig]:
        """The stack that was restored: in another folder, on other ports but the model's, which is a part of the world."""
        async with standing_in(
            self.folder, self.world, self.points, data="second", ports=replace(Ports.free(), provider=ports.provider)
        ) as rig:
            yield rig


@pytest.fixture
async def disaster() -> AsyncIterator[Disaster]:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-backup-"))
    folder.chmod(0o755)
    try:
        async with World(folder / "world") as world:
            yield Disaster(folder, world, Points(folder / "points"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def moved(rig: Rig, *runs: Run) -> tuple[Run, ...]:
    """The same runs, in the restored stack."""
    tenants = {run.tenant.tenant_id: replace(run.tenant, rig=rig, runs=[]) for run in runs}
    return tuple(replace(run, tenant=tenants[run.tenant.tenant_id]) for run in runs)


def states(done: Restored) -> dict[UUID, str]:
    return {run.run_id: run.state for run in done.reconciled.runs}


async def consent(run: Run) -> None:
    tenant, engine = run.tenant, run.rig.engine("api")
    approval_id = await run.rig.value("SELECT approval_id FROM approvals WHERE run_id = $1", run.run_id)
    await decide(engine, tenant.bob, approval_id, "approved")
    await signals.deliver_approval(run.rig.client, engine, tenant.tenant_id, approval_id)


async def records_are_complete(rig: Rig, *runs: Run) -> None:
    """Every hold has its record, of which every byte is as it was decided; and no step is missing."""
    for run in runs:
        decisions = {row["decision_id"]: row for row in await run.decisions()}
        holds = await run.holds()
        assert {hold["decision_id"] for hold in holds} <= set(decisions)
        for row in decisions.values():
            assert record_hash(row["part_a"], row["part_b"]) == row["record_hash"]
        steps = sorted({row["step"] for row in decisions.values() if row["step"]})
        assert steps == list(range(1, len(steps) + 1)), await run.story()
        events = await run.events()
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    # the transcript is a chain: each entry is named by the digest of its parent and itself
    broken = await rig.value(
        "SELECT count(*) FROM transcript_entries WHERE entry_id <> sha256(coalesce(parent_id, ''::bytea) || content)"
    )
    assert broken == 0


async def quiet(rig: Rig, run: Run) -> None:
    """The run has done what it does before somebody lets it go on: its workflow waits, and nothing is asked of anybody."""

    async def waits() -> bool:
        described = await run.handle.describe()
        return not described.raw_description.pending_activities and not described.raw_description.HasField(
            "pending_workflow_task"
        )

    await until(waits, what=f"the standstill of run {run.run_id}")


async def test_every_run_that_was_interrupted_finishes_when_somebody_has_looked(disaster: Disaster) -> None:
    async with disaster.first() as rig:
        tenant = await rig.tenant()
        at_gate = await tenant.start(task(refund("GATE-1"), mail("after the gate"), say("done")), rules=RULES)
        await at_gate.until_status("waiting")
        await at_gate.tell("followup", "and hurry")
        rig.fault("mail", "gate")
        sending = await tenant.start(task(mail("on its way"), say("done")))
        await rig.until_held()
        cancelled = await tenant.start(task(refund("CANCELLED-1"), say("never")), rules=RULES)
        await cancelled.until_status("waiting")
        # asked for, and nobody has told Temporal yet: a sweeper would, a moment later
        async with rig.nothing_swept():
            await cancelled.cancel(deliver=False)
            await rig.rows(
                "UPDATE runs SET cancel_requested_at = now() + interval '1 h' WHERE run_id = $1", cancelled.run_id
            )
            unstarted = await tenant.admit(task(mail("never started"), say("done")))
            await rig.rows("UPDATE runs SET created_at = now() + interval '1 h' WHERE run_id = $1", unstarted.run_id)
        rig.points.park("execute.before_outward:tool.call")
        redeemed = await tenant.start(task(mail("redeemed"), say("done")))
        await rig.points.until_parked("execute.before_outward:tool.call")
        rig.points.park("redeem.before:tool.call")
        permitted = await tenant.start(task(mail("permitted"), say("done")))
        await rig.points.until_parked("redeem.before:tool.call")
        rig.points.park("reserve.before:tool.call")
        between = await tenant.start(task(mail("between"), refund("BETWEEN-1"), say("done")))
        await rig.points.until_parked("reserve.before:tool.call")
        await rig.think_badly({"kind": "gate"})
        thinking = await tenant.start(task(mail("thought of"), say("done")))
        await rig.until_thinking()
        ended = await tenant.start(task(say("done at once")))
        assert await ended.ended() == "succeeded"
        archive, ports = await disaster.back_up(rig), rig.stack.ports
        money = await rig.rows("SELECT cap_id, reserved, committed, debt FROM caps ORDER BY cap_id")
    disaster.world.faults.clear()
    disaster.world.faults.release()

    done = await restore(archive, DataFolder(disaster.folder / "second"), say=disaster.lines.append)
    interrupted = (at_gate, sending, unstarted, redeemed, permitted, between, thinking)
    assert states(done) == {**{run.run_id: "paused" for run in interrupted}, cancelled.run_id: "cancelled"}
    assert {run.run_id: run.stood for run in done.reconciled.runs} == {
        at_gate.run_id: "waits for an approval",
        sending.run_id: "was executing mail.send (step 2): its outcome is not known here",
        cancelled.run_id: "waits for an approval",
        unstarted.run_id: "between two steps",
        redeemed.run_id: "was executing mail.send (step 2): its outcome is not known here",
        permitted.run_id: "was about to execute mail.send (step 2)",
        between.run_id: "between two steps",
        thinking.run_id: "was executing llm.call (step 1): its outcome is not known here",
    }
    async with disaster.second(ports) as rig:
        assert len(money) == await rig.value("SELECT count(*) FROM caps")
        going_on = moved(rig, *interrupted)
        at_gate, sending, unstarted, redeemed, permitted, between, thinking = going_on
        (cancelled, ended) = moved(rig, cancelled, ended)
        assert await cancelled.ended() == "cancelled run.cancelled"
        for run in (unstarted, permitted, between, thinking):
            await run.until_status("paused")
        hold_id = await sending.until_hold("unknown", tool="mail.send")
        await thinking.until_hold("unknown")
        # nothing had gone outside when the backup was taken; what its executor did a moment later is not known here
        perhaps_id = await redeemed.until_hold("unknown", tool="mail.send")
        for run in going_on:
            await quiet(rig, run)
        assert await rig.model_calls() == [], "nothing is bought before somebody has looked"
        existing = {subject: len(rig.mails(subject)) for subject in _SUBJECTS}
        assert {subject for subject, count in existing.items() if count} <= {"on its way"}
        # consent alone lets nothing go on, for whoever gives it may not know of the restore
        await consent(at_gate)
        await at_gate.until_status("paused")
        assert not rig.refunds("GATE-1")
        # a person looks outside, says what became of the mail, and lets all of them go on
        await sending.resolve(hold_id, happened=existing["on its way"] == 1)
        await redeemed.resolve(perhaps_id, happened=False)
        for run in going_on:
            await run.tell("resume")
        for run in going_on:
            assert await run.ended() == "succeeded", await run.story()
            await run.settled()
        assert {subject: len(rig.mails(subject)) for subject in _SUBJECTS} == dict.fromkeys(_SUBJECTS, 1)
        assert [len(rig.refunds(f"{name}-1")) for name in ("GATE", "BETWEEN", "CANCELLED")] == [1, 1, 0]
        assert "and hurry" in [entry.get("text") for entry in await at_gate.transcript()]
        assert await ended.status() == "succeeded"
        await records_are_complete(rig, *going_on, cancelled, ended)
        await rig.audit()


_SUBJECTS = ("after the gate", "on its way", "never started", "redeemed", "permitted", "between", "thought of")


async def test_a_permit_that_waited_for_an_executor_is_not_used_before_somebody_has_looked(disaster: Disaster) -> None:
    async with disaster.first() as rig:
        tenant = await rig.tenant()
        await rig.stack.kill("executor-1", restart=False)
        queued = await tenant.start(task(mail("queued"), say("done")))
        await queued.until_hold("held")

        async def scheduled() -> bool:
            return bool((await queued.handle.describe()).raw_description.pending_activities)

        await until(scheduled, what="its execution, which waits in the queue")
        archive, ports = await disaster.back_up(rig), rig.stack.ports
    done = await restore(archive, DataFolder(disaster.folder / "second"), say=disaster.lines.append)
    assert done.reconciled.voided == 1
    async with disaster.second(ports) as rig:
        (queued,) = moved(rig, queued)
        await queued.until_status("paused")
        await quiet(rig, queued)
        assert await rig.model_calls() == []
        assert await queued.states() == ["voided"]
        await queued.tell("resume")
        assert await queued.ended() == "succeeded", await queued.story()
        assert await queued.states("llm.call") == ["voided", "committed", "committed"]
        assert len(rig.mails("queued")) == 1
        await records_are_complete(rig, queued)
        await rig.audit()


async def test_under_load_both_states_are_of_one_point_and_runs_go_on_by_themselves(disaster: Disaster) -> None:
    started: list[Run] = []
    numbers, stopping = count(), asyncio.Event()

    async def work(rig: Rig, tenant: Tenant) -> None:
        while not stopping.is_set():
            number = next(numbers)
            script = (refund(f"LOAD-{number}"), refund(f"MORE-{number}"), say("done"))
            run = await tenant.start(task(*script), steps_per_execution=2)
            started.append(run)
            await run.tell("steer" if number % 3 == 0 else "followup", "and thank you")
            await asyncio.sleep(0.3)  # so that there are some of every age, and not too many

    async with disaster.first() as rig:
        tenant = await rig.tenant()
        workers = [asyncio.create_task(work(rig, tenant)) for _ in range(2)]

        async def some_have_ended() -> bool:
            return bool(await rig.value("SELECT count(*) > 5 FROM runs WHERE ended_at IS NOT NULL"))

        await until(some_have_ended, within_s=90, what="the end of some runs")
        archive, ports = await disaster.back_up(rig), rig.stack.ports
        stopping.set()
        await asyncio.gather(*workers)

    done = await restore(archive, DataFolder(disaster.folder / "second"), resume=True, say=disaster.lines.append)
    assert done.manifest.open_runs > 0, "the test wants runs under way"
    assert set(states(done).values()) == {"resumed"}
    async with disaster.second(ports) as rig:
        known = {row["run_id"] for row in await rig.rows("SELECT run_id FROM runs")}
        runs = [run for run in moved(rig, *started) if run.run_id in known]
        for run in runs:
            assert await run.ended(within_s=120) == "succeeded", await run.story()
            await run.settled()
            assert "hold.key_conflict" not in await run.codes()
        # a refund that came after the backup comes again, under the same key: it exists once
        for order in [f"{name}-{number}" for number in range(next(numbers)) for name in ("LOAD", "MORE")]:
            assert len(rig.refunds(order)) <= 1, order
        for run in runs:
            for hold in await run.holds(tool="payments.refund"):
                order = json.loads(hold["action"])["args"]["order_id"]
                assert hold["state"] != "committed" or len(rig.refunds(order)) == 1, order
        await records_are_complete(rig, *runs)
        await rig.audit()
