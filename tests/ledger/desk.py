"""Books of some months that are taken out of the journal, and looked at afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from holdfast.ledger.archive import Archived, archive
from holdfast.ledger.archive_proof import prove
from holdfast.ledger.auditor import audit
from tests.database.old_books import OldBooks
from tests.database.schemas import empty_database, migrate_schema
from tests.database.test_moving_the_ledger import until_revision

from .world import Database, new_tenant

MONTH = (datetime.now(UTC) - timedelta(days=1)).date().replace(day=1)
"""The newest month that has begun a day ago, and so the first that stays."""
BEGINS = datetime(MONTH.year, MONTH.month, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Desk:
    """Two tenants with books of some months, a folder for files, and what was said."""

    database: Database
    books: tuple[OldBooks, ...]
    folder: Path
    said: list[str] = field(default_factory=list)

    async def archive(self, before: date = MONTH) -> list[Archived]:
        return await archive(self.database.urls["holdfast_owner"], before, self.folder, self.said.append)

    async def wrong(self, *, files: bool = True) -> set[str]:
        engine = self.database.engine("auditor")
        found = list((await audit(engine)).discrepancies)
        if files:
            found += await prove(engine, sorted(self.folder.glob("*.gz")), lambda _: None)
        return {one.check for one in found}

    async def settle_all(self) -> None:
        for books in self.books:
            tenant = books.tenant
            for row in await self.database.fetch(
                """SELECT hold_id FROM holds WHERE tenant_id = $1 AND settled_at IS NULL
                   ORDER BY kind = 'run.budget'""",
                tenant.tenant_id,
            ):
                hold = await tenant.hold(row["hold_id"])
                paid = hold.state in ("executed", "unknown") or hold.kind == "run.budget"
                await tenant.settle(hold.hold_id, *(("committed", {"nano_usd": 1}) if paid else ("voided",)))


@asynccontextmanager
async def opened_desk(database: Database, folder: Path) -> AsyncIterator[Desk]:
    async with empty_database(database) as own:
        with until_revision("0002") as revisions:
            await migrate_schema(own, revisions)
        books = (OldBooks(await new_tenant(own), 7), OldBooks(await new_tenant(own), 8))
        for each in books:
            await each.play(120)
            await each.write()
        await migrate_schema(own)
        yield Desk(own, books, folder)
