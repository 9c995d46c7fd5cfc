"""Import rules that import-linter cannot express: submodules of other people's packages, and who shares our rooms' names."""

from __future__ import annotations

import ast
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.syntax import parsed

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("holdfast_verdict", "holdfast", "sandbox", "activities", "workflows", "workers", "api", "cli", "sdk")
TEMPORAL_INSIDE = ("temporalio.workflow", "temporalio.activity", "temporalio.worker")


def imported(path: Path) -> set[str]:
    """Returns every dotted name that a file imports, with the names taken from a package."""
    found: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("room", ["holdfast", "holdfast_verdict", "api", "sdk"])
def test_domain_and_front_know_nothing_of_temporals_inside(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    offences = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imported(path)
        if name.startswith(TEMPORAL_INSIDE)
    ]
    assert not offences


def test_no_dependency_ships_a_package_called_like_one_of_our_rooms() -> None:
    ours = {"holdfast", "holdfast-verify", "holdfast-sdk"}
    owners = packages_distributions()
    strangers = {room: set(owners.get(room, ())) - ours for room in ROOMS}
    assert not {room: found for room, found in strangers.items() if found}
