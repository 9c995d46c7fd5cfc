"""Whether a reserve costs the same when old holds have piled up: two servers, one with few and one with many, taking turns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from bench.ledger.books import books_wrong
from bench.ledger.filling import fill
from bench.ledger.load import CALLERS, Load, Taken, open_load
from bench.ledger.place import Customer, Server, make_customers, make_runs, open_server
from bench.report import Figure, Report

_RUNS_EACH: Final = 4


class _Pile:
    """A server on which old holds pile up, and a load on the same tenant."""

    def __init__(self, server: Server, customer: Customer, load: Load) -> None:
        self.server = server
        self.load = load
        self.times = 0
        self.filled = 0
        self._customer = customer

    @classmethod
    async def make(cls, stack: AsyncExitStack) -> _Pile:
        server = await stack.enter_async_context(open_server())
        [customer] = await make_customers(server, 1)
        runs = await make_runs(server, [customer], CALLERS * _RUNS_EACH)
        load = await stack.enter_async_context(open_load(server, "ours", runs, callers=CALLERS))
        return cls(server, customer, load)

    async def grow(self, count: int, round_s: float) -> None:
        """Has so many old holds there, and everything tidy and warm."""
        if not self.filled:  # the first settled hold is what is copied
            await self.load.round("reserve", times=1)
            await self.load.round("pairs", times=1)
        await fill(self.server, self._customer, count - self.filled)
        self.filled = count
        await self.server.settle_down()
        self.times = await self.load.seed(round_s)


async def measure(report: Report, old_holds: Sequence[int], *, round_s: float, rounds: int) -> None:
    """Measures the cost of a pair with few old holds against each larger number of them."""
    few, *more = old_holds
    async with AsyncExitStack() as stack:
        small, large = await _Pile.make(stack), await _Pile.make(stack)
        await small.grow(few, round_s)
        for count in more:
            await large.grow(count, round_s)
            taken: dict[int, list[Taken]] = {id(small): [], id(large): []}
            for number in range(rounds):
                for pile in (small, large) if number % 2 else (large, small):
                    taken[id(pile)].append(await pile.load.round("pairs", times=pile.times))
            wall, server = (
                statistics.median(values[id(large)]) / statistics.median(values[id(small)])
                for values in (
                    {key: [one.took_s / one.calls for one in list_] for key, list_ in taken.items()},
                    {key: [one.server_cpu_s / one.calls for one in list_] for key, list_ in taken.items()},
                )
            )
            key = f"{_short(few)}_{_short(count)}"
            report.figures |= {
                f"flatness_{key}": Figure(wall, "ratio", ("<=", 1.2)),
                f"flatness_server_cpu_{key}": Figure(server, "ratio"),
            }
        for pile in (small, large):
            await pile.load.round("settle", times=0)
            report.wrong += [*pile.load.wrong, *await books_wrong(pile.server, pile.filled + pile.load.settled)]


def _short(count: int) -> str:
    exponent = len(str(count)) - 1
    return f"1e{exponent}" if count == 10**exponent else str(count)
