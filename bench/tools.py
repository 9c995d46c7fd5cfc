"""What a process of its own costs a call of a Python tool, against the same function called in this process, interleaved."""

from __future__ import annotations

import asyncio
import resource
import statistics
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from activities.tools.dispatch import run_tool
from activities.tools.invocation import ToolInvocation
from bench.report import Figure, Report
from holdfast import logs
from holdfast.settings import LogLevel
from holdfast.tools.definition import OwnTool
from holdfast.tools.functions import forms
from holdfast.tools.signatures import Signature

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast_verdict.canonical import JsonValue

CALLS: Final = 40
CALLS_QUICK: Final = 10
CONCURRENT: Final = 8
_MODULE: Final = '''
    from decimal import Decimal

    from sdk.tools import ToolCall, tool


    @tool(name="bench.double", external=True, idempotent=True, reversible=True, yields=())
    def double(call: ToolCall, amount: Decimal) -> dict[str, Decimal]:
        """Doubles an amount."""
        call.begin()
        return {"amount": amount * 2}
'''
_ARGUMENTS: Final[dict[str, JsonValue]] = {"amount": "1.5"}


class _FreeOutward:
    """What the lease does costs both sides nothing."""

    remaining_ms = 60_000

    async def begin(self) -> None:
        """Allows."""

    def assert_live(self) -> None:
        """Allows."""


def _install(folder: Path) -> OwnTool:
    """Installs the tool into a folder, puts that on the path, and returns its definition."""
    (folder / "bench_double.py").write_text(textwrap.dedent(_MODULE), encoding="utf-8")
    info = folder / "bench_double-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-double\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[holdfast.tools]\nbench.double = bench_double:double\n", encoding="utf-8")
    sys.path.append(str(folder))
    name = "bench.double"
    return OwnTool(name, 1, forms({"source": "python", "names": [name]}, folder)[name])


async def _bare_interpreter() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-c", "pass")
    await process.wait()


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await work()
    return (time.perf_counter() - started) * 1000


def _children_cpu_ms() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1000


async def measure(*, quick: bool) -> Report:
    """Measures one call after the other, and then several at a time."""
    calls = CALLS_QUICK if quick else CALLS
    report = Report("tools")
    logs.configure("bench", LogLevel.WARNING)
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        definition = _install(Path(folder))
        import bench_double  # type: ignore[import-not-found]  # it was written just now

        signature = Signature.of(bench_double.double)
        call_type = signature.call_type
        assert call_type is not None  # it is the client's

        async def apart() -> None:
            call = ToolInvocation(definition.name, definition, dict(_ARGUMENTS), {}, "bench", "key", _FreeOutward())
            result = await run_tool(call)
            if result.content != '{"amount":"3.0"}':
                report.wrong.append(f"the call answered {result.error_code} {result.content}")

        async def here() -> None:
            signature.function(call_type(), **signature.read(_ARGUMENTS))

        await apart()  # the module's compiled code is kept from here on
        rows: dict[str, list[float]] = {"apart": [], "here": [], "interpreter": []}
        cpu_ms = 0.0
        for _ in range(calls):
            before = _children_cpu_ms()
            rows["apart"].append(await _timed(apart))
            cpu_ms += _children_cpu_ms() - before
            rows["here"].append(await _timed(here))
            rows["interpreter"].append(await _timed(_bare_interpreter))
        started = time.perf_counter()
        for _ in range(calls // CONCURRENT + 1):
            await asyncio.gather(*(apart() for _ in range(CONCURRENT)))
        per_s = (calls // CONCURRENT + 1) * CONCURRENT / (time.perf_counter() - started)
    figures = report.figures
    figures["process_p50_ms"] = Figure(statistics.median(rows["apart"]), "ms")
    figures["process_max_ms"] = Figure(max(rows["apart"]), "ms")
    figures["process_cpu_ms"] = Figure(cpu_ms / calls, "ms")
    figures["interpreter_p50_ms"] = Figure(statistics.median(rows["interpreter"]), "ms")
    figures["in_process_p50_ms"] = Figure(statistics.median(rows["here"]), "ms")
    figures["calls_per_s"] = Figure(per_s, "1/s")
    report.notes.append(
        f"{calls} calls, interleaved; then {CONCURRENT} at a time. Decision, hold and lease are not in it."
    )
    return report
