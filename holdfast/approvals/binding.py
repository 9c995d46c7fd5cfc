"""What an edited action is bound to: computed as the gate that asked has computed it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.approvals.errors import ApprovalExpired
from holdfast.policies.store import read_pinned
from holdfast_verdict.canonical import JsonValue, digest
from holdfast_verdict.engine.gates import approval_binding

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def expires_at_ms(expires_at: datetime) -> int:
    """Returns an expiry as bindings have it: whole milliseconds of the epoch, exactly."""
    return (expires_at - _EPOCH) // timedelta(milliseconds=1)


async def rebind(
    connection: AsyncConnection,
    tenant_id: UUID,
    run_id: UUID,
    *,
    rule_id: str,
    expires_at: datetime,
    action: dict[str, JsonValue],
) -> bytes:
    """Returns the binding of an action under the policy that the run is pinned to.

    Args:
        connection: The transaction.
        tenant_id: The tenant.
        run_id: The run.
        rule_id: The gate that asked.
        expires_at: When the approval expires.
        action: The whole action, in canonical form.

    Raises:
        ApprovalExpired: The policy has no such gate any more.
    """
    pinned = await read_pinned(connection, tenant_id, run_id)
    rule = next((rule for rule in pinned.policy.rules if rule.id == rule_id), None)
    if rule is None or rule.gate is None:
        raise ApprovalExpired("the policy of the run has no such gate any more", remedy="let the step be tried again")
    return approval_binding(pinned.policy.policy_hash, digest(action), rule.id, rule.gate, expires_at_ms(expires_at))
