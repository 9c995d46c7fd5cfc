"""A quick selection of the attempts under `escapes/`; `python -m bench escape` makes all of them. And the bench itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from bench.escape import SUITE, Attempt, attempts, measure, try_attempt
from holdfast.errors import ConfigurationInvalid
from sandbox.service import Sandbox


@pytest.mark.parametrize("attempt", attempts(SUITE, quick=True), ids=lambda attempt: attempt.name)
async def test_what_succeeds_outside_fails_inside(sandbox: Sandbox, attempt: Attempt) -> None:
    outcome = await try_attempt(attempt, sandbox)
    assert outcome.proved, "it has to succeed outside, or its failure inside proves nothing"
    assert not outcome.escaped


@pytest.mark.parametrize("attempt", attempts(SUITE), ids=lambda attempt: attempt.name)
def test_an_attempt_says_what_it_tries(attempt: Attempt) -> None:
    says = ast.get_docstring(ast.parse(attempt.path.read_text(encoding="utf-8")))
    assert says
    assert says.endswith(".")


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
