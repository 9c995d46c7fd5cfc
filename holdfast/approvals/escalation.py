"""Turning to somebody else when nobody answers. When that is due stands in the approval's row, so no timer can be lost."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.decisions.record import record_event

DUE = text("SELECT * FROM due_escalations(:count)")
_ESCALATE = text("SELECT * FROM escalate_approval(:tenant_id, :approval_id)")


async def escalate(connection: AsyncConnection, tenant_id: UUID, approval_id: UUID) -> tuple[str, int]:
    """Says once that a gate turned to somebody else, and records it.

    Those who have consented before may be enough from then on: then it is approved.

    Returns:
        `escalated`, `approved` or `not_due`, and the number of the event that was written, or 0.
    """
    parameters = {"tenant_id": tenant_id, "approval_id": approval_id}
    row = (await connection.execute(_ESCALATE, parameters)).one()
    if row.status == "not_due":
        return "not_due", 0
    approved = row.status == "approved"
    await record_event(
        connection,
        tenant_id,
        kind="approval",
        verdict="allow",
        code="approval.approved" if approved else "approval.escalated",
        message="the consents that were there are enough since it escalated" if approved else "nobody answered in time",
        facts={"subject": "sweeper", "state": "approved" if approved else "pending"},
        run_id=row.run_id,
        approval_id=approval_id,
    )
    return row.status, row.seq
