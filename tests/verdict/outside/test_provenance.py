"""Each value is from where it is; and a policy that asks allows the user's and nothing that a page has a part in."""

from __future__ import annotations

from typing import Final

import pytest

from holdfast_verdict import Catalogue, Facts, compile_policy, decide
from holdfast_verdict.provenance.leaves import leaves_of
from tests.verdict.outside.provenance import CASES
from tests.verdict.provenance.corpus import Case
from tests.verdict.provenance.test_corpus import seen, sources_of

CATALOGUE: Final = Catalogue.of(
    {"act": {"parameters": {"type": "object", "properties": {"value": {}}, "required": ["value"]}}}
)
FORBIDDING: Final = compile_policy("role r { permit act  forbid act when args.value from untrusted }", CATALOGUE)
ONLY: Final = compile_policy("role r { permit act where args.value only from user }", CATALOGUE)
PERMITTING: Final = compile_policy("role r { permit act where args.value from user }", CATALOGUE)


def test_there_are_enough_of_both() -> None:
    assert sum(case.expected == "untrusted" for case in CASES) >= 130
    assert sum(case.expected == "user" for case in CASES) >= 80
    names = [(case.name, case.expected, repr(case.value)) for case in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.expected}: {case.name}")
def test_each_value_is_from_where_it_is(case: Case) -> None:
    origin = sources_of(case).origin(case.value)
    assert seen(origin) == case.expected, origin


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.expected}: {case.name}")
def test_a_policy_decides_by_it(case: Case) -> None:
    value = float(case.value["$number"]) if isinstance(case.value, dict) and "$number" in case.value else case.value
    action = CATALOGUE.action("act", {"value": value})
    facts = Facts(principal={"role": "r"}, sources=sources_of(case))
    if case.expected == "untrusted":
        assert decide(FORBIDDING, action, facts).verdict == "deny"
        assert decide(PERMITTING, action, facts).verdict == "deny"
        assert decide(ONLY, action, facts).verdict == "deny"
    elif case.expected == "user":
        assert decide(FORBIDDING, action, facts).verdict == "allow"
        assert decide(ONLY, action, facts).verdict == "allow"
        # a truth is nobody's word: `from user` asks for the user's, `only from user` for nobody else's
        has_truth = any(isinstance(leaf, bool) for _, leaf in leaves_of(value))
        assert (decide(PERMITTING, action, facts).verdict == "allow") is not has_truth
