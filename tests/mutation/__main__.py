"""`python -m tests.mutation [--sample N] [--seed S] [--json FILE]`: changes the engine's core, one place at a time, and runs tests.

mutmut makes the changes and runs the tests, in a copy in a temporary folder. Which changes are tried, if not all, a seed says.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = Path(__file__).parent
SEED: Final = 6
_COPIED: Final = ("holdfast_verdict", "tests/verdict", "tests/__init__.py")
_NONE: Final = "no_such_change"
_NOTICED: Final = {
    1: "killed",
    3: "killed",
    -24: "timeout",
    24: "timeout",
    36: "timeout",
    152: "timeout",
    255: "timeout",
}
_SURVIVED: Final = 0
_UNCOVERED: Final = 33


def _copy(folder: Path) -> None:
    for name in _COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    shutil.copy(HERE / "settings.cfg", folder / "setup.cfg")
    shutil.copy(HERE / "fresh.py", folder / "tests" / "conftest.py")
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = session\n")


def _mutmut(folder: Path, *arguments: str, shown: bool) -> None:
    command = [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", "1", *arguments]
    out = None if shown else subprocess.DEVNULL
    subprocess.run(command, cwd=folder, stdout=out, stderr=out, check=False)  # a survivor is no failure of the program


def _results(folder: Path) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for path in sorted((folder / "mutants" / "holdfast_verdict").rglob("*.meta")):
        found |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return found


def _difference(folder: Path, name: str) -> list[str]:
    command = [str(Path(sys.executable).with_name("mutmut")), "show", name]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.splitlines()
    return [line for line in shown if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def main(
    *,
    sample: Annotated[int, typer.Option(help="how many changes are tried; 0 = all")] = 200,
    seed: Annotated[int, typer.Option(help="which, if not all")] = SEED,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the result to this file")] = None,
) -> None:
    """Says how many changes of the engine's core no test notices, and shows them."""
    os.nice(5)
    with tempfile.TemporaryDirectory(prefix="holdfast-mutation-") as name:
        folder = Path(name)
        _copy(folder)
        print("making the changes, and running the tests once without any", flush=True)
        _mutmut(folder, _NONE, shown=False)
        every = sorted(_results(folder))
        if not every:
            _mutmut(folder, _NONE, shown=True)
            raise typer.Exit(1)
        tried = every if not sample else sorted(random.Random(seed).sample(every, min(sample, len(every))))
        print(f"trying {len(tried)} of {len(every)} changes", flush=True)
        _mutmut(folder, *tried, shown=sys.stdout.isatty())
        results = {each: _results(folder)[each] for each in tried}
        survived = [each for each, code in results.items() if code == _SURVIVED]
        uncovered = [each for each, code in results.items() if code == _UNCOVERED]
        counts = {
            "changes": len(every),
            "tried": len(tried),
            "killed": sum(code is not None and _NOTICED.get(code) == "killed" for code in results.values()),
            "timed_out": sum(code is not None and _NOTICED.get(code) == "timeout" for code in results.values()),
            "survived": len(survived),
            "uncovered": len(uncovered),
            "untried": sum(code is None for code in results.values()),
        }
        shown = {each: _difference(folder, each) for each in (*survived, *uncovered)}
    for each, lines in shown.items():
        print(f"\n{each}")
        print("\n".join(lines))
    print("\n" + ", ".join(f"{key} {count}" for key, count in counts.items()))
    if json_file is not None:
        document = {**counts, "seed": seed, "survivors": shown, "codes": results}
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
