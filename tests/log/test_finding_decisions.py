"""Looking for decisions among many: by an index for each filter, in pages that nothing new disturbs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from sqlalchemy import text

from holdfast.database.engine import transaction
from holdfast.decisions.query import DecisionFilter, Found, list_decisions, statement_of
from tests.ledger.world import Database, new_tenant

COUNT = 100_000
BEGINNING = datetime(2026, 3, 1, tzinfo=UTC)
RUN = UUID(int=7)
TOUCHED_MAX = 2_500
"""Rows that a page of 50 may touch; a scan would touch all of them."""

_MANY = """
    INSERT INTO decisions (tenant_id, decision_id, run_id, kind, verdict, reason_codes, reply, part_a, part_b, record_hash, created_at)
    SELECT $1, new_id(), CASE WHEN n % 1000 = 7 THEN '00000000-0000-0000-0000-000000000007'::uuid END,
        (ARRAY['tool.call', 'tool.call', 'llm.call', 'config', 'auth'])[1 + n % 5],
        CASE WHEN n % 50 = 3 THEN 'deny' WHEN n % 400 = 9 THEN 'needs_approval' ELSE 'allow' END,
        ARRAY['code.' || n % 40], jsonb_build_object('message', 'x', 'rule_id', 'rule-' || n % 30),
        convert_to(json_build_object('action', json_build_object('tool', 'tool-' || n % 20),
            'subject', json_build_object('agent', 'agent-' || n % 25, 'role', 'role-' || n % 10))::text, 'UTF8'),
        '{}', sha256('x'), $3::timestamptz + n * interval '1 second'
    FROM generate_series(1, $2::int) n
"""
WANTED: dict[str, Any] = {
    "run_id": RUN,
    "agent": "agent-3",
    "role": "role-3",
    "verdict": "deny",
    "kind": "config",
    "tool": "tool-3",
    "rule": "rule-3",
    "code": "code.3",
    "since": BEGINNING + timedelta(seconds=60_000),
    "until": BEGINNING + timedelta(seconds=60_600),
}


HELD: dict[str, Callable[[Found], bool]] = {
    "run_id": lambda each: each.row.run_id == RUN,
    "agent": lambda each: each.row.agent == "agent-3",
    "role": lambda each: each.row.role == "role-3",
    "verdict": lambda each: each.row.verdict == "deny",
    "kind": lambda each: each.row.kind == "config",
    "tool": lambda each: each.row.tool == "tool-3",
    "rule": lambda each: each.row.rule_id == "rule-3",
    "code": lambda each: each.row.reason_codes == ["code.3"],
    "since": lambda each: each.row.created_at >= WANTED["since"],
    "until": lambda each: each.row.created_at < WANTED["until"],
}
# what was written, by the number of the row; a tool stands in every one
EXPECTED: dict[str, Callable[[int], bool]] = {
    "run_id": lambda n: n % 1000 == 7,
    "agent": lambda n: n % 25 == 3,
    "role": lambda n: n % 10 == 3,
    "verdict": lambda n: n % 50 == 3,
    "kind": lambda n: n % 5 == 3,
    "tool": lambda n: n % 20 == 3,
    "rule": lambda n: n % 30 == 3,
    "code": lambda n: n % 40 == 3,
    "since": lambda n: n >= 60_000,
    "until": lambda n: n < 60_600,
}


@pytest.fixture(scope="module")
async def tenant_id(database: Database) -> UUID:
    made = (await new_tenant(database)).tenant_id
    await database.execute(_MANY, made, COUNT, BEGINNING)
    await database.execute(
        """UPDATE decisions d SET leaf_index = n.place FROM
           (SELECT decision_id, row_number() OVER (ORDER BY created_at) - 1 AS place FROM decisions WHERE tenant_id = $1) n
           WHERE d.tenant_id = $1 AND d.decision_id = n.decision_id""",
        made,
    )
    await database.execute("VACUUM ANALYZE decisions")
    return made


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "Scan" in plan["Node Type"] and "Relation Name" in plan:
        yield plan
    for part in plan.get("Plans", ()):
        yield from scans(part)


async def touched(database: Database, tenant_id: UUID, wanted: DecisionFilter) -> int:
    statement = statement_of(wanted, newest_first=True, placed=False)
    async with transaction(database.engine("api"), tenant_id) as connection:
        row = await connection.execute(
            text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}"),
            {"tenant_id": tenant_id, "count": 51, **wanted.parameters()},
        )
        explained = row.scalar_one()
    [plan] = orjson.loads(explained) if isinstance(explained, str) else explained
    found = list(scans(plan["Plan"]))
    assert not [each for each in found if each["Node Type"] == "Seq Scan" and each["Relation Name"] == "decisions"], (
        plan
    )
    return int(
        sum((each["Actual Rows"] + each.get("Rows Removed by Filter", 0)) * each["Actual Loops"] for each in found)
    )


@pytest.mark.parametrize("name", [None, *(each.name for each in fields(DecisionFilter))])
async def test_each_filter_is_served_by_an_index(database: Database, tenant_id: UUID, name: str | None) -> None:
    wanted = DecisionFilter(**({} if name is None else {name: WANTED[name]}))
    assert await touched(database, tenant_id, wanted) <= TOUCHED_MAX


@pytest.mark.parametrize("pair", list(itertools.combinations(WANTED, 2)), ids="+".join)
async def test_two_filters_find_what_both_find_without_a_scan(
    database: Database, tenant_id: UUID, pair: tuple[str, str]
) -> None:
    wanted = DecisionFilter(**{name: WANTED[name] for name in pair})
    assert await touched(database, tenant_id, wanted) <= COUNT // 5
    async with transaction(database.engine("api"), tenant_id) as connection:
        found = await list_decisions(connection, tenant_id, wanted, count=200)
    assert all(HELD[name](each) for each in found for name in pair)
    numbers = [number for number in range(1, COUNT + 1) if all(EXPECTED[name](number) for name in pair)]
    times = [BEGINNING + timedelta(seconds=number) for number in reversed(numbers)]
    assert [each.row.created_at for each in found] == times[:200]


async def test_all_filters_at_once(database: Database, tenant_id: UUID) -> None:
    wanted = DecisionFilter(**{name: value for name, value in WANTED.items() if name not in ("kind", "run_id")})
    async with transaction(database.engine("api"), tenant_id) as connection:
        found = await list_decisions(connection, tenant_id, wanted, count=COUNT)
    # 3 in each of 25, 10, 50, 20, 30 and 40: one in 600
    assert [each.row.agent for each in found] == ["agent-3"]


async def test_pages_have_each_record_once_while_others_are_written(database: Database, tenant_id: UUID) -> None:
    wanted = DecisionFilter(agent="agent-4")
    seen: list[UUID] = []
    place = None
    async with transaction(database.engine("api"), tenant_id) as connection:
        whole = [each.row.decision_id for each in await list_decisions(connection, tenant_id, wanted, count=COUNT)]
    while True:
        async with transaction(database.engine("api"), tenant_id) as connection:
            found = await list_decisions(connection, tenant_id, wanted, count=700, place=place)
        if not found:
            break
        seen += [each.row.decision_id for each in found]
        place = found[-1].place
        await database.execute(_MANY, tenant_id, 30, BEGINNING + timedelta(days=30))  # newer ones, without a number
    assert seen == whole
    # what has no number yet is found as well, and the first of all
    async with transaction(database.engine("api"), tenant_id) as connection:
        newest = await list_decisions(connection, tenant_id, wanted, count=3)
    assert all(each.row.leaf_index is None and each.row.agent == "agent-4" for each in newest)
    await database.execute("DELETE FROM decisions WHERE tenant_id = $1 AND leaf_index IS NULL", tenant_id)


async def test_records_that_were_numbered_before_are_filled_in(database: Database, tenant_id: UUID) -> None:
    facets = "facet_agent, facet_role, facet_tool, facet_rule, facet_code"
    look = f"SELECT {facets} FROM decisions WHERE tenant_id = $1 AND leaf_index < 2500 ORDER BY leaf_index"
    before = await database.fetch(look, tenant_id)
    async with database.superuser.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")  # no trigger stands in its way
        await connection.execute(
            """UPDATE decisions SET facet_agent = NULL, facet_role = NULL, facet_tool = NULL, facet_rule = NULL, facet_code = NULL
               WHERE tenant_id = $1 AND leaf_index < 2500""",
            tenant_id,
        )
    owner = await database.connect("owner")
    try:
        await owner.execute("CALL fill_facets()")
    finally:
        await owner.close()
    assert await database.fetch(look, tenant_id) == before


@pytest.mark.parametrize("part_a", [b'{"action":{"tool":"a\\u0000b"}}', b"\xff\xfe", b"no JSON"])
async def test_a_record_that_nobody_can_read_does_not_hold_up_the_log(database: Database, part_a: bytes) -> None:
    made = (await new_tenant(database)).tenant_id
    await database.execute(
        """INSERT INTO decisions (tenant_id, decision_id, kind, verdict, reason_codes, reply, part_a, part_b, record_hash)
           VALUES ($1, new_id(), 'tool.call', 'deny', '{}', '{}', $2, '{}', sha256('x'))""",
        made,
        part_a,
    )
    await database.execute("UPDATE decisions SET leaf_index = 0 WHERE tenant_id = $1", made)
    assert await database.value("SELECT facet_tool FROM decisions WHERE tenant_id = $1", made) == ""
