"""How long a tenant keeps what was evaluated: set here, done by the sweeper, pass by pass."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.decisions.record import record_change, record_event
from holdfast.retention.legal_holds import LOCK
from holdfast.tenancy.principals import Principal

DAYS_MAX = 36_500

_READ = text("""
    SELECT days, set_by, set_at, records, kept, through, finished_at, before, pass_records FROM retention_settings
    WHERE tenant_id = :tenant_id
""")
# a pass that is under way ends here; the next begins at the first record
_PUT = text("""
    INSERT INTO retention_settings (tenant_id, days, set_by) VALUES (:tenant_id, :days, :actor)
    ON CONFLICT (tenant_id) DO UPDATE SET days = excluded.days, set_by = excluded.set_by, set_at = now(),
        from_at = '-infinity', before = NULL, finished_at = NULL
""")
_BATCH = text("SELECT days, before, through, pass_records, pass_kept FROM retention_batch(:tenant_id, :count)")


@dataclass(frozen=True, slots=True)
class Retention:
    """What a tenant keeps, and how far it is.

    Attributes:
        days: For how many days what was evaluated is kept; None for ever.
        set_by: Who said so; empty if nobody did.
        set_at: When.
        records: Records whose part A was deleted since.
        kept: Records that the last pass had to leave: of runs that had not ended, or on legal hold.
        through: The last pass has looked at all that is older than this.
        finished_at: When it was done.
        before: A pass is under way, and deletes what is older than this.
        pass_records: What it has deleted so far.
    """

    days: int | None
    set_by: str
    set_at: datetime | None
    records: int = 0
    kept: int = 0
    through: datetime | None = None
    finished_at: datetime | None = None
    before: datetime | None = None
    pass_records: int = 0


@dataclass(frozen=True, slots=True)
class Passed:
    """How far a pass is.

    Attributes:
        records: What it has deleted.
        kept: What it has left.
        done: Whether that was the last of it.
    """

    records: int
    kept: int
    done: bool


async def read(connection: AsyncConnection, tenant_id: UUID) -> Retention:
    """Returns what a tenant keeps: for ever, if nobody said otherwise."""
    row = (await connection.execute(_READ, {"tenant_id": tenant_id})).one_or_none()
    return Retention(None, "", None) if row is None else Retention(*row)


async def put(connection: AsyncConnection, principal: Principal, days: int | None) -> Retention:
    """Sets for how many days what was evaluated is kept; None for ever."""
    tenant_id = principal.tenant_id
    await connection.execute(LOCK, {"tenant_id": tenant_id})
    before = await read(connection, tenant_id)
    await connection.execute(_PUT, {"tenant_id": tenant_id, "days": days, "actor": principal.actor})
    words = "for ever" if days is None else f"for {days} days"
    await record_change(
        connection,
        tenant_id,
        principal,
        "retention.set",
        f"{principal.user} has what was evaluated kept {words}",
        {"days": days, "before": before.days},
    )
    return await read(connection, tenant_id)


async def go_on(connection: AsyncConnection, tenant_id: UUID, count: int) -> Passed | None:
    """Goes on with a pass, or begins one; with its end, what it has deleted is recorded in the same transaction.

    Returns:
        How far it is; None if the tenant keeps everything by now.
    """
    row = (await connection.execute(_BATCH, {"tenant_id": tenant_id, "count": count})).one_or_none()
    if row is None:
        return None
    done = row.before is None
    if done and row.pass_records:
        through = row.through.isoformat()
        await record_event(
            connection,
            tenant_id,
            kind="retention",
            verdict="allow",
            code="retention.applied",
            message=f"of {row.pass_records} records from before {through} what was evaluated is deleted; {row.pass_kept} are left",
            facts={"days": row.days, "before": through, "records": row.pass_records, "kept": row.pass_kept},
        )
    return Passed(row.pass_records, row.pass_kept, done)
