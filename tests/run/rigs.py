"""Brings up a rig: a whole stack whose leases and heartbeats are short, in a world of its own or in one that is there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import asyncpg
import httpx
from temporalio.client import Client

from cli.stack.ports import Ports
from cli.stack.secrets import load_or_create
from cli.stack.supervisor import Part, Stack
from demo.refund_desk.world.servers import World
from holdfast.codec import data_converter
from holdfast.settings import read_key_file

from .harness import PACKAGES, Rig
from .points import Points

# An executor that a busy machine keeps from being heard for some seconds is not dead yet, and a lease lasts for as long as a test
# holds an answer back.
HEARTBEAT_MS: Final = 5_000
LEASE_TOOL_MS: Final = 20_000
LEASE_LLM_MS: Final = 15_000


@asynccontextmanager
async def running_rig(
    *,
    codec_key: str = "",
    more_parts: Collection[Part] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
    executors: int = 1,
) -> AsyncIterator[Rig]:
    """Starts a stack with all failpoints known, and a world, for as long as the block runs."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-run-"))
    folder.chmod(0o755)
    if codec_key:
        (folder / "data").mkdir()
        made = load_or_create(folder / "data" / "secrets", data_exists=False)
        made.codec_key_file.write_text(codec_key, encoding="ascii")
    points = Points(folder / "points")
    try:
        async with (
            World(folder / "world") as world,
            standing_in(
                folder, world, points, more_parts=more_parts, environment=environment, executors=executors
            ) as rig,
        ):
            yield rig
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def standing_in(
    folder: Path,
    world: World,
    points: Points,
    *,
    data: str = "data",
    ports: Ports | Literal["free"] = "free",
    more_parts: Collection[Part] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
    executors: int = 1,
) -> AsyncIterator[Rig]:
    """Starts a stack in a world that is there, for as long as the block runs."""
    shared = {
        # compiled code is kept between restarts: processes are killed here all the time
        "PYTHONDONTWRITEBYTECODE": "",
        # a heartbeat that is as short as theirs here leaves no time for imports
        "HOLDFAST_PRELOADED_PROVIDERS": "anthropic,openai",
        "HOLDFAST_SANDBOX_PROFILE": "full" if os.geteuid() == 0 else "unprivileged",
        **points.environment,
        **environment,
    }
    governor = {
        "HOLDFAST_HEARTBEAT_TIMEOUT_MS": str(HEARTBEAT_MS),
        "HOLDFAST_LEASE_TOOL_MS": str(LEASE_TOOL_MS),
        "HOLDFAST_LEASE_LLM_MS": str(LEASE_LLM_MS),
        "HOLDFAST_SWEEP_INTERVAL_MS": "200",
    }
    async with (
        Stack(
            folder / data,
            ports=ports,
            parts={"postgres", "valkey", "temporal", "migrations", "provider", "governor", "executor", *more_parts},
            executors=executors,
            provider="simulated",
            headless=True,
            extra_env={
                "governor": {**governor, **shared},
                "executor": {**shared, "PYTHONPATH": str(folder / PACKAGES)},
                "api": shared,
                "provider": shared,
            },
        ) as stack,
        httpx.AsyncClient(base_url=stack.urls.provider, trust_env=False, timeout=60) as provider,
        asyncpg.create_pool(stack.superuser_url, min_size=1, max_size=4) as database,
    ):
        client = await Client.connect(
            stack.urls.temporal,
            namespace=stack.env_for("api")["HOLDFAST_TEMPORAL_NAMESPACE"],
            data_converter=data_converter(read_key_file(stack.secrets.codec_key_file)),
        )
        rig = Rig(stack, world, points, database, client, provider)
        yield rig
        rig.points.clear()
        await rig.cross_check()
        rig.witness.close()
        for engine in rig.engines.values():
            await engine.dispose()
