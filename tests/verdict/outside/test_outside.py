"""No wrong allow and no wrong deny: each call under the rule, and under the rule that forbids all else."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import pytest

from holdfast_verdict import Catalogue, Policy, Verdict, compile_policy, decide_call
from tests.verdict.outside.corpus import NOUNS, Case, Group, cases

ALL: Final = [case for noun in NOUNS for case in cases(noun)]
FACTS: Final = {"principal": {"tenant": "acme", "project": "p", "user": "u", "agent": "a", "role": "tried", "run": "r"}}
NO_FORMAT: Final = {"subject"}
"""Arguments that get a format by their name."""


@cache
def catalogue_of(group: Group, *, formatted: bool) -> Catalogue:
    if group.tool == "http.request":
        return Catalogue.of({}).with_builtin_kinds()
    value: dict[str, Any] = {} if group.type == "any" else {"type": group.type}
    if formatted and group.format:
        value["format"] = group.format
    if group.many:
        value = {"type": "array", "items": value}
    named: dict[str, Any] = {group.argument: value} if group.argument else {"to": {"type": "string"}, "meta": {}}
    required = [group.argument] if group.argument else ["to"]
    return Catalogue.of({group.tool: {"parameters": {"type": "object", "properties": named, "required": required}}})


@cache
def policy_of(group: Group, *, formatted: bool, mirrored: bool) -> Policy:
    if group.effect == "forbid":
        rules = f"permit {group.tool}  forbid {group.tool} when {group.where}"
    elif mirrored:
        rules = f"permit {group.tool}  forbid {group.tool} when not ({group.where})"
    else:
        rules = f"permit {group.tool} where {group.where}"
    return compile_policy(f"role tried {{ {rules} }}", catalogue_of(group, formatted=formatted))


def decided(case: Case, *, formatted: bool, mirrored: bool = False) -> Verdict:
    catalogue = catalogue_of(case.group, formatted=formatted)
    policy = policy_of(case.group, formatted=formatted, mirrored=mirrored)
    return decide_call(policy, catalogue, case.group.tool, case.arguments, FACTS)


def test_there_are_enough_of_both() -> None:
    assert sum(case.expected == "deny" for case in ALL) >= 400
    assert sum(case.expected != "deny" for case in ALL) >= 120
    assert len({(case.group, case.arguments) for case in ALL}) == len(ALL)


@pytest.mark.parametrize("mirrored", [False, True], ids=["permit", "forbid"])
@pytest.mark.parametrize("case", ALL, ids=str)
def test_each_is_decided_as_it_should_be(case: Case, mirrored: bool) -> None:
    if mirrored and case.group.effect == "forbid":
        return
    with_format = decided(case, formatted=True, mirrored=mirrored)
    assert (with_format.verdict == "allow") == (case.expected != "deny"), with_format
    as_text = decided(case, formatted=False, mirrored=mirrored)
    assert (as_text.verdict == "allow") == (case.expected == "allow"), as_text
