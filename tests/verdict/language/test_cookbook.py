"""The cookbook's policies are what they say: each is laid out, compiles, and decides all of its cases as they expect."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

import pytest

from holdfast.policies.clocks import clocks
from holdfast_verdict import Catalogue, Policy, compile_policy, format_policy
from holdfast_verdict.check.cases import CaseFile, read_cases
from holdfast_verdict.check.playing import play

FOLDER: Final = Path(__file__).parents[3] / "docs" / "how-to" / "policy-cookbook"
POLICIES: Final = sorted(FOLDER.glob("*.policy"))
TOOLS: Final = "tools.actions.toml"
CATALOGUE: Final = Catalogue.of(tomllib.loads((FOLDER / TOOLS).read_text(encoding="utf-8"))).with_builtin_kinds()


def read(path: Path) -> tuple[Policy, CaseFile]:
    policy = compile_policy(path.read_text(encoding="utf-8"), CATALOGUE, file=path.name)
    return policy, read_cases(tomllib.loads(path.with_suffix(".cases.toml").read_text(encoding="utf-8")))


def test_there_are_enough_and_the_page_lists_each() -> None:
    page = FOLDER.with_suffix(".md").read_text(encoding="utf-8")
    assert len(POLICIES) >= 25
    assert [path.name for path in FOLDER.iterdir() if f"policy-cookbook/{path.name}" not in page] == []


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_a_policy_decides_its_cases_as_they_expect(path: Path) -> None:
    policy, file = read(path)
    assert file.actions == TOOLS
    expected = [step.expect for case in file.cases for step in case.steps]
    assert {"allow", "deny"} <= set(expected)
    for case in file.cases:
        result = play(policy, case, CATALOGUE, clocks)
        assert [step.differences for step in result.steps if step.differences] == [], case.name


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_a_policy_is_laid_out(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert format_policy(text) == text


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_the_cases_notice_when_a_rule_is_taken_out(path: Path) -> None:
    """Each policy's cases hold half of its rules at least: a policy without one of them decides some case in another way."""
    policy, file = read(path)
    unnoticed = []
    for rule in policy.rules:
        rest = tuple(each for each in policy.rules if each is not rule)
        without = Policy(policy.roles, rest, policy.labels, policy.watches, policy.zones, policy.external)
        if all(play(without, case, CATALOGUE, clocks).passed for case in file.cases):
            unnoticed.append(rule.id)
    assert len(unnoticed) <= len(policy.rules) // 2, unnoticed
