"""Reading runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.errors import NotFound

_COLUMNS = """
    r.run_id, r.status, r.status_code, r.status_message, r.simulated, p.slug AS project, u.name AS user_name, r.user_id,
    r.agent_name, r.agent_version, r.role_name, r.role_version, r.parent_run_id, r.budget_hold_id IS NOT NULL AS guaranteed,
    r.created_at, r.started_at, r.cancel_requested_at, r.deadline_at, r.ended_at, r.timeline_seq,
    c.limit_amount AS cap, c.reserved AS held, coalesce(c.committed + c.debt, 0) AS spent
    FROM runs r
    JOIN projects p ON p.tenant_id = r.tenant_id AND p.project_id = r.project_id
    JOIN users u ON u.tenant_id = r.tenant_id AND u.user_id = r.user_id
    LEFT JOIN caps c ON c.tenant_id = r.tenant_id AND c.scope_kind = 'run' AND c.scope_id = CAST(r.run_id AS text)
        AND c.unit = 'nano_usd' AND c.window_kind = 'total'
"""

_READ = text(f"SELECT {_COLUMNS} WHERE r.tenant_id = :tenant_id AND r.run_id = :run_id")

_LIST = text(f"""
    SELECT {_COLUMNS} WHERE r.tenant_id = :tenant_id
      AND (CAST(:before AS uuid) IS NULL OR r.run_id < :before)
      AND (CAST(:status AS text) IS NULL OR r.status = :status)
      AND (CAST(:agent AS text) IS NULL OR r.agent_name = :agent)
      AND (CAST(:user_id AS uuid) IS NULL OR r.user_id = :user_id)
    ORDER BY r.run_id DESC LIMIT :count
""")

_INPUTS = text("""
    SELECT seq, mode, content, u.name AS user_name, i.created_at FROM run_inputs i
    JOIN users u ON u.tenant_id = i.tenant_id AND u.user_id = i.user_id
    WHERE i.tenant_id = :tenant_id AND i.run_id = :run_id ORDER BY seq
""")


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as people see it.

    Attributes:
        spent_nano_usd: Committed so far, with what exceeded the cap.
        held_nano_usd: Reserved at this moment.
        cap_nano_usd: The run's own money cap.
        newest_event: Number of its newest timeline event.
    """

    run_id: UUID
    status: str
    status_code: str
    status_message: str
    simulated: bool
    project: str
    user: str
    user_id: UUID
    agent: str
    agent_version: int
    role: str
    role_version: int
    parent_run_id: UUID | None
    guaranteed: bool
    created_at: datetime
    started_at: datetime | None
    cancel_requested_at: datetime | None
    deadline_at: datetime
    ended_at: datetime | None
    newest_event: int
    cap_nano_usd: int | None
    held_nano_usd: int
    spent_nano_usd: int


@dataclass(frozen=True, slots=True)
class InputView:
    """Something a person said to a run."""

    seq: int
    mode: str
    content: str
    user: str
    created_at: datetime


def _view(row: Row[tuple[object, ...]]) -> RunView:
    return RunView(
        run_id=row.run_id,
        status=row.status,
        status_code=row.status_code,
        status_message=row.status_message,
        simulated=row.simulated,
        project=row.project,
        user=row.user_name,
        user_id=row.user_id,
        agent=row.agent_name,
        agent_version=row.agent_version,
        role=row.role_name,
        role_version=row.role_version,
        parent_run_id=row.parent_run_id,
        guaranteed=row.guaranteed,
        created_at=row.created_at,
        started_at=row.started_at,
        cancel_requested_at=row.cancel_requested_at,
        deadline_at=row.deadline_at,
        ended_at=row.ended_at,
        newest_event=row.timeline_seq,
        cap_nano_usd=row.cap,
        held_nano_usd=row.held or 0,
        spent_nano_usd=row.spent,
    )


async def read_run(
    connection: AsyncConnection, tenant_id: UUID, run_id: UUID, *, only_of: UUID | None = None
) -> RunView:
    """Returns one run.

    Args:
        connection: The caller's transaction.
        tenant_id: The tenant.
        run_id: The run.
        only_of: If given, runs of other users look as if they were not there.

    Raises:
        NotFound: There is no such run to be seen.
    """
    row = (await connection.execute(_READ, {"tenant_id": tenant_id, "run_id": run_id})).one_or_none()
    if row is None or (only_of is not None and row.user_id != only_of):
        raise NotFound(f"there is no run {run_id}")
    return _view(row)


async def list_runs(
    connection: AsyncConnection,
    tenant_id: UUID,
    *,
    before: UUID | None,
    count: int,
    status: str | None = None,
    agent: str | None = None,
    only_of: UUID | None = None,
) -> list[RunView]:
    """Returns runs, newest first."""
    rows = await connection.execute(
        _LIST,
        {
            "tenant_id": tenant_id,
            "before": before,
            "count": count,
            "status": status,
            "agent": agent,
            "user_id": only_of,
        },
    )
    return [_view(row) for row in rows]


async def list_inputs(connection: AsyncConnection, tenant_id: UUID, run_id: UUID) -> list[InputView]:
    """Returns what people said to a run, in order."""
    rows = await connection.execute(_INPUTS, {"tenant_id": tenant_id, "run_id": run_id})
    return [InputView(*row) for row in rows]
