"""Whoever is cancelled takes what is done for a job with it: nothing goes on that nobody waits for."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from sandbox.frames import Request
from sandbox.job import Job, Limits
from sandbox.native.cgroups import Use
from sandbox.native.pool import Pool
from sandbox.native.worker import Worker
from sandbox.service import Sandbox, Settings
from sandbox.supervisor import Supervisor

LIMITS = Limits(wall_ms=600_000)
ASKS = "from holdfast_guest import tool\ntool('a')"
PATIENCE_S = 60.0


class Owner:
    """Who acts for a job: for ever, and takes time to end when it is cancelled."""

    def __init__(self) -> None:
        self.state: list[str] = []
        self.may_end = asyncio.Event()

    async def act(self, _: Request) -> None:
        """Begins, and is cancelled."""
        self.state.append("begun")
        try:
            await asyncio.sleep(600)
        finally:
            self.state.append("cancelled")
            await self.may_end.wait()
            self.state.append("ended")

    async def until(self, state: str) -> None:
        """Waits until that has come."""
        async with asyncio.timeout(PATIENCE_S):
            while state not in self.state:
                await asyncio.sleep(0.005)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when a supervisor is waited for."""
    waited = asyncio.Event()
    end = Supervisor.end

    async def told(supervisor: Supervisor, *, cancel: bool = False) -> None:
        waited.set()
        await end(supervisor, cancel=cancel)

    monkeypatch.setattr(Supervisor, "end", told)
    return waited


async def _in_a_job(own: Sandbox, owner: Owner) -> None:
    await own.submit(Job(ASKS, limits=LIMITS), act=owner.act)


async def _in_a_session(own: Sandbox, owner: Owner) -> None:
    async with own.session(limits=LIMITS, act=owner.act) as session:
        await session.run(ASKS)


@pytest.mark.parametrize("where", [_in_a_job, _in_a_session])
async def test_what_is_done_for_a_job_that_has_ended_is_cancelled_with_who_waits_for_it(
    ends: asyncio.Event, where: Callable[[Sandbox, Owner], Awaitable[None]]
) -> None:
    """The job was killed while its last request was acted upon, and whoever submitted it waits for nothing else."""
    owner = Owner()
    async with Sandbox(Settings(idle_min=0, idle_max=0)) as own:
        ends.clear()  # it was waited for the canary's
        submitted = asyncio.ensure_future(where(own, owner))
        await owner.until("begun")
        [job] = psutil.Process(own.zygote_pid).children()
        os.kill(job.pid, signal.SIGKILL)
        await asyncio.wait_for(ends.wait(), PATIENCE_S)
        for _ in range(2):  # whoever is impatient changes nothing: it ends in order, and is waited for
            submitted.cancel()
            await owner.until("cancelled")
            assert not submitted.done()
        owner.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(submitted, PATIENCE_S)
        assert owner.state == ["begun", "cancelled", "ended"]
        assert (await own.submit(Job("print(1)", limits=LIMITS))).stdout == b"1\n"


async def test_what_is_done_for_a_running_job_is_waited_for_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    owner, given_back = Owner(), list[list[str]]()
    give_back = Pool.give_back

    async def told(pool: Pool, worker: Worker) -> Use | None:
        given_back.append(list(owner.state))
        return await give_back(pool, worker)

    async with Sandbox(Settings(idle_min=0, idle_max=0)) as own:
        monkeypatch.setattr(Pool, "give_back", told)
        submitted = asyncio.ensure_future(_in_a_job(own, owner))
        await owner.until("begun")
        submitted.cancel()
        await owner.until("cancelled")
        submitted.cancel()
        for _ in range(20):  # rounds of the loop, in which it would leave
            await asyncio.sleep(0)
        owner.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(submitted, PATIENCE_S)
    assert given_back == [["begun", "cancelled", "ended"]]
