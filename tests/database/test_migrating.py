"""Migrating: once, again, several at once, and not at all if any of it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from holdfast.database.engine import create_engine
from holdfast.database.migrate import migrate
from tests.ledger.world import Database, until

_OBJECTS = """SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace)
    + (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace)"""


@pytest.fixture
async def empty(database: Database) -> AsyncIterator[Database]:
    """Another database of the same server, with nothing in it."""
    name = f"empty_{uuid4().hex}"
    await database.execute(f"CREATE DATABASE {name} OWNER holdfast_owner TEMPLATE template0")
    urls = {
        role: make_url(url).set(database=name).render_as_string(hide_password=False)
        for role, url in database.urls.items()
    }
    superuser_url = make_url(database.superuser_url).set(database=name).render_as_string(hide_password=False)
    pool = await asyncpg.create_pool(superuser_url, min_size=1, max_size=2)
    yield Database(urls, superuser_url, pool)
    await pool.close()
    await database.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def _migrate(database: Database) -> str:
    engine = create_engine(database.urls["holdfast_owner"], process="test-migrate", pool_size=1)
    try:
        return await migrate(engine)
    finally:
        await engine.dispose()


async def test_many_who_migrate_at_once_migrate_once(empty: Database) -> None:
    versions = await asyncio.gather(*(_migrate(empty) for _ in range(4)))
    assert len(set(versions)) == 1
    made = await empty.value(_OBJECTS)
    assert await _migrate(empty) == versions[0]
    assert await empty.value(_OBJECTS) == made
    assert await empty.value("SELECT count(*) FROM tenants WHERE slug = 'platform'") == 1


async def test_one_that_waits_for_another_waits_longer_than_its_lock_timeout(empty: Database) -> None:
    """The bound on locks is for tables of a live database, not for the other process."""
    holder = await asyncpg.connect(empty.superuser_url)
    await holder.execute("SELECT pg_advisory_lock($1)", 0x686F6C64666173)
    waiting = asyncio.create_task(_migrate(empty))
    blocked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    await until(lambda: empty.value(blocked))
    waited = """SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast-test-migrate'
        AND wait_event = 'advisory' AND now() - query_start > interval '5.5 s'"""
    await until(lambda: empty.value(waited))
    assert not waiting.done()
    await holder.close()
    assert await waiting


@pytest.mark.parametrize("script", ["0001_initial.sql", "0001_access.sql"])
async def test_a_migration_that_fails_in_the_middle_leaves_nothing(
    empty: Database, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_text = Path.read_text

    def broken(path: Path, encoding: str | None = None, errors: str | None = None) -> str:
        return read_text(path, encoding, errors) + ("\nSELECT 1 / 0;" if path.name == script else "")

    monkeypatch.setattr(Path, "read_text", broken)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await _migrate(empty)
    assert await empty.value(_OBJECTS) == 0
    monkeypatch.undo()
    assert await _migrate(empty)
