"""The consistent point: for a moment nothing is decided or settled, and meanwhile both snapshots are taken, Temporal's first.

Whatever a run does it writes into its row of `runs`: each decision, each settlement, its start and its end. A lock on that table
therefore stops the world for the few milliseconds that two snapshots take; both are copied afterwards, while work goes on. What can
move all the same is an execution that is under way: its outcome may reach PostgreSQL after Temporal's snapshot, never the other way
round. So the pair is what a power failure at that moment would have left, and everything that holds after one holds here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from cli.backup.errors import BackupFailed
from holdfast.database.version import SchemaVersion

_LOCK_TIMEOUT_MS: Final = 500
_PATIENCE_S: Final = 60.0
_PAUSE_FIRST_S: Final = 0.25
_PAUSE_MAX_S: Final = 4.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """PostgreSQL's half of the point.

    Attributes:
        name: What `pg_dump` is told.
        server: Version of the server.
        server_major: Its first number.
    """

    name: str
    at: datetime
    writes_stopped_ms: int
    server: str
    server_major: int
    schema: SchemaVersion
    tenants: int
    open_runs: int


async def connect(url: str) -> asyncpg.Connection:
    """Connects as somebody who may see all rows.

    Raises:
        BackupFailed: It cannot.
    """
    try:
        connection = await asyncpg.connect(url, timeout=10, server_settings={"application_name": "holdfast-backup"})
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise BackupFailed(
            f"cannot connect to PostgreSQL: {error}", remedy="check the URL, and whether it runs"
        ) from None
    if not await connection.fetchval("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"):
        role = await connection.fetchval("SELECT current_user")
        await connection.close()
        raise BackupFailed(
            f"the role {role} does not see the rows of all tenants",
            remedy="give the URL of a superuser, or of a role with BYPASSRLS that may read every table",
        )
    return connection


@asynccontextmanager
async def consistent_point(
    url: str, snapshot_temporal: Callable[[], Awaitable[None]], say: Callable[[str], None]
) -> AsyncIterator[Snapshot]:
    """Takes both snapshots at one point; PostgreSQL's is kept as long as the block runs.

    Args:
        url: PostgreSQL, as a superuser.
        snapshot_temporal: Takes Temporal's.
        say: Gets a line when it has to wait.

    Raises:
        BackupFailed: Somebody kept writing to `runs` in one transaction for too long.
    """
    fence, reader = await connect(url), await connect(url)
    try:
        schema = SchemaVersion.parse(
            await reader.fetchval("SELECT obj_description(to_regclass('public.alembic_version'), 'pg_class')")
        )
        if schema is None or schema.restoring:
            raise BackupFailed("the database has no whole schema of Holdfast", remedy="start Holdfast on it once")
        await _stop_writes(fence, say)
        began = time.monotonic()
        try:
            await (
                snapshot_temporal()
            )  # INVARIANT: Temporal's first, so that no workflow believes what PostgreSQL does not know
            await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            name = await reader.fetchval("SELECT pg_export_snapshot()")
        finally:
            await fence.execute("ROLLBACK")
        version = reader.get_server_version()
        yield Snapshot(
            name=name,
            at=await reader.fetchval("SELECT now()"),
            writes_stopped_ms=int((time.monotonic() - began) * 1000),
            server=f"{version.major}.{version.minor}",
            server_major=version.major,
            schema=schema,
            tenants=await reader.fetchval("SELECT count(*) - 1 FROM tenants"),
            open_runs=await reader.fetchval("SELECT count(*) FROM runs WHERE ended_at IS NULL"),
        )
    finally:
        for connection in (reader, fence):
            await connection.close()


async def _stop_writes(fence: asyncpg.Connection, say: Callable[[str], None]) -> None:
    """Takes the lock; gives way after half a second each time, because everybody who comes later waits behind it."""
    deadline, pause_s = time.monotonic() + _PATIENCE_S, _PAUSE_FIRST_S
    while True:
        await fence.execute(f"BEGIN; SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
        try:
            await fence.execute("LOCK TABLE runs IN SHARE MODE")
        except asyncpg.LockNotAvailableError:
            await fence.execute("ROLLBACK")
        else:
            return
        if time.monotonic() > deadline:
            raise BackupFailed(
                f"somebody has written to `runs` in one transaction for more than {_PATIENCE_S:g} s",
                remedy="end that transaction (a migration?), or take the backup at a quieter time",
            )
        say(f"a transaction that writes to `runs` takes long; trying again in {pause_s:g} s")
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _PAUSE_MAX_S)
