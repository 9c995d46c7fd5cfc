"""The floor for one caller: the rows that one reserve and one settlement leave behind, as plain inserts in one commit by asyncpg."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from bench.ledger.place import Server
from holdfast.ids import new_id

# What belongs to a hold, and what of it tells the rows of one hold from another's.
TABLES: Final = {
    "holds": "hold_id = $1",
    "journal": "hold_id = $1",
    "decisions": "hold_id = $1",
    "timeline_events": "data->>'hold_id' = CAST(CAST($1 AS uuid) AS text)",
}
_FRESH: Final = frozenset({"hold_id", "decision_id", "event_id", "run_id"})

Row = tuple[Any, ...]  # rows of asyncpg carry no types


@dataclass(frozen=True, slots=True)
class _Table:
    statement: str
    columns: Sequence[str]
    rows: Sequence[Row]

    def fresh(self, ids: dict[object, UUID]) -> list[Row]:
        """Returns the rows with other ids, the same one for the same old one."""
        return [
            tuple(
                ids.setdefault(value, new_id()) if name in _FRESH and value is not None else value
                for name, value in zip(self.columns, row, strict=True)
            )
            for row in self.rows
        ]


class PlainInserts:
    """Inserts what a settled hold left behind, again and again, into tables of the same form and indexes but without foreign keys."""

    def __init__(self, connection: asyncpg.Connection, tables: Sequence[_Table]) -> None:
        self._connection = connection
        self._tables = tables

    @classmethod
    async def of(cls, server: Server, tenant_id: UUID) -> PlainInserts:
        """Takes the newest committed hold of a tenant as the pattern."""
        connection = await asyncpg.connect(server.superuser_url)
        hold_id = await connection.fetchval(
            "SELECT hold_id FROM holds WHERE tenant_id = $1 AND state = 'committed' ORDER BY hold_id DESC LIMIT 1",
            tenant_id,
        )
        await connection.execute("CREATE SCHEMA bench_plain")
        tables = []
        for name, belongs in TABLES.items():
            rows = await connection.fetch(
                f"SELECT * FROM {name} WHERE tenant_id = $2 AND {belongs}",  # noqa: S608 (constants from above)
                hold_id,
                tenant_id,
            )
            await connection.execute(f"CREATE TABLE bench_plain.{name} (LIKE public.{name} INCLUDING ALL)")
            columns = [key for key in rows[0].keys() if key != "entry_id"]  # noqa: SIM118 (a Record iterates over its values)
            places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
            tables.append(
                _Table(
                    f"INSERT INTO bench_plain.{name} ({', '.join(columns)}) VALUES ({places})",  # noqa: S608 (names from the catalogue)
                    columns,
                    [tuple(row[column] for column in columns) for row in rows],
                )
            )
        return cls(connection, tables)

    async def round_ms(self, times: int) -> list[float]:
        """Inserts so many times, each in one transaction, and returns what each took."""
        taken = []
        for _ in range(times):
            ids: dict[object, UUID] = {}
            began = time.perf_counter()
            async with self._connection.transaction():
                for table in self._tables:
                    await self._connection.executemany(table.statement, table.fresh(ids))
            taken.append((time.perf_counter() - began) * 1000)
        return taken

    async def close(self) -> None:
        """Ends the connection."""
        await self._connection.close()
