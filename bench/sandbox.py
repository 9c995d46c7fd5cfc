"""How soon a job runs its first line with every layer on, warm and cold, against a bare fork, bubblewrap and gVisor in the same run."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]  # ships no types

from bench.leaks import burden
from bench.neighbours import slowdown
from bench.report import Figure, Report
from holdfast.errors import HoldfastError
from sandbox.environments import Environments, data_lock
from sandbox.frames import Request
from sandbox.job import Job
from sandbox.service import Sandbox, Settings

_ROOT: Final = Path(__file__).resolve().parents[1]
_PYTHON: Final = str(Path(sys.executable).resolve())
_FIRST_LINE: Final = "import time; print(time.monotonic_ns())"
_JOB: Final = Job(_FIRST_LINE)
Clock = Callable[[], int]
# gVisor's monotonic clock is not the host's; what time it is, is
_REAL_FIRST_LINE: Final = "import time; print(time.time_ns())"
_DATA: Final = Job(f"import pandas; {_FIRST_LINE}", runtime="data")
_CALLS: Final = """
import statistics, time
from holdfast_guest import tool
times = []
for _ in range({count}):
    began = time.monotonic_ns()
    tool("a", n=1)
    times.append(time.monotonic_ns() - began)
print(statistics.median(times) / 1000)
"""
_MB: Final = 1_000_000
_NS_PER_MS: Final = 1_000_000
_RATE_PER_S: Final = 50
_AT_ONCE: Final = 4
# forks and reaps as the zygote does, with what it has imported, and nothing else
_BARE: Final = """
import gc, importlib, os, sys, time
sys.path.insert(0, sys.argv[1])
from sandbox.native import zygote
for name in zygote._IMPORTS.split():
    importlib.import_module(name)
gc.collect(); gc.disable(); gc.freeze()
for _ in range(int(sys.argv[2])):
    began = time.monotonic_ns()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    print(time.monotonic_ns() - began)
"""


def _bare_fork_ms(count: int) -> list[float]:
    command = [_PYTHON, "-I", "-S", "-c", _BARE, str(_ROOT), str(count)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 (our own program)
    return [int(line) / _NS_PER_MS for line in out.split()]


def _first_line_of_ms(command: list[str], count: int, clock: Clock = time.monotonic_ns) -> list[float]:
    """Starts a program some times; returns how long each took to its first line."""
    times = []
    for _ in range(count):
        began = clock()
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 (named above)
        times.append((int(said) - began) / _NS_PER_MS)
    return times


async def _answer(_: Request) -> None:
    return


async def _call_us(sandbox: Sandbox, count: int) -> float:
    """Returns how long a job waits for its owner, who answers at once."""
    return float((await sandbox.submit(Job(_CALLS.format(count=count)), act=_answer)).stdout)


async def _first_line_ms(sandbox: Sandbox, job: Job = _JOB, clock: Clock = time.monotonic_ns) -> tuple[float, bool]:
    began = clock()
    result = await sandbox.submit(job, act=_answer)
    return (int(result.stdout) - began) / _NS_PER_MS, result.warm


async def _warm_ms(sandbox: Sandbox, count: int, job: Job = _JOB, clock: Clock = time.monotonic_ns) -> list[float]:
    """Measures jobs that find a process ready, with nothing else going on."""
    times: list[float] = []
    while len(times) < count:
        while sandbox.idle < sandbox.settings.idle_min:  # noqa: ASYNC110 (the pool tells nobody, and nobody else waits for it)
            await asyncio.sleep(0.002)
        took, warm = await _first_line_ms(sandbox, job, clock)
        if warm:
            times.append(took)
    return times


async def _data_over_plain(count: int) -> tuple[float, float]:
    """Returns the median of jobs with pandas that find a process ready, and how many times that of plain ones it is, in turns."""
    data, plain = list[float](), list[float]()
    async with Sandbox(Settings(idle_min=1, idle_max=1)) as sandbox:
        await sandbox.submit(_DATA)
        while len(data) < count or len(plain) < count:
            for job, times in ((_DATA, data), (_JOB, plain)):
                await asyncio.sleep(0.1)  # until one is ready again; what is not warm does not count
                took, warm = await _first_line_ms(sandbox, job)
                if warm:
                    times.append(took)
    return statistics.median(data), statistics.median(data) / statistics.median(plain)


async def _cold_ms(count: int) -> list[float]:
    async with Sandbox(Settings(idle_min=0, idle_max=0)) as sandbox:
        return [(await _first_line_ms(sandbox))[0] for _ in range(count)]


async def _sustained_ms(sandbox: Sandbox, seconds: float) -> list[float]:
    """Measures jobs that come at a fixed rate, whether or not those before are done."""
    tasks, began = [], time.monotonic()
    for number in range(int(seconds * _RATE_PER_S)):
        await asyncio.sleep(max(0.0, began + number / _RATE_PER_S - time.monotonic()))
        tasks.append(asyncio.create_task(_first_line_ms(sandbox)))
    return [took for took, _ in await asyncio.gather(*tasks)]


async def _jobs_per_s(sandbox: Sandbox, count: int) -> float:
    async def some() -> None:
        for _ in range(count // _AT_ONCE):
            await sandbox.submit(Job("pass"))

    began = time.monotonic()
    await asyncio.gather(*(some() for _ in range(_AT_ONCE)))
    return count / (time.monotonic() - began)


def _idle_mb(sandbox: Sandbox) -> float:
    """Returns what a ready process holds: its share of memory (PSS)."""
    found = []
    for process in psutil.Process(sandbox.zygote_pid).children():
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
        found.append(next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) * 1024 / _MB)
    return statistics.median(found)


async def _beside_runsc(report: Report, warm: float, count: int) -> None:
    """Measures the backend `runsc`, and gVisor by itself, where that is installed."""
    runsc = shutil.which("runsc")
    if runsc is None:
        report.notes.append("runsc is not installed, so nothing is compared with it")
        return
    job = Job(_REAL_FIRST_LINE)
    alone = [runsc, "--network=none", "--ignore-cgroups", "do", _PYTHON, "-c", _REAL_FIRST_LINE]
    try:
        other = statistics.median(await asyncio.to_thread(_first_line_of_ms, alone, count, time.time_ns))
        settings = Settings(backend="runsc", allow_old=True, idle_min=0, idle_max=0)
        async with Sandbox(settings) as sandbox:
            cold = [(await _first_line_ms(sandbox, job, time.time_ns))[0] for _ in range(count)]
            version = sandbox.receipt.version
        async with Sandbox(replace(settings, idle_min=1, idle_max=1)) as sandbox:
            ready = await _warm_ms(sandbox, count, job, time.time_ns)
    except (HoldfastError, subprocess.CalledProcessError) as error:
        report.notes.append(f"runsc is installed and cannot be measured: {error}")
        return
    figures = report.figures
    figures["runsc_p50_ms"] = Figure(other, "ms")
    figures["runsc_ratio"] = Figure(other / warm, "x")
    figures["runsc_warm_p50_ms"] = Figure(statistics.median(ready), "ms")
    figures["runsc_cold_p50_ms"] = Figure(statistics.median(cold), "ms")
    report.notes.append(
        f"runsc: {version}; `runsc do` with python3, and the backend with a job's process ready and not"
    )


async def measure(*, quick: bool = False) -> Report:
    """Measures."""
    report, count = Report("sandbox"), 20 if quick else 100
    bare = statistics.median(await asyncio.to_thread(_bare_fork_ms, count))
    cold = statistics.median(await _cold_ms(count))
    async with Sandbox(Settings(idle_min=4, idle_max=16)) as sandbox:
        memory = _idle_mb(sandbox)
        warm = statistics.median(await _warm_ms(sandbox, count))
        call = await _call_us(sandbox, count * 5)
        rate = await _jobs_per_s(sandbox, count * 2)
        sustained = statistics.median(await _sustained_ms(sandbox, 4 if quick else 60))
        layers = sandbox.receipt.layers
    figures = report.figures
    figures["warm_p50_ms"] = Figure(warm, "ms", ("<=", 1))
    figures["cold_p50_ms"] = Figure(cold, "ms", ("<=", 10))
    figures["bare_fork_p50_ms"] = Figure(bare, "ms")
    figures["warm_over_bare_fork"] = Figure(warm / bare, "x", ("<=", 1.5))
    figures["sustained_over_warm_p50"] = Figure(sustained / warm, "x", ("<=", 2))
    figures["jobs_per_s"] = Figure(rate, "1/s", (">=", 100))
    figures["memory_per_idle_mb"] = Figure(memory, "MB")
    figures["supervisor_call_p50_us"] = Figure(call, "us")
    if Environments().find(data_lock()) is None:
        report.notes.append("the runtime data is not built (`make setup`), so it is not measured")
    else:
        data, ratio = await _data_over_plain(count)
        figures["data_warm_p50_ms"] = Figure(data, "ms")
        figures["data_over_plain_warm"] = Figure(ratio, "x", ("<=", 5))
    jobs, at_once = (100, 20) if quick else (10_000, 200)
    left = await burden(jobs, at_once)
    figures["left_on_host"] = Figure(sum(map(abs, left.left.values())), "things", ("<=", 0))
    figures["memory_left_kib"] = Figure(left.grown_kib, "KiB")
    figures["late_over_early_start"] = Figure(left.late_over_early, "x", ("<=", 1.2))
    report.wrong += left.wrong(jobs + at_once)
    for name, factor in (await slowdown(2 if quick else 6, 5 if quick else 20)).items():
        figures[f"beside_{name}"] = Figure(factor, "x", ("<=", 1.2))
    took = f"{left.at_once_s:.1f} s"
    report.notes.append(
        f"{jobs} jobs one after another, and {at_once} at once in {took}, left on the host: {left.left}"
    )
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        report.notes.append("bubblewrap is not installed, so nothing is compared with it")
    else:
        inside = [bwrap, "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", _PYTHON, "-c", _FIRST_LINE]
        other = statistics.median(await asyncio.to_thread(_first_line_of_ms, inside, max(5, count // 5)))
        figures["bwrap_p50_ms"] = Figure(other, "ms")
        figures["bwrap_ratio"] = Figure(other / warm, "x", (">=", 20))
        figures["cold_ratio"] = Figure(other / cold, "x", (">=", 2))
    await _beside_runsc(report, warm, max(5, count // 10))
    report.notes += [
        f"layers: {', '.join(layers)}",
        "from submit() to the first line of the job's code, with the supervisor connected",
    ]
    return report
