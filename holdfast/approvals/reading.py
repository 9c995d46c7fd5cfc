"""Reading approvals: what an approver is shown is what will be executed, to the byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import orjson
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.errors import NotFound
from holdfast_verdict.canonical import JsonValue

State = Literal["pending", "approved", "denied", "expired"]

_COLUMNS = """
    a.approval_id, a.run_id, a.step,
    coalesce(a.verdict, CASE WHEN a.expires_at <= now() OR r.ended_at IS NOT NULL THEN 'expired' ELSE 'pending' END) AS state,
    a.action, a.edited_action, a.rule, a.approver_role, a.max_cost_nano_usd, a.requester_id, q.name AS requester,
    a.created_at, a.expires_at, d.name AS decided_by, a.decided_at, a.comment, r.agent_name, r.role_name,
    (SELECT gate.value ->> 'message' FROM roles o, jsonb_array_elements(o.rules) AS gate (value)
     WHERE o.tenant_id = a.tenant_id AND o.name = r.role_name AND o.version = r.role_version
       AND gate.value ->> 'rule_id' = a.rule LIMIT 1) AS message
    FROM approvals a
    JOIN runs r ON r.tenant_id = a.tenant_id AND r.run_id = a.run_id
    JOIN users q ON q.tenant_id = a.tenant_id AND q.user_id = a.requester_id
    LEFT JOIN users d ON d.tenant_id = a.tenant_id AND d.user_id = a.decided_by
"""

_READ = text(f"SELECT {_COLUMNS} WHERE a.tenant_id = :tenant_id AND a.approval_id = :approval_id")

_LIST = text(f"""
    SELECT * FROM (SELECT {_COLUMNS} WHERE a.tenant_id = :tenant_id) AS approval
    WHERE (CAST(:before AS uuid) IS NULL OR approval_id < :before)
      AND (CAST(:run_id AS uuid) IS NULL OR run_id = :run_id)
      AND (CAST(:state AS text) IS NULL OR state = :state)
    ORDER BY approval_id DESC LIMIT :count
""")  # noqa: S608 (constant)


@dataclass(frozen=True, slots=True)
class ApprovalView:
    """An approval as people see it.

    Attributes:
        state: Where it stands.
        action: Exactly what the agent wants to do.
        edited_action: What an approver put in its place, if one did.
        rule: The gate that asks.
        message: What the gate says, or empty.
        requester: Who started the run; may not decide.
    """

    approval_id: UUID
    run_id: UUID
    step: int
    state: State
    action: Mapping[str, JsonValue]
    edited_action: Mapping[str, JsonValue] | None
    rule: str
    message: str
    approver_role: str
    max_cost_nano_usd: int
    requester_id: UUID
    requester: str
    agent: str
    role: str
    created_at: datetime
    expires_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    comment: str


def _view(row: Row[tuple[object, ...]]) -> ApprovalView:
    return ApprovalView(
        approval_id=row.approval_id,
        run_id=row.run_id,
        step=row.step,
        state=row.state,
        action=orjson.loads(row.action),
        edited_action=orjson.loads(row.edited_action) if row.edited_action is not None else None,
        rule=row.rule,
        message=row.message or "",
        approver_role=row.approver_role,
        max_cost_nano_usd=row.max_cost_nano_usd,
        requester_id=row.requester_id,
        requester=row.requester,
        agent=row.agent_name,
        role=row.role_name,
        created_at=row.created_at,
        expires_at=row.expires_at,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
        comment=row.comment,
    )


async def read_approval(connection: AsyncConnection, tenant_id: UUID, approval_id: UUID) -> ApprovalView:
    """Returns one approval.

    Raises:
        NotFound: The tenant has no such approval.
    """
    row = (await connection.execute(_READ, {"tenant_id": tenant_id, "approval_id": approval_id})).one_or_none()
    if row is None:
        raise NotFound(f"there is no approval {approval_id}")
    return _view(row)


async def list_approvals(
    connection: AsyncConnection,
    tenant_id: UUID,
    *,
    state: State | None,
    run_id: UUID | None,
    before: UUID | None,
    count: int,
) -> list[ApprovalView]:
    """Returns approvals, newest first."""
    rows = await connection.execute(
        _LIST, {"tenant_id": tenant_id, "state": state, "run_id": run_id, "before": before, "count": count}
    )
    return [_view(row) for row in rows]
