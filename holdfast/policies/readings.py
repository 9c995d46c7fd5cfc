"""What a run, and those above it, have read or may have read, and under which labels.

PostgreSQL gathers it: one row for each tool, and for each different action only if the policy's labels ask about arguments. So what a
decision costs grows with what was read in different ways, and hardly with how often.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.actions.run_facts import RunFacts
from holdfast_verdict.actions.kinds import KINDS
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.facts import Facts
from holdfast_verdict.engine.labels import Yields, yields_of
from holdfast_verdict.engine.program import Program, program_of

READINGS_MAX: Final = 20_000
"""Different readings that are looked at in one decision."""
_ALWAYS: Final = ("true",)

# what came to nothing for certain has read nothing; what was answered, or went out, may have
_READ: Final = """
    h.superseded_at IS NULL AND (h.state NOT IN ('voided', 'expired') OR h.outward_at IS NOT NULL
        OR EXISTS (SELECT FROM outcomes o WHERE o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id))
"""
# a child run has read what its parents had read: its task is their words
_OF_LINE: Final = text(f"""
    WITH RECURSIVE line AS (
        SELECT run_id, parent_run_id FROM runs WHERE tenant_id = :tenant_id AND run_id = :run_id
        UNION
        SELECT r.run_id, r.parent_run_id FROM line JOIN runs r ON r.tenant_id = :tenant_id AND r.run_id = line.parent_run_id
    )
    SELECT h.kind, h.tool, CASE WHEN :by_action THEN h.action END, max(h.settled_at), bool_or(h.settled_at IS NULL), NULL
    FROM line JOIN holds h ON h.tenant_id = :tenant_id AND h.run_id = line.run_id
    WHERE {_READ} GROUP BY 1, 2, 3 LIMIT :count
""")  # noqa: S608 (a constant of this module)
_OF_HOLDS: Final = text(f"""
    SELECT h.kind, h.tool, h.action, h.settled_at, h.settled_at IS NULL, h.hold_id FROM holds h
    WHERE h.tenant_id = :tenant_id AND h.hold_id = ANY (CAST(:holds AS uuid[])) AND {_READ}
""")  # noqa: S608 (a constant of this module)


@dataclass(frozen=True)
class Reading:
    """Actions of one tool or kind, all alike as far as labels go, by which something was or may be read.

    Attributes:
        kind: Kind of action.
        tool: Tool, or empty.
        action: Canonical bytes, where labels ask about arguments.
        settled_at: When the last of them was settled, of those that were.
        is_open: Whether one of them is not settled.
        hold_id: Its hold, where it is a single one.
    """

    kind: str
    tool: str
    action: bytes | None
    settled_at: datetime | None
    is_open: bool
    hold_id: UUID | None

    @property
    def name(self) -> str:
        """The name by which policies speak of it."""
        return self.tool if self.kind == "tool.call" else self.kind

    @cached_property
    def args(self) -> dict[str, Any]:  # Any: JSON
        """Its arguments."""
        args: dict[str, Any] = {} if self.action is None else orjson.loads(self.action)["args"]
        return args


async def read_line(connection: AsyncConnection, run: RunFacts) -> list[Reading] | None:
    """Returns what a run has read, and those above it; `None` if it is too much."""
    by_action = any(each.label.where != _ALWAYS for each in program_of(run.policy.policy).labels)
    parameters = {"tenant_id": run.tenant_id, "run_id": run.run_id, "by_action": by_action, "count": READINGS_MAX + 1}
    readings = [Reading(*row) for row in await connection.execute(_OF_LINE, parameters)]
    return readings if len(readings) <= READINGS_MAX else None


async def read_holds(connection: AsyncConnection, tenant_id: UUID, holds: Sequence[UUID]) -> list[Reading]:
    """Returns what was read by single actions, those of them that have read something."""
    if not holds:
        return []
    rows = await connection.execute(_OF_HOLDS, {"tenant_id": tenant_id, "holds": list(holds)})
    return [Reading(*row) for row in rows]


def yields_by_name(run: RunFacts, readings: Iterable[Reading]) -> dict[str, Yields]:
    """Returns the labels of what was or may be read, by action; those of two calls of one tool are joined."""
    program = program_of(run.policy.policy)
    found: dict[str, dict[str, set[str]]] = {}
    for reading in readings:
        fields = found.setdefault(reading.name, {})
        for path, labels in _yields_of(run, program, reading):
            fields.setdefault(path, set()).update(labels)
    return {
        name: tuple((path, tuple(sorted(labels))) for path, labels in sorted(fields.items()))
        for name, fields in found.items()
    }


def readers(run: RunFacts, readings: Iterable[Reading]) -> Mapping[str, list[Reading]]:
    """Returns, by label, that by which something was or may be read under it."""
    program = program_of(run.policy.policy)
    found: dict[str, list[Reading]] = {}
    for reading in readings:
        for label in {label for _, labels in _yields_of(run, program, reading) for label in labels}:
            found.setdefault(label, []).append(reading)
    return found


def _yields_of(run: RunFacts, program: Program, reading: Reading) -> Yields:
    tool = run.tools.get(reading.name) if reading.kind == "tool.call" else None
    declared: dict[str, tuple[str, ...]] = {} if tool is None else {"": tool.yields}
    if reading.kind == "llm.call":
        declared = {"": ()}  # what a model says carries what it has read, and nothing of its own
    external = tool is None or tool.external
    if reading.name in KINDS:
        external = bool(KINDS[reading.name].get("external", True))
    external = program.is_external(reading.name, declared=external)
    plan = program.plan(run.role, reading.name, external=external)
    context = Context(reading.name, external, reading.args, Facts(principal=run.principal), program)
    return yields_of(plan, declared, context)
