"""What a run and the others of its family have read or may have read, and under which labels.

PostgreSQL gathers it: one row for each tool of each reader, and for each different action only if the policy's labels ask about
arguments. So what a decision costs grows with what was read in different ways, and hardly with how often.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.actions.run_facts import RunFacts
from holdfast.ledger.types import TryKey
from holdfast.policies.family import Family, Member
from holdfast.tools.toolset import Toolset
from holdfast.tools.versions import read_toolset
from holdfast_verdict.actions.kinds import KINDS
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.facts import Facts
from holdfast_verdict.engine.labels import Yields, yields_of
from holdfast_verdict.engine.program import Plan, Program, program_of
from holdfast_verdict.sealing import MARK

READINGS_MAX: Final = 20_000
"""Different readings that are looked at in one decision."""
SPAWN: Final = "agent.spawn"
"""The action as whose output policies speak of what another run of the family says."""
_ALWAYS: Final = ("true",)
_OWN_RUN: Final = ("principal", "run")

# what came to nothing for certain has read nothing; what was answered, or went out, may have; a budget is held, and reads nothing;
# what gives way to the decision that asks will have read nothing
_READ: Final = """
    h.kind <> 'run.budget' AND h.superseded_at IS NULL
    AND NOT (h.state = 'held' AND h.run_id = :run_id AND h.step = :step AND h.try = :try)
    AND (h.state NOT IN ('voided', 'expired') OR h.outward_at IS NOT NULL
        OR EXISTS (SELECT FROM outcomes o WHERE o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id))
"""
_OF_RUNS: Final = text(f"""
    SELECT m.reader, h.kind, h.tool, CASE WHEN :by_action THEN h.action END, max(h.settled_at), bool_or(h.settled_at IS NULL), NULL
    FROM unnest(CAST(:runs AS uuid[]), CAST(:readers AS integer[])) AS m (run_id, reader)
    JOIN holds h ON h.tenant_id = :tenant_id AND h.run_id = m.run_id
    WHERE {_READ} GROUP BY 1, 2, 3, 4 LIMIT :count
""")  # noqa: S608 (a constant of this module)
_OF_HOLDS: Final = text(f"""
    SELECT h.run_id, h.kind, h.tool, h.action, h.settled_at, h.settled_at IS NULL, h.hold_id FROM holds h
    WHERE h.tenant_id = :tenant_id AND h.hold_id = ANY (CAST(:holds AS uuid[])) AND {_READ}
""")  # noqa: S608 (a constant of this module)


@dataclass(frozen=True, slots=True)
class Reader:
    """Runs of a family whose readings are labelled alike: by the tools that they have, and by who acts in them.

    Attributes:
        tools: Their tools.
        principal: Who acts, as far as it is the same in all of them.
    """

    tools: Toolset
    principal: Mapping[str, object]


@dataclass(frozen=True)
class Reading:
    """Actions of one tool or kind, all alike as far as labels go, by which something was or may be read.

    Attributes:
        reader: Whose they are.
        kind: Kind of action.
        tool: Tool, or empty.
        action: Canonical bytes, where labels ask about arguments.
        settled_at: When the last of them was settled, of those that were.
        is_open: Whether one of them is not settled.
        hold_id: Its hold, where it is a single one.
    """

    reader: Reader
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

    @property
    def is_untold(self) -> bool:
        """Whether its arguments, or some of them, are not there any more, or never were."""
        return self.kind == SPAWN or (self.action is not None and MARK.encode() in self.action)


@dataclass(frozen=True, slots=True)
class Readings:
    """What a family has read.

    Attributes:
        all: Each way of reading.
        by_run: The reader that a run is.
    """

    all: Sequence[Reading]
    by_run: Mapping[UUID, Reader]


async def read_family_readings(
    connection: AsyncConnection, run: RunFacts, family: Family, key: TryKey
) -> Readings | None:
    """Returns what a family has read, besides what gives way to a decision on a try; `None` if it is too much."""
    program = program_of(run.policy.policy)
    asks = [each.label.where for each in program.labels if each.label.where != _ALWAYS]
    by_run = await _readers(connection, run, family, apart=any(_speaks_of(where, _OWN_RUN) for where in asks))
    readers = list({id(each): each for each in by_run.values()}.values())
    numbers = {id(each): number for number, each in enumerate(readers)}
    parameters = {
        **_named(key),
        "runs": list(by_run),
        "readers": [numbers[id(each)] for each in by_run.values()],
        "by_action": bool(asks),
        "count": READINGS_MAX + 1,
    }
    found = [Reading(readers[row[0]], *row[1:]) for row in await connection.execute(_OF_RUNS, parameters)]
    if len(found) > READINGS_MAX:
        return None
    if family.others and _plan(run, program, SPAWN, declared=False).labels:
        # the policy says what the words of another run carry; they may come at any time
        found.append(Reading(by_run[run.run_id], SPAWN, "", None, None, is_open=True, hold_id=None))
    return Readings(found, by_run)


def _named(key: TryKey) -> dict[str, object]:
    return {"tenant_id": key.tenant_id, "run_id": key.run_id, "step": key.step, "try": key.try_number}


async def _readers(connection: AsyncConnection, run: RunFacts, family: Family, *, apart: bool) -> Mapping[UUID, Reader]:
    """Returns the reader that each run is; `apart`: each run is one of its own."""
    by_run = {run.run_id: Reader(run.tools, run.principal)}
    toolsets = {_pins(member): run.tools for member in family.members if member.run_id == run.run_id}
    readers: dict[object, Reader] = {}
    # one that was admitted with another key may have had other roles
    known = {name: value for name, value in run.principal.items() if name not in ("roles", "run")}
    for member in family.members:
        if member.run_id == run.run_id:
            continue
        pins = _pins(member)
        key = (member.agent, pins, member.run_id if apart else None)
        if key not in readers:
            if pins not in toolsets:
                toolsets[pins] = await read_toolset(connection, run.tenant_id, dict(pins))
            of_run = {"run": str(member.run_id)} if apart else {}
            readers[key] = Reader(toolsets[pins], {**known, "agent": member.agent, **of_run})
        by_run[member.run_id] = readers[key]
    return by_run


def _pins(member: Member) -> frozenset[tuple[str, int]]:
    return frozenset((member.tools or {}).items())


def _speaks_of(node: object, wanted: tuple[str, ...]) -> bool:
    return node == wanted or (isinstance(node, tuple) and any(_speaks_of(part, wanted) for part in node))


async def read_holds(
    connection: AsyncConnection, key: TryKey, holds: Sequence[UUID], by_run: Mapping[UUID, Reader]
) -> list[Reading]:
    """Returns what was read by single actions, those of them that have read something and do not give way to a decision on a try."""
    if not holds:
        return []
    rows = await connection.execute(_OF_HOLDS, {**_named(key), "holds": list(holds)})
    return [Reading(by_run[row[0]], *row[1:]) for row in rows]


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


def by_label(run: RunFacts, readings: Iterable[Reading]) -> Mapping[str, list[Reading]]:
    """Returns, by label, that by which something was or may be read under it."""
    program = program_of(run.policy.policy)
    found: dict[str, list[Reading]] = {}
    for reading in readings:
        for label in {label for _, labels in _yields_of(run, program, reading) for label in labels}:
            found.setdefault(label, []).append(reading)
    return found


def _yields_of(run: RunFacts, program: Program, reading: Reading) -> Yields:
    tool = reading.reader.tools.get(reading.name) if reading.kind == "tool.call" else None
    declared: dict[str, tuple[str, ...]] = {} if tool is None else {"": tool.yields}
    if reading.kind == "llm.call":
        declared = {"": ()}  # what a model says carries what it has read, and nothing of its own
    external = tool is None or tool.external
    if reading.name in KINDS:
        external = bool(KINDS[reading.name].get("external", True))
    external = program.is_external(reading.name, declared=external)
    plan = program.plan(run.role, reading.name, external=external)
    if reading.is_untold:
        plan = replace(plan, labels=tuple(replace(each, where=_untold) for each in plan.labels))
    args = {} if reading.is_untold else reading.args
    context = Context(reading.name, external, args, Facts(principal=reading.reader.principal), program)
    return yields_of(plan, declared, context)


def _plan(run: RunFacts, program: Program, name: str, *, declared: bool) -> Plan:
    return program.plan(run.role, name, external=program.is_external(name, declared=declared))


def _untold(_: Context) -> None:
    """Stands for a condition on arguments that are not there: it is unknown, and so it labels (LAW 7)."""
