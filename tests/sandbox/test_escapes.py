"""A quick selection of the attempts under `escapes/`; `python -m bench escape` makes all of them. And the bench itself."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from bench.escape import SUITE, Attempt, attempts, measure, try_attempt
from holdfast.errors import ConfigurationInvalid
from sandbox.runtime import installed
from sandbox.service import Sandbox

LANGUAGES: tuple[Literal["shell", "node"], ...] = ("shell", "node")


def programs(*, quick: bool = False) -> list[Attempt]:
    """Returns the attempts that are no Python."""
    return [
        attempt
        for language in LANGUAGES
        for attempt in attempts(SUITE, quick=quick, language=language)
        if attempt.language == language
    ]


@pytest.mark.parametrize("attempt", attempts(SUITE, quick=True), ids=lambda attempt: attempt.name)
async def test_what_succeeds_outside_fails_inside(sandbox: Sandbox, attempt: Attempt) -> None:
    outcome = await try_attempt(attempt, sandbox)
    assert outcome.proved, "it has to succeed outside, or its failure inside proves nothing"
    assert not outcome.escaped


@pytest.mark.parametrize("attempt", programs(quick=True), ids=lambda attempt: attempt.name)
async def test_a_program_that_succeeds_outside_fails_inside(sandbox: Sandbox, attempt: Attempt) -> None:
    if not installed()[attempt.language]:
        pytest.skip("Node is not installed here")
    outcome = await try_attempt(attempt, sandbox)
    assert outcome.proved, "it has to succeed outside, or its failure inside proves nothing"
    assert not outcome.escaped


@pytest.mark.parametrize("attempt", attempts(SUITE), ids=lambda attempt: attempt.name)
def test_an_attempt_says_what_it_tries(attempt: Attempt) -> None:
    says = ast.get_docstring(ast.parse(attempt.path.read_text(encoding="utf-8")))
    assert says
    assert says.endswith(".")


@pytest.mark.parametrize("attempt", programs(), ids=lambda attempt: attempt.name)
def test_a_program_says_what_it_tries_and_has_what_it_needs(attempt: Attempt) -> None:
    text = attempt.path.read_text(encoding="utf-8")
    says = text.partition("\n")[0]
    assert says.startswith("# " if attempt.language == "shell" else "// ")
    assert says.endswith(".")
    told = "$1" in text if attempt.language == "shell" else "process.argv[2]" in text
    assert told == attempt.path.with_suffix(".setup.py").is_file()


def test_a_shell_and_node_try_every_category() -> None:
    for language in LANGUAGES:
        counts = Counter(attempt.category for attempt in programs() if attempt.language == language)
        assert counts.total() >= 25
        assert set(counts) == {attempt.category for attempt in attempts(SUITE)}


async def test_where_no_program_runs_no_failure_proves_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "any").mkdir()
    (tmp_path / "any/always.sh").write_text("# Always.\nexit 42\n")
    (tmp_path / "any/never.sh").write_text("# Never.\nexit 1\n")
    (tmp_path / "any/always.js").write_text("// Always.\nprocess.exit(42);\n")
    report = await measure(suite=str(tmp_path), language="shell")
    assert {key: figure.value for key, figure in report.figures.items()} == {
        "tried": 2, "escaped": 1, "proved_unconfined": 1,
    }  # fmt: skip
    assert report.wrong == ["any/always.sh escaped"]
    assert any("in shell, by category: any 2" in note for note in report.notes)
    monkeypatch.setattr("bench.escape._ACHIEVES", {"shell": "exit 1"})
    broken = await measure(suite=str(tmp_path), language="shell")
    assert any("no failure there proves anything" in words for words in broken.wrong)


def test_there_are_attempts_of_every_category() -> None:
    found = [attempt.category for attempt in attempts(SUITE)]
    assert len(found) >= 150
    assert set(found) == {
        "cross_job", "filesystem", "kernel", "network", "output", "privilege", "process", "resources", "supervisor",
        "zygote",
    }  # fmt: skip


async def test_an_attempt_that_succeeds_inside_is_a_wrong_result(tmp_path: Path) -> None:
    (tmp_path / "any").mkdir()
    (tmp_path / "any/always.py").write_text('"""Always."""\nraise SystemExit(42)\n')
    (tmp_path / "any/never.py").write_text('"""Never."""\nraise SystemExit(1)\n')
    (tmp_path / "any/told.py").write_text(
        '"""If it was told."""\nimport sys\nraise SystemExit(42 if sys.argv[1:] == [\'{"a": 1}\'] else 1)\n'
    )
    (tmp_path / "any/told.setup.py").write_text("import sys\nprint('{\"a\": 1}', flush=True)\nsys.stdin.read()\n")
    report = await measure(suite=str(tmp_path))
    assert {key: figure.value for key, figure in report.figures.items()} == {
        "tried": 3, "escaped": 2, "proved_unconfined": 2,
    }  # fmt: skip
    assert report.wrong == ["any/always escaped", "any/told escaped"]
    assert any("any/never ended with 1 outside" in note for note in report.notes)


async def test_a_folder_without_attempts_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="has no attempts"):
        await measure(suite=str(tmp_path))
