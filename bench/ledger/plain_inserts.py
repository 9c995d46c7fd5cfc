"""The floor for one caller: the rows that a reserve and a settlement leave behind, as plain inserts, in one commit or two."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
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
class _Rows:
    """Rows of a table that one transition leaves behind, with the statement that inserts one of them."""

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
    """Inserts what a settled hold left behind, again and again, into tables of the same form and indexes but without foreign keys.

    Args:
        connection: Whose the inserts are.
        reserved: What a reserve leaves.
        settled: What a settlement leaves.
    """

    def __init__(self, connection: asyncpg.Connection, reserved: Sequence[_Rows], settled: Sequence[_Rows]) -> None:
        self._connection = connection
        self._reserved = reserved
        self._settled = settled

    @classmethod
    async def of(cls, server: Server, tenant_id: UUID) -> PlainInserts:
        """Takes the newest committed hold of a tenant as the pattern."""
        connection = await asyncpg.connect(server.superuser_url)
        hold_id = await connection.fetchval(
            "SELECT hold_id FROM holds WHERE tenant_id = $1 AND state = 'committed' ORDER BY hold_id DESC LIMIT 1",
            tenant_id,
        )
        await connection.execute("CREATE SCHEMA bench_plain")
        transitions: tuple[list[_Rows], list[_Rows]] = ([], [])
        for name, belongs in TABLES.items():
            found = await connection.fetch(
                f"SELECT * FROM {name} WHERE tenant_id = $2 AND {belongs}",  # noqa: S608 (constants from above)
                hold_id,
                tenant_id,
            )
            await connection.execute(f"CREATE TABLE bench_plain.{name} (LIKE public.{name} INCLUDING ALL)")
            columns = [key for key in found[0].keys() if key != "entry_id"]  # noqa: SIM118 (a Record iterates over its values)
            places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
            statement = f"INSERT INTO bench_plain.{name} ({', '.join(columns)}) VALUES ({places})"  # noqa: S608 (names from the catalogue)
            for settled, into in enumerate(transitions):
                rows = [tuple(row[column] for column in columns) for row in found if _is_settlement(row) == settled]
                if rows:
                    into.append(_Rows(statement, columns, rows))
        return cls(connection, *transitions)

    async def round_ms(self, times: int, *, commits: Literal[1, 2] = 1) -> list[float]:
        """Inserts so many times, in one transaction or in one for each transition, and returns what each took."""
        taken = []
        for _ in range(times):
            ids: dict[object, UUID] = {}
            began = time.perf_counter()
            if commits == 1:
                await self._insert([*self._reserved, *self._settled], ids)
            else:
                await self._insert(self._reserved, ids)
                await self._insert(self._settled, ids)
            taken.append((time.perf_counter() - began) * 1000)
        return taken

    async def _insert(self, rows: Sequence[_Rows], ids: dict[object, UUID]) -> None:
        async with self._connection.transaction():
            for each in rows:
                await self._connection.executemany(each.statement, each.fresh(ids))

    async def close(self) -> None:
        """Ends the connection."""
        await self._connection.close()


def _is_settlement(row: asyncpg.Record) -> bool:
    """Says whether a settlement has left a row: its entry in the journal, its event in the timeline."""
    return bool(row.get("kind") == "commit" or row.get("type") == "hold.settled")
