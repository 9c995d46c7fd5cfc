"""Sending webhooks: what is queued is signed, sent and tried again, each at least once, until its receiver has taken it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Row, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.tools.destination import NoDestination, Resolver, ask, find_destination, resolve_system
from activities.tools.wire import NoAnswer
from holdfast.database.engine import tenantless, transaction
from holdfast.errors import Unavailable
from holdfast.tools.urls import Url, parse_url
from holdfast.webhooks.service import TEST, is_private
from holdfast.webhooks.signature import signed_headers

log = structlog.get_logger("webhooks")

DELAYS_MS: Final = tuple(
    1000 * seconds for seconds in (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400, 86_400)
)
"""What is waited after each attempt; after the last, the delivery is given up. They are those that Standard Webhooks names."""
TIMEOUT_MS: Final = 10_000
_AT_ONCE_MAX: Final = 16
_EACH_MAX: Final = 4
_ANSWER_BYTES_MAX: Final = 4_096
_SUCCESS: Final = range(200, 300)
_GONE: Final = 410
_ERROR_LENGTH_MAX: Final = 300

_AWAY = (Unavailable, SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

_DUE = text("SELECT * FROM due_deliveries(:count, :each, CAST(:busy AS uuid[]), CAST(:delays_ms AS bigint[]))")
_UNSIGNED = text("SELECT * FROM unsigned_webhooks(:public_key)")
_SIGNED = text("""
    UPDATE webhooks SET public_key = :public_key WHERE tenant_id = :tenant_id AND webhook_id = :webhook_id
""")
_EVENT = text("""
    SELECT created_at, channel, type, data FROM timeline_events
    WHERE tenant_id = :tenant_id AND run_id = :run_id AND seq = :seq
""")
_ENDED = text("""
    UPDATE webhook_deliveries SET state = :state, status = :status, error = :error, ended_at = clock_timestamp()
    WHERE tenant_id = :tenant_id AND delivery_id = :delivery_id AND state = 'waiting'
""")
_FAILED = text("""
    UPDATE webhook_deliveries SET status = :status, error = :error
    WHERE tenant_id = :tenant_id AND delivery_id = :delivery_id AND state = 'waiting'
""")
# A receiver that has taken anything since this delivery was queued is not gone; it only does not take this one.
_DISABLE = text("""
    UPDATE webhooks w SET disabled_at = clock_timestamp(), disabled_reason = :reason
    FROM webhook_deliveries failed
    WHERE failed.tenant_id = :tenant_id AND failed.delivery_id = :delivery_id
      AND w.tenant_id = failed.tenant_id AND w.webhook_id = failed.webhook_id AND w.disabled_at IS NULL
      AND (:gone OR NOT EXISTS (
        SELECT 1 FROM webhook_deliveries d WHERE d.tenant_id = w.tenant_id AND d.webhook_id = w.webhook_id
          AND d.state = 'delivered' AND d.ended_at > failed.created_at))
    RETURNING 1
""")


class _Notice:
    """Stands where a lease does: a webhook is no action of an agent, it redeems no permit and spends nothing."""

    remaining_ms = TIMEOUT_MS

    async def begin(self) -> None:
        """Nothing to ask for."""

    def assert_live(self) -> None:
        """Nothing that could have run out."""


class WebhookSender:
    """Sends what is queued. Several may work at once: each takes what no other has taken.

    Args:
        engine: Database as the sweeper.
        key: What signs; see `holdfast.webhooks.signature`.
        interval_ms: Pause between two looks.
        private_hosts: Hosts inside that the operator has opened.
        delays_ms: What is waited after each attempt.
        resolve: Resolver of names.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        key: Ed25519PrivateKey,
        interval_ms: int,
        private_hosts: Sequence[str] = (),
        delays_ms: Sequence[int] = DELAYS_MS,
        resolve: Resolver = resolve_system,
    ) -> None:
        self._engine = engine
        self._key = key
        self._public_key = key.public_key().public_bytes_raw()
        self._interval_s = interval_ms / 1000
        self._private_hosts = tuple(private_hosts)
        self._delays_ms = list(delays_ms)
        self._resolve = resolve
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Lets what is being sent end, and nothing else begin."""
        self._stopping.set()

    async def run(self) -> None:
        """Sends until stopped; while PostgreSQL is away, it waits."""
        sending: dict[asyncio.Task[None], UUID] = {}
        while not self._stopping.is_set():
            due: Sequence[Row[Any]] = ()  # rows of text() carry no types
            try:
                await self._show_key()
                due = await self._take(_AT_ONCE_MAX - len(sending), busy=set(sending.values()))
            except _AWAY as error:
                log.warning("webhooks.database_away", error=type(error).__name__)
            sending |= {asyncio.create_task(self._deliver(row)): row.webhook_id for row in due}
            if not due:
                await self._pause()
            sending = {task: webhook_id for task, webhook_id in sending.items() if not task.done()}
        await asyncio.gather(*sending)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._interval_s):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _show_key(self) -> None:
        """Lets receivers know whose signature to expect."""
        async with tenantless(self._engine) as connection:
            unsigned = list(await connection.execute(_UNSIGNED, {"public_key": self._public_key}))
        for row in unsigned:
            await self._write(row.tenant_id, _SIGNED, webhook_id=row.webhook_id, public_key=self._public_key)

    async def _take(self, count: int, *, busy: Collection[UUID]) -> Sequence[Row[Any]]:  # rows of text() carry no types
        """Takes what is due, but for webhooks whose receiver has not answered yet: a slow one waits for itself only."""
        if not count:
            return ()
        given = {"count": count, "each": _EACH_MAX, "busy": list(busy), "delays_ms": self._delays_ms}
        async with tenantless(self._engine) as connection:
            return list(await connection.execute(_DUE, given))

    async def _deliver(self, row: Row[Any]) -> None:  # rows of text() carry no types
        with structlog.contextvars.bound_contextvars(tenant_id=str(row.tenant_id), delivery_id=str(row.delivery_id)):
            try:
                await self._try(row)
            except _AWAY as error:  # it was taken, so it is due again by itself
                log.warning("webhooks.database_away", error=type(error).__name__)

    async def _try(self, row: Row[Any]) -> None:  # rows of text() carry no types
        body = await self._body(row)
        status, error = await self._send(parse_url(row.url), str(row.delivery_id), body)
        which = {"delivery_id": row.delivery_id, "status": status, "error": error[:_ERROR_LENGTH_MAX]}
        if status in _SUCCESS:
            await self._write(row.tenant_id, _ENDED, **which, state="delivered")
            log.info("webhook.delivered", type=row.type, attempts=row.attempts)
            return
        log.info("webhook.failed", type=row.type, attempts=row.attempts, status=status, error=error)
        if status != _GONE and row.attempts < len(self._delays_ms):
            await self._write(row.tenant_id, _FAILED, **which)
            return
        await self._give_up(row, which)

    async def _give_up(self, row: Row[Any], result: Mapping[str, object]) -> None:  # rows of text() carry no types
        """Gives a delivery up, and switches its webhook off if the receiver is gone, or has taken nothing since it was queued."""
        gone = result["status"] == _GONE
        reason = "the receiver answered 410: it is gone" if gone else f"nothing was taken any more: {result['error']}"
        async with transaction(self._engine, row.tenant_id) as connection:
            await connection.execute(_ENDED, {"tenant_id": row.tenant_id, **result, "state": "given_up"})
            which = {"tenant_id": row.tenant_id, "delivery_id": row.delivery_id}
            switched_off = await connection.scalar(_DISABLE, {**which, "gone": gone, "reason": reason})
        if switched_off:
            log.warning("webhook.disabled", webhook_id=str(row.webhook_id), reason=reason)

    async def _body(self, row: Row[Any]) -> bytes:  # rows of text() carry no types
        """Returns what is sent: the same bytes at every attempt."""
        if row.type == TEST:
            return orjson.dumps({"type": TEST, "data": {}})
        async with transaction(self._engine, row.tenant_id) as connection:
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

    async def _send(self, url: Url, message_id: str, body: bytes) -> tuple[int | None, str]:
        """Sends once, to an address that was looked at; redirects are an answer like any other.

        Returns:
            The HTTP status, if there was an answer, and what was wrong.
        """
        private = is_private(url, self._private_hosts)
        if url.scheme != "https" and not private:
            return None, f"{url.host} is not opened for webhooks without TLS"
        found = await find_destination(url, self._resolve, allow_private=private)
        if isinstance(found, NoDestination):
            return None, found.reason
        headers = {
            **signed_headers(self._key, message_id, int(time.time()), body),
            "content-type": "application/json",
            "user-agent": "holdfast",
            "accept-encoding": "identity",
            "connection": "close",
        }
        reply = await ask(
            _Notice(),
            "POST",
            url,
            found,
            headers=headers,
            content=body,
            answer_bytes_max=_ANSWER_BYTES_MAX,
            timeout_ms=TIMEOUT_MS,
        )
        if isinstance(reply, NoAnswer):
            return None, f"no answer: {reply.reason}"
        return reply.status, "" if reply.status in _SUCCESS else f"the answer was {reply.status}"

    async def _write(self, tenant_id: UUID, statement: Any, **values: object) -> None:  # statements of text()
        async with transaction(self._engine, tenant_id) as connection:
            await connection.execute(statement, {"tenant_id": tenant_id, **values})
