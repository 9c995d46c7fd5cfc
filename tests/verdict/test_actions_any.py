"""Any JSON, any bytes, any schema: only refusals are raised, forms are fixed points, equal meaning has equal bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlsplit

import ada_url
import httpx
import pytest
import rfc8785
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from holdfast_verdict.actions import (
    ActionRefused,
    Catalogue,
    CatalogueInvalid,
    FormRefused,
    cidr_matcher,
    domain_matcher,
    host_matcher,
    host_of,
    ip_of,
    mail_domain,
    path_matcher,
    path_of,
    url_of,
)
from holdfast_verdict.actions.codes import CODES
from holdfast_verdict.actions.formats import FORMATS
from holdfast_verdict.actions.headers import normalise_headers
from tests.verdict.corpus import NOUNS, samples

CORPUS = [sample.given for noun in NOUNS for sample in samples(noun) if len(sample.given) < 400]
PIECES = [
    "acme.com",
    "https://",
    "@",
    "/",
    "\\",
    "..",
    "%2e",
    "%00",
    ":",
    "[::1]",
    "127.1",
    "xn--",
    "。",
    "ａ",
    "а",
    "\u200b",
    "\r\n",
    " ",
]
TEXTS = (
    st.text(max_size=40)
    | st.sampled_from(CORPUS)
    | st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8).map("".join)
    | st.text(alphabet="ab.@:/%\\[]?#;=-_0127xf\r\n\u202e\x00é\ud800", max_size=40)
)
KEYS = st.sampled_from(["to", "n", "x", "who", "kids", "name", "free", "amount", "$number", "é"]) | st.text(max_size=4)
NUMBERS = st.integers() | st.floats() | st.decimals() | st.integers(-(2**53), 2**53)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | st.binary(max_size=4) | st.just(object()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers(), inner, max_size=4) | st.tuples(inner)
    ),
    max_leaves=10,
)

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "n": {"type": "integer", "default": 1},
        "kids": {"type": "array", "items": {"$ref": "#/$defs/Person"}},
    },
}
OPEN = {
    "type": "object",
    "properties": {
        "who": {"$ref": "#/$defs/Person"},
        "x": {"anyOf": [{"$ref": "#/$defs/Person"}, {"type": "string", "format": "email"}, {"type": "number"}, {"type": "null"}]},
        "to": {"type": "array", "items": {"type": "string"}},
        "amount": {"type": "number"},
        "n": {"type": "integer"},
        "free": {},
    },
    "$defs": {"Person": PERSON},
}  # fmt: skip
CATALOGUE = Catalogue.of(
    {
        "open": {"parameters": OPEN, "formats": {"to": "email"}},
        **{
            form: {"parameters": {"type": "object", "properties": {"x": {"type": "string", "format": form}}}}
            for form in FORMATS
        },
    }
).with_builtin_kinds()


def tried(name: str, arguments: Any) -> Any:
    """Returns the canonical action, of which all has to hold that must, or None."""
    try:
        action = CATALOGUE.action(name, arguments)
    except ActionRefused as refusal:
        assert refusal.code in CODES.keys() | {"action.unknown"}  # noqa: PT017 (what is raised is what is tested)
        assert refusal.remedy  # noqa: PT017 (as above)
        assert str(refusal).isprintable()  # noqa: PT017 (as above)
        return None
    assert CATALOGUE.action(name, action.arguments()) == action
    assert action.canonical == rfc8785.dumps(json.loads(action.canonical))
    return action


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(CATALOGUE.types)), ANYTHING)
def test_any_value_is_refused_or_a_fixed_point(name: str, value: Any) -> None:
    tried(name, value)
    tried(name, {"x": value})
    tried("open", {"free": value, "x": value})


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(CATALOGUE.types)), st.binary(max_size=60) | TEXTS | ANYTHING.map(repr))
def test_any_bytes_are_refused_or_a_fixed_point(name: str, text: str | bytes) -> None:
    tried(name, text)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), TEXTS)
@example("path", ". ")
@example("email", "ß@ß.de")
def test_every_format_is_a_fixed_point(form: str, text: str) -> None:
    action = tried(form, {"x": text})
    if action is not None:
        once = action.args["x"]
        assert CATALOGUE.action(form, {"x": once}).args["x"] == once


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_readings_and_matchers_raise_nothing_and_read_what_formats_take(text: str) -> None:
    for reading in (mail_domain, host_of, url_of, path_of, ip_of):
        reading(text)
    for matcher in (domain_matcher("acme.com"), host_matcher("*.acme.com"), path_matcher("/srv"), cidr_matcher("::/0")):
        assert matcher(text) in (True, False, None)
    for make in (domain_matcher, host_matcher, path_matcher, cidr_matcher):
        try:
            make(text)
        except ValueError:
            continue
    if (domain := mail_domain(text)) is not None:
        assert CATALOGUE.action("email", {"x": text}).args["x"].rpartition("@")[2] == domain  # type: ignore[union-attr]  # a text


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.decimals(-(10**9), 10**9, places=4)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex("[a-z]{1,3}", fullmatch=True), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


def spelled(value: Any, draw: Any) -> str:
    """Writes JSON in one of the ways in which it can be written."""
    space = draw(st.sampled_from(["", " ", "\n\t"]))
    if isinstance(value, dict):
        members: list[str] = draw(st.permutations(sorted(value)))
        inner = ",".join(f"{space}{spelled(name, draw)}{space}:{spelled(value[name], draw)}" for name in members)
        inner = "{" + inner + space + "}"
        return str(inner)
    if isinstance(value, list):
        return "[" + ",".join(space + spelled(member, draw) for member in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=bool(draw(st.booleans())))
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        number = Decimal(value)
        plain = format(number, "f")
        written: str = draw(st.sampled_from([plain, f"{number:e}", plain + ("0" if "." in plain else ".0")]))
        return written
    return json.dumps(value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JSON_VALUES, st.data())
def test_equal_meaning_has_equal_bytes(value: Any, data: st.DataObject) -> None:
    one, other = (CATALOGUE.action("open", f'{{"free":{spelled(value, data.draw)}}}') for _ in range(2))
    assert one.canonical == other.canonical
    assert CATALOGUE.action("open", {"free": value}).canonical == one.canonical


@settings(max_examples=80, deadline=None)
@given(JSON_VALUES, JSON_VALUES)
def test_equal_bytes_have_equal_meaning(one: Any, other: Any) -> None:
    first, second = (CATALOGUE.action("open", {"free": value}) for value in (one, other))
    assert (first.canonical == second.canonical) == (_meaning(first.arguments()) == _meaning(second.arguments()))


def _meaning(value: Any) -> Any:
    """Returns what compares as JSON does: true is not 1."""
    if isinstance(value, dict):
        return {key: _meaning(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_meaning(member) for member in value]
    return (isinstance(value, bool), value)


UNRESERVED = st.text("abcXYZ019-._~", min_size=1, max_size=8).filter(lambda text: text.strip(".") != "")


@settings(max_examples=60, deadline=None)
@given(st.lists(UNRESERVED, max_size=4), st.dictionaries(UNRESERVED, st.text(max_size=6), max_size=3), st.data())
def test_percent_encodings_of_one_url_are_one_url(path: list[str], query: dict[str, str], data: st.DataObject) -> None:
    assume("\0" not in "".join(query.values()))

    def written(text: str) -> str:
        return "".join(
            f"%{ord(each):02{data.draw(st.sampled_from('xX'))}}" if data.draw(st.booleans()) else each for each in text
        )

    try:
        pairs = "&".join(f"{name}={quote(value)}" for name, value in query.items())
    except UnicodeEncodeError:
        return
    tail = f"?{pairs}" if pairs else ""
    plain = "https://acme.com/" + "/".join(path) + tail
    other = "HTTPS://ACME.com:443/./" + "/".join(written(segment) for segment in path) + tail
    assert url_of(plain) == url_of(other) is not None


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.sampled_from(["", "https://", "http://acme.com/", "https://acme.com"]))
def test_a_canonical_url_is_read_alike_by_all(text: str, start: str) -> None:
    action = tried("url", {"x": start + text})
    if action is None:
        return
    canonical = action.args["x"]
    assert isinstance(canonical, str)
    assert canonical.isascii()
    read = ada_url.URL(canonical)
    assert read.href == canonical
    host = host_of(canonical)
    assert host == read.hostname
    assert urlsplit(canonical).hostname == host.strip("[]") == httpx.URL(canonical).raw_host.decode().strip("[]")


LEAVES: list[Any] = [
    {"type": "string"},
    {"type": "integer"},
    {"type": "number"},
    {"type": "null"},
    {"const": "a"},
    {"enum": ["a", 1, None]},
    {},
    {"type": "string", "format": "email"},
    {"type": "string", "pattern": "^a+$"},
    {"$ref": "#/$defs/Node"},
    True,
    {"type": ["string", "null"]},
    {"type": "integer", "default": 3},
]


def composed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    named = st.dictionaries(KEYS, inner, max_size=3).map(lambda each: {"type": "object", "properties": each})
    few = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        named,
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.fixed_dictionaries({"type": st.just("object"), "additionalProperties": inner}),
        *(few.map(lambda branches, word=word: {word: branches}) for word in ("anyOf", "oneOf", "allOf")),  # type: ignore[misc]  # the default binds the word
        st.tuples(named, few).map(lambda pair: {**pair[0], "anyOf": pair[1]}),
    )


SCHEMAS: st.SearchStrategy[Any] = st.recursive(st.sampled_from(LEAVES), composed, max_leaves=6)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, SCHEMAS, max_size=3), SCHEMAS, ANYTHING, st.data())
def test_any_schema_is_refused_or_makes_fixed_points(
    named: dict[str, Any], node: Any, value: Any, data: st.DataObject
) -> None:
    named = {**named, "x": {"$ref": "#/$defs/Node"}}
    entry = {"parameters": {"type": "object", "properties": named, "$defs": {"Node": node}}}
    try:
        catalogue = Catalogue.of({"any": entry})
    except CatalogueInvalid:
        return
    arguments = data.draw(st.dictionaries(st.sampled_from(sorted(named) or ["x"]), ANYTHING, max_size=3))
    for given_value in (arguments, value, {"x": value}):
        try:
            action = catalogue.action("any", given_value)
        except ActionRefused:
            continue
        assert catalogue.action("any", action.arguments()) == action
        assert set(action.args) <= set(named)


class Loud(Mapping[str, object]):
    """A mapping of somebody's own, which breaks wherever it is touched."""

    def __getitem__(self, key: str) -> object:
        raise RuntimeError(key)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError

    def __len__(self) -> int:
        return 1


def test_broken_callers_get_refusals() -> None:
    circle: list[Any] = []
    circle.append(circle)
    laughs: Any = "ha"
    for _ in range(50):
        laughs = [laughs] * 10
    broken: Any
    for broken in (
        Loud(),
        {"free": Loud()},
        {"free": circle},
        {"free": laughs},
        {"free": object()},
        {1: 2},
        None,
        7,
        [],
        {"free": {1}},
    ):
        assert tried("open", broken) is None


def test_what_was_decided_cannot_be_changed_behind_it() -> None:
    given_arguments = {"free": {"a": [1, 2]}}
    action = CATALOGUE.action("open", given_arguments)
    given_arguments["free"]["a"].append(3)
    action.arguments()["free"]["a"].append(4)  # type: ignore[index]  # a list in a mapping
    action.value["args"]["free"]["a"].append(5)  # type: ignore[call-overload,index,union-attr]  # as a careless caller does
    assert action.arguments() == {"free": {"a": [1, 2]}}


def test_headers_raise_refusals_alone() -> None:
    for name in ("", "\ud800", "é", "a\0", "x" * 200):
        with pytest.raises(FormRefused):
            normalise_headers({name: "x"})
