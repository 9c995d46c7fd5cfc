from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .desk import Desk, opened_desk
from .world import Database, Tenant, new_tenant, running_database


@pytest.fixture(scope="session")
async def database() -> AsyncIterator[Database]:
    async with running_database() as database:
        yield database


@pytest.fixture
async def tenant(database: Database) -> Tenant:
    return await new_tenant(database)


@pytest.fixture
async def desk(database: Database, tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened_desk(database, tmp_path) as desk:
        yield desk
