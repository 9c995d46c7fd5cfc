"""The consistent point: nothing is decided between the two snapshots, and what an executor stores meanwhile is in the later one."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from cli.backup import point
from cli.backup.errors import BackupFailed
from cli.backup.point import consistent_point
from tests.ledger.world import Database, Tenant, until


async def _seen(database: Database, snapshot: str, sql: str, *arguments: object) -> object:
    """Asks the database as it was at a snapshot."""
    connection = await asyncpg.connect(database.superuser_url)
    try:
        await connection.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{snapshot}'")
        return await connection.fetchval(sql, *arguments)
    finally:
        await connection.close()


async def test_nothing_is_decided_or_settled_between_the_two_snapshots(database: Database, tenant: Tenant) -> None:
    await tenant.cap("tenant", 1_000_000)
    run = await tenant.run()
    held = await tenant.held(run)
    tasks: list[asyncio.Task[object]] = []

    async def snapshot_temporal() -> None:
        tasks.append(asyncio.create_task(tenant.reserve(run, 2)))
        tasks.append(asyncio.create_task(tenant.settle(held.hold_id, "voided")))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'holdfast-test-%'"

        async def both() -> bool:
            return bool(await database.value(waiting) >= 2)

        await until(both)

    async with consistent_point(database.superuser_url, snapshot_temporal, print) as snapshot:
        await asyncio.gather(*tasks)  # both go on while the copies are made
        count = "SELECT count(*) FROM holds WHERE run_id = $1"
        state = "SELECT state FROM holds WHERE hold_id = $1"
        assert await _seen(database, snapshot.name, count, run) == 1
        assert await _seen(database, snapshot.name, state, held.hold_id) == "held"
    assert await database.value(count, run) == 2
    assert await database.value(state, held.hold_id) == "voided"


async def test_an_outcome_that_temporal_may_know_of_is_in_postgresqls_half(database: Database, tenant: Tenant) -> None:
    """LAW 4: the other way round a workflow would settle a hold without the outcome that it has seen."""
    await tenant.cap("tenant", 1_000_000)
    held = await tenant.held(await tenant.run())
    token = (await tenant.redeem(held)).lease_token
    assert await tenant.begin(held.hold_id, token) is not None

    async def snapshot_temporal() -> None:
        assert await tenant.store(
            held.hold_id, token
        )  # and then the executor tells Temporal, too late for this snapshot

    async with consistent_point(database.superuser_url, snapshot_temporal, print) as snapshot:
        found = await _seen(database, snapshot.name, "SELECT count(*) FROM outcomes WHERE hold_id = $1", held.hold_id)
    assert found == 1


async def test_a_long_transaction_holds_it_up_and_nobody_else(
    database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tenant.cap("tenant", 1_000_000)
    run = await tenant.run()
    writer = await asyncpg.connect(database.superuser_url)
    await writer.execute("BEGIN; UPDATE runs SET status_message = 'x' WHERE false")
    said: list[str] = []

    async def nothing() -> None:
        pass

    async def take() -> None:
        async with consistent_point(database.superuser_url, nothing, said.append):
            pass

    taking = asyncio.create_task(take())

    async def twice() -> bool:
        return len(said) >= 2

    await until(twice)
    assert said[0].startswith("a transaction that writes to `runs` takes long; trying again in")
    assert (await tenant.reserve(run, 1)).verdict == "allow"  # between its tries
    await writer.execute("ROLLBACK; BEGIN; UPDATE runs SET status_message = 'x' WHERE false; ROLLBACK")
    await taking
    await writer.execute("BEGIN; UPDATE runs SET status_message = 'x' WHERE false")
    monkeypatch.setattr(point, "_PATIENCE_S", 0.1)
    with pytest.raises(BackupFailed, match=r"in one transaction for more than 0\.1 s"):
        await take()
    await writer.close()


async def test_a_role_that_does_not_see_everything_makes_no_backup(database: Database) -> None:
    async def nothing() -> None:
        pass

    with pytest.raises(BackupFailed, match="the role holdfast_governor does not see the rows of all tenants"):
        async with consistent_point(database.urls["holdfast_governor"], nothing, print):
            pass
