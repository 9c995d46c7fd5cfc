"""A pytest plugin: how tests are spread where several processes run them (`pytest -n 2`, or as `make test` does).

Each process starts the servers that its tests ask for. The tests of a folder that shares servers stay together, so that these are
started once; elsewhere the tests of a file do. What takes longest begins first, so that no process is left alone with it.
"""

from __future__ import annotations

from typing import Final

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from cli.stack import ports

# Folders whose tests share servers, those that take longest first.
TOGETHER: Final = ("run", "backup", "cli", "api", "ledger", "sandbox", "database", "workers", "packaging")

PORTS: Final = ports._FREE_RANGE


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


def ports_of(number: int, count: int) -> range:
    """Returns the ports that one of several processes picks free ones from: some are picked long before a server listens there."""
    return range(PORTS.start + number, PORTS.stop, count)


def pytest_configure(config: pytest.Config) -> None:
    """Lets no two processes pick the same port."""
    if hasattr(config, "workerinput"):
        number, count = int(config.workerinput["workerid"].removeprefix("gw")), int(config.workerinput["workercount"])
        vars(ports)["_FREE_RANGE"] = ports_of(number, count)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByServers:
    """Spreads the tests by their servers, whatever `--dist` says."""
    return ByServers(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts first what takes longest; where one process runs all tests, their order is left as it is."""
    if hasattr(config, "workerinput"):
        rank = {folder: number for number, folder in enumerate(TOGETHER)}
        items.sort(key=lambda item: rank.get(group_of(item.nodeid), len(rank)))
