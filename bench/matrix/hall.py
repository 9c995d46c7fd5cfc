"""Where the cells are played: PostgreSQL and Valkey of a stack, a sweeper as a governor has it, and processes that make calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn, cast

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from bench.matrix.process import News, Process
from cli.stack.supervisor import Stack
from holdfast.database.engine import create_engine
from holdfast.database.roles import PROCESS_ROLES
from holdfast.settings import GovernorSettings, read_secret_file
from holdfast.timeline.stream import Publisher, connect_redis
from workers.sweepers import Sweepers

_SWEEP_INTERVAL_MS: Final = 50
_LOOK_S: Final = 0.02
_CONNECTED: Final = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE $1"


class _NoWorkflow:
    """Stands for Temporal, which the runs here are not in: it answers as a server does that does not know a workflow."""

    async def _unknown(self, *_: object, **__: object) -> NoReturn:
        raise RPCError("there is no such workflow", RPCStatusCode.NOT_FOUND, b"")

    describe = signal = cancel = _unknown

    def get_workflow_handle(self, *_: object, **__: object) -> _NoWorkflow:
        """Returns a handle to nothing."""
        return self


@dataclass(slots=True)
class Hall:
    """See the module."""

    superuser: asyncpg.Pool
    api: AsyncEngine
    sweeper: AsyncEngine
    auditor: AsyncEngine
    urls: Mapping[str, str]
    news: asyncio.Queue[News] = field(default_factory=asyncio.Queue)
    processes: list[Process] = field(default_factory=list)
    kills: int = 0

    def staff(self, count: int) -> None:
        """Sees to it that there are that many processes at least."""
        while len(self.processes) < count:
            self.processes.append(Process(self.urls, self.news))

    async def kill_first(self) -> None:
        """Kills the first process with -9, waits until PostgreSQL has ended what that had asked for, and puts another in its place."""
        dead = self.processes[0].pid
        await self.processes[0].kill()
        while await self.superuser.fetchval(_CONNECTED, f"%matrix-{dead}"):  # noqa: ASYNC110 (a table)
            await asyncio.sleep(_LOOK_S)
        self.kills += 1
        self.processes[0] = Process(self.urls, self.news)


@asynccontextmanager
async def open_hall() -> AsyncIterator[Hall]:
    """Brings everything up for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="holdfast-matrix-") as name:
        folder = Path(name)
        os.chmod(folder, 0o755)  # noqa: S103, PTH101 (PostgreSQL runs under another account when root calls this)
        async with Stack(folder / "data", ports="free", parts={"postgres", "valkey", "migrations"}) as stack:
            urls = {role: stack.database_url(role) for role in PROCESS_ROLES}
            settings = stack.env_for("governor")
            engines = {
                role: create_engine(urls[f"holdfast_{role}"], process=f"matrix-{role}", pool_size=4)
                for role in ("api", "sweeper", "auditor")
            }
            pool = await asyncpg.create_pool(stack.superuser_url, min_size=1, max_size=4)
            hall = Hall(pool, engines["api"], engines["sweeper"], engines["auditor"], urls)
            try:
                async with _sweeping(engines["sweeper"], stack.urls.redis, settings):
                    yield hall
            finally:
                await asyncio.gather(*(process.stop() for process in hall.processes))
                await pool.close()
                for engine in engines.values():
                    await engine.dispose()


@asynccontextmanager
async def _sweeping(engine: AsyncEngine, redis_url: str, environment: Mapping[str, str]) -> AsyncIterator[None]:
    """Sweeps as a governor does; nobody waits here for an unknown outcome, so its worst case is committed at once."""
    given = {name.removeprefix("HOLDFAST_").lower(): value for name, value in environment.items()}
    log_key = read_secret_file(Path(environment["HOLDFAST_LOG_KEY_FILE"]))
    settings = GovernorSettings.model_validate(
        {**given, "log_key": log_key, "sweep_interval_ms": _SWEEP_INTERVAL_MS, "unknown_deadline_ms": 0}
    )
    redis = connect_redis(redis_url)
    sweepers = Sweepers(engine, cast(Client, _NoWorkflow()), Publisher(redis), settings, Ed25519PrivateKey.generate())
    task = asyncio.create_task(sweepers.run())
    try:
        yield
    finally:
        sweepers.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await redis.aclose()
