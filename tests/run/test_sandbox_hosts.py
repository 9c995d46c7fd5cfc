"""Sandbox hosts apart: one that is killed or frozen while its code waits for a call loses the code, never what the call has done."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from cli.stack.environment import passed_on
from tests.stack.places import ROOT, lives

from .harness import Rig, Run, say, task, until
from .rigs import running_rig
from .test_code_calls import RULES, TOOLS, code, told

# The mail is out, and the executor of the tool has not stored what came of it.
IN_CALL: Final = "outcome.before:tool.call"

Hosts = Mapping[int, asyncio.subprocess.Process]


@pytest.fixture(scope="module")
async def apart() -> AsyncIterator[Rig]:
    """A stack whose executors run no code."""
    async with running_rig(environment={"HOLDFAST_CODE_SLOTS": "0"}) as rig:
        yield rig


@pytest.fixture
async def rig(apart: Rig) -> AsyncIterator[Rig]:
    """Like the other tests' own: afterwards the books are right."""
    yield apart
    await apart.calm()
    await apart.audit()
    await apart.cross_check()


@asynccontextmanager
async def host(rig: Rig, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs a sandbox host for as long as the block runs."""
    log = rig.stack.folder.logs / f"{name}.log"
    environment = {**passed_on(os.environ), **rig.stack.env_for("executor-1"), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "workers.sandbox_host"), cwd=ROOT, env=environment, stdout=out, stderr=out
        )
    try:

        async def ready() -> bool:
            assert process.returncode is None, log.read_text()
            return '"ready"' in log.read_text()

        await until(ready, within_s=150, what=f"the start of {name}")
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        await process.wait()


@pytest.fixture(scope="module")
async def hosts(apart: Rig) -> AsyncIterator[Hosts]:
    async with host(apart, "host-1") as one, host(apart, "host-2") as other:
        yield {one.pid: one, other.pid: other}


async def start(rig: Rig, text: str, **admission: Any) -> Run:
    tenant = await rig.tenant()
    return await tenant.start(task(code(text, timeout_ms=60_000), say("done")), rules=RULES, tools=TOOLS, **admission)


async def running_on(hosts: Hosts, run: Run) -> asyncio.subprocess.Process:
    """The host that runs its code, as Temporal knows it."""
    described = await run.handle.describe()
    identities = [each.last_worker_identity for each in described.raw_description.pending_activities]
    [found] = [pid for pid in hosts if any(identity.startswith(f"{pid}@") for identity in identities)]
    return hosts[found]


async def has_run_again(rig: Rig, run: Run, subject: str, *, woken: bool = False) -> None:
    """The code went through elsewhere, its call was made once, and what the lost host may have done stays held (LAW 4).

    A host that wakes may still say what its code has used; then that is settled, and nothing is guessed.
    """
    assert await run.ended() == "succeeded", await run.story()
    answer = await told(run)
    assert "through" in answer["content"], answer
    assert len(rig.mails(subject)) == 1
    assert await run.states(tool="mail.send") == ["committed"]
    lost, again = await run.holds("code.exec")
    assert again["state"] == "committed"
    if woken and lost["state"] == "committed":
        assert lost["cost_class"] not in {None, "unknown"}
    else:
        assert (lost["state"], lost["cost_nano_usd"]) == ("unknown", None)


async def test_a_host_that_is_frozen_in_the_middle_of_a_call_does_nothing_when_it_wakes(rig: Rig, hosts: Hosts) -> None:
    rig.points.park(IN_CALL)
    run = await start(rig, "print(send('host frozen'))\nprint('through')")
    await rig.points.until_parked(IN_CALL, within_s=120)
    frozen = await running_on(hosts, run)
    frozen.send_signal(signal.SIGSTOP)
    try:
        rig.points.release(IN_CALL)
        await has_run_again(rig, run, "host frozen")
    finally:
        frozen.send_signal(signal.SIGCONT)
    log = rig.stack.folder.logs / ("host-1.log" if frozen is next(iter(hosts.values())) else "host-2.log")

    async def gave_up() -> bool:
        return "lease" in log.read_text() or "cancel" in log.read_text().lower()

    await until(gave_up, what="the frozen host's word that its lease is lost")
    await has_run_again(rig, run, "host frozen", woken=True)


async def test_a_host_that_is_killed_in_the_middle_of_a_call_repeats_none(rig: Rig, hosts: Hosts) -> None:
    rig.points.park(IN_CALL)
    run = await start(rig, "print(send('host killed'))\nprint('through')")
    await rig.points.until_parked(IN_CALL, within_s=120)
    killed = await running_on(hosts, run)
    jobs = psutil.Process(killed.pid).children(recursive=True)
    assert jobs, "the sandbox has processes"
    killed.kill()
    rig.points.release(IN_CALL)

    async def dead() -> bool:
        return not any(lives(job.pid) for job in jobs)

    await until(dead, what="the death of every job of a killed host")
    await has_run_again(rig, run, "host killed")
