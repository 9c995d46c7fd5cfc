"""The site builds without a warning, has every page, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs import draw, mkdocs_hook

from .pages import ROOT

_LOADED = re.compile(r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=["']?((?:https?:)?//[^"'\s>]+)""")
_LINKED = re.compile(r"""<link\b[^>]*\bhref=["']?((?:https?:)?//[^"'\s>]+)""")
_STYLED = re.compile(r"""(?:url\(|@import )["']?((?:https?:)?//[^"')\s]+)""")


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)],
        cwd=source,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nto do: `make docs` shows it"
    return folder


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what the site is made of, to be spoilt."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    return tmp_path


def test_every_page_is_on_it(site: Path) -> None:
    pages = {page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")}
    missing = [
        str(page)
        for page in pages
        if not (
            site / (page.parent / "index.html" if page.name == "README.md" else page.with_suffix(".html"))
        ).is_file()
    ]
    assert not missing


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    found: list[str] = []
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        loaded = [*_LOADED.findall(text), *_LINKED.findall(text), *_STYLED.findall(text)]
        found += [f"{file.relative_to(site)}: {address}" for address in loaded]
        assert 'class="mermaid"' not in text, f"{file}: Mermaid would be loaded from elsewhere"
    for file in site.rglob("*.css"):
        found += [
            f"{file.relative_to(site)}: {address}" for address in _STYLED.findall(file.read_text(encoding="utf-8"))
        ]
    assert not found
    assert not list(site.rglob("*.py"))


def test_it_can_be_searched(site: Path) -> None:
    assert "unknown hold" in (site / "search" / "search_index.json").read_text(encoding="utf-8").lower()


def test_every_diagram_has_its_picture_and_every_picture_its_diagram() -> None:
    drawn = {file.name for file in (ROOT / "docs" / mkdocs_hook.DIAGRAMS).glob("*.svg")}
    assert drawn == set(draw.wanted()), mkdocs_hook.HOW_TO_DRAW


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("how-to/lost.md", "# Lost\n", "how-to/lost.md"),
        ("how-to/approve.md", "# Approve\n\n[nowhere](nowhere.md)\n", "nowhere.md"),
        ("how-to/approve.md", "# Approve\n\n[nowhere](start-the-stack.md#nowhere)\n", "#nowhere"),
        ("how-to/approve.md", "# Approve\n\n```mermaid\nflowchart LR\n  accTitle: new\n  a --> b\n```\n", "docs.draw"),
        ("how-to/approve.md", "# Approve\n\n```mermaid\nflowchart LR\n  a --> b\n```\n", "accTitle"),
    ],
    ids=["not listed", "no such page", "no such anchor", "not drawn", "without words"],
)
def test_what_is_wrong_on_a_page_fails_the_build(copy: Path, name: str, text: str, said: str) -> None:
    (copy / "docs" / name).write_text(text, encoding="utf-8")
    done = build(copy, copy / "site")
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
