"""Idempotency keys: the same request under the same key has its effect once, and gets the same answer.

The key is claimed, the effect had and the answer kept in one transaction. A second request waits at the claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.database.jsonb import jsonb
from holdfast.errors import IdempotencyConflict
from holdfast_verdict.canonical import JsonValue, digest

# A lock on the key itself, not on a row: there is none yet. It is taken before any other lock, and let go at the end.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
_READ = text("""
    SELECT digest, status, body FROM idempotency_keys
    WHERE tenant_id = :tenant_id AND operation = :operation AND key = :key
""")
_INSERT = text("""
    INSERT INTO idempotency_keys (tenant_id, operation, key, digest, status, body)
    VALUES (:tenant_id, :operation, :key, :digest, :status, CAST(:body AS jsonb))
""")


@dataclass(frozen=True, slots=True)
class Claim:
    """A request with the key it came under.

    Attributes:
        tenant_id: The tenant; keys of different tenants have nothing to do with each other.
        operation: What is asked, such as `POST /v1/runs`.
        key: What stands in `Idempotency-Key`.
        request: What makes two requests the same: caller and body.
    """

    tenant_id: UUID
    operation: str
    key: str
    request: Mapping[str, JsonValue]


async def claim(connection: AsyncConnection, asked: Claim) -> dict[str, JsonValue] | None:
    """Claims a key, and returns the answer that was given under it before, if there is one.

    Raises:
        IdempotencyConflict: The key was used for another request.
    """
    name = orjson.dumps([str(asked.tenant_id), asked.operation, asked.key]).decode()
    await connection.execute(_LOCK, {"name": name})
    row = (
        await connection.execute(_READ, {"tenant_id": asked.tenant_id, "operation": asked.operation, "key": asked.key})
    ).one_or_none()
    if row is None:
        return None
    if row.digest != digest(dict(asked.request)):
        raise IdempotencyConflict(
            "this Idempotency-Key was used for a different request", remedy="send a new key with a new request"
        )
    body: dict[str, JsonValue] = row.body
    return body


async def keep(connection: AsyncConnection, asked: Claim, body: Mapping[str, JsonValue], *, status: int = 201) -> None:
    """Keeps the answer to a claimed request, in the transaction of its effect."""
    await connection.execute(
        _INSERT,
        {
            "tenant_id": asked.tenant_id,
            "operation": asked.operation,
            "key": asked.key,
            "digest": digest(dict(asked.request)),
            "status": status,
            "body": jsonb(body),
        },
    )
