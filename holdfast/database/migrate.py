"""`python -m holdfast.database.migrate`: brings the schema to the newest version. The only code that runs as the owner."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast import logs
from holdfast.database.engine import create_engine
from holdfast.errors import HoldfastError
from holdfast.settings import MigrationSettings, load, warn_of_misspellings

_LOCK_KEY = 0x686F6C64666173  # "holdfas": one migration at a time


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    command.upgrade(_config(connection), "head")


async def migrate(owner_engine: AsyncEngine) -> str:
    """Runs all missing migrations as the schema's owner and returns the version that is now in force.

    A second process that migrates at the same time waits for the first. Locks are given up after five seconds rather
    than stop the traffic of a live database.
    """
    # the engine commits each statement by itself; a migration is one transaction
    transactional = owner_engine.execution_options(isolation_level="READ COMMITTED")
    async with transactional.connect() as connection:
        await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
        # only now: it would bound the wait for the other process as well
        await connection.execute(text("SET lock_timeout = '5s'"))
        await connection.commit()
        try:
            await connection.run_sync(_upgrade)
            await connection.commit()
            version = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one()
            await connection.commit()
        finally:
            await connection.rollback()
            await connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK_KEY})
            await connection.commit()
    return str(version)


async def _main() -> int:
    settings = load(MigrationSettings)
    logs.configure("migrations", settings.log_level)
    warn_of_misspellings(MigrationSettings)
    engine = create_engine(settings.owner_database_url, process="migrate", pool_size=1)
    try:
        version = await migrate(engine)
    finally:
        await engine.dispose()
    print(f"schema is at version {version}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(_main()))
    except HoldfastError as error:
        print(f"error: {error.message}. {error.remedy}", file=sys.stderr)
        sys.exit(2)
