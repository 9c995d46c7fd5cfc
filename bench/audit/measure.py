"""One tenant under load, its log, and an export of it: sequenced, verified, and forged."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.audit.forging import measure_forging
from bench.audit.rehearsing import measure_rehearsing
from bench.audit.sequencing import CALLERS, INTERVAL_MS, measure_sequencing, sequencing
from bench.audit.verifying import export_to, measure_verifying
from bench.ledger.load import open_load
from bench.ledger.place import make_customers, make_runs, open_server
from bench.report import Report
from holdfast.database.engine import create_engine
from holdfast.transparency.keys import FileKeys, new_key
from workers.sequencer import Sequencer


async def measure(*, quick: bool) -> Report:
    """Runs the benchmark.

    Args:
        quick: Fewer rounds, and fewer forgeries.
    """
    report = Report("audit")
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as name:
        folder = Path(name)
        key = folder / "log.key"
        key.write_text(new_key() + "\n", encoding="ascii")
        key.chmod(0o600)
        async with open_server() as server:
            [customer] = await make_customers(server, 1)
            engine = create_engine(server.urls["holdfast_sweeper"], process="bench-sequencer", pool_size=4)

            def new_sequencer() -> Sequencer:
                return Sequencer(engine, FileKeys(key), name="log.example", interval_ms=INTERVAL_MS)

            try:
                runs = await make_runs(server, [customer], CALLERS)
                # a tenant whose few calls are all in one small file, to be forged
                [small] = await make_customers(server, 1)
                few = await make_runs(server, [small], 2)
                async with open_load(server, "ours", few, callers=2) as load:
                    await load.round("whole", times=3 if quick else 6)
                    report.wrong += load.wrong
                async with open_load(server, "ours", runs, callers=CALLERS) as load:
                    await measure_sequencing(report, server, customer, load, new_sequencer, rounds=2 if quick else 8)
                async with sequencing(new_sequencer()):
                    whole = await export_to(folder / "whole.jsonl", server, customer)
                    part = await export_to(folder / "part.jsonl", server, small)
            finally:
                await engine.dispose()
        measure_verifying(report, whole, rounds=2 if quick else 5)
        measure_rehearsing(report, whole, rounds=2 if quick else 5)
        measure_forging(report, part, flips=2_000 if quick else part.stat().st_size)
    return report
