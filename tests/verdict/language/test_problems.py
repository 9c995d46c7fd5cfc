"""What is said of a wrong policy: all of it at once, where it is, and how to mend it."""

from __future__ import annotations

import pytest

from holdfast_verdict import Catalogue, PolicyRefused, Problem, compile_policy
from holdfast_verdict.language.source import MAX_PROBLEMS

CATALOGUE = Catalogue.of(
    {
        "send_email": {
            "parameters": {
                "type": "object",
                "properties": {
                    "to": {"type": "array", "items": {"type": "string"}},
                    "subject": {"type": "string"},
                    "cc": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
                },
            }
        },
        "pay": {
            "parameters": {
                "type": "object",
                "properties": {
                    "amount": {"type": "number", "x-unit": "usd_cents"},
                    "fee": {"type": "number"},
                    "currency": {"enum": ["EUR", "USD"]},
                    "express": {"type": "boolean"},
                    "date": {"type": "string", "format": "date"},
                    "to": {"$ref": "#/$defs/account"},
                    "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
                },
                "$defs": {
                    "account": {"type": "object", "properties": {"iban": {"type": "string"}}},
                    "item": {"type": "object", "properties": {"price": {"type": "number"}}},
                },
            },
            "external": False,
        },
        "crm.find": {
            "parameters": {"type": "object", "properties": {"name": {"type": "string"}}},
            "external": False,
            "yields": ["secret"],
        },
    }
)


def problems(text: str, catalogue: Catalogue | None = None) -> list[Problem]:
    with pytest.raises(PolicyRefused) as refused:
        compile_policy(text, catalogue, file="a.policy")
    return list(refused.value.problems)


def test_a_problem_shows_its_line_and_marks_its_place() -> None:
    text = "role clerk {\n  permit pay where args.amount = usd(5)\n}\n# the end"
    assert str(problems(text)[0]) == (
        "a.policy:2:32: `=` cannot stand after `args.amount`.\n"
        "    2 |   permit pay where args.amount = usd(5)\n"
        "      |                                ^\n"
        "      expected `==`, `!=`, `>=`, `<=`, `<`, `>`, `[`, `all`, `any`, `between`, `contains`, `ends`, `from`, `in`, `is`, "
        "`none`, `not`, `only` or `starts`\n"
        "      Write `==` to compare."
    )
    assert problems(text)[0].to_json()["line"] == 2


def test_all_problems_are_reported_at_once() -> None:
    text = """role clerk {
  permit pay wher args.a == 1
  permit mail where args.a == 30mins and args.b == 2
  limit pay count < 3 per run
  forbid x when args.a == 1 and args.b == 2 or args.c == 3
}
limt pay
gate g: pay needs 1 of boss
set s = ["a" "b"]
permit a where args.x == "open
"""
    assert [(problem.line, problem.column) for problem in problems(text)] == [
        (2, 14), (3, 31), (4, 19), (5, 45), (7, 1), (8, 28), (9, 14), (10, 26),
    ]  # fmt: skip


def test_problems_of_meaning_are_reported_at_once_too() -> None:
    text = """role clerk extends clark {
  permit pay where args.amuont <= usd(5)
  permit send_mail
}
invariant i: forbid pay when run has sekret
forbid crm.find when args.name in frends
set friends = ["bob"]
"""
    found = problems(text, CATALOGUE)
    assert [(problem.line, problem.column, problem.remedy) for problem in found] == [
        (1, 20, "Did you mean `clerk`?"),
        (2, 20, "Did you mean `args.amount`?"),
        (3, 10, "Did you mean `send_email`?"),
        (5, 38, "Did you mean `secret`?"),
        (6, 35, "Did you mean `friends`?"),
    ]


def test_there_is_an_end_to_them() -> None:
    assert len(problems("permit where\n" * 5_000)) == MAX_PROBLEMS
    assert len(problems("forbid x when args.a == usd(x)\n" * 500)) == MAX_PROBLEMS


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("permit a where args.x == 1 and args.y == 2 or args.z == 3", "two ways", "parentheses"),
        ("forbid a where not not args.x == 1", "cannot stand after `not`", ""),
        ("role r { permit run }", "cannot stand after", '"run" in quotes'),
        ("role run { }", "cannot stand after", "choose another name"),
        ("role r { permit a where args.x == 'a' }", "double quotes", ""),
        (r'forbid a where args.x == "\q"', "unknown escape", ""),
        ("forbid a where args.x == 1e5", "no number", "20_000"),
        ("forbid a where args.x == 007", "no number", ""),
        ("forbid a where args.x == 1_0", "no number", ""),
        ("role r { permit a", "not closed", "`}`"),
        ("role r { role s { } }", "inside of a role", ""),
        ("}", "closes nothing", "Take it out"),
        ("forbid a where", "ends too early", ""),
        ("forbid a where 1 < args.x < 3", "cannot stand after", ""),
        ("forbid a ; forbid b", "no part of the language", ""),
        ("invariant : a requires b", "cannot stand after", ""),
        ("permt a", "begins no statement", "Did you mean `permit`?"),
        ("\ufeff\ufeffforbid a", "cannot be seen", ""),
    ],
)
def test_syntax(text: str, message: str, remedy: str) -> None:
    found = problems(text)
    assert message in found[0].message or message in str(found[0])
    assert remedy in found[0].remedy
    assert {problem.code for problem in found} <= {"policy.syntax", "policy.source"}


@pytest.mark.parametrize(
    ("letter", "place"),
    [
        *((letter, place)
          for letter in "\x00\x07\x1b\x7f\x85\r\x0b\x0c\xad\u200b\u200e\u202e\u2066\u2069\u061c\u2028\ufeff\u3164\ue000\ud800"
          for place in ("name", "comment", "text")),
        *((letter, "name") for letter in "\xa0ае\u0430і\uff21\u2010\u201c＝é\u2003"),
    ],
)  # fmt: skip
def test_what_cannot_be_seen_or_looks_like_something_else_is_refused(letter: str, place: str) -> None:
    text = {"name": f"forbid pa{letter}y", "comment": f"# a{letter}b", "text": f'forbid a when args.x == "a{letter}b"'}[
        place
    ]
    found = problems(text)
    assert "U+" in found[0].message
    assert letter not in str(found[0]).replace(repr(letter), "") or letter in "\xa0ае\u0430і\uff21\u2010\u201c＝é\u2003"


def test_letters_of_all_languages_stand_in_comments_and_text() -> None:
    compile_policy('# für Ärzte 医者\nforbid a when args.x == "Ärzte 医者 🩺"')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("permit a", "given to a role"),
        ("role r { label a yields b }", "same for all roles"),
        ("role a { } role a { }", "already"),
        ("role a extends a { }", "extends `a` itself"),
        ("role a extends b { } role b extends a { }", "itself"),
        ("role a extends b, b { } role b { }", "twice"),
        ("forbid a as x forbid b as x", "already"),
        ("forbid a as x invariant x: forbid b", "already"),
        ("set a = [1] set a = [2]", "already"),
        ("set a = [b] set b = [a]", "holds itself"),
        ("set args = [1]", "something else"),
        ('set a = [1, "x", 1]', "twice"),
        ("set a = []", "nothing"),
        ("forbid a, b, a", "twice"),
        ('forbid "crm.*"', "no action"),
        ("forbid a when args.x in b", "no set"),
        ("forbid a when args.x in [b]", "no set"),
        ("set b = [1] forbid a when args.x == b", "is a set"),
        ("forbid a when x == 1", "Nothing here is called `x`"),
        ('forbid a when model == "x"', "llm.call"),
        ("forbid a when args == 1", "alone is no value"),
        ('forbid a when principal.name == "x"', "no such field"),
        ("forbid a when args.x.0 == 1", "no names"),
        ("forbid a when 1 == 2", "two constants"),
        ('forbid a when "x" in ["x"]', "no constant"),
        ('forbid a when args.x == "a*"', "no pattern"),
        ('forbid a when args.x in ["a*b*"]', "one `*`"),
        ('forbid a when args.x == usd("5")', "number of dollars"),
        ("forbid a when args.x == usd(0.0000000001)", "nano-dollars"),
        ("forbid a when args.x == usd(9007200)", "nano-dollars"),
        ("forbid a when args.x == 9007199254740992", "2^53"),
        ("forbid a when args.x in [usd(1), 2]", "in one list"),
        ("forbid a when args.x in [5..1]", "holds nothing"),
        ("forbid a when args.x in [1..usd(5)]", "range"),
        ("forbid a when estimate.spend > 5", "without a unit"),
        ("action a { args.x is usd cents } forbid a when args.x > 5", "without a unit"),
        ("action a { args.x is usd cents } forbid a, b when args.x > usd(5)", "different units"),
        ("action a { args.x is usd cents } action b { args.x is usd } forbid a, b when args.x > usd(5)", "different units"),
        ("action a { args.x is usd args.x is usd }", "already"),
        ("action a { args.x is eur }", "no unit"),
        ("action a { external internal }", "already"),
        ("action a { extrenal }", "says nothing"),
        ("action a { x is usd }", "stands an argument"),
        ("limit a sum(args.x) <= usd(5) per day", "whose total"),
        ("limit a count <= 5 per tenant", "over what time"),
        ("limit a count <= 5 per day per hour per tenant", "one window and one scope"),
        ("limit a count <= 5 per run per tenant", "one window and one scope"),
        ("limit a count <= 5 per week per tenant", "says nothing"),
        ("limit a count <= 1.5 per run", "whole number"),
        ("limit spend <= 5 per run", "Spend is money"),
        ("limit tokens <= usd(5) per run", "whole number"),
        ("limit spent <= usd(5) per run", "`spend` and `tokens`"),
        ("action a { args.x is usd } limit a sum(args.x) <= 5 per run", "no unit"),
        ("limit a sum(args.x) <= -5 per run", "0 at least"),
        ("limit a sum(5) <= 5 per run", "number among the arguments"),
        ("at most 3 a within 0s", "more than nothing"),
        ("at most 3 a within 400d", "at most 366d"),
        ("at most 3 a within 1h within 2h", "already"),
        ("at most 3 a per week", "names no scope"),
        ("at most 3 a where args.x from untrusted", "not sources or labels"),
        ("at most 3 a with same args.x, args.x", "already"),
        ('at most 3 a with same "x"', "is an argument"),
        ("invariant i: a requires b requested", "a request proves nothing"),
        ("gate g: a needs expires 3h", "needs nobody"),
        ('gate g: a needs 0 of role("x")', "from 1 to"),
        ('gate g: a needs 1 of human("x")', "cannot consent"),
        ('gate g: a needs 1 of role("x"), 2 of role("x")', "twice"),
        ('gate g: a needs 1 of role("x"), expires 1h, escalate to role("y") after 2h', "expired before"),
        ('gate g: a needs 1 of role("x y")', "no name"),
        ("forbid a when run has user", "an origin, not a label"),
        ("label a yields user", "an origin, not a label"),
        ("label a yields nothing, secret", "stands alone"),
        ('forbid a when run has secret unless released by agent("x")', "people of a role"),
        ('forbid a unless released by role("x")', "not clear which label"),
        ("forbid a when principal.user from untrusted", "Only arguments"),
        ("forbid a when args.x from user, untrusted", "read as what they are not"),
        ('role r { permit a where args.x from tool("b") }', "any part"),
        ("forbid a unless args.x from untrusted", "any part"),
        ("forbid a when not args.x from model", "any part"),
        ("forbid a when args.x only from untrusted", "is a label"),
        ("forbid a when args.x from tool(b)", "no origin"),
        ('forbid a when time in "Berlin" on mon', "no time zone"),
        ('forbid a when time in "Europe/Berlin"', "says no time"),
        ('forbid a when time in "UTC" between 22:00 and 06:00', "ends before it begins"),
        ('forbid a when time in "UTC" between 09:00 and 25:00', "no such time"),
        ('forbid a when time in "UTC" on mo..fri', "no day"),
        ('forbid a when time in "UTC" on fri..mon', "begins on Monday"),
        ('forbid a when args.x < "abc"', "smaller"),
        ("forbid a when args.x < true", "smaller"),
        ("forbid a when every args.x as args: (args.y == 1)", "something else"),
        ("forbid a when every args.x as i: (every i.y as i: (i == 1))", "something else"),
        ("forbid a when principal.user is present", "always present"),
        ("forbid a when args.x is there", "asks nothing"),
        ('forbid a when args.x in domain("acme..com")', "no domain"),
        ('forbid a when args.x in host("https://acme.com")', "no host"),
        ('forbid a when args.x in host("acme.com:80")', "no host"),
        ('forbid a when args.x in host("аcme.com")', "no host"),
        ('forbid a when args.x in path("data/../etc")', "no folder"),
        ('forbid a when args.x in cidr("10.0.0.1/8")', "no range"),
        ('forbid a when args.x in domian("acme.com")', "nothing that a value can be in"),
        ('forbid a when args.x == domain("acme.com")', "same whatever"),
        ("forbid a when args.x == sha(args.y)", "no value `sha"),
        ('role r { permit a to hots ["x.com"] }', "cannot stand here"),
    ],
)  # fmt: skip
def test_meaning(text: str, message: str) -> None:
    found = problems(text)
    assert any(message in problem.message for problem in found), str(found)
    assert all(problem.line and problem.shown for problem in found)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ('pay when args.amount == "5"', "This is text"),
        ("pay when args.amount == 500", "without a unit"),
        ("pay when args.fee == true", "compares"),
        ('pay when args.currency == "EURO"', "It is never"),
        ('pay when args.currency in ["EUR", "GBP"]', "It is never"),
        ('pay when args.express == "true"', "compares"),
        ('pay when args.to == "x"', "compares"),
        ('pay when args.to.ibn == "x"', "no argument `to.ibn`"),
        ("pay when args.items.price > usd(5)", "is a list"),
        ("pay when every args.items as i: (i.prise > usd(5))", "has no `prise`"),
        ("pay when every args.to as i: (i == 1)", "goes over a list"),
        ('send_email when args.to in ["x"]', "This is a list"),
        ('send_email when args.to == "x"', "compares"),
        ("send_email when args.to all in [1]", "This is a number"),
        ("send_email when args.to contains 5", "list is of text"),
        ('send_email when args.subject < "2026-01-01x"', "smaller"),
        ('* when args.subject == "x"', "has no argument `subject`"),
        ("external when args.amount > usd(5)", "no argument"),
        ("pay when run has tainted", "No action yields"),
        ("nothing.*", "No action matches"),
        ("sned_email", "There is no action"),
        ('pay when args.to.iban only from tool("crm.fnd")', "There is no action"),
    ],
)  # fmt: skip
def test_types(condition: str, message: str) -> None:
    found = problems(f"forbid {condition}", CATALOGUE)
    assert any(message in problem.message for problem in found), str(found)


@pytest.mark.parametrize(
    "text",
    [
        'forbid pay when args.amount > usd(5) and args.currency == "EUR" and not args.express == true',
        'forbid pay when args.date < "2026-12-31" and date("UTC") >= args.date',
        "forbid pay when some args.items as i: (i.price > usd(5))",
        "forbid pay when args.to.iban.bytes > 34 or args.to.iban only from user",
        'forbid send_email when args.to any in domain("evil.com") or args.cc is empty',
        'forbid * when args.subject is present and args.subject contains "x"',
        'forbid * unless args.subject is absent or args.subject contains "x"',
        "forbid external when args.subject from untrusted, secret",
        'role r { permit llm.call where model in ["claude-*"] permit http.request to hosts ["a.com"] methods [GET] }',
        'forbid http.request when args.method == "DELETE"',
        'action pay { external } forbid external when args.subject is present and args.subject == "x"',
    ],
)  # fmt: skip
def test_what_the_catalogue_has_is_no_problem(text: str) -> None:
    assert compile_policy(text, CATALOGUE)


def test_units_are_those_of_the_schema() -> None:
    (rule,) = compile_policy("forbid pay when args.amount > usd(5)", CATALOGUE).rules
    assert rule.when == (">", ("as_money", ("arg", "amount"), "usd_cents"), ("money", 5 * 10**9))
    found = problems("action pay { args.amount is usd } forbid pay", CATALOGUE)
    assert "The schema says `usd_cents`" in found[0].message
