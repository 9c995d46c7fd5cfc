"""What pages name is there: links and their anchors, files and tests, variables, commands, events, codes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, get_args

import pytest

from activities.settle import SHOWN_AS
from docs import generate, operations
from holdfast.codes.catalogue import CATALOGUE
from holdfast.contracts.run import MarkRun
from holdfast.providers.model import Channel
from holdfast.timeline.follow import ALWAYS_SENT
from tests.syntax import parsed

from .known import variables
from .pages import PAGES, ROOT, anchors, inline_code, links, prose

_REFERENCE: Final = ROOT / "docs" / "reference"
_ROOMS: Final = (
    "holdfast",
    "activities",
    "workflows",
    "workers",
    "api",
    "cli",
    "demo",
    "bench",
    "tests",
    "docs",
    "deploy",
    "sdk",
)
_PATH: Final = re.compile(rf"(?:{'|'.join(_ROOMS)}|holdfast_verdict)/[\w./-]*(?:::\w+)?")
_ENVELOPE: Final = frozenset({"id", "seq", "run", "time", "channel", "type", "data"})
_ROW: Final = re.compile(r"^\| (?:[^|]+ \| )??`([a-z_.]+)` \|", re.MULTILINE)


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.is_file() or not target.is_relative_to(ROOT) or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_files_and_tests_that_are_named_exist(page: Path) -> None:
    missing = []
    for code in inline_code(page):
        if not _PATH.fullmatch(code):
            continue
        name, _, test = code.partition("::")
        path = ROOT / name
        if not path.exists() or (test and f"def {test}(" not in path.read_text(encoding="utf-8")):
            missing.append(code)
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_variables_that_are_named_are_read_by_something(page: Path) -> None:
    named = set(re.findall(r"HOLDFAST_[A-Z_]+[A-Z]", page.read_text(encoding="utf-8")))
    assert named <= variables()


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / link).resolve() for link in links(index)}
    listed |= {(ROOT / "docs" / "adr" / link).resolve() for link in links(ROOT / "docs" / "adr" / "README.md")}
    pages = {page for page in PAGES if page.is_relative_to(ROOT / "docs") and page != index}
    assert pages <= listed


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_generated_tables_are_current(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert generate.current(text) == text, "run `python -m docs.generate`"


def test_every_table_that_can_be_generated_stands_somewhere() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert all(f"<!-- generated: {name} -->" in text for name in generate.TABLES)


def _literals(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def _sources() -> Iterator[ast.Module]:
    # not the pure engine: it writes no timeline, and an event of a run's history is something else there
    for room in ("holdfast", "activities", "workflows", "workers", "api"):
        for path in sorted((ROOT / room).rglob("*.py")):
            yield parsed(path)


def test_the_events_that_are_listed_are_those_that_are_written() -> None:
    listed = set(_ROW.findall((_REFERENCE / "events.md").read_text(encoding="utf-8")))
    written = set(ALWAYS_SENT)
    for tree in _sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Event":
                written |= {text for text in _literals(node.args[1]) if re.fullmatch(r"[a-z]+\.[a-z_]+", text)}
    for script in (ROOT / "holdfast" / "database" / "migrations").rglob("*.sql"):
        named = re.findall(r"'\{?((?:decision|budget|cap)\.[a-z_]+)\}?'", script.read_text(encoding="utf-8"))
        written |= set(named) - CATALOGUE.keys()
        for told in re.findall(
            r"tell_approval\((.*?)jsonb_build_object", script.read_text(encoding="utf-8"), re.DOTALL
        ):
            written |= set(re.findall(r"'(approval\.[a-z_]+)'", told))
    for script in (ROOT / "holdfast" / "database" / "migrations").rglob("*.py"):
        written |= set(re.findall(r"'((?:code\.[a-z]+ed|citation\.[a-z]+))'", script.read_text(encoding="utf-8")))
    assert written <= listed
    written |= {f"run.{status}" for status in get_args(MarkRun.model_fields["status"].annotation)}
    written |= {f"{channel}.delta" for channel in get_args(Channel)}
    written |= {type_ for _, type_ in SHOWN_AS.values()} | {"code.delta"}
    assert listed - _ENVELOPE == written


def test_prose_says_nothing_of_where_it_was_written() -> None:
    for page in PAGES:
        assert not re.search(r"/(work|tmp|home|root)/", prose(page)), page


def test_every_failure_that_is_described_is_tried() -> None:
    text = (ROOT / "docs" / "explanation" / "failure-modes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!what breaks|---)(.+) \|$", text, re.MULTILINE)
    assert rows
    untried = [row.partition(" |")[0] for row in rows if not re.search(r"`tests/[\w/]+\.py(::test_\w+)?`$", row)]
    assert not untried, f"each row names the test that tries it: {untried}"


def test_every_operation_of_the_api_is_named() -> None:
    text = (_REFERENCE / "api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([A-Z]+ /[^`]*)` \|", text, re.MULTILINE))
    assert named == {f"{method} {path}" for method, path, _ in operations.operations()}
