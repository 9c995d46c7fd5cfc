"""The records that a rehearsal is over, page by page in the order of their ids, with what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.decisions import sealed
from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.engine.deciding import ENGINE_VERSION
from holdfast_verdict.rehearse.recorded import ADMISSION, Became, Recorded, outcome_of

PAGE: Final = 2_000
_CLOCKS_MS: Final = 600_000
"""How far the clock that made an id may be from PostgreSQL's."""
_DECIDERS_MAX: Final = 1_000


# $1 the tenant, $2 ids behind which, $3 up to which, $4 and $5 the time, of which the end is excluded
_IN_SCOPE: Final = f"""
    d.tenant_id = $1 AND d.decision_id > $2 AND d.decision_id < $3 AND d.created_at >= $4 AND d.created_at < $5
    AND (d.step IS NOT NULL OR d.kind = '{ADMISSION}')
"""
_COUNT: Final = f"SELECT count(*) FROM decisions d WHERE {_IN_SCOPE}"  # noqa: S608 (constant parts)
_PAGE: Final = f"""
    WITH page AS MATERIALIZED (
        SELECT d.tenant_id, d.decision_id, d.kind, d.run_id, d.created_at, d.verdict, d.part_a, d.superseded_at, d.hold_id
        FROM decisions d WHERE {_IN_SCOPE} ORDER BY d.decision_id LIMIT {PAGE}
    )
    SELECT d.decision_id, d.kind, d.run_id, floor(extract(epoch FROM d.created_at) * 1000)::bigint AS at_ms, d.verdict, d.part_a,
        d.superseded_at IS NOT NULL AS superseded, h.state, h.settled_by, h.cost_nano_usd, h.outward_at IS NOT NULL AS went_out,
        floor(extract(epoch FROM coalesce(h.settled_at, h.unknown_at, h.created_at)) * 1000)::bigint AS became_ms,
        o.hold_id IS NOT NULL AS answered, coalesce(o.ok, false) AS ok,
        h.state IN ('voided', 'expired') AND EXISTS (SELECT 1 FROM holds n WHERE n.tenant_id = h.tenant_id AND n.run_id = h.run_id
            AND n.step = h.step AND n.try > h.try AND n.superseded_at IS NULL) AS retried,
        p.slug AS project, u.name AS user_name, t.slug AS tenant, r.user_roles, s.salt
    FROM page d JOIN tenants t ON t.tenant_id = d.tenant_id
    LEFT JOIN holds h ON h.tenant_id = d.tenant_id AND h.hold_id = d.hold_id AND d.kind <> '{ADMISSION}'
    LEFT JOIN outcomes o ON o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id
    LEFT JOIN runs r ON r.tenant_id = d.tenant_id AND r.run_id = d.run_id
    LEFT JOIN projects p ON p.tenant_id = r.tenant_id AND p.project_id = r.project_id
    LEFT JOIN users u ON u.tenant_id = r.tenant_id AND u.user_id = r.user_id
    LEFT JOIN run_salts s ON s.tenant_id = d.tenant_id AND s.run_id = d.run_id
    ORDER BY d.decision_id
"""  # noqa: S608 (constant parts)
_DECIDERS: Final = f"""
    SELECT DISTINCT ON (policy_hash) compiled FROM policies WHERE tenant_id = $1 AND engine_version = '{ENGINE_VERSION}'
    ORDER BY policy_hash LIMIT {_DECIDERS_MAX}
"""  # noqa: S608 (constant parts)

_Row = Any  # Any: rows of asyncpg carry no types


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose records of which time are wanted.

    Attributes:
        tenant_id: The tenant.
        since: From then on.
        until: Before then.
    """

    tenant_id: UUID
    since: datetime
    until: datetime

    @property
    def first(self) -> UUID:
        """The smallest id that a record of the time may have, less one."""
        return _id_at(int(self.since.timestamp() * 1000) - _CLOCKS_MS)

    def arguments(self, after: UUID) -> tuple[object, ...]:
        """Returns the arguments of a query for what comes after an id."""
        ceiling = _id_at(int(self.until.timestamp() * 1000) + _CLOCKS_MS)
        return (self.tenant_id, after, ceiling, self.since, self.until)


def _id_at(ms: int) -> UUID:
    return UUID(int=max(ms, 0) << 80)


async def count(connection: AsyncConnection, wanted: Wanted) -> int:
    """Returns how many records there are."""
    raw: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
    return int(await raw.fetchval(_COUNT, *wanted.arguments(wanted.first)))


async def deciders(connection: AsyncConnection, tenant_id: UUID) -> tuple[JsonValue, ...]:
    """Returns the compiled forms of the tenant's policies."""
    raw: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
    return tuple(orjson.loads(row["compiled"]) for row in await raw.fetch(_DECIDERS, tenant_id))


async def page(connection: AsyncConnection, wanted: Wanted, after: UUID) -> Sequence[Recorded]:
    """Returns the next records after an id; fewer than `PAGE` are the last."""
    raw: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
    return [_recorded(row) for row in await raw.fetch(_PAGE, *wanted.arguments(after))]


def _recorded(row: _Row) -> Recorded:
    principal: list[tuple[str, str | tuple[str, ...]]] = [("tenant", row["tenant"])]
    if row["project"] is not None:
        principal += [("project", row["project"]), ("user", row["user_name"])]
    if row["user_roles"] is not None:
        principal.append(("roles", tuple(row["user_roles"])))
    return Recorded(
        str(row["decision_id"]),
        row["kind"],
        "" if row["run_id"] is None else str(row["run_id"]),
        row["at_ms"],
        row["verdict"],
        b"" if row["part_a"] is None else sealed.opened(row["part_a"], row["salt"]) or row["part_a"],
        row["superseded"],
        None if row["state"] is None else _became(row),
        tuple(principal),
    )


def _became(row: _Row) -> Became:
    outcome = outcome_of(
        row["state"], row["settled_by"], answered=row["answered"], ok=row["ok"], went_out=row["went_out"]
    )
    unread = row["state"] in ("voided", "expired") and not row["answered"] and not row["went_out"]
    return Became(outcome, row["became_ms"], unread, row["retried"], row["cost_nano_usd"])
