"""Every direct dependency has its line, with the licence that the installed package says of itself; all of them are permissive."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distributions
from typing import Final

import pytest
from packaging.utils import canonicalize_name

from deploy.licences import licence_of

from .pages import ROOT

_LINE: Final = re.compile(r"^\| ([a-z0-9-]+) \| ([^|]+?) \| ([^|]+?) \| [^|]+? \|$", re.MULTILINE)
_PERMISSIVE: Final = frozenset({"MIT", "MIT-0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC"})
PAGE: Final = ROOT / "docs" / "dependencies.md"


def listed() -> dict[str, str]:
    text = PAGE.read_text(encoding="utf-8")
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


def words_of(licence: str) -> set[str]:
    return set(re.split(r" AND | OR |[()]", licence)) - {""}


def excepted() -> dict[str, str]:
    """Returns the packages that the page names as exceptions, with their licences."""
    section = PAGE.read_text(encoding="utf-8").partition("## Exceptions")[2]
    rows = re.findall(r"^\| ([a-z0-9-]+) \| ([^|]+?) \|", section, re.MULTILINE)
    return {name: licence for name, licence in rows if name not in ("package", "---")}


def installed() -> set[str]:
    """Returns every package of the locked environment, with what it needs in turn, but ours."""
    names = {str(canonicalize_name(each.metadata["Name"])) for each in distributions()}
    return names - {"holdfast", "holdfast-verify", "holdfast-sdk"}


def test_each_has_a_line_and_no_other_has() -> None:
    assert set(listed()) == direct()


@pytest.mark.parametrize("name", sorted(direct()))
def test_the_licence_is_what_the_package_says(name: str) -> None:
    assert listed()[name] == licence_of(name)


@pytest.mark.parametrize("name", sorted(installed()))
def test_every_licence_is_permissive_or_named_with_a_reason(name: str) -> None:
    licence = licence_of(name)
    if words_of(licence) <= _PERMISSIVE:
        assert name not in excepted(), f"{name} is {licence}, which is no exception"
    else:
        assert excepted().get(name) == licence, (
            f"{name} comes under {licence}: take another package, or name it under Exceptions in docs/dependencies.md with why"
        )
        assert not {word for word in words_of(licence) if "GPL" in word}


def test_no_exception_is_stale() -> None:
    assert set(excepted()) <= installed()
