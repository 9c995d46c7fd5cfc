"""Rehearsals as they stand in the database: who asked for what, how far it is, what was found.

Whoever rehearses holds the row for a while and says so again with each step. A process that dies lets it lapse: then the next that
looks takes it up and begins anew. Nothing is lost by that but time: a rehearsal only reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.database.jsonb import jsonb
from holdfast.errors import Conflict, NotFound, RequestInvalid
from holdfast.ids import new_id
from holdfast.policies.store import compiled_form
from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.policy import Policy

State = Literal["waiting", "running", "done", "cancelled", "failed"]

HELD_S: Final = 60
TRIES_MAX: Final = 3
OPEN_MAX: Final = 5
"""Rehearsals of a tenant that wait or run."""

_COLUMNS: Final = """rehearsal_id, version, policy_hash, since, until, state, done, total, result, error, asked_by, created_at,
    ended_at, state IN ('waiting', 'running') AND coalesce(held_until < clock_timestamp(), true) AS is_free"""
_INSERT = text("""
    INSERT INTO policy_rehearsals (tenant_id, rehearsal_id, version, compiled, policy_hash, since, until, asked_by)
    VALUES (:tenant_id, :rehearsal_id, :version, :compiled, :policy_hash, :since, :until, :asked_by)
""")
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 1))")
_OPEN = text("SELECT count(*) FROM policy_rehearsals WHERE tenant_id = :tenant_id AND state IN ('waiting', 'running')")
_ONE = text(
    f"SELECT {_COLUMNS} FROM policy_rehearsals WHERE tenant_id = :tenant_id AND rehearsal_id = :rehearsal_id"  # noqa: S608 (a constant)
)
_LIST = text(f"""
    SELECT {_COLUMNS} FROM policy_rehearsals
    WHERE tenant_id = :tenant_id AND (CAST(:before AS uuid) IS NULL OR rehearsal_id < :before)
    ORDER BY rehearsal_id DESC LIMIT :count
""")  # noqa: S608 (a constant)
_HOLD = text(f"""
    UPDATE policy_rehearsals SET state = 'running', done = 0, tries = tries + 1, held_by = :held_by,
        held_until = clock_timestamp() + interval '{HELD_S} s'
    WHERE tenant_id = :tenant_id AND rehearsal_id = :rehearsal_id AND state IN ('waiting', 'running')
      AND coalesce(held_until < clock_timestamp(), true)
    RETURNING compiled, since, until, tries
""")  # noqa: S608 (a constant)
_STEP = text(f"""
    UPDATE policy_rehearsals SET done = :done, total = coalesce(:total, total),
        held_until = clock_timestamp() + interval '{HELD_S} s'
    WHERE tenant_id = :tenant_id AND rehearsal_id = :rehearsal_id AND held_by = :held_by AND state = 'running'
    RETURNING rehearsal_id
""")  # noqa: S608 (a constant)
_END = text("""
    UPDATE policy_rehearsals SET state = :state, result = CAST(:result AS jsonb), error = :error, held_until = NULL,
        ended_at = clock_timestamp()
    WHERE tenant_id = :tenant_id AND rehearsal_id = :rehearsal_id AND held_by = :held_by AND state = 'running'
    RETURNING rehearsal_id
""")
_LET_GO = text("""
    UPDATE policy_rehearsals SET state = 'waiting', held_until = NULL, tries = tries - 1
    WHERE tenant_id = :tenant_id AND rehearsal_id = :rehearsal_id AND held_by = :held_by AND state = 'running'
""")
_CANCEL = text("""
    UPDATE policy_rehearsals SET state = 'cancelled', held_until = NULL, ended_at = clock_timestamp()
    WHERE tenant_id = :tenant_id AND rehearsal_id = :rehearsal_id AND state IN ('waiting', 'running')
""")


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A rehearsal.

    Attributes:
        rehearsal_id: Its id.
        version: Version of the candidate; `None` for a text that is not stored.
        policy_hash: Hash of the candidate.
        since: Decisions from then on.
        until: Decisions before then.
        state: How it stands.
        done: Records that were looked at.
        total: How many there are, once that is known.
        result: What was found, once it is done.
        error: Why it failed, if it did.
        asked_by: Who asked for it.
        created_at: When.
        ended_at: When it ended.
        is_free: Whether nobody works at it, though somebody should.
    """

    rehearsal_id: UUID
    version: int | None
    policy_hash: bytes
    since: datetime
    until: datetime
    state: State
    done: int
    total: int | None
    result: dict[str, JsonValue] | None
    error: str
    asked_by: str
    created_at: datetime
    ended_at: datetime | None
    is_free: bool


@dataclass(frozen=True, slots=True)
class Held:
    """A rehearsal that somebody works at.

    Attributes:
        tenant_id: The tenant.
        rehearsal_id: Its id.
        held_by: Who.
        compiled: The candidate's compiled form.
        since: Decisions from then on.
        until: Decisions before then.
        tries: How often it was begun.
    """

    tenant_id: UUID
    rehearsal_id: UUID
    held_by: UUID
    compiled: bytes
    since: datetime
    until: datetime
    tries: int

    @property
    def key(self) -> dict[str, Any]:  # Any: values of columns
        """Names the row, and who holds it."""
        return {"tenant_id": self.tenant_id, "rehearsal_id": self.rehearsal_id, "held_by": self.held_by}


async def ask(
    connection: AsyncConnection,
    tenant_id: UUID,
    candidate: Policy,
    *,
    version: int | None,
    since: datetime,
    until: datetime,
    by: str,
) -> Rehearsal:
    """Asks for a rehearsal.

    Raises:
        RequestInvalid: The time ends before it begins.
        Conflict: The tenant has too many that are not done.
    """
    if since >= until:
        raise RequestInvalid(
            "from, to: the time ends before it begins", remedy="give a later `to`, or an earlier `from`"
        )
    await connection.execute(_LOCK, {"name": f"{tenant_id} rehearsals"})
    if (await connection.scalar(_OPEN, {"tenant_id": tenant_id}) or 0) >= OPEN_MAX:
        raise Conflict(f"{OPEN_MAX} rehearsals wait or run already", remedy="wait for one, or cancel it")
    rehearsal_id = new_id()
    await connection.execute(
        _INSERT,
        {
            "tenant_id": tenant_id,
            "rehearsal_id": rehearsal_id,
            "version": version,
            "compiled": compiled_form(candidate),
            "policy_hash": candidate.policy_hash,
            "since": since,
            "until": until,
            "asked_by": by,
        },
    )
    return await find(connection, tenant_id, rehearsal_id)


async def find(connection: AsyncConnection, tenant_id: UUID, rehearsal_id: UUID) -> Rehearsal:
    """Returns a rehearsal.

    Raises:
        NotFound: The tenant has no such rehearsal.
    """
    row = (await connection.execute(_ONE, {"tenant_id": tenant_id, "rehearsal_id": rehearsal_id})).one_or_none()
    if row is None:
        raise NotFound(f"there is no rehearsal {rehearsal_id}", remedy="list them: GET /v1/policies/rehearsals")
    return Rehearsal(*row)


async def rehearsals(
    connection: AsyncConnection, tenant_id: UUID, *, before: UUID | None, count: int
) -> Sequence[Rehearsal]:
    """Returns rehearsals, newest first."""
    rows = await connection.execute(_LIST, {"tenant_id": tenant_id, "before": before, "count": count})
    return [Rehearsal(*row) for row in rows]


async def cancel(connection: AsyncConnection, tenant_id: UUID, rehearsal_id: UUID) -> Rehearsal:
    """Cancels a rehearsal; one that has ended stays what it is.

    Raises:
        NotFound: The tenant has no such rehearsal.
    """
    await connection.execute(_CANCEL, {"tenant_id": tenant_id, "rehearsal_id": rehearsal_id})
    return await find(connection, tenant_id, rehearsal_id)


async def hold(connection: AsyncConnection, tenant_id: UUID, rehearsal_id: UUID) -> Held | None:
    """Takes a rehearsal up, from its beginning; `None` if somebody works at it, or nobody has to any more."""
    held_by = new_id()
    parameters = {"tenant_id": tenant_id, "rehearsal_id": rehearsal_id, "held_by": held_by}
    row = (await connection.execute(_HOLD, parameters)).one_or_none()
    return None if row is None else Held(tenant_id, rehearsal_id, held_by, *row)


async def step(connection: AsyncConnection, held: Held, done: int, total: int | None = None) -> bool:
    """Says how far it is, and goes on holding it; false if it was cancelled, or somebody else has taken it up."""
    row = await connection.execute(_STEP, {**held.key, "done": done, "total": total})
    return row.one_or_none() is not None


async def end(
    connection: AsyncConnection, held: Held, *, result: Mapping[str, JsonValue] | None = None, error: str = ""
) -> bool:
    """Ends it with what was found, or with why it failed; false if it was cancelled meanwhile."""
    state: State = "failed" if result is None else "done"
    kept = None if result is None else jsonb(dict(result))
    row = await connection.execute(_END, {**held.key, "state": state, "result": kept, "error": error})
    return row.one_or_none() is not None


async def let_go(connection: AsyncConnection, held: Held) -> None:
    """Leaves it to others at once, because this process ends."""
    await connection.execute(_LET_GO, held.key)
