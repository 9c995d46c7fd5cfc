"""Old holds by COPY: what one settled hold left behind in every table, again and again under other ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg
import uuid_utils

from bench.ledger.place import Customer, Server, make_runs
from bench.ledger.plain_inserts import TABLES

STEPS_A_RUN: Final = 100
_AT_A_TIME: Final = 20_000

# What settling them would have added up to, run by run; the last run has fewer.
_ROLL_UP: Final = """
    INSERT INTO rollups (tenant_id, day, run_id, kind, tool, model, project_id, user_id, agent, role, simulated, holds, calls,
                         tokens, cost_nano_usd)
    SELECT r.tenant_id, r.day, n.run_id, r.kind, r.tool, r.model, r.project_id, r.user_id, r.agent, r.role, r.simulated,
        n.holds, r.calls / r.holds * n.holds, r.tokens / r.holds * n.holds, r.cost_nano_usd / r.holds * n.holds
    FROM rollups r, (
        SELECT run_id, least($5, $4 - (ordinality - 1) * $5) AS holds FROM unnest($3::uuid[]) WITH ORDINALITY AS u (run_id)) n
    WHERE r.tenant_id = $1 AND r.run_id = $2
"""


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
    hold = await server.superuser.fetchrow(
        "SELECT hold_id, decision_id, run_id, step, cost_nano_usd FROM holds WHERE tenant_id = $1 AND state = 'committed' "
        "ORDER BY hold_id DESC LIMIT 1",
        customer.tenant_id,
    )
    async with AsyncExitStack() as stack:
        copies: list[tuple[asyncpg.Connection, _Form]] = []
        for name, where in TABLES.items():
            connection = await asyncpg.connect(server.superuser_url)
            stack.push_async_callback(connection.close)
            await connection.execute("SET session_replication_role = replica")
            copies.append((connection, await _form(connection, name, where, customer, hold)))
        for first in range(0, count, _AT_A_TIME):
            ids = [_ids(runs, number) for number in range(first, min(first + _AT_A_TIME, count))]
            await asyncio.gather(
                *(
                    connection.copy_to_table(form.table, source=_text(form, ids), columns=form.columns, timeout=600)
                    for connection, form in copies
                )
            )
    async with server.superuser.acquire() as connection, connection.transaction():
        await connection.execute(
            "UPDATE caps SET committed = committed + $2 * CASE unit WHEN 'nano_usd' THEN $3::bigint ELSE 1 END WHERE tenant_id = $1",
            customer.tenant_id,
            count,
            hold["cost_nano_usd"],
        )
        await connection.execute(
            _ROLL_UP, customer.tenant_id, hold["run_id"], [run for _, run in runs], count, STEPS_A_RUN
        )


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
        "AND attname <> 'entry_id' ORDER BY attnum",
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
