"""Every direct dependency has its line, with the licence that the installed package says of itself, and a permissive one."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import metadata
from typing import Final

import pytest

from .pages import ROOT

_LINE: Final = re.compile(r"^\| ([a-z0-9-]+) \| ([^|]+?) \| ([^|]+?) \| [^|]+? \|$", re.MULTILINE)
_PERMISSIVE: Final = frozenset({"MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause"})
_FILES_ONLY: Final = frozenset({"orjson", "hypothesis"})
"""MPL-2.0 asks that changes to its own files be published; the page says so."""
_SPELLINGS: Final = {
    "BSD 2-Clause License": "BSD-2-Clause",
    "MIT License": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
}


def listed() -> dict[str, str]:
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    return {name: licence for name, licence, _ in _LINE.findall(text) if name not in ("package", "---")}


def direct() -> set[str]:
    names: set[str] = set()
    for folder in (ROOT, ROOT / "holdfast_verdict", ROOT / "sdk"):
        document = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        project = document["project"]
        groups = [
            project["dependencies"],
            *project.get("optional-dependencies", {}).values(),
            *document.get("dependency-groups", {}).values(),
        ]
        names |= {re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() for group in groups for requirement in group}
    return names


def licence_of(name: str) -> str:
    """Returns the licence that a package states: as an expression, else in words, else by a classifier."""
    about = metadata(name).json
    classifiers = [text for text in about.get("classifier", ()) if text in _SPELLINGS]
    stated = str(about.get("license_expression") or about.get("license") or (classifiers or [""])[0])
    return _SPELLINGS.get(stated, stated)


def test_each_has_a_line_and_no_other_has() -> None:
    assert set(listed()) == direct()


@pytest.mark.parametrize("name", sorted(direct()))
def test_the_licence_is_what_the_package_says_and_permissive(name: str) -> None:
    licence = licence_of(name)
    assert listed()[name] == licence
    words = set(re.split(r" AND | OR |[()]", licence)) - {""}
    assert words <= _PERMISSIVE | ({"MPL-2.0"} if name in _FILES_ONLY else set())
