"""What thousands of jobs leave on their host: counted before and after."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]  # ships no types

from sandbox.frames import Request
from sandbox.job import Job
from sandbox.native.cgroups import bases
from sandbox.service import Sandbox, Settings

# makes everything that could be left: a file, a process, a request, output; prints when its first line ran
JOB: Final = """
import time; print(time.monotonic_ns())
import os, threading
from holdfast_guest import tool
open("file", "w").write("1")
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
if os.fork() == 0:
    os.setsid()
    time.sleep(60)
tool("a")
"""
_KIB_MAX: Final = 8_192  # what the interpreter keeps after many jobs at once, however many came before
_KIB_PER_JOB_MAX: Final = 4
_NS_PER_MS: Final = 1_000_000
_ROOT: Final = Path(__file__).resolve().parents[1]
_TURNS_MIN, _TURNS_MAX = 30, 200
_EARLY_JOBS: Final = 10
_EARLY: Final = "import asyncio; from bench.leaks import early; asyncio.run(early())"


@dataclass(frozen=True, slots=True)
class Burden:
    """What jobs did to their host.

    Attributes:
        left: How much more there is of each kind than before.
        grown_kib: Memory that the sandbox and the zygote have more than before.
        late_over_early: Time to the first line after all those jobs over that in a sandbox of a new process, in turns, so that both
            see the same machine; each job has its process made for it.
        at_once_s: How long those took that were submitted at once.
    """

    left: Mapping[str, int]
    grown_kib: float
    late_over_early: float
    at_once_s: float

    def wrong(self, jobs: int) -> list[str]:
        """Returns what must not be."""
        found = [f"{count} {kind} were left after {jobs} jobs" for kind, count in self.left.items() if count > 0]
        if self.grown_kib > _KIB_MAX + _KIB_PER_JOB_MAX * jobs:
            found.append(f"{self.grown_kib:.0f} KiB of memory were left after {jobs} jobs")
        return found


def on_host(sandbox: Sandbox) -> dict[str, int]:
    """Counts what jobs could leave."""
    us, zygote = psutil.Process(), psutil.Process(sandbox.zygote_pid)
    mounts = [Path(f"/proc/{pid}/mountinfo").read_text().count("\n") for pid in ("self", zygote.pid)]
    return {
        "processes": len(zygote.children(recursive=True)),
        "descriptors": us.num_fds() + zygote.num_fds(),
        "mounts": sum(mounts),
        "cgroups": sum(len(list(base.glob(f"holdfast-{os.getpid()}-*/job-*"))) for base in bases().values()),
        "files": len(list(Path(tempfile.gettempdir()).iterdir())),
        "threads": us.num_threads(),
    }


def _memory_kib(sandbox: Sandbox) -> float:
    found = [psutil.Process(pid).memory_full_info().uss for pid in (os.getpid(), sandbox.zygote_pid)]
    return float(sum(found)) / 1024


async def _answer(_: Request) -> None:
    return


async def _first_line_ms(sandbox: Sandbox) -> float:
    began = time.monotonic_ns()
    result = await sandbox.submit(Job(JOB), act=_answer)
    assert result.calls == 1, result
    return (int(result.stdout) - began) / _NS_PER_MS


async def early() -> None:
    """Runs a job in a sandbox that has run few, for each line that it reads, and prints how long that took to its first line."""
    async with Sandbox(Settings(idle_min=0, idle_max=0)) as sandbox:
        for _ in range(_EARLY_JOBS):
            await _first_line_ms(sandbox)
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(await _first_line_ms(sandbox), flush=True)


async def _late_over_early(sandbox: Sandbox, turns: int) -> float:
    """Returns how much longer a job takes to its first line than in a sandbox that has run few."""
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _EARLY, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=_ROOT
    )
    assert other.stdin is not None
    assert other.stdout is not None
    late, first = list[float](), list[float]()
    try:
        await other.stdout.readline()
        for _ in range(turns):
            late.append(await _first_line_ms(sandbox))
            other.stdin.write(b"\n")
            first.append(float(await other.stdout.readline()))
    finally:
        other.stdin.close()
        await other.wait()
    return statistics.median(late) / statistics.median(first)


async def _settled(sandbox: Sandbox) -> None:
    while sandbox.idle != sandbox.settings.idle_min:  # noqa: ASYNC110 (the pool tells nobody, and nobody else waits for it)
        await asyncio.sleep(0.01)


@contextmanager
def _own_temporary_folder() -> Iterator[None]:
    """What is made in the temporary folder meanwhile is the sandbox's, and nobody else's."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


async def burden(jobs: int, at_once: int) -> Burden:
    """Runs jobs one after another, and some at once; returns what they left.

    Args:
        jobs: How many one after another.
        at_once: How many at once.
    """
    with _own_temporary_folder():
        return await _burden(jobs, at_once)


async def _burden(jobs: int, at_once: int) -> Burden:
    async with Sandbox(Settings(running_max=at_once, idle_min=0, idle_max=0)) as sandbox:
        await asyncio.gather(*(_first_line_ms(sandbox) for _ in range(min(at_once, 20))))
        await _settled(sandbox)
        before, memory = on_host(sandbox), _memory_kib(sandbox)
        for _ in range(jobs):
            await _first_line_ms(sandbox)
        began = time.monotonic()
        await asyncio.gather(*(_first_line_ms(sandbox) for _ in range(at_once)))
        took = time.monotonic() - began
        await _settled(sandbox)
        after, grown = on_host(sandbox), _memory_kib(sandbox) - memory
        late_over_early = await _late_over_early(sandbox, min(_TURNS_MAX, max(_TURNS_MIN, jobs // 10)))
    # threads of the pool that waits for the kernel are made when many jobs end at once, and kept: a bounded number
    left = {kind: after[kind] - before[kind] for kind in before if kind != "threads"}
    left["threads"] = max(0, after["threads"] - before["threads"] - min(32, (os.cpu_count() or 1) + 4))
    return Burden(left, grown, late_over_early, took)
