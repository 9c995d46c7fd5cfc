"""Reading holds as the ledger's callers see them."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.ledger.types import HoldView, OutcomeView, TryKey

_READ_HOLD = text("""
    SELECT h.tenant_id, h.run_id, h.step, h.try, h.hold_id, h.decision_id, h.kind, h.tool, h.idempotent, h.state, h.digest, h.action,
           h.max_cost_nano_usd, h.cost_nano_usd, h.estimate, h.outward_at IS NOT NULL AS went_outward, h.settled_by,
           o.hold_id IS NOT NULL AS has_outcome, o.ok, o.error_code, o.retryable, o.retry_after_ms,
           o.cost_class, o.provider_request_id, o.simulated, o.result
    FROM holds h LEFT JOIN outcomes o ON o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id
    WHERE h.tenant_id = :tenant_id AND h.hold_id = :hold_id
""")

_UNITS_OF_HOLD = text("""
    SELECT c.unit, max(l.amount) FROM hold_legs l JOIN caps c ON c.tenant_id = l.tenant_id AND c.cap_id = l.cap_id
    WHERE l.tenant_id = :tenant_id AND l.hold_id = :hold_id GROUP BY c.unit
""")


async def read_hold(connection: AsyncConnection, tenant_id: UUID, hold_id: UUID) -> HoldView | None:
    """Returns a hold with its outcome, without locking it."""
    row = (await connection.execute(_READ_HOLD, {"tenant_id": tenant_id, "hold_id": hold_id})).one_or_none()
    if row is None:
        return None
    outcome = None
    if row.has_outcome:
        outcome = OutcomeView(
            row.ok,
            row.error_code,
            row.retryable,
            row.retry_after_ms,
            row.cost_class,
            row.provider_request_id,
            row.simulated,
            row.result,
        )
    return HoldView(
        key=TryKey(row.tenant_id, row.run_id, row.step, getattr(row, "try")),
        hold_id=row.hold_id,
        decision_id=row.decision_id,
        kind=row.kind,
        tool=row.tool,
        idempotent=row.idempotent,
        state=row.state,
        digest=row.digest,
        action=row.action,
        max_cost_nano_usd=row.max_cost_nano_usd,
        cost_nano_usd=row.cost_nano_usd,
        estimate=row.estimate,
        went_outward=row.went_outward,
        settled_by=row.settled_by,
        outcome=outcome,
    )


async def held_by_unit(connection: AsyncConnection, tenant_id: UUID, hold_id: UUID) -> dict[str, int]:
    """Returns what a hold reserved, by unit."""
    rows = await connection.execute(_UNITS_OF_HOLD, {"tenant_id": tenant_id, "hold_id": hold_id})
    return {row[0]: row[1] for row in rows}
