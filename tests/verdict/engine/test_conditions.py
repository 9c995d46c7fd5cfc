"""Conditions in three values: what cannot be told is neither true nor false, and types that do not go together cannot be compared."""

from __future__ import annotations

from typing import Final

import pytest

from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.expressions import compile_expression
from holdfast_verdict.engine.facts import Facts, LocalTime, Release
from holdfast_verdict.engine.unknown import Truth
from holdfast_verdict.engine.values import Unrunnable

from .policies import CLEAN_MODEL, USER, WEB

ARGS: Final = {
    "n": 5,
    "half": {"$number": "12.5"},
    "text": "Hello",
    "flag": True,
    "nothing": None,
    "list": ["a", "b"],
    "empty": [],
    "to": ["bob@acme.com", "eve@evil.com"],
    "one": "bob@acme.com",
    "url": "https://api.stripe.com:443/v1?x=1",
    "path": "/srv/data/a.txt",
    "nested": {"deep": {"n": 1}},
    "items": [{"price": 1}, {"price": 7}],
    "mixed": [{"price": 1}, {"price": "x"}],
}
FACTS: Final = Facts(
    principal={"tenant": "acme", "role": "clerk", "roles": ["a", "b"]},
    now_ms=1,
    zones={"Europe/Berlin": LocalTime("2026-03-02", 10, 30, 1)},
    labels=frozenset({"secret"}),
    released=(Release("secret", "ann", ("dpo",)),),
    origins={
        "one": USER,
        "to[0]": USER,
        "to[1]": WEB,
        "list[0]": CLEAN_MODEL,
        "list[1]": USER,
        "items[0].price": USER,
        "items[1].price": WEB,
    },
)
N, TEXT, NO = ["arg", "n"], ["arg", "text"], ["arg", "missing"]


def ask(node: object) -> Truth:
    return compile_expression(node)(Context("pay", True, ARGS, FACTS))


CASES: Final[list[tuple[list[object], Truth]]] = [
    (["true"], True),
    (["false"], False),
    # Kleene
    (["and", ["true"], ["==", NO, ["int", 1]]], None),
    (["and", ["false"], ["==", NO, ["int", 1]]], False),
    (["and", ["==", NO, ["int", 1]], ["false"]], False),
    (["or", ["true"], ["==", NO, ["int", 1]]], True),
    (["or", ["==", NO, ["int", 1]], ["true"]], True),
    (["or", ["false"], ["==", NO, ["int", 1]]], None),
    (["not", ["==", NO, ["int", 1]]], None),
    (["or", ["false"], ["false"]], False),
    (["and", ["true"], ["true"]], True),
    (["not", ["true"]], False),
    # equality
    (["==", N, ["int", 5]], True),
    (["==", N, ["int", 6]], False),
    (["!=", N, ["int", 6]], True),
    (["!=", NO, ["int", 6]], None),
    (["==", N, ["text", "5"]], None),
    (["==", N, ["bool", True]], None),
    (["==", ["arg", "flag"], ["int", 1]], None),
    (["==", ["arg", "flag"], ["bool", True]], True),
    (["==", ["arg", "nothing"], ["null"]], True),
    (["==", N, ["null"]], False),
    (["==", ["arg", "nothing"], ["int", 0]], False),
    (["==", ["arg", "half"], ["number", "12.5"]], True),
    (["==", ["arg", "half"], ["int", 12]], False),
    (["==", ["arg", "list"], ["arg", "list"]], True),
    (["==", ["arg", "list"], ["arg", "to"]], False),
    (["==", ["arg", "list"], ["arg", "nested"]], None),
    (["==", ["arg", "nested", "deep", "n"], ["int", 1]], True),
    (["==", ["arg", "nested", "deep", "x"], ["int", 1]], None),
    (["==", ["arg", "text", "deep"], ["int", 1]], None),
    (["==", ["principal", "tenant"], ["text", "acme"]], True),
    (["==", ["principal", "user"], ["text", "acme"]], None),
    # order
    (["<=", N, ["int", 5]], True),
    (["<", N, ["int", 5]], False),
    ([">", N, ["int", 4]], True),
    ([">=", N, ["int", 6]], False),
    (["<", ["arg", "half"], ["int", 13]], True),
    (["<", N, ["text", "9"]], None),
    (["<", ["arg", "flag"], ["int", 9]], None),
    (["<", TEXT, ["text", "World"]], True),
    (["<=", ["as_money", N, "usd"], ["money", 5_000_000_000]], True),
    (["<=", ["as_money", N, "usd_cents"], ["money", 49_999_999]], False),
    (["==", ["as_money", N, "nano_usd"], ["money", 5]], True),
    (["<=", ["as_money", ["arg", "half"], "nano_usd"], ["money", 13]], None),
    (["<=", ["as_money", TEXT, "usd"], ["money", 13]], None),
    # lists
    (["in", N, [["is", ["int", 4]], ["range", ["int", 5], ["int", 9]]]], True),
    (["in", N, [["range", ["int", 6], ["int", 9]]]], False),
    (["in", TEXT, [["range", ["int", 6], ["int", 9]]]], None),
    (["in", TEXT, [["is", ["text", "Hello"]]]], True),
    (["in", TEXT, [["is", ["text", "hello"]]]], False),
    (["in", ["arg", "nothing"], [["is", ["text", "hello"]]]], False),
    (["in", N, [["is", ["text", "hello"]]]], None),
    (["in", N, [["is", ["text", "hello"]], ["is", ["int", 5]]]], True),
    (["in", ["arg", "list"], [["is", ["text", "a"]]]], None),
    (["in", TEXT, [["glob", "He*o"]]], True),
    (["in", TEXT, [["glob", "He*"]]], True),
    (["in", TEXT, [["glob", "He*x"]]], False),
    (["in", TEXT, [["glob", "Hello*llo"]]], False),
    (["all_in", ["arg", "to"], [["domain", "acme.com"]]], False),
    (["any_in", ["arg", "to"], [["domain", "acme.com"]]], True),
    (["none_in", ["arg", "to"], [["domain", "acme.com"]]], False),
    (["none_in", ["arg", "to"], [["domain", "other.com"]]], True),
    (["all_in", ["arg", "one"], [["domain", "acme.com"]]], True),
    (["all_in", ["arg", "empty"], [["domain", "acme.com"]]], None),
    (["any_in", ["arg", "empty"], [["domain", "acme.com"]]], False),
    (["none_in", ["arg", "empty"], [["domain", "acme.com"]]], True),
    (["all_in", NO, [["domain", "acme.com"]]], None),
    (["all_in", ["arg", "nested"], [["domain", "acme.com"]]], None),
    (["in", ["arg", "url"], [["host", "*.stripe.com"]]], True),
    (["in", ["arg", "url"], [["host", "stripe.com"]]], False),
    (["in", ["host", ["arg", "url"]], [["is", ["text", "api.stripe.com"]]]], True),
    (["in", ["arg", "path"], [["path", "/srv/data"]]], True),
    (["in", ["arg", "path"], [["path", "/srv/dat"]]], False),
    (["in", ["principal", "tenant"], [["is", ["text", "acme"]]]], True),
    (["contains", ["principal", "roles"], ["text", "b"]], True),
    # text
    (["starts", TEXT, ["text", "He"]], True),
    (["ends", TEXT, ["text", "He"]], False),
    (["contains", TEXT, ["text", "ell"]], True),
    (["contains", TEXT, ["int", 1]], None),
    (["contains", ["arg", "list"], ["text", "b"]], True),
    (["contains", ["arg", "list"], ["text", "c"]], False),
    (["contains", N, ["text", "c"]], None),
    (["starts", N, ["text", "5"]], None),
    (["==", ["bytes", TEXT], ["int", 5]], True),
    (["==", ["chars", TEXT], ["int", 5]], True),
    (["==", ["size", ["arg", "list"]], ["int", 2]], True),
    (["==", ["size", TEXT], ["int", 5]], None),
    (["==", ["bytes", N], ["int", 1]], None),
    (["==", ["lower", TEXT], ["text", "hello"]], True),
    (["==", ["domain", ["arg", "one"]], ["text", "acme.com"]], True),
    # presence
    (["present", N], True),
    (["present", NO], False),
    (["present", ["arg", "nothing"]], False),
    (["present", ["arg", "nothing", "below"]], False),
    (["present", ["arg", "text", "below"]], None),
    (["present", ["arg", "nested", "deep"]], True),
    (["present", ["principal", "tenant"]], True),
    (["present", ["principal", "user"]], None),
    # every, some
    (["every", ["arg", "items"], "x", ["<", ["var", "x", "price"], ["int", 8]]], True),
    (["every", ["arg", "items"], "x", ["<", ["var", "x", "price"], ["int", 7]]], False),
    (["some", ["arg", "items"], "x", ["<", ["var", "x", "price"], ["int", 7]]], True),
    (["every", ["arg", "mixed"], "x", ["<", ["var", "x", "price"], ["int", 7]]], None),
    (["every", ["arg", "empty"], "x", ["true"]], None),
    (["some", ["arg", "empty"], "x", ["true"]], False),
    (["every", TEXT, "x", ["true"]], None),
    (["some", ["arg", "items"], "x", ["present", ["var", "x", "price"]]], True),
    # origins
    (["from", ["arg", "one"], "user"], True),
    (["from", ["arg", "to"], "user"], False),
    (["from", ["arg", "to"], "untrusted"], True),
    (["from", ["arg", "to"], "tool"], True),
    (["from", ["arg", "to"], ["tool", "web.fetch"]], True),
    (["from", ["arg", "to"], ["tool", "web"]], False),
    (["from", ["arg", "list"], "model"], True),
    (["from", ["arg", "list"], "untrusted"], False),
    (["from", ["arg", "empty"], "user"], None),
    (["from", TEXT, "user"], None),
    (["from", NO, "user"], None),
    (["from", NO, "untrusted"], None),
    (["from", ["principal", "tenant"], "untrusted"], None),
    (["some", ["principal", "roles"], "x", ["from", ["var", "x"], "untrusted"]], None),
    (["from", ["lower", ["arg", "one"]], "user"], True),
    (["only_from", ["arg", "to"], ["user"]], False),
    (["only_from", ["arg", "to"], ["user", "tool"]], True),
    (["only_from", ["arg", "to"], ["user", ["tool", "web.*"]]], True),
    (["only_from", ["arg", "to"], ["user", ["tool", "crm.*"]]], False),
    (["only_from", ["arg", "empty"], ["user"]], None),
    (["only_from", TEXT, ["user"]], None),
    (["some", ["arg", "items"], "x", ["from", ["var", "x", "price"], "untrusted"]], True),
    (["every", ["arg", "items"], "x", ["from", ["var", "x"], "user"]], False),
    # the run
    (["run_has", "secret"], True),
    (["run_has", "other"], False),
    (["released", "secret", "dpo"], True),
    (["released", "secret", "boss"], False),
    (["released", "other", "dpo"], False),
    (["==", ["local", "Europe/Berlin", "hour"], ["int", 10]], True),
    (["==", ["local", "Europe/Berlin", "minute_of_day"], ["int", 630]], True),
    (["==", ["local", "Europe/Berlin", "weekday"], ["int", 1]], True),
    (["==", ["local", "Europe/Berlin", "date"], ["text", "2026-03-02"]], True),
    (["==", ["local", "Asia/Tokyo", "hour"], ["int", 10]], None),
    ([">", ["estimate", "nano_usd"], ["int", 10]], None),
    (["happened", "w"], None),
    (["count<=", "w", 3], None),
    (["sum<=", "w", N, 3], None),
]


@pytest.mark.parametrize(("node", "truth"), CASES, ids=[str(node) for node, _ in CASES])
def test_a_condition_has_three_answers(node: list[object], truth: Truth) -> None:
    assert ask(node) is truth


SPELT: Final = ("ad\u200bmin", "\uff41dmin", "admin ", " admin", "\tadmin\n", "ad\u00admin")


@pytest.mark.parametrize("text", SPELT)
@pytest.mark.parametrize(
    "node",
    [
        ["==", ["arg", "x"], ["text", "admin"]],
        ["==", ["text", "admin"], ["arg", "x"]],
        ["!=", ["arg", "x"], ["text", "admin"]],
        ["in", ["arg", "x"], [["is", ["text", "admin"]], ["is", ["text", "root"]]]],
        ["in", ["arg", "x"], [["is", ["text", "admin"]], ["is", ["int", 1]]]],
        ["in", ["arg", "x"], [["is", ["arg", "y"]]]],
        ["any_in", ["arg", "x"], [["is", ["text", "admin"]]]],
        ["contains", ["arg", "list"], ["text", "admin"]],
    ],
    ids=str,
)
def test_text_that_a_lenient_reader_takes_for_another_is_neither_it_nor_not(node: list[object], text: str) -> None:
    args = {"x": text, "y": "admin", "list": ["root", text]}
    assert compile_expression(node)(Context("pay", True, args, FACTS)) is None


def test_honest_text_that_is_not_plain_is_compared_as_it_stands() -> None:
    args = {"x": "M\u00fcller \U0001f600", "body": "Gr\u00fc\u00dfe\n"}
    context = Context("pay", True, args, FACTS)
    answers = [
        compile_expression(node)(context)
        for node in (
            ["==", ["arg", "x"], ["text", "M\u00fcller \U0001f600"]],
            ["==", ["arg", "x"], ["text", "Muller"]],
            ["in", ["arg", "x"], [["is", ["text", "admin"]]]],
            ["contains", ["arg", "body"], ["text", "Gr\u00fc\u00dfe"]],
            ["starts", ["arg", "body"], ["text", "Hallo"]],
            ["in", ["arg", "body"], [["glob", "Gr*"]]],
        )
    ]
    assert answers == [True, False, False, True, False, True]
    hidden = Context("pay", True, {"x": "BEGIN\u200b KEY"}, FACTS)
    assert compile_expression(["contains", ["arg", "x"], ["text", "BEGIN KEY"]])(hidden) is None
    assert compile_expression(["starts", ["arg", "x"], ["text", "BEGIN K"]])(hidden) is None
    assert compile_expression(["in", ["arg", "x"], [["glob", "BEGIN KEY*"]]])(hidden) is None


def _address(text: str) -> Truth:
    return compile_expression(["in", ["arg", "x"], [["domain", "acme.com"]]])(Context("a", True, {"x": text}, FACTS))


def _host(text: str, pattern: str = "acme.com") -> Truth:
    return compile_expression(["in", ["arg", "x"], [["host", pattern]]])(Context("a", True, {"x": text}, FACTS))


def _path(text: str) -> Truth:
    return compile_expression(["in", ["arg", "x"], [["path", "/srv/data"]]])(Context("a", True, {"x": text}, FACTS))


@pytest.mark.parametrize(
    "text",
    [
        "bob@evil.com@acme.com",
        "bob@evil.com,x@acme.com",
        "Bob <bob@acme.com>",
        "bob@acme.com\n",
        "bob@acme.com ",
        "acme.com",
        "@acme.com",
        "bob@ACME.com\u200b",
        "bob@a\u212ame.com",
        "",
        '"x@acme.com"@evil.com',
        "bob@acme.com.",
    ],
)
def test_an_address_that_could_be_read_in_two_ways_is_in_no_domain(text: str) -> None:
    assert _address(text) is not True


def test_plain_addresses_are_compared_without_case_of_the_domain() -> None:
    assert _address("Bob+x@ACME.com") is True
    assert _address("bob@notacme.com") is False
    assert _address("bob@mail.acme.com") is False


@pytest.mark.parametrize(
    "text",
    [
        "https://evil.com@acme.com/",
        "https://acme.com@evil.com/",
        "https://acme.com\\@evil.com/",
        "https://acme.com.evil.com/",
        "https://evil.com/acme.com",
        "https://evil.com#acme.com",
        "https:/acme.com/",
        "https://acme.com%2eevil.com/",
        "https://acme.com./",
        "//acme.com/",
        "https://acme.com:evil/",
        "https://acme.com /",
        " https://acme.com/",
        "https://acme.com/\n",
        "https://\u0430cme.com/",
        "javascript:acme.com",
    ],
)
def test_a_url_that_could_be_read_in_two_ways_has_no_host(text: str) -> None:
    assert _host(text) is not True
    assert _host(text, "*.acme.com") is not True


def test_plain_hosts_are_compared_without_case() -> None:
    assert _host("https://ACME.com/x?y#z") is True
    assert _host("acme.com") is True
    assert _host("https://www.acme.com", "*.acme.com") is True
    assert _host("https://acme.com", "*.acme.com") is False
    assert _host("https://[::1]:80/", "[::1]") is True


@pytest.mark.parametrize(
    "text", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "https://2130706433/", "127.0.0.1.", "%31"]
)
def test_an_address_in_disguise_is_not_told_from_any_other(text: str) -> None:
    assert _host(text, "127.0.0.1") is not False
    network = compile_expression(["in", ["arg", "x"], [["cidr", "127.0.0.0/8"]]])
    assert network(Context("a", True, {"x": text}, FACTS)) is not False


def test_networks_know_addresses_and_no_names() -> None:
    network = compile_expression(["in", ["arg", "x"], [["cidr", "10.0.0.0/8"]]])
    answers = {
        text: network(Context("a", True, {"x": text}, FACTS))
        for text in ("10.1.2.3", "http://10.1.2.3:80/", "[::ffff:10.1.2.3]", "11.1.2.3", "intern.acme.com", "::1")
    }
    assert list(answers.values()) == [True, True, None, False, None, False]


@pytest.mark.parametrize(
    "text",
    [
        "/srv/data/../secret",
        "/srv/data\\..\\x",
        "/srv/data/%2e%2e/x",
        "/srv/database",
        "srv/data/x",
        "~/srv/data",
        "/srv/data/\0",
        "",
    ],
)
def test_a_path_that_could_lead_elsewhere_is_in_no_folder(text: str) -> None:
    assert _path(text) is not True


def test_plain_paths_lie_in_their_folder() -> None:
    assert _path("/srv/data") is True
    assert _path("/srv/data/") is True
    assert _path("/srv/data/..hidden/100%.txt") is True
    assert _path("/srv") is False


@pytest.mark.parametrize(
    "node",
    [
        ["nope"],
        [],
        "true",
        ["and", ["nope"]],
        ["==", ["int", 1]],
        ["==", ["nope", 1], ["int", 1]],
        ["in", ["int", 1], [["nope", 1]]],
        ["in", ["arg", "x"], [["glob", "a*b*"]]],
        ["in", ["arg", "x"], [["glob", "a"]]],
        ["in", ["arg", "x"], [["host", "a b"]]],
        ["in", ["arg", "x"], [["cidr", "10.0.0.1/8"]]],
        ["<=", ["as_money", ["arg", "x"], "euro"], ["money", 1]],
        ["==", ["number", "1e5"], ["int", 1]],
    ],
)
def test_a_form_that_is_not_known_is_refused_and_never_skipped(node: object) -> None:
    with pytest.raises((Unrunnable, KeyError)):
        compile_expression(node)
