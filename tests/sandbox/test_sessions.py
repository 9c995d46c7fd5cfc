"""An interpreter that is kept: what its cells share, what ends it, and when it can be had again."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from sandbox.errors import JobInvalid, SandboxLost, SessionLost
from sandbox.frames import Request
from sandbox.job import Because, Limits
from sandbox.service import Sandbox, Settings
from sandbox.session import Record
from tests.sandbox.test_supervisor import fence_with


async def test_cells_share_what_they_define(sandbox: Sandbox) -> None:
    async with sandbox.session(files={"in": b"3"}) as session:
        first = await session.run("import json\nx = int(open('in').read())")
        second = await session.run("def double():\n    return 2 * x\nprint('here')\njson.dumps(double())")
        third = await session.run("open('out', 'w').write('1')\nNone")
        fourth = await session.run("open('out', 'a').write('2'); __name__")
    assert [result.stdout for result in (first, second, third, fourth)] == [b"", b"here\n'6'\n", b"", b"'__main__'\n"]
    assert [[(file.name, file.content) for file in result.files] for result in (first, third, fourth)] == [
        [],
        [("out", b"1")],
        [("out", b"12")],
    ]
    assert {result.exit_status for result in (first, second, third, fourth)} == {0}


async def test_what_the_page_shows_is_what_a_session_can_do(sandbox: Sandbox) -> None:
    scope: dict[str, Any] = {}  # Any: what the example defines
    exec(fence_with("sandbox.session("), scope)
    assert await scope["report"](sandbox, b"amount\n1\n2\n") == b"3\n"


async def test_an_exception_ends_the_cell_and_not_the_session(sandbox: Sandbox) -> None:
    async with sandbox.session() as session:
        await session.run("x = 1")
        raised = await session.run("y = 2\nx / 0")
        assert raised.raised is not None
        assert (raised.raised.kind, raised.raised.line) == ("ZeroDivisionError", 2)
        assert 'File "cell 2", line 2' in raised.raised.traceback
        left = await session.run("raise SystemExit(3)")
        assert (left.exit_status, left.raised) == (3, None)
        after = await session.run("x + y")
        assert (after.stdout, after.raised, after.exit_status) == (b"3\n", None, 0)


async def test_what_is_printed_is_told_as_it_is_printed(sandbox: Sandbox) -> None:
    heard: list[tuple[str, bytes]] = []
    async with sandbox.session() as session:
        await session.run("import sys; print(1); print(2, file=sys.stderr)", on_output=lambda *part: heard.append(part))
    assert sorted(heard) == [("stderr", b"2\n"), ("stdout", b"1\n")]


ENDS = {
    "import os; os._exit(3)": "A cell ended its process.",
    "import time; time.sleep(60)": "It took longer than it may.",
    "while True: print('x' * 1000)": "It printed more than it may.",
    "import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)": "It made a system call that no job may make: ptrace.",
}


@pytest.mark.parametrize("code", list(ENDS))
async def test_when_the_interpreter_is_gone_the_session_says_so(sandbox: Sandbox, code: str) -> None:
    # also the first cell has no longer, on whatever machine
    limits = Limits(wall_ms=6_000 if "sleep" in code else 60_000, output_bytes=10_000)
    async with sandbox.session(limits=limits) as session:
        await session.run("x = 1")
        result = await session.run(code)
        assert result.exit_status != 0
        for _ in range(2):
            with pytest.raises(SessionLost, match="the session is lost") as raised:
                await session.run("x")
            assert ENDS[code] in str(raised.value)
            assert raised.value.code == "session.lost"


async def test_what_a_cell_says_of_its_own_end_is_not_believed(sandbox: Sandbox) -> None:
    for lie in (b"\xff\xff\xff\xff", b"\0\0\0\x02[]", b'\0\0\0\x0c{"done": 1e9}'):
        async with sandbox.session() as session:
            result = await session.run(f"import os, time; os.write(3, {lie!r}); time.sleep(60)")
            assert result.killed is not None
            with pytest.raises(SessionLost):
                await session.run("1")


async def test_what_a_cell_forks_does_not_become_a_second_interpreter(sandbox: Sandbox) -> None:
    async with sandbox.session() as session:
        await session.run("import os; pid = os.fork()")
        assert (await session.run("os.waitpid(pid, 0)[1], os.getpid()")).stdout == b"(0, 1)\n"
        assert (await session.run("1")).stdout == b"1\n"


async def test_cells_of_one_session_wait_for_each_other(sandbox: Sandbox) -> None:
    async with sandbox.session() as session:
        await session.run("found = []")
        await asyncio.gather(
            *(session.run(f"found.append({n}); import time; time.sleep(.01); found.append({n})") for n in range(4))
        )
        assert (await session.run("found")).stdout == b"[0, 0, 1, 1, 2, 2, 3, 3]\n"


async def test_a_cell_that_was_given_up_takes_the_session_with_it(sandbox: Sandbox) -> None:
    said = asyncio.Event()
    async with sandbox.session(limits=Limits(wall_ms=600_000)) as session:
        cell = "print(1, flush=True); import time; time.sleep(600)"
        task = asyncio.create_task(session.run(cell, on_output=lambda *_: said.set()))
        await asyncio.wait_for(said.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(SessionLost, match="given up"):
            await session.run("1")


async def test_a_cell_that_could_not_be_watched_leaves_nothing_that_watches(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor that the loop still has is another's as soon as it is closed, and a timer would end whoever has it then."""
    async with sandbox.session() as session:
        worker, loop = session._worker, asyncio.get_running_loop()
        timers: list[asyncio.TimerHandle] = []
        call_later = loop.call_later

        def kept(*arguments: Any) -> asyncio.TimerHandle:  # Any: as the loop takes them
            timers.append(call_later(*arguments))
            return timers[-1]

        def fails(_: object) -> int:
            raise OSError(errno.ENODEV, "the cgroup is gone")

        assert worker.group is not None
        monkeypatch.setattr(loop, "call_later", kept)
        monkeypatch.setattr(type(worker.group), "cpu_ns", fails)
        with pytest.raises(OSError, match="the cgroup is gone"):
            await session.run("1")
        monkeypatch.undo()
        assert worker.control is not None
        left = [fd for fd in (worker.stdout, worker.stderr, worker.listener, worker.control) if loop.remove_reader(fd)]
        assert (left, [timer for timer in timers if not timer.cancelled()]) == ([], [])
        with pytest.raises(SessionLost, match="given up"):
            await session.run("1")


async def test_sessions_share_nothing_and_leave_nothing() -> None:
    async with Sandbox(Settings(idle_min=0, idle_max=0)) as own:
        async with own.session() as one, own.session() as other:
            await one.run("x = 1; open('mine', 'w')")
            result = await other.run("import os; print('x' in globals(), os.listdir())")
            assert result.stdout == b"False []\n"
            assert len(psutil.Process(own.zygote_pid).children()) == 2
        assert psutil.Process(own.zygote_pid).children() == []


async def test_a_session_ends_with_the_zygote() -> None:
    async with Sandbox(Settings(idle_min=0)) as own, own.session(limits=Limits(wall_ms=600_000)) as session:
        await session.run("x = 1")
        said = asyncio.Event()
        cell = "print(1, flush=True); import time; time.sleep(600)"
        task = asyncio.create_task(session.run(cell, on_output=lambda *_: said.set()))
        await asyncio.wait_for(said.wait(), 60)
        psutil.Process(own.zygote_pid).kill()
        with pytest.raises(SandboxLost):
            await task
        with pytest.raises(SessionLost):
            await session.run("x")


async def test_cells_ask_the_run_each_for_itself(sandbox: Sandbox) -> None:
    async def act(request: Request) -> object:
        return request.number

    async with sandbox.session(act=act) as session:
        first = await session.run("from holdfast_guest import tool\ntool('a'), tool('b')")
        second = await session.run("tool('c')")
    assert [(result.stdout, result.calls) for result in (first, second)] == [(b"(1, 2)\n", 2), (b"3\n", 1)]


async def test_a_session_can_be_had_again_by_running_its_cells(sandbox: Sandbox) -> None:
    async with sandbox.session(files={"in": b"3"}) as session:
        for code in ("x = int(open('in').read())", "x += 1\nprint(x)", "open('out', 'w').write(str(x))"):
            await session.run(code)
        record = session.record
    async with sandbox.session(files={"in": b"3"}, record=record) as again:
        assert (await again.run("x, open('out').read()")).stdout == b"(4, '4')\n"
        assert len(again.record.cells) == 4


async def _record(sandbox: Sandbox, *cells: str, asks: bool = False) -> Record:
    async def act(_: Request) -> None:
        return

    async with sandbox.session(act=act if asks else None) as session:
        for code in cells:
            await session.run(code)
        return session.record


@pytest.mark.parametrize(
    ("cells", "asks", "why"),
    [
        (("import secrets; x = secrets.token_hex(); print(x)",), False, "when cell 1 was run again"),
        (("x = 1", "import time; print(time.time_ns())"), False, "when cell 2 was run again"),
        (("from holdfast_guest import tool; tool('refund')",), True, "to run them again would be to ask again"),
    ],
)
async def test_where_that_is_not_honest_the_session_is_lost(
    sandbox: Sandbox, cells: tuple[str, ...], asks: bool, why: str
) -> None:
    record = await _record(sandbox, *cells, asks=asks)
    with pytest.raises(SessionLost, match=why):
        async with sandbox.session(record=record):
            pass


async def test_other_input_files_are_another_session(sandbox: Sandbox) -> None:
    record = await _record(sandbox, "x = 1")
    with pytest.raises(SessionLost, match="input files"):
        async with sandbox.session(files={"in": b"1"}, record=record):
            pass


async def test_code_with_a_nul_is_refused_and_the_session_goes_on(sandbox: Sandbox) -> None:
    async with sandbox.session() as session:
        with pytest.raises(JobInvalid):
            await session.run("a\0b")
        assert (await session.run("1")).stdout == b"1\n"


async def test_memory_that_one_cell_ran_out_of_is_not_held_against_the_next(sandbox: Sandbox) -> None:
    # longer than those that the kernel has left take to end
    async with sandbox.session(limits=Limits(memory_bytes=100 << 20, wall_ms=60_000)) as session:
        code = """
import os, time
children = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        held = b"1" * (40 << 20)
        time.sleep(4)
        os._exit(0)
    children.append(pid)
[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
"""
        first = await session.run(code)
        if session.lost:  # the kernel chose the interpreter itself
            return
        assert Because.MEMORY in first.exhausted
        assert (await session.run("1")).exhausted == ()
