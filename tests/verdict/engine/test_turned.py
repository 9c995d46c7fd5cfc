"""Changes of the engine by which a deny became an allow, or an allow a deny, and which no other test had noticed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_verdict import compile_policy, decide, decide_call
from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.engine import context, program
from holdfast_verdict.engine.usage import Usage, in_window
from holdfast_verdict.engine.verdict import Leg
from holdfast_verdict.policy import Policy
from holdfast_verdict.provenance.origin import Origin

from .policies import AMOUNT, Json, call, clerk, gate, policy, rule
from .test_gates import BOB, FINANCE, NOW, PAY, approval

DAY_MS = 86_400_000


def allows(condition: str, **args: JsonValue) -> bool:
    return decide(
        compile_policy(f"role clerk {{ permit pay where {condition} }}"), call("pay", **args), clerk()
    ).allowed


def both(when: list[object], **args: JsonValue) -> tuple[bool, bool]:
    """Says whether a permit with that condition permits, and whether a forbid with it forbids."""
    permits = decide(policy(rule("permit", when=when)), call("pay", **args), clerk()).allowed
    forbids = not decide(policy(rule("permit"), rule("forbid", when=when)), call("pay", **args), clerk()).allowed
    return permits, forbids


TEXT, TEXTS = ["arg", "x"], [["is", ["text", "abc"]], ["glob", "z*"]]


@pytest.mark.parametrize(
    ("when", "args", "permits", "forbids"),
    [
        (["in", TEXT, TEXTS], {"x": "abc"}, True, True),
        (["in", TEXT, TEXTS], {"x": "zoo"}, True, True),
        (["in", TEXT, TEXTS], {"x": "abd"}, False, False),
        (["in", TEXT, TEXTS], {"x": 5}, False, True),
        (["in", AMOUNT, [["range", ["arg", "low"], ["int", 10]]]], {"amount": 5, "low": 1}, True, True),
        (["in", AMOUNT, [["range", ["arg", "low"], ["int", 10]]]], {"amount": 5}, False, True),
        (["in", AMOUNT, [["range", ["int", 1], ["arg", "high"]]]], {"amount": 5}, False, True),
        (["in", AMOUNT, [["range", ["int", 1], ["arg", "high"]]]], {"amount": 5, "high": 6}, True, True),
        (["in", AMOUNT, [["range", ["int", 1], ["arg", "high"]]]], {"amount": 5, "high": 4}, False, False),
        (["none_in", TEXT, TEXTS], {"x": None}, False, True),
        (["none_in", TEXT, TEXTS], {"x": {"a": 1}}, False, True),
        (["none_in", TEXT, [["is", ["int", 1]]]], {"x": True}, False, True),
        (["all_in", AMOUNT, [["range", ["int", 1], ["int", 9]]]], {"amount": 5}, True, True),
        (["in", TEXT, [["glob", "*/end"]]], {"x": "a/../end"}, True, True),
        (["in", TEXT, [["path", "/srv"]]], {"x": "/srv/" + "a" * 300}, True, True),
        (["in", TEXT, [["path", "/srv"]]], {"x": "/etc/" + "a" * 300}, False, False),
        (["every", ["arg", "x"], "i", ["present", ["var", "i", "to"]]], {"x": [{"to": 1}]}, True, True),
        (["every", ["arg", "x"], "i", ["present", ["var", "i", "to"]]], {"x": [{"to": None}]}, False, False),
    ],
)
def test_a_condition_holds_or_does_not(
    when: list[object], args: Mapping[str, JsonValue], permits: bool, forbids: bool
) -> None:
    assert both(when, **args) == (permits, forbids)


@pytest.mark.parametrize(
    ("condition", "first", "second", "allowed"),
    [
        ("args.a == args.b", 1, 1, True),
        ("args.a != args.b", 1, 2, True),
        ("args.a != args.b", 1, 1, False),
        ("args.a < args.b", 1, 2, True),
        ("args.a < args.b", 2, 1, False),
        ("args.a starts with args.b", "abc", "ab", True),
        ("args.a ends with args.b", "abc", "bc", True),
    ],
)
def test_two_arguments_are_compared(condition: str, first: JsonValue, second: JsonValue, allowed: bool) -> None:
    assert allows(condition, a=first, b=second) is allowed


def test_a_permit_that_cannot_be_told_leaves_the_next_one_to_be_asked() -> None:
    compiled = policy(
        rule("permit", name="p", when=["in", TEXT, [["glob", "a*"]]]),
        rule("permit", name="q", when=["==", TEXT, ["int", 5]]),
    )
    assert decide(compiled, call(x=5), clerk()).rule_id == "q"


def _of(*kinds: str, sources: tuple[str, ...] = ()) -> Origin:
    return Origin(frozenset(kinds), frozenset(), sources)


@pytest.mark.parametrize(
    ("origins", "found", "allowed"),
    [
        (["user"], _of("constant"), True),
        (["user"], _of("user", "constant"), True),
        (["user"], _of("user", "model"), False),
        ([["tool", "web*"]], _of("model"), False),
        ([["tool", "web*"]], _of("model", sources=("web.fetch#1",)), False),
        ([["tool", "web*"]], _of("tool", "model", sources=("web.fetch#1",)), False),
        ([["tool", "web*"]], _of("tool", sources=("web.fetch#1",)), True),
        ([["tool", "web*"]], _of("tool", sources=("web.fetch#1", "wet.fetch#2")), False),
        ([["tool", "web*"]], _of("tool", sources=("wet.fetch#1",)), False),
        ([["tool", "web*"]], _of("tool", sources=("we#1",)), False),
        ([["tool", "web#a"]], _of("tool", sources=("web#a#1",)), True),
        ([["tool", "web"]], _of("tool", sources=("web#a#1",)), False),
        ([["tool", "web"]], _of("tool"), False),
        ([["tool", "web"]], _of(), False),
    ],
)
def test_only_from_looks_at_every_kind_and_every_source(origins: list[object], found: Origin, allowed: bool) -> None:
    compiled = policy(rule("permit", when=["only_from", TEXT, origins]))
    assert decide(compiled, call(x="v"), clerk(origins={"x": found})).allowed is allowed


@pytest.mark.parametrize("members", [9, 10])
def test_a_decision_looks_at_as_many_members_as_it_may_and_at_no_more(
    monkeypatch: Any, members: int
) -> None:  # Any: pytest's
    monkeypatch.setattr(context, "MAX_STEPS", 9)
    compiled = policy(rule("permit", when=["every", TEXT, "i", ["present", ["var", "i"]]]))
    verdict = decide(compiled, call(x=list(range(members))), clerk())
    assert verdict.code == ("policy.permitted" if members == 9 else "policy.error")


@pytest.mark.parametrize(
    ("pattern", "name", "allowed"),
    [("tools", "pay", True), ("tools", "llm.call", False), ("llm.call", "llm.call", True), ("pa*", "pay", True)],
)
def test_tools_are_all_actions_that_are_no_kind_of_their_own(pattern: str, name: str, allowed: bool) -> None:
    action: dict[str, JsonValue] = call(name) if name == "pay" else {"kind": name, "args": {}}
    assert decide(policy(rule("permit", pattern)), action, clerk()).allowed is allowed


@pytest.mark.parametrize(("external", "yields"), [(True, (("", ("secret",)),)), (False, (("", ("untrusted",)),))])
def test_labels_of_what_leaves_the_boundary_are_those_of_external_actions(external: bool, yields: object) -> None:
    compiled = compile_policy("role clerk { permit pay }\nlabel external yields secret")
    document: Json = {**compiled.to_json(), "external": {"pay": external}}
    assert decide(Policy.from_json(document), call(), clerk()).yields == yields


def test_a_gate_for_anybody_asks_not_who_asked() -> None:
    compiled = policy(rule("permit"), rule("gate", name="g", gate=gate(FINANCE, not_requester=False)))
    facts = clerk(approvals=(approval(compiled, BOB),), now_ms=NOW)
    nobody = {name: value for name, value in facts.principal.items() if name != "user"}
    verdict = decide(compiled, PAY, replace(facts, principal=nobody))
    assert verdict.allowed
    assert "user" not in verdict.facts_read["principal"]  # type: ignore[operator]  # it is an object


def test_the_program_of_another_policy_that_had_the_same_place_in_memory_is_not_taken() -> None:
    strict, lax = policy(), policy(rule("permit"))
    program._KNOWN[id(strict)] = lax, program.program_of(lax)
    assert program.program_of(strict).rules == ()
    assert decide(strict, call(), clerk()).code == "policy.empty"


def test_of_equal_policies_one_program_is_made_and_of_others_another() -> None:
    first, again, other = policy(rule("permit")), policy(rule("permit")), policy(rule("permit", "fly"))
    assert program.program_of(first) is program.program_of(again)
    assert program.program_of(other) is not program.program_of(first)
    for number in range(program._PROGRAMS_MAX + 5):
        program.program_of(policy(rule("permit", name=f"p{number}")))
    assert len(program._PROGRAMS) == len(program._KNOWN) == program._PROGRAMS_MAX
    assert program.program_of(policy(rule("permit", name=f"p{number}"))) is next(reversed(program._PROGRAMS.values()))


@given(st.integers(-3_000 * 366 * DAY_MS // 2, 3_000 * 366 * DAY_MS), st.integers(-40 * DAY_MS, 40 * DAY_MS))
def test_a_window_of_the_calendar_is_that_of_the_calendar(at_ms: int, later_ms: int) -> None:
    at_ms = max(at_ms, -62_135_596_800_000 + 50 * DAY_MS)  # the year 1, where datetime begins
    now_ms = at_ms + later_ms
    at, now = (datetime.fromtimestamp(each // 1000, UTC) for each in (at_ms, now_ms))
    assert in_window(at_ms, now_ms, "month") is ((at.year, at.month) == (now.year, now.month))
    assert in_window(at_ms, now_ms, "day") is (at.date() == now.date())
    assert in_window(at_ms, now_ms, "hour") is ((at.date(), at.hour) == (now.date(), now.hour))


@pytest.mark.parametrize(("now_ms", "is_in"), [(999, True), (1_000, True), (1_100, True), (1_101, False)])
def test_a_rolling_window_is_closed_at_both_ends(now_ms: int, is_in: bool) -> None:
    assert in_window(1_000, now_ms, 100) is is_in
    assert in_window(1_000, now_ms, "total")


def test_usage_is_what_was_held_by_key_in_its_window() -> None:
    usage = Usage(now_ms=0)
    leg = Leg("l", "k", "calls", 3, 10, 100, "run", "r1")
    usage.hold(leg)
    usage.hold(leg._replace(key="other", amount=None))
    usage.now_ms = 90
    usage.hold(leg._replace(amount=4))
    assert (dict(usage), len(usage), usage["never"]) == ({"k": 7}, 1, 0)
    usage.now_ms = 101
    assert usage["k"] == 4


def test_what_was_looked_at_before_it_broke_is_told(monkeypatch: Any) -> None:  # Any: pytest's
    monkeypatch.setattr(context, "MAX_STEPS", 1)
    many = ["every", TEXT, "i", ["present", ["var", "i"]]]
    compiled = policy(rule("forbid", name="f", when=["==", AMOUNT, ["int", 1]]), rule("permit", when=many))
    verdict = decide(compiled, call(x=[1, 2], amount=2), clerk())
    assert verdict.code == "policy.error"
    assert [looked.rule_id for looked in verdict.trace] == ["f"]


def test_a_call_that_breaks_the_catalogue_is_a_deny() -> None:
    verdict = decide_call(policy(rule("permit")), None, "pay", {}, clerk())  # type: ignore[arg-type]  # none is meant
    assert (verdict.verdict, verdict.code) == ("deny", "policy.error")
    assert verdict.message == "the call could not be read, so it is denied (AttributeError)"
