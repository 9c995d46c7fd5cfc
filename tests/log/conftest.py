"""What the tests of the log share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.ledger.world import Database, running_database

from .go_oracle import Oracle
from .world import Log, new_log


@pytest.fixture(scope="session")
def oracle() -> Iterator[Oracle]:
    """The field's own modules."""
    with Oracle() as running:
        yield running


@pytest.fixture(scope="session")
async def database() -> AsyncIterator[Database]:
    async with running_database() as database:
        yield database


@pytest.fixture
async def ledger_log(database: Database) -> Log:
    """A new tenant's log."""
    return await new_log(database)
