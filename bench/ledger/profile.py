"""Where the time goes under all callers: processor of the client, processor of the server, waiting, and for what."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from bench.ledger.load import CALLERS, Load, Taken, median_percentile_ms, median_rate, open_load
from bench.ledger.place import Server, make_customers, make_runs
from bench.ledger.process import Side
from bench.report import Figure, Report

_RUNS_EACH: Final = 4
_LOOK_EVERY_S: Final = 0.01

# What the server's processes do at this moment for the ledger: on the processor, or waiting, and in which statement.
_LOOK: Final = """
    SELECT coalesce(wait_event_type || '.' || wait_event, 'processor'), left(regexp_replace(query, '\\s+', ' ', 'g'), 48), count(*)
    FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND usename LIKE 'holdfast%' GROUP BY 1, 2
"""


async def measure(server: Server, report: Report, side: Side, *, round_s: float, rounds: int) -> None:
    """Runs one ledger's load and writes down where its time goes."""
    customers = await make_customers(server, 1)
    runs = await make_runs(server, customers, CALLERS * _RUNS_EACH)
    async with open_load(server, side, runs, callers=CALLERS, sample=True) as load:
        await load.round("reserve", times=_RUNS_EACH)
        await server.settle_down()
        times = await load.seed(round_s)
        doing: Counter[str] = Counter()
        statements: Counter[str] = Counter()
        async with _watching(server, doing, statements):
            taken = [await load.round("pairs", times=times) for _ in range(rounds)]
        samples = load.samples
        await load.round("settle", times=0)
    _fill(report, load, taken)
    report.notes += [f"server {count / sum(doing.values()):6.1%} {name}" for name, count in doing.most_common(12)]
    report.notes += [
        f"server {count / sum(doing.values()):6.1%} in {name}" for name, count in statements.most_common(8)
    ]
    report.notes += [f"client {line}" for line in ("   top  anywhere on the stack", *samples)]


def _fill(report: Report, load: Load, taken: list[Taken]) -> None:
    def median(values: list[float]) -> float:
        return statistics.median(values)

    report.wrong += load.wrong
    report.figures |= {
        "ops_per_s_c128": Figure(median_rate(taken), "1/s"),
        "p50_ms_c128": Figure(median_percentile_ms(taken, 50), "ms"),
        "p99_ms_c128": Figure(median_percentile_ms(taken, 99), "ms"),
        "ops_per_commit_c128": Figure(median([one.calls / max(one.commits, 1) for one in taken]), "ops"),
        "wal_bytes_per_op": Figure(median([one.wal_bytes / one.calls for one in taken]), "bytes"),
        "wall_us_per_op": Figure(median([one.took_s / one.calls * 1e6 for one in taken]), "µs"),
        "client_cpu_us_per_op": Figure(median([one.round.cpu_s / one.calls * 1e6 for one in taken]), "µs"),
        "server_cpu_us_per_op": Figure(median([one.server_cpu_s / one.calls * 1e6 for one in taken]), "µs"),
        "client_cpu_share": Figure(median([one.round.cpu_s / one.took_s for one in taken]), "cores"),
        "server_cpu_share": Figure(median([one.server_cpu_s / one.took_s for one in taken]), "cores"),
        "facts_changed": Figure(sum(one.round.facts_changed for one in taken), "times"),
    }


@asynccontextmanager
async def _watching(server: Server, doing: Counter[str], statements: Counter[str]) -> AsyncIterator[None]:
    """Looks at the server again and again while its block runs."""
    connection = await asyncpg.connect(server.superuser_url)

    async def watch() -> None:
        while True:
            for name, statement, count in await connection.fetch(_LOOK):
                doing[name] += count
                statements[statement] += count
            await asyncio.sleep(_LOOK_EVERY_S)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await connection.close()
