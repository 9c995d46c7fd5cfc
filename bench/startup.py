"""How long the embedded stack takes until it is up, cold and warm, and what it holds in memory when idle; against its servers alone."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import psutil  # type: ignore[import-untyped]  # ships no types

from bench.report import Figure, Report
from cli.stack.data_folder import DataFolder

_UP: Final = "Holdfast is up."
_READY = re.compile(r"(\S+) is ready \(([\d.]+) s, process \d+\)")
_START_MAX_S: Final = 180
_STOP_MAX_S: Final = 90
_IDLE_S: Final = 10.0
_IDLE_QUICK_S: Final = 3.0
_MB: Final = 1_000_000
_PARTS: Final = ("postgres", "valkey", "temporal", "governor", "executor-1", "api", "provider")
_COLD_GOAL_S, _WARM_GOAL_S, _MEMORY_GOAL_MB = 20.0, 10.0, 800.0


@dataclass(slots=True)
class Start:
    """One start, with what was measured while it was up."""

    up_s: float = 0.0
    stop_s: float = 0.0
    ready_s: dict[str, float] = field(default_factory=dict)
    memory_mb: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def _own_mb(process: psutil.Process) -> float:
    """Returns a process's share of memory: what it shares with others counts in parts (PSS), where the kernel tells."""
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) * 1024 / _MB
    except (OSError, StopIteration):
        return float(process.memory_info().rss) / _MB


def _memory_mb(supervisor: int, folder: Path) -> dict[str, float]:
    """Returns what each part holds, with all of its own processes."""
    found: dict[str, float] = {"supervisor": _own_mb(psutil.Process(supervisor))}
    children = DataFolder(folder).read_state()["children"]
    assert isinstance(children, list)  # so `_write_state` writes it
    for child in children:
        assert isinstance(child, dict)  # as above
        process = psutil.Process(int(str(child["pid"])))
        found[str(child["name"])] = sum(map(_own_mb, [process, *process.children(recursive=True)]))
    return found


async def _is_ready(folder: Path) -> bool:
    urls = DataFolder(folder).read_state()["urls"]
    assert isinstance(urls, dict)  # so `_write_state` writes it
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        return (await client.get(f"{urls['api']}/readyz")).is_success


async def _start(folder: Path, *, idle_s: float, servers_only: bool) -> Start:
    """Starts `holdfast up`, looks at it when it is idle, and stops it."""
    start, options = Start(), ["--servers-only"] if servers_only else []
    command = [sys.executable, "-m", "cli.main", "up", "--data-dir", str(folder), "--port-base", "0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "ANTHROPIC"))}
    if temporal := os.environ.get("HOLDFAST_TEMPORAL"):
        environment["HOLDFAST_TEMPORAL"] = temporal
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *[*command, "--provider", "simulated", "--headless", *options], env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None  # a pipe was asked for
    try:
        async with asyncio.timeout(_START_MAX_S):
            async for raw in process.stdout:
                line = raw.decode()
                if match := _READY.search(line):
                    start.ready_s[match[1]] = float(match[2])
                if _UP in line:
                    start.up_s = time.perf_counter() - began
                    break
        if not start.up_s:
            start.wrong.append("the stack did not come up")
            return start
        if not servers_only and not await _is_ready(folder):
            start.wrong.append("the stack says that it is up, and is not ready")
        await asyncio.sleep(idle_s)
        start.memory_mb = await asyncio.to_thread(_memory_mb, process.pid, folder)
        began = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), _STOP_MAX_S)
        start.stop_s = time.perf_counter() - began
        if process.returncode != 0:
            start.wrong.append(f"the stack ended with code {process.returncode}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return start


async def _cold_and_warm(*, idle_s: float, servers_only: bool) -> tuple[Start, Start]:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-"))
    folder.chmod(0o755)  # noqa: ASYNC240 (nothing else runs meanwhile). PostgreSQL runs under another account when root calls this
    try:
        cold = await _start(folder, idle_s=0.0, servers_only=servers_only)
        return cold, await _start(folder, idle_s=idle_s, servers_only=servers_only)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _median(values: list[float]) -> float:
    return statistics.median(values)


async def measure(*, quick: bool) -> Report:
    """Measures starts of the whole stack and of its servers alone, in turn."""
    report = Report("startup")
    idle_s = _IDLE_QUICK_S if quick else _IDLE_S
    whole: list[tuple[Start, Start]] = []
    servers: list[tuple[Start, Start]] = []
    for _ in range(1 if quick else 3):
        servers.append(await _cold_and_warm(idle_s=idle_s, servers_only=True))
        whole.append(await _cold_and_warm(idle_s=idle_s, servers_only=False))
    report.wrong += [wrong for pair in [*whole, *servers] for start in pair for wrong in start.wrong]
    figures = report.figures
    figures["cold_start_s"] = Figure(_median([cold.up_s for cold, _ in whole]), "s", ("<=", _COLD_GOAL_S))
    figures["warm_start_s"] = Figure(_median([warm.up_s for _, warm in whole]), "s", ("<=", _WARM_GOAL_S))
    figures["servers_cold_start_s"] = Figure(_median([cold.up_s for cold, _ in servers]), "s")
    figures["servers_warm_start_s"] = Figure(_median([warm.up_s for _, warm in servers]), "s")
    for part in ("governor", "executor-1", "api"):
        readies = [warm.ready_s[part] for _, warm in whole if part in warm.ready_s]
        figures[f"{part.removesuffix('-1')}_ready_s"] = Figure(_median(readies or [0.0]), "s")
    figures["stop_s"] = Figure(_median([warm.stop_s for _, warm in whole]), "s")
    by_part: dict[str, list[float]] = defaultdict(list)
    for _, warm in whole:
        for part, megabytes in warm.memory_mb.items():
            by_part[part].append(megabytes)
    total = sum(map(_median, by_part.values()))
    figures["memory_idle_mb"] = Figure(total, "MB", ("<=", _MEMORY_GOAL_MB))
    for part in (*_PARTS, "supervisor"):
        if part in by_part:
            figures[f"memory_{part.removesuffix('-1')}_mb"] = Figure(_median(by_part[part]), "MB")
    figures["servers_memory_mb"] = Figure(_median([sum(warm.memory_mb.values()) for _, warm in servers]), "MB")
    report.notes += [
        "baseline: `holdfast up --servers-only`, PostgreSQL with its schema, Valkey and Temporal, in the same run",
        "cold: an empty data folder; warm: the same folder again; each to the line that says that it is up",
        "memory: proportional set size (PSS) after some idle seconds, each part with its own child processes",
        "the stack has one executor, the simulated provider and no Temporal UI",
    ]
    return report
