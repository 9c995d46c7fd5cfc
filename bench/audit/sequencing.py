"""What the transparency log costs a reserve, and how soon a decision can be proved: with and without the sequencer, in turns."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final
from uuid import UUID

from bench.ledger.load import Load
from bench.ledger.place import Customer, Server
from bench.report import Figure, Report
from workers.sequencer import Sequencer

CALLERS: Final = 16
INTERVAL_MS: Final = 500
"""The setting's default."""
_ROUND_S: Final = 4.0

# From the beginning of the deciding transaction to the checkpoint that is the first over its record, both by PostgreSQL's clock.
_PROVABLE_AFTER_MS: Final = """
    SELECT extract(epoch FROM c.created_at - d.created_at)::float8 * 1000 AS ms FROM decisions d CROSS JOIN LATERAL (
        SELECT created_at FROM log_checkpoints WHERE tenant_id = d.tenant_id AND size > d.leaf_index ORDER BY size LIMIT 1) c
    WHERE d.tenant_id = $1 AND d.created_at BETWEEN $2 AND $3
"""
_STANDS: Final = """
    SELECT count(*) FILTER (WHERE leaf_index IS NULL) AS unnumbered, count(DISTINCT leaf_index) AS numbered,
        max(leaf_index) + 1 AS size,
        (SELECT max(size) FROM log_checkpoints WHERE tenant_id = $1) AS signed
    FROM decisions WHERE tenant_id = $1
"""


@asynccontextmanager
async def sequencing(sequencer: Sequencer) -> AsyncIterator[None]:
    """Sequences as long as the block runs."""
    task = asyncio.create_task(sequencer.run())
    try:
        yield
    finally:
        sequencer.stop()
        await task


async def _turns(
    server: Server, load: Load, new_sequencer: Callable[[], Sequencer], tenant_id: UUID, *, rounds: int, times: int
) -> tuple[dict[str, list[float]], list[float]]:
    """Returns the medians of reserves by round for each side, and how long each record was not provable."""
    medians: dict[str, list[float]] = {"off": [], "on": []}
    waited_ms: list[float] = []
    for number in range(rounds):
        for side in ("off", "on") if number % 2 else ("on", "off"):
            await new_sequencer().round()  # what a round without it has left
            await server.settle_down()
            if side == "off":
                taken = await load.round("pairs", times=times)
            else:
                began: datetime = await server.superuser.fetchval("SELECT clock_timestamp()")
                async with sequencing(new_sequencer()):
                    taken = await load.round("pairs", times=times)
                ended: datetime = await server.superuser.fetchval("SELECT clock_timestamp()")
                await new_sequencer().round()
                rows = await server.superuser.fetch(_PROVABLE_AFTER_MS, tenant_id, began, ended)
                waited_ms += [row["ms"] for row in rows]
            medians[side].append(statistics.median(taken.round.reserve_ms))
    return medians, waited_ms


async def measure_sequencing(
    report: Report,
    server: Server,
    customer: Customer,
    load: Load,
    new_sequencer: Callable[[], Sequencer],
    *,
    rounds: int,
) -> None:
    """Loads one tenant with and without the sequencer beside it, in turns, and looks whether its log is whole.

    Args:
        report: Gets the figures.
        server: PostgreSQL.
        customer: The tenant.
        load: Calls of it.
        new_sequencer: Makes a sequencer.
        rounds: How many of each side.
    """
    times = await load.seed(_ROUND_S)
    medians, waited_ms = await _turns(server, load, new_sequencer, customer.tenant_id, rounds=rounds, times=times)
    report.wrong += load.wrong
    await new_sequencer().round()
    stands = await server.superuser.fetchrow(_STANDS, customer.tenant_id)
    if stands["unnumbered"] or not stands["numbered"] == stands["size"] == stands["signed"]:
        report.wrong.append(f"the log is not whole: {dict(stands)}")
    ratio = statistics.median(on / off for on, off in zip(medians["on"], medians["off"], strict=True))
    report.figures["reserve_p50_sequencer_on_over_off"] = Figure(ratio, "×", ("<=", 1.1))
    provable = statistics.quantiles(waited_ms, n=100, method="inclusive")[98]
    report.figures["provable_after_ms_p99"] = Figure(provable, "ms", ("<=", 2000))
    report.figures["log_records"] = Figure(stands["size"], "records")
    report.notes.append(
        f"{CALLERS} callers of one tenant in a process of their own; the sequencer is beside it, every {INTERVAL_MS} ms"
    )
