"""`transaction` is the one way to write: whatever happens inside of it, all of it stands or nothing, and nothing leaks out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.database.engine import create_engine, tenantless, transaction
from holdfast.errors import HoldfastError
from holdfast.ids import new_id
from tests.ledger.world import Database, Tenant, new_tenant, until

_INSERT = text("INSERT INTO idempotency_keys VALUES (:tenant_id, 'test', :key, sha256(''), 200, '{}', now())")


@pytest.fixture
async def engine(database: Database) -> AsyncIterator[AsyncEngine]:
    """An engine of one connection, so that whatever one transaction leaves behind, the next one would find."""
    engine = create_engine(database.urls["holdfast_api"], process="test-single", pool_size=1)
    yield engine
    await engine.dispose()


async def _insert(connection: AsyncConnection, tenant_id: UUID, key: str) -> None:
    await connection.execute(_INSERT, {"tenant_id": tenant_id, "key": key})


async def _keys(database: Database, tenant: Tenant) -> set[str]:
    rows = await database.fetch("SELECT key FROM idempotency_keys WHERE tenant_id = $1", tenant.tenant_id)
    return {row["key"] for row in rows}


async def _nothing_open(database: Database) -> bool:
    return not await database.value(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast-test-single' AND state <> 'idle'"
    )


async def test_a_block_that_ends_well_commits_and_one_that_does_not_rolls_back(
    engine: AsyncEngine, tenant: Tenant, database: Database
) -> None:
    async with transaction(engine, tenant.tenant_id) as connection:
        await _insert(connection, tenant.tenant_id, "kept")

    async def fail() -> None:
        async with transaction(engine, tenant.tenant_id) as connection:
            await _insert(connection, tenant.tenant_id, "lost")
            raise ZeroDivisionError

    async def fail_in_the_database() -> None:
        async with transaction(engine, tenant.tenant_id) as connection:
            await _insert(connection, tenant.tenant_id, "lost, too")
            await connection.execute(text("SELECT 1 / 0"))

    with pytest.raises(ZeroDivisionError):
        await fail()
    with pytest.raises(DBAPIError):
        await fail_in_the_database()
    assert await _keys(database, tenant) == {"kept"}


async def test_an_error_that_the_block_swallows_is_an_error_all_the_same(
    engine: AsyncEngine, tenant: Tenant, database: Database
) -> None:
    async def swallow() -> None:
        async with transaction(engine, tenant.tenant_id) as connection:
            await _insert(connection, tenant.tenant_id, "half")
            with pytest.raises(DBAPIError):
                await connection.execute(text("SELECT 1 / 0"))

    with pytest.raises(HoldfastError, match="rolled back"):
        await swallow()
    assert await _keys(database, tenant) == set()


async def test_the_tenant_ends_with_the_transaction(engine: AsyncEngine, tenant: Tenant, database: Database) -> None:
    count = text("SELECT count(*) FROM projects")
    async with transaction(engine, tenant.tenant_id) as connection:
        assert await connection.scalar(count) == 1
    async with tenantless(engine) as connection:
        assert await connection.scalar(count) == 0
    stranger = await new_tenant(database)
    async with transaction(engine, stranger.tenant_id) as connection:
        assert await connection.scalar(text("SELECT project_id FROM projects")) == stranger.project_id
    async with transaction(engine, new_id()) as connection:
        assert await connection.scalar(count) == 0


async def test_a_tenant_that_is_no_id_opens_nothing(engine: AsyncEngine, tenant: Tenant) -> None:
    for hostile in ("", "'; RESET ALL; --", f"{tenant.tenant_id}'"):
        with pytest.raises((ValueError, DBAPIError)):
            async with transaction(engine, hostile) as connection:  # type: ignore[arg-type]  # the attack
                await connection.scalar(text("SELECT count(*) FROM projects"))


@pytest.mark.parametrize("blocked", [False, True])
async def test_cancelled_at_any_moment_it_leaves_no_transaction_open(
    engine: AsyncEngine, tenant: Tenant, database: Database, blocked: bool
) -> None:
    """The task is cancelled after 0, 1, 2 … turns of the event loop; then the next transaction must start from nothing."""
    told: set[str] = set()

    async def write(key: str) -> None:
        async with transaction(engine, tenant.tenant_id) as connection:
            await _insert(connection, tenant.tenant_id, key)
            if blocked:
                await connection.execute(text("SELECT pg_sleep(0.002)"))
        told.add(key)

    for turns in [*range(60), *range(25), *range(25), *range(25)]:
        task = asyncio.create_task(write(str(new_id())))
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns % 3 == 2:
            await database.value("SELECT 1")  # as long as a round trip takes
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with tenantless(engine) as connection:
            assert await connection.scalar(text("SELECT count(*) FROM projects")) == 0, "nor its tenant"
        async with transaction(engine, tenant.tenant_id) as connection:
            inherited = await connection.scalar(text("SELECT pg_current_xact_id_if_assigned()::text"))
        assert inherited is None, f"what was cancelled after {turns} turns was left to the next transaction to commit"
    await until(lambda: _nothing_open(database))
    assert told <= await _keys(database, tenant)


async def test_after_a_restart_no_caller_meets_a_dead_connection_of_the_pool(
    tenant: Tenant, database: Database
) -> None:
    engine = create_engine(database.urls["holdfast_api"], process="test-single", pool_size=6)
    together = asyncio.Barrier(6)

    async def hold_one() -> None:
        async with transaction(engine, tenant.tenant_id) as connection:
            await connection.execute(text("SELECT 1"))
            await together.wait()

    try:
        await asyncio.gather(*(hold_one() for _ in range(6)))
        await database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdfast-test-single'"
        )

        async def write(key: str) -> None:
            async with transaction(engine, tenant.tenant_id) as connection:
                await _insert(connection, tenant.tenant_id, key)

        await asyncio.gather(*(write(str(number)) for number in range(20)))
        assert len(await _keys(database, tenant)) == 20
    finally:
        await engine.dispose()


async def test_a_killed_connection_is_replaced(engine: AsyncEngine, tenant: Tenant, database: Database) -> None:
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdfast-test-single'"
    for round_ in range(3):
        async with transaction(engine, tenant.tenant_id) as connection:
            await _insert(connection, tenant.tenant_id, f"kept {round_}")
        await database.execute(kill)

    async def lose() -> None:
        async with transaction(engine, tenant.tenant_id) as connection:
            await _insert(connection, tenant.tenant_id, "lost")
            await database.execute(kill)

    with pytest.raises((HoldfastError, DBAPIError)):
        await lose()
    async with transaction(engine, tenant.tenant_id) as connection:
        await _insert(connection, tenant.tenant_id, "after")
    assert await _keys(database, tenant) == {"kept 0", "kept 1", "kept 2", "after"}


async def test_connections_that_a_peak_has_opened_are_kept_and_there_are_no_more_than_twice_as_many(
    tenant: Tenant, database: Database
) -> None:
    """A peak that came again opens none: each costs the server more than many transactions."""
    engine = create_engine(database.urls["holdfast_api"], process="test-peak", pool_size=2)
    pid = text("SELECT pg_backend_pid()")

    async def peak() -> set[int]:
        async def one() -> int:
            async with transaction(engine, tenant.tenant_id) as connection:
                await connection.execute(text("SELECT pg_sleep(0.05)"))
                return int((await connection.execute(pid)).scalar_one())

        return set(await asyncio.gather(*(one() for _ in range(12))))

    try:
        first = await peak()
        assert len(first) == 4
        assert [await peak() for _ in range(3)] == [first] * 3
    finally:
        await engine.dispose()
