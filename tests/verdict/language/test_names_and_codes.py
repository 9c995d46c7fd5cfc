"""Names in quotes, reason codes of an author's own, and the word for every tool."""

from __future__ import annotations

import pytest

from holdfast_verdict import Catalogue, Facts, Policy, PolicyRefused, compile_policy, decide, format_policy

SOURCE = """role "2nd-line" {
  permit tools as "read.all-1"
  gate "big.1":
    refund when args.amount > 100
    needs 1 of role("1st")
}

forbid tools when args.bulk == true as no-bulk code "tools.no_bulk" because "One at a time."
"""


def _deny(name: str, args: dict[str, object]) -> tuple[str, str]:
    principal = {"role": "2nd-line", "user": "ann"}
    verdict = decide(compile_policy(SOURCE), {"kind": "tool.call", "tool": name, "args": args}, Facts(principal))
    return verdict.code, verdict.rule_id


def test_rules_and_roles_are_called_what_stands_in_quotes() -> None:
    assert _deny("crm.find", {"bulk": False}) == ("policy.permitted", "read.all-1")
    assert _deny("refund", {"bulk": False, "amount": 200}) == ("approval.required", "big.1")
    assert format_policy(SOURCE) == SOURCE.replace("    refund when", "    refund where")


def test_a_forbid_gives_the_code_that_its_author_wrote() -> None:
    assert _deny("crm.find", {"bulk": True}) == ("tools.no_bulk", "no-bulk")
    policy = compile_policy(SOURCE)
    assert Policy.from_json(policy.to_json()) == policy


def test_tools_are_all_tools_and_no_other_kind() -> None:
    policy = compile_policy("role r { permit tools }", Catalogue.of({"a": {}}).with_builtin_kinds())
    for action, allowed in (
        ({"kind": "tool.call", "tool": "b", "args": {}}, True),
        ({"kind": "llm.call", "args": {}}, False),
    ):
        assert decide(policy, action, Facts({"role": "r"})).allowed is allowed


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('forbid x cod "a"', "`cod` cannot stand here."),
        ('forbid x code "A b"', '"A b" is no reason code.'),
        ('forbid x as "a b"', '"a b" is no name of a rule.'),
        ('forbid "tools"', "'tools' can name no action."),
        ('role "" { permit x }', "`` is no name."),
    ],
)
def test_what_is_none_is_refused(source: str, message: str) -> None:
    with pytest.raises(PolicyRefused) as refused:
        compile_policy(source)
    assert message in [problem.message for problem in refused.value.problems]
