"""What is given and what is told, in both directions: each case is one that no other test had noticed."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from holdfast_verdict import Catalogue, Sources, compile_policy, decide
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.expressions import compile_expression
from holdfast_verdict.engine.facts import Approval, Consent
from holdfast_verdict.engine.form import Malformed, name_of, read_action
from holdfast_verdict.engine.history import Event
from holdfast_verdict.engine.numbers import decimal, number_json
from holdfast_verdict.engine.recorded import FactsMalformed, facts_from_json

from .policies import USER, WEB, call, clerk, gate, limit, policy, rule
from .test_gates import BOB, FINANCE, NOW, PAY, approval


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (7, 7),
        (Fraction(1, 2), "0.5"),
        (Fraction(-1, 2), "-0.5"),
        (Fraction(1, 400), "0.0025"),
        (Fraction(-2501, 100), "-25.01"),
        (Fraction(12345, 1000), "12.345"),
        (Fraction(1, 2) + Fraction(3, 2), 2),
        (Fraction(1, 2) - Fraction(1, 2), 0),
        (Fraction(-25, 10) - Fraction(75, 10), -10),
    ],
)
def test_a_number_is_written_as_it_is_read(number: int | Fraction, written: object) -> None:
    assert number_json(number) == (written if isinstance(written, int) else {"$number": written})
    assert isinstance(written, int) or decimal(written) == number


def test_a_whole_number_is_an_integer_however_it_is_written() -> None:
    assert type(decimal("2.0")) is int


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (7, "an action is an object"),
        ({"kind": "tool.call", "tool": 7, "args": {}}, "an action's kind and tool are names, and its args an object"),
        ({"kind": "", "args": {}}, "an action's kind and tool are names, and its args an object"),
        ({"kind": "x", "args": []}, "an action's kind and tool are names, and its args an object"),
    ],
)
def test_an_action_without_a_name_says_why(action: object, sentence: str) -> None:
    with pytest.raises(Malformed, match=rf"^{sentence}$"):
        name_of(action)


def _catalogue(**more: object) -> Catalogue:
    properties = {"speed": {"enum": ["slow", "fast"]}, "n": {"type": "integer"}}
    return Catalogue.of({"pay": {"parameters": {"type": "object", "properties": properties}, **more}})


def test_an_action_that_was_altered_says_so() -> None:
    action = _catalogue().action("pay", {"n": 1})
    action.value["args"]["n"] = 2  # type: ignore[index]  # it is altered
    with pytest.raises(Malformed, match=r"^the action was altered after it got its canonical form$"):
        read_action(action)


@pytest.mark.parametrize(
    ("labels", "yields"),
    [
        ("", (("", ("secret",)),)),
        ("label pay where args.n > 5 yields pii", (("", ("secret",)),)),
        ("label pay yields pii", (("", ("pii", "secret")),)),
    ],
)
def test_what_the_catalogue_says_of_an_output_stands(labels: str, yields: object) -> None:
    compiled = compile_policy(f"role clerk {{ permit pay }}\nlabel other yields secret\n{labels}")
    assert decide(compiled, _catalogue(yields=["secret"]).action("pay", {"n": 1}), clerk()).yields == yields


def test_origins_that_were_given_go_before_the_schema() -> None:
    compiled = compile_policy("role clerk { permit pay where args.speed from user }")
    action = _catalogue().action("pay", {"speed": "fast"})
    for origins, allowed in (({"speed": USER}, True), ({"speed": WEB}, False), ({}, False)):
        assert decide(compiled, action, clerk(origins=origins)).allowed is allowed


def test_without_a_schema_nothing_is_a_constant() -> None:
    compiled = compile_policy("role clerk { permit pay where not args.speed from untrusted }")
    sources = Sources()
    sources.tool("web.fetch", "fast", ["untrusted"])
    assert not decide(compiled, call(speed="fast"), clerk(sources=sources)).allowed


@pytest.mark.parametrize(
    ("labels", "code"), [("secret", "policy.error"), ([1], "policy.error"), ([], "policy.permitted")]
)
def test_labels_are_a_set_of_texts(labels: Any, code: str) -> None:  # rubbish
    compiled = compile_policy("role clerk { permit pay where not run has secret }\nlabel web.fetch yields secret")
    assert decide(compiled, call(), clerk(labels=labels)).code == code
    if code == "policy.error":
        with pytest.raises(TypeError, match=r"^labels are a set of texts$"):
            clerk(labels=labels).run_labels()


def test_the_labels_of_a_run_are_those_of_what_it_read() -> None:
    compiled = compile_policy("role clerk { permit pay where not run has secret }\nlabel web.fetch yields secret")
    sources = Sources()
    assert decide(compiled, call(), clerk(labels=None, sources=sources)).allowed
    sources.tool("web.fetch", "x", ["secret"])
    assert not decide(compiled, call(), clerk(labels=None, sources=sources)).allowed


@pytest.mark.parametrize("roles", [[1], {"a": 1}, 7])
def test_a_principal_that_is_neither_a_name_nor_names_is_a_deny(roles: object) -> None:
    compiled = compile_policy('role clerk { permit pay where not principal.roles any in ["a"] }')
    facts = clerk()
    verdict = decide(compiled, call(), replace(facts, principal={**facts.principal, "roles": roles}))
    assert (verdict.verdict, verdict.code) == ("deny", "policy.error")


def test_a_principals_names_are_recorded_as_a_list() -> None:
    compiled = compile_policy('role clerk { permit pay where principal.roles any in ["a"] }')
    facts = clerk()
    verdict = decide(compiled, call(), replace(facts, principal={**facts.principal, "roles": ("a", "b")}))
    assert verdict.allowed
    assert verdict.facts_read["principal"] == {"role": "clerk", "roles": ["a", "b"]}


def test_each_leaf_is_one_step() -> None:
    context = Context("pay", True, {}, clerk())
    context.leaves({"a": [1, 2], "b": 3}, ("x",))
    assert context.steps == 3


def test_whose_limit_it_is_has_to_be_a_name() -> None:
    compiled = policy(rule("permit"), rule("limit", name="l", limit=limit("count", 2, "calls")))
    facts = clerk()
    verdict = decide(compiled, call(), replace(facts, principal={**facts.principal, "run": ["r1"]}))
    assert (verdict.allowed, verdict.legs[0].key, verdict.legs[0].scope) == (True, "l run run=", None)


def test_a_state_that_nobody_knows_is_named() -> None:
    compiled = policy(rule("permit"), rule("gate", name="g", gate=gate(FINANCE)))
    odd = approval(compiled, BOB, state="waved")
    assert decide(compiled, PAY, clerk(approvals=(odd,), now_ms=NOW)).message == "'waved' is no state of an approval"


def test_too_few_of_those_it_escalates_to_leave_a_gate_waiting() -> None:
    to = {"count": 2, "kind": "role", "name": "cfo"}
    compiled = policy(rule("permit"), rule("gate", name="g", gate=gate(FINANCE, after_ms=1, to=to)))
    zoe = Consent("zoe", "user", ("cfo",), 9_900)
    verdict = decide(compiled, PAY, clerk(approvals=(approval(compiled, zoe),), now_ms=NOW))
    assert verdict.verdict == "needs_approval"


def test_the_time_that_a_rule_lacks_is_named() -> None:
    context = Context("pay", True, {}, clerk(now_ms=None))
    context.now_ms()
    assert context.missing == ["now_ms"]


def test_facts_are_read_in_full() -> None:
    consent = {"by": "bob", "kind": "user", "roles": ["finance"], "at_ms": 2}
    asked = {
        "approval_id": "a",
        "rule_id": "g",
        "binding": "00",
        "state": "pending",
        "asked_at_ms": 1,
        "expires_at_ms": 9,
    }
    told = {"action": "pay", "args": {}, "event": "failed", "at_ms": 1}
    facts = facts_from_json(
        {
            "approvals": [{**asked, "consents": [consent, {"by": "x", "kind": "agent", "at_ms": 3}]}, asked],
            "released": [{"label": "pii", "by": "eve", "roles": ["dpo"]}, {"label": "pii", "by": "eve"}],
            "history": [told],
        }
    )
    bob, other = Consent("bob", "user", ("finance",), 2), Consent("x", "agent", (), 3)
    assert facts.approvals == (
        Approval("a", "g", "00", "pending", 1, 9, (bob, other)),
        Approval("a", "g", "00", "pending", 1, 9),
    )
    assert [each.roles for each in facts.released] == [("dpo",), ()]
    assert facts.history == (told,)
    assert isinstance(Event.of(told), Event)
    given = facts.to_json()
    assert facts_from_json(given).approvals == facts.approvals


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (7, "facts is an object"),
        ({1: 2}, "facts is an object"),
        ({"a": 1, "b": 2}, "facts have no a, b"),
        ({"now_ms": "1"}, "now_ms is a whole number"),
        ({"labels": "secret"}, "'secret' is no list of names"),
        ({"labels": [1]}, "[1] is no list of names"),
        ({"history": 7}, "history is a list"),
        ({"history": {1: 2}}, "history is an object"),
        ({"history": {"w": []}}, "history.w is a number"),
        ({"approvals": 7}, "approvals is a list"),
        ({"approvals": [7]}, "an approval is an object"),
        ({"approvals": [{"consents": 7}]}, "consents is a list"),
        ({"approvals": [{"consents": [7]}]}, "a consent is an object"),
        ({"approvals": [{"consents": [{"roles": "finance"}]}]}, "'finance' is no list of names"),
    ],
)  # fmt: skip
def test_facts_of_another_form_say_where(value: object, sentence: str) -> None:
    with pytest.raises(FactsMalformed) as raised:
        facts_from_json(value)
    assert str(raised.value) == sentence


def test_a_member_of_another_form_says_what_python_says() -> None:
    with pytest.raises(FactsMalformed, match=r"^facts have a member of another form: .+hour"):
        facts_from_json({"zones": {"UTC": {"date": "x"}}})


def test_a_condition_of_another_form_is_named() -> None:
    with pytest.raises(ValueError, match=r"^'==' has operands of another form: "):
        compile_expression(["==", ["int", 1]])
