"""Exporting a bundle: content, the record of the export that seals it, and the proofs once the log has that record.

The record of the export holds the digest of all lines before it. So what is no record itself, such as outcomes and the journal,
is under the signed tree as well, as it was when it was exported.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.audit.content import Wanted, read_content
from holdfast.database.engine import transaction
from holdfast.decisions.record import record_event, subject_of
from holdfast.errors import RequestInvalid, Unavailable
from holdfast.tenancy.principals import Principal
from holdfast.transparency.sequencing import read_tiles
from holdfast_verdict.log import tiles, tree
from holdfast_verdict.log.note import ED25519, VerifierKey
from holdfast_verdict.verify.lines import RECORDS
from holdfast_verdict.verify.seal import CODE, KIND
from holdfast_verdict.verify.writing import Consistency, Proof, Writer

SEQUENCED_WITHIN_S: Final = 30.0
_POLL_S: Final = 0.2
_PROVEN_AT_ONCE: Final = 500
_REMEDY: Final = "see that a governor runs and that its log key is right: `holdfast doctor`"

_LOG = text("""
    SELECT l.origin, (SELECT max(size) FROM log_checkpoints c WHERE c.tenant_id = l.tenant_id) AS size FROM logs l
    WHERE l.tenant_id = :tenant_id
""")
_COVERING = text("""
    SELECT c.size, c.note, EXISTS (SELECT 1 FROM decisions o WHERE o.tenant_id = d.tenant_id AND o.leaf_index IS NULL
        AND o.decision_id < d.decision_id) AS others_wait
    FROM decisions d JOIN log_checkpoints c ON c.tenant_id = d.tenant_id AND c.size > d.leaf_index
    WHERE d.tenant_id = :tenant_id AND d.decision_id = :decision_id ORDER BY c.size DESC LIMIT 1
""")
_KEYS = text(
    "SELECT public_key FROM log_keys WHERE tenant_id = :tenant_id AND first_size <= :size ORDER BY first_size DESC, public_key"
)
_RECORD = text("SELECT part_a, part_b FROM decisions WHERE tenant_id = :tenant_id AND decision_id = :decision_id")
_LEAVES: Final = """
    SELECT decision_id, leaf_index, record_hash FROM decisions
    WHERE tenant_id = $1 AND decision_id = ANY($2::uuid[]) AND leaf_index < $3 ORDER BY leaf_index
"""


class LogBehind(Unavailable):
    """The log has not numbered and signed what was recorded."""

    code = "audit.log_behind"


@dataclass(frozen=True, slots=True)
class _Covered:
    """A checkpoint that covers the export's record."""

    size: int
    note: str


async def log_of(engine: AsyncEngine, tenant_id: UUID, since: int | None) -> str:
    """Returns the name of a tenant's log.

    Raises:
        LogBehind: It has no checkpoint yet.
        RequestInvalid: It never had the size that the export shall go on from.
    """
    async with transaction(engine, tenant_id) as connection:
        row = (await connection.execute(_LOG, {"tenant_id": tenant_id})).one_or_none()
    if row is None or row.size is None:
        raise LogBehind("the tenant's log has no checkpoint yet", remedy=_REMEDY)
    if since is not None and not 0 < since <= row.size:
        raise RequestInvalid(f"since: the log has {row.size} records, and never had a checkpoint of {since} before")
    return str(row.origin)


async def export(
    engine: AsyncEngine, principal: Principal, wanted: Wanted, origin: str, since: int | None = None
) -> AsyncGenerator[bytes, None]:
    """Yields a bundle, line by line.

    Args:
        engine: Database as the API.
        principal: Who exports; stands in the record.
        wanted: What.
        origin: Name of the log; see `log_of`.
        since: Size of a checkpoint that was seen before, which the bundle shall prove to go on from.

    Raises:
        NotFound: The tenant has no such run.
        LogBehind: The log did not come to cover the export in time.
    """
    tenant_id = wanted.tenant_id
    writer = Writer()
    ids: list[UUID] = []
    async with (
        transaction(engine, tenant_id) as connection,
        aclosing(read_content(connection, wanted, origin)) as lines,
    ):
        async for line in lines:
            if line["type"] in RECORDS:
                ids.append(UUID(str(line["decision_id"])))
            yield writer.content(line)
    async with transaction(engine, tenant_id) as connection:
        what = f"run {wanted.run_id}" if wanted.run_id else "a time of the tenant"
        decision_id = await record_event(
            connection,
            tenant_id,
            kind=KIND,
            verdict="allow",
            code=CODE,
            message=f"{principal.user} exported the decisions of {what}",
            facts=writer.facts(subject_of(principal)),
        )
        own = {"tenant_id": tenant_id, "decision_id": decision_id}
        record = (await connection.execute(_RECORD, own)).one()
    for raw in writer.seal(str(decision_id), record.part_a, record.part_b):
        yield raw
    covered = await _covered(engine, tenant_id, decision_id)
    async with transaction(engine, tenant_id) as connection:
        async for proof in _proofs(connection, tenant_id, [*ids, decision_id], covered.size):
            yield writer.proof(proof)
        consistency = [] if since is None else [await _consistency(connection, tenant_id, since, covered.size)]
        rows = await connection.execute(_KEYS, {"tenant_id": tenant_id, "size": covered.size})
        vkeys = [VerifierKey(origin, ED25519, row.public_key).text for row in rows]
    for raw in writer.end(consistency, vkeys, covered.note):
        yield raw


async def _covered(engine: AsyncEngine, tenant_id: UUID, decision_id: UUID) -> _Covered:
    """Waits for a checkpoint over the export's record and, as long as there is time, over all that was written before it."""
    found: _Covered | None = None
    try:
        async with asyncio.timeout(SEQUENCED_WITHIN_S):
            while True:
                async with transaction(engine, tenant_id) as connection:
                    parameters = {"tenant_id": tenant_id, "decision_id": decision_id}
                    row = (await connection.execute(_COVERING, parameters)).one_or_none()
                if row is not None:
                    found = _Covered(row.size, row.note)
                    if not row.others_wait:
                        return found
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        if found is None:
            raise LogBehind("the log does not cover the export yet", remedy=_REMEDY) from None
        return found  # a record that nobody can number has no proof, and the verifier names it


async def _proofs(
    connection: AsyncConnection, tenant_id: UUID, ids: list[UUID], size: int
) -> AsyncGenerator[Proof, None]:
    raw: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
    leaves: list[asyncpg.Record] = await raw.fetch(_LEAVES, tenant_id, ids, size)
    for place in range(0, len(leaves), _PROVEN_AT_ONCE):
        some = leaves[place : place + _PROVEN_AT_ONCE]
        ranges = [tree.inclusion_ranges(row["leaf_index"], size) for row in some]
        read = await read_tiles(connection, tenant_id, sorted({key for each in ranges for key in tiles.keys_of(each)}))
        for row, each in zip(some, ranges, strict=True):
            yield Proof(str(row["decision_id"]), row["record_hash"], row["leaf_index"], tiles.prove(each, read))


async def _consistency(connection: AsyncConnection, tenant_id: UUID, since: int, size: int) -> Consistency:
    ranges = tree.consistency_ranges(since, size)
    read = await read_tiles(connection, tenant_id, tiles.keys_of([*ranges, (0, since)]))
    [root] = tiles.prove([(0, since)], read)
    return Consistency(since, root, tiles.prove(ranges, read))
