"""Reading caps and holds for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.errors import NotFound, RequestInvalid
from holdfast.ledger.types import Scope
from holdfast.tenancy.service import find_project, find_user
from holdfast_verdict.canonical import JsonValue

_LIST_CAPS = text("""
    SELECT c.cap_id, c.scope_kind, c.scope_id,
           coalesce(t.slug, p.slug, u.name, CASE WHEN c.scope_kind IN ('role', 'run') THEN c.scope_id END,
                    (SELECT uu.name || '/' || pp.slug FROM users uu, projects pp
                     WHERE c.scope_kind = 'user_project' AND uu.tenant_id = c.tenant_id AND pp.tenant_id = c.tenant_id
                       AND c.scope_id = uu.user_id || '/' || pp.project_id)) AS scope_name,
           c.unit, c.window_kind, c.unlimited, c.limit_amount, c.reserved, c.committed, c.debt
    FROM caps c
    LEFT JOIN tenants t ON c.scope_kind = 'tenant' AND t.tenant_id = c.tenant_id
    LEFT JOIN projects p ON c.scope_kind = 'project' AND p.tenant_id = c.tenant_id AND CAST(p.project_id AS text) = c.scope_id
    LEFT JOIN users u ON c.scope_kind = 'user' AND u.tenant_id = c.tenant_id AND CAST(u.user_id AS text) = c.scope_id
    WHERE c.tenant_id = :tenant_id AND (CAST(:after AS uuid) IS NULL OR c.cap_id > :after)
      AND (CAST(:cap_id AS uuid) IS NULL OR c.cap_id = :cap_id)
      AND CASE WHEN CAST(:run_id AS text) IS NOT NULL THEN c.scope_kind = 'run' AND c.scope_id = :run_id
               ELSE c.scope_kind <> 'run' OR CAST(:cap_id AS uuid) IS NOT NULL END
    ORDER BY c.cap_id LIMIT :count
""")

_ROLE_EXISTS = text("SELECT 1 FROM roles WHERE tenant_id = :tenant_id AND name = :name LIMIT 1")
_RUN_BUDGET = text("""
    SELECT r.run_id, h.max_cost_nano_usd FROM runs r
    LEFT JOIN holds h ON h.tenant_id = r.tenant_id AND h.hold_id = r.budget_hold_id
    WHERE r.tenant_id = :tenant_id AND r.run_id = :run_id
""")

_LIST_HOLDS = text("""
    SELECT h.hold_id, h.run_id, h.step, h.try, h.kind, h.tool, h.state, h.idempotent, h.action, h.decision_id, h.max_cost_nano_usd,
           h.cost_nano_usd, h.created_at, h.expires_at, h.outward_at, h.unknown_at, h.settled_at, h.settled_by
    FROM holds h WHERE h.tenant_id = :tenant_id
      AND (CAST(:before AS uuid) IS NULL OR h.hold_id < :before)
      AND (CAST(:hold_id AS uuid) IS NULL OR h.hold_id = :hold_id)
      AND (CAST(:run_id AS uuid) IS NULL OR h.run_id = :run_id)
      AND (CAST(:state AS text) IS NULL OR h.state = :state)
    ORDER BY h.hold_id DESC LIMIT :count
""")


@dataclass(frozen=True, slots=True)
class NamedCap:
    """A cap with its balances and the name of what it limits."""

    cap_id: UUID
    scope_kind: str
    scope_id: str
    scope_name: str | None
    unit: str
    window: str
    unlimited: bool
    limit_amount: int
    reserved: int
    committed: int
    debt: int


@dataclass(frozen=True, slots=True)
class HoldRow:
    """A hold as people see it."""

    hold_id: UUID
    run_id: UUID
    step: int
    try_number: int
    kind: str
    tool: str
    state: str
    idempotent: bool
    action: Mapping[str, JsonValue]
    decision_id: UUID
    max_cost_nano_usd: int
    cost_nano_usd: int | None
    created_at: datetime
    expires_at: datetime
    outward_at: datetime | None
    unknown_at: datetime | None
    settled_at: datetime | None
    settled_by: str


async def list_named_caps(
    connection: AsyncConnection,
    tenant_id: UUID,
    *,
    after: UUID | None = None,
    run_id: UUID | None = None,
    cap_id: UUID | None = None,
    count: int = 1,
) -> list[NamedCap]:
    """Returns caps in order of their making: those of one run, or all that are not of a run, or a single one."""
    rows = await connection.execute(
        _LIST_CAPS,
        {
            "tenant_id": tenant_id,
            "after": after,
            "run_id": str(run_id) if run_id else None,
            "cap_id": cap_id,
            "count": count,
        },
    )
    return [NamedCap(*row) for row in rows]


async def find_scope(connection: AsyncConnection, tenant_id: UUID, kind: str, name: str) -> Scope:
    """Returns what a cap is to be set on, by the name people use.

    Args:
        connection: The caller's transaction.
        tenant_id: The tenant.
        kind: `tenant`, `project`, `user`, `role`, `run` or `user_project`.
        name: Slug of the project, name of the user or role, id of the run, or `user/project`; nothing for the tenant.

    Raises:
        NotFound: The tenant has no such thing.
        RequestInvalid: The name does not have the form.
    """
    if kind == "tenant":
        if name:
            raise RequestInvalid(
                "scope.name: a tenant's cap is on the caller's own tenant", remedy="leave the name out"
            )
        return Scope(kind, str(tenant_id))
    if not name:
        raise RequestInvalid(f"scope.name: say which {kind}")
    if kind == "project":
        return Scope(kind, str(await find_project(connection, tenant_id, name)))
    if kind == "user":
        return Scope(kind, str(await find_user(connection, tenant_id, name)))
    if kind == "user_project":
        user, _, project = name.rpartition("/")
        user_id = await find_user(connection, tenant_id, user)
        return Scope(kind, f"{user_id}/{await find_project(connection, tenant_id, project)}")
    if kind == "role":
        if await connection.scalar(_ROLE_EXISTS, {"tenant_id": tenant_id, "name": name}) is None:
            raise NotFound(f"there is no role {name!r}")
        return Scope(kind, name)
    try:
        run_id = UUID(name)
    except ValueError:
        raise RequestInvalid("scope.name: this is no id of a run") from None
    await run_budget(connection, tenant_id, run_id)
    return Scope(kind, str(run_id))


async def run_budget(connection: AsyncConnection, tenant_id: UUID, run_id: UUID) -> int | None:
    """Returns the budget that was guaranteed to a run, or None if none was.

    Raises:
        NotFound: The tenant has no such run.
    """
    row = (await connection.execute(_RUN_BUDGET, {"tenant_id": tenant_id, "run_id": run_id})).one_or_none()
    if row is None:
        raise NotFound(f"there is no run {run_id}")
    budget: int | None = row.max_cost_nano_usd
    return budget


async def list_holds(
    connection: AsyncConnection,
    tenant_id: UUID,
    *,
    before: UUID | None = None,
    run_id: UUID | None = None,
    state: str | None = None,
    hold_id: UUID | None = None,
    count: int = 1,
) -> list[HoldRow]:
    """Returns holds, newest first, or a single one."""
    rows = await connection.execute(
        _LIST_HOLDS,
        {
            "tenant_id": tenant_id,
            "before": before,
            "run_id": run_id,
            "state": state,
            "hold_id": hold_id,
            "count": count,
        },
    )
    return [_hold(row) for row in rows]


def _hold(row: Row[tuple[object, ...]]) -> HoldRow:
    return HoldRow(
        hold_id=row.hold_id,
        run_id=row.run_id,
        step=row.step,
        try_number=getattr(row, "try"),
        kind=row.kind,
        tool=row.tool,
        state=row.state,
        idempotent=row.idempotent,
        action=orjson.loads(row.action),
        decision_id=row.decision_id,
        max_cost_nano_usd=row.max_cost_nano_usd,
        cost_nano_usd=row.cost_nano_usd,
        created_at=row.created_at,
        expires_at=row.expires_at,
        outward_at=row.outward_at,
        unknown_at=row.unknown_at,
        settled_at=row.settled_at,
        settled_by=row.settled_by,
    )
