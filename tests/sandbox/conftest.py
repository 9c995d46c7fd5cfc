"""One sandbox for the tests of jobs; those of its start and end make their own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox.service import Sandbox, Settings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs root says so, and is counted, where the tests are run by somebody else."""
    if os.geteuid() == 0:
        return
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and "ordinary_account" not in item.name:
            item.add_marker(pytest.mark.skip(reason="no user namespace here: every layer needs root"))


@pytest.fixture(scope="session")
async def sandbox() -> AsyncIterator[Sandbox]:
    """A sandbox with every layer; its pool never shrinks, for other tests count what is on the host."""
    async with Sandbox(Settings(idle_min=1, idle_max=1)) as started:
        yield started
