"""The family of a run: the run that began it all, and all that were started by it, or by one that it started.

What one of them has read, all others may have been told: nobody sees how it went from the one to the other. So they share the labels of
what they have read from the moment on at which one starts the other, and what one is told by another is no word of the user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.actions.run_facts import RunFacts

FAMILY_MAX: Final = 10_000
"""Runs of a family that are looked at. Of a larger one nothing is known, and so nothing is allowed that asks (LAW 7)."""

# UNION ALL and a bound in place of UNION: rows that say the same are rows of a circle, which has no first run and so no members
FAMILY: Final = """
    above AS (
        SELECT run_id, parent_run_id, 1 AS height FROM runs WHERE tenant_id = :tenant_id AND run_id = :run_id
        UNION ALL
        SELECT r.run_id, r.parent_run_id, above.height + 1 FROM above
        JOIN runs r ON r.tenant_id = :tenant_id AND r.run_id = above.parent_run_id WHERE above.height <= :family_max
    ), members AS (
        SELECT r.run_id, r.parent_run_id, r.agent_name, r.tools, r.created_at FROM above
        JOIN runs r ON r.tenant_id = :tenant_id AND r.run_id = above.run_id WHERE above.parent_run_id IS NULL
        UNION ALL
        SELECT r.run_id, r.parent_run_id, r.agent_name, r.tools, r.created_at FROM members
        JOIN runs r ON r.tenant_id = :tenant_id AND r.parent_run_id = members.run_id
    ), family AS (
        SELECT * FROM members LIMIT :family_max + 1
    )
"""
"""Parts of a recursive WITH for `:tenant_id`, `:run_id` and `:family_max`: `family` has a row a run, one too many at most.

Its first run is that without a parent; a row that is a parent of itself, however far up, has none, and so no family.
"""
_READ: Final = text(f"WITH RECURSIVE {FAMILY} SELECT * FROM family")  # noqa: S608 (a constant of this module)
_SAID_BEFORE: Final = text("""
    SELECT content FROM run_inputs WHERE tenant_id = :tenant_id AND run_id = :run_id AND mode IN ('start', 'followup', 'steer')
        AND created_at < :before ORDER BY seq
""")


@dataclass(frozen=True, slots=True)
class Member:
    """A run of a family, with what says what its actions read under.

    Attributes:
        run_id: The run.
        agent: Name of its agent.
        tools: The versions of the tenant's own tools that it is pinned to; `None` if it is alone, and nobody has to compare.
    """

    run_id: UUID
    agent: str
    tools: Mapping[str, int] | None


@dataclass(frozen=True, slots=True)
class Family:
    """The runs of a family.

    Attributes:
        own: The run that is decided for.
        first: The run that was started by no other.
        members: All of them.
        parted_at: When the first one started another; `None` if the run has nobody.
    """

    own: UUID
    first: UUID
    members: tuple[Member, ...]
    parted_at: datetime | None

    @property
    def others(self) -> tuple[UUID, ...]:
        """All but the run that is decided for."""
        return tuple(member.run_id for member in self.members if member.run_id != self.own)


async def read_family(connection: AsyncConnection, run: RunFacts) -> Family | None:
    """Returns the family of a run, `None` if it is too large, or has no first run. A run that has nobody costs no query."""
    if run.is_alone:
        return Family(run.run_id, run.run_id, (Member(run.run_id, run.agent_name, None),), None)
    parameters = {"tenant_id": run.tenant_id, "run_id": run.run_id, "family_max": FAMILY_MAX}
    rows = (await connection.execute(_READ, parameters)).all()
    first = [row.run_id for row in rows if row.parent_run_id is None]
    if len(first) != 1 or len(rows) > FAMILY_MAX or all(row.run_id != run.run_id for row in rows):
        return None
    parted_at = min((row.created_at for row in rows if row.parent_run_id == first[0]), default=None)
    members = tuple(Member(row.run_id, row.agent_name, row.tools) for row in rows)
    return Family(run.run_id, first[0], members, parted_at)


async def users_words(connection: AsyncConnection, run: RunFacts, family: Family) -> tuple[str, ...]:
    """Returns what the user said to the first run before it started another: later, anybody of the family may have said it."""
    parameters = {"tenant_id": run.tenant_id, "run_id": family.first, "before": family.parted_at}
    return tuple((await connection.execute(_SAID_BEFORE, parameters)).scalars())
