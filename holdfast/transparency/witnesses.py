"""Witnesses: whose cosignatures a log takes, and taking them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.decisions.record import record_change
from holdfast.errors import Conflict, NotFound, RequestInvalid
from holdfast.tenancy.principals import Principal
from holdfast.transparency import reading
from holdfast_verdict.log.checkpoint import Checkpoint
from holdfast_verdict.log.invalid import LogInvalid
from holdfast_verdict.log.note import Note

WITNESSES_MAX: Final = 20

_ADD = text("""
    INSERT INTO log_witnesses (tenant_id, vkey, added_by) VALUES (:tenant_id, :vkey, :added_by) ON CONFLICT DO NOTHING RETURNING 1
""")
_AGAIN = text("""
    UPDATE log_witnesses SET removed_at = NULL WHERE tenant_id = :tenant_id AND vkey = :vkey AND removed_at IS NOT NULL RETURNING 1
""")
_REMOVE = text("""
    UPDATE log_witnesses SET removed_at = now() WHERE tenant_id = :tenant_id AND vkey = :vkey AND removed_at IS NULL RETURNING 1
""")
_LIST = text("""
    SELECT w.vkey, w.added_by, w.added_at,
        (SELECT max(c.size) FROM log_cosignatures c WHERE c.tenant_id = w.tenant_id AND c.vkey = w.vkey) AS cosigned_size
    FROM log_witnesses w WHERE w.tenant_id = :tenant_id AND w.removed_at IS NULL ORDER BY w.added_at, w.vkey
""")
_COSIGN = text("""
    INSERT INTO log_cosignatures (tenant_id, size, vkey, line) VALUES (:tenant_id, :size, :vkey, :line) ON CONFLICT DO NOTHING
""")


class CosignatureRefused(RequestInvalid):
    """What was handed in is not taken.

    Attributes:
        reason: In a word: `no_checkpoint`, `fork`, `signature` or `unknown_witness`.
    """

    def __init__(self, message: str, *, reason: str, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness.

    Attributes:
        vkey: Its public key.
        cosigned_size: Size of the largest checkpoint that it has cosigned.
    """

    vkey: str
    added_by: str
    added_at: datetime
    cosigned_size: int | None


async def list_witnesses(connection: AsyncConnection, tenant_id: UUID) -> list[Witness]:
    """Returns the witnesses whose cosignatures are taken."""
    rows = await connection.execute(_LIST, {"tenant_id": tenant_id})
    return [Witness(row.vkey, row.added_by, row.added_at, row.cosigned_size) for row in rows]


async def add_witness(connection: AsyncConnection, caller: Principal, vkey: str) -> None:
    """Makes a witness known; one that is known stays so.

    Raises:
        RequestInvalid: That is no key of a witness.
        Conflict: There are too many.
    """
    reading.witness_key(vkey)
    own = {"tenant_id": caller.tenant_id, "vkey": vkey}
    known = await list_witnesses(connection, caller.tenant_id)
    if len(known) >= WITNESSES_MAX:
        raise Conflict(f"a log has at most {WITNESSES_MAX} witnesses", remedy="remove one")
    added = await connection.scalar(_ADD, {**own, "added_by": caller.user})
    if added or await connection.scalar(_AGAIN, own):
        await record_change(
            connection,
            caller.tenant_id,
            caller,
            "log.witness_added",
            f"cosignatures of {vkey} are taken",
            {"vkey": vkey},
        )


async def remove_witness(connection: AsyncConnection, caller: Principal, vkey: str) -> None:
    """Takes no cosignatures of a witness any more; what it has cosigned stays.

    Raises:
        NotFound: There is no such witness.
    """
    if not await connection.scalar(_REMOVE, {"tenant_id": caller.tenant_id, "vkey": vkey}):
        raise NotFound(f"there is no witness {vkey}")
    await record_change(
        connection,
        caller.tenant_id,
        caller,
        "log.witness_removed",
        f"cosignatures of {vkey} are not taken",
        {"vkey": vkey},
    )


async def take(connection: AsyncConnection, tenant_id: UUID, message: str) -> tuple[int, int]:
    """Takes the cosignatures that known witnesses have put on a checkpoint of the log.

    Args:
        connection: A transaction of the tenant.
        tenant_id: The tenant.
        message: The checkpoint's note.

    Returns:
        The checkpoint's size, and how many of them hold.

    Raises:
        CosignatureRefused: It is no checkpoint of this log, or one of them does not hold, or none is of a known witness.
        NotFound: The log has no checkpoint of that size.
    """
    try:
        note = Note.parse(message)
        size = Checkpoint.parse(note.text).size
    except LogInvalid as error:
        raise CosignatureRefused(f"this is no signed checkpoint: {error}", reason="no_checkpoint") from None
    own = await reading.checkpoint(connection, tenant_id, size)
    if own.note.text != note.text:
        raise CosignatureRefused(
            "this is another checkpoint of that size than the log has: one of the two is forged", reason="fork"
        )
    ids = {(each.name, each.key_id) for each in note.signatures}
    taken = 0
    for witness in await list_witnesses(connection, tenant_id):
        key = reading.witness_key(witness.vkey)
        if (key.name, key.key_id) not in ids:
            continue
        try:
            line = note.verified(key).line
        except LogInvalid as error:
            raise CosignatureRefused(str(error), reason="signature") from None
        await connection.execute(_COSIGN, {"tenant_id": tenant_id, "size": size, "vkey": witness.vkey, "line": line})
        taken += 1
    if not taken:
        raise CosignatureRefused(
            "none of its signatures is of a known witness",
            reason="unknown_witness",
            remedy="POST /v1/log/witnesses first",
        )
    return size, taken
