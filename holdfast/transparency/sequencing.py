"""Numbering records: what has no number yet goes to the end of its tenant's tree, and the tree's new size and root are signed.

One transaction does all of it: numbers, tiles, size and checkpoint are there together or not at all, wherever it is killed. It asks
for records without a number, and never for those after the last: a transaction that began earlier and commits later is only late.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.decisions.facets import Facets, facets_of
from holdfast.decisions.record import record_event
from holdfast.errors import HoldfastError
from holdfast.failpoint import failpoint
from holdfast.transparency.keys import LogKeys, LogSigner
from holdfast_verdict.log import note, tiles, tree
from holdfast_verdict.log.checkpoint import Checkpoint
from holdfast_verdict.log.invalid import LogInvalid
from holdfast_verdict.log.note import Note, Signature, VerifierKey

log = structlog.get_logger("sequencer")

BATCH_MAX: Final = 1_000
"""Records in one transaction; more than these are followed by another."""
SMALL_BYTES: Final = 16_384
"""Both parts of a record together, up to which they are read whole: a batch is in memory."""
ENTRY_BYTES: Final = 64
FROZEN_MS: Final = 30_000
"""So long a process may stand still in the middle before another one goes on."""
_RESTORE: Final = "compare with a witness's or an auditor's checkpoint, and restore the database from a backup"

# A process that freezes in the middle is thrown out by PostgreSQL, so that another one goes on.
_BOUND = text("SELECT set_config('idle_in_transaction_session_timeout', :frozen_ms, true)")
_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended('holdfast.log ' || CAST(:tenant_id AS text), 0))")
_MAKE = text("INSERT INTO logs (tenant_id, origin) VALUES (:tenant_id, :origin) ON CONFLICT DO NOTHING")
_LOCK = text("SELECT origin, size FROM logs WHERE tenant_id = :tenant_id FOR UPDATE")
_LAST = text("SELECT size, root FROM log_checkpoints WHERE tenant_id = :tenant_id ORDER BY size DESC LIMIT 1")
# Parts that are small are hashed here, which costs half of what it costs there; of larger ones only the digests come.
_WAITING = text("""
    SELECT d.decision_id, d.record_hash, CASE WHEN s.small THEN d.part_a END AS part_a, CASE WHEN s.small THEN d.part_b END AS part_b,
        CASE WHEN NOT s.small THEN sha256(d.part_a) || sha256(d.part_b) END AS entry,
        d.kind, r.agent_name AS agent, r.role_name AS role, d.reply ->> 'rule_id' AS rule, d.reason_codes[1] AS code
    FROM decisions d LEFT JOIN runs r ON r.tenant_id = d.tenant_id AND r.run_id = d.run_id,
        LATERAL (SELECT length(d.part_a) + length(d.part_b) <= :small AS small) s
    WHERE d.tenant_id = :tenant_id AND d.leaf_index IS NULL AND d.decision_id <> ALL (CAST(:broken AS uuid[]))
    ORDER BY d.decision_id LIMIT :count
""")
_TILES = text("""
    SELECT t.level, t.index AS place, t.data FROM unnest(CAST(:levels AS smallint[]), CAST(:indexes AS bigint[])) AS w (level, index)
    JOIN log_tiles t ON t.tenant_id = :tenant_id AND t.level = w.level AND t.index = w.index
""")
_WRITE_TILES = text("""
    INSERT INTO log_tiles (tenant_id, level, index, data)
    SELECT :tenant_id, w.level, w.index, w.data
    FROM unnest(CAST(:levels AS smallint[]), CAST(:indexes AS bigint[]), CAST(:data AS bytea[])) AS w (level, index, data)
    ON CONFLICT (tenant_id, level, index) DO UPDATE SET data = excluded.data
""")
# Many records of a batch are found by the same: each such set comes once, and a record says which it has.
_NUMBER = text("""
    UPDATE decisions d SET leaf_index = CAST(:size AS bigint) + w.place - 1,
        facet_agent = f.agent, facet_role = f.role, facet_tool = f.tool, facet_rule = f.rule, facet_code = f.code
    FROM unnest(CAST(:decision_ids AS uuid[]), CAST(:which AS integer[])) WITH ORDINALITY AS w (decision_id, which, place)
    JOIN unnest(CAST(:agent AS text[]), CAST(:role AS text[]), CAST(:tool AS text[]), CAST(:rule AS text[]), CAST(:code AS text[]))
        WITH ORDINALITY AS f (agent, role, tool, rule, code, number) ON f.number = w.which
    WHERE d.tenant_id = :tenant_id AND d.decision_id = w.decision_id AND d.leaf_index IS NULL
""")
_GROW = text("UPDATE logs SET size = :size WHERE tenant_id = :tenant_id")
_CHECKPOINT = text("INSERT INTO log_checkpoints (tenant_id, size, root, note) VALUES (:tenant_id, :size, :root, :note)")
_KEYS = text("SELECT public_key, retired_size FROM log_keys WHERE tenant_id = :tenant_id")
_ADD_KEY = text("INSERT INTO log_keys (tenant_id, public_key, first_size) VALUES (:tenant_id, :public_key, :size)")
_RETIRE_KEY = text("""
    UPDATE log_keys SET retired_size = :size, retired_at = clock_timestamp()
    WHERE tenant_id = :tenant_id AND public_key = :public_key AND retired_size IS NULL
""")

TileKey = tuple[int, int]


class LogBroken(HoldfastError):
    """What is stored of a log contradicts itself; nothing is signed until somebody has looked at it."""

    code = "log.broken"


class LogKeyUnknown(HoldfastError):
    """None of the keys that would sign is one that the log is known by."""

    code = "log.key_unknown"


@dataclass(frozen=True, slots=True)
class Appended:
    """What one transaction did.

    Attributes:
        size: The log's size now.
        count: How many records it appended.
        more: Whether there may be more to append at once.
        broken: Records whose hash is not that of their parts; they are left out.
    """

    size: int
    count: int
    more: bool
    broken: tuple[UUID, ...] = ()


async def append(
    connection: AsyncConnection,
    tenant_id: UUID,
    *,
    keys: LogKeys,
    name: str,
    count: int = BATCH_MAX,
    frozen_ms: int = FROZEN_MS,
) -> Appended | None:
    """Appends records that have no number yet, and signs a checkpoint over all, in the caller's transaction.

    Args:
        connection: A transaction of the tenant as the sweeper.
        tenant_id: The tenant.
        keys: What signs.
        name: What the origin of a log that is new begins with.
        count: How many records at most.
        frozen_ms: After standing still for so long in the middle, PostgreSQL throws this process out.

    Returns:
        What was done; `None` if another process is at this log.

    Raises:
        LogBroken: The stored tree is not the one that was last signed.
        LogKeyUnknown: The log is known by other keys.
    """
    own: dict[str, object] = {"tenant_id": tenant_id}
    await connection.execute(_BOUND, {"frozen_ms": str(frozen_ms)})
    if not await connection.scalar(_TRY_LOCK, {"tenant_id": str(tenant_id)}):
        return None
    found = (await connection.execute(_LOCK, own)).one_or_none()
    if found is None:
        await connection.execute(_MAKE, {**own, "origin": f"{name}/{tenant_id}"})
        found = (await connection.execute(_LOCK, own)).one()
    await failpoint("log.locked")
    rows, broken = await _waiting(connection, tenant_id, count)
    if not rows:
        return Appended(found.size, 0, more=False, broken=broken)
    size = found.size + len(rows)
    edge = await _edge(connection, tenant_id, found.size)
    with _as_broken(tenant_id):
        grown = _grown(edge, found.size, rows)
    await _write_tiles(connection, tenant_id, grown)
    await failpoint("log.tiles")
    numbered = await connection.execute(_NUMBER, {**own, "size": found.size, **_numbering(rows)})
    if numbered.rowcount != len(rows):
        raise LogBroken(f"{len(rows)} records had no number, and {numbered.rowcount} were given one")
    await failpoint("log.numbered")
    await connection.execute(_GROW, {**own, "size": size})
    root = tiles.root(await read_tiles(connection, tenant_id, [(t.level, t.index) for t in tiles.edge(size)]), size)
    checkpoint = Checkpoint(found.origin, size, root)
    signers = await _signers(connection, tenant_id, keys, found.size, size)
    signed = await _signed(checkpoint, signers)
    await connection.execute(_CHECKPOINT, {**own, "size": size, "root": root, "note": signed.message})
    await failpoint("log.signed")
    return Appended(size, len(rows), more=len(rows) == count, broken=broken)


class _Waiting(NamedTuple):
    decision_id: UUID
    record_hash: bytes
    entry: bytes
    facets: Facets


def _waiting_of(row: Row[Any]) -> _Waiting:  # rows of text() carry no types
    decision_id, record_hash, part_a, part_b, entry, *found_by = tuple(row)
    if entry is None:
        # somebody past the triggers took a part away: what is left is no record's entry, and is found to be none
        gone = part_a is None or part_b is None
        entry = b"" if gone else sha256(part_a).digest() + sha256(part_b).digest()
    return _Waiting(decision_id, record_hash, entry, facets_of(part_a, *found_by))


def _numbering(rows: Sequence[_Waiting]) -> dict[str, object]:
    """Returns who gets a number, in their order, and what each is found by."""
    numbers: dict[Facets, int] = {}
    which = [numbers.setdefault(row.facets, len(numbers) + 1) for row in rows]
    columns = zip(Facets._fields, zip(*numbers, strict=True), strict=True)
    return {"decision_ids": [row.decision_id for row in rows], "which": which, **dict(columns)}


@contextmanager
def _as_broken(tenant_id: UUID) -> Iterator[None]:
    try:
        yield
    except LogInvalid as error:
        raise LogBroken(f"the stored log of tenant {tenant_id} is damaged: {error}", remedy=_RESTORE) from None


async def read_tiles(connection: AsyncConnection, tenant_id: UUID, wanted: Sequence[TileKey]) -> dict[TileKey, bytes]:
    """Returns the bytes of tiles, by level and index, as far as they are filled.

    Raises:
        LogBroken: One is missing.
    """
    found: dict[TileKey, bytes] = {}
    if wanted:
        levels, indexes = zip(*wanted, strict=True)
        parameters = {"tenant_id": tenant_id, "levels": list(levels), "indexes": list(indexes)}
        rows = await connection.execute(_TILES, parameters)
        found = {(row.level, row.place): row.data for row in rows}
    if missing := {*wanted} - {*found}:
        raise LogBroken(f"the log of tenant {tenant_id} has lost tiles: {sorted(missing)}")
    return found


async def _waiting(connection: AsyncConnection, tenant_id: UUID, count: int) -> tuple[list[_Waiting], tuple[UUID, ...]]:
    """Returns records without a number, and the ids of those that nobody may have meant."""
    broken: list[UUID] = []
    while True:
        parameters = {"tenant_id": tenant_id, "count": count, "broken": broken, "small": SMALL_BYTES}
        rows = [_waiting_of(row) for row in await connection.execute(_WAITING, parameters)]
        # the permit carries the record's hash as a promise of inclusion: it has to be the one of these two parts
        wrong = [row.decision_id for row in rows if tree.leaf_hash(row.entry) != row.record_hash]
        if not wrong:
            return rows, tuple(broken)
        broken += wrong


async def _edge(connection: AsyncConnection, tenant_id: UUID, size: int) -> dict[TileKey, bytes]:
    """Returns what an append begins from, after a look whether it is still what was signed.

    Raises:
        LogBroken: It is not.
    """
    if not size:
        return {}
    wanted = [(tile.level, tile.index) for tile in tiles.edge(size)]
    if size % tiles.WIDTH:
        wanted.append((tiles.ENTRIES, size // tiles.WIDTH))
    edge = await read_tiles(connection, tenant_id, wanted)
    with _as_broken(tenant_id):
        stored_root = tiles.root(edge, size)
    last = (await connection.execute(_LAST, {"tenant_id": tenant_id})).one_or_none()
    if last is None or last.size != size or stored_root != last.root:
        raise LogBroken(
            f"the tree of tenant {tenant_id} is not the one of its last checkpoint",
            remedy=_RESTORE,
        )
    return edge


def _grown(edge: dict[TileKey, bytes], size: int, rows: Sequence[_Waiting]) -> dict[TileKey, bytes]:
    """Returns all tiles and bundles that are new or have grown."""
    grown = tiles.append(edge, size, [row.record_hash for row in rows])
    index, filled = divmod(size, tiles.WIDTH)
    bundle = edge.get((tiles.ENTRIES, index), b"") + b"".join(row.entry for row in rows)
    if len(bundle) != (filled + len(rows)) * ENTRY_BYTES:
        raise LogBroken(f"bundle {index} of entries does not have its {filled} entries")
    step = tiles.WIDTH * ENTRY_BYTES
    for place, start in enumerate(range(0, len(bundle), step)):
        grown[tiles.ENTRIES, index + place] = bundle[start : start + step]
    return grown


async def _write_tiles(connection: AsyncConnection, tenant_id: UUID, grown: dict[TileKey, bytes]) -> None:
    levels, indexes = zip(*grown, strict=True)
    parameters = {"levels": list(levels), "indexes": list(indexes), "data": list(grown.values())}
    await connection.execute(_WRITE_TILES, {"tenant_id": tenant_id, **parameters})


async def _signers(
    connection: AsyncConnection, tenant_id: UUID, keys: LogKeys, old_size: int, size: int
) -> list[LogSigner]:
    """Returns what signs, after the log's keys were brought up to date: new ones are published, retired ones stay so.

    Raises:
        LogKeyUnknown: Nobody who follows the log could verify what they would sign.
    """
    own = {"tenant_id": tenant_id}
    known = {row.public_key: row.retired_size is not None for row in await connection.execute(_KEYS, own)}
    signers = [signer for signer in keys.signers if not known.get(signer.public_key, False)]
    active = {key for key, retired in known.items() if not retired}
    # whoever follows the log knows one of the active keys: one of them signs, or is said by the keys' owner to sign no more
    if not signers or (
        active and not active & {signer.public_key for signer in signers} and not active <= keys.retired
    ):
        raise LogKeyUnknown(
            f"the log of tenant {tenant_id} is signed by {', '.join(sorted(key.hex() for key in active)) or 'no key'}, "
            f"and the keys here are {', '.join(signer.public_key.hex() for signer in keys.signers)}",
            remedy="put the log's key back; if it is lost or known to others: holdfast log rotate-key --retire PUBLIC_KEY",
        )
    for signer in signers:
        if signer.public_key not in known:
            await connection.execute(_ADD_KEY, {**own, "public_key": signer.public_key, "size": size})
            if known:
                await _record(connection, tenant_id, "log.key_added", signer.public_key, size)
    for key in active & keys.retired:
        await connection.execute(_RETIRE_KEY, {**own, "public_key": key, "size": old_size})
        await _record(connection, tenant_id, "log.key_retired", key, old_size)
    return signers


async def _record(connection: AsyncConnection, tenant_id: UUID, code: str, public_key: bytes, size: int) -> None:
    said = "signs the log's checkpoints from" if code == "log.key_added" else "signs no checkpoint of the log after"
    await record_event(
        connection,
        tenant_id,
        kind="config",
        verdict="allow",
        code=code,
        message=f"the key {public_key.hex()} {said} {size} records",
        facts={"public_key": public_key.hex(), "size": size},
    )
    log.warning(code, tenant_id=str(tenant_id), public_key=public_key.hex(), size=size)


async def _signed(checkpoint: Checkpoint, signers: Sequence[LogSigner]) -> Note:
    signatures = []
    for signer in signers:
        key = VerifierKey(checkpoint.origin, note.ED25519, signer.public_key)
        signatures.append(Signature(key.name, key.key_id, await signer.sign(checkpoint.text.encode())))
    return Note(checkpoint.text, tuple(signatures))
