"""`holdfast explain`: needs no server, knows every code, and what a misspelt one meant."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from holdfast.codes.catalogue import CATALOGUE


def explain(*args: str) -> Result:
    return CliRunner().invoke(app, ["explain", *args], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_every_code_is_explained(code: str) -> None:
    done = explain(code)
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{code}\n")
    assert CATALOGUE[code].cause in done.stdout
    assert CATALOGUE[code].remedy in done.stdout


def test_as_json_it_is_one_object_or_all_of_them() -> None:
    one = json.loads(explain("budget.insufficient", "--json").stdout)
    assert (one["code"], one["status"], one["verdict"]) == ("budget.insufficient", 402, "deny")
    assert one in json.loads(explain("--json").stdout)
    assert len(json.loads(explain("--json").stdout)) == len(CATALOGUE)


def test_without_a_code_all_are_listed() -> None:
    assert [line.split()[0] for line in explain().stdout.splitlines()] == sorted(CATALOGUE)


def test_a_misspelt_code_is_answered_with_the_nearest() -> None:
    done = explain("budget.cap_exceded")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "did you mean budget.cap_exceeded" in done.stderr


def test_a_code_of_nobodys_may_be_a_rules() -> None:
    done = explain("zzz")
    assert done.exit_code == 1
    assert "a forbid rule of a role" in done.stderr
