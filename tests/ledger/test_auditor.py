"""The auditor finds whatever is wrong with the books, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from holdfast.ledger.auditor import Audit, audit
from tests.forging import write_past_triggers
from tests.log.world import new_log
from workers.eraser import Eraser

from .world import Database, Tenant


async def _look(database: Database) -> Audit:
    return await audit(database.engine("auditor"))


async def _run(url: str | None, *arguments: str) -> tuple[int, str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HOLDFAST_")}
    if url is not None:
        environment["HOLDFAST_AUDITOR_DATABASE_URL"] = url
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "holdfast.ledger.auditor",
        *arguments,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@asynccontextmanager
async def broken(database: Database, *statements: str) -> AsyncIterator[None]:
    """Books that are wrong inside the block: a superuser goes past every constraint, and then puts back what he changed."""
    tables = ("caps", "holds", "journal", "decisions", "outcomes", "rollups")
    async with database.superuser.acquire() as connection:
        await connection.execute("SET session_replication_role = replica")  # no foreign keys, no triggers
        for table in tables:
            await connection.execute(f"CREATE TEMP TABLE saved_{table} AS SELECT * FROM {table}")
        try:
            for statement in statements:
                await connection.execute(statement)
            yield
        finally:
            for table in tables:
                await connection.execute(f"DELETE FROM {table}")
                await connection.execute(f"INSERT INTO {table} SELECT * FROM saved_{table}")
                await connection.execute(f"DROP TABLE saved_{table}")
            await connection.execute("SET session_replication_role = DEFAULT")


@pytest.fixture
async def books(tenant: Tenant) -> dict[str, UUID]:
    """A little of everything: a committed, a voided, an unknown, an executed and a held hold on two caps."""
    money = await tenant.cap("tenant", 1_000)
    await tenant.cap("user", 1_000, unit="calls")
    run = await tenant.run()
    ids = {}
    for step, name in enumerate(("committed", "voided", "unknown", "executed", "held")):
        hold = await tenant.held(run, step, amounts={"nano_usd": 10, "calls": 1})
        ids[name] = hold.hold_id
        if name == "unknown":
            await tenant.begin(hold.hold_id, (await tenant.redeem(hold)).lease_token)
            await tenant.settle(hold.hold_id, "unknown")
        if name in ("committed", "executed"):
            await tenant.executed(hold)
    await tenant.settle(ids["committed"], "committed", {"nano_usd": 13, "calls": 1})
    await tenant.settle(ids["voided"], "voided")
    return {**ids, "money": money, "run": run}


async def test_right_books_have_nothing_to_name(database: Database, books: dict[str, UUID]) -> None:
    found = await _look(database)
    assert found.discrepancies == ()
    assert found.tenants >= 1
    assert found.caps >= 2
    assert found.holds >= 5
    assert found.journal_entries >= 14


BREAKS = {
    "cap.balance": "UPDATE caps SET committed = committed + 1 WHERE cap_id = '{money}'",
    "cap.limit": "UPDATE caps SET limit_amount = limit_amount + 1, ceiling = ceiling + 1 WHERE cap_id = '{money}'",
    "cap.windows": "UPDATE caps SET newest = false WHERE cap_id = '{money}'",
    "cap.ceiling": "UPDATE caps SET ceiling = ceiling + 1 WHERE cap_id = '{money}'",
    "cap.reserved": "UPDATE caps SET reserved = reserved + 1 WHERE cap_id = '{money}'",
    "journal.overdrawn": "UPDATE journal SET limit_amounts = array_fill(15, ARRAY[2]) WHERE hold_id = '{voided}' AND kind = 'reserve'",
    "leg.journal": "UPDATE journal SET kind = 'expire' WHERE hold_id = '{voided}' AND kind = 'void'",
    "journal.leg": "UPDATE holds SET leg_cap_ids = leg_cap_ids[1:1], leg_amounts = leg_amounts[1:1] WHERE hold_id = '{held}'",
    "hold.cost": "UPDATE holds SET cost_nano_usd = 12 WHERE hold_id = '{committed}'",
    "rollup.journal": "UPDATE rollups SET tokens = tokens + 1 WHERE run_id = '{run}'",
    "hold.decision": "UPDATE decisions SET verdict = 'deny' WHERE hold_id = '{held}'",
    "decision.hold": "DELETE FROM holds WHERE hold_id = '{held}'",
    "decision.hash": "UPDATE decisions SET part_b = part_b || ' ' WHERE hold_id = '{held}'",
    "hold.outcome": "DELETE FROM outcomes WHERE hold_id = '{executed}'",
}
MORE_BREAKS = [
    ("leg.journal", "DELETE FROM journal WHERE hold_id = '{voided}' AND kind = 'void'"),
    ("leg.journal", "UPDATE journal SET reserved_deltas = ARRAY[-9,-1] WHERE hold_id = '{voided}' AND kind = 'void'"),
    ("leg.journal", "UPDATE holds SET state = 'held', settled_at = NULL WHERE hold_id = '{voided}'"),
    ("cap.reserved", "UPDATE holds SET state = 'voided', settled_at = now() WHERE hold_id = '{unknown}'"),
    *(
        ("rollup.journal", f"UPDATE rollups SET {column} = {column} + 1 WHERE run_id = '{{run}}'")
        for column in ("cost_nano_usd", "calls", "holds", "input_tokens", "cached_tokens", "day")
    ),
    ("rollup.journal", "DELETE FROM rollups WHERE run_id = '{run}'"),
    ("rollup.journal", "UPDATE rollups SET agent = 'another' WHERE run_id = '{run}'"),
    ("rollup.journal", "UPDATE rollups SET simulated = NOT simulated WHERE run_id = '{run}'"),
    ("rollup.journal", "UPDATE journal SET day = NULL WHERE hold_id = '{committed}' AND kind = 'commit'"),
    (
        "leg.journal",
        """UPDATE holds SET leg_cap_ids = leg_cap_ids || (SELECT cap_id FROM caps WHERE limit_amount <> 1000 LIMIT 1),
           leg_amounts = leg_amounts || 1::bigint WHERE hold_id = '{held}'""",
    ),
]


@pytest.mark.parametrize(("check", "statement"), [*BREAKS.items(), *MORE_BREAKS])
async def test_each_thing_that_can_be_wrong_is_named(
    database: Database, tenant: Tenant, books: dict[str, UUID], check: str, statement: str
) -> None:
    if "limit_amount <> 1000" in statement:
        await tenant.cap("role", 7, unit="slots")
    async with broken(database, statement.format(**books)):
        found = await _look(database)
    assert check in {one.check for one in found.discrepancies}
    slug = await database.value("SELECT slug FROM tenants WHERE tenant_id = $1", tenant.tenant_id)
    assert {one.tenant for one in found.discrepancies} == {slug}
    assert (await _look(database)).discrepancies == ()


@pytest.mark.parametrize(
    "forged",
    ["record_hash = sha256('x')", "part_a_sha256 = sha256('x')", "part_b = part_b || ' '"],
)
async def test_a_record_that_retention_took_part_a_from_still_has_to_hash_to_its_record_hash(
    database: Database, forged: str
) -> None:
    """What is left of it, the hash of part A and part B, is what the log proves, and so what nobody may have changed."""
    log = await new_log(database)
    kept, deleted = await log.record("kept"), await log.record("deleted")
    await log.sequencer().round()
    pool = database.superuser
    await write_past_triggers(
        pool, "UPDATE decisions SET created_at = created_at - interval '2 days' WHERE decision_id = $1", deleted
    )
    await database.execute(
        "INSERT INTO retention_settings (tenant_id, days, set_by) VALUES ($1, 1, 'a test')", log.tenant_id
    )
    await Eraser(database.engine("sweeper")).sweep()
    rows = await database.fetch(
        "SELECT * FROM decisions WHERE tenant_id = $1 AND decision_id = ANY($2) ORDER BY decision_id = $3",
        log.tenant_id, [kept, deleted], deleted,
    )  # fmt: skip
    assert [row["part_a"] is None for row in rows] == [False, True]
    assert (await _look(database)).discrepancies == ()
    try:
        await write_past_triggers(pool, f"UPDATE decisions SET {forged} WHERE decision_id = $1", deleted)
        found = {(one.check, one.subject_id) for one in (await _look(database)).discrepancies}
        code, out, _ = await _run(database.urls["holdfast_auditor"])
    finally:
        await write_past_triggers(
            pool, "UPDATE decisions SET record_hash = $2, part_a_sha256 = $3, part_b = $4 WHERE decision_id = $1",
            deleted, rows[1]["record_hash"], rows[1]["part_a_sha256"], rows[1]["part_b"],
        )  # fmt: skip
    assert found == {("decision.hash", str(deleted))}
    assert (code, f"decision.hash: {deleted}" in out) == (1, True)
    assert (await _look(database)).discrepancies == ()


async def test_the_command_answers_with_its_exit_code(database: Database, books: dict[str, UUID]) -> None:
    url = database.urls["holdfast_auditor"]
    code, out, _ = await _run(url, "--json")
    assert (code, json.loads(out)["ok"], json.loads(out)["discrepancies"]) == (0, True, [])
    async with broken(database, BREAKS["cap.reserved"].format(**books)):
        code, out, _ = await _run(url, "--json")
        assert (code, json.loads(out)["ok"]) == (1, False)
        assert str(books["money"]) in {one["subject_id"] for one in json.loads(out)["discrepancies"]}
        code, out, _ = await _run(url)
        assert code == 1
        assert f"cap.reserved: {books['money']}" in out


@pytest.mark.parametrize(
    ("url", "arguments", "says"),
    [
        (None, (), "HOLDFAST_AUDITOR_DATABASE_URL"),
        ("x", ("--loud",), "--loud"),
        ("postgresql://x:y@127.0.0.1:1/z", (), "cannot read"),
    ],
)
async def test_what_keeps_it_from_looking_is_said(url: str | None, arguments: tuple[str, ...], says: str) -> None:
    code, out, err = await _run(url, *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


async def test_it_may_look_while_others_work(tenant: Tenant) -> None:
    """One snapshot for all its questions: a grant or a settlement between two of them is not a discrepancy."""
    await tenant.cap("tenant", 10**9)
    looking = True

    async def work(run: UUID) -> int:
        settled = 0
        while looking:
            hold = await tenant.held(run, settled)
            await tenant.executed(hold)
            await tenant.settle(hold.hold_id, "committed", {"nano_usd": 7, "calls": 1, "tokens": 3})
            settled += 1
        return settled

    working = [asyncio.create_task(work(run)) for run in await tenant.runs(8)]
    try:
        for _ in range(3):
            assert (await _look(tenant.database)).discrepancies == ()
    finally:
        looking = False
        settled = await asyncio.gather(*working)
    assert min(settled) > 0
    assert (await _look(tenant.database)).discrepancies == ()
