from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .harness import Rig, Tenant
from .rigs import running_rig


@pytest.fixture(scope="session")
async def standing_rig() -> AsyncIterator[Rig]:
    async with running_rig() as rig:
        yield rig


@pytest.fixture
async def rig(standing_rig: Rig) -> AsyncIterator[Rig]:
    """The stack; after each test all is up and undisturbed, the books are right, and Temporal's histories say what the log says."""
    yield standing_rig
    await standing_rig.calm()
    await standing_rig.audit()
    await standing_rig.cross_check()


@pytest.fixture
async def tenant(rig: Rig) -> AsyncIterator[Tenant]:
    """A tenant of the test's own; afterwards every run of it has ended, and every hold is settled."""
    tenant = await rig.tenant()
    yield tenant
    await rig.calm()
    for run in tenant.runs:
        await run.ended()
        await run.settled()
