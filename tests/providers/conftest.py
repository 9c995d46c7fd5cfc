from __future__ import annotations

from collections.abc import Iterator

import pytest

from .simulated import Simulated, running


@pytest.fixture(scope="session")
def simulated_process() -> Iterator[Simulated]:
    with running() as (simulated, _process):
        yield simulated


@pytest.fixture
def simulated(simulated_process: Simulated) -> Iterator[Simulated]:
    simulated_process.reset()
    yield simulated_process
    simulated_process.reset()
