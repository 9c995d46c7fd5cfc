from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.ledger.world import Database, Tenant, new_tenant, running_database


@pytest.fixture(scope="session")
async def database() -> AsyncIterator[Database]:
    async with running_database() as database:
        yield database


@pytest.fixture
async def tenant(database: Database) -> Tenant:
    return await new_tenant(database)


@pytest.fixture
async def other(database: Database) -> Tenant:
    """Another tenant."""
    return await new_tenant(database)
