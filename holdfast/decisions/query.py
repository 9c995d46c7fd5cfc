"""Looking for decisions: by what they are about and when they were, in pages, as a whole, and as they come.

Records that have a number in the log keep what they are looked for by in columns with indexes. Those that have none yet are few; of
these it is computed. Texts are compared with `=` alone: under row-level security no index serves what PostgreSQL does not trust to
leak nothing.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.database.engine import transaction
from holdfast.decisions.reading import COLUMNS, DecisionRow, row_of
from holdfast.errors import RequestInvalid

BATCH: Final = 500
"""Records that are in memory at a time while many are read."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_US: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_NOW: Final = text("SELECT clock_timestamp()")
_SIZE: Final = text("SELECT size FROM logs WHERE tenant_id = :tenant_id")
_PLACE: Final = re.compile(r"([0-9]{1,18})\.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")

# What a filter is in the columns of numbered records, and in the facets that are computed; with what an index says it is of.
_FACETS: Final = {
    "agent": ("d.facet_agent = :agent AND d.facet_agent <> ''", "f.agent = :agent"),
    "role": ("d.facet_role = :role AND d.facet_role <> ''", "f.role = :role"),
    "tool": ("d.facet_tool = :tool AND d.facet_tool <> ''", "f.tool = :tool"),
    "rule": ("d.facet_rule = :rule AND d.facet_rule <> ''", "f.rule = :rule"),
    "code": ("d.facet_code = :code", "f.code = :code"),
    "kind": ("d.kind = :kind", "d.kind = :kind"),
    "run_id": ("d.run_id = :run_id", "d.run_id = :run_id"),
}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a decision stands in the order of time."""

    created_at: datetime
    decision_id: UUID

    @property
    def text(self) -> str:
        """The place as cursors carry it."""
        return f"{(self.created_at - _EPOCH) // timedelta(microseconds=1)}.{self.decision_id}"

    @classmethod
    def parse(cls, place: str) -> Place:
        """Reads a place from a cursor.

        Raises:
            RequestInvalid: It is none.
        """
        match = _PLACE.fullmatch(place)
        if match is None or int(match[1]) > _LAST_US:
            raise RequestInvalid(
                "`cursor`: this is no cursor of this list", remedy="send `next_cursor` as it was received"
            )
        return cls(_EPOCH + timedelta(microseconds=int(match[1])), UUID(match[2]))


@dataclass(frozen=True, slots=True)
class DecisionFilter:
    """What is looked for; all of it has to be so.

    Attributes:
        since: From then on.
        until: Before then.
    """

    run_id: UUID | None = None
    agent: str | None = None
    role: str | None = None
    verdict: Literal["allow", "deny", "needs_approval"] | None = None
    kind: str | None = None
    tool: str | None = None
    rule: str | None = None
    code: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self, *, numbered: bool) -> list[str]:
        """Returns what a record has to be, in SQL whose parameters are this filter's fields."""
        found = [pair[0 if numbered else 1] for name, pair in _FACETS.items() if getattr(self, name) is not None]
        if self.verdict is not None:
            # said in so many words, for the index on what was not allowed says it so
            found.append("d.verdict = :verdict" + ("" if self.verdict == "allow" else " AND d.verdict <> 'allow'"))
        if self.since is not None:
            found.append("d.created_at >= :since")
        if self.until is not None:
            found.append("d.created_at < :until")
        return found

    def parameters(self) -> dict[str, object]:
        """Returns the values of the conditions."""
        names = (*_FACETS, "verdict", "since", "until")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True, slots=True)
class Found:
    """A decision that was looked for.

    Attributes:
        part_a: What was evaluated, byte for byte as it was hashed; None if it was deleted.
    """

    row: DecisionRow
    part_a: bytes | None

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.row.created_at, self.row.decision_id)


def _half(wanted: DecisionFilter, *, numbered: bool, sign: str, order: str, placed: bool) -> str:
    conditions = [
        "d.tenant_id = :tenant_id",
        f"d.leaf_index IS {'NOT ' if numbered else ''}NULL",
        *wanted.conditions(numbered=numbered),
    ]
    if placed:
        conditions.append(f"(d.created_at, d.decision_id) {sign} (:at, :id)")
    facets = "d.facet_agent AS agent, d.facet_role AS role" if numbered else "f.agent, f.role"
    source = "decisions d" if numbered else "decisions d, LATERAL decision_facets(d) f"
    return (
        f"(SELECT {COLUMNS}, {facets}, d.part_a FROM {source} WHERE {' AND '.join(conditions)} "  # noqa: S608 (only constants)
        f"ORDER BY d.created_at {order}, d.decision_id {order} LIMIT :count)"
    )


def statement_of(wanted: DecisionFilter, *, newest_first: bool, placed: bool) -> TextClause:
    """Returns the statement that lists what is wanted, in the order of time, after a place if there is one."""
    sign, order = ("<", "DESC") if newest_first else (">", "ASC")
    halves = [_half(wanted, numbered=each, sign=sign, order=order, placed=placed) for each in (True, False)]
    return text(f"{' UNION ALL '.join(halves)} ORDER BY created_at {order}, decision_id {order} LIMIT :count")


async def list_decisions(
    connection: AsyncConnection,
    tenant_id: UUID,
    wanted: DecisionFilter,
    *,
    count: int,
    place: Place | None = None,
    newest_first: bool = True,
) -> list[Found]:
    """Returns decisions in the order of time.

    Args:
        connection: A transaction of the tenant.
        tenant_id: The tenant.
        wanted: Which.
        count: Most of them.
        place: Only what comes after this in that order.
        newest_first: The order.
    """
    statement = statement_of(wanted, newest_first=newest_first, placed=place is not None)
    parameters: dict[str, object] = {"tenant_id": tenant_id, "count": count, **wanted.parameters()}
    if place is not None:
        parameters |= {"at": place.created_at, "id": place.decision_id}
    rows = await connection.execute(statement, parameters)
    return [Found(row_of(row), row.part_a) for row in rows]


async def walk_decisions(
    engine: AsyncEngine, tenant_id: UUID, wanted: DecisionFilter
) -> AsyncGenerator[list[Found], None]:
    """Yields all decisions that were there when it began, the oldest first, some hundred at a time.

    Each batch is a transaction of its own: however slowly it is read, no snapshot is kept open and no memory is filled.
    """
    async with transaction(engine, tenant_id) as connection:
        now: datetime = await connection.scalar(_NOW)
    bounded = replace(wanted, until=now if wanted.until is None else min(wanted.until, now))
    place: Place | None = None
    while True:
        async with transaction(engine, tenant_id) as connection:
            found = await list_decisions(connection, tenant_id, bounded, count=BATCH, place=place, newest_first=False)
        yield found
        if len(found) < BATCH:
            return
        place = found[-1].place


async def log_size(connection: AsyncConnection, tenant_id: UUID) -> int:
    """Returns how many records the tenant's log has."""
    return int(await connection.scalar(_SIZE, {"tenant_id": tenant_id}) or 0)


async def numbered_from(
    connection: AsyncConnection, tenant_id: UUID, wanted: DecisionFilter, *, first: int, count: int = BATCH
) -> tuple[list[Found], int]:
    """Returns records in the order of the log, from a number on, and the number from which to ask next.

    One transaction after the other gives numbers, without a gap: what is there below the log's size stays as it is, and nothing
    comes between. So a number is a place from which nothing is lost and nothing comes twice.
    """
    # read first: what is below it is committed, and so is seen by the next statement
    size = await log_size(connection, tenant_id)
    conditions = [
        "d.tenant_id = :tenant_id",
        "d.leaf_index >= :first",
        "d.leaf_index < :size",
        "d.leaf_index IS NOT NULL",
    ]
    statement = text(
        f"SELECT {COLUMNS}, d.facet_agent AS agent, d.facet_role AS role, d.part_a FROM decisions d "  # noqa: S608 (only constants)
        f"WHERE {' AND '.join([*conditions, *wanted.conditions(numbered=True)])} ORDER BY d.leaf_index LIMIT :count"
    )
    bounds = {"tenant_id": tenant_id, "first": first, "size": size, "count": count}
    rows = await connection.execute(statement, {**wanted.parameters(), **bounds})
    found = [Found(row_of(row), row.part_a) for row in rows]
    last = found[-1].row.leaf_index if len(found) == count else None
    return found, max(first, size) if last is None else last + 1
