"""The order of a decision, its codes, and that nothing is allowed that nobody permitted."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import pytest

import holdfast_verdict
from holdfast_verdict import decide
from holdfast_verdict.canonical import JsonValue, canonical_bytes
from holdfast_verdict.engine.facts import Facts

from .policies import AMOUNT, TO, USER, WEB, call, clerk, document, gate, limit, policy, rule, watch

SMALL = ["<=", AMOUNT, ["int", 100]]


@dataclass(frozen=True, slots=True)
class Whole:
    """An action as a catalogue returns it."""

    name: str
    value: dict[str, JsonValue]
    canonical: bytes
    digest: bytes
    external: bool = True

    @staticmethod
    def of(value: dict[str, JsonValue]) -> Whole:
        canonical = canonical_bytes(value)
        return Whole(
            str(value.get("tool") or value["kind"]), value, canonical, hashlib.sha256(canonical).digest(), external=True
        )


def test_what_a_rule_permits_is_allowed_and_the_trace_says_by_which() -> None:
    verdict = decide(policy(rule("permit", when=SMALL)), call(amount=5), clerk())
    assert (verdict.verdict, verdict.code, verdict.rule_id) == ("allow", "policy.permitted", "permit-pay")
    assert [str(looked) for looked in verdict.trace] == ["permit permit-pay matched"]


def test_what_no_rule_permits_is_denied_and_the_trace_says_how_nearly() -> None:
    rules = rule("permit", when=["and", ["present", TO], SMALL]), rule("permit", "other")
    verdict = decide(policy(*rules), call(amount=500, to="x"), clerk())
    assert (verdict.verdict, verdict.code) == ("deny", "policy.not_permitted")
    assert [str(looked) for looked in verdict.trace] == ["permit permit-pay no: args.amount <= 100"]
    assert "args.amount <= 100" in verdict.message


def test_a_forbid_goes_before_a_permit() -> None:
    rules = rule("permit"), rule("forbid", when=["not", SMALL], message="too much")
    assert decide(policy(*rules), call(amount=5), clerk()).allowed
    verdict = decide(policy(*rules), call(amount=500), clerk())
    assert (verdict.code, verdict.rule_id, verdict.message) == ("policy.forbidden", "forbid-pay", "too much")


@pytest.mark.parametrize("args", [{}, {"amount": "5"}, {"amount": None}, {"amount": [5]}, {"amount": True}])
def test_what_cannot_be_told_lets_a_forbid_fire_and_a_permit_not(args: dict[str, JsonValue]) -> None:
    forbidding = policy(rule("permit"), rule("forbid", when=["not", SMALL]))
    assert decide(forbidding, call("pay", **args), clerk()).code == "policy.forbidden"
    permitting = policy(rule("permit", when=SMALL))
    verdict = decide(permitting, call("pay", **args), clerk())
    assert verdict.code == "policy.not_permitted"
    assert verdict.trace[0].outcome == "unknown"


def test_a_forbid_that_is_sure_decides_before_one_that_is_not() -> None:
    rules = (
        rule("permit"),
        rule("forbid", when=["run_has", "secret"], name="doubtful"),
        rule("forbid", when=["not", SMALL], name="sure"),
    )
    verdict = decide(policy(*rules), call(amount=500), clerk(labels=None))
    assert (verdict.code, verdict.rule_id) == ("policy.forbidden", "sure")
    assert [looked.outcome for looked in verdict.trace] == ["unknown", "matched"]


FACTS_LEFT_OUT = [
    (["run_has", "secret"], "labels"),
    (["happened", "last"], "history.last"),
    (["count<=", "count", 3], "history.count"),
    (["from", TO, "untrusted"], "sources of args.to"),
    (["==", ["local", "Europe/Berlin", "hour"], ["int", 9]], "zones.Europe/Berlin"),
    (["==", ["principal", "project"], ["text", "p"]], "principal.project"),
    ([">", ["estimate", "nano_usd"], ["money", 1]], "estimate.nano_usd"),
]


@pytest.mark.parametrize(("when", "missing"), FACTS_LEFT_OUT, ids=[name for _, name in FACTS_LEFT_OUT])
def test_a_fact_that_was_not_given_is_named_and_stands_against_the_action(when: list[object], missing: str) -> None:
    watches = watch("last", keep="last"), watch("count")
    zones = ["Europe/Berlin"] if "zones" in missing else []
    facts = clerk(labels=None)
    for effect in ("forbid", "permit"):
        rules = [rule("permit", name="p"), rule("forbid", when=when, name="r")]
        if effect == "permit":
            rules = [rule("permit", when=when, name="r")]
        verdict = decide(policy(*rules, watches=watches, zones=zones), call(to="bob"), facts)
        assert (verdict.verdict, verdict.code) == ("deny", "facts.missing")
        assert missing in verdict.message
        assert verdict.trace[0].missing == (missing,)


def test_a_limit_and_a_gate_fire_where_nobody_can_tell() -> None:
    doubtful = ["run_has", "secret"]
    gated = policy(rule("permit"), rule("gate", when=doubtful, gate=gate((1, "role", "boss"))))
    assert decide(gated, call(), clerk(labels=None)).verdict == "needs_approval"
    assert decide(gated, call(), clerk()).verdict == "allow"
    limited = policy(rule("permit"), rule("limit", when=doubtful, limit=limit("count", 0, "calls")))
    assert decide(limited, call(), clerk(labels=None)).code == "policy.limit"
    assert decide(limited, call(), clerk()).verdict == "allow"


def test_an_empty_policy_and_an_unknown_role_deny_with_codes_of_their_own() -> None:
    assert decide(policy(), call(), clerk()).code == "policy.empty"
    some = policy(rule("permit", "*"))
    for principal in ({"role": "nobody"}, {}, {"role": "*"}, {"role": ["clerk"]}, {"role": None}):
        assert decide(some, call(), Facts(principal=principal)).code == "policy.role_unknown"


def test_a_role_has_the_rules_of_those_it_extends_and_not_the_other_way_round() -> None:
    rules = policy(rule("permit", role="boss"), rule("permit", "read"), rule("forbid", "read", SMALL))
    boss = replace(clerk(), principal={"role": "boss"})
    assert decide(rules, call(), boss).allowed
    assert decide(rules, call("read", amount=500), boss).allowed
    assert not decide(rules, call("read", amount=5), boss).allowed
    assert not decide(rules, call(), clerk()).allowed


@pytest.mark.parametrize(
    ("pattern", "name", "heard"),
    [
        ("pay", "pay", True),
        ("pay", "pay.all", False),
        ("pay", "Pay", False),
        ("pay*", "pay.all", True),
        ("pay.*", "pay", False),
        ("*", "anything", True),
        ("external", "anything", True),
        ("external", "inner", False),
    ],
)
def test_patterns_of_actions(pattern: str, name: str, heard: bool) -> None:
    compiled = policy(rule("permit", pattern), external={"inner": False})
    assert decide(compiled, call(name), clerk()).allowed is heard


def test_the_policy_says_what_is_external_before_the_catalogue_does() -> None:
    compiled = policy(rule("permit", "*"), rule("forbid", "external"), external={"pay": False})
    assert decide(compiled, Whole.of(call()), clerk()).allowed
    other = Whole.of(call("other"))
    assert not decide(compiled, other, clerk()).allowed
    assert decide(compiled, replace(other, external=False), clerk()).allowed


def test_other_kinds_go_by_their_kind() -> None:
    compiled = policy(rule("permit", "llm.call"))
    assert decide(compiled, {"kind": "llm.call", "args": {}}, clerk()).allowed
    assert not decide(compiled, call("llm.call2"), clerk()).allowed


@pytest.mark.parametrize(
    "action",
    [
        None,
        7,
        {},
        {"kind": "tool.call"},
        {"kind": "tool.call", "tool": "pay"},
        {"kind": "tool.call", "args": {}},
        {"kind": "tool.call", "tool": "", "args": {}},
        {"kind": "tool.call", "tool": ["pay"], "args": {}},
        {"kind": "tool.call", "tool": "pay", "args": []},
        {"kind": "tool.call", "tool": "pay", "args": {}, "more": 1},
        {"kind": "tool.call", "tool": "pay", "args": {"x": 1.5}},
        {"kind": "tool.call", "tool": "pay", "args": {"x": float("nan")}},
        {"kind": "tool.call", "tool": "pay", "args": {"x": {1, 2}}},
        {"kind": "tool.call", "tool": "pay", "args": {"x": 2**60}},
        {"kind": "llm.call", "tool": "pay", "args": {}},
    ],
)
def test_what_has_no_canonical_form_is_malformed(action: object) -> None:
    assert decide(policy(rule("permit", "*")), action, clerk()).code == "action.malformed"


def test_an_action_that_was_altered_after_it_got_its_form_is_malformed() -> None:
    compiled = policy(rule("permit", "*"))
    whole = Whole.of(call(amount=5, flag=True, to=["a"]))
    assert decide(compiled, whole, clerk()).allowed

    class Text(str):
        __slots__ = ()

    altered = [
        replace(whole, value=call(amount=6, flag=True, to=["a"])),
        replace(whole, value=call(amount=5, flag=1, to=["a"])),
        replace(whole, value=call(amount=5, flag=True, to=[Text("a")])),
        replace(whole, value=call(amount=5, flag=True)),
        replace(whole, name="other"),
        replace(whole, digest=bytes(32)),
        replace(whole, canonical=whole.canonical[:-1]),
        replace(whole, canonical=b""),
    ]
    assert {decide(compiled, each, clerk()).code for each in altered} == {"action.malformed"}


@pytest.mark.parametrize(
    "compiled",
    [
        None,
        5,
        "role x {}",
        [],
        {},
        {"v": 2},
        document(rule("nope", code="policy.forbidden")),
        {**document(rule("permit")), "more": 1},
    ],
)
def test_a_policy_that_is_not_known_whole_denies(compiled: object) -> None:
    verdict = decide(compiled, call(), clerk())  # type: ignore[arg-type]  # the attack
    assert (verdict.verdict, verdict.code) == ("deny", "policy.error")


def test_a_policy_and_facts_may_be_their_json() -> None:
    compiled = document(rule("permit", when=["from", TO, "user"]))
    facts: dict[str, JsonValue] = {"principal": {"role": "clerk"}, "origins": {"to": {"kinds": ["user"]}}}
    assert decide(compiled, call(to="x"), facts).allowed
    assert decide(compiled, call(to="x"), {**facts, "more": 1}).code == "policy.error"


def test_provenance_is_asked_of_each_leaf() -> None:
    compiled = policy(rule("permit", when=["only_from", TO, ["user"]]), rule("forbid", when=["from", TO, "untrusted"]))
    assert decide(compiled, call(to=["a", "b"]), clerk(origins={"to[0]": USER, "to[1]": USER})).allowed
    assert not decide(compiled, call(to=["a", "b"]), clerk(origins={"to[0]": USER, "to[1]": WEB})).allowed
    assert decide(compiled, call(to=["a", "b"]), clerk(origins={"to[0]": USER})).code == "facts.missing"


def test_labels_of_an_allowed_action_join_those_of_the_run() -> None:
    labels = [
        {"actions": ["read*"], "field": "", "labels": ["secret"], "where": ["true"]},
        {"actions": ["read"], "field": "body", "labels": ["untrusted"], "where": ["present", TO]},
        {"actions": ["read"], "field": "body", "labels": ["doubtful"], "where": SMALL},
    ]
    compiled = policy(rule("permit", "*"), labels=labels)
    verdict = decide(compiled, call("read"), clerk(labels=frozenset({"old"})))
    assert verdict.yields == (("", ("secret",)), ("body", ("doubtful",)))
    assert verdict.labels_after == {"old", "secret", "doubtful"}


def test_an_output_of_which_nobody_says_anything_is_untrusted() -> None:
    vouched = {"actions": ["tell"], "field": "", "labels": [], "where": ["true"]}
    big = {"actions": ["pay"], "field": "", "labels": ["secret"], "where": [">", AMOUNT, ["int", 5]]}
    compiled = policy(rule("permit", "*"), labels=[vouched, big])
    assert decide(compiled, call("read"), clerk()).labels_after == {"untrusted"}
    assert decide(compiled, call("tell"), clerk()).labels_after == frozenset()
    assert decide(compiled, call(amount=6), clerk()).labels_after == {"secret"}
    assert decide(compiled, call(amount=5), clerk()).labels_after == {"untrusted"}


def test_too_much_work_is_a_deny() -> None:
    wide = ["every", ["arg", "x"], "a", ["some", ["arg", "x"], "b", ["==", ["var", "b"], ["int", -1]]]]
    slow = ["some", ["arg", "x"], "a", ["some", ["arg", "x"], "b", ["==", ["var", "b"], ["int", -1]]]]
    assert (
        decide(policy(rule("permit"), rule("forbid", when=slow)), call(x=list(range(2000))), clerk()).code
        == "policy.error"
    )
    assert not decide(policy(rule("permit", when=wide)), call(x=list(range(10))), clerk()).allowed


def test_the_library_gives_its_names_and_the_function_wins_over_the_module() -> None:
    from holdfast_verdict.decide import Rule  # noqa: F401 (the module of tables)

    assert callable(holdfast_verdict.decide)
    for name in holdfast_verdict.__all__:
        assert getattr(holdfast_verdict, name) is not None
    with pytest.raises(AttributeError, match="no attribute"):
        _ = holdfast_verdict.nothing
