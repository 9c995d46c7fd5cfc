"""Processes that call a ledger all at once, and what their rounds took together."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Final
from uuid import UUID

import orjson

from bench.ledger.place import Server
from bench.ledger.process import Job, Round, Side, What

CALLERS: Final = 128
OURS_POOL: Final = 20  # the governor's own
TIMES_MAX: Final = 2_000
_LINE_BYTES_MAX: Final = 2**26
_PROBE_GROWS: Final = 4


@dataclass(frozen=True, slots=True)
class Taken:
    """A round of all processes together.

    Attributes:
        took_s: From the first one's beginning to the last one's end.
        round: What they measured, put together.
        server_cpu_s: Processor time of the server.
        commits: Transactions that wrote something.
        wal_bytes: What the server wrote to its log.
    """

    took_s: float
    round: Round
    server_cpu_s: float
    commits: int
    wal_bytes: int

    @property
    def calls(self) -> int:
        """How many times the ledger was asked to reserve or to settle."""
        return len(self.round.reserve_ms) + len(self.round.settle_ms)

    @property
    def per_s(self) -> float:
        """Reserves and settlements a second."""
        return self.calls / self.took_s

    @property
    def whole_per_s(self) -> float:
        """Whole actions a second."""
        return len(self.round.whole_ms) / self.took_s

    def percentile_ms(self, percent: int) -> float:
        """Returns what so many percent of the calls took at most."""
        calls = [*self.round.reserve_ms, *self.round.settle_ms]
        return statistics.quantiles(calls, n=100, method="inclusive")[percent - 1]


def median_rate(rounds: Sequence[Taken]) -> float:
    """Returns the median of rounds' calls a second."""
    return statistics.median(one.per_s for one in rounds)


def median_percentile_ms(rounds: Sequence[Taken], percent: int) -> float:
    """Returns the median over rounds of a percentile of their calls."""
    return statistics.median(one.percentile_ms(percent) for one in rounds)


@dataclass(slots=True)
class Load:
    """Running processes with a number of callers in each.

    Attributes:
        side: Which ledger they call.
        granted: Holds that were granted to them in all.
        settled: Holds that they settled in all.
        wrong: What they saw that must not be.
        samples: What the first process has seen of its own stack.
    """

    side: Side
    server: Server
    processes: Sequence[asyncio.subprocess.Process]
    workers_each: int
    granted: int = 0
    settled: int = 0
    wrong: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)

    async def seed(self, round_s: float, *, workers: int | None = None) -> int:
        """Warms up, gives each caller what it will settle, and returns how many pairs each makes in a round of that length."""
        callers = (workers or self.workers_each) * len(self.processes)
        await self.round("reserve", times=1, workers=workers)
        await self.round("pairs", times=1, workers=workers)
        stock, probe = 1, 1
        while True:  # until it takes long enough to tell the rate
            probed = await self.round("pairs", times=probe, workers=workers)
            times = min(max(int(probed.per_s * round_s / 2 / callers), 1), TIMES_MAX)
            wanted = min(probe * _PROBE_GROWS, times)
            if wanted > stock:
                await self.round("reserve", times=wanted - stock, workers=workers)
                stock = wanted
            if probed.took_s >= round_s / _PROBE_GROWS or wanted <= probe:
                break
            probe = wanted
        if times > stock:
            await self.round("reserve", times=times - stock, workers=workers)
        return times

    async def round(self, what: What, *, times: int, workers: int | None = None) -> Taken:
        """Has callers do something so many times each; afterwards, what is held has its outcome.

        Args:
            what: `reserve` only, `settle` all that is executed, `pairs` of both, or the `whole` way of an action.
            times: How many times each.
            workers: How many callers in each process; default all.

        Raises:
            RuntimeError: A process ended.
        """
        request = {"what": what, "times": times, "workers": workers or self.workers_each}
        cpu_before, (commits_before, wal_before) = self.server.cpu_s(), await self.server.written()
        answers = await asyncio.gather(*(_ask(process, request) for process in self.processes))
        (commits, wal_bytes), server_cpu_s = await self.server.written(), self.server.cpu_s() - cpu_before
        rounds = [Round(**answer["round"]) for answer in answers]  # type: ignore[arg-type]  # `Round` as the process wrote it
        whole = Round(
            began_s=min(one.began_s for one in rounds),
            ended_s=max(one.ended_s for one in rounds),
            cpu_s=sum(one.cpu_s for one in rounds),
            reserve_ms=[ms for one in rounds for ms in one.reserve_ms],
            settle_ms=[ms for one in rounds for ms in one.settle_ms],
            whole_ms=[ms for one in rounds for ms in one.whole_ms],
            facts_changed=sum(one.facts_changed for one in rounds),
            wrong=[wrong for one in rounds for wrong in one.wrong],
        )
        self.granted += len(whole.reserve_ms)
        self.settled += len(whole.settle_ms)
        self.wrong += whole.wrong
        self.samples = [str(line) for line in answers[0]["samples"]]  # type: ignore[attr-defined]  # a list, as written there
        await self.server.execute_held()
        return Taken(
            whole.ended_s - whole.began_s, whole, server_cpu_s, commits - commits_before, wal_bytes - wal_before
        )


async def _ask(process: asyncio.subprocess.Process, value: object) -> dict[str, object]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(orjson.dumps(value) + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError("a process that calls the ledger ended; what it said is above")
    answer: dict[str, object] = orjson.loads(line)
    return answer


@asynccontextmanager
async def open_load(
    server: Server,
    side: Side,
    runs: Sequence[tuple[UUID, UUID]],
    *,
    callers: int,
    processes: int = 1,
    pool_size: int = 20,
    sample: bool = False,
) -> AsyncIterator[Load]:
    """Starts processes, gives each its share of callers and each caller its share of runs, and stops them.

    Args:
        server: Where.
        side: Which ledger.
        runs: Tenant and id of each run.
        callers: How many callers, in all processes together.
        processes: How many processes.
        pool_size: Connections of the ledger's engine in each.
        sample: Whether to note where their time goes.
    """
    share = [[(str(tenant), str(run)) for tenant, run in runs[number::callers]] for number in range(callers)]
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.ledger.process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES_MAX,
        )
        for _ in range(processes)
    ]
    try:
        jobs = [
            asdict(Job(side, dict(server.urls), pool_size, share[number::processes], sample))
            for number in range(processes)
        ]
        await asyncio.gather(*(_ask(process, job) for process, job in zip(started, jobs, strict=True)))
        yield Load(side, server, started, callers // processes)
    finally:
        for process in started:
            assert process.stdin is not None
            process.stdin.close()  # it ends with its input
        for process in started:
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()
