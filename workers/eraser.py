"""Erasing and deleting what the decision log shall not keep: a batch a transaction, so that a process may die anywhere."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.database.engine import tenantless, transaction
from holdfast.errors import Unavailable
from holdfast.failpoint import failpoint
from holdfast.retention import erasing, keeping

log = structlog.get_logger("sweepers")

RUNS_AT_ONCE: Final = 50
RECORDS_AT_ONCE: Final = 500
_BATCHES: Final = 10
"""Of each erasure and each tenant, before the other sweepers get their turn again."""
_TENANTS_AT_ONCE: Final = 20
_EVERY_S: Final = 3_600.0
_DUE_ERASURES = text("SELECT * FROM due_erasures(:count)")
_DUE_RETENTION = text("SELECT * FROM due_retention(:count, :every_s)")


class Eraser:
    """Goes on with erasures, and with what tenants keep no longer.

    Args:
        engine: Database as the sweeper.
        runs: Runs of an erasure in one transaction.
        records: Records of a pass in one transaction.
        every_s: How long after a pass the next begins.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        runs: int = RUNS_AT_ONCE,
        records: int = RECORDS_AT_ONCE,
        every_s: float = _EVERY_S,
    ) -> None:
        self._engine = engine
        self._runs = runs
        self._records = records
        self._every_s = every_s

    async def sweep(self) -> None:
        """Does some batches of all that is due."""
        async with tenantless(self._engine) as connection:
            erasures = list(await connection.execute(_DUE_ERASURES, {"count": _TENANTS_AT_ONCE}))
            due = {"count": _TENANTS_AT_ONCE, "every_s": self._every_s}
            tenants = list(await connection.execute(_DUE_RETENTION, due))
        for row in erasures:
            await self._of(row.tenant_id, self._erase(row.tenant_id, row.erasure_id))
        for row in tenants:
            await self._of(row.tenant_id, self._keep(row.tenant_id))

    async def _of(self, tenant_id: UUID, work: Awaitable[None]) -> None:
        with structlog.contextvars.bound_contextvars(tenant_id=str(tenant_id)):
            try:
                await work
            except (Unavailable, OSError):
                raise
            except Exception as error:
                if isinstance(error, DBAPIError) and error.connection_invalidated:
                    raise
                # it stays due, and this line repeats until somebody looks at it; other tenants get their turn
                log.exception("eraser.failed")

    async def _erase(self, tenant_id: UUID, erasure_id: UUID) -> None:
        for _ in range(_BATCHES):
            async with transaction(self._engine, tenant_id) as connection:
                erasure = await erasing.go_on(connection, tenant_id, erasure_id, self._runs)
                await failpoint("erasure.before_commit")
            if erasure is None:
                return
            log.info(
                "erasure.went_on", erasure_id=str(erasure_id), runs=erasure.runs, held=erasure.held, open=erasure.open
            )
            if erasure.ended_at is not None:
                return

    async def _keep(self, tenant_id: UUID) -> None:
        for _ in range(_BATCHES):
            async with transaction(self._engine, tenant_id) as connection:
                passed = await keeping.go_on(connection, tenant_id, self._records)
                await failpoint("retention.before_commit")
            if passed is None:
                return
            if passed.records or not passed.done:
                log.info("retention.went_on", records=passed.records, kept=passed.kept, done=passed.done)
            if passed.done:
                return
