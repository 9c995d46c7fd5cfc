"""What the sequencer gives decisions to be found by is what the database says of them, for usual records and for odd ones."""

from __future__ import annotations

import asyncpg
import orjson
import pytest

from holdfast.decisions.facets import LENGTH_MAX, facets_of
from holdfast.transparency.sequencing import SMALL_BYTES
from tests.ledger.world import Database, Tenant, new_tenant

from .world import Log

FACETS = "facet_agent, facet_role, facet_tool, facet_rule, facet_code"
_INSERT = """
    INSERT INTO decisions (tenant_id, decision_id, run_id, kind, verdict, reason_codes, reply, part_a, part_b, record_hash)
    VALUES ($1, new_id(), $2, $3, 'allow', $4, $5, $6, '{}', sha256('\\x00'::bytea || sha256($6) || sha256('{}')))
"""
_LONG = "ä" * (LENGTH_MAX + 1)
PARTS: dict[str, bytes] = {
    "usual": b'{"action":{"tool":"mail.send"},"subject":{"agent":"a","role":"r"}}',
    "facts": b'{"action":{},"facts":{"agent":"a","role":"r"}}',
    "long": orjson.dumps({"action": {"tool": _LONG}, "subject": {"agent": _LONG, "role": _LONG}}),
    "NUL": b'{"action":{"args":"a\\u0000b","tool":"mail.send"}}',
    "looks like a NUL": b'{"action":{"args":"a\\\\u0000b","tool":"mail.send"}}',
    "half a character": b'{"action":{"args":"\\ud800","tool":"mail.send"}}',
    "number": b'{"action":{"tool":1.50},"subject":{"agent":7}}',
    "object": b'{"action":{"tool":{"a": 1}}}',
    "null": b'{"action":{"tool":null}}',
    "list": b"[1]",
    "deep": b'{"action":{"args":' + b"[" * 1100 + b"]" * 1100 + b',"tool":"mail.send"}}',
    "no JSON": b"no JSON",
    "no UTF-8": b"\xff\xfe",
    "large": orjson.dumps({"action": {"args": "x" * SMALL_BYTES, "tool": "mail.send"}}),
    "empty": b"{}",
}


async def _write_all(tenant: Tenant) -> int:
    run_id = await tenant.run()
    count = 0
    for part_a in PARTS.values():
        for run in (run_id, None):
            for kind in ("tool.call", "llm.call"):
                for codes, reply in (
                    ([], "{}"),
                    (["a.b", "c.d"], '{"rule_id": "ä"}'),
                    ([_LONG], f'{{"rule_id": "{_LONG}"}}'),
                ):
                    await tenant.database.execute(_INSERT, tenant.tenant_id, run, kind, codes, reply, part_a)
                    count += 1
    return count


async def test_the_sequencer_gives_what_the_database_says(database: Database) -> None:
    tenant = await new_tenant(database)
    log = Log(database, tenant.tenant_id)
    count = await _write_all(tenant)
    await log.sequencer().round()
    assert await log.check() == count
    look = f"""SELECT part_a, ARRAY[{FACETS}] AS kept, ARRAY[f.agent, f.role, f.tool, f.rule, f.code] AS computed
        FROM decisions d, LATERAL decision_facets(d) f WHERE tenant_id = $1"""
    rows = await database.fetch(look, tenant.tenant_id)
    assert [row for row in rows if row["kept"] != row["computed"]] == []
    assert {"mail.send", _LONG[:LENGTH_MAX], ""} <= {row["kept"][2] for row in rows}


def test_the_unusual_is_left_to_the_database() -> None:
    left = {name for name, part_a in PARTS.items() if facets_of(part_a, "tool.call", "a", "r", None, None).code is None}
    assert left == {*PARTS} - {"usual", "long", "large"}


@pytest.mark.parametrize("column", FACETS.split(", "))
async def test_what_a_numbered_record_is_found_by_stays(ledger_log: Log, column: str) -> None:
    await ledger_log.write(1)
    await ledger_log.sequencer().round()
    connection = await ledger_log.database.connect("sweeper")
    await connection.execute(f"BEGIN; SET LOCAL holdfast.tenant_id = '{ledger_log.tenant_id}'")
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await connection.execute(
            f"UPDATE decisions SET {column} = 'another' WHERE tenant_id = $1", ledger_log.tenant_id
        )
    assert refused.value.constraint_name == "decisions_facets_stay"
    await connection.close()
