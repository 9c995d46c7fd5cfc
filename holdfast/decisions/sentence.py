"""The sentence that goes with a decision, for people and for models."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_READ = text("SELECT reply ->> 'message' FROM decisions WHERE tenant_id = :tenant_id AND decision_id = :decision_id")


async def sentence_of(connection: AsyncConnection, tenant_id: UUID, decision_id: UUID) -> str:
    """Returns why a decision was made as it was, or an empty text if the tenant has no such decision."""
    message = await connection.scalar(_READ, {"tenant_id": tenant_id, "decision_id": decision_id})
    return str(message or "")
