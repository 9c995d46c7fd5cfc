"""Reading caps and holds for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final
from uuid import UUID

import orjson
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.errors import NotFound, RequestInvalid
from holdfast.ledger.scopes import PAIRS
from holdfast.ledger.types import Scope
from holdfast.tenancy.service import find_project, find_user
from holdfast_verdict.canonical import JsonValue

# A window that has ended and that no hold has followed is shown as the one in force: nothing of it is used. A rolling one is shown with
# all the buckets that count in this hour.
_CAPS = """
    SELECT c.cap_id, c.scope_kind, c.scope_id,
           CASE c.scope_kind WHEN 'tenant' THEN t.slug WHEN 'project' THEN p.slug WHEN 'user' THEN u.name
               WHEN 'user_project' THEN u.name || '/' || p.slug WHEN 'user_role' THEN u.name || '/' || split_part(c.scope_id, '/', 2)
               WHEN 'project_role' THEN p.slug || '/' || split_part(c.scope_id, '/', 2) ELSE c.scope_id END,
           c.unit, c.window_kind, c.unlimited, c.limit_amount,
           CASE WHEN c.rolls THEN w.reserved WHEN c.fresh THEN 0 ELSE c.reserved END,
           CASE WHEN c.rolls THEN w.committed WHEN c.fresh THEN 0 ELSE c.committed END,
           CASE WHEN c.rolls THEN w.debt WHEN c.fresh THEN 0 ELSE c.debt END, c.thresholds,
           CASE WHEN c.rolls THEN least(c.threshold_passed,
                   reached_threshold(c.thresholds, c.unlimited, c.limit_amount, w.committed + w.debt))
               WHEN c.fresh THEN 0 ELSE c.threshold_passed END,
           CASE WHEN c.rolls THEN begins.at - make_interval(hours => c.rolling_hours) ELSE nullif(begins.at, '-infinity') END,
           nullif(CASE WHEN c.fresh THEN window_end(c.window_kind, now(), t.time_zone) ELSE c.ends_at END, 'infinity'),
           c.newest, t.time_zone, w.leaves_at, w.leaves
    FROM (SELECT *, newest AND ends_at <= now() AND NOT CAST(:as_stored AS boolean) AS fresh,
              newest AND rolling_hours IS NOT NULL AND NOT CAST(:as_stored AS boolean) AS rolls FROM caps) c
    JOIN tenants t ON t.tenant_id = c.tenant_id
    CROSS JOIN LATERAL (SELECT CASE WHEN c.fresh THEN greatest(window_start(c.window_kind, now(), t.time_zone), c.ends_at)
        ELSE c.starts_at END AS at) begins
    CROSS JOIN LATERAL (
        SELECT CAST(coalesce(sum(b.reserved), 0) AS bigint) AS reserved, CAST(coalesce(sum(b.committed), 0) AS bigint) AS committed,
            CAST(coalesce(sum(b.debt), 0) AS bigint) AS debt,
            min(b.ends_at) FILTER (WHERE b.reserved + b.committed + b.debt > 0) + make_interval(hours => c.rolling_hours) AS leaves_at,
            (array_agg(b.reserved + b.committed + b.debt ORDER BY b.ends_at)
                FILTER (WHERE b.reserved + b.committed + b.debt > 0))[1] AS leaves
        FROM caps b WHERE c.rolls AND b.tenant_id = c.tenant_id AND b.scope_kind = c.scope_kind AND b.scope_id = c.scope_id
            AND b.unit = c.unit AND b.window_kind = c.window_kind
            AND b.ends_at > begins.at - make_interval(hours => c.rolling_hours)) w
    LEFT JOIN projects p ON p.tenant_id = c.tenant_id AND p.project_id = CASE c.scope_kind WHEN 'project' THEN CAST(c.scope_id AS uuid)
        WHEN 'user_project' THEN CAST(split_part(c.scope_id, '/', 2) AS uuid)
        WHEN 'project_role' THEN CAST(split_part(c.scope_id, '/', 1) AS uuid) END
    LEFT JOIN users u ON u.tenant_id = c.tenant_id AND u.user_id = CASE
        WHEN c.scope_kind IN ('user', 'user_project', 'user_role') THEN CAST(split_part(c.scope_id, '/', 1) AS uuid) END
    WHERE c.tenant_id = :tenant_id
"""

_LIST_CAPS = text(f"""
    {_CAPS} AND CASE WHEN CAST(:cap_id AS uuid) IS NOT NULL THEN c.cap_id = :cap_id ELSE c.newest END
      AND (CAST(:after AS uuid) IS NULL OR c.cap_id > :after)
      AND CASE WHEN CAST(:run_id AS text) IS NOT NULL THEN c.scope_kind = 'run' AND c.scope_id = :run_id
               ELSE c.scope_kind <> 'run' OR CAST(:cap_id AS uuid) IS NOT NULL OR CAST(:scope_kind AS text) = 'run' END
      AND (CAST(:scope_kind AS text) IS NULL OR (c.scope_kind = :scope_kind AND c.scope_id = :scope_id))
    ORDER BY c.cap_id LIMIT :count
""")

_LIST_WINDOWS = text(f"""
    {_CAPS} AND c.scope_kind = :scope_kind AND c.scope_id = :scope_id AND c.unit = :unit AND c.window_kind = :window
      AND (CAST(:before AS uuid) IS NULL OR c.cap_id < :before)
    ORDER BY c.cap_id DESC LIMIT :count
""")

# what the ledger wrote when it began a window changes nothing
_LIST_CHANGES = text("""
    SELECT * FROM (
        SELECT j.entry_id, j.cap_ids[1] AS window_id, j.actor, j.reason, j.created_at,
            lag(j.limit_amounts[1]) OVER w AS from_amount, lag(j.unlimited[1]) OVER w AS from_unlimited,
            j.limit_amounts[1] AS to_amount, j.unlimited[1] AS to_unlimited,
            (SELECT CAST(sum(paid) AS bigint) FROM unnest(j.committed_deltas) AS paid) AS debt_paid
        FROM caps c JOIN journal j ON j.tenant_id = c.tenant_id AND j.kind = 'limit' AND j.cap_ids[1] = c.cap_id
        WHERE c.tenant_id = :tenant_id AND j.actor <> 'ledger'
          AND c.scope_kind = :scope_kind AND c.scope_id = :scope_id AND c.unit = :unit AND c.window_kind = :window
        WINDOW w AS (ORDER BY j.entry_id)) changes
    WHERE CAST(:before AS bigint) IS NULL OR entry_id < :before ORDER BY entry_id DESC LIMIT :count
""")

_PAIR_EXAMPLES: Final[Mapping[str, str]] = MappingProxyType(
    {"user_project": "alice/web", "user_role": "alice/support", "project_role": "web/support"}
)

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
    """A window of a cap with its balances and the name of what it limits.

    Attributes:
        thresholds: Percentages of the limit that are told once a window.
        threshold_passed: The highest of them that was told in this window; 0 if none was.
        starts_at: When the window began, or since when what was taken counts in a rolling one; None: it always was.
        ends_at: When it ends, or moves on by an hour if it is rolling; None: never.
        newest: Whether it is the one in force, else a past one.
        time_zone: The tenant's, by which windows begin and end.
        leaves_at: When the oldest hour of a rolling window that has something leaves it; None if nothing does.
        leaves: How much that is.
    """

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
    thresholds: Sequence[int]
    threshold_passed: int
    starts_at: datetime | None
    ends_at: datetime | None
    newest: bool
    time_zone: str
    leaves_at: datetime | None
    leaves: int | None


@dataclass(frozen=True, slots=True)
class LimitChange:
    """A change of a cap's limit, from the journal.

    Attributes:
        window_id: The window in which it was made.
        from_amount: The limit before; None if the cap was made by this change.
        from_unlimited: Whether there was no limit before.
        debt_paid: Debt that the change turned into committed use.
    """

    entry_id: int
    window_id: UUID
    actor: str
    reason: str
    created_at: datetime
    from_amount: int | None
    from_unlimited: bool | None
    to_amount: int
    to_unlimited: bool
    debt_paid: int


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
    scope: Scope | None = None,
    count: int = 1,
) -> list[NamedCap]:
    """Returns the windows in force, by when they were made: of one run's or scope's caps, or all that are of no run, or one."""
    rows = await connection.execute(
        _LIST_CAPS,
        {
            "tenant_id": tenant_id,
            "after": after,
            "run_id": str(run_id) if run_id else None,
            "cap_id": cap_id,
            "scope_kind": scope.kind if scope else None,
            "scope_id": scope.scope_id if scope else None,
            "count": count,
            "as_stored": False,
        },
    )
    return [NamedCap(*row) for row in rows]


async def list_windows(
    connection: AsyncConnection, tenant_id: UUID, cap_id: UUID, *, before: UUID | None, count: int
) -> list[NamedCap]:
    """Returns all windows of a cap as they stand in the books, the newest first.

    Args:
        connection: The caller's transaction.
        tenant_id: The tenant.
        cap_id: Any window of the cap.
        before: Only windows before this one.
        count: At most so many.

    Raises:
        NotFound: The tenant has no such cap.
    """
    cap = await _cap_of(connection, tenant_id, cap_id)
    rows = await connection.execute(
        _LIST_WINDOWS, {"tenant_id": tenant_id, **cap, "before": before, "count": count, "as_stored": True}
    )
    return [NamedCap(*row) for row in rows]


async def list_changes(
    connection: AsyncConnection, tenant_id: UUID, cap_id: UUID, *, before: int | None, count: int
) -> list[LimitChange]:
    """Returns the changes of a cap's limit, in all its windows, the newest first; arguments as for `list_windows`.

    Raises:
        NotFound: The tenant has no such cap.
    """
    cap = await _cap_of(connection, tenant_id, cap_id)
    rows = await connection.execute(_LIST_CHANGES, {"tenant_id": tenant_id, **cap, "before": before, "count": count})
    return [LimitChange(*row) for row in rows]


async def _cap_of(connection: AsyncConnection, tenant_id: UUID, cap_id: UUID) -> dict[str, str]:
    """Returns what the windows of a cap have in common."""
    found = await list_named_caps(connection, tenant_id, cap_id=cap_id)
    if not found:
        raise NotFound(f"there is no cap {cap_id}")
    cap = found[0]
    return {"scope_kind": cap.scope_kind, "scope_id": cap.scope_id, "unit": cap.unit, "window": cap.window}


async def find_scope(connection: AsyncConnection, tenant_id: UUID, kind: str, name: str) -> Scope:
    """Returns what a cap is to be set on, by the name people use.

    Args:
        connection: The caller's transaction.
        tenant_id: The tenant.
        kind: One of `ScopeKind`.
        name: Slug of the project, name of the user or role, id of the run, `user/project`, `user/role` or `project/role`;
            nothing for the tenant.

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
    if kind != "run":
        first, _, second = name.rpartition("/") if kind in PAIRS else (name, "", "")
        if kind in PAIRS and not (first and second):
            raise RequestInvalid(f"scope.name: write {kind.replace('_', '/')}, as in `{_PAIR_EXAMPLES[kind]}`")
        ids = [
            await _id_of(connection, tenant_id, part, value)
            for part, value in zip(kind.split("_"), (first, second), strict=False)
        ]
        return Scope(kind, "/".join(ids))
    try:
        run_id = UUID(name)
    except ValueError:
        raise RequestInvalid("scope.name: this is no id of a run") from None
    await run_budget(connection, tenant_id, run_id)
    return Scope(kind, str(run_id))


async def _id_of(connection: AsyncConnection, tenant_id: UUID, kind: str, name: str) -> str:
    """Returns a project's or user's id, or the name of a role, which is its id."""
    if kind == "project":
        return str(await find_project(connection, tenant_id, name))
    if kind == "user":
        return str(await find_user(connection, tenant_id, name))
    if await connection.scalar(_ROLE_EXISTS, {"tenant_id": tenant_id, "name": name}) is None:
        raise NotFound(f"there is no role {name!r}")
    return name


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
