"""A copy of the library and its tests in a temporary folder, in which mutmut has made all changes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .parts import ROOT, SOURCE, TESTS, Part

_COPIED: Final = (SOURCE, TESTS, "tests/mutation", "tests/__init__.py")
_NONE: Final = "no_such_change"
_INI: Final = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = session\n"


class NothingChanged(Exception):
    """mutmut made no changes, or the tests fail without any."""


@dataclass(frozen=True, slots=True)
class Copy:
    """The copy.

    Attributes:
        folder: Where it is.
        changes: The name of every change, sorted, in the order of the part's modules.
    """

    folder: Path
    changes: tuple[str, ...]

    @staticmethod
    def of(part: Part, folder: Path) -> Copy:
        """Copies, makes the changes, and runs the tests once to see which of them reach which function.

        Raises:
            NothingChanged: It does not work without changes.
        """
        for name in _COPIED:
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        (folder / "setup.cfg").write_text(part.settings(), encoding="utf-8")
        (folder / "pytest.ini").write_text(_INI, encoding="utf-8")
        said = _mutmut(folder, "run", "--max-children", "1", _NONE)
        found: set[str] = set()
        for path in (folder / "mutants" / SOURCE).rglob("*.meta"):
            found |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"].keys()
        if not found or not (folder / "mutants" / "mutmut-stats.json").exists():
            raise NothingChanged(said)
        order = {name.removesuffix(".py").replace("/", "."): place for place, name in enumerate(part.changed)}
        modules = {each: each.partition(f"{SOURCE}.")[2].rpartition(".")[0] for each in found}
        return Copy(folder, tuple(sorted(found, key=lambda each: (order.get(modules[each], 0), each))))

    def play(
        self,
        part: Part,
        changes: Sequence[str],
        results: Path,
        *,
        processes: int,
        minutes: int,
        digests: tuple[str, dict[str, str]],
    ) -> None:
        """Runs the tests on changes; each result is written as it comes, with the digests of what it is a result of."""
        plan = self.folder / "plan.json"
        planned = {"changes": list(changes), "results": str(results), "processes": processes, "minutes": minutes}
        plan.write_text(json.dumps({**planned, "source": digests[0], "tests": digests[1]}), encoding="utf-8")
        tests = [f"{TESTS}/{name}" for name in part.tests]
        plugins = ["-p", "tests.mutation.playing", "-p", "no:cacheprovider", "-p", "no:timeout", "-p", "no:terminal"]
        command = [sys.executable, "-m", "pytest", "--rootdir=.", "-s", *plugins, "--plan", str(plan), *tests]
        subprocess.run(command, cwd=self.folder / "mutants", check=True)

    def difference(self, name: str) -> list[str]:
        """Returns the lines that a change takes away and puts there."""
        shown = _mutmut(self.folder, "show", name).splitlines()
        return [line for line in shown if line[:1] in ("+", "-") and line[:3] not in ("+++", "---")]


def _mutmut(folder: Path, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
