"""The corpus of tricks: each is refused with its code or becomes what it should, and none is allowed that is not harmless."""

from __future__ import annotations

import email.utils
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import ada_url
import httpx
import pytest

from holdfast_verdict import Policy, compile_policy, decide_call
from holdfast_verdict.actions import (
    ActionRefused,
    CanonicalAction,
    Catalogue,
    domain_matcher,
    folded_text,
    host_matcher,
    host_of,
    ip_of,
    mail_domain,
    path_matcher,
    path_of,
)
from holdfast_verdict.actions.codes import CODES
from tests.verdict.corpus import NOUNS, Sample, samples

TEXT: Final = {"type": "string"}
NAMES: Final = {
    "urls": ("fetch", "url", "url"),
    "hosts": ("connect", "host", "hostname"),
    "mail": ("send", "to", "email"),
    "paths": ("read_file", "path", "path"),
}
"""Action, argument and format by noun."""


def _takes(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"parameters": {"type": "object", "properties": {name: schema}, "required": [name]}}


CATALOGUE: Final = Catalogue.of(
    {
        **{tool: _takes(name, {**TEXT, "format": form}) for tool, name, form in NAMES.values()},
        "pay": _takes("amount", {"type": "number", "maximum": 500}),
        "store": {"parameters": {"type": "object", "properties": {"to": TEXT, "meta": {}}, "required": ["to"]}},
        "note": _takes("text", TEXT),
    }
).with_builtin_kinds()
PLAIN: Final = Catalogue.of({tool: _takes(name, TEXT) for tool, name, _ in NAMES.values()})
"""The same without formats: what policies ask of plain text has to hold by itself."""

ALL: Final = [sample for noun in NOUNS for sample in samples(noun)]
TRICKS: Final = [sample for sample in ALL if not sample.honest]
HONEST: Final = [sample for sample in ALL if sample.honest]
OF_TEXT: Final = [sample for sample in ALL if sample.noun in NAMES]


def call_of(sample: Sample) -> tuple[str, Mapping[str, object] | str]:
    """Returns the call that a sample is tried by: an action's name and its arguments, as JSON text where it is one."""
    if sample.noun in NAMES:
        tool, name, _ = NAMES[sample.noun]
        return tool, {name: sample.given}
    if sample.noun == "numbers":
        return "pay", f'{{"amount": {sample.given}}}'
    if sample.noun == "headers":
        return "http.request", f'{{"method": "GET", "url": "https://api.stripe.com/", "headers": {sample.given}}}'
    if sample.noun == "strings":
        return "note", f'{{"text": {sample.given}}}'
    return "store", sample.given


def proposed(sample: Sample, catalogue: Catalogue = CATALOGUE) -> CanonicalAction:
    return catalogue.action(*call_of(sample))


def argument(sample: Sample, action: CanonicalAction) -> Any:
    names = {"numbers": "amount", "headers": "headers", "strings": "text"}
    name = NAMES[sample.noun][1] if sample.noun in NAMES else names.get(sample.noun)
    return action.args if name is None else action.args[name]


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(TRICKS) >= 300
    assert len(HONEST) >= 90
    assert len({(sample.noun, sample.given) for sample in ALL}) == len(ALL)
    assert {sample.refused for sample in TRICKS} <= CODES.keys() | {""}


@pytest.mark.parametrize("sample", ALL, ids=str)
def test_each_becomes_what_it_should(sample: Sample) -> None:
    if sample.refused:
        with pytest.raises(ActionRefused) as refusal:
            proposed(sample)
        assert refusal.value.code == sample.refused, refusal.value
        assert refusal.value.remedy, "a refusal says what to write instead"
        assert len(str(refusal.value)) < 600
        assert str(refusal.value).isprintable()
        return
    action = proposed(sample)
    assert argument(sample, action) == sample.becomes
    again = CATALOGUE.action(action.name, action.arguments())
    assert again == action


READINGS_ALLOWED: Final = {
    "urls": 'args.url in host("api.stripe.com")',
    "hosts": 'args.host in host("*.acme.com")',
    "mail": 'args.to in domain("acme.com")',
    "paths": 'args.path in path("/srv/data")',
    "numbers": "args.amount <= 100",
    "json": 'args.to == "bob"',
    "headers": 'args.url in host("api.stripe.com")',
    "strings": 'args.text == "admin"',
}
"""What is harmless, as a policy says it."""
TOOLS: Final = {
    **{noun: tool for noun, (tool, _, _) in NAMES.items()},
    "numbers": "pay",
    "json": "store",
    "headers": "http.request",
    "strings": "note",
}
FACTS: Final = {"principal": {"tenant": "acme", "project": "p", "user": "u", "agent": "a", "role": "tried", "run": "r"}}


@cache
def policy_of(noun: str, effect: str) -> Policy:
    """Returns a policy that permits (or permits all, and forbids) what has the harmless reading."""
    tool, reading = TOOLS[noun], READINGS_ALLOWED[noun]
    rules = (
        f"permit {tool} where {reading}" if effect == "permit" else f"permit {tool}  forbid {tool} when not ({reading})"
    )
    return compile_policy(f"role tried {{ {rules} }}", CATALOGUE)


@pytest.mark.parametrize("effect", ["permit", "forbid"])
@pytest.mark.parametrize("sample", ALL, ids=str)
def test_no_policy_that_allows_the_harmless_reading_allows_a_trick(sample: Sample, effect: str) -> None:
    """Neither one that permits what is harmless, nor one that forbids what is not: what cannot be read is unknown to both."""
    tool, arguments = call_of(sample)
    verdict = decide_call(policy_of(sample.noun, effect), CATALOGUE, tool, arguments, FACTS)
    allowed = sample.allowed and (sample.noun != "strings")
    assert (verdict.verdict == "allow") == allowed, verdict
    if sample.refused:
        assert verdict.code == "action.malformed"
    if sample.noun in NAMES and not sample.allowed:
        assert decide_call(policy_of(sample.noun, effect), PLAIN, tool, arguments, FACTS).verdict == "deny"


RULES: Final[Mapping[str, Callable[[object], bool | None]]] = {
    "urls": host_matcher("api.stripe.com"),
    "hosts": host_matcher("*.acme.com"),
    "mail": domain_matcher("acme.com"),
    "paths": path_matcher("/srv/data"),
}


@pytest.mark.parametrize("sample", OF_TEXT, ids=str)
def test_no_rule_that_allows_the_harmless_reading_allows_a_trick(sample: Sample) -> None:
    try:
        action = proposed(sample)
    except ActionRefused:
        assert not sample.allowed
        return
    assert (RULES[sample.noun](argument(sample, action)) is True) == sample.allowed


def _urllib(text: str) -> str | None:
    try:
        return urlsplit(text).hostname
    except ValueError:
        return None


def _httpx(text: str) -> str | None:
    try:
        return httpx.URL(text).raw_host.decode()
    except (httpx.InvalidURL, ValueError):
        return None


def _whatwg(text: str) -> str | None:
    try:
        return ada_url.URL(text).hostname
    except ValueError:
        return None


@pytest.mark.parametrize("sample", OF_TEXT, ids=str)
def test_a_rule_holds_of_plain_text_only_if_every_reader_reads_the_same(sample: Sample) -> None:
    try:
        action = proposed(sample, PLAIN)
    except ActionRefused:
        return
    text = argument(sample, action)
    if RULES[sample.noun](text) is not True:
        return
    assert text == text.strip()
    if sample.noun == "urls":
        assert {_urllib(text), _httpx(text), _whatwg(text)} == {"api.stripe.com"}
    elif sample.noun == "hosts":
        url = f"https://{text}/"
        assert {host for host in (_httpx(url), _whatwg(url)) if host != host_of(text)} == set()
    elif sample.noun == "mail":
        assert email.utils.parseaddr(text) == ("", text)
        assert text.lower().endswith("@acme.com")
        assert text.count("@") == 1
    else:
        assert ".." not in text.split("/")
        assert text.startswith("/")


@pytest.mark.parametrize("sample", HONEST, ids=str)
def test_an_honest_value_is_read_as_plain_text_too(sample: Sample) -> None:
    if sample.noun in NAMES:
        assert (RULES[sample.noun](argument(sample, proposed(sample, PLAIN))) is True) == sample.allowed


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_is_given_by_some_value(code: str) -> None:
    others = {
        "number.fraction",
        "date.form",
        "decimal.form",
        "uuid.form",
        "text.line",
    }  # of formats that have no file here
    assert code in others or any(sample.refused == code for sample in TRICKS)


READINGS: Final = (mail_domain, host_of, path_of, ip_of)


@pytest.mark.parametrize("reading", READINGS, ids=lambda each: each.__name__)
def test_what_is_no_text_has_no_reading(reading: Callable[[object], object]) -> None:
    for value in (None, True, 7, 1.5, b"bob@acme.com", ["bob@acme.com"], {"host": "acme.com"}, "", "\ud800", "x\0"):
        assert reading(value) is None


@pytest.mark.parametrize(
    "text",
    [
        "https://api.stripe.com?@evil.com/", "https://api.stripe.com#@evil.com/", "https://api.stripe.com./", "https://straße.example/",
        "https://a\u0301pi.stripe.com\u200d/", "api.stripe.com/ ", "api.stripe.com:", "api.stripe.com:0", "api.stripe.com@evil.com",
        "//api.stripe.com", "api.stripe.com\\evil.com", "http:api.stripe.com", "api.stripe.com, evil.com",
    ],
)  # fmt: skip
def test_a_host_that_some_reader_reads_differently_has_no_reading(text: str) -> None:
    assert host_of(text) is None


def test_nobody_knows_where_a_relative_path_starts() -> None:
    """So a rule that forbids what is below a folder has no "no" for it, and stands against the action."""
    assert path_matcher("/etc")("etc/passwd") is None
    assert path_matcher("reports")("/reports/a.csv") is None
    assert path_matcher("reports")("reports/a.csv") is True
    assert path_matcher("/")("/etc/passwd") is True
    assert path_matcher("/")("etc/passwd") is None


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("admin", "admin"), (" admin\n", "admin"), ("ad\u200bmin", "admin"), ("ａｄｍｉｎ", "admin"),
        ("admin\ufe0f", "admin"), ("ﬁle", "file"),
        ("\u202eadmin", "admin"), ("e\u0301", "é"), ("аdmin", "аdmin"), ("Admin", "Admin"), ("", ""), ("①", "1"), ("a b", "a b"),
    ],
)  # fmt: skip
def test_text_is_folded_as_lenient_readers_take_it(text: str, folded: str) -> None:
    assert folded_text(text) == folded
    assert folded_text(folded) == folded


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("http://10.0.0.1:80/x", "10.0.0.1"),
        ("::1", "::1"),
        ("[2001:DB8::1]:443", "2001:db8::1"),
        ("127.1", None),
        ("2130706433", None),
        ("0x7f000001", None),
        ("::ffff:127.0.0.1", None),
        ("[::ffff:127.0.0.1]", None),
        ("fe80::1%eth0", None),
        ("localhost", None),
        ("localhost.", None),
        ("127.0.0.1.", None),
        ("127.0.0.1@10.0.0.1", None),
        ("１２７.0.0.1", None),
        ("127.0.0.1 ", None),
    ],
)
def test_addresses_are_read_only_in_their_plain_form(text: str, address: str | None) -> None:
    found = ip_of(text)
    assert (None if found is None else str(found)) == address


def test_the_corpus_is_json_and_toml_alike() -> None:
    assert json.loads(json.dumps([sample.becomes for sample in ALL])) == [sample.becomes for sample in ALL]
