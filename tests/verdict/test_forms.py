"""What each format makes of a text: its one spelling, or code, place and whole sentence of the refusal.

The cases stand in `test_forms.json`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from holdfast_verdict.actions import ActionRefused, Catalogue
from holdfast_verdict.actions.formats import FORMATS
from holdfast_verdict.actions.urls import read_url

CASES: Final[dict[str, list[list[str]]]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
SAME: Final = (
    ("email", "idn-email"),
    ("uri", "url", "iri"),
    ("hostname", "idn-hostname", "host"),
    ("ip", "ipvanyaddress"),
    ("path", "file-path", "directory-path"),
)
JSON_TEXTS: Final[list[tuple[str | bytes, str, str]]] = [
    # arguments as a model writes them, the code of the refusal, and its sentence or the arguments that they are
    ('{"x":"a"}', "", '{"x": "a"}'),
    ('{"x":"a","x":"b"}', "json.duplicate_key", "args: the key 'x' stands twice in one object; write each key once"),
    (
        '{"x":1e999999999999}',
        "number.range",
        "args.x: '1E+999999999999' has over 40 digits; write fewer, or send it as text",
    ),
    ('{"x":NaN}', "number.not_finite", "args: NaN is not a number of JSON; write a finite number"),
    ('{"x":-Infinity}', "number.not_finite", "args: -Infinity is not a number of JSON; write a finite number"),
    ('{"x":"a"', "json.syntax", "args: not JSON: Expecting ',' delimiter at line 1, column 9; send one JSON object"),
    ("[]", "json.type", 'args: are not an object; send {"name": value, \u2026}'),
    ('"a"', "json.type", 'args: are not an object; send {"name": value, \u2026}'),
    ("", "json.syntax", "args: not JSON: Expecting value at line 1, column 1; send one JSON object"),
    ('\ufeff{"x":"a"}', "json.encoding", "args: the JSON text starts with a byte order mark; leave it out"),
    ('{"x":"a"}x', "json.syntax", "args: not JSON: Extra data at line 1, column 10; send one JSON object"),
    ('{"y":"a"}', "schema.unknown_field", "args: 'y' is not known here; it takes: x"),
    ("{}", "schema.missing_field", 'args: "x" is a required property; give it'),
    ('{"x":1}', "schema.mismatch", 'args.x: 1 is not of type "string"; correct the arguments and call again'),
    ('{"x":null}', "schema.mismatch", 'args.x: null is not of type "string"; correct the arguments and call again'),
    ('{"x":["a"]}', "schema.mismatch", 'args.x: ["a"] is not of type "string"; correct the arguments and call again'),
    (
        '{"$x":"a","x":"a"}',
        "json.key_name",
        "args: has the key '$x', which starts with $ as Holdfast's own do; rename it",
    ),
    ('{"\xe9":"a","x":"a"}', "json.key_name", "args: has the key '\\xe9', which is not printable ASCII; rename it"),
    (
        '{"x":"\\ud800"}',
        "text.surrogate",
        "args.x: holds a lone surrogate, which is no character; write the character, or a whole pair \\uD83D\\uDE00",
    ),
    ('{"x":' + "9" * 5000 + "}", "number.range", "args: a whole number is outside \xb1(2^53 - 1); send it as text"),
    ('{"x":9007199254740992}', "number.range", "args.x: a whole number is outside \xb1(2^53 - 1); send it as text"),
    (
        '{"x":1.' + "1" * 41 + "}",
        "number.range",
        "args.x: '1.11111111111111111111111111111111111111111' has over 40 digits; write fewer, or send it as text",
    ),
    ('{"x":"a","a\\u0000":1}', "json.key_name", "args: has the key 'a\\x00', which is not printable ASCII; rename it"),
    (b'{"x":"\xff"}', "json.encoding", "args: the JSON text is not UTF-8; send it as UTF-8"),
    (b'{"x":"a"}', "", '{"x": "a"}'),
]


@cache
def catalogue(name: str) -> Catalogue:
    text = {"type": "string", **({"format": name} if name else {})}
    return Catalogue.of({"t": {"parameters": {"type": "object", "properties": {"x": text}, "required": ["x"]}}})


def tried(name: str, arguments: dict[str, str] | str | bytes) -> tuple[str, str]:
    try:
        value = catalogue(name).action("t", arguments).value["args"]
    except ActionRefused as refused:
        return refused.code, f"{refused.path}: {refused.message}; {refused.remedy}"
    assert isinstance(value, dict)
    return "", json.dumps(value)


@pytest.mark.parametrize(
    ("name", "value", "code", "said"), [(name, *case) for name, cases in CASES.items() for case in cases]
)
def test_a_text_has_one_spelling_or_is_refused_in_so_many_words(name: str, value: str, code: str, said: str) -> None:
    assert tried(name, {"x": value}) == (code, said if code else json.dumps({"x": said}))


@pytest.mark.parametrize("names", SAME, ids=lambda names: names[0])
def test_formats_of_several_names_are_one(names: tuple[str, ...]) -> None:
    assert {tried(name, {"x": value}) for name in names[1:] for value, _, _ in CASES[names[0]]} == {
        tried(names[0], {"x": value}) for value, _, _ in CASES[names[0]]
    }


def test_every_format_is_tried() -> None:
    assert {*CASES, *(name for names in SAME for name in names)} == {*FORMATS, ""}


@pytest.mark.parametrize(("text", "code", "said"), JSON_TEXTS)
def test_arguments_are_read_or_refused_in_so_many_words(text: str | bytes, code: str, said: str) -> None:
    assert tried("", text) == (code, said)


@pytest.mark.parametrize(
    ("name", "start", "most", "code"),
    [
        ("path", "/", 4_096, "path.form"),
        ("header", "", 8_000, "header.value"),
        ("uri", "https://a.com/", 8_192, "url.size"),
    ],
)
def test_a_text_is_so_long_at_most(name: str, start: str, most: int, code: str) -> None:
    longest = start + "x" * (most - len(start))
    assert tried(name, {"x": longest}) == ("", json.dumps({"x": longest}))
    assert tried(name, {"x": longest + "x"})[0] == code


def test_a_url_that_is_too_long_says_where_long_values_belong() -> None:
    said = "args.x: a URL has at most 8192 characters; send long values in a body"
    assert tried("uri", {"x": "https://a.com/" + "x" * 8_192}) == ("url.size", said)


def test_a_host_is_so_long_at_most_when_it_is_encoded() -> None:
    name = ".".join(["äzöyüxéw" * 6] * 5) + ".de"
    code, said = tried("hostname", {"x": name})
    assert len(name) < 253
    assert code == "host.form"
    assert said.startswith("args.x: '\\xe4z")
    assert said.endswith(" is not a valid host name; write a name such as api.example.com")
    assert json.loads(tried("hostname", {"x": name[49:]})[1])["x"].count("xn--") == 4


def test_a_url_is_so_long_at_most_when_it_is_encoded() -> None:
    assert tried("uri", {"x": "https://a.com/" + "é" * 1_500}) == (
        "url.size",
        "args.x: a URL has at most 8192 characters when percent-encoded; send less",
    )


def test_a_request_is_sent_to_a_url_without_its_fragment() -> None:
    url = read_url("https://A.com:444/x?y#z")
    assert (url.text, url.without_fragment().text) == ("https://a.com:444/x?y#z", "https://a.com:444/x?y")
