"""Erasing what is personal in the records of a user, a run or a tenant: asked for and recorded here, done by the sweeper.

What goes is the run's salt. Without it nobody can read or guess the values, and no record and no proof changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.decisions.record import record_event, subject_of
from holdfast.errors import HoldfastError, NotFound
from holdfast.ids import new_id
from holdfast.retention.legal_holds import LOCK, STANDS
from holdfast.tenancy.principals import Principal
from holdfast_verdict.canonical import JsonValue

KIND: Final = "erasure"

_FIND_USER = text("SELECT user_id FROM users WHERE tenant_id = :tenant_id AND name = :name")
_FIND_RUN = text("SELECT 1 FROM runs WHERE tenant_id = :tenant_id AND run_id = :run_id")
_INSERT = text("""
    INSERT INTO erasures (tenant_id, erasure_id, user_id, run_id, reason, asked_by)
    VALUES (:tenant_id, :erasure_id, :user_id, :run_id, :reason, :actor)
""")
_COLUMNS: Final = """
    e.erasure_id, (SELECT u.name FROM users u WHERE u.tenant_id = e.tenant_id AND u.user_id = e.user_id) AS "user",
    e.run_id, e.reason, e.asked_by, e.asked_at, e.runs, e.records, e.held, e.open, e.ended_at
"""
_READ = text(f"SELECT {_COLUMNS} FROM erasures e WHERE e.tenant_id = :tenant_id AND e.erasure_id = :erasure_id")  # noqa: S608 (constant columns)
_LIST = text(f"""
    SELECT {_COLUMNS} FROM erasures e WHERE e.tenant_id = :tenant_id AND (CAST(:before AS uuid) IS NULL OR e.erasure_id < :before)
    ORDER BY e.erasure_id DESC LIMIT :count
""")  # noqa: S608 (constant columns)
_BATCH = text("SELECT ended_at FROM erase_batch(:tenant_id, :erasure_id, :count)")


class LegallyHeld(HoldfastError):
    """A legal hold stands, so nothing may be erased."""

    code = "erasure.legal_hold"
    status = 409


@dataclass(frozen=True, slots=True)
class Erasure:
    """An erasure.

    Attributes:
        user: Of whose runs; None if it is not about a user.
        run_id: Of which run; with neither it is about the whole tenant.
        runs: Runs whose salt it has deleted.
        records: Records whose personal values went with it.
        held: Runs that it left because of a legal hold.
        open: Runs that it left because they had not ended.
        ended_at: When it was done; None while it goes on.
    """

    erasure_id: UUID
    user: str | None
    run_id: UUID | None
    reason: str
    asked_by: str
    asked_at: datetime
    runs: int
    records: int
    held: int
    open: int
    ended_at: datetime | None

    @property
    def of(self) -> str:
        """What it is about, in words."""
        return f"run {self.run_id}" if self.run_id else f"user {self.user}" if self.user else "the tenant"


@dataclass(frozen=True, slots=True)
class Scope:
    """What is to be erased: a user's runs, a run, or with neither the whole tenant."""

    user: str | None = None
    run_id: UUID | None = None

    def facts(self) -> dict[str, JsonValue]:
        """Returns what stands in the record."""
        return {"user": self.user, "run": None if self.run_id is None else str(self.run_id)}


async def ask(connection: AsyncConnection, principal: Principal, scope: Scope, reason: str) -> Erasure:
    """Asks for an erasure, which is recorded and begins with the commit.

    Raises:
        NotFound: The tenant has no such user or run.
        LegallyHeld: A legal hold stands on all of it; see `record_refusal`.
    """
    tenant_id = principal.tenant_id
    user_id: UUID | None = None
    if scope.user is not None:
        user_id = await connection.scalar(_FIND_USER, {"tenant_id": tenant_id, "name": scope.user})
        if user_id is None:
            raise NotFound(f"there is no user {scope.user[:200]}", remedy="`GET /v1/users` lists them")
    own = {"tenant_id": tenant_id, "run_id": scope.run_id}
    if scope.run_id is not None and await connection.scalar(_FIND_RUN, own) is None:
        raise NotFound(f"there is no run {scope.run_id}")
    await connection.execute(LOCK, {"tenant_id": tenant_id})
    if await connection.scalar(STANDS, own):
        on = f"run {scope.run_id} or the tenant" if scope.run_id else "the tenant"
        raise LegallyHeld(
            f"a legal hold stands on {on}, so nothing of it is erased",
            remedy="`holdfast audit legal-hold list` shows it; erase when it is lifted",
        )
    erasure_id = new_id()
    given = {**own, "erasure_id": erasure_id, "user_id": user_id, "reason": reason, "actor": principal.actor}
    await connection.execute(_INSERT, given)
    erasure = await read(connection, tenant_id, erasure_id)
    await record_event(
        connection,
        tenant_id,
        kind=KIND,
        verdict="allow",
        code="erasure.asked",
        message=f"{principal.user} has personal values of {erasure.of} erased",
        facts={"subject": subject_of(principal), "erasure": str(erasure_id), **scope.facts(), "reason": reason},
        run_id=scope.run_id,
    )
    return erasure


async def record_refusal(
    connection: AsyncConnection, principal: Principal, scope: Scope, refused: LegallyHeld, reason: str
) -> None:
    """Records that an erasure was refused, in a transaction of its own."""
    await record_event(
        connection,
        principal.tenant_id,
        kind=KIND,
        verdict="deny",
        code=refused.code,
        message=refused.message,
        facts={"subject": subject_of(principal), **scope.facts(), "reason": reason},
        run_id=scope.run_id,
    )


async def read(connection: AsyncConnection, tenant_id: UUID, erasure_id: UUID) -> Erasure:
    """Returns an erasure.

    Raises:
        NotFound: The tenant has no such erasure.
    """
    row = (await connection.execute(_READ, {"tenant_id": tenant_id, "erasure_id": erasure_id})).one_or_none()
    if row is None:
        raise NotFound(f"there is no erasure {erasure_id}")
    return _erasure(row)


def _erasure(row: Row[Any]) -> Erasure:  # rows of text() carry no types
    return Erasure(**row._mapping)


async def list_erasures(
    connection: AsyncConnection, tenant_id: UUID, *, before: UUID | None, count: int
) -> list[Erasure]:
    """Returns erasures, newest first."""
    given = {"tenant_id": tenant_id, "before": before, "count": count}
    return [_erasure(row) for row in await connection.execute(_LIST, given)]


async def go_on(connection: AsyncConnection, tenant_id: UUID, erasure_id: UUID, count: int) -> Erasure | None:
    """Erases some runs more; with the last of them, what came of it is recorded in the same transaction.

    Returns:
        How far it is; None if somebody else had ended it.
    """
    given = {"tenant_id": tenant_id, "erasure_id": erasure_id, "count": count}
    if (await connection.execute(_BATCH, given)).one_or_none() is None:
        return None
    erasure = await read(connection, tenant_id, erasure_id)
    if erasure.ended_at is not None:
        counts: dict[str, JsonValue] = {name: getattr(erasure, name) for name in ("runs", "records", "held", "open")}
        await record_event(
            connection,
            tenant_id,
            kind=KIND,
            verdict="allow",
            code="erasure.done",
            message=f"personal values of {erasure.of} are erased: {told(erasure)}",
            facts={"erasure": str(erasure_id), **counts},
            run_id=erasure.run_id,
        )
    return erasure


def told(erasure: Erasure) -> str:
    """Says in words what an erasure has done."""
    left = [
        f"{erasure.held} left on legal hold" if erasure.held else "",
        f"{erasure.open} left because they had not ended" if erasure.open else "",
    ]
    return ", ".join([f"{erasure.records} records of {erasure.runs} runs", *(each for each in left if each)])
