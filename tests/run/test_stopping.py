"""SIGTERM in the middle of everything: what can end in time ends, the rest is handed back as what is true of it.

A process that has to be killed would end with another exit code, and so would one that minds a second signal.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import pytest

from sdk import Event, Holdfast

from .harness import Rig, Run, Tenant, mail, refund, say, task, until
from .rigs import running_rig
from .test_log_lines import api_key

GRACE_MS: Final = 6_000
EXECUTORS: Final = ("executor-1", "executor-2")


@pytest.fixture(scope="module")
async def standing_rig() -> AsyncIterator[Rig]:
    """Two executors, an API, and a grace that tests can wait for."""
    environment = {"HOLDFAST_SHUTDOWN_GRACE_MS": str(GRACE_MS)}
    async with running_rig(more_parts=("api", "bootstrap"), environment=environment, executors=2) as rig:
        yield rig


class Stopping:
    """A process that was told to stop, again and again, until it has."""

    def __init__(self, rig: Rig, name: str) -> None:
        self._rig, self.name, self.pid = rig, name, rig.pid(name)
        self._stopping = asyncio.create_task(rig.stack.stop_child(name))
        self._insisting = asyncio.create_task(self._insist())

    async def _insist(self) -> None:
        with suppress(ProcessLookupError):
            while True:
                await asyncio.sleep(0.01)
                os.kill(self.pid, signal.SIGTERM)

    async def until_told(self) -> None:
        """Waits until the process knows."""

        async def said() -> bool:
            return '"event":"stopping"' in self._rig.log(self.name).rpartition('"event":"ready"')[2]

        await until(said, what=f"the end of {self.name} to begin")

    async def ended(self) -> None:
        """It has ended by itself, in good order; another one is started."""
        await self._stopping
        await self._insisting
        assert self._rig.stack.child(self.name).exit_code == 0, self._rig.log(self.name)[-2_000:]
        self._rig.restart(self.name)


def executor_of(rig: Rig, pid: int) -> str:
    return next(name for name in EXECUTORS if rig.pid(name) == pid)


async def the_one_that_holds(rig: Rig, run: Run) -> str:
    """The executor that has the run's newest execution, as Temporal knows it."""
    described = await run.handle.describe()
    [pending] = described.raw_description.pending_activities
    pid = int(pending.last_worker_identity.partition("@")[0])
    return executor_of(rig, pid)


async def check_done(run: Run) -> None:
    assert await run.ended() == "succeeded", await run.story()
    await run.settled()


def is_made(states: list[str], *, spare: bool) -> bool:
    """Whether an action was done once.

    Args:
        states: Of its tries.
        spare: Whether its permit may have been given by a governor that stops, and have found nobody to redeem it: then that try
            is voided, nothing of it went outside, and the action is decided anew.
    """
    return states == ["committed"] or (spare and states == ["voided", "committed"])


# Executors ----------------------------------------------------------------------------------------------------------


async def test_a_model_stream_that_ends_in_time_is_finished(rig: Rig, tenant: Tenant) -> None:
    await rig.think_badly({"kind": "gate"})
    run = await tenant.start(task(say("thought to its end")))
    await rig.until_thinking()
    stopping = Stopping(rig, await the_one_that_holds(rig, run))
    await stopping.until_told()
    await rig.let_think()
    await stopping.ended()
    await check_done(run)
    assert await run.states() == ["committed"]
    assert len(await rig.model_calls()) == 1


async def test_a_model_stream_that_does_not_is_cut_paid_for_and_asked_again_by_another(
    rig: Rig, tenant: Tenant
) -> None:
    await rig.think_badly({"kind": "gate"})
    run = await tenant.start(task(say("thought twice")), max_tries=1)
    await rig.until_thinking()
    await Stopping(rig, await the_one_that_holds(rig, run)).ended()
    await check_done(run)
    first, second = await run.holds("llm.call")
    assert (first["error_code"], second["state"]) == ("executor.stopped", "committed"), await run.story()
    assert first["state"] in ("committed", "unknown"), await run.story()  # what came of it was paid for
    assert {one["idempotency_key"] for one in await rig.model_calls()} == {f"{tenant.tenant_id}:{run.run_id}:1"}
    assert len(await rig.model_calls()) == 2


@pytest.mark.parametrize("place", ["redeem.before", "redeem.after", "execute.before_outward"])
async def test_a_tool_that_has_not_begun_is_handed_back_and_run_at_once_by_another(
    rig: Rig, tenant: Tenant, place: str
) -> None:
    rig.points.park(f"{place}:tool.call")
    run = await tenant.start(task(mail(f"handed back at {place}"), say("done")), max_tries=1)
    await rig.points.until_parked(f"{place}:tool.call")
    [pid] = rig.points.parked(f"{place}:tool.call")
    stopping = Stopping(rig, executor_of(rig, pid))

    async def elsewhere() -> bool:
        return bool({*rig.points.parked(f"{place}:tool.call")} - {pid})

    await until(elsewhere, what="another executor to take it")
    await stopping.ended()
    rig.points.clear()
    await check_done(run)
    assert await run.states("tool.call") == ["voided", "committed"], await run.story()
    assert len(rig.mails(f"handed back at {place}")) == 1


async def test_a_tool_whose_answer_comes_in_time_is_finished(rig: Rig, tenant: Tenant) -> None:
    rig.fault("mail", "gate")
    run = await tenant.start(task(mail("answered in time"), say("done")))
    await rig.until_held()
    stopping = Stopping(rig, await the_one_that_holds(rig, run))
    await stopping.until_told()
    rig.world.faults.release()
    await stopping.ended()
    await check_done(run)
    assert await run.states("tool.call") == ["committed"]
    assert len(rig.mails("answered in time")) == 1


async def test_a_mail_whose_answer_does_not_come_is_unknown_and_sent_once(rig: Rig, tenant: Tenant) -> None:
    rig.fault("mail", "gate")
    run = await tenant.start(task(mail("never answered"), say("done")), max_tries=1)
    await rig.until_held()
    await Stopping(rig, await the_one_that_holds(rig, run)).ended()
    hold_id = await run.until_hold("unknown", tool="mail.send")
    await run.until_status("waiting")
    [hold] = await run.holds(tool="mail.send")
    assert (hold["cost_class"], hold["error_code"]) == ("unknown", "executor.stopped")
    await run.resolve(hold_id, happened=True)
    await check_done(run)
    assert len(rig.mails("never answered")) == 1


async def test_a_refund_whose_answer_does_not_come_is_asked_again_and_paid_once(rig: Rig, tenant: Tenant) -> None:
    rig.fault("refunds", "gate")
    run = await tenant.start(task(refund("STOPPED-1"), say("done")), max_tries=1)
    await rig.until_held()
    await Stopping(rig, await the_one_that_holds(rig, run)).ended()
    await check_done(run)
    first, second = await run.holds(tool="payments.refund")
    assert (first["error_code"], second["state"]) == ("executor.stopped", "committed"), await run.story()
    assert len(rig.refunds("STOPPED-1")) == 1


async def test_a_cancelled_run_stays_cancelled_when_its_executor_stops(rig: Rig, tenant: Tenant) -> None:
    rig.points.park("execute.before_outward:tool.call")
    run = await tenant.start(task(mail("cancelled and stopped"), say("done")))
    await rig.points.until_parked("execute.before_outward:tool.call")
    [pid] = rig.points.parked("execute.before_outward:tool.call")
    stopping = Stopping(rig, executor_of(rig, pid))
    await run.cancel()
    await stopping.ended()
    rig.points.clear()
    assert await run.ended() == "cancelled run.cancelled"
    assert await run.states("tool.call") == ["voided"]
    assert not rig.mails("cancelled and stopped")


# Governor and broker --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_time", [True, False])
@pytest.mark.parametrize("place", ["reserve.before", "reserve.after", "settle.before", "settle.after"])
async def test_a_decision_that_is_under_way_is_made_once(rig: Rig, tenant: Tenant, place: str, in_time: bool) -> None:
    rig.points.park(f"{place}:tool.call")
    run = await tenant.start(task(mail(f"{place} {in_time}"), say("done")))
    await rig.points.until_parked(f"{place}:tool.call")
    stopping = Stopping(rig, "governor")
    await stopping.until_told()
    if in_time:
        rig.points.clear()
    await stopping.ended()
    rig.points.clear()
    await check_done(run)
    assert is_made(await run.states("tool.call"), spare=place.startswith("reserve")), await run.story()
    assert is_made((await run.states("llm.call"))[1:], spare=True), await run.story()
    assert len(rig.mails(f"{place} {in_time}")) == 1


async def test_a_redemption_that_is_under_way_is_finished(rig: Rig, tenant: Tenant) -> None:
    rig.points.park("redeem.in:tool.call")
    run = await tenant.start(task(mail("redeemed"), say("done")), max_tries=1)
    await rig.points.until_parked("redeem.in:tool.call")
    refusals = await rig.refusals()
    stopping = Stopping(rig, "governor")
    await stopping.until_told()
    rig.points.clear()
    await stopping.ended()
    await check_done(run)
    assert await run.states("tool.call") == ["committed"], await run.story()
    assert await rig.refusals() == refusals


async def test_executions_wait_for_a_broker_that_comes_back(rig: Rig, tenant: Tenant) -> None:
    rig.points.park("redeem.before:tool.call")
    run = await tenant.start(task(mail("while it was away"), say("done")), max_tries=1)
    await rig.points.until_parked("redeem.before:tool.call")
    stopping = Stopping(rig, "governor")
    await stopping._stopping
    rig.points.clear()
    await stopping.ended()
    await check_done(run)
    assert await run.states("tool.call") == ["committed"], await run.story()


# API ------------------------------------------------------------------------------------------------------------------


async def test_a_stream_ends_resumably_and_a_request_that_waits_is_answered(rig: Rig, tenant: Tenant) -> None:
    key = await api_key(rig, tenant)
    await rig.think_badly({"kind": "gate"})
    run = await tenant.start(task(say("words " * 50), say("done")))
    seen: list[Event] = []
    with Holdfast(rig.stack.urls.api, key) as client:

        def follow() -> None:
            seen.extend(client.events(str(run.run_id)))

        following = asyncio.create_task(asyncio.to_thread(follow))
        waiting = asyncio.create_task(asyncio.to_thread(client.wait_for_run, str(run.run_id), timeout_s=60))
        await rig.until_thinking()
        await Stopping(rig, "api").ended()
        await rig.let_think()
        await following
        assert (await waiting).run_id == str(run.run_id)
    await check_done(run)
    durable = [event.seq for event in seen if event.durable]
    assert durable == list(range(1, len(durable) + 1))
    assert seen[-1].type == "run.ended"
    assert len({event.id for event in seen}) == len(seen)
