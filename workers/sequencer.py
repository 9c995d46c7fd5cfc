"""The sequencer: numbers the records of each tenant's log, and signs. Beside it every other governor's does the same.

Which of them is at a tenant's log is decided by an advisory lock for each, held for one transaction: one that dies lets go at once,
and one that freezes is thrown out by PostgreSQL. A record is in a signed tree one interval after its commit.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.database.engine import AWAY, tenantless, transaction
from holdfast.errors import HoldfastError, Unavailable
from holdfast.transparency.keys import KeySource
from holdfast.transparency.sequencing import FROZEN_MS, Appended, append

log = structlog.get_logger("sequencer")

_DUE = text("SELECT tenant_id FROM due_logs()")
_AT_ONCE: Final = 2
_SAY_AGAIN_S: Final = 60.0


class Sequencer:
    """Keeps all logs up to date; a part of the governor's process.

    Args:
        engine: Database as the sweeper.
        keys: What signs.
        name: What the origins of new logs begin with.
        interval_ms: Pause between two rounds.
        frozen_ms: How long one that freezes in the middle keeps a log from the others.
    """

    def __init__(
        self, engine: AsyncEngine, keys: KeySource, *, name: str, interval_ms: int, frozen_ms: int = FROZEN_MS
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._name = name
        self._interval_s = interval_ms / 1000
        self._frozen_ms = frozen_ms
        self._stopping = asyncio.Event()
        self._said: dict[tuple[UUID, str], float] = {}

    def stop(self) -> None:
        """Lets the transaction that is under way end, and no other begin."""
        self._stopping.set()

    async def run(self) -> None:
        """Goes round until stopped; while PostgreSQL is away it waits."""
        while not self._stopping.is_set():
            try:
                await self.round()
            except AWAY as error:
                log.warning("sequencer.database_away", error=type(error).__name__)
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    async def round(self) -> int:
        """Brings every log up to date once, and returns how many records were appended."""
        async with tenantless(self._engine) as connection:
            due = list((await connection.execute(_DUE)).scalars())
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(tenant_id: UUID) -> int:
            async with slots:
                return await self._catch_up(tenant_id)

        done = await asyncio.gather(*(one(tenant_id) for tenant_id in due), return_exceptions=True)
        for each in done:
            if isinstance(each, BaseException):
                raise each
        return sum(each for each in done if isinstance(each, int))

    async def _catch_up(self, tenant_id: UUID) -> int:
        total = 0
        while not self._stopping.is_set():
            try:
                async with transaction(self._engine, tenant_id) as connection:
                    done = await append(
                        connection, tenant_id, keys=self._keys.read(), name=self._name, frozen_ms=self._frozen_ms
                    )
            except Unavailable:
                raise
            except HoldfastError as error:
                # nothing was signed, and nothing will be until somebody has looked at it; other tenants' logs go on
                self._say(tenant_id, error.code, error.message)
                return total
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise
                self._say(tenant_id, "log.refused", str(error.orig))
                return total
            if done is None:
                return total
            total += done.count
            self._tell_broken(tenant_id, done)
            if not done.more:
                return total
        return total

    def _tell_broken(self, tenant_id: UUID, done: Appended) -> None:
        for decision_id in done.broken:
            self._say(tenant_id, "log.record_altered", f"decision {decision_id}: its hash is not that of its parts")

    def _say(self, tenant_id: UUID, code: str, message: str) -> None:
        """Says what is wrong, and again after a while: a line every round would drown it."""
        now = time.monotonic()
        if self._said.get((tenant_id, message), -_SAY_AGAIN_S) + _SAY_AGAIN_S <= now:
            self._said[tenant_id, message] = now
            log.error("sequencer.stands", tenant_id=str(tenant_id), code=code, reason=message)
