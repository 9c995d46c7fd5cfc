"""Sweeping holds by the thousand: all settled, once each, whenever the sweeper is killed; and the journal's months."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
import structlog
from redis.asyncio import Redis
from temporalio.client import Client

from cli.stack.supervisor import Stack
from holdfast.database.roles import PROCESS_ROLES
from holdfast.ledger.auditor import audit
from holdfast.timeline.stream import Publisher
from tests.ledger.world import Database, Tenant, new_tenant, until
from tests.stack.places import ROOT
from workers.hold_sweeper import HoldSweeper
from workers.journal_tender import JournalTender

DEADLINE = timedelta(days=1)
_SWEEP = """
import asyncio, sys
from datetime import timedelta
from redis.asyncio import Redis
from temporalio.client import Client
from holdfast.database.engine import create_engine
from holdfast.timeline.stream import Publisher
from workers import hold_sweeper

async def main(database, redis, temporal):
    hold_sweeper.BATCH_MAX = 100
    client = await Client.connect(temporal, namespace="holdfast")
    engine = create_engine(database, process="victim", pool_size=4)
    await hold_sweeper.HoldSweeper(engine, client, Publisher(Redis.from_url(redis)), timedelta(days=1)).sweep()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def database(servers: Stack) -> AsyncIterator[Database]:
    pool = await asyncpg.create_pool(servers.superuser_url, min_size=1, max_size=4)
    database = Database(
        {role: servers.database_url(role) for role in (*PROCESS_ROLES, "holdfast_owner")}, servers.superuser_url, pool
    )
    yield database
    for engine in database.engines.values():
        await engine.dispose()
    await pool.close()


@pytest.fixture
async def sweeper(database: Database, servers: Stack) -> AsyncIterator[HoldSweeper]:
    client = await Client.connect(servers.urls.temporal, namespace="holdfast")
    async with Redis.from_url(servers.urls.redis) as redis:
        yield HoldSweeper(database.engine("sweeper", pool_size=4), client, Publisher(redis), DEADLINE)


async def _expired(tenant: Tenant, count: int) -> None:
    """Takes that many holds, which are all over at once."""
    run_ids = await tenant.runs(count)
    await asyncio.gather(*(tenant.reserve(run_id) for run_id in run_ids))
    await tenant.database.execute(
        "UPDATE holds SET expires_at = now() - interval '1 s' WHERE tenant_id = $1 AND state = 'held'", tenant.tenant_id
    )


async def _states(tenant: Tenant) -> dict[str, int]:
    rows = await tenant.database.fetch(
        "SELECT state, count(*) FROM holds WHERE tenant_id = $1 GROUP BY state", tenant.tenant_id
    )
    return {row[0]: row[1] for row in rows}


async def test_a_thousand_expired_holds_are_one_sweep_in_few_batches_and_one_line(
    sweeper: HoldSweeper, database: Database
) -> None:
    tenants = [await new_tenant(database), await new_tenant(database)]
    caps = [await tenant.cap("tenant", 10**9) for tenant in tenants]
    await asyncio.gather(*(_expired(tenant, 500) for tenant in tenants))
    outside = await tenants[0].held()
    await tenants[0].begin(outside.hold_id, (await tenants[0].redeem(outside)).lease_token)
    await database.execute(
        "UPDATE holds SET expires_at = now(), lease_expires_at = now() WHERE hold_id = $1", outside.hold_id
    )
    with structlog.testing.capture_logs() as lines:
        assert await sweeper.sweep() == {"expired": 1_000, "unknown": 1}
    [line] = [line for line in lines if line["event"] == "holds.swept"]
    assert (line["expired"], line["unknown"]) == (1_000, 1)
    figures = sweeper.ledger.settling.figures
    assert figures.members == 1_001
    assert figures.batches < 1_001 / 4, "they share batches"
    assert await _states(tenants[0]) == {"expired": 500, "unknown": 1}
    assert await _states(tenants[1]) == {"expired": 500}
    assert [(await tenant.balances(cap))[0] for tenant, cap in zip(tenants, caps, strict=True)] == [10, 0]
    assert (await audit(database.engine("auditor"))).discrepancies == ()
    with structlog.testing.capture_logs() as lines:
        assert await sweeper.sweep() == {}
    assert lines == [], "nothing done, nothing said"


async def test_killed_in_the_middle_the_next_one_settles_the_rest_and_nothing_twice(
    servers: Stack, database: Database, sweeper: HoldSweeper
) -> None:
    tenant = await new_tenant(database)
    cap = await tenant.cap("tenant", 10**9)
    await _expired(tenant, 1_000)
    swept = "SELECT count(*) FROM holds WHERE tenant_id = $1 AND state = 'expired'"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SWEEP, database.urls["holdfast_sweeper"], servers.urls.redis, servers.urls.temporal,
        cwd=ROOT, env=dict(os.environ), stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    await until(lambda: database.value(swept, tenant.tenant_id), timeout_s=60)
    if process.returncode is None:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    await sweeper.sweep()
    assert await _states(tenant) == {"expired": 1_000}
    assert await tenant.balances(cap) == (0, 0, 0)
    assert (
        await database.value("SELECT count(*) FROM journal WHERE tenant_id = $1 AND kind = 'expire'", tenant.tenant_id)
        == 1_000
    )
    assert (await audit(database.engine("auditor"))).discrepancies == ()


async def test_looking_for_what_is_due_reads_no_settled_hold(sweeper: HoldSweeper, database: Database) -> None:
    """What is due is found by the index of open holds, however many were settled before."""
    tenant = await new_tenant(database)
    await tenant.cap("tenant", 10**9)
    await _expired(tenant, 300)
    await sweeper.sweep()
    await database.execute("VACUUM (ANALYZE) holds")
    body = await database.value("SELECT prosrc FROM pg_proc WHERE proname = 'due_holds'")
    asked = body.replace("p_limit", "100").replace("p_unknown_deadline", "interval '1 day'")
    plan = "\n".join(row[0] for row in await database.fetch(f"EXPLAIN (ANALYZE, COSTS OFF) {asked}"))
    assert "holds_open" in plan, plan
    assert "Seq Scan on holds" not in plan, plan


async def test_looking_for_what_was_not_told_reads_no_run_that_only_goes_on(database: Database) -> None:
    """A cancellation that is due is found by an index of those, however many runs are open."""
    tenant = await new_tenant(database)
    await tenant.runs(500)
    await database.execute("VACUUM (ANALYZE) runs")
    body = await database.value("SELECT prosrc FROM pg_proc WHERE proname = 'due_signals'")
    plan = "\n".join(
        row[0] for row in await database.fetch(f"EXPLAIN (ANALYZE, COSTS OFF) {body.replace('p_limit', '100')}")
    )
    assert "runs_cancelled" in plan, plan
    assert "Seq Scan on runs" not in plan, plan


async def test_the_journals_months_are_made_ahead_and_entries_that_had_none_are_told_and_moved(
    database: Database,
) -> None:
    tenant = await new_tenant(database)
    await tenant.cap("tenant", 1_000)
    await database.execute(
        "UPDATE journal SET created_at = created_at - interval '3 years' WHERE tenant_id = $1", tenant.tenant_id
    )
    tender = JournalTender(database.engine("sweeper", pool_size=4))
    with structlog.testing.capture_logs() as lines:
        await tender.tend()
        await tender.tend()
    [line] = [line for line in lines if line["event"] == "journal.month_missing"]
    assert line["entries"] == 1
    assert await database.value("SELECT count(*) FROM journal_rest") == 0
    assert await database.value(f"SELECT count(*) FROM journal_{line['month'].replace('-', '_')}") == 1
    assert (await audit(database.engine("auditor"))).discrepancies == ()
    ahead = "SELECT to_regclass('journal_' || to_char(now() AT TIME ZONE 'UTC' + interval '3 months', 'YYYY_MM')) IS NOT NULL"
    assert await database.value(ahead)
