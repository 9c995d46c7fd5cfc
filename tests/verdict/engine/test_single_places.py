"""What one place of the engine decides alone: each of these was once a change that no other test noticed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast_verdict import compile_policy, decide
from holdfast_verdict.engine.facts import Consent
from holdfast_verdict.engine.history import Event, History
from holdfast_verdict.policy import Policy

from .policies import AMOUNT, call, clerk, gate, limit, policy, rule
from .test_gates import ASKED, BOB, FINANCE, NOW, PAY, approval

SMALL = ["<", AMOUNT, ["int", 1]]


def test_a_gate_that_does_not_match_leaves_the_next_one_to_be_asked() -> None:
    compiled = policy(
        rule("permit"),
        rule("gate", name="small", when=SMALL, gate=gate(FINANCE)),
        rule("gate", name="any", gate=gate(FINANCE)),
    )
    verdict = decide(compiled, PAY, clerk())
    assert (verdict.verdict, verdict.rule_id) == ("needs_approval", "any")


def test_a_limit_that_does_not_match_leaves_the_next_one_to_be_held() -> None:
    compiled = policy(
        rule("permit"),
        rule("limit", name="small", when=SMALL, limit=limit("count", 5, "calls")),
        rule("limit", name="any", limit=limit("count", 0, "calls")),
    )
    assert decide(compiled, PAY, clerk()).code == "policy.limit"


def test_an_open_gate_leaves_the_next_one_to_be_asked() -> None:
    compiled = policy(
        rule("permit"), rule("gate", name="g", gate=gate(FINANCE)), rule("gate", name="h", gate=gate(FINANCE))
    )
    verdict = decide(compiled, PAY, clerk(approvals=(approval(compiled, BOB),), now_ms=NOW))
    assert (verdict.verdict, verdict.rule_id) == ("needs_approval", "h")


def test_a_consent_is_told_and_none_is_not() -> None:
    compiled = policy(rule("permit"), rule("gate", name="g", gate=gate(FINANCE)))
    opened = decide(compiled, PAY, clerk(approvals=(approval(compiled, BOB),), now_ms=NOW))
    assert opened.message == "permitted by rule permit-pay, with consent"
    assert decide(policy(rule("permit")), PAY, clerk()).message == "permitted by rule permit-pay"


def test_the_first_of_what_is_used_up_fits_to_the_last() -> None:
    compiled = policy(rule("permit"), rule("limit", name="l", limit=limit("count", 1, "calls")))
    assert decide(compiled, call(), clerk(usage={"l run run=r1": 0})).allowed
    assert decide(compiled, call(), clerk(usage={"l run run=r1": 1})).code == "policy.limit"


@pytest.mark.parametrize("told", [True, "0", 0.0, [0], {}])
def test_a_usage_that_is_no_whole_number_is_not_told(told: object) -> None:
    compiled = policy(rule("permit"), rule("limit", name="l", limit=limit("count", 5, "calls")))
    verdict = decide(compiled, call(), replace(clerk(), usage={"l run run=r1": told}))  # type: ignore[dict-item]  # rubbish is meant
    assert (verdict.verdict, verdict.code) == ("deny", "facts.missing")


def test_what_is_missing_is_named() -> None:
    compiled = policy(rule("permit"), rule("gate", name="g", gate=gate(FINANCE)))
    verdict = decide(compiled, PAY, clerk(approvals=(approval(compiled, BOB),), now_ms=None))
    assert (verdict.code, "now_ms" in verdict.message) == ("facts.missing", True)
    facts = clerk(approvals=(approval(compiled, BOB),), now_ms=NOW)
    nobody = {name: value for name, value in facts.principal.items() if name != "user"}
    verdict = decide(compiled, PAY, replace(facts, principal=nobody))
    assert (verdict.code, "principal.user" in verdict.message) == ("facts.missing", True)


def test_who_waits_is_named_by_kind_after_some_have_consented() -> None:
    compiled = policy(rule("permit"), rule("gate", name="g", gate=gate((2, "role", "finance"), (1, "agent", "risk"))))
    facts = clerk(approvals=(approval(compiled, BOB),), now_ms=NOW)
    waiting = decide(compiled, PAY, facts).gates[0].waiting
    assert [(need.count, need.kind, need.name) for need in waiting] == [(1, "role", "finance"), (1, "agent", "risk")]
    both = Consent("eve", "user", ("finance",), ASKED + 1)
    waiting = decide(compiled, PAY, clerk(approvals=(approval(compiled, BOB, both),), now_ms=NOW)).gates[0].waiting
    assert [(need.count, need.kind, need.name) for need in waiting] == [(1, "agent", "risk")]


def _told(text: str) -> Policy:
    return compile_policy(f"role clerk {{ permit pay  permit tell }}\n{text}")


@pytest.mark.parametrize(
    ("rule_", "events", "allowed"),
    [
        ("invariant i: pay requires tell succeeded within 1h", 0, False),
        ("invariant i: pay requires tell succeeded within 1h", 1, True),
        ("invariant i: at most 2 pay per run", 1, True),
        ("invariant i: at most 2 pay per run", 2, False),
        ("invariant i: sum(args.amount) of pay <= 10 per run", 1, True),
        ("invariant i: sum(args.amount) of pay <= 9 per run", 1, False),
    ],
)
def test_history_is_counted_to_the_last(rule_: str, events: int, allowed: bool) -> None:
    compiled = _told(rule_)
    history = History(compiled)
    principal = clerk().principal
    for number in range(events):
        for name in ("tell", "pay"):
            event = Event(action=name, args={"amount": 5}, event="requested", at_ms=number, principal=principal)
            history.add(event)
            history.add(replace(event, event="succeeded"))
    verdict = decide(compiled, call(amount=5), clerk(history=history, now_ms=NOW))
    assert verdict.allowed is allowed, verdict


@pytest.mark.parametrize(
    ("condition", "value", "allowed"),
    [
        ('args.url starts with "https"', "https://a/../b", True),
        ('args.url in ["http*"]', "https://a/../b", True),
        ('args.url in ["https://a/*"]', "https://a/../b", False),
        ("args.url contains args.part", "https://a/b", True),
        ('host(args.url) == "a"', "https://a/b", True),
        ('host(args.url) == "a"', 7, False),
    ],
)
def test_text_is_asked_for_what_stands_there(condition: str, value: object, allowed: bool) -> None:
    compiled = compile_policy(f"role clerk {{ permit open where {condition} }}")
    action = {"kind": "tool.call", "tool": "open", "args": {"url": value, "part": "//a"}}
    assert decide(compiled, action, clerk()).allowed is allowed


@pytest.mark.parametrize(("external", "allowed"), [(True, False), (False, True)])
def test_only_what_left_the_boundary_counts_as_external(external: bool, allowed: bool) -> None:
    compiled = _told("invariant i: at most 2 external per run")
    history = History(compiled)
    for at_ms in range(2):
        told = Event("tell", {}, "requested", at_ms, clerk().principal, external=external)
        history.add(told)
    assert decide(compiled, call(amount=5), clerk(history=history, now_ms=NOW)).allowed is allowed


@pytest.mark.parametrize(
    ("past", "present", "allowed"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ({"$number": "1.5"}, {"$number": "1.5"}, True),
        (1, 2, False),
        (1, "1", False),
    ],
)
def test_the_same_argument_is_the_same_value(past: object, present: object, allowed: bool) -> None:
    compiled = _told("invariant i: pay requires tell succeeded within 1h with same args.id")
    history = History(compiled)
    told = Event("tell", {"id": past}, "requested", 1, clerk().principal)
    history.add(told)
    history.add(replace(told, event="succeeded"))
    action = {"kind": "tool.call", "tool": "pay", "args": {"id": present}}
    assert decide(compiled, action, clerk(history=history, now_ms=NOW)).allowed is allowed
    facts = history.facts(action, clerk().principal, NOW)
    assert decide(compiled, action, clerk(history=facts, now_ms=NOW)).allowed is allowed
