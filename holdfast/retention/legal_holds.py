"""Legal holds: while one stands, neither retention nor erasure takes anything of a run, or of the tenant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.decisions.record import record_event, subject_of
from holdfast.errors import NotFound
from holdfast.ids import new_id
from holdfast.tenancy.principals import Principal

# INVARIANT: whoever takes something has this lock, too. So from the commit of a hold on nothing of it is taken any more.
LOCK = text("SELECT lock_retention(:tenant_id)")
STANDS = text("SELECT on_legal_hold(:tenant_id, :run_id)")
_COLUMNS = "legal_hold_id, run_id, reason, placed_by, placed_at, lifted_at, lifted_by, lift_reason"
_FIND_RUN = text("SELECT 1 FROM runs WHERE tenant_id = :tenant_id AND run_id = :run_id")
_STANDING = text("""
    SELECT legal_hold_id FROM legal_holds
    WHERE tenant_id = :tenant_id AND run_id IS NOT DISTINCT FROM CAST(:run_id AS uuid) AND lifted_at IS NULL
""")
_INSERT = text("""
    INSERT INTO legal_holds (tenant_id, legal_hold_id, run_id, reason, placed_by)
    VALUES (:tenant_id, :legal_hold_id, :run_id, :reason, :actor)
""")
_LIFT = text("""
    UPDATE legal_holds SET lifted_at = clock_timestamp(), lifted_by = :actor, lift_reason = :reason
    WHERE tenant_id = :tenant_id AND legal_hold_id = :legal_hold_id
""")
_READ = text(
    f"SELECT {_COLUMNS} FROM legal_holds WHERE tenant_id = :tenant_id AND legal_hold_id = :legal_hold_id"  # noqa: S608 (constant columns)
)
_LIST = text(f"""
    SELECT {_COLUMNS} FROM legal_holds
    WHERE tenant_id = :tenant_id AND (CAST(:before AS uuid) IS NULL OR legal_hold_id < :before)
      AND (lifted_at IS NULL OR CAST(:lifted AS boolean)) ORDER BY legal_hold_id DESC LIMIT :count
""")  # noqa: S608 (constant columns)


@dataclass(frozen=True, slots=True)
class LegalHold:
    """A legal hold.

    Attributes:
        run_id: The run; None for the whole tenant.
        lifted_at: None while it stands.
    """

    legal_hold_id: UUID
    run_id: UUID | None
    reason: str
    placed_by: str
    placed_at: datetime
    lifted_at: datetime | None
    lifted_by: str
    lift_reason: str

    @property
    def on(self) -> str:
        """What it is on, in words."""
        return f"run {self.run_id}" if self.run_id else "the tenant"


async def place(
    connection: AsyncConnection, principal: Principal, run_id: UUID | None, reason: str
) -> tuple[LegalHold, bool]:
    """Places a legal hold, or finds the one that stands there already.

    It waits for what is just being taken; from the commit on nothing of it is taken.

    Returns:
        The legal hold, and whether it is a new one.

    Raises:
        NotFound: The tenant has no such run.
    """
    tenant_id = principal.tenant_id
    on = {"tenant_id": tenant_id, "run_id": run_id}
    if run_id is not None and await connection.scalar(_FIND_RUN, on) is None:
        raise NotFound(f"there is no run {run_id}")
    await connection.execute(LOCK, {"tenant_id": tenant_id})
    standing: UUID | None = await connection.scalar(_STANDING, on)
    if standing is not None:
        return await read(connection, tenant_id, standing), False
    legal_hold_id = new_id()
    await connection.execute(
        _INSERT, {**on, "legal_hold_id": legal_hold_id, "reason": reason, "actor": principal.actor}
    )
    hold = await read(connection, tenant_id, legal_hold_id)
    await _record(connection, principal, hold, "legal_hold.placed", f"{hold.on} is on legal hold", reason)
    return hold, True


async def lift(
    connection: AsyncConnection, principal: Principal, legal_hold_id: UUID, reason: str
) -> tuple[LegalHold, bool]:
    """Lifts a legal hold; one that is lifted already stays as it is.

    Returns:
        The legal hold, and whether it stood until now.

    Raises:
        NotFound: The tenant has no such legal hold.
    """
    tenant_id = principal.tenant_id
    await connection.execute(LOCK, {"tenant_id": tenant_id})
    standing = await read(connection, tenant_id, legal_hold_id)
    if standing.lifted_at is not None:
        return standing, False
    given = {"tenant_id": tenant_id, "legal_hold_id": legal_hold_id, "actor": principal.actor, "reason": reason}
    await connection.execute(_LIFT, given)
    hold = await read(connection, tenant_id, legal_hold_id)
    await _record(connection, principal, hold, "legal_hold.lifted", f"the legal hold on {hold.on} is lifted", reason)
    return hold, True


async def read(connection: AsyncConnection, tenant_id: UUID, legal_hold_id: UUID) -> LegalHold:
    """Returns a legal hold.

    Raises:
        NotFound: The tenant has no such legal hold.
    """
    row = (await connection.execute(_READ, {"tenant_id": tenant_id, "legal_hold_id": legal_hold_id})).one_or_none()
    if row is None:
        raise NotFound(f"there is no legal hold {legal_hold_id}")
    return LegalHold(*row)


async def list_holds(
    connection: AsyncConnection, tenant_id: UUID, *, before: UUID | None, lifted: bool, count: int
) -> list[LegalHold]:
    """Returns legal holds, newest first: those that stand, and with `lifted` those that stood."""
    given = {"tenant_id": tenant_id, "before": before, "lifted": lifted, "count": count}
    return [LegalHold(*row) for row in await connection.execute(_LIST, given)]


async def _record(
    connection: AsyncConnection, principal: Principal, hold: LegalHold, code: str, message: str, reason: str
) -> None:
    await record_event(
        connection,
        principal.tenant_id,
        kind="legal_hold",
        verdict="allow",
        code=code,
        message=f"{message}: {reason}",
        facts={
            "subject": subject_of(principal),
            "legal_hold": str(hold.legal_hold_id),
            "run": None if hold.run_id is None else str(hold.run_id),
            "reason": reason,
        },
        run_id=hold.run_id,
    )
