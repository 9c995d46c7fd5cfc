"""Sending webhooks: what is signed is sent and tried again, each at least once, until its receiver has taken it.

It runs where everything runs that touches the world, in the executors: they have a way outside, and no key and no right on a table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncEngine
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from activities.tools.destination import NoDestination, Resolver, ask, find_destination, resolve_system
from activities.tools.wire import NoAnswer
from holdfast.database.engine import AWAY, tenantless
from holdfast.tools.urls import Url, parse_url
from holdfast.webhooks.service import is_private
from holdfast.webhooks.signature import FRESH_S, signed_headers

log = structlog.get_logger("webhooks")

DELAYS_MS: Final = tuple(
    1000 * seconds for seconds in (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400, 86_400)
)
"""What is waited after each attempt; after the last, the delivery is given up. They are those that Standard Webhooks names."""
TIMEOUT_MS: Final = 10_000
_INTERVAL_MS: Final = 1_000
_AT_ONCE_MAX: Final = 16
_EACH_MAX: Final = 4
_ANSWER_BYTES_MAX: Final = 4_096
_SUCCESS: Final = range(200, 300)
_GONE: Final = 410


_TAKE = text("""
    SELECT * FROM take_deliveries(:count, :each, CAST(:busy AS uuid[]), CAST(:delays_ms AS bigint[]), :fresh_s)
""")
_END = text("SELECT end_attempt(:delivery_id, :attempts, CAST(:status AS integer), :error, :state, :gone)")


class _Notice:
    """Stands where a lease does: a webhook is no action of an agent, it redeems no permit and spends nothing."""

    remaining_ms = TIMEOUT_MS

    async def begin(self) -> None:
        """Nothing to ask for."""

    def assert_live(self) -> None:
        """Nothing that could have run out."""


class WebhookSender:
    """Sends what is signed and due. Several may work at once: each takes what no other has taken.

    Args:
        engine: Database as the executor.
        private_hosts: Hosts inside that the operator has opened.
        interval_ms: Pause between two looks.
        delays_ms: What is waited after each attempt.
        resolve: Resolver of names.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        private_hosts: Sequence[str] = (),
        interval_ms: int = _INTERVAL_MS,
        delays_ms: Sequence[int] = DELAYS_MS,
        resolve: Resolver = resolve_system,
    ) -> None:
        self._engine = engine
        self._private_hosts = tuple(private_hosts)
        self._interval_s = interval_ms / 1000
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
            taken: Sequence[Row[Any]] = ()  # rows of text() carry no types
            try:
                taken = await self.take(_AT_ONCE_MAX - len(sending), busy=set(sending.values()))
            except AWAY as error:
                log.warning("webhooks.database_away", error=type(error).__name__)
            sending |= {asyncio.create_task(self._deliver(row)): row.webhook_id for row in taken}
            if not taken:
                await self._pause()
            sending = {task: webhook_id for task, webhook_id in sending.items() if not task.done()}
        await asyncio.gather(*sending)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._interval_s):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def take(self, count: int, *, busy: Collection[UUID]) -> Sequence[Row[Any]]:  # rows of text() carry no types
        """Takes what is due, but for webhooks whose receiver has not answered yet: a slow one waits for itself only."""
        if not count:
            return ()
        given = {
            "count": count,
            "each": _EACH_MAX,
            "busy": list(busy),
            "delays_ms": self._delays_ms,
            "fresh_s": FRESH_S,
        }
        async with tenantless(self._engine) as connection:
            return list(await connection.execute(_TAKE, given))

    async def _deliver(self, row: Row[Any]) -> None:  # rows of text() carry no types
        with structlog.contextvars.bound_contextvars(delivery_id=str(row.delivery_id), webhook_id=str(row.webhook_id)):
            status, error = await self._send(row)
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(AWAY),
                wait=wait_random_exponential(multiplier=0.1, max=2),
                stop=stop_after_delay(TIMEOUT_MS / 1000),
                reraise=True,
            )
            try:
                # what was taken and is not written as taken is sent once more
                await retrying(self._end, row, status, error)
            except AWAY as away:
                log.warning("webhooks.database_away", error=type(away).__name__)

    async def _end(self, row: Row[Any], status: int | None, error: str) -> None:  # rows of text() carry no types
        gone, last = status == _GONE, row.attempts >= len(self._delays_ms)
        state = "delivered" if status in _SUCCESS else "given_up" if gone or last else "waiting"
        log.info("webhook.sent", type=row.type, attempts=row.attempts, status=status, state=state, error=error)
        result = {"delivery_id": row.delivery_id, "attempts": row.attempts, "status": status, "error": error}
        async with tenantless(self._engine) as connection:
            if await connection.scalar(_END, {**result, "state": state, "gone": gone}):
                log.warning("webhook.disabled", error=error)

    async def _send(self, row: Row[Any]) -> tuple[int | None, str]:  # rows of text() carry no types
        """Sends once, to an address that was looked at; redirects are an answer like any other.

        Returns:
            The HTTP status, if there was an answer, and what was wrong.
        """
        url: Url = parse_url(row.url)
        private = is_private(url, self._private_hosts)
        if url.scheme != "https" and not private:
            return None, f"{url.host} is not opened for webhooks without TLS"
        found = await find_destination(url, self._resolve, allow_private=private)
        if isinstance(found, NoDestination):
            return None, found.reason
        reply = await ask(
            _Notice(),
            "POST",
            url,
            found,
            headers={
                **signed_headers(str(row.delivery_id), row.signed_s, row.signature),
                "content-type": "application/json",
                "user-agent": "holdfast",
                "accept-encoding": "identity",
                "connection": "close",
            },
            content=row.body,
            answer_bytes_max=_ANSWER_BYTES_MAX,
            timeout_ms=TIMEOUT_MS,
        )
        if isinstance(reply, NoAnswer):
            return None, f"no answer: {reply.reason}"
        return reply.status, "" if reply.status in _SUCCESS else f"the answer was {reply.status}"
