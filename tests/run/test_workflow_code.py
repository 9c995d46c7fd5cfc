"""What can be said of the workflows' code by reading it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import workflows
from holdfast.contracts import names
from tests.syntax import parsed

FOLDER: Final = Path(workflows.__path__[0])
MODULES: Final = sorted(FOLDER.rglob("*.py"))
GATE: Final = "governed_action.py"
EXECUTES: Final = frozenset(
    {
        "execute_activity",
        "execute_activity_class",
        "execute_activity_method",
        "start_activity",
        "start_activity_class",
        "start_activity_method",
        "execute_local_activity",
        "execute_local_activity_class",
        "execute_local_activity_method",
        "start_local_activity",
        "start_local_activity_class",
        "start_local_activity_method",
        "execute_child_workflow",
        "start_child_workflow",
        "create_nexus_client",
    }
)
MAY_IMPORT: Final = frozenset(
    {"__future__", "asyncio", "collections", "dataclasses", "datetime", "typing", "temporalio"}
)
PURE: Final = ("holdfast.contracts", "holdfast.errors", "workflows")


def names_used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value  # getattr would not hide it
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_only_the_gate_starts_activities(module: Path) -> None:
    used = EXECUTES.intersection(names_used(parsed(module)))
    allowed = {"start_activity", "start_local_activity"} if module.name == GATE else set()
    assert used == allowed


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_workflows_import_nothing_that_does_anything(module: Path) -> None:
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = [node.module or ""]
        else:
            continue
        for name in imported:
            assert name.partition(".")[0] in MAY_IMPORT or name.startswith(PURE), f"{module.name} imports {name}"


def test_there_is_one_place_each_that_executes_and_that_decides() -> None:
    tree = parsed(FOLDER / GATE)
    calls = [
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    assert calls.count("start_activity") == calls.count("start_local_activity") == 1


def test_no_local_activity_is_an_executing_one() -> None:
    assert not names.LOCAL_ACTIVITIES & set(names.EXECUTING_ACTIVITIES.values())
    assert set(names.EXECUTING_QUEUES) == set(names.EXECUTING_ACTIVITIES)
    assert names.GOVERNOR_QUEUE not in names.EXECUTING_QUEUES.values()
