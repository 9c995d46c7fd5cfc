"""Making the journal's months ahead, and giving entries that fell into none their month."""

from __future__ import annotations

import time
from typing import Final

import asyncpg
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.database.engine import tenantless

log = structlog.get_logger("sweepers")

MONTHS_AHEAD: Final = 4
_EVERY_S: Final = 86_400.0
_AGAIN_S: Final = 60.0
_STRAYS = text("SELECT * FROM journal_strays()")
_MAKE = text("SELECT make_journal_partitions(coalesce(CAST(:month AS timestamptz), now()), :months)")


class JournalTender:
    """Looks after the journal's months when it is elected, and once a day.

    Args:
        engine: Database as the sweeper.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._next = 0.0

    async def tend(self) -> None:
        """Makes months, if it is time for it."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY_S
        try:
            async with tenantless(self._engine) as connection:
                for row in list(await connection.execute(_STRAYS)):
                    # nothing is lost, but a month that is not there cannot be archived
                    log.warning("journal.month_missing", month=f"{row.month:%Y-%m}", entries=row.entries)
                    await connection.execute(_MAKE, {"month": row.month, "months": 1})
                made = await connection.scalar(_MAKE, {"month": None, "months": MONTHS_AHEAD})
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != asyncpg.LockNotAvailableError.sqlstate:
                raise
            self._next = time.monotonic() + _AGAIN_S
            log.warning("journal.months_wait", reason="somebody keeps the journal locked")
            return
        if made:
            log.info("journal.months_made", months=made)
