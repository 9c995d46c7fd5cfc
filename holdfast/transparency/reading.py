"""Reading a log: checkpoints with what witnesses say of them, proofs, tiles and keys; a tenant sees its own alone (LAW 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.errors import NotFound, RequestInvalid
from holdfast.transparency.sequencing import ENTRY_BYTES, LogBroken, read_tiles
from holdfast_verdict.log import tiles, tree
from holdfast_verdict.log.invalid import LogInvalid
from holdfast_verdict.log.note import COSIGNATURE, ED25519, Note, Signature, VerifierKey
from holdfast_verdict.log.tiles import ENTRIES, WIDTH, Tile
from holdfast_verdict.log.tree import HASH_BYTES, Range

_CHECKPOINT = text("""
    SELECT size, root, note, created_at FROM log_checkpoints
    WHERE tenant_id = :tenant_id AND size = coalesce(CAST(:size AS bigint),
        (SELECT max(c.size) FROM log_checkpoints c WHERE c.tenant_id = :tenant_id))
""")
_LIST = text("""
    SELECT size, root, note, created_at FROM log_checkpoints
    WHERE tenant_id = :tenant_id AND (CAST(:before AS bigint) IS NULL OR size < :before) ORDER BY size DESC LIMIT :count
""")
_COSIGNATURES = text("""
    SELECT line FROM log_cosignatures WHERE tenant_id = :tenant_id AND size = :size ORDER BY vkey
""")
_LEAF = text(
    "SELECT leaf_index, record_hash FROM decisions WHERE tenant_id = :tenant_id AND decision_id = :decision_id"
)
_KEYS = text("""
    SELECT k.public_key, k.first_size, k.added_at, k.retired_size, k.retired_at, l.origin FROM log_keys k
    JOIN logs l ON l.tenant_id = k.tenant_id WHERE k.tenant_id = :tenant_id ORDER BY k.first_size DESC, k.public_key
""")
_STATUS: Final = text("""
    SELECT coalesce(l.size, 0) AS size, c.size AS checkpoint_size, c.created_at AS checkpoint_at, w.waiting, w.oldest_at,
        CASE WHEN w.waiting > 0
            THEN greatest(CAST(extract(epoch FROM clock_timestamp() - w.oldest_at) * 1000 AS bigint), 0) END AS lag_ms
    FROM (SELECT count(*) AS waiting, min(d.created_at) AS oldest_at FROM decisions d
          WHERE d.tenant_id = :tenant_id AND d.leaf_index IS NULL) w
    LEFT JOIN logs l ON l.tenant_id = :tenant_id
    LEFT JOIN LATERAL (SELECT k.size, k.created_at FROM log_checkpoints k WHERE k.tenant_id = :tenant_id
                       ORDER BY k.size DESC LIMIT 1) c ON true
""")
_SOON: Final = "the next checkpoint is signed within a second or two of the first decision"


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint.

    Attributes:
        size: How many records it is over.
        root: The tree's root.
        note: The signed note, with cosignatures if they were asked for.
        created_at: When it was signed, by PostgreSQL's clock.
    """

    size: int
    root: bytes
    note: Note
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A proof that a decision's record is in the log."""

    decision_id: UUID
    leaf_index: int
    record_hash: bytes
    proof: list[bytes]
    checkpoint: StoredCheckpoint


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """A key that signs or has signed the log, and what else may have signed it.

    Attributes:
        vkey: The key as C2SP's signed notes write it.
        first_size: Size of the first checkpoint that it has signed.
        retired_size: No larger checkpoint is signed by it; None while it signs.
    """

    vkey: VerifierKey
    first_size: int
    added_at: datetime
    retired_size: int | None
    retired_at: datetime | None


@dataclass(frozen=True, slots=True)
class LogStatus:
    """How a log stands.

    Attributes:
        size: How many records have a number.
        checkpoint_size: Over how many the newest checkpoint is; None if there is none.
        checkpoint_at: When it was signed.
        waiting: How many records have no number yet.
        oldest_at: When the oldest of them was written.
        lag_ms: How long ago that is, by PostgreSQL's clock; None if none waits.
    """

    size: int
    checkpoint_size: int | None
    checkpoint_at: datetime | None
    waiting: int
    oldest_at: datetime | None
    lag_ms: int | None


async def status(connection: AsyncConnection, tenant_id: UUID) -> LogStatus:
    """Returns how a tenant's log stands, also before its first record."""
    row = (await connection.execute(_STATUS, {"tenant_id": tenant_id})).one()
    return LogStatus(*row)


async def checkpoint(connection: AsyncConnection, tenant_id: UUID, size: int | None = None) -> StoredCheckpoint:
    """Returns the newest checkpoint, or the one of a size, with its cosignatures.

    Raises:
        NotFound: There is none.
    """
    row = (await connection.execute(_CHECKPOINT, {"tenant_id": tenant_id, "size": size})).one_or_none()
    if row is None:
        which = "no checkpoint yet" if size is None else f"no checkpoint of {size} records"
        raise NotFound(f"the log has {which}", remedy=_SOON if size is None else "list those that there are")
    lines = (await connection.execute(_COSIGNATURES, {"tenant_id": tenant_id, "size": row.size})).scalars()
    note = Note.parse(row.note).with_signatures(Signature.parse(line) for line in lines)
    return StoredCheckpoint(row.size, row.root, note, row.created_at)


async def checkpoints(
    connection: AsyncConnection, tenant_id: UUID, *, before: int | None, count: int
) -> list[StoredCheckpoint]:
    """Returns checkpoints, the largest first, without cosignatures."""
    rows = await connection.execute(_LIST, {"tenant_id": tenant_id, "before": before, "count": count})
    return [StoredCheckpoint(row.size, row.root, Note.parse(row.note), row.created_at) for row in rows]


async def inclusion(
    connection: AsyncConnection, tenant_id: UUID, decision_id: UUID, size: int | None = None
) -> Inclusion:
    """Proves that a decision's record is in the log, as of the newest checkpoint or the one of a size.

    Raises:
        NotFound: There is no such decision, or no such checkpoint, or it was not in the log yet.
    """
    row = (await connection.execute(_LEAF, {"tenant_id": tenant_id, "decision_id": decision_id})).one_or_none()
    if row is None:
        raise NotFound(f"there is no decision {decision_id}")
    if row.leaf_index is None:
        raise NotFound(f"decision {decision_id} is not in the log yet", remedy="it is within two seconds: ask again")
    found = await checkpoint(connection, tenant_id, size)
    if row.leaf_index >= found.size:
        raise NotFound(
            f"decision {decision_id} has the number {row.leaf_index}, and that checkpoint {found.size} records"
        )
    proof = await _prove(connection, tenant_id, tree.inclusion_ranges(row.leaf_index, found.size))
    return Inclusion(decision_id, row.leaf_index, row.record_hash, proof, found)


async def consistency(
    connection: AsyncConnection, tenant_id: UUID, old_size: int, size: int | None = None
) -> tuple[list[bytes], StoredCheckpoint]:
    """Proves that the log of an older size is the beginning of the log of the newest checkpoint, or of the one of a size.

    Raises:
        NotFound: There is no such checkpoint.
        RequestInvalid: The older size is the larger one.
    """
    found = await checkpoint(connection, tenant_id, size)
    if not 0 <= old_size <= found.size:
        raise RequestInvalid(f"the log has {found.size} records there, and never had {old_size} before")
    return await _prove(connection, tenant_id, tree.consistency_ranges(old_size, found.size)), found


async def tile(connection: AsyncConnection, tenant_id: UUID, path: str) -> bytes:
    """Returns a tile or a bundle of entries by its path.

    Raises:
        NotFound: There is no such tile, or it is not that wide yet.
    """
    try:
        wanted = Tile.parse(path)
    except LogInvalid as error:
        raise NotFound(str(error)) from None
    newest = await checkpoint(connection, tenant_id)
    if tiles.width_at(wanted.level, wanted.index, newest.size) < wanted.width:
        raise NotFound(f"the log of {newest.size} records has no {path}")
    [data] = (await read_tiles(connection, tenant_id, [(wanted.level, wanted.index)])).values()
    unit = ENTRY_BYTES if wanted.level == ENTRIES else HASH_BYTES
    data = data[: wanted.width * unit]
    if len(data) != wanted.width * unit or wanted.width > WIDTH:
        raise LogBroken(f"{path} is shorter than it should be")
    if wanted.level != ENTRIES:
        return data
    return tiles.entry_bundle([data[at : at + unit] for at in range(0, len(data), unit)])


async def keys(connection: AsyncConnection, tenant_id: UUID) -> list[PublishedKey]:
    """Returns all keys that sign or have signed the log, the newest first."""
    rows = await connection.execute(_KEYS, {"tenant_id": tenant_id})
    return [
        PublishedKey(
            VerifierKey(row.origin, ED25519, row.public_key),
            row.first_size,
            row.added_at,
            row.retired_size,
            row.retired_at,
        )
        for row in rows
    ]


async def _prove(connection: AsyncConnection, tenant_id: UUID, ranges: Sequence[Range]) -> list[bytes]:
    read = await read_tiles(connection, tenant_id, tiles.keys_of(ranges))
    try:
        return tiles.prove(ranges, read)
    except LogInvalid as error:
        raise LogBroken(f"the stored log is damaged: {error}") from None


def witness_key(vkey: str) -> VerifierKey:
    """Reads the key of a witness.

    Raises:
        RequestInvalid: It is malformed, or no key of a witness.
    """
    try:
        key = VerifierKey.parse(vkey)
    except LogInvalid as error:
        raise RequestInvalid(f"`vkey`: {error}") from None
    if key.algorithm != COSIGNATURE:
        raise RequestInvalid(
            "`vkey`: this is no key of a witness", remedy="its algorithm has to be 0x04, cosignature/v1"
        )
    return key
