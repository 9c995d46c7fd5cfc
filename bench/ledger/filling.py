"""Old holds by COPY: what one settled hold left behind in every table, again and again under other ids."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg
import uuid_utils

from bench.ledger.place import Customer, Server, make_runs
from bench.ledger.plain_inserts import TABLES

STEPS_A_RUN: Final = 100
_AT_A_TIME: Final = 20_000


@dataclass(frozen=True, slots=True)
class _Form:
    """A table's columns, and its rows as COPY's text with places for what differs."""

    table: str
    columns: Sequence[str]
    rows: bytes


async def fill(server: Server, customer: Customer, count: int) -> None:
    """Copies the customer's newest settled hold so many times, with everything that belongs to it, and books what they cost.

    Foreign keys are not looked at meanwhile; the auditor looks at all of it afterwards.
    """
    runs = await make_runs(server, [customer], -(-count // STEPS_A_RUN))
    connection = await asyncpg.connect(server.superuser_url)
    try:
        await connection.execute("SET session_replication_role = replica")
        hold = await connection.fetchrow(
            "SELECT hold_id, decision_id, run_id, step, cost_nano_usd FROM holds WHERE tenant_id = $1 AND state = 'committed' "
            "ORDER BY hold_id DESC LIMIT 1",
            customer.tenant_id,
        )
        forms = [await _form(connection, name, where, customer, hold) for name, where in TABLES.items()]
        for first in range(0, count, _AT_A_TIME):
            numbers = range(first, min(first + _AT_A_TIME, count))
            ids = [_ids(runs, number) for number in numbers]
            for form in forms:
                await connection.copy_to_table(
                    form.table, source=_text(form, ids), columns=list(form.columns), timeout=600
                )
        await connection.execute(
            "UPDATE caps SET committed = committed + $2 * CASE unit WHEN 'nano_usd' THEN $3::bigint ELSE 1 END WHERE tenant_id = $1",
            customer.tenant_id,
            count,
            hold["cost_nano_usd"],
        )
    finally:
        await connection.close()


def _ids(runs: Sequence[tuple[UUID, UUID]], number: int) -> Mapping[bytes, bytes | int]:
    run, step = divmod(number, STEPS_A_RUN)
    return {
        b"hold": str(uuid_utils.uuid7()).encode(),
        b"decision": str(uuid_utils.uuid7()).encode(),
        b"run": str(runs[run][1]).encode(),
        b"event1": str(uuid_utils.uuid7()).encode(),
        b"event2": str(uuid_utils.uuid7()).encode(),
        b"step": step + 1,
        b"seq1": 2 * step + 1,
        b"seq2": 2 * step + 2,
    }


async def _text(form: _Form, ids: Sequence[Mapping[bytes, bytes | int]]) -> AsyncIterator[bytes]:
    for first in range(0, len(ids), 200):
        yield b"".join(form.rows % one for one in ids[first : first + 200])


async def _form(
    connection: asyncpg.Connection, table: str, where: str, customer: Customer, hold: asyncpg.Record
) -> _Form:
    """Takes a table's rows of the hold and puts places where its ids and numbers stand."""
    listed = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped "
        "AND attidentity = '' ORDER BY attnum",
        table,
    )
    columns = [row[0] for row in listed]
    chunks: list[bytes] = []

    async def take(data: bytes) -> None:
        chunks.append(data)

    await connection.copy_from_query(
        f"SELECT {', '.join(columns)} FROM {table} WHERE tenant_id = $2 AND {where} ORDER BY ctid",  # noqa: S608 (names from the catalogue)
        hold["hold_id"],
        customer.tenant_id,
        output=take,
    )
    text = b"".join(chunks).replace(b"%", b"%%")
    for name, place in (("hold_id", b"%(hold)s"), ("decision_id", b"%(decision)s"), ("run_id", b"%(run)s")):
        text = text.replace(str(hold[name]).encode(), place)
    rows = [line.split(b"\t") for line in text.splitlines()]
    for number, row in enumerate(rows, start=1):
        for index, column in enumerate(columns):
            if column in {"event_id", "seq"}:
                row[index] = b"%%(%s%d)%s" % (
                    b"event" if column == "event_id" else b"seq",
                    number,
                    b"s" if column == "event_id" else b"d",
                )
            elif column == "step" and row[index] != b"\\N":
                row[index] = b"%(step)d"
    return _Form(table, columns, b"".join(b"\t".join(row) + b"\n" for row in rows))
