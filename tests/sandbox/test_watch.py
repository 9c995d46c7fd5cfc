"""What is seen of a job from outside while this side was busy: who ended in time, what was cut, what nobody may wait for."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from sandbox.backends import KINDS
from sandbox.job import Because, Job, Limits
from sandbox.native import seccomp
from sandbox.native.watch import AT_ONCE, OnOutput, Watch
from sandbox.native.worker import Ended, Worker
from sandbox.service import Sandbox, Settings
from sandbox.session import Session
from tests.sandbox.installed import require

PATIENCE_S = 60.0
LIMITS = Limits(wall_ms=600_000)
own_loop = pytest.mark.asyncio(loop_scope="function")
"""For a test that lets time pass: what else runs in the loop of all tests shall not wait for an hour afterwards."""


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


@own_loop
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


@own_loop
async def test_a_job_that_still_runs_at_its_deadline_is_ended(pass_time: Callable[[], None]) -> None:
    code = "import time; print(1, flush=True); time.sleep(600)"
    async with Sandbox(Settings(idle_min=0, idle_max=0)) as own:
        result = await own.submit(Job(code, limits=LIMITS), on_output=lambda *_: pass_time())
    assert result.killed is not None
    assert result.killed.because == Because.TIME


def _control(session: Session) -> socket.socket:
    control = session._worker.control
    assert control is not None
    return control


def has_come(link: socket.socket) -> bool:
    """Says whether there is something to read."""
    return bool(select.select([link], [], [], 0)[0])


@own_loop
async def test_a_cell_that_ended_while_this_side_was_busy_was_not_too_slow(pass_time: Callable[[], None]) -> None:
    async with Sandbox(Settings(idle_min=0, idle_max=0)) as own, own.session(limits=LIMITS) as session:

        def busy(_: str, __: bytes) -> None:
            until(lambda: has_come(_control(session)))
            pass_time()

        result = await session.run("x = 1\nprint(x)", on_output=busy)
        assert (result.exit_status, result.stdout, result.killed) == (0, b"1\n", None)
        assert (await session.run("x")).stdout == b"1\n"


@own_loop
@pytest.mark.parametrize("said", ["", "os.write(3, bytes([0]))", "os.write(3, bytes([0, 0, 0, 12, 123]))"])
async def test_a_cell_that_still_runs_at_its_deadline_is_ended_though_it_has_begun_to_say_otherwise(
    pass_time: Callable[[], None], said: str
) -> None:
    """Half an answer is no end: else a cell could have as much time as it likes for a byte."""
    async with Sandbox(Settings(idle_min=0, idle_max=0)) as own, own.session(limits=LIMITS) as session:

        def busy(_: str, __: bytes) -> None:
            if said:
                until(lambda: has_come(_control(session)))
            pass_time()

        code = f"import os, time; print(1, flush=True); {said}\ntime.sleep(600)"
        result = await session.run(code, on_output=busy)
    assert result.killed is not None
    assert result.killed.because == Because.TIME


class Pipes:
    """A process that is none: what it prints is written here."""

    def __init__(self, closing: ExitStack) -> None:
        self.worker = Worker("1", 0, Limits())
        self._closing = closing
        self._writers: dict[str, int] = {}
        for stream in ("stdout", "stderr"):
            reads, self._writers[stream] = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            setattr(self.worker, stream, reads)
            closing.callback(os.close, self._writers[stream])
        closing.callback(self.worker.close)

    def watch(self, limits: Limits | None = None, on_output: OnOutput | None = None) -> Watch:
        """Begins to watch it."""
        watch = Watch(self.worker, limits or Limits(), on_output, frozenset())
        self._closing.callback(watch.finish)
        watch.begin()
        return watch

    def print(self, stream: str, size: int) -> None:
        """Prints that much, which has room in a pipe."""
        assert os.write(self._writers[stream], b"x" * size) == size


@pytest.fixture
async def pipes() -> AsyncIterator[Pipes]:
    """Such a process."""
    with ExitStack() as closing:
        yield Pipes(closing)


@pytest.mark.parametrize("before", [1_000, AT_ONCE + 1_000])
@pytest.mark.parametrize(("stdout", "stderr"), [(3_000, 0), (0, 3_000), (1_000, 1)])
async def test_what_is_cut_of_the_last_output_is_told(pipes: Pipes, before: int, stdout: int, stderr: int) -> None:
    """What may be printed was used up to the last byte when the job ended, and more lay in the pipes."""
    heard: list[bytes] = []
    limits = Limits(output_bytes=before)
    watch = pipes.watch(limits, lambda _, part: heard.append(part))
    left = before
    async with asyncio.timeout(PATIENCE_S):
        while left:
            size = min(left, 50_000)
            pipes.print("stdout", size)
            left -= size
            while sum(map(len, heard)) < before - left:
                await asyncio.sleep(0.001)
    for stream, size in (("stdout", stdout), ("stderr", stderr)):
        pipes.print(stream, size)
    watch.finish()  # nothing runs between the two
    found = watch.watched(Ended(0, 0.0, 0))
    assert (len(found.stdout), len(found.stderr)) == (before, 0)
    assert found.killed == (Because.OUTPUT, "")


@pytest.mark.parametrize(("stdout", "stderr"), [(3_000, 0), (2_000, 1_000), (0, 3_000)])
async def test_who_prints_all_that_may_be_printed_was_not_cut(pipes: Pipes, stdout: int, stderr: int) -> None:
    watch = pipes.watch(Limits(output_bytes=3_000))
    for stream, size in (("stdout", stdout), ("stderr", stderr)):
        pipes.print(stream, size)
    watch.finish()
    found = watch.watched(Ended(0, 0.0, 0))
    assert (len(found.stdout), len(found.stderr), found.killed) == (stdout, stderr, None)


MANY = 2 * AT_ONCE
TO_THE_LAST_BYTE = f"""
import fcntl, os
left = {MANY}
while left:
    left -= os.write(1, b"x" * left)
while fcntl.ioctl(1, 0x541B, bytes(4)) != bytes(4): pass
os.write(1, b"y" * 30_000)
"""


async def test_a_job_that_ended_says_that_its_output_was_cut() -> None:
    """It prints all that it may, waits until that was read, prints more and ends while this side is busy."""
    async with Sandbox(Settings(idle_min=0, idle_max=0)) as own:
        heard: list[int] = []

        def busy(_: str, part: bytes) -> None:
            heard.append(len(part))
            if sum(heard) == MANY:
                until(lambda: not psutil.Process(own.zygote_pid).children())

        limits = Limits(wall_ms=600_000, cpu_s=60, output_bytes=MANY)
        result = await own.submit(Job(TO_THE_LAST_BYTE, limits=limits), on_output=busy)
    assert (result.exit_status, len(result.stdout)) == (0, MANY)
    assert result.why == "It printed more than it may."


async def test_who_is_gone_is_not_asked_for_a_forbidden_call(pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says of a job without processes that its filter is nobody's; before Linux 6.11 a question then waits for ever."""
    asked: list[int] = []
    monkeypatch.setattr(seccomp, "forbidden_call", asked.append)
    pipes.worker.listener, writes = os.pipe2(os.O_CLOEXEC)
    os.close(writes)
    pipes.watch()
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    loop.call_later(0.01, heard.set)  # rounds of the loop, in each of which it would be told
    await heard.wait()
    assert asked == []
    assert not loop.remove_reader(pipes.worker.listener), "it would be told again and again"


async def test_a_forbidden_call_that_was_taken_back_does_not_let_the_next_one_pass(
    pipes: Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who made it is gone before it was asked for; who is left may make one."""
    monkeypatch.setattr(seccomp, "forbidden_call", lambda _: "mount")
    pipes.worker.listener, writes = os.pipe2(os.O_CLOEXEC)
    try:
        watch = pipes.watch()
        watch._forbidden()
        assert watch.watched(Ended(0, 0.0, 0)).killed is None
        os.write(writes, b"x")
        async with asyncio.timeout(PATIENCE_S):
            while not watch.killed:
                await asyncio.sleep(0.001)
    finally:
        os.close(writes)
    assert watch.watched(Ended(0, 0.0, 0)).killed == (Because.FORBIDDEN_CALL, "mount")
