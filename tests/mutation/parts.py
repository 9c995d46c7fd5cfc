"""What is changed, and by which tests it is tried: the engine, the canonical form of actions, and where values are from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCE: Final = "holdfast_verdict"
TESTS: Final = "tests/verdict"
_IMPORTED: Final = re.compile(r"^from (\.{0,2})([a-z_.]+) import", re.MULTILINE)
_REACHED: Final = ("", "actions", "engine", "language", "provenance")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the library that is changed.

    Attributes:
        changed: Its modules.
        tests: The tests that are to notice.
    """

    changed: tuple[str, ...]
    tests: tuple[str, ...]

    def settings(self) -> str:
        """Returns mutmut's settings."""
        lists = {
            "source_paths": [SOURCE],
            "only_mutate": [f"{SOURCE}/{name}" for name in self.changed],
            "pytest_add_cli_args_test_selection": [f"{TESTS}/{name}" for name in self.tests],
            "pytest_add_cli_args": ["-q", "-p", "no:cacheprovider", "-p", "tests.mutation.forgetting"],
        }
        written = (f"{name} =\n" + "".join(f"    {each}\n" for each in values) for name, values in lists.items())
        return "[mutmut]\n" + "".join(written)


_CORE: Final = (
    "deciding",
    "gates",
    "limits",
    "usage",
    "program",
    "expressions",
    "matchers",
    "values",
    "unknown",
    "watches",
    "history",
    "series",
    "labels",
    "context",
    "form",
    "numbers",
    "facts",
    "verdict",
    "recorded",
)
ENGINE: Final = Part(
    tuple(f"engine/{name}.py" for name in _CORE),
    tuple(
        f"engine/{path.name}"
        for path in sorted((ROOT / TESTS / "engine").glob("test_*.py"))
        if path.stem not in ("test_properties", "test_readme")  # they take longer, and notice nothing else
    ),
)
PARTS: Final = {
    "engine": ENGINE,
    "actions": Part(
        ("actions/*.py",),
        (
            "test_actions.py",
            "test_actions_any.py",
            "test_catalogues_refused.py",
            "test_forms.py",
            "test_hosts.py",
            "test_tricks.py",
            "outside/test_outside.py",
        ),
    ),
    "provenance": Part(
        ("provenance/*.py",),
        (
            *(
                f"provenance/{path.name}"
                for path in sorted((ROOT / TESTS / "provenance").glob("test_*.py"))
                if path.stem != "test_page"  # the pages are not where changes are tried
            ),
            "outside/test_provenance.py",
        ),
    ),
}


def source_digest() -> str:
    """Returns what names the library's state: a result that was kept is one of exactly these sources."""
    paths = (path for folder in _REACHED for path in (ROOT / SOURCE / folder).glob("*.py"))
    return _digest(paths)


def test_digests() -> dict[str, str]:
    """Returns the digest of each file of tests, with the modules of tests that it uses and their data; `""` is of all together."""
    every = sorted(path for path in (ROOT / TESTS).rglob("*.*") if path.suffix in (".py", ".toml", ".json"))
    files = [path for path in every if path.suffix == ".py" and path.name.startswith("test_")]
    digests = {str(path.relative_to(ROOT)): _digest(_used(path)) for path in files}
    return {**digests, "": _digest(every)}


def _used(path: Path) -> set[Path]:
    """Returns a module of tests with those that it uses, and the data beside them."""
    found, left = set[Path](), [path]
    while left:
        module = left.pop()
        found.add(module)
        beside = [module.with_suffix(".json"), *module.parent.glob("*/*.toml")]
        found.update(each for each in beside if each.exists())
        for dots, name in _IMPORTED.findall(module.read_text(encoding="utf-8")):
            folder = module.parent if len(dots) == 1 else module.parent.parent
            used = (folder if dots else ROOT).joinpath(*name.split(".")).with_suffix(".py")
            if used.exists() and used not in found:
                left.append(used)
    return found


def _digest(paths: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in sorted(set(paths)):
        total.update(f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
