"""Writing and reading transcript entries. An entry never changes, and writing the same one twice changes nothing (LAW 9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.errors import HoldfastError
from holdfast_verdict.canonical import JsonValue, chain

_WRITE = text("""
    WITH place AS (
        SELECT 1 AS depth WHERE CAST(:parent_id AS bytea) IS NULL
        UNION ALL
        SELECT depth + 1 FROM transcript_entries
        WHERE tenant_id = :tenant_id AND run_id = :run_id AND entry_id = CAST(:parent_id AS bytea)
    ), written AS (
        INSERT INTO transcript_entries (tenant_id, run_id, entry_id, parent_id, depth, content)
        SELECT :tenant_id, :run_id, :entry_id, CAST(:parent_id AS bytea), place.depth, :content FROM place
        ON CONFLICT DO NOTHING
    )
    SELECT count(*) FROM place
""")

_READ = text("""
    WITH RECURSIVE walk AS (
        SELECT entry_id, parent_id, depth, content FROM transcript_entries
        WHERE tenant_id = :tenant_id AND run_id = :run_id AND entry_id = :head
        UNION ALL
        SELECT e.entry_id, e.parent_id, e.depth, e.content FROM walk JOIN transcript_entries e
          ON e.tenant_id = :tenant_id AND e.run_id = :run_id AND e.entry_id = walk.parent_id
    )
    SELECT content FROM walk ORDER BY depth
""")

_READ_ONE = text(
    "SELECT content FROM transcript_entries WHERE tenant_id = :tenant_id AND run_id = :run_id AND entry_id = :entry_id"
)
_SIZE_OF_RUNS = text("""
    SELECT count(*), coalesce(sum(octet_length(content)), 0) FROM transcript_entries
    WHERE tenant_id = :tenant_id AND run_id = ANY (CAST(:runs AS uuid[]))
""")
_READ_RUNS = text("""
    SELECT run_id, entry_id, parent_id, content FROM transcript_entries
    WHERE tenant_id = :tenant_id AND run_id = ANY (CAST(:runs AS uuid[])) ORDER BY run_id, depth, created_at, entry_id
""")
RUNS_ENTRIES_MAX: Final = 20_000
"""Entries of other runs that are read at once."""
RUNS_BYTES_MAX: Final = 32 * 2**20
"""Bytes of them."""


class Entry(NamedTuple):
    """An entry of a run's transcript.

    Attributes:
        run_id: The run.
        is_first: Whether none comes before it.
        content: Its canonical content.
    """

    run_id: UUID
    is_first: bool
    content: bytes


class TranscriptBroken(HoldfastError):
    """Entries do not hash to the head they were fetched for (LAW 7)."""

    code = "transcript.broken"


async def write(
    connection: AsyncConnection, tenant_id: UUID, run_id: UUID, parent_id: bytes | None, content: bytes
) -> bytes:
    """Appends an entry after `parent_id` in the caller's transaction and returns its id.

    Raises:
        TranscriptBroken: The run has no entry `parent_id`.
    """
    entry_id = chain(parent_id or b"", content)
    places = await connection.scalar(
        _WRITE,
        {
            "tenant_id": tenant_id,
            "run_id": run_id,
            "entry_id": entry_id,
            "parent_id": parent_id,
            "content": content,
        },
    )
    if not places:
        raise TranscriptBroken(f"the run has no transcript entry {(parent_id or b'').hex()} to go on from")
    return entry_id


async def read(connection: AsyncConnection, tenant_id: UUID, run_id: UUID, head: bytes) -> list[bytes]:
    """Returns the canonical contents from the first entry to `head`.

    Raises:
        TranscriptBroken: There is no such head, or the entries do not hash to it.
    """
    rows = await connection.execute(_READ, {"tenant_id": tenant_id, "run_id": run_id, "head": head})
    contents: list[bytes] = list(rows.scalars())
    verify(contents, head)
    return contents


async def read_runs(connection: AsyncConnection, tenant_id: UUID, runs: Sequence[UUID]) -> list[Entry] | None:
    """Returns all entries of some runs, of each in their order; `None` if they are too many, or too long.

    Raises:
        TranscriptBroken: An entry does not hash to its id.
    """
    parameters = {"tenant_id": tenant_id, "runs": list(runs)}
    count, size = (await connection.execute(_SIZE_OF_RUNS, parameters)).one()
    if count > RUNS_ENTRIES_MAX or size > RUNS_BYTES_MAX:
        return None
    entries = []
    for row in await connection.execute(_READ_RUNS, parameters):
        if chain(row.parent_id or b"", row.content) != row.entry_id:
            raise TranscriptBroken(f"an entry of run {row.run_id} does not hash to {row.entry_id.hex()}")
        entries.append(Entry(row.run_id, row.parent_id is None, row.content))
    return entries


async def read_one(connection: AsyncConnection, tenant_id: UUID, run_id: UUID, entry_id: bytes) -> dict[str, JsonValue]:
    """Returns one entry's content.

    Raises:
        TranscriptBroken: There is no such entry.
    """
    content = await connection.scalar(_READ_ONE, {"tenant_id": tenant_id, "run_id": run_id, "entry_id": entry_id})
    if content is None:
        raise TranscriptBroken(f"the run has no transcript entry {entry_id.hex()}")
    value: dict[str, JsonValue] = orjson.loads(content)
    return value


def verify(contents: Sequence[bytes], head: bytes) -> None:
    """Checks that entries, in order, hash to `head`.

    Raises:
        TranscriptBroken: They do not.
    """
    entry_id = b""
    for content in contents:
        entry_id = chain(entry_id, content)
    if not contents or entry_id != head:
        raise TranscriptBroken(f"the transcript does not hash to {head.hex()}")
