"""`python -m holdfast.database.migrate`: brings the schema to the newest version. The only code that runs as the owner.

It can run while the database is in use: whoever has to wait for a lock of its waits a second at most, and a migration that
does not get its locks waits, says for whom, and tries again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast import logs
from holdfast.database.engine import create_engine
from holdfast.database.version import MIGRATIONS, SchemaUnfit, SchemaVersion, newest_known
from holdfast.errors import HoldfastError
from holdfast.settings import MigrationSettings, load, warn_of_misspellings

LOCK_KEY: Final = 0x686F6C64666173
"""Whoever holds this advisory lock migrates; the number spells "holdfas"."""

_LOCK_NOT_AVAILABLE = "55P03"
_QUERY_CANCELED = "57014"
_PAUSE_FIRST_S = 0.5
_PAUSE_MAX_S = 5.0
_LOOK_S = 0.2
_LOOK_AT_LOCKS_S = 0.04
_TRY_LOCK = text("SELECT pg_try_advisory_lock(:key)")
_UNLOCK = text("SELECT pg_advisory_unlock(:key)")
COMMENT: Final = text("SELECT obj_description(to_regclass('public.alembic_version'), 'pg_class')")
_HOLDER = text("""
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32 | objid::bigint) = :key
""")
# which statement they run is for nobody's eyes: it may quote values
_BLOCKERS = text("""
    SELECT b.pid, coalesce(nullif(a.application_name, ''), 'no name') AS program, a.usename AS role
    FROM unnest(pg_blocking_pids(:pid)) AS b (pid) LEFT JOIN pg_stat_activity a ON a.pid = b.pid
""")


class SchemaBlocked(HoldfastError):
    """A migration could not get its locks in time; nothing of it was done."""

    code = "schema.blocked"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a migration may hold others up, and others it.

    Attributes:
        lock_timeout_ms: How long one try waits for a lock; everybody who comes later waits behind it.
        statement_timeout_ms: How long one statement of a transaction may take.
        patience_ms: How long locks are tried for.
    """

    lock_timeout_ms: int = 1_000
    statement_timeout_ms: int = 30_000
    patience_ms: int = 120_000


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration has changed.

    Attributes:
        before: The version that was found; `None` for an empty database.
        after: The version that is in force.
    """

    before: str | None
    after: str

    @property
    def sentence(self) -> str:
        """Says so."""
        if self.before is None:
            return f"the database schema was made (version {self.after})"
        if self.before == self.after:
            return f"the database schema is up to date (version {self.after})"
        return f"the database schema was migrated from version {self.before} to {self.after}"


def _silent(_: str) -> None:
    pass


def version_of(script: Script, comment: str | None = None) -> SchemaVersion:
    """Returns which version a migration makes, and who may work with it: unless it says otherwise, its predecessor's programs.

    Args:
        script: The migration.
        comment: What the database says now: a restore that has not finished is not finished by a migration.
    """
    standing = SchemaVersion.parse(comment)
    predecessor = script.down_revision or script.revision
    assert isinstance(predecessor, str)  # the migrations are a line
    oldest = getattr(script.module, "oldest_program", predecessor)
    return SchemaVersion(script.revision, oldest, restoring=standing is not None and standing.restoring)


def config_of(folder: Path, connection: Connection | None = None) -> Config:
    """Returns alembic's configuration for the migrations in a folder; without a connection they can only be printed."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS.parent))
    config.set_main_option("version_locations", str(folder))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    return config


def scripts_of(folder: Path) -> list[Script]:
    """Returns the migrations in a folder, oldest first."""
    return list(ScriptDirectory.from_config(config_of(folder)).walk_revisions())[::-1]


class _Migrator:
    """One process's migration of one database."""

    def __init__(
        self, connection: AsyncConnection, watcher: AsyncConnection, bounds: Bounds, say: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._watcher = watcher
        self._bounds = bounds
        self._say = say
        self._deadline = time.monotonic() + bounds.patience_ms / 1000
        self._blockers = ""

    async def current(self) -> str | None:
        """Returns the version that is in force."""
        found = await self._connection.run_sync(lambda c: MigrationContext.configure(c).get_current_revision())
        await self._connection.commit()
        return found

    async def lock(self) -> None:
        """Waits until no other process migrates.

        It asks again and again rather than wait inside PostgreSQL, where it would keep a snapshot open: the other one may wait
        for exactly that, when it builds an index.
        """
        said = False
        while not await self._connection.scalar(_TRY_LOCK, {"key": LOCK_KEY}):
            holder = await self._connection.scalar(_HOLDER, {"key": LOCK_KEY})
            await self._connection.commit()
            if not said:
                self._say(f"another process migrates (PostgreSQL's process {holder}); waiting for it")
                said = True
            if time.monotonic() > self._deadline:
                raise SchemaBlocked(
                    f"another process migrates and has not ended in {self._bounds.patience_ms / 1000:g} s "
                    f"(PostgreSQL's process {holder})",
                    remedy="run it again when that has ended",
                )
            await asyncio.sleep(_LOOK_S)
        await self._connection.commit()

    async def unlock(self) -> None:
        """Lets others migrate; a connection that broke has done so by its end."""
        with contextlib.suppress(DBAPIError, asyncpg.InterfaceError, OSError):
            await self._connection.rollback()
            await self._connection.execute(_UNLOCK, {"key": LOCK_KEY})
            await self._connection.commit()

    async def step(self, folder: Path, script: Script) -> None:
        """Runs one migration, again and again while others hold what it needs.

        Raises:
            SchemaBlocked: They did so for too long; the schema is as it was.
        """
        pause_s = _PAUSE_FIRST_S
        while True:
            try:
                await self._try(folder, script)
            except (DBAPIError, asyncpg.PostgresError) as error:
                await self._connection.rollback()
                late = self._why_late(error)
                if not late:
                    raise
            else:
                return
            if time.monotonic() + pause_s > self._deadline:
                raise SchemaBlocked(
                    f"migration {script.revision} {late} in {self._bounds.patience_ms / 1000:g} s; "
                    f"version {await self.current()} is in force and works as before",
                    remedy="end what holds it up, or run it again at a quieter time, or with more --patience-s",
                )
            self._say(f"migration {script.revision} {late}; trying again in {pause_s:g} s")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)

    async def _try(self, folder: Path, script: Script) -> None:
        bounds = self._bounds
        await self._connection.execute(text(f"SET lock_timeout = {bounds.lock_timeout_ms}"))
        await self._connection.execute(text(f"SET statement_timeout = {bounds.statement_timeout_ms}"))
        pid = await self._connection.scalar(text("SELECT pg_backend_pid()"))
        await self._connection.commit()
        watching = asyncio.create_task(self._watch(pid))
        try:
            await self._connection.run_sync(lambda c: command.upgrade(config_of(folder, c), script.revision))
            await self._connection.commit()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, pid: int) -> None:
        """Notes whom the migration waits for: afterwards nobody knows."""
        while True:
            rows = list(await self._watcher.execute(_BLOCKERS, {"pid": pid}))
            if rows:
                names = (f"PostgreSQL's process {row.pid} ({row.program}, role {row.role})" for row in rows)
                self._blockers = " and ".join(names)
            await asyncio.sleep(_LOOK_AT_LOCKS_S)

    def _why_late(self, error: DBAPIError | asyncpg.PostgresError) -> str:
        """Says why a try may go better another time; empty if it would not."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        state = getattr(cause, "sqlstate", None)
        if state == _LOCK_NOT_AVAILABLE:
            return f"could not get a lock: {self._blockers or 'somebody'} holds it"
        if state == _QUERY_CANCELED:
            return f"had a statement that took longer than {self._bounds.statement_timeout_ms / 1000:g} s"
        return ""

    async def say_version(self, script: Script) -> None:
        """Makes the database say its version, if an earlier program has migrated it without."""
        standing = await self._connection.scalar(COMMENT)
        wanted = version_of(script, standing).comment
        if standing != wanted:
            await self._connection.execute(text(f"COMMENT ON TABLE alembic_version IS '{wanted}'"))
        await self._connection.commit()


@asynccontextmanager
async def _migrator(owner_engine: AsyncEngine, bounds: Bounds, say: Callable[[str], None]) -> AsyncIterator[_Migrator]:
    # the engine commits each statement by itself; a migration is one transaction
    transactional = owner_engine.execution_options(isolation_level="READ COMMITTED")
    async with transactional.connect() as connection, owner_engine.connect() as watcher:
        migrator = _Migrator(connection, watcher, bounds, say)
        await migrator.lock()
        try:
            yield migrator
        finally:
            await migrator.unlock()
            await connection.invalidate()  # its settings are a migration's, and nobody else's


async def migrate(
    owner_engine: AsyncEngine,
    *,
    say: Callable[[str], None] = _silent,
    bounds: Bounds | None = None,
    folder: Path = MIGRATIONS,
) -> Migrated:
    """Runs all missing migrations as the schema's owner, each by itself; a second process that migrates waits for the first.

    Args:
        owner_engine: Database as the owner.
        say: Gets a line whenever it has to wait.
        bounds: How long for.
        folder: Where the migrations lie.

    Raises:
        SchemaBlocked: Somebody else kept what it needs for too long. What was migrated until then works by itself.
        SchemaUnfit: A newer program has migrated this database.
    """
    scripts = scripts_of(folder)
    known = [script.revision for script in scripts]
    async with _migrator(owner_engine, bounds or Bounds(), say) as migrator:
        before = await migrator.current()
        if before is not None and before not in known:
            raise SchemaUnfit(
                f"the database's schema is {before}; this program knows {known[-1]} as the newest",
                remedy="start a newer version of Holdfast: a schema never goes back",
            )
        pending = scripts if before is None else scripts[known.index(before) + 1 :]
        for script in pending:
            await migrator.step(folder, script)
        await migrator.say_version(scripts[-1])
        return Migrated(before, known[-1])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m holdfast.database.migrate",
        description=f"Brings the schema to version {newest_known()}. It may run while Holdfast does.",
    )
    parser.add_argument("--patience-s", type=int, default=120, help="seconds to try for locks; default 120")
    parser.add_argument("--lock-timeout-ms", type=int, default=1_000, help="bound of one try; others wait behind it")
    return parser.parse_args()


async def _main(arguments: argparse.Namespace) -> int:
    settings = load(MigrationSettings)
    logs.configure("migrations", settings.log_level)
    warn_of_misspellings(MigrationSettings)
    bounds = Bounds(lock_timeout_ms=arguments.lock_timeout_ms, patience_ms=arguments.patience_s * 1_000)
    engine = create_engine(settings.owner_database_url, process="migrate", pool_size=2)
    try:
        done = await migrate(engine, say=lambda line: print(line, flush=True), bounds=bounds)
    finally:
        await engine.dispose()
    print(done.sentence)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(_main(_arguments())))
    except HoldfastError as error:
        print(f"error: {error.message}. {error.remedy}", file=sys.stderr)
        sys.exit(2)
