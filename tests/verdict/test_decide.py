"""The deciding core is total, denies by default, and never allows what nobody permitted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from holdfast_verdict.canonical import JsonValue, digest
from holdfast_verdict.decide import (
    ApprovalFact,
    Condition,
    Effect,
    Facts,
    Operator,
    Rule,
    Verdict,
    approval_binding,
    decide,
    policy_hash,
    rule_from_json,
    rule_to_json,
)

from .actions import OPERATORS, actions, anything, conditions, facts, rules

Action = dict[str, JsonValue]
MAIL: Action = {"kind": "tool.call", "tool": "mail.send", "args": {"to": ["x@acme.com"], "amount": 5, "env": "dev"}}
ALL = Rule("all", "permit", "tool.call", "*")


def _facts(*given_rules: Rule, approval: ApprovalFact | None = None) -> Facts:
    table = tuple(given_rules)
    return Facts({"tenant": "acme", "role": "worker"}, table, policy_hash(table).hex(), known=True, approval=approval)


def _rule(effect: Effect, *given_conditions: Condition, rule_id: str = "r", role: str = "finance") -> Rule:
    return Rule(rule_id, effect, "tool.call", "mail.send", given_conditions, approver_role=role)


# Total -------------------------------------------------------------------------------------------------------------------


@given(facts, actions | anything)
def test_it_never_raises_and_always_says_why(given_facts: Facts, action: Action) -> None:
    verdict = decide(given_facts, action)
    assert isinstance(verdict, Verdict)
    assert verdict.verdict in ("allow", "deny", "needs_approval")
    assert verdict.code
    assert verdict.message
    assert (verdict.gate is not None) == (verdict.verdict == "needs_approval")


@given(st.sampled_from([field.name for field in fields(Facts)]), anything, actions)
def test_facts_of_the_wrong_kind_never_raise_and_never_allow(name: str, rubbish: object, action: Action) -> None:
    good = _facts(ALL, Rule("model", "permit", "llm.call"))
    assert decide(good, action).verdict == "allow"
    broken = replace(good, **{name: rubbish})  # type: ignore[arg-type]  # the attack
    verdict = decide(broken, action)
    if name in ("known", "rules"):
        assume(rubbish is not True)
        assert verdict.verdict == "deny"
    if name == "malformed":
        assert (verdict.verdict == "deny") == bool(rubbish)


@given(facts, actions, st.sampled_from([field.name for field in fields(Rule)]), anything)
def test_a_broken_rule_in_the_table_never_raises(
    given_facts: Facts, action: Action, name: str, rubbish: object
) -> None:
    broken = replace(ALL, **{name: rubbish})  # type: ignore[arg-type]  # the attack
    assert decide(replace(given_facts, rules=(broken, *given_facts.rules)), action).verdict in (
        "allow",
        "deny",
        "needs_approval",
    )


# Default deny ------------------------------------------------------------------------------------------------------------


@given(actions, facts)
def test_without_rules_everything_is_denied(action: Action, given_facts: Facts) -> None:
    assert decide(replace(given_facts, rules=()), action).verdict == "deny"
    only_gates = tuple(rule for rule in given_facts.rules if rule.effect != "permit")
    assert decide(replace(given_facts, rules=only_gates), action).verdict == "deny", "a gate grants nothing"


@given(facts, actions)
def test_what_is_unknown_or_malformed_is_denied(given_facts: Facts, action: Action) -> None:
    assert decide(replace(given_facts, known=False), action).code == "action.unknown"
    assert decide(replace(given_facts, known=True, malformed="bad"), action).code == "action.malformed"


@given(facts, rules.filter(lambda rule: rule.effect != "permit"), actions, st.integers(0, 6))
def test_a_rule_that_narrows_never_widens(given_facts: Facts, rule: Rule, action: Action, place: int) -> None:
    before = decide(given_facts, action)
    table = (*given_facts.rules[:place], rule, *given_facts.rules[place:])
    after = decide(replace(given_facts, rules=table), action)
    if before.verdict != "allow":
        assert after.verdict != "allow"
    if before.verdict == "deny" and rule.effect == "forbid":
        assert after.verdict == "deny"


# Mutated and truncated ---------------------------------------------------------------------------------------------------

PINNED = _facts(
    _rule(
        "permit",
        Condition("args.to", "all_in_domains", ["acme.com"]),
        Condition("args.amount", "<=", 5),
        Condition("args.amount", ">", 0),
        Condition("args.env", "==", "dev"),
    )
)


def _truncations(value: JsonValue) -> list[JsonValue]:
    """Every value that lacks one thing that this one has."""
    if isinstance(value, dict):
        without: list[JsonValue] = [{k: v for k, v in value.items() if k != key} for key in value]
        return without + [{**value, key: less} for key in value for less in _truncations(value[key])]
    if isinstance(value, list):
        shorter: list[JsonValue] = [value[:i] + value[i + 1 :] for i in range(len(value))]
        return shorter + [
            [*value[:i], less, *value[i + 1 :]] for i in range(len(value)) for less in _truncations(value[i])
        ]
    return [value[:-1], value[1:]] if isinstance(value, str) and value else [None]


def test_no_truncated_action_is_allowed() -> None:
    assert decide(PINNED, MAIL).verdict == "allow"
    without_mailbox = {**MAIL, "args": {**MAIL["args"], "to": ["@acme.com"]}}  # type: ignore[dict-item]  # its "args" is an object
    truncated = [less for less in _truncations(MAIL) if less != without_mailbox]
    assert len(truncated) > 10
    for action in truncated:
        verdict = decide(PINNED, action)  # type: ignore[arg-type]  # the attack
        # "@acme.com" has lost its mailbox, not its domain: whether it is an address, the tool's schema says
        assert verdict.verdict == "deny" or "@acme.com" in json.dumps(action), action


@given(st.sampled_from(["kind", "tool", "args", "to", "amount", "env"]), anything)
def test_no_mutated_action_is_allowed(name: str, rubbish: object) -> None:
    args = MAIL["args"]
    assert isinstance(args, dict)
    mutated: dict[str, object] = {**MAIL, name: rubbish} if name in MAIL else {**MAIL, "args": {**args, name: rubbish}}
    if name == "amount":
        assume(not (type(rubbish) is int and 0 < rubbish <= 5))
    assume(mutated != MAIL or type(rubbish) is bool)
    assert decide(PINNED, mutated).verdict == "deny"  # type: ignore[arg-type]  # the attack


@given(actions, st.text(max_size=5), anything)
def test_an_action_with_more_than_it_should_have_is_denied(action: Action, name: str, rubbish: object) -> None:
    assume(name not in action)
    everything = _facts(ALL, Rule("model", "permit", "llm.call"))
    assert decide(everything, {**action, name: rubbish}).verdict == "deny"  # type: ignore[dict-item]  # the attack


# Missing and incomparable ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_missing_field_lets_forbid_and_gate_fire_and_a_permit_not(operator: Operator) -> None:
    for condition in (
        Condition("args.missing", operator, ["acme.com"]),
        Condition("args.to", operator, other_path="args.missing"),
        Condition("elsewhere.to", operator, ["acme.com"]),
        Condition("args.to.deeper", operator, ["acme.com"]),
    ):
        assert decide(_facts(_rule("permit", condition)), MAIL).code == "policy.not_permitted"
        assert decide(_facts(ALL, _rule("forbid", condition)), MAIL).code == "policy.forbidden"
        assert decide(_facts(ALL, _rule("gate", condition)), MAIL).verdict == "needs_approval"


@pytest.mark.parametrize(
    ("operator", "left", "right"),
    [("==", "5", 5), ("!=", "5", 5), ("==", True, 1), ("!=", 1, True), ("<=", "1", 5), (">", "9", 5), (">", True, 0), ("<=", False, 5),
     (">", None, 5), ("<=", 5, "9"), ("in", "a", "abc"), ("not_in", "a", {"a": 1}), ("in", True, [1, 2]), ("not_in", "1", [1]),
     ("not_in", ["a"], ["a", "b"]), ("all_in_domains", "x@acme.com", ["acme.com"]), ("all_in_domains", ["x@acme.com"], "acme.com"),
     ("any_outside_domains", "x@evil.com", ["acme.com"]), ("any_outside_domains", None, ["acme.com"]),
     ("~=", "a", "a"), ("", 1, 1)],
)  # fmt: skip
def test_what_cannot_be_compared_lets_forbid_and_gate_fire_and_a_permit_not(
    operator: Operator, left: JsonValue, right: JsonValue
) -> None:
    """Also an operator from a newer table than this engine."""
    action: Action = {"kind": "tool.call", "tool": "mail.send", "args": {"x": left}}
    condition = Condition("args.x", operator, right)
    assert decide(_facts(_rule("permit", condition)), action).code == "policy.not_permitted"
    assert decide(_facts(ALL, _rule("forbid", condition)), action).code == "policy.forbidden"
    assert decide(_facts(ALL, _rule("gate", condition)), action).verdict == "needs_approval"


@given(conditions, actions.filter(lambda action: action["kind"] == "tool.call"))
def test_of_a_forbid_and_a_permit_that_ask_the_same_at_least_one_stops_the_action_or_the_permit_holds(
    condition: Condition, action: Action
) -> None:
    permitted = decide(_facts(replace(ALL, conditions=(condition,))), action).verdict == "allow"
    forbidden = decide(_facts(ALL, Rule("no", "forbid", "tool.call", "*", (condition,))), action).verdict == "deny"
    gated = decide(_facts(ALL, Rule("ask", "gate", "tool.call", "*", (condition,))), action).verdict == "needs_approval"
    assert forbidden == gated
    assert forbidden or not permitted, "a condition that holds for a permit holds for a forbid"


@pytest.mark.parametrize(
    ("operator", "left", "right", "holds"),
    [("==", "a", "a", True), ("==", "a", "b", False), ("==", None, None, True), ("==", None, "a", False), ("!=", None, "a", True),
     ("==", [1, "a"], [1, "a"], True), ("==", [1], [True], False), ("==", {"a": 1}, {"a": 1}, True), ("!=", "a", "b", True),
     ("<=", 5, 5, True), ("<=", 6, 5, False), (">", 6, 5, True), (">", 5, 5, False), ("in", 1, [1, "a"], True), ("in", 2, [1], False),
     ("in", True, [1, True], True), ("in", False, [0, True], False), ("not_in", "b", ["a"], True), ("not_in", "a", ["a"], False),
     ("in", "a", [], False), ("not_in", "a", [], True), ("all_in_domains", [], ["acme.com"], False),
     ("all_in_domains", ["x@ACME.com"], ["acme.com"], True), ("all_in_domains", ["x@acme.com", "y@evil.com"], ["acme.com"], False),
     ("all_in_domains", ["acme.com"], ["acme.com"], False), ("all_in_domains", ["x@evil.com@acme.com"], ["acme.com"], False),
     ("all_in_domains", ["x@sub.acme.com"], ["acme.com"], False), ("all_in_domains", ["x@notacme.com"], ["acme.com"], False),
     ("all_in_domains", [5], ["acme.com"], False), ("any_outside_domains", ["x@acme.com"], ["acme.com"], False),
     ("any_outside_domains", ["x@acme.com", "y@evil.com"], ["acme.com"], True), ("any_outside_domains", [None], ["acme.com"], True),
     ("any_outside_domains", [], ["acme.com"], False)],
)  # fmt: skip
def test_what_operators_mean(operator: Operator, left: JsonValue, right: JsonValue, holds: bool) -> None:
    action: Action = {"kind": "tool.call", "tool": "mail.send", "args": {"x": left, "y": right}}
    for condition in (Condition("args.x", operator, right), Condition("args.x", operator, other_path="args.y")):
        assert (decide(_facts(_rule("permit", condition)), action).verdict == "allow") == holds
        assert (decide(_facts(ALL, _rule("forbid", condition)), action).verdict == "deny") == holds


def test_an_effect_from_a_newer_table_is_a_deny() -> None:
    newer = replace(ALL, effect="forbid-after")  # type: ignore[arg-type]  # the newer table
    assert decide(_facts(ALL, newer), MAIL).code == "policy.error"


# Order and scope ---------------------------------------------------------------------------------------------------------


def test_a_forbid_beats_every_permit_and_gate() -> None:
    for table in ((ALL, _rule("forbid")), (_rule("forbid"), ALL), (_rule("gate"), ALL, _rule("forbid"))):
        assert decide(_facts(*table), MAIL).verdict == "deny"


@pytest.mark.parametrize(
    "rule",
    [
        replace(ALL, kind="llm.call"),
        replace(ALL, tool="mail.read"),
        replace(ALL, tool=""),
        replace(ALL, kind="*"),
        replace(ALL, kind=""),
    ],
)
def test_a_rule_speaks_of_its_kind_and_tool_only(rule: Rule) -> None:
    assert decide(_facts(rule), MAIL).code == "policy.not_permitted"


def test_a_condition_can_compare_with_the_principal() -> None:
    condition = Condition("args.env", "==", other_path="principal.tenant")
    assert decide(_facts(_rule("permit", condition)), MAIL).verdict == "deny"
    args = {"env": "acme"}
    assert decide(_facts(_rule("permit", condition)), {**MAIL, "args": args}).verdict == "allow"


# Gates and approvals -----------------------------------------------------------------------------------------------------

GATE = _rule("gate", rule_id="big")
State = Literal["pending", "approved", "denied", "expired", "consumed"]


def _approved(given_facts: Facts, action: Action, gate: Rule = GATE, *, state: State = "approved") -> ApprovalFact:
    binding = approval_binding(given_facts.policy_hash, digest(action), gate, 1_000)
    return ApprovalFact("a", state, binding.hex(), gate.rule_id, 1_000)


def test_an_approval_for_exactly_this_lets_it_pass() -> None:
    table = _facts(ALL, GATE)
    assert decide(table, MAIL).verdict == "needs_approval"
    assert decide(replace(table, approval=_approved(table, MAIL)), MAIL).verdict == "allow"


@pytest.mark.parametrize("state", ["pending", "denied", "expired", "consumed", "blessed", "", None])
def test_an_approval_in_any_other_state_does_not(state: State) -> None:
    table = _facts(ALL, GATE)
    verdict = decide(replace(table, approval=_approved(table, MAIL, state=state)), MAIL)
    assert verdict.verdict == "deny"
    assert verdict.code in (f"approval.{state}", "policy.error")


@given(actions, st.data())
def test_an_approval_for_anything_else_is_a_deny(action: Action, data: st.DataObject) -> None:
    """Other arguments, policy, approvers, expiry, or a binding with one bit flipped."""
    table = _facts(ALL, GATE)
    approval = _approved(table, MAIL)
    assume(action != MAIL)
    change = data.draw(st.sampled_from(["action", "policy", "gate", "expiry", "binding", "state"]))
    if change == "action":
        other = _approved(table, action)
    elif change == "policy":
        other = _approved(replace(table, policy_hash="00" * 32), MAIL)
    elif change == "gate":
        other = _approved(table, MAIL, replace(GATE, approver_role="anybody"))
    elif change == "expiry":
        other = replace(approval, expires_at_ms=approval.expires_at_ms + data.draw(st.integers(1, 10**9)))
    elif change == "binding":
        flipped = bytearray.fromhex(approval.binding)
        flipped[data.draw(st.integers(0, 31))] ^= 1 << data.draw(st.integers(0, 7))
        other = replace(approval, binding=flipped.hex())
    else:
        other = replace(
            approval, binding=data.draw(st.sampled_from(["", approval.binding[:-2], approval.binding.upper()]))
        )
        assume(other.binding != approval.binding)
    verdict = decide(replace(table, approval=other), MAIL)
    assert (verdict.verdict, verdict.code) == ("deny", "approval.mismatch")


def test_an_approval_of_another_gate_asks_for_this_one() -> None:
    table = _facts(ALL, GATE)
    other = _approved(table, MAIL, replace(GATE, rule_id="small"))
    assert decide(replace(table, approval=other), MAIL).verdict == "needs_approval"


def test_an_approval_lifts_no_forbid_and_is_no_permit() -> None:
    for table in (_facts(ALL, GATE, _rule("forbid", rule_id="no")), _facts(GATE)):
        assert decide(replace(table, approval=_approved(table, MAIL)), MAIL).verdict == "deny"


def test_every_gate_that_matches_has_to_be_satisfied() -> None:
    """One consent satisfies all gates that ask the same people; one action cannot ask two kinds of them."""
    same = _facts(ALL, GATE, replace(GATE, rule_id="other"))
    assert decide(same, MAIL).verdict == "needs_approval"
    assert decide(replace(same, approval=_approved(same, MAIL)), MAIL).verdict == "allow"
    for others in (
        (GATE, replace(GATE, rule_id="b", approver_role="security")),
        (replace(GATE, rule_id="b", approver_role="security"), GATE),
    ):
        table = _facts(ALL, *others)
        assert decide(table, MAIL).code == "policy.gates_conflict"
        assert decide(replace(table, approval=_approved(table, MAIL)), MAIL).code == "policy.gates_conflict"


# The same everywhere -----------------------------------------------------------------------------------------------------


@given(rules)
def test_a_rule_survives_being_stored(rule: Rule) -> None:
    stored = json.loads(json.dumps(rule_to_json(rule)))
    assert rule_from_json(stored) == rule
    assert policy_hash((rule_from_json(stored),)) == policy_hash((rule,))


@given(st.lists(rules, max_size=4), st.lists(rules, max_size=4))
def test_another_table_has_another_hash(one: list[Rule], other: list[Rule]) -> None:
    same = json.dumps([rule_to_json(rule) for rule in one]) == json.dumps([rule_to_json(rule) for rule in other])
    assert (policy_hash(tuple(one)) == policy_hash(tuple(other))) == same


_PROGRAM = """
import json, sys
from holdfast_verdict.decide import ApprovalFact, Facts, decide, rule_from_json
for line in sys.stdin:
    case = json.loads(line)
    approval = case["facts"].pop("approval")
    rules = tuple(rule_from_json(rule) for rule in case["facts"].pop("rules"))
    facts = Facts(**case["facts"], rules=rules, approval=ApprovalFact(**approval) if approval else None)
    verdict = decide(facts, case["action"])
    print(json.dumps([verdict.verdict, verdict.code, verdict.message, verdict.rule_id, verdict.trace]))
"""


def test_another_process_with_another_hash_seed_gives_the_same_verdicts() -> None:
    cases: list[tuple[Facts, Action]] = []

    @settings(max_examples=200, derandomize=True)
    @given(facts, actions)
    def collect(given_facts: Facts, action: Action) -> None:
        cases.append((given_facts, action))
        generous = (ALL, *given_facts.rules, Rule("model", "permit", "llm.call"))
        cases.append((replace(given_facts, known=True, malformed="", rules=generous), action))

    collect()
    sent = "\n".join(
        json.dumps(
            {
                "facts": {
                    **one.to_json(),
                    "rules": [rule_to_json(rule) for rule in one.rules],
                    "policy_hash": one.policy_hash,
                },
                "action": action,
            }
        )
        for one, action in cases
    )
    here = [decide(one, action) for one, action in cases]
    assert {verdict.verdict for verdict in here} == {"allow", "deny", "needs_approval"}
    for seed in ("0", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            input=sent,
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        there = [json.loads(line) for line in done.stdout.splitlines()]
        assert there == [[v.verdict, v.code, v.message, v.rule_id, list(v.trace)] for v in here]
