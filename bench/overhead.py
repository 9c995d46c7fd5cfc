"""What governance costs: the same agent (20 actions) bare, on the floor, and governed, interleaved in one run."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from sqlalchemy import text
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from bench.place import ACTIONS, MODEL, PROMPT, Place, open_place
from bench.report import Figure, Report
from bench.ungoverned import CREATE_COMMITS, WORKFLOWS_QUEUE, BareRun, BareStart
from holdfast.database.engine import create_engine, transaction
from holdfast.ids import new_id
from holdfast.runs.service import RunRequest, admit
from holdfast.runs.start import start_run

CONCURRENT = 20
_SHAPES = ("bare", "floor", "governed")

Batch = Callable[[int], Awaitable[float]]


@asynccontextmanager
async def _workers(place: Place) -> AsyncIterator[None]:
    """Starts the baselines' two worker processes, and stops them."""
    owner = create_engine(place.stack.database_url("holdfast_owner"), process="bench")
    async with owner.begin() as connection:
        await connection.execute(text(CREATE_COMMITS))
    await owner.dispose()
    environment = {
        **os.environ,
        **place.stack.env_for("executor"),
        "BENCH_DATABASE_URL": place.stack.database_url("holdfast_owner"),
        "BENCH_CREDENTIALS": json.dumps({"provider": place.provider_credential, "mail": place.mail_credential}),
    }
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.ungoverned", part, env=environment, stdout=asyncio.subprocess.PIPE
        )
        for part in ("workflows", "executor")
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            if not await process.stdout.readline():
                raise RuntimeError("a worker of the baselines ended before it was ready")
        yield
    finally:
        for process in processes:
            if process.returncode is None:
                process.terminate()
        await asyncio.gather(*(process.wait() for process in processes))


class _Runner:
    """Runs batches of each shape and times them."""

    def __init__(self, place: Place, plain: Client) -> None:
        self._place = place
        self._plain = plain
        self.governed_runs: list[str] = []

    async def ungoverned(self, runs: int, *, floor: bool) -> float:
        """Returns the seconds that so many runs at a time take."""
        start = BareStart(prompt=PROMPT, model=MODEL, floor=floor)
        ids = [str(new_id()) for _ in range(runs)]
        started = time.perf_counter()
        counts = await asyncio.gather(
            *(self._plain.execute_workflow(BareRun.run, start, id=id_, task_queue=WORKFLOWS_QUEUE) for id_ in ids)
        )
        took_s = time.perf_counter() - started
        if set(counts) != {ACTIONS}:
            raise RuntimeError(f"a baseline run took {counts} actions")
        return took_s

    async def governed(self, runs: int) -> float:
        """Returns the seconds that so many governed runs at a time take, from start to result."""
        place = self._place
        admitted = [
            await admit(place.engine, place.principal, RunRequest(agent="reader", content=PROMPT)) for _ in range(runs)
        ]

        async def one(run_id: object) -> None:
            await start_run(place.client, place.engine, place.principal.tenant_id, run_id)  # type: ignore[arg-type]  # a UUID
            result = await place.client.get_workflow_handle(str(run_id)).result()
            if result["status"] != "succeeded" or result["steps"] != ACTIONS:
                raise RuntimeError(f"a governed run ended as {result}")

        started = time.perf_counter()
        await asyncio.gather(*(one(each.run_id) for each in admitted))
        took_s = time.perf_counter() - started
        self.governed_runs += [str(each.run_id) for each in admitted]
        return took_s

    def batch(self, shape: str) -> Batch:
        """Returns the function that runs a batch of a shape."""
        if shape == "governed":
            return self.governed
        return lambda runs: self.ungoverned(runs, floor=shape == "floor")


async def _check(place: Place, runs: list[str]) -> list[str]:
    """Says what must not be: a hold that is not settled once, an action without one."""
    async with transaction(place.engine, place.principal.tenant_id) as connection:
        rows = await connection.execute(
            text(
                "SELECT run_id::text, count(*) FILTER (WHERE state = 'committed') AS committed, count(*) AS held FROM holds "
                "WHERE tenant_id = :tenant_id GROUP BY run_id"
            ),
            {"tenant_id": place.principal.tenant_id},
        )
        counts = {row.run_id: (row.committed, row.held) for row in rows}
    return [
        f"run {run}: {counts.get(run)} committed and held, not {ACTIONS}"
        for run in runs
        if counts.get(run) != (ACTIONS, ACTIONS)
    ]


async def measure(*, quick: bool) -> Report:
    """Measures the overhead of governance."""
    rounds_alone, rounds_together = (3, 1) if quick else (10, 4)
    report = Report("overhead")
    async with open_place() as place, _workers(place):
        plain = await Client.connect(
            place.client.service_client.config.target_host,
            namespace=place.client.namespace,
            data_converter=pydantic_data_converter,
        )
        runner = _Runner(place, plain)
        alone: dict[str, list[float]] = {shape: [] for shape in _SHAPES}
        together: dict[str, list[float]] = {shape: [] for shape in _SHAPES}
        for shape in _SHAPES:  # warm up: connections, caches, compiled code
            await runner.batch(shape)(2)
        for number in range(rounds_alone):
            for shape in _rotated(number):
                alone[shape].append(await runner.batch(shape)(1))
        for number in range(rounds_together):
            for shape in _rotated(number):
                together[shape].append(await runner.batch(shape)(CONCURRENT))
        report.wrong = await _check(place, runner.governed_runs)
    _fill(report, alone, together)
    return report


def _rotated(number: int) -> tuple[str, ...]:
    """Returns the shapes in an order that changes, so that none is always first on a warm machine."""
    turn = number % len(_SHAPES)
    return _SHAPES[turn:] + _SHAPES[:turn]


def _fill(report: Report, alone: dict[str, list[float]], together: dict[str, list[float]]) -> None:
    latency_ms = {shape: statistics.median(alone[shape]) / ACTIONS * 1000 for shape in _SHAPES}
    rate = {shape: CONCURRENT * ACTIONS / statistics.median(together[shape]) for shape in _SHAPES}
    report.figures = {
        "governed_over_floor_throughput": Figure(rate["floor"] / rate["governed"], "ratio", ("<=", 1.3)),
        "governed_over_floor_latency_p50": Figure(latency_ms["governed"] / latency_ms["floor"], "ratio", ("<=", 1.3)),
        "governed_over_bare_throughput": Figure(rate["bare"] / rate["governed"], "ratio", ("<=", 1.6)),
        "actions_per_s_governed": Figure(rate["governed"], "1/s"),
        "actions_per_s_floor": Figure(rate["floor"], "1/s"),
        "actions_per_s_bare": Figure(rate["bare"], "1/s"),
        **{f"latency_p50_ms_{shape}": Figure(latency_ms[shape], "ms") for shape in _SHAPES},
    }
    report.notes = [
        f"{ACTIONS} actions a run: 10 streamed model calls and 10 tool calls",
        f"each shape: {len(alone['bare'])} runs alone and {len(together['bare'])} batches of {CONCURRENT} at a time, interleaved",
        "floor = bare + two local activities an action that each do one plain PostgreSQL commit",
    ]
