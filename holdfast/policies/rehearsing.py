"""Rehearsing on a server: page by page from the database, evaluated by processes of their own that stand back behind all else."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final
from uuid import UUID

import orjson
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.database.engine import AWAY, transaction
from holdfast.policies import rehearsal, rehearsal_records
from holdfast.policies.clocks import local_times_at
from holdfast.policies.rehearsal_records import PAGE, Wanted
from holdfast_verdict.rehearse.lanes import Lanes, Rehearsal

_log = structlog.get_logger("rehearsals")

NICE: Final = 10
_AT_ONCE: Final = 1
LOST: Final = "the process that rehearsed it ended, more than once; ask for a shorter time, or for the same again"


class Rehearsing:
    """The rehearsals that one process works at, one after the other."""

    def __init__(self, engine: AsyncEngine, *, workers: int = 0) -> None:
        """Begins with none.

        Args:
            engine: Database as the API.
            workers: Processes that evaluate; 0 = one per core.
        """
        self._engine = engine
        self._workers = workers
        self._one_at_a_time = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[UUID, asyncio.Task[None]] = {}

    def begin(self, tenant_id: UUID, rehearsal_id: UUID) -> None:
        """Works at a rehearsal, unless this process does already, or another one turns out to."""
        if rehearsal_id not in self._tasks:
            task = asyncio.create_task(self._work(tenant_id, rehearsal_id))
            self._tasks[rehearsal_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(rehearsal_id, None))

    async def close(self) -> None:
        """Leaves what is not done to others."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _work(self, tenant_id: UUID, rehearsal_id: UUID) -> None:
        async with self._one_at_a_time:
            async with transaction(self._engine, tenant_id) as connection:
                held = await rehearsal.hold(connection, tenant_id, rehearsal_id)
            if held is None:
                return
            try:
                await self._rehearse(held)
            except asyncio.CancelledError:
                async with transaction(self._engine, tenant_id) as connection:
                    await rehearsal.let_go(connection, held)
                raise
            except Exception as error:  # noqa: BLE001 (whatever broke is told to whoever asked)
                _log.warning("rehearsal.failed", rehearsal_id=str(rehearsal_id), reason=type(error).__name__)
                with suppress(*AWAY):  # then it lapses, and is taken up again
                    async with transaction(self._engine, tenant_id) as connection:
                        await rehearsal.end(connection, held, error=f"it broke off ({type(error).__name__})")

    async def _rehearse(self, held: rehearsal.Held) -> None:
        wanted = Wanted(held.tenant_id, held.since, held.until)
        async with transaction(self._engine, held.tenant_id) as connection:
            if held.tries > rehearsal.TRIES_MAX:
                await rehearsal.end(connection, held, error=LOST)
                return
            total = await rehearsal_records.count(connection, wanted)
            deciders = await rehearsal_records.deciders(connection, held.tenant_id)
            if not await rehearsal.step(connection, held, 0, total):
                return
        since_ms = int(held.since.timestamp() * 1000)
        asked = Rehearsal(orjson.loads(held.compiled), deciders, local_times_at, since_ms, self._workers, NICE)
        lanes = await asyncio.to_thread(Lanes, asked)
        try:
            if not await self._pages(held, wanted, lanes):
                return
            tally = await asyncio.to_thread(lanes.finish)
            async with transaction(self._engine, held.tenant_id) as connection:
                await rehearsal.end(connection, held, result=tally.to_json())
        finally:
            await asyncio.to_thread(lanes.close)

    async def _pages(self, held: rehearsal.Held, wanted: Wanted, lanes: Lanes) -> bool:
        """Gives all pages to the processes; false if it was cancelled meanwhile."""
        after, done = wanted.first, 0
        while True:
            async with transaction(self._engine, held.tenant_id) as connection:
                records = await rehearsal_records.page(connection, wanted, after)
            await asyncio.to_thread(lanes.take, records)
            done += len(records)
            async with transaction(self._engine, held.tenant_id) as connection:
                if not await rehearsal.step(connection, held, done):
                    return False
            if len(records) < PAGE:
                return True
            after = UUID(records[-1].decision_id)
