from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from cli.stack.supervisor import Stack
from holdfast.contracts import names

from .trivial_run import TrivialRun
from .world import Tenant, World, running_api, settings_for


@pytest.fixture(scope="session")
async def world(base_stack: Stack, temporal_client: Client) -> AsyncIterator[World]:
    pool = await asyncpg.create_pool(base_stack.superuser_url, min_size=1, max_size=8)
    worker = Worker(
        temporal_client,
        task_queue=names.GOVERNOR_QUEUE,
        workflows=[TrivialRun],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    async with worker, running_api(settings_for(base_stack)) as api:
        world = World(base_stack, temporal_client, api, pool)
        yield world
        for engine in world.engines.values():
            await engine.dispose()
    await pool.close()


@pytest.fixture
async def tenant(world: World) -> AsyncIterator[Tenant]:
    tenant = await world.tenant()
    yield tenant
    await tenant.close()


@pytest.fixture
async def other(world: World) -> AsyncIterator[Tenant]:
    tenant = await world.tenant()
    yield tenant
    await tenant.close()
