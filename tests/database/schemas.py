"""Databases of a test's own, whose schema is somewhere on its way."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
from sqlalchemy.engine import make_url

from holdfast.database.engine import create_engine
from holdfast.database.migrate import Bounds, Migrated, migrate
from holdfast.database.version import MIGRATIONS
from tests.ledger.world import Database, until
from tests.stack.places import ROOT


@asynccontextmanager
async def empty_database(database: Database) -> AsyncIterator[Database]:
    """Yields another database of the same server, with nothing in it."""
    name = f"empty_{uuid4().hex}"
    await database.execute(f"CREATE DATABASE {name} OWNER holdfast_owner TEMPLATE template0")
    urls = {
        role: make_url(url).set(database=name).render_as_string(hide_password=False)
        for role, url in database.urls.items()
    }
    superuser_url = make_url(database.superuser_url).set(database=name).render_as_string(hide_password=False)
    pool = await asyncpg.create_pool(superuser_url, min_size=1, max_size=2)
    empty = Database(urls, superuser_url, pool)
    yield empty
    for engine in empty.engines.values():
        await engine.dispose()
    await pool.close()
    await database.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def migrate_schema(
    database: Database, folder: Path = MIGRATIONS, bounds: Bounds | None = None, said: list[str] | None = None
) -> Migrated:
    """Migrates as the owner."""
    engine = create_engine(database.urls["holdfast_owner"], process="test-migrate", pool_size=2)
    say = (lambda _: None) if said is None else said.append
    try:
        return await migrate(engine, folder=folder, bounds=bounds, say=say)
    finally:
        await engine.dispose()


async def killed_in(database: Database, folder: Path, waiting_for: str) -> None:
    """Migrates in a process of its own, and kills it when it waits inside PostgreSQL."""
    code = (
        "import asyncio, sys; from pathlib import Path; from holdfast.database.engine import create_engine;"
        "from holdfast.database.migrate import migrate;"
        "asyncio.run(migrate(create_engine(sys.argv[1], process='victim', pool_size=2), folder=Path(sys.argv[2])))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, database.urls["holdfast_owner"], str(folder), cwd=ROOT, env=dict(os.environ)
    )
    try:
        waits = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast-victim' AND {waiting_for}"
        await until(lambda: database.value(waits), timeout_s=60)
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
