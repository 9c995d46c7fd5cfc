"""The family of a run: the run that started it all, and everything that was started below it.

What a run is told by another of its family is no word of the user's. What one of them has read, all of them may have been told: nobody
sees how it went from the one to the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

FAMILY: Final = """
    above AS (
        SELECT run_id, parent_run_id FROM runs WHERE tenant_id = :tenant_id AND run_id = :run_id
        UNION
        SELECT r.run_id, r.parent_run_id FROM above JOIN runs r ON r.tenant_id = :tenant_id AND r.run_id = above.parent_run_id
    ), family AS (
        SELECT run_id FROM above WHERE parent_run_id IS NULL
        UNION
        SELECT r.run_id FROM family JOIN runs r ON r.tenant_id = :tenant_id AND r.parent_run_id = family.run_id
    )
"""
"""Parts of a recursive WITH, for `:tenant_id` and `:run_id`: `family` has the ids of all of them."""
_KIN: Final = text(f"""
    WITH RECURSIVE {FAMILY}
    SELECT a.run_id = :run_id AS is_first, (SELECT count(*) FROM (SELECT 1 FROM family LIMIT 2) AS several) > 1 AS has_others, i.content
    FROM above a LEFT JOIN run_inputs i ON i.tenant_id = :tenant_id AND i.run_id = a.run_id AND i.mode = 'start'
    WHERE a.parent_run_id IS NULL
""")  # noqa: S608 (a constant of this module)


@dataclass(frozen=True, slots=True)
class Kin:
    """Where a run stands in its family.

    Attributes:
        is_first: Whether it was started by no other run.
        has_others: Whether there are others.
        task: What the user asked of the first one; None if nobody can tell.
    """

    is_first: bool
    has_others: bool
    task: str | None


async def read_kin(connection: AsyncConnection, tenant_id: UUID, run_id: UUID) -> Kin:
    """Returns where a run stands in its family."""
    row = (await connection.execute(_KIN, {"tenant_id": tenant_id, "run_id": run_id})).one()
    return Kin(row.is_first, row.has_others, row.content)
