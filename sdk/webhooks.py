"""Webhooks, and what became of what was sent to them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver that is told of events.

    Attributes:
        actor: Who added it.
        public_key: Checks its signatures, `whpk_` and base64; empty for the first second of a webhook.
        disabled_at: None while it is told of events.
    """

    webhook_id: str
    url: str
    events: list[str]
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
        delivery_id: The `webhook-id` that the receiver sees.
        run_id: None for a test.
        due_at: When it is tried next; None when it has ended.
        status: HTTP status of the last answer.
        error: What was wrong with the last attempt.
    """

    delivery_id: str
    type: str
    run_id: str | None
    seq: int | None
    created_at: datetime
    state: Literal["waiting", "delivered", "given_up"]
    attempts: int
    due_at: datetime | None
    status: int | None
    error: str
    ended_at: datetime | None
