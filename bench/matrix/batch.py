"""Plays cells, many at once over the same processes; one death takes a process with all the calls that it is making."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from activities.run_state import end_run
from bench.matrix import books, ground
from bench.matrix.books import Findings
from bench.matrix.caller import Caller
from bench.matrix.cells import Cell
from bench.matrix.ground import Ground
from bench.matrix.hall import Hall
from bench.matrix.process import News
from holdfast.database.engine import transaction

_PATIENCE_S: Final = 300.0
_SETTLING_S: Final = 60.0
_MIDWAY_S: Final = 0.5
_LOOK_S: Final = 0.05
_ENDINGS: Final = 3
"""So many runs are ended at once: fewer than the sweeper has connections, which sweeps meanwhile."""

_OPEN: Final = "SELECT count(*) FROM holds WHERE tenant_id = ANY($1) AND settled_at IS NULL"
# Of the dead's runs those end that have a hold in hand; who had none is taken up by another run as it is.
_HOLDING: Final = "SELECT DISTINCT run_id FROM holds WHERE run_id = ANY($1) AND settled_at IS NULL"
# The dead do not come back, and nobody here waits for a lease to run out: the clock is put forward for their holds.
_RUN_OUT: Final = """
    UPDATE holds SET lease_expires_at = clock_timestamp() WHERE run_id = ANY($1) AND state = 'executing'
"""


@dataclass(slots=True)
class _Table:
    """One cell while it is played."""

    ground: Ground
    waiting: dict[int, Caller] = field(default_factory=dict)
    parked: set[int] = field(default_factory=set)
    ends: Counter[str] = field(default_factory=Counter)
    places: dict[int, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    spare: int = 0

    @property
    def cell(self) -> Cell:
        return self.ground.cell

    def take(self, news: News) -> None:
        """Notes what a process tells."""
        if news.kind == "parked":
            self.parked.add(news.number)
            return
        self.waiting.pop(news.number, None)
        if news.kind == "broken":
            self.errors.append(f"call {news.number}: {news.error}")
        else:
            self.ends[str(news.end)] += 1


class Batch:
    """Cells that are played together: by as many processes, as many calls at once, and either none or all of them to be killed."""

    def __init__(self, hall: Hall, cells: Sequence[Cell]) -> None:
        self._hall = hall
        self._tables = {one.tenant_id: _Table(one) for one in map(ground.lay, cells)}
        self._processes = max(cell.process_count for cell in cells)
        self._deadline = time.monotonic() + _PATIENCE_S
        self._endings = asyncio.Semaphore(_ENDINGS)

    @property
    def grounds(self) -> list[Ground]:
        """The cells' tenants."""
        return [table.ground for table in self._tables.values()]

    async def play(self) -> dict[str, Findings]:
        """Plays the cells to their end, and returns what came of each, by name."""
        hall, tables = self._hall, list(self._tables.values())
        hall.staff(self._processes)
        async with hall.superuser.acquire() as connection:
            await ground.store(connection, [table.ground for table in tables])
        for table in tables:
            await ground.set_caps(hall.api, table.ground)
        listener = asyncio.create_task(self._listen())
        try:
            await self._play(tables)
        finally:
            listener.cancel()
        return await self._check(tables)

    async def _listen(self) -> None:
        while True:
            news = await self._hall.news.get()
            if news.tenant_id in self._tables:
                self._tables[news.tenant_id].take(news)

    async def _play(self, tables: Sequence[_Table]) -> None:
        doomed = [table for table in tables if ground.victims(table.cell)]
        for table in doomed:
            self._order(table, 0, [self._caller(table, number) for number in range(ground.victims(table.cell))])
        await self._until(lambda: all(self._stands(table) for table in doomed))
        together = [table for table in tables if table.cell.calls > 1]
        for table in together:
            rest = range(ground.victims(table.cell), ground.demand(table.cell))
            for place in range(table.cell.process_count):
                mine = [self._caller(table, number) for number in rest if number % table.cell.process_count == place]
                self._order(table, place, mine)
        rolling = asyncio.create_task(self._roll([table for table in tables if table.cell.event == "rollover"]))
        if doomed:
            # any moment is as good: calls are at every place of their way, and some may wait for the victims' holds
            soon = time.monotonic() + _MIDWAY_S
            await self._until(lambda: time.monotonic() > soon or all(self._is_midway(table) for table in doomed))
            await self._die(doomed)
        await asyncio.gather(*(self._one_after_the_other(table) for table in tables if table.cell.calls == 1))
        await self._until(lambda: not any(table.waiting for table in tables))
        await rolling

    async def _roll(self, tables: Sequence[_Table]) -> None:
        """Ends the windows of the cells' caps, each once a call there has ended, or soon."""
        left, soon = list(tables), time.monotonic() + _MIDWAY_S
        while left:
            over = [table for table in left if table.ends or table.errors or time.monotonic() > soon]
            left = [table for table in left if table not in over]
            async with self._hall.superuser.acquire() as connection:
                for table in over:
                    await ground.end_window(connection, table.ground)
            await asyncio.sleep(_LOOK_S)

    def _caller(self, table: _Table, number: int) -> Caller:
        victim = number < ground.victims(table.cell)
        # the first that is no victim lowers the cap, with its hold in hand
        lowers = table.cell.event == "lowered" and number == ground.victims(table.cell)
        return Caller(number, table.ground.run_ids[number], victim, lowers)

    def _order(self, table: _Table, place: int, callers: Sequence[Caller]) -> None:
        for caller in callers:
            table.waiting[caller.number] = caller
            table.places[caller.number] = place
        self._hall.processes[place].play(table.ground, callers)

    async def _one_after_the_other(self, table: _Table) -> None:
        """Makes the calls of a cell one by one, by its processes in turn, until one is refused for good."""
        for number in range(ground.victims(table.cell), ground.demand(table.cell)):
            self._order(table, number % table.cell.process_count, [self._caller(table, number)])
            await self._until(lambda number=number: number not in table.waiting)  # type: ignore[misc]  # bound by its default
            if table.ends["refused"] or table.ends["gave_up"] or table.errors:
                return

    # Death ----------------------------------------------------------------------------------------------------------

    def _stands(self, table: _Table) -> bool:
        """Whether every victim has come to its place, or has ended without ever coming there."""
        return all(caller.number in table.parked for caller in table.waiting.values() if caller.victim)

    def _is_midway(self, table: _Table) -> bool:
        """Whether a quarter of the doomed process's calls have ended, and the others are somewhere on their way."""
        mine = [number for number, place in table.places.items() if place == 0 and not self._is_victim(table, number)]
        return sum(number not in table.waiting for number in mine) * 4 >= len(mine)

    def _is_victim(self, table: _Table, number: int) -> bool:
        return number < ground.victims(table.cell)

    async def _die(self, doomed: Sequence[_Table]) -> None:
        """Kills the first process with -9. Victims' runs end with it; what else it was making is taken up by its successor."""
        await self._hall.kill_first()
        await asyncio.sleep(0)  # so that what it had told is taken in
        while not self._hall.news.empty():  # noqa: ASYNC110 (emptied by the listener)
            await asyncio.sleep(_LOOK_S)
        gone: list[tuple[UUID, UUID]] = []
        again: list[tuple[_Table, list[Caller]]] = []
        for table in doomed:
            lost = [caller for caller in table.waiting.values() if table.places[caller.number] == 0]
            over = [caller for caller in lost if caller.victim or table.cell.max_tokens == "absent"]
            gone += [(table.ground.tenant_id, caller.run_id) for caller in over]
            again.append((table, [self._successor(table, caller) for caller in lost]))
            for caller in lost:
                del table.waiting[caller.number]
        async with self._hall.superuser.acquire() as connection:
            rows = await connection.fetch(_HOLDING, [run_id for _, run_id in gone])
            holding = {row["run_id"] for row in rows}
            await asyncio.gather(*(self._end(*one) for one in gone if one[1] in holding))
            await connection.execute(_RUN_OUT, list(holding))
        for table, callers in again:
            self._order(table, 0, callers)

    async def _end(self, tenant_id: UUID, run_id: UUID) -> None:
        async with self._endings, transaction(self._hall.sweeper, tenant_id) as connection:
            await end_run(connection, tenant_id, run_id, status="terminated", code="workflow.terminated")

    def _successor(self, table: _Table, caller: Caller) -> Caller:
        """Returns who makes the call in its place: the same run with the same keys; or another run, where its own has ended."""
        if not caller.victim and table.cell.max_tokens == "given":
            return caller
        table.spare += 1
        run_id = table.ground.run_ids[-table.spare]
        return replace(caller, run_id=run_id, victim=False)

    # The end --------------------------------------------------------------------------------------------------------

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition() and time.monotonic() < self._deadline:  # noqa: ASYNC110 (what it waits for is in other processes)
            await asyncio.sleep(_LOOK_S)

    async def _check(self, tables: Sequence[_Table]) -> dict[str, Findings]:
        found = [table.ground for table in tables]
        tenants = [one.tenant_id for one in found]
        give_up = time.monotonic() + _SETTLING_S
        async with self._hall.superuser.acquire() as connection:
            while await connection.fetchval(_OPEN, tenants) and time.monotonic() < give_up:  # noqa: ASYNC110 (a table)
                await asyncio.sleep(_LOOK_S)
            checked = await books.check(connection, found)
        for table in tables:
            wrong = checked[table.ground.tenant_id].wrong
            wrong += table.errors
            if table.waiting:
                wrong.append(f"{len(table.waiting)} calls did not end within {_PATIENCE_S:g} s")
        return {str(table.cell): checked[table.ground.tenant_id] for table in tables}
