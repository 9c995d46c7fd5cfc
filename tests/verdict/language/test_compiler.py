"""What each form of the language compiles to."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast_verdict.language.compiler import compile_policy
from holdfast_verdict.policy import Policy

from .sources import SAMPLE


def test_the_sample_compiles_as_it_stands() -> None:
    policy = compile_policy(SAMPLE)
    assert [(rule.id, rule.effect, policy.lines[rule.id]) for rule in policy.rules] == [
        ("billing-agent/llm.call-1", "permit", 3),
        ("billing-agent/invoice.read-1", "permit", 4),
        ("billing-agent/email.send-1", "permit", 5),
        ("billing-agent/http.request-1", "permit", 6),
        ("billing-agent/payment.refund-1", "permit", 7),
        ("billing-agent/payment.refund-2", "limit", 8),
        ("billing-agent/llm.call-2", "limit", 9),
        ("billing-agent/*-1", "limit", 10),
        ("notify-first", "forbid", 16),
        ("no-exfil", "forbid", 18),
        ("no-injected-target", "forbid", 20),
        ("big-refund", "gate", 21),
    ]
    assert Policy.from_json(policy.to_json()) == policy


def rule(text: str, role: str = "") -> dict[str, Any]:
    """Returns the one rule of a policy."""
    policy = compile_policy(f"role {role} {{ {text} }}" if role else text)
    (found,) = policy.rules
    return found.to_json()


def when(condition: str) -> Any:
    """Returns what a condition compiles to."""
    return rule(f"forbid pay where {condition}")["when"]


ARG = ["arg", "x"]
A, B, C = (["==", ["arg", name], ["int", 1]] for name in "abc")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("args.a == 1 and args.b == 1 and args.c == 1", ["and", A, B, C]),
        ("args.a == 1 and (args.b == 1 and args.c == 1)", ["and", A, B, C]),
        ("args.a == 1 or (args.b == 1 and args.c == 1)", ["or", A, ["and", B, C]]),
        ("not (args.a == 1 or args.b == 1)", ["not", ["or", A, B]]),
        ("(args.a == 1)", A),
        ("args.x != 20_000", ["!=", ARG, ["int", 20000]]),
        ("args.x == 12.50", ["==", ARG, ["number", "12.5"]]),
        ("args.x == -3.0", ["==", ARG, ["int", -3]]),
        ("args.x == true", ["==", ARG, ["bool", True]]),
        (r'args.x == "a\"b\\c\n"', ["==", ARG, ["text", 'a"b\\c\n']]),
        ('args["odd name"]["a.b"] == 1', ["==", ["arg", "odd name", "a.b"], ["int", 1]]),
        ("args.x < usd(0.01)", ["<", ["as_money", ARG, "usd"], ["money", 10_000_000]]),
        ("estimate.spend > usd(1)", [">", ["estimate", "nano_usd"], ["money", 1_000_000_000]]),
        ("estimate.tokens > 5", [">", ["estimate", "tokens"], ["int", 5]]),
        ("args.x between 1 and 5", ["and", [">=", ARG, ["int", 1]], ["<=", ARG, ["int", 5]]]),
        ('args.x in ["a", "b-*", exactly("c*")]', ["in", ARG, [["is", ["text", "a"]], ["glob", "b-*"], ["is", ["text", "c*"]]]]),
        ("args.x in [1..5, 7]", ["in", ARG, [["range", ["int", 1], ["int", 5]], ["is", ["int", 7]]]]),
        ("args.x in [usd(1)..usd(2)]", ["in", ["as_money", ARG, "usd"], [["range", ["money", 10**9], ["money", 2 * 10**9]]]]),
        ('args.x not in host("api.Acme.com", "*.acme.com")', ["not", ["in", ARG, [["host", "api.acme.com"], ["host", "*.acme.com"]]]]),
        ('args.x any in [path("/srv/data/"), principal.user]', ["any_in",
         ARG, [["path", "/srv/data"], ["is", ["principal", "user"]]]]),
        ('args.x none in cidr("10.0.0.0/8")', ["none_in", ARG, [["cidr", "10.0.0.0/8"]]]),
        ('args.x all in domain("acme.com")', ["all_in", ARG, [["domain", "acme.com"]]]),
        ('args.x starts with "a"', ["starts", ARG, ["text", "a"]]),
        ("args.x ends with principal.user", ["ends", ARG, ["principal", "user"]]),
        ('principal.roles contains "admin"', ["contains", ["principal", "roles"], ["text", "admin"]]),
        ("args.x is present", ["present", ARG]),
        ("args.x is absent", ["not", ["present", ARG]]),
        ("args.x is empty", ["==", ["size", ARG], ["int", 0]]),
        ("args.x.bytes <= 5", ["<=", ["bytes", ARG], ["int", 5]]),
        ("chars(args.x) <= 5", ["<=", ["chars", ARG], ["int", 5]]),
        ("size(args.x) <= 5", ["<=", ["size", ARG], ["int", 5]]),
        ('lower(args.x) == "a"', ["==", ["lower", ARG], ["text", "a"]]),
        ("host(args.x) == host(args.y)", ["==", ["host", ARG], ["host", ["arg", "y"]]]),
        ("every args.x as i: (i.price < usd(5))",
         ["every", ARG, "i", ["<", ["as_money", ["var", "i", "price"], "usd"], ["money", 5 * 10**9]]]),
        ('some args.x as i: (i in ["a"])', ["some", ARG, "i", ["in", ["var", "i"], [["is", ["text", "a"]]]]]),
        ("args.x from untrusted, secret", ["or", ["from", ARG, "untrusted"], ["from", ARG, "secret"]]),
        ("not args.x from user", ["not", ["from", ARG, "user"]]),
        ('args.x from tool("web.*")', ["from", ARG, ["tool", "web.*"]]),
        ('not args.x only from user, tool("crm.find")', ["not", ["only_from", ARG, ["user", ["tool", "crm.find"]]]]),
        ("run has secret", ["run_has", "secret"]),
        ('run has secret and not secret released by role("dpo")', ["and",
         ["run_has", "secret"], ["not", ["released", "secret", "dpo"]]]),
        ('date("UTC") <= "2026-12-31"', ["<=", ["local", "UTC", "date"], ["text", "2026-12-31"]]),
        (
            'not time in "Europe/Berlin" between 09:00 and 18:30 on mon..fri, sun',
            ["not", ["and", [">=", ["local", "Europe/Berlin", "minute_of_day"], ["int", 540]],
                     ["<", ["local", "Europe/Berlin", "minute_of_day"], ["int", 1110]],
                     ["in", ["local", "Europe/Berlin", "weekday"], [["range", ["int", 1], ["int", 5]], ["is", ["int", 7]]]]]],
        ),
    ],
)  # fmt: skip
def test_conditions(text: str, expected: Any) -> None:
    assert when(text) == expected


def test_unless_is_not() -> None:
    assert rule("forbid pay when args.a == 1 unless args.b == 1 or args.c == 1")["when"] == [
        "and",
        A,
        ["not", ["or", B, C]],
    ]
    assert rule("forbid pay unless args.a == 1")["when"] == ["not", A]
    assert rule("permit pay where args.a == 1 unless args.b == 1", "r")["when"] == ["and", A, ["not", B]]


def test_names_and_reasons() -> None:
    found = rule('forbid pay, refund, bank.* as no-money because "We do not pay."')
    assert (found["id"], found["message"], found["actions"]) == (
        "no-money",
        "We do not pay.",
        ["pay", "refund", "bank.*"],
    )
    assert rule('permit "a/b:c" where args.a == 1', "r")["id"] == "r/a/b:c-1"


def test_ids_count_by_role_and_first_action() -> None:
    policy = compile_policy("role r { permit a permit b permit a, b } forbid a role s { forbid a }")
    assert [rule.id for rule in policy.rules] == ["r/a-1", "r/b-1", "r/a-2", "*/a-1", "s/a-1"]


def test_roles_extend_with_all_that_these_extend() -> None:
    policy = compile_policy("role a extends b, c {} role b extends d {} role c extends d {} role d {}")
    assert policy.roles == {"a": ("b", "d", "c"), "b": ("d",), "c": ("d",), "d": ()}


def test_sets() -> None:
    text = """
    role r { permit mail where args.to all in domain(ours) and args.cc all in friends }
    set friends = ["bob@example.org", domain(ours), more]
    set more = ["eve-*"]
    set ours = ["acme.com", "acme.org"]
    """
    (found,) = compile_policy(text).rules
    domains = [["domain", "acme.com"], ["domain", "acme.org"]]
    friends = [["is", ["text", "bob@example.org"]], *domains, ["glob", "eve-*"]]
    assert found.to_json()["when"] == ["and", ["all_in", ["arg", "to"], domains], ["all_in", ["arg", "cc"], friends]]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("forbid pay", "policy.forbidden"),
        ("forbid pay when args.a == 1", "policy.forbidden"),
        ("invariant i: forbid pay when args.a == 1", "policy.invariant"),
        ("invariant i: forbid pay when run has secret", "policy.label"),
        ("forbid pay when args.a == 1 and args.b from secret", "policy.provenance"),
        ("forbid pay after web.fetch", "policy.invariant"),
        ("at most 3 pay", "policy.invariant"),
    ],
)
def test_codes(text: str, code: str) -> None:
    assert rule(text)["code"] == code


WATCH = {"id": "w1", "actions": ["b"], "where": ["true"], "event": "requested", "keep": "last", "of": None, "window_ms": None,
         "scope": "run", "same": [], "doubt": True}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "condition", "watch"),
    [
        ("forbid a after b", ["happened", "w1"], {}),
        ("forbid a when args.a == 1 after b succeeded within 30m per tenant", ["and", A, ["happened", "w1"]],
         {"event": "succeeded", "window_ms": 1_800_000, "scope": "tenant"}),
        ("invariant i: a requires b", ["not", ["happened", "w1"]], {"event": "succeeded", "doubt": False}),
        ("invariant i: a where args.a == 1 unless args.b == 1 requires b where args.c == 1 with same args.x, args.y == its args.z",
         ["and", A, ["not", B], ["not", ["happened", "w1"]]],
         {"event": "succeeded", "doubt": False, "where": C, "same": [[ARG, ARG], [["arg", "z"], ["arg", "y"]]]}),
        ("at most 3 b within 1h per user",
         ["not", ["count<=", "w1", 3]], {"keep": "count", "window_ms": 3_600_000, "scope": "user"}),
        ("invariant i: at most 0 b where args.a == 1", ["and", A, ["not", ["count<=", "w1", 0]]], {"keep": "count", "where": A}),
        ("sum(args.x) of b <= usd(20) within 1d per tenant with same args.y",
         ["not", ["sum<=", "w1", ["as_money", ARG, "usd"], 20 * 10**9]],
         {"keep": "sum", "of": ["as_money", ARG, "usd"], "window_ms": 86_400_000, "scope": "tenant",
          "same": [[["arg", "y"], ["arg", "y"]]]}),
        ("sum(args.x) of b <= 20", ["not", ["sum<=", "w1", ARG, 20]], {"keep": "sum", "of": ARG}),
    ],
)  # fmt: skip
def test_history(text: str, condition: Any, watch: dict[str, Any]) -> None:
    policy = compile_policy(text)
    assert policy.rules[0].to_json()["when"] == condition
    assert [each.to_json() for each in policy.watches] == [{**WATCH, **watch}]


def test_the_same_watch_is_kept_once() -> None:
    policy = compile_policy("forbid a after b forbid c after b forbid c after b within 1h")
    assert [watch.window_ms for watch in policy.watches] == [None, 3_600_000]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pay count <= 3 per run", {"measure": "count", "ceiling": 3, "unit": "calls", "window": "run", "per": "run"}),
        ("pay where args.a == 1 count <= 3 per day per user",
         {"measure": "count", "ceiling": 3, "unit": "calls", "window": "day", "per": "user"}),
        ("spend <= usd(5) per month per project",
         {"measure": "spend", "ceiling": 5 * 10**9, "unit": "nano_usd", "window": "month", "per": "project"}),
        ("spend of llm.call <= usd(5) in total per agent",
         {"measure": "spend", "ceiling": 5 * 10**9, "unit": "nano_usd", "window": "total", "per": "agent"}),
        ("tokens <= 100_000 per hour per role",
         {"measure": "tokens", "ceiling": 100_000, "unit": "tokens", "window": "hour", "per": "role"}),
        ("pay sum(args.x) <= usd(2) per 24h per tenant",
         {"measure": "sum", "of": ["as_money", ARG, "usd"], "ceiling": 2 * 10**9, "unit": "nano_usd",
          "window": {"rolling_ms": 86_400_000},
          "per": "tenant"}),
        ("pay sum(args.x) <= 7 per run",
         {"measure": "sum", "of": ARG, "ceiling": 7, "unit": "units", "window": "run", "per": "run"}),
    ],
)  # fmt: skip
def test_limits(text: str, expected: dict[str, Any]) -> None:
    assert rule(f"limit {text}", "r")["limit"] == {"of": None, **expected}


def test_gates() -> None:
    found = rule(
        'gate g: pay where args.a == 1 needs 2 of role("boss"), 1 of signer("bank"), expires 3d, '
        'escalate to 2 of role("chief") after 1h'
    )
    assert found["gate"] == {
        "needs": [{"count": 2, "kind": "role", "name": "boss"}, {"count": 1, "kind": "signer", "name": "bank"}],
        "expires_ms": 3 * 86_400_000,
        "not_requester": True,
        "escalate": {"after_ms": 3_600_000, "to": {"count": 2, "kind": "role", "name": "chief"}},
    }
    assert rule('gate g: pay needs 1 of role("boss")')["gate"]["expires_ms"] == 86_400_000
    assert rule('gate g: pay needs 1 of agent("risk")', "r")["role"] == "r"


def test_declared_actions() -> None:
    text = """
    action refund { args.fee is usd external args.amount is usd cents  yields receipt  field body.note yields untrusted }
    action pay { internal args.fee is nano_usd }
    role r { permit refund where args.amount <= usd(5) permit pay where args.fee < usd(1) }
    """
    policy = compile_policy(text)
    assert policy.external == {"refund": True, "pay": False}
    assert [label.to_json() for label in policy.labels] == [
        {"actions": ["refund"], "field": "", "labels": ["receipt"], "where": ["true"]},
        {"actions": ["refund"], "field": "body.note", "labels": ["untrusted"], "where": ["true"]},
    ]
    units = [rule.to_json()["when"][1] for rule in policy.rules]  # type: ignore[index]  # of `<=`
    assert units == [["as_money", ["arg", "amount"], "usd_cents"], ["as_money", ["arg", "fee"], "nano_usd"]]


def test_labels() -> None:
    (label,) = compile_policy("label web.*, mail.read field body.text where args.a == 1 yields untrusted, mine").labels
    assert label.to_json() == {
        "actions": ["web.*", "mail.read"],
        "field": "body.text",
        "labels": ["untrusted", "mine"],
        "where": A,
    }


def test_an_output_may_be_said_to_be_trusted() -> None:
    (label,) = compile_policy("label clock yields nothing").labels
    assert label.labels == ()
    assert Policy.from_json(compile_policy("label clock yields nothing").to_json()).labels == (label,)


def test_nothing_is_a_policy_that_permits_nothing() -> None:
    assert compile_policy("# nothing\n").rules == ()
