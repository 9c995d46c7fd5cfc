"""What was spent: the rollups, grouped and filtered. Settling writes them in its own transaction, so they are never behind."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.csv_text import csv_lines, plain
from holdfast.errors import NotFound, RequestInvalid
from holdfast.tenancy.service import find_project, find_user
from holdfast_verdict.canonical import JsonValue

# What may be grouped by, and the column it is; whatever of a statement is not a parameter comes from here
DIMENSIONS: Final[Mapping[str, str]] = {
    "tenant": "t.slug::text",
    "project": "p.slug::text",
    "user": "u.name::text",
    "run": "r.run_id::text",
    "agent": "r.agent::text",
    "role": "r.role::text",
    "model": "r.model::text",
    "tool": "r.tool::text",
    "kind": "r.kind::text",
    "day": "r.day::text",
    "simulated": "CASE WHEN r.simulated THEN 'true' ELSE 'false' END",
}
MEASURES: Final = ("holds", "calls", "tokens", "input_tokens", "cached_tokens", "cost_nano_usd", "simulated_nano_usd")

_FILTERS: Final[Mapping[str, str]] = {
    "project": "r.project_id = {}::uuid",
    "user": "r.user_id = {}::uuid",
    "run": "r.run_id = {}::uuid",
    "agent": "r.agent = {}",
    "role": "r.role = {}",
    "model": "r.model = {}",
    "tool": "r.tool = {}",
    "kind": "r.kind = {}",
    "simulated": "r.simulated = {}::boolean",
}
_SUMS: Final = (
    "coalesce(sum(r.holds), 0)::bigint AS holds, coalesce(sum(r.calls), 0)::bigint AS calls, "
    "coalesce(sum(r.tokens), 0)::bigint AS tokens, coalesce(sum(r.input_tokens), 0)::bigint AS input_tokens, "
    "coalesce(sum(r.cached_tokens), 0)::bigint AS cached_tokens, coalesce(sum(r.cost_nano_usd), 0)::bigint AS cost_nano_usd, "
    "coalesce(sum(r.cost_nano_usd) FILTER (WHERE r.simulated), 0)::bigint AS simulated_nano_usd"
)
_JOINS: Final[Mapping[str, str]] = {
    "tenant": "JOIN tenants t ON t.tenant_id = r.tenant_id",
    "project": "JOIN projects p ON p.tenant_id = r.tenant_id AND p.project_id = r.project_id",
    "user": "JOIN users u ON u.tenant_id = r.tenant_id AND u.user_id = r.user_id",
}
_TENANT: Final = text("SELECT slug, time_zone FROM tenants WHERE tenant_id = :tenant_id")
_ONE_MOMENT: Final = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
_FETCH: Final = 500


@dataclass(frozen=True, slots=True)
class SpendFilter:
    """What of the rollups counts: all of it where nothing is said.

    Attributes:
        first_day: In the tenant's time zone.
        last_day: It counts, too.
        equal: Values by dimension.
    """

    first_day: date | None = None
    last_day: date | None = None
    equal: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a group came to; `simulated_nano_usd` is the part of its cost that nobody sends a bill for."""

    group: Mapping[str, str]
    holds: int
    calls: int
    tokens: int
    input_tokens: int
    cached_tokens: int
    cost_nano_usd: int
    simulated_nano_usd: int


@dataclass(frozen=True, slots=True)
class SpendPage:
    """Groups, what all groups of all pages come to, and where the days begin."""

    groups: list[Spent]
    total: Spent
    time_zone: str


def check_dimensions(names: Sequence[str]) -> list[str]:
    """Returns what is grouped by, each once.

    Raises:
        RequestInvalid: There is no such dimension, or one stands twice.
    """
    for name in names:
        if name not in DIMENSIONS:
            raise RequestInvalid(
                f"`group_by`: nothing is counted by {name[:80]!r}", remedy=f"use some of {', '.join(DIMENSIONS)}"
            )
    if len(set(names)) != len(names):
        raise RequestInvalid("`group_by`: one stands there twice", remedy="name each once")
    return list(names)


async def check_filter(connection: AsyncConnection, tenant_id: UUID, wanted: SpendFilter) -> None:
    """Makes sure that what is filtered by is there.

    Raises:
        NotFound: A project, user or tenant is not.
    """
    await _query(connection, tenant_id, wanted)


async def read_spend(
    connection: AsyncConnection,
    tenant_id: UUID,
    dimensions: Sequence[str],
    wanted: SpendFilter,
    *,
    dearest_first: bool = False,
    after: str = "",
    count: int = 1,
) -> SpendPage:
    """Returns groups and their total, both of one moment.

    Args:
        connection: A transaction in which nothing has been asked yet.
        tenant_id: The tenant.
        dimensions: What to group by, in this order; see `check_dimensions`.
        wanted: What counts.
        dearest_first: By cost, falling; else by the dimensions.
        after: `position` of the group before.
        count: Most groups.

    Raises:
        NotFound: A project, user or tenant that is filtered by is not there.
        RequestInvalid: `after` is no position of this list.
    """
    query, zone = await _query(connection, tenant_id, wanted)
    raw = await _raw(connection)
    total = _spent([], (await raw.fetch(query.grouped([]), *query.arguments))[0])
    if not dimensions:
        return SpendPage([], total, zone)
    order = (["-cost_nano_usd"] if dearest_first else []) + [f"d{number}" for number in range(len(dimensions))]
    past = ""
    if after:
        places = [query.placed(value) for value in _read_position(after, len(order), dearest_first=dearest_first)]
        past = f"WHERE ({', '.join(order)}) > ({', '.join(places)})"
    statement = (
        f"SELECT * FROM ({query.grouped(dimensions)}) g {past} ORDER BY {', '.join(order)} LIMIT {query.placed(count)}"  # noqa: S608 (columns of a fixed list; all values are parameters)
    )
    rows = await raw.fetch(statement, *query.arguments)
    return SpendPage([_spent(dimensions, row) for row in rows], total, zone)


def position(spent: Spent, *, dearest_first: bool) -> str:
    """Returns where a group stands in its list, for `read_spend` to go on after it."""
    place: list[JsonValue] = [-spent.cost_nano_usd] if dearest_first else []
    return orjson.dumps([*place, *spent.group.values()]).decode()


async def export_spend(
    connection: AsyncConnection, tenant_id: UUID, dimensions: Sequence[str], wanted: SpendFilter
) -> AsyncGenerator[str, None]:
    """Yields the groups as CSV, first its heading, then some hundred at a time, from a cursor: memory does not grow with them.

    Args:
        connection: A transaction in which nothing has been asked yet; it is used until the last line.
        tenant_id: The tenant.
        dimensions: As in `read_spend`.
        wanted: As in `read_spend`.

    Raises:
        NotFound: As in `read_spend`.
    """
    query, _ = await _query(connection, tenant_id, wanted)
    statement = query.grouped(dimensions)
    if dimensions:
        statement += f" ORDER BY {', '.join(str(number + 1) for number in range(len(dimensions)))}"
    yield csv_lines([[*dimensions, *MEASURES]])
    lines: list[list[object]] = []
    async for row in (await _raw(connection)).cursor(statement, *query.arguments, prefetch=_FETCH):
        lines.append([*(plain(name) for name in row[: len(dimensions)]), *row[len(dimensions) :]])
        if len(lines) == _FETCH:
            yield csv_lines(lines)
            lines.clear()
    yield csv_lines(lines)


@dataclass(slots=True)
class _Query:
    """Conditions on the rollups, and their arguments; nothing that a caller wrote stands in the statement itself."""

    conditions: list[str] = field(default_factory=list)
    arguments: list[object] = field(default_factory=list)

    def placed(self, value: object) -> str:
        self.arguments.append(value)
        return f"${len(self.arguments)}"

    def where(self, condition: str, value: object) -> None:
        self.conditions.append(condition.format(self.placed(value)))

    def grouped(self, dimensions: Sequence[str]) -> str:
        columns = [f"{DIMENSIONS[name]} AS d{number}" for number, name in enumerate(dimensions)]
        joins = " ".join(_JOINS[name] for name in dimensions if name in _JOINS)
        groups = f"GROUP BY {', '.join(str(n + 1) for n in range(len(dimensions)))}" if dimensions else ""
        return (
            f"SELECT {', '.join([*columns, _SUMS])} FROM rollups r {joins} "  # noqa: S608 (see DIMENSIONS)
            f"WHERE {' AND '.join(self.conditions)} {groups}"
        )


async def _raw(connection: AsyncConnection) -> asyncpg.Connection:
    return (await connection.get_raw_connection()).driver_connection


async def _query(connection: AsyncConnection, tenant_id: UUID, wanted: SpendFilter) -> tuple[_Query, str]:
    """Returns the conditions, and the tenant's time zone."""
    await connection.execute(_ONE_MOMENT)
    slug, zone = (await connection.execute(_TENANT, {"tenant_id": tenant_id})).one()
    query = _Query()
    query.where("r.tenant_id = {}", tenant_id)
    if wanted.first_day is not None:
        query.where("r.day >= {}::date", wanted.first_day)
    if wanted.last_day is not None:
        query.where("r.day <= {}::date", wanted.last_day)
    for name, value in wanted.equal.items():
        if name == "tenant":
            if value != slug:
                raise NotFound(f"there is no tenant {value!r}")
        elif name == "project":
            query.where(_FILTERS[name], await find_project(connection, tenant_id, value))
        elif name == "user":
            query.where(_FILTERS[name], await find_user(connection, tenant_id, value))
        elif name == "run":
            query.where(_FILTERS[name], UUID(value))
        elif name == "simulated":
            query.where(_FILTERS[name], value == "true")
        else:
            query.where(_FILTERS[name], value)
    return query, zone


def _spent(dimensions: Sequence[str], row: Sequence[Any]) -> Spent:  # Any: rows of asyncpg carry no types
    return Spent(dict(zip(dimensions, row, strict=False)), *row[len(dimensions) :])


def _read_position(text_: str, members: int, *, dearest_first: bool) -> list[JsonValue]:
    try:
        place = orjson.loads(text_)
    except orjson.JSONDecodeError:
        place = None
    kinds = [int if dearest_first and number == 0 else str for number in range(members)]
    if not isinstance(place, list) or [type(one) for one in place] != kinds:
        raise RequestInvalid("`cursor`: this is no cursor of this list", remedy="send `next_cursor` as it was received")
    return place
