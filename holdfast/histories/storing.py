"""Keeping a run's history when the run has ended: the pieces, and the digest's record in the log, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.client import Client

from holdfast.decisions.record import record_event
from holdfast.histories import fetching
from holdfast.histories.document import Sealing
from holdfast_verdict.record import record_hash

FORM: Final = "history/1"
"""What the digest is over, as the record says it."""

_SET_DIGEST = text("""
    UPDATE runs SET history_digest = :digest WHERE tenant_id = :tenant_id AND run_id = :run_id AND history_digest IS NULL RETURNING 1
""")
_STORE = text("""
    INSERT INTO run_histories (tenant_id, run_id, piece, data)
    SELECT :tenant_id, :run_id, p.piece - 1, p.data FROM unnest(CAST(:pieces AS bytea[])) WITH ORDINALITY AS p (data, piece)
""")
_READ = text("SELECT data FROM run_histories WHERE tenant_id = :tenant_id AND run_id = :run_id ORDER BY piece")
_RECORDED = text("""
    SELECT decision_id, part_a, part_b, record_hash FROM decisions
    WHERE tenant_id = :tenant_id AND run_id = :run_id AND kind = 'run.history' ORDER BY decision_id LIMIT 1
""")


@dataclass(frozen=True, slots=True)
class Sealed:
    """A closed run's history, ready to be kept.

    Attributes:
        digest: SHA-256 over its document.
        newest: Temporal's id of its newest execution; empty if Temporal has no history of it.
        executions: How many executions it has.
        events: How many events.
        size: Bytes of the document.
        pieces: The document, compressed; empty if it is too large to be kept.
    """

    digest: bytes
    newest: str
    executions: int
    events: int
    size: int
    pieces: list[bytes]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the log says of a run's history.

    Attributes:
        decision_id: The record.
        digest: SHA-256 over the history, hex.
        newest: Temporal's id of its newest execution.
        executions: How many executions it has.
        form: What the digest is over; empty in records of a time when no history was kept.
        stored: Whether the history was kept.
        is_whole: Whether the record hashes to its hash.
    """

    decision_id: UUID
    digest: str
    newest: str
    executions: int
    form: str
    stored: bool
    is_whole: bool


async def seal(client: Client, run_id: UUID) -> Sealed | None:
    """Fetches the history of a run from Temporal and makes it ready; None while its workflow goes on."""
    sealing = Sealing()
    newest = await fetching.newest(client, str(run_id))
    if newest is None:
        return Sealed(sealing.digest, "", 0, 0, 0, [])
    if newest.is_open:
        return None
    async for execution in fetching.executions(client, str(run_id), newest.run_id):
        sealing.add(execution)
    return Sealed(sealing.digest, newest.run_id, sealing.executions, sealing.events, sealing.size, sealing.pieces())


async def store(connection: AsyncConnection, tenant_id: UUID, run_id: UUID, sealed: Sealed) -> bool:
    """Keeps a history and records its digest, in the caller's transaction; false if that was done before (LAW 9)."""
    own: dict[str, object] = {"tenant_id": tenant_id, "run_id": run_id}
    if not await connection.scalar(_SET_DIGEST, {**own, "digest": sealed.digest}):
        return False
    if sealed.pieces:
        await connection.execute(_STORE, {**own, "pieces": sealed.pieces})
    await record_event(
        connection,
        tenant_id,
        kind="run.history",
        verdict="allow",
        code="run.history_digest",
        message=_sentence(sealed),
        facts={
            "digest": sealed.digest.hex(),
            "form": FORM,
            "newest": sealed.newest,
            "executions": sealed.executions,
            "events": sealed.events,
            "bytes": sealed.size,
            "stored": bool(sealed.pieces),
        },
        run_id=run_id,
    )
    return True


def _sentence(sealed: Sealed) -> str:
    if not sealed.executions:
        return "Temporal had no history of the workflow when the run had ended"
    kept = "is kept with this digest" if sealed.pieces else "has this digest and was too large to be kept"
    return f"the workflow's history, {sealed.events} events, as it was when the run had ended, {kept}"


async def read_stored(connection: AsyncConnection, tenant_id: UUID, run_id: UUID) -> list[bytes]:
    """Returns the pieces that are kept of a run's history."""
    return list((await connection.execute(_READ, {"tenant_id": tenant_id, "run_id": run_id})).scalars())


async def read_recorded(connection: AsyncConnection, tenant_id: UUID, run_id: UUID) -> Recorded | None:
    """Returns what the log says of a run's history, if it says anything."""
    row = (await connection.execute(_RECORDED, {"tenant_id": tenant_id, "run_id": run_id})).one_or_none()
    if row is None or row.part_a is None:
        return None
    facts = orjson.loads(row.part_a)["facts"]
    return Recorded(
        row.decision_id,
        facts["digest"],
        facts.get("newest", ""),
        facts["executions"],
        facts.get("form", ""),
        facts.get("stored", False),
        record_hash(row.part_a, row.part_b) == row.record_hash,
    )
