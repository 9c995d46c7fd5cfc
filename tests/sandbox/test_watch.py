"""What is seen of a job from outside while this side was busy: who ended in time, what was cut, what nobody may wait for."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Callable

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from sandbox.backends import KINDS
from sandbox.job import Because, Job, Limits
from sandbox.service import Sandbox, Settings
from sandbox.session import Session
from tests.sandbox.installed import require

PATIENCE_S = 60.0
LIMITS = Limits(wall_ms=600_000)


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has the loop believe that so much time has passed that every deadline is over."""

    def passed() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: time.monotonic() + 3_600)

    return passed


def until(is_so: Callable[[], bool]) -> None:
    """Waits with the whole loop, which hears of nothing meanwhile."""
    ends = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.005)


@pytest.mark.parametrize("backend", KINDS)
async def test_a_job_that_ended_while_this_side_was_busy_was_not_too_slow(
    backend: str, pass_time: Callable[[], None]
) -> None:
    require(backend)
    async with Sandbox(Settings(backend=backend, allow_old=True, idle_min=0, idle_max=0)) as own:

        def busy(_: str, __: bytes) -> None:
            until(lambda: not psutil.Process(own.zygote_pid).children(recursive=True))
            pass_time()

        result = await own.submit(Job("print(1)", limits=LIMITS), on_output=busy)
    assert (result.exit_status, result.stdout, result.killed) == (0, b"1\n", None)


async def test_a_job_that_still_runs_at_its_deadline_is_ended(sandbox: Sandbox, pass_time: Callable[[], None]) -> None:
    code = "import time; print(1, flush=True); time.sleep(600)"
    result = await sandbox.submit(Job(code, limits=LIMITS), on_output=lambda *_: pass_time())
    assert result.killed is not None
    assert result.killed.because == Because.TIME


def _control(session: Session) -> socket.socket:
    control = session._worker.control
    assert control is not None
    return control


def has_come(link: socket.socket) -> bool:
    """Says whether there is something to read."""
    return bool(select.select([link], [], [], 0)[0])


async def test_a_cell_that_ended_while_this_side_was_busy_was_not_too_slow(
    sandbox: Sandbox, pass_time: Callable[[], None]
) -> None:
    async with sandbox.session(limits=LIMITS) as session:

        def busy(_: str, __: bytes) -> None:
            until(lambda: has_come(_control(session)))
            pass_time()

        result = await session.run("x = 1\nprint(x)", on_output=busy)
        assert (result.exit_status, result.stdout, result.killed) == (0, b"1\n", None)
        assert (await session.run("x")).stdout == b"1\n"


@pytest.mark.parametrize("said", ["", "os.write(3, bytes([0]))", "os.write(3, bytes([0, 0, 0, 12, 123]))"])
async def test_a_cell_that_still_runs_at_its_deadline_is_ended_though_it_has_begun_to_say_otherwise(
    sandbox: Sandbox, pass_time: Callable[[], None], said: str
) -> None:
    """Half an answer is no end: else a cell could have as much time as it likes for a byte."""
    async with sandbox.session(limits=LIMITS) as session:

        def busy(_: str, __: bytes) -> None:
            if said:
                until(lambda: has_come(_control(session)))
            pass_time()

        code = f"import os, time; print(1, flush=True); {said}\ntime.sleep(600)"
        result = await session.run(code, on_output=busy)
    assert result.killed is not None
    assert result.killed.because == Because.TIME
