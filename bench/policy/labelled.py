"""What a run that has read much costs a decision on the server: labels, releases, and where values are from."""

from __future__ import annotations

import statistics
import time
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from bench.ledger.place import Server
from bench.policy import server as place
from bench.report import Figure, Report
from holdfast import transcript
from holdfast.database.engine import transaction
from holdfast_verdict.canonical import JsonValue, canonical_bytes

_READS, _READS_QUICK = 20, 5
_LABELS: Final = """
role payer { permit pay  permit web.fetch }
label web.fetch yields secret
forbid pay when run has secret unless released by role("dpo")
"""
_SOURCES: Final = """
role payer { permit pay where args.amount from user  permit web.fetch }
label web.fetch yields untrusted
"""


async def measure(report: Report, server: Server, engine: AsyncEngine, *, quick: bool) -> None:
    """Puts the figures into a report."""
    reads = _READS_QUICK if quick else _READS
    for name, source in (("labels", _LABELS), ("sources", _SOURCES)):
        medians = []
        for events in (place.SHORT, place.LONG):
            run = await place.filled(server, events, source, tool="web.fetch")
            head = await _told(engine, run) if name == "sources" else None
            medians.append(await _median_ms(report, engine, run, head, reads))
        short, long = medians
        report.figures[f"server_{name}_1e2_ms"] = Figure(short, "ms")
        report.figures[f"server_{name}_1e4_over_1e2"] = Figure(long / short, "×")


async def _told(engine: AsyncEngine, run: place.FilledRun) -> bytes:
    """Writes the run's transcript: the task, all results, and the call that is decided."""
    head: bytes | None = None
    entries: list[dict[str, JsonValue]] = [{"kind": "user", "text": "pay 1 dollar for the bill"}]
    entries += [
        {"kind": "tool_result", "call_id": f"{n}", "tool": "web.fetch", "ok": True, "content": f"page {n} says so"}
        for n in range(run.events)
    ]
    entries.append({"kind": "assistant", "text": "", "tool_calls": []})
    async with transaction(engine, run.tenant_id) as connection:
        for entry in entries:
            head = await transcript.write(connection, run.tenant_id, run.run_id, head, canonical_bytes(entry))
    assert head is not None  # there is an entry at least
    return head


async def _median_ms(
    report: Report, engine: AsyncEngine, run: place.FilledRun, head: bytes | None, reads: int
) -> float:
    times = []
    for _ in range(reads):
        started = time.perf_counter()
        past = await place.read(engine, run, head)
        times.append((time.perf_counter() - started) * 1000)
        if past.labels != frozenset({"secret"}) and past.sources is None:
            report.wrong.append(f"of a run that has read {run.events} results nobody can tell what it has read: {past}")
            break
    return statistics.median(times)
