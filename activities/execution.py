"""The execution that a redeemed permit allows, as the worker's interceptor hands it to the executing activity."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from temporalio import activity

from activities.lease import Lease
from holdfast.artefacts.storage import ObjectStorage
from holdfast.errors import PermitInvalid
from holdfast.permits import Permit
from holdfast.providers.model import ModelRequest
from holdfast.tools.toolset import Tool
from holdfast_verdict.canonical import JsonValue


@dataclass(frozen=True, slots=True)
class Execution:
    """Everything one execution may use, for as long as its lease lasts.

    Attributes:
        permit: The redeemed permit.
        action: The canonical action, exactly as it was decided.
        credential: The one credential it was handed.
        lease: The right to go outside, once.
        tenant: The tenant's slug.
        idempotency_key: The same for all tries of the step, so that the outside can tell a repetition.
        request: For `llm.call`, the whole request, checked against the action's digests.
        tool: For `tool.call`, the definition, checked against the action's digest.
        objects: For `code.exec`, object storage in S3, as far as this execution may use it.
    """

    permit: Permit
    action: dict[str, JsonValue]
    credential: Mapping[str, JsonValue]
    lease: Lease
    tenant: str
    idempotency_key: str
    request: ModelRequest | None = None
    tool: Tool | None = None
    objects: ObjectStorage | None = None


def handed_back() -> bool:
    """Says whether this activity was cancelled because its process stops, not because anybody wants the run to end."""
    details = activity.cancellation_details()
    return details is not None and details.worker_shutdown


_current: ContextVar[Execution | None] = ContextVar("execution", default=None)


def enter(execution: Execution) -> None:
    """Makes the execution the current one of this activity. Only the worker's interceptor calls this."""
    _current.set(execution)


def current() -> Execution:
    """Returns the current execution.

    Raises:
        PermitInvalid: None was redeemed: the activity runs outside the gate (LAW 1).
    """
    execution = _current.get()
    if execution is None:
        raise PermitInvalid("no permit was redeemed for this activity", remedy="run it on a Holdfast worker")
    return execution
