"""Measures the ledger: everything on one machine, in one run, rounds of all sides taking turns, medians of rounds."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from bench.ledger import flatness, hot_row, profile
from bench.ledger.books import books_wrong
from bench.ledger.load import CALLERS, OURS_POOL, TIMES_MAX, Load, Taken, median_percentile_ms, median_rate, open_load
from bench.ledger.place import Customer, Server, make_customers, make_runs, open_server
from bench.ledger.plain_inserts import PlainInserts
from bench.ledger.process import Side
from bench.report import Figure, Report
from holdfast.errors import ConfigurationInvalid

_PROCESSES: Final = (2, 4)
_OLD_HOLD_BYTES: Final = 10_000  # with its decision, journal, timeline and indexes: about 7 kB, and the log
_ALONE_FINER: Final = 4  # the disk's speed changes within seconds
_HOT_UPDATES_A_S: Final = 2_000  # about; it sets only how long pgbench works


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: Rounds of each side.
        round_s: How long a round should take.
        fresh_times: How many pairs each caller makes on tables that nobody has analysed.
        runs_each: Runs of each caller.
        tenants: Over how many the spread load goes.
        naive_pools: Sizes of the naive ledger's pool that are tried; it gets the best.
        hot_clients: Numbers of clients that update the hot row that are tried; the best counts.
        old_holds: How many old holds the ledger's tables hold when its flatness is measured: few, then more.
    """

    rounds: int
    round_s: float
    fresh_times: int
    runs_each: int
    tenants: int
    naive_pools: Sequence[int]
    hot_clients: Sequence[int]
    old_holds: Sequence[int]


def plan_of(*, quick: bool, scale: int) -> Plan:
    """Returns the plan.

    Args:
        quick: Whether it must be done within a minute.
        scale: How many old holds to go up to.
    """
    if quick:
        return Plan(3, 0.6, 3, 1, 128, (4,), (8,), ())
    more = sorted({10**6, scale}) if scale >= 10**6 else [scale]
    return Plan(5, 4.0, 20, 8, 1_000, (1, 2, 4, 8, 16), (1, 4, 16, 64, 128), (10**4, *more))


class Bench:
    """One run of the benchmark.

    Args:
        server: Where.
        plan: How much.
        report: Takes figures, notes and what is wrong.
        stack: Keeps loads open until the end.
    """

    def __init__(self, server: Server, plan: Plan, report: Report, stack: AsyncExitStack) -> None:
        self._server = server
        self._plan = plan
        self._report = report
        self._stack = stack
        self._loads: list[Load] = []

    async def load(
        self, side: Side, customers: Sequence[Customer], *, processes: int = 1, pool_size: int = OURS_POOL
    ) -> Load:
        """Opens a load of all callers, to be closed at the end."""
        runs = await make_runs(self._server, customers, CALLERS * self._plan.runs_each)
        load = await self._stack.enter_async_context(
            open_load(self._server, side, runs, callers=CALLERS, processes=processes, pool_size=pool_size)
        )
        self._loads.append(load)
        return load

    async def best_pool(self, customers: Sequence[Customer]) -> int:
        """Returns the size of pool with which the naive ledger is fastest under all callers."""
        if len(self._plan.naive_pools) == 1:
            return self._plan.naive_pools[0]
        rates: dict[int, float] = {}
        runs = await make_runs(self._server, customers, CALLERS)
        for size in self._plan.naive_pools:
            async with open_load(self._server, "naive", runs, callers=CALLERS, pool_size=size) as load:
                await load.round("reserve", times=2)
                rates[size] = (await load.round("pairs", times=2)).per_s
                await load.round("settle", times=0)
            self._loads.append(load)  # its processes are gone, its counts are not
        shown = ", ".join(f"{size}: {rate:.0f}/s" for size, rate in rates.items())
        self._report.notes.append(f"naive ledger by size of its pool (as many again under load): {shown}")
        return max(rates, key=lambda size: rates[size])

    async def best_hot_clients(self) -> int:
        """Returns with how many clients the hot row is updated most often."""
        if len(self._plan.hot_clients) == 1:
            return self._plan.hot_clients[0]
        rates = {
            clients: await hot_row.updates_per_s(self._server, clients=clients, updates=_HOT_UPDATES_A_S)
            for clients in self._plan.hot_clients
        }
        shown = ", ".join(f"{clients}: {rate:.0f}/s" for clients, rate in rates.items())
        self._report.notes.append(f"hot row by number of clients: {shown}")
        return max(rates, key=lambda clients: rates[clients])

    async def take_turns(self, sides: Mapping[str, Callable[[], Awaitable[None]]], *, finer: int = 1) -> None:
        """Has each side do a round, as many times as planned, another one first each time.

        Args:
            sides: What does a round of each side.
            finer: How many times as many rounds, for rounds that are as much shorter.
        """
        names = list(sides)
        for number in range(self._plan.rounds * finer):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                await sides[name]()

    async def fresh(self, load: Load) -> float:
        """Returns the rate on tables that nobody has analysed yet, as after an installation, with some holds in them."""
        await load.round("reserve", times=self._plan.fresh_times)
        return (await load.round("pairs", times=self._plan.fresh_times)).per_s

    async def at_once(self, ours: Load, naive: Load) -> None:
        """Measures all callers at once on one hot tenant: both ledgers and the hot row."""
        best, updates = await self.best_hot_clients(), int(self._plan.round_s * _HOT_UPDATES_A_S)
        fresh = await self.fresh(ours)
        await self._server.settle_down()
        times = {id(load): await load.seed(self._plan.round_s) for load in (ours, naive)}
        taken: dict[int, list[Taken]] = {id(ours): [], id(naive): []}
        hot: dict[int, list[float]] = {CALLERS: [], best: []}

        async def pairs(load: Load) -> None:
            taken[id(load)].append(await load.round("pairs", times=times[id(load)]))

        async def row() -> None:
            for clients, rates in hot.items():
                rates.append(await hot_row.updates_per_s(self._server, clients=clients, updates=updates))

        await self.take_turns({"naive": lambda: pairs(naive), "ours": lambda: pairs(ours), "row": row})
        rate, naive_rate = median_rate(taken[id(ours)]), median_rate(taken[id(naive)])
        hot_rate, hot_best = statistics.median(hot[CALLERS]), statistics.median(hot[best])
        p99, naive_p99 = (median_percentile_ms(taken[id(load)], 99) for load in (ours, naive))
        self._report.figures |= {
            "naive_ratio_c128": Figure(rate / naive_rate, "ratio", (">=", 40)),
            "hotrow_ratio_c128": Figure(rate / hot_rate, "ratio", (">=", 10)),
            "naive_p99_ratio_c128": Figure(naive_p99 / p99, "ratio", (">=", 20)),
            "ops_per_s_c128": Figure(rate, "1/s"),
            "naive_ops_per_s_c128": Figure(naive_rate, "1/s"),
            "hotrow_updates_per_s_c128": Figure(hot_rate, "1/s"),
            "hotrow_updates_per_s_best": Figure(hot_best, "1/s"),
            "hotrow_best_ratio_c128": Figure(rate / hot_best, "ratio"),
            "p50_ms_c128": Figure(median_percentile_ms(taken[id(ours)], 50), "ms"),
            "p99_ms_c128": Figure(p99, "ms"),
            "naive_p50_ms_c128": Figure(median_percentile_ms(taken[id(naive)], 50), "ms"),
            "naive_p99_ms_c128": Figure(naive_p99, "ms"),
            "fresh_ops_per_s_c128": Figure(fresh, "1/s"),
            "ops_per_commit_c128": Figure(
                statistics.median(one.calls / max(one.commits, 1) for one in taken[id(ours)]), "ops"
            ),
        }

    async def alone(self, ours: Load, naive: Load, tenant_id: UUID) -> None:
        """Measures one caller alone, against inserting the same rows."""
        times = {id(load): await load.seed(self._plan.round_s / _ALONE_FINER, workers=1) for load in (ours, naive)}
        plain = await PlainInserts.of(self._server, tenant_id)
        pair_ms: dict[int, list[float]] = {id(ours): [], id(naive): []}
        plain_ms: dict[Literal[1, 2], list[float]] = {1: [], 2: []}

        async def pairs(load: Load) -> None:
            one = await load.round("pairs", times=times[id(load)], workers=1)
            pair_ms[id(load)].append(one.took_s * 1000 / times[id(load)])

        async def inserts() -> None:
            for commits, taken in plain_ms.items():
                taken.append(statistics.mean(await plain.round_ms(times[id(ours)], commits=commits)))

        try:
            await plain.round_ms(2)
            await self.take_turns(
                {"naive": lambda: pairs(naive), "ours": lambda: pairs(ours), "plain": inserts}, finer=_ALONE_FINER
            )
        finally:
            await plain.close()
        ours_ms, naive_ms, once_ms, twice_ms = (
            statistics.median(values) for values in (pair_ms[id(ours)], pair_ms[id(naive)], plain_ms[1], plain_ms[2])
        )
        self._report.figures |= {
            "commit_ratio_c1": Figure(ours_ms / once_ms, "ratio", ("<=", 2)),
            "commit_ratio_each_c1": Figure(ours_ms / twice_ms, "ratio"),
            "naive_commit_ratio_c1": Figure(naive_ms / once_ms, "ratio"),
            "pair_ms_c1": Figure(ours_ms, "ms"),
            "naive_pair_ms_c1": Figure(naive_ms, "ms"),
            "plain_inserts_ms_c1": Figure(once_ms, "ms"),
            "plain_inserts_each_ms_c1": Figure(twice_ms, "ms"),
        }

    async def whole_way(self, ours: Load, naive: Load) -> None:
        """Measures the whole way of an action under all callers: reserve, redeem, outward, outcome, settle."""
        rates: dict[int, list[float]] = {id(ours): [], id(naive): []}
        times: dict[int, int] = {}
        for load in (ours, naive):
            first = await load.round("whole", times=1)
            times[id(load)] = min(max(int(first.whole_per_s * self._plan.round_s / CALLERS), 1), TIMES_MAX)

        async def whole(load: Load) -> None:
            rates[id(load)].append((await load.round("whole", times=times[id(load)])).whole_per_s)

        await self.take_turns({"naive": lambda: whole(naive), "ours": lambda: whole(ours)})
        rate, naive_rate = (statistics.median(rates[id(load)]) for load in (ours, naive))
        self._report.figures |= {
            "full_path_ops_per_s_c128": Figure(rate, "1/s"),
            "naive_full_path_ops_per_s_c128": Figure(naive_rate, "1/s"),
            "full_path_naive_ratio_c128": Figure(rate / naive_rate, "ratio"),
        }

    async def wider(self, ours: Load, several: Mapping[int, Load], spread: Load) -> None:
        """Measures the same callers in several processes, and over many tenants, against one process on the hot tenant."""
        loads = {"ours": ours, "spread": spread, **{f"p{count}": load for count, load in several.items()}}
        times = {name: await load.seed(self._plan.round_s) for name, load in loads.items()}
        taken: dict[str, list[Taken]] = {name: [] for name in loads}

        def pairs(name: str) -> Callable[[], Awaitable[None]]:
            async def one() -> None:
                taken[name].append(await loads[name].round("pairs", times=times[name]))

            return one

        await self.take_turns({name: pairs(name) for name in loads})
        rate = {name: median_rate(rounds) for name, rounds in taken.items()}
        for count in several:
            ratio = Figure(rate[f"p{count}"] / rate["ours"], "ratio", (">=", 1))
            self._report.figures[f"scale_{count}proc_over_1"] = ratio
        self._report.figures |= {
            "spread_ratio": Figure(rate["spread"] / rate["ours"], "ratio", (">=", 1)),
            "spread_ops_per_s_c128": Figure(rate["spread"], "1/s"),
        }

    async def check(self) -> None:
        """Settles what is left, counts it, and has the auditor look at the books."""
        for load in self._loads:
            if all(process.returncode is None for process in load.processes):
                await load.round("settle", times=0)
            self._report.wrong += load.wrong
        granted = sum(load.granted for load in self._loads)
        settled = sum(load.settled for load in self._loads)
        if granted != settled:
            self._report.wrong.append(f"{granted} holds were granted, {settled} settled")
        self._report.wrong += await books_wrong(self._server, settled)


def _check_disk(old_holds: int) -> None:
    folder = tempfile.gettempdir()
    needed, free = old_holds * _OLD_HOLD_BYTES, shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigurationInvalid(
            f"{old_holds:,} old holds need about {needed / 2**30:.0f} GiB, and {folder} has {free / 2**30:.0f} free",
            remedy="set TMPDIR to a larger disk, or ask for fewer with --scale",
        )


def _say(what: str, began_s: float) -> None:
    print(f"{time.monotonic() - began_s:5.0f} s  {what} …", file=sys.stderr, flush=True)


def _explain(report: Report, plan: Plan) -> None:
    report.notes += [
        f"an op is a reserve or a settlement below the hold; {CALLERS} callers make pairs, each on runs of its own; five caps",
        "a reserve is evaluated, canonicalised, recorded and signed; facts and prices are read before; settlements write no transcript",
        "the tables are vacuumed and analysed before the first round; fresh_ops_per_s_c128 is from before that",
        "between rounds, one statement gives all that is held its outcome",
        f"{plan.rounds} rounds of {plan.round_s:g} s of each side, taking turns, and their medians",
        "fsync, full_page_writes and synchronous_commit are on",
        "plain inserts: one transaction with the rows that one reserve and one settlement leave, same indexes, no foreign keys",
        f"spread over {plan.tenants} tenants; several processes share the same {CALLERS} callers",
    ]
    if not plan.old_holds:
        report.notes.append("quick: no flatness")


async def measure(*, quick: bool, scale: int = 10**6, profiled: bool = False) -> Report:
    """Measures the ledger.

    Args:
        quick: Rougher, within a minute.
        scale: How many old holds to go up to, for the flatness.
        profiled: Measures only the ledger's own load, and tells where the time goes.

    Raises:
        ConfigurationInvalid: The old holds need more disk than is free.
    """
    plan = plan_of(quick=quick, scale=scale)
    if plan.old_holds and not profiled:
        _check_disk(plan.old_holds[0] + plan.old_holds[-1])
    report, began_s = Report("ledger"), time.monotonic()
    async with open_server() as server, AsyncExitStack() as stack:
        if profiled:
            await profile.measure(server, report, "ours", round_s=plan.round_s, rounds=plan.rounds)
            return report
        await hot_row.make_row(server)
        hot, naive_hot, *others = await make_customers(server, 2 + plan.tenants)
        bench = Bench(server, plan, report, stack)
        _say("warming up", began_s)
        naive = await bench.load("naive", [naive_hot], pool_size=await bench.best_pool([naive_hot]))
        ours = await bench.load("ours", [hot])
        _say(f"{CALLERS} callers at once", began_s)
        await bench.at_once(ours, naive)
        _say("one caller alone", began_s)
        await bench.alone(ours, naive, hot.tenant_id)
        _say("the whole way of actions", began_s)
        await bench.whole_way(ours, naive)
        _say("several processes, many tenants", began_s)
        several = {
            count: await bench.load("ours", [hot], processes=count, pool_size=OURS_POOL // count)
            for count in _PROCESSES
        }
        await bench.wider(ours, several, await bench.load("ours", others))
        _say("looking at the books", began_s)
        await bench.check()
    if plan.old_holds:
        _say(f"up to {max(plan.old_holds):,} old holds", began_s)
        await flatness.measure(report, plan.old_holds, round_s=plan.round_s, rounds=plan.rounds)
    _explain(report, plan)
    return report
