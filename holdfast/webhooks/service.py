"""Webhooks of a tenant: added, listed, tried, switched on again and removed; and what became of each delivery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, get_args
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.decisions.record import record_change
from holdfast.errors import Conflict, NotFound, RequestInvalid
from holdfast.ids import new_id
from holdfast.tenancy.principals import Principal
from holdfast.tools.urls import DEFAULT_PORTS, Url, parse_url
from holdfast.webhooks.signature import public_key_text
from holdfast_verdict.canonical import JsonValue

EventType = Literal[
    "approval.requested",
    "approval.decided",
    "approval.edited",
    "approval.delegated",
    "approval.escalated",
    "hold.unknown",
    "hold.resolved",
    "cap.threshold",
    "run.waiting",
    "run.ended",
]
"""What can be told; the trigger `queue_webhooks` of the schema knows the same."""
EVENTS: Final[tuple[EventType, ...]] = get_args(EventType)
TEST: Final = "webhook.test"
WEBHOOKS_MAX: Final = 20

DeliveryState = Literal["waiting", "delivered", "given_up"]

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 1))")
_INSERT = text("""
    INSERT INTO webhooks (tenant_id, webhook_id, url, events, description, actor)
    VALUES (:tenant_id, :webhook_id, :url, :events, :description, :actor)
""")
_COLUMNS = "webhook_id, url, events, description, actor, created_at, public_key, disabled_at, disabled_reason"
_READ = text(f"""
    SELECT {_COLUMNS} FROM webhooks WHERE tenant_id = :tenant_id AND webhook_id = :webhook_id AND removed_at IS NULL
""")  # noqa: S608 (a constant of this module)
_LIST = text(f"""
    SELECT {_COLUMNS} FROM webhooks WHERE tenant_id = :tenant_id AND removed_at IS NULL ORDER BY webhook_id DESC
""")  # noqa: S608 (as above)
_REMOVE = text("""
    UPDATE webhooks SET removed_at = clock_timestamp() WHERE tenant_id = :tenant_id AND webhook_id = :webhook_id
""")
_ENABLE = text("""
    UPDATE webhooks SET disabled_at = NULL, disabled_reason = '' WHERE tenant_id = :tenant_id AND webhook_id = :webhook_id
""")
_QUEUE_TEST = text("""
    INSERT INTO webhook_deliveries (tenant_id, delivery_id, webhook_id, type)
    VALUES (:tenant_id, :delivery_id, :webhook_id, :type)
""")
_QUEUE_AGAIN = text("""
    UPDATE webhook_deliveries SET state = 'waiting', attempts = 0, due_at = clock_timestamp(), ended_at = NULL
    WHERE tenant_id = :tenant_id AND webhook_id = :webhook_id AND state = 'given_up' RETURNING 1
""")
_DELIVERIES = text("""
    SELECT delivery_id, type, run_id, seq, created_at, state, attempts, CASE WHEN state = 'waiting' THEN due_at END,
           status, error, ended_at
    FROM webhook_deliveries
    WHERE tenant_id = :tenant_id AND webhook_id = :webhook_id AND (CAST(:before AS uuid) IS NULL OR delivery_id < :before)
    ORDER BY delivery_id DESC LIMIT :count
""")


@dataclass(frozen=True, slots=True)
class Webhook:
    """Who is told of what.

    Attributes:
        url: Where it is sent, in its one spelling.
        events: The types of events that are told.
        public_key: What its signatures are checked with, `whpk_…`; empty until a sender has seen it, which takes a second.
        disabled_at: When it was given up; None while it is told.
    """

    webhook_id: UUID
    url: str
    events: Sequence[str]
    description: str
    actor: str
    created_at: datetime
    public_key: str
    disabled_at: datetime | None
    disabled_reason: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one webhook.

    Attributes:
        delivery_id: Also the `webhook-id` that the receiver sees.
        run_id: The event's run; None for a test.
        seq: The event's number in it.
        attempts: How often it was sent.
        due_at: When it is sent next; None when it has ended.
        status: HTTP status of the last answer, if there was one.
        error: What was wrong with the last attempt.
    """

    delivery_id: UUID
    type: str
    run_id: UUID | None
    seq: int | None
    created_at: datetime
    state: DeliveryState
    attempts: int
    due_at: datetime | None
    status: int | None
    error: str
    ended_at: datetime | None


def allowed_url(given: str, private_hosts: Sequence[str]) -> Url:
    """Reads where a webhook goes.

    Args:
        given: What somebody wrote.
        private_hosts: Hosts, as `host` or `host:port`, that the operator has opened though they are inside or without TLS.

    Raises:
        RequestInvalid: It is no URL, or goes without TLS where that is not opened.
    """
    try:
        url = parse_url(given)
    except ValueError as error:
        raise RequestInvalid(f"url: {error}") from None
    if url.scheme != "https" and not is_private(url, private_hosts):
        raise RequestInvalid(
            f"url: {url.text} is not https",
            remedy="use https; an operator may open hosts inside by HOLDFAST_WEBHOOK_PRIVATE_HOSTS",
        )
    return url


def is_private(url: Url, private_hosts: Sequence[str]) -> bool:
    """Says whether an operator has opened a host inside for webhooks."""
    return any(
        entry in (f"{url.host}:{url.port}", url.host if url.port == DEFAULT_PORTS[url.scheme] else "")
        for entry in private_hosts
    )


async def add_webhook(
    connection: AsyncConnection, principal: Principal, url: Url, events: Sequence[str], description: str
) -> Webhook:
    """Adds a webhook; it is told of what happens from the commit on.

    Raises:
        Conflict: There are as many as there may be.
    """
    tenant_id = principal.tenant_id
    await connection.execute(_LOCK, {"name": f"{tenant_id} webhooks"})
    if len(await list_webhooks(connection, tenant_id)) >= WEBHOOKS_MAX:
        raise Conflict(f"a tenant has at most {WEBHOOKS_MAX} webhooks", remedy="remove one that is not needed")
    wanted = [event for event in EVENTS if event in events]
    webhook_id = new_id()
    given = {"webhook_id": webhook_id, "url": url.text, "events": wanted, "description": description}
    await connection.execute(_INSERT, {**given, "tenant_id": tenant_id, "actor": principal.actor})
    webhook = await read_webhook(connection, tenant_id, webhook_id)
    await _record(connection, principal, webhook, "webhook.added", f"{url.authority} is told of {', '.join(wanted)}")
    return webhook


async def list_webhooks(connection: AsyncConnection, tenant_id: UUID) -> list[Webhook]:
    """Returns the tenant's webhooks, newest first."""
    return [_webhook(*row) for row in await connection.execute(_LIST, {"tenant_id": tenant_id})]


async def read_webhook(connection: AsyncConnection, tenant_id: UUID, webhook_id: UUID) -> Webhook:
    """Returns a webhook.

    Raises:
        NotFound: The tenant has no such webhook, or it was removed.
    """
    row = (await connection.execute(_READ, {"tenant_id": tenant_id, "webhook_id": webhook_id})).one_or_none()
    if row is None:
        raise NotFound(f"there is no webhook {webhook_id}")
    return _webhook(*row)


async def remove_webhook(connection: AsyncConnection, principal: Principal, webhook_id: UUID) -> None:
    """Removes a webhook; what waits for it is not sent any more.

    Raises:
        NotFound: See `read_webhook`.
    """
    webhook = await read_webhook(connection, principal.tenant_id, webhook_id)
    await connection.execute(_REMOVE, {"tenant_id": principal.tenant_id, "webhook_id": webhook_id})
    await _record(connection, principal, webhook, "webhook.removed", f"{webhook.url} is told nothing any more")


async def enable_webhook(connection: AsyncConnection, principal: Principal, webhook_id: UUID) -> tuple[Webhook, int]:
    """Switches a webhook on again, and has everything sent once more that was given up.

    Returns:
        The webhook, and how many deliveries are sent once more.

    Raises:
        NotFound: See `read_webhook`.
    """
    which = {"tenant_id": principal.tenant_id, "webhook_id": webhook_id}
    await read_webhook(connection, principal.tenant_id, webhook_id)
    await connection.execute(_ENABLE, which)
    again = len((await connection.execute(_QUEUE_AGAIN, which)).all())
    webhook = await read_webhook(connection, principal.tenant_id, webhook_id)
    await _record(connection, principal, webhook, "webhook.enabled", f"{webhook.url} is told again")
    return webhook, again


async def queue_test(connection: AsyncConnection, tenant_id: UUID, webhook_id: UUID) -> UUID:
    """Queues an event that says nothing, to see whether it arrives.

    Returns:
        Id of the delivery.

    Raises:
        NotFound: See `read_webhook`.
        Conflict: The webhook is switched off.
    """
    webhook = await read_webhook(connection, tenant_id, webhook_id)
    if webhook.disabled_at is not None:
        raise Conflict(f"the webhook is switched off: {webhook.disabled_reason}", remedy="switch it on again first")
    delivery_id = new_id()
    given = {"tenant_id": tenant_id, "delivery_id": delivery_id, "webhook_id": webhook_id, "type": TEST}
    await connection.execute(_QUEUE_TEST, given)
    return delivery_id


async def list_deliveries(
    connection: AsyncConnection, tenant_id: UUID, webhook_id: UUID, *, before: UUID | None, count: int
) -> list[Delivery]:
    """Returns deliveries of a webhook, newest first.

    Raises:
        NotFound: See `read_webhook`.
    """
    await read_webhook(connection, tenant_id, webhook_id)
    given = {"tenant_id": tenant_id, "webhook_id": webhook_id, "before": before, "count": count}
    return [Delivery(*row) for row in await connection.execute(_DELIVERIES, given)]


def _webhook(
    webhook_id: UUID,
    url: str,
    events: list[str],
    description: str,
    actor: str,
    created_at: datetime,
    public_key: bytes | None,
    disabled_at: datetime | None,
    disabled_reason: str,
) -> Webhook:
    shown = "" if public_key is None else public_key_text(public_key)
    return Webhook(webhook_id, url, tuple(events), description, actor, created_at, shown, disabled_at, disabled_reason)


async def _record(connection: AsyncConnection, principal: Principal, webhook: Webhook, code: str, message: str) -> None:
    change: dict[str, JsonValue] = {
        "webhook_id": str(webhook.webhook_id),
        "url": webhook.url,
        "events": list(webhook.events),
    }
    await record_change(connection, principal.tenant_id, principal, code, message, change)
