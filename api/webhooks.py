"""Webhooks: who is told, signed, of what happens; added, tried, switched on again and removed."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from api.authentication import Caller, require_reader
from api.context import Parts
from api.forms import Answer, Cursor, Form, IdempotencyKey, Page, PageSize, Time, claim_for, id_cursor, page_of
from holdfast.database.engine import transaction
from holdfast.tenancy import idempotency
from holdfast.tenancy.principals import ADMIN, OWNER
from holdfast.webhooks import service
from holdfast.webhooks.service import DeliveryState, EventType

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])


class AddWebhook(Form):
    """Who is to be told, and of what."""

    url: Annotated[str, Field(min_length=1, max_length=2048, description="https; redirects are not followed")]
    events: Annotated[
        list[EventType], Field(min_length=1, max_length=20, description="types of events, as on the timeline")
    ]
    description: Annotated[str, Field(max_length=200, description="for people")] = ""


class Webhook(Answer):
    """A receiver of events."""

    webhook_id: UUID
    url: str
    events: list[str]
    description: str
    actor: str = Field(description="who added it")
    created_at: Time
    public_key: str = Field(
        description="checks its signatures, `whpk_` and base64; empty for the first second of a webhook"
    )
    disabled_at: Time | None = Field(description="null while it is told of events")
    disabled_reason: str


class EnabledWebhook(Answer):
    """A webhook that is told again."""

    webhook: Webhook
    sent_again: int = Field(description="deliveries that had been given up, and are tried anew")


class Delivery(Answer):
    """One event for one webhook."""

    delivery_id: UUID = Field(description="the `webhook-id` that the receiver sees")
    type: str
    run_id: UUID | None = Field(description="null for a test")
    seq: int | None = Field(description="the event's number in its run")
    created_at: Time
    state: DeliveryState
    attempts: int
    due_at: Time | None = Field(description="when it is tried next; null when it has ended")
    status: int | None = Field(description="HTTP status of the last answer")
    error: str = Field(description="what was wrong with the last attempt")
    ended_at: Time | None


class QueuedTest(Answer):
    """A test that is on its way."""

    delivery_id: UUID


@router.post("", summary="Add a webhook", status_code=201)
async def add_webhook(
    body: AddWebhook, caller: Caller, parts: Parts, idempotency_key: IdempotencyKey = None
) -> Webhook:
    """Adds a receiver: it is told of every such event of the tenant's runs from now on, at least once each, signed."""
    caller.require(OWNER, ADMIN)
    tenant_id = caller.tenant_id
    private_hosts = parts.settings.webhook_private_hosts.split(",")
    url = service.allowed_url(body.url, list(filter(None, private_hosts)))
    claim = claim_for(caller, "POST /v1/webhooks", idempotency_key, body.model_dump(mode="json"))
    async with transaction(parts.engine, tenant_id) as connection:
        if claim is not None and (kept := await idempotency.claim(connection, claim)) is not None:
            webhook = await service.read_webhook(connection, tenant_id, UUID(str(kept["webhook_id"])))
        else:
            webhook = await service.add_webhook(connection, caller, url, body.events, body.description)
            if claim is not None:
                await idempotency.keep(connection, claim, {"webhook_id": str(webhook.webhook_id)})
    return Webhook.model_validate(webhook)


@router.get("", summary="List webhooks, newest first")
async def list_webhooks(caller: Caller, parts: Parts) -> Page[Webhook]:
    """Lists the tenant's webhooks; there are never more than a page of them."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await service.list_webhooks(connection, caller.tenant_id)
    return Page[Webhook](items=[Webhook.model_validate(webhook) for webhook in found], next_cursor=None)


@router.get("/{webhook_id}", summary="Show a webhook")
async def get_webhook(webhook_id: UUID, caller: Caller, parts: Parts) -> Webhook:
    """Shows a webhook, with the public key that checks its signatures."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        return Webhook.model_validate(await service.read_webhook(connection, caller.tenant_id, webhook_id))


@router.delete("/{webhook_id}", summary="Remove a webhook", status_code=204)
async def remove_webhook(webhook_id: UUID, caller: Caller, parts: Parts) -> None:
    """Removes a webhook; what waits for it is not sent any more."""
    caller.require(OWNER, ADMIN)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        await service.remove_webhook(connection, caller, webhook_id)


@router.post("/{webhook_id}/enable", summary="Switch a webhook on again")
async def enable_webhook(webhook_id: UUID, caller: Caller, parts: Parts) -> EnabledWebhook:
    """Switches a webhook on again that was given up, and sends once more what was given up with it.

    What happened while it was off was not kept for it: look at the timelines.
    """
    caller.require(OWNER, ADMIN)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        webhook, again = await service.enable_webhook(connection, caller, webhook_id)
    return EnabledWebhook(webhook=Webhook.model_validate(webhook), sent_again=again)


@router.post("/{webhook_id}/test", summary="Send a test", status_code=202)
async def try_webhook(webhook_id: UUID, caller: Caller, parts: Parts) -> QueuedTest:
    """Queues an event of the type `webhook.test`; the list of deliveries says what came of it."""
    caller.require(OWNER, ADMIN)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        return QueuedTest(delivery_id=await service.queue_test(connection, caller.tenant_id, webhook_id))


@router.get("/{webhook_id}/deliveries", summary="List a webhook's deliveries, newest first")
async def list_deliveries(
    webhook_id: UUID, caller: Caller, parts: Parts, cursor: Cursor = None, size: PageSize = 50
) -> Page[Delivery]:
    """Lists what was, is and will be sent, with what came of the last attempt."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await service.list_deliveries(
            connection, caller.tenant_id, webhook_id, before=id_cursor(cursor), count=size + 1
        )
    ids = [str(delivery.delivery_id) for delivery in found]
    return page_of([Delivery.model_validate(delivery) for delivery in found], ids, size)
