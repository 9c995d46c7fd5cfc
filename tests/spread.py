"""A pytest plugin: how tests are spread where several processes run them (`pytest -n 2`, or as `make test` does).

Each process starts the servers that its tests ask for. The tests of a folder that shares servers stay together, so that these are
started once; elsewhere the tests of a file do. What takes longest begins first, so that no process is left alone with it.
"""

from __future__ import annotations

from typing import Final

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Folders whose tests share servers, those that take longest first.
TOGETHER: Final = ("run", "backup", "cli", "api", "ledger", "sandbox", "database", "workers", "packaging")


def group_of(nodeid: str) -> str:
    """Names the tests that one process runs: those of a folder, or of a file."""
    file = nodeid.partition("::")[0]
    folder = file.removeprefix("tests/").partition("/")[0]
    return folder if folder in TOGETHER else file


class ByServers(LoadScopeScheduling):  # type: ignore[misc]  # it ships no types
    """Gives each process a group of tests at a time."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # by the number of tests, which says nothing of how long they take

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByServers:
    """Spreads the tests by their servers, whatever `--dist` says."""
    return ByServers(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts first what takes longest; where one process runs all tests, their order is left as it is."""
    if hasattr(config, "workerinput"):
        rank = {folder: number for number, folder in enumerate(TOGETHER)}
        items.sort(key=lambda item: rank.get(group_of(item.nodeid), len(rank)))
