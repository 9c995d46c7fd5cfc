"""Import rules that import-linter cannot express: submodules of other people's packages, and who shares our rooms' names."""

from __future__ import annotations

import ast
from importlib.metadata import files, packages_distributions
from pathlib import Path

import pytest

from tests.syntax import parsed

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("holdfast_verdict", "holdfast", "sandbox", "activities", "workflows", "workers", "api", "cli", "sdk")
OTHER_FOLDERS = ("bench", "demo", "deploy", "docs", "tests", "console")
OURS = {"holdfast", "holdfast-verify", "holdfast-sdk"}
TEMPORAL_INSIDE = ("temporalio.workflow", "temporalio.activity", "temporalio.worker")


EXCEPTIONS = {"docs": {"ada-url"}, "tests": {"ada-url"}}
"""It names both and ships a lone `docs/conf.py`: no module of ours is called so, and no distribution of ours ships the folders."""


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


def strangers() -> dict[str, set[str]]:
    """Returns which installed packages, direct or not, bring a top-level package called like one of our folders."""
    owners = packages_distributions()
    found = {name: set(owners.get(name, ())) - OURS - EXCEPTIONS.get(name, set()) for name in (*ROOMS, *OTHER_FOLDERS)}
    return {name: packages for name, packages in found.items() if packages}


def test_the_folders_that_can_be_imported_are_all_known() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders <= {*ROOMS, *OTHER_FOLDERS}, "name it in ROOMS or OTHER_FOLDERS, so that its name is guarded"


def test_an_exception_is_as_harmless_as_it_says() -> None:
    for name, packages in EXCEPTIONS.items():
        for package in packages:
            shipped = {str(file) for file in files(package) or () if file.parts[0] == name}
            assert shipped <= {"docs/conf.py"}
            assert not [file for file in shipped if (ROOT / file).exists()]


def test_no_dependency_ships_a_package_called_like_one_of_our_folders() -> None:
    assert not strangers()


@pytest.mark.parametrize("name", ["workflows", "tests", "docs"])
def test_one_that_did_would_be_noticed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "stranger-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n", encoding="utf-8")
    (about / "top_level.txt").write_text(f"{name}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert strangers() == {name: {"stranger"}}
