"""Children are started, watched, started again and stopped as the supervisor promises."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from cli.stack.child import Child, ChildSpec
from cli.stack.data_folder import DataFolder
from cli.stack.errors import ChildFailed, PortTaken, StackError
from cli.stack.log_file import LogFile
from cli.stack.ports import Ports, check_free
from cli.stack.postgres import answers
from cli.stack.probe import logs_ready
from cli.stack.supervisor import Part, Stack
from tests.stack.places import ROOT, STAND_IN, family, lives, stand_in, until

PROCESSES: frozenset[Part] = frozenset({"bootstrap", "governor", "executor", "api"})
WELL = {name: stand_in("well") for name in ("governor", "executor-1", "executor-2", "api")} | {
    "bootstrap": stand_in("done")
}


def spec(folder: Path, behaviour: str, **more: int) -> ChildSpec:
    return ChildSpec(
        name="child",
        argv=stand_in(behaviour),
        env={},
        log_path=folder / "child.log",
        ready=logs_ready(),
        stop_timeout_ms=more.get("stop_timeout_ms", 60_000),
        ready_timeout_ms=more.get("ready_timeout_ms", 60_000),
    )


def made(folder: Path, behaviour: str, **more: int) -> tuple[Child, list[str]]:
    lines: list[str] = []
    return Child(spec(folder, behaviour, **more), lines.append, lambda: None), lines


async def test_ready_means_that_the_child_said_so(tmp_path: Path) -> None:
    child, _ = made(tmp_path, "slow-to-start")
    starting = asyncio.create_task(child.start())
    await until(lambda: "starting" in (tmp_path / "child.log").read_text() if child.pid else False)
    assert not starting.done()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGUSR1)
    await starting
    assert child.state == "ready"
    await child.stop()
    assert child.pid is None


async def test_a_child_that_ends_before_it_is_ready_shows_its_log(tmp_path: Path) -> None:
    child, _ = made(tmp_path, "crash")
    with pytest.raises(ChildFailed, match=r"ended with code 3 before it was ready(.|\n)*something is badly wrong"):
        await child.start()
    assert child.state == "stopped"


async def test_a_child_that_never_gets_ready_is_killed(tmp_path: Path) -> None:
    child, _ = made(tmp_path, "mute", ready_timeout_ms=300)
    starting = asyncio.create_task(child.start())
    await until(lambda: child.pid is not None)
    pid = child.pid
    assert pid is not None
    with pytest.raises(ChildFailed, match="was not ready within"):
        await starting
    assert not lives(pid)


async def test_a_killed_child_comes_back_with_a_line(tmp_path: Path) -> None:
    child, lines = made(tmp_path, "well")
    await child.start()
    first = child.pid
    await child.kill(signal.SIGKILL, restart=True)
    await child.wait_ready()
    assert child.pid not in (None, first)
    assert child.restarts == 1
    assert lines[0] == "child was ended by SIGKILL; starting it again in 0.25 s"
    assert lines[1].startswith("child is back")
    await child.stop()


async def test_a_probe_that_breaks_does_not_end_the_supervision(tmp_path: Path) -> None:
    """It breaks once, when the child has died and is started again; and at the start, where whoever starts it is told."""
    breaks = 0
    asked = logs_ready()

    async def probe(log: LogFile) -> bool:
        nonlocal breaks
        if breaks:
            breaks -= 1
            raise LookupError("nobody foresaw this")
        return await asked(log)

    lines: list[str] = []
    child = Child(replace(spec(tmp_path, "well"), ready=probe), lines.append, lambda: None)
    await child.start()
    breaks = 1
    await child.kill(signal.SIGKILL, restart=True)
    await asyncio.wait_for(child.wait_ready(), 60)
    assert lines[1] == "child could not be asked: LookupError: nobody foresaw this; starting it again in 0.5 s"
    await child.stop()
    breaks = 1
    with pytest.raises(LookupError):
        await child.start()
    assert (child.state, child.pid) == ("stopped", None)


async def test_a_database_that_dies_while_it_is_asked_is_not_ready(tmp_path: Path) -> None:
    """A stand-in says what a backend says to whoever connects at the moment when its postmaster is killed."""
    fields = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to unexpected postmaster exit\0\0"

    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(die, tmp_path / ".s.PGSQL.5432"):
        assert not await answers(tmp_path, 5432, "a-password")(LogFile(tmp_path / "postgres.log"))


async def test_a_child_killed_for_good_stays_down_until_it_is_started(tmp_path: Path) -> None:
    child, lines = made(tmp_path, "well")
    await child.start()
    first = child.pid
    assert first is not None
    await child.kill(signal.SIGKILL, restart=False)
    assert not lives(first)
    assert not lines
    await child.start()
    assert child.pid not in (None, first)
    await child.stop()


async def test_a_child_that_keeps_dying_is_started_ever_later(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    child, lines = made(tmp_path, str(marker))
    await child.start()
    marker.touch()
    await child.kill(signal.SIGKILL, restart=True)
    await until(lambda: child.restarts >= 3)
    marker.unlink()
    await child.wait_ready()
    await child.stop()
    delays = [float(found.group(1)) for line in lines if (found := re.search(r"again in ([\d.]+) s", line))]
    assert delays[:3] == [0.25, 0.5, 1.0]


async def test_a_stubborn_child_is_killed_after_its_bound(tmp_path: Path) -> None:
    child, lines = made(tmp_path, "stubborn", stop_timeout_ms=200)
    await child.start()
    pid = child.pid
    assert pid is not None
    await child.stop()
    assert not lives(pid)
    assert lines == ["child did not stop within 0.2 s and is killed"]


async def test_what_a_child_leaves_behind_is_ended_with_it(tmp_path: Path) -> None:
    child, _ = made(tmp_path, "parent")
    await child.start()
    said = [json.loads(line) for line in (tmp_path / "child.log").read_text().splitlines()]
    grandchild = next(line["pid"] for line in said if line["event"] == "child")
    assert lives(grandchild)
    await child.kill(signal.SIGKILL, restart=False)
    await until(lambda: not lives(grandchild), what="the grandchild's end")


async def test_a_child_that_is_stopped_while_it_starts_stops(tmp_path: Path) -> None:
    child, _ = made(tmp_path, "mute")
    starting = asyncio.create_task(child.start())
    await until(lambda: child.pid is not None)
    await child.stop()
    with pytest.raises(ChildFailed, match="before it was ready"):
        await starting
    assert child.pid is None


async def test_processes_get_what_they_need_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-the-shell")
    monkeypatch.setenv("HOLDFAST_POSTGRES", "postgresql://root:secret@127.0.0.1:1/postgres")
    monkeypatch.setenv("HOLDFAST_LEASE_LLM_MS", "1234")
    extra = {"executor": {"EXTRA": "all"}, "executor-2": {"EXTRA": "second"}}
    async with Stack(
        tmp_path, ports="free", parts=PROCESSES, executors=2, commands=WELL, extra_env=extra, headless=True
    ) as stack:
        pids = {name: stack.child(name).pid for name in ("governor", "executor-1", "executor-2", "api")}
        env = {name: psutil.Process(pid).environ() for name, pid in pids.items()}
        assert stack.providers == ("anthropic",)
        assert stack.env_for("executor-2")["EXTRA"] == "second"
    assert (env["executor-1"]["EXTRA"], env["executor-2"]["EXTRA"]) == ("all", "second")
    assert env["governor"]["HOLDFAST_LEASE_LLM_MS"] == "1234"
    assert {name for name in env["executor-1"] if name.startswith("HOLDFAST_")} == {
        "HOLDFAST_BROKER_URL",
        "HOLDFAST_CODEC_KEY_FILE",
        "HOLDFAST_EXECUTOR_DATABASE_URL",
        "HOLDFAST_LEASE_LLM_MS",
        "HOLDFAST_OBJECTS_FOLDER",
        "HOLDFAST_PERMIT_PUBLIC_KEY_FILE",
        "HOLDFAST_REDIS_URL",
        "HOLDFAST_TEMPORAL_ADDRESS",
        "HOLDFAST_TEMPORAL_NAMESPACE",
    }
    # LAW 1: nobody but the governor's process gets keys; nobody at all gets those of the shell
    for process, variables in env.items():
        assert "ANTHROPIC_API_KEY" not in variables
        assert "HOLDFAST_POSTGRES" not in variables
        assert "HOLDFAST_OWNER_DATABASE_URL" not in variables
        assert ("HOLDFAST_VAULT_KEY_FILE" in variables) is (process == "governor")
        assert ("HOLDFAST_PERMIT_KEY_FILE" in variables) is (process == "governor")
        assert ("HOLDFAST_LOG_KEY_FILE" in variables) is (process == "governor")
    assert "the-key-shown-once" not in "".join(path.read_text() for path in (tmp_path / "logs").iterdir())


async def test_a_part_that_fails_takes_the_others_down_again(tmp_path: Path) -> None:
    lines: list[str] = []
    stack = Stack(tmp_path, ports="free", parts=PROCESSES, commands=WELL | {"api": stand_in("crash")}, say=lines.append)
    with pytest.raises(ChildFailed, match="api ended with code 3"):
        await stack.start()
    assert all(stack.child(name).pid is None for name in ("governor", "executor-1", "api"))
    assert stack.folder.running_pid() is None


async def test_parts_stop_in_reverse_order(tmp_path: Path) -> None:
    lines: list[str] = []
    async with Stack(tmp_path, ports="free", parts=PROCESSES, commands=WELL, say=lines.append):
        lines.clear()
    assert lines == ["api has stopped", "executor-1 has stopped", "governor has stopped"]


async def test_a_failing_bootstrap_is_told(tmp_path: Path) -> None:
    stack = Stack(tmp_path, ports="free", parts={"bootstrap"}, commands={"bootstrap": stand_in("crash")})
    with pytest.raises(ChildFailed, match=r"bootstrap ended with code 3(.|\n)*badly wrong"):
        await stack.start()


# So long a signal that comes again is the same one: longer than this test, on a busy machine, needs for two.
_SAME_SIGNAL_S = 5
SUPERVISOR = f"""
import asyncio, sys
from pathlib import Path
from cli.stack import commands
from cli.stack.supervisor import Stack
commands._SAME_SIGNAL_S = {_SAME_SIGNAL_S}
command = [sys.executable, "-I", "-S", sys.argv[2], "stubborn"]
asyncio.run(commands._serve(Stack(Path(sys.argv[1]), ports="free", parts={"governor", "executor"},
                         commands=dict.fromkeys(("governor", "executor-1"), command))))
"""


@contextmanager
def supervisor(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor of two children that ignore SIGTERM, as a process of its own."""
    command = [sys.executable, "-c", SUPERVISOR, str(folder), STAND_IN]
    # its children get so long to stop that only a killer ends them within a test
    environment = {**os.environ, "HOLDFAST_SHUTDOWN_GRACE_MS": "600000"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


async def test_children_that_ignore_signals_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    with supervisor(tmp_path) as process:
        await until(lambda: DataFolder(tmp_path).read_state().get("ready") is True, what="the stack")
        pids = family(process.pid)
        assert len(pids) == 2
        process.kill()
        await until(lambda: not any(map(lives, pids)), within_s=45, what="the children's end")
        # The last of its threads to end lets go of the lock; the kernel may have ended the children before.
        process.wait()
        assert DataFolder(tmp_path).running_pid() is None


async def test_a_second_signal_ends_the_wait_for_stubborn_children(tmp_path: Path) -> None:
    with supervisor(tmp_path) as process:
        await until(lambda: DataFolder(tmp_path).read_state().get("ready") is True, what="the stack")
        pids = family(process.pid)
        process.send_signal(signal.SIGINT)
        await until(lambda: "stopping" in str(DataFolder(tmp_path).read_state()))
        process.send_signal(signal.SIGINT)  # the same once more, as from a terminal and a parent: no hurry meant
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > _SAME_SIGNAL_S + 0.1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, 60) == 0
        assert not any(map(lives, pids))


def test_a_log_that_grows_is_bounded_and_keeps_its_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.stack.log_file._BYTES_MAX", 100)
    log = LogFile(tmp_path / "child.log")
    with log.open() as writer:
        writer.write(b"old\n" * 50)
        log.bound()
        writer.write(b'{"event": "ready"}\n')
        assert log.has_event("ready")
    assert (tmp_path / "child.log").read_bytes() == b'{"event": "ready"}\n'
    assert (tmp_path / "child.log.1").read_bytes() == b"old\n" * 50
    assert (tmp_path / "child.log").stat().st_mode & 0o777 == 0o600


def test_ports_are_counted_up_or_free() -> None:
    assert Ports.from_base(9000) == Ports(9000, 9001, 9002, 9003, 9004, 9005, 9006)
    mixed = Ports(api=0, temporal=0).with_free()
    assert mixed.postgres == Ports().postgres
    assert 0 not in (mixed.api, mixed.temporal)
    with pytest.raises(PortTaken, match="api and broker are given the same port 9999"):
        check_free(Ports(api=9999, broker=9999), ["api", "broker", "temporal"])


async def test_an_unknown_child_is_told(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="no child is called nobody"):
        Stack(tmp_path).child("nobody")
