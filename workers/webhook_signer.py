"""Signing webhooks: what is due gets its bytes and its signature here, and is sent by an executor, which has no key; old ones go."""

from __future__ import annotations

from typing import Any, Final

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.database.engine import tenantless, transaction
from holdfast.webhooks.service import TEST
from holdfast.webhooks.signature import FRESH_S, sign

_BATCH_MAX: Final = 100
KEPT_DAYS: Final = 30
"""So long it can be looked up what became of a delivery."""
_FORGOTTEN_MAX: Final = 1_000

_UNSIGNED = text("SELECT * FROM unsigned_deliveries(:count, :fresh_s)")
_UNSIGNED_WEBHOOKS = text("SELECT * FROM unsigned_webhooks(:public_key)")
_SHOW_KEY = text("""
    UPDATE webhooks SET public_key = :public_key WHERE tenant_id = :tenant_id AND webhook_id = :webhook_id
""")
_FORGET = text("SELECT forget_deliveries(:days, :count)")
_EVENT = text("""
    SELECT created_at, channel, type, data FROM timeline_events
    WHERE tenant_id = :tenant_id AND run_id = :run_id AND seq = :seq
""")
_SIGNED = text("""
    UPDATE webhook_deliveries SET body = :body, signed_s = :signed_s, signature = :signature
    WHERE tenant_id = :tenant_id AND delivery_id = :delivery_id AND state = 'waiting'
""")


class WebhookSigner:
    """Signs what is due; a part of the sweepers.

    Args:
        engine: Database as the sweeper.
        key: What signs; see `holdfast.webhooks.signature`.
    """

    def __init__(self, engine: AsyncEngine, key: Ed25519PrivateKey) -> None:
        self._engine = engine
        self._key = key
        self._public_key = key.public_key().public_bytes_raw()

    async def sign_due(self) -> int:
        """Signs what is due, and lets receivers know whose signature to expect.

        Returns:
            How many deliveries were signed.
        """
        async with tenantless(self._engine) as connection:
            webhooks = list(await connection.execute(_UNSIGNED_WEBHOOKS, {"public_key": self._public_key}))
            due = list(await connection.execute(_UNSIGNED, {"count": _BATCH_MAX, "fresh_s": FRESH_S // 2}))
        for row in webhooks:
            async with transaction(self._engine, row.tenant_id) as connection:
                await connection.execute(_SHOW_KEY, {**row._mapping, "public_key": self._public_key})
        for row in due:
            async with transaction(self._engine, row.tenant_id) as connection:
                await self._sign(connection, row)
        return len(due)

    async def forget_old(self) -> int:
        """Deletes deliveries that ended long ago, a batch of them; what still waits for its receiver stays.

        Returns:
            How many were deleted.
        """
        async with tenantless(self._engine) as connection:
            forgotten: int = await connection.scalar(_FORGET, {"days": KEPT_DAYS, "count": _FORGOTTEN_MAX})
        return forgotten

    async def _sign(self, connection: AsyncConnection, row: Row[Any]) -> None:  # rows of text() carry no types
        body = row.body or await _body(connection, row)
        signature = sign(self._key, str(row.delivery_id), row.now_s, body)
        which = {"tenant_id": row.tenant_id, "delivery_id": row.delivery_id}
        await connection.execute(_SIGNED, {**which, "body": body, "signed_s": row.now_s, "signature": signature})


async def _body(connection: AsyncConnection, row: Row[Any]) -> bytes:  # rows of text() carry no types
    """Returns what is sent: the event, as it stands on the timeline."""
    if row.type == TEST:
        return orjson.dumps({"type": TEST, "data": {}})
    which = {"tenant_id": row.tenant_id, "run_id": row.run_id, "seq": row.seq}
    event = (await connection.execute(_EVENT, which)).one()
    return orjson.dumps(
        {
            "type": event.type,
            "timestamp": event.created_at,
            "data": {"run": str(row.run_id), "seq": row.seq, "channel": event.channel, **event.data},
        },
        option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z,
    )
