"""What a text may be an encoding of: every reading with its encodings, of a whole value, and of pieces within a longer text."""

from __future__ import annotations

from typing import Final

import pytest

from holdfast_verdict.provenance.decodings import READINGS, embedded, is_binary, readings

WHOLE: Final[list[tuple[str, list[tuple[str, str]]]]] = [
    ("plain", []),
    (
        "YW5uQGFjbWUuY29tPz5+",
        [("YW5uQGFjbWUuY29tPz5 ", "percent"), ("ann@acme.com?>~", "base64"), ("ann@acme.com?>", "percent base64")],
    ),
    ("YW5uQGFjbWUuY29tPz5-", [("ann@acme.com?>~", "base64")]),
    ("YW5u", [("ann", "base64")]),
    ("YW4=", []),
    ("//79/A==", []),
    ("Li4uIQ==", []),
    ("data:text/plain;base64,aGVsbG8gdGhlcmU=", [("hello there", "base64")]),
    ("aGVsbG8g\ndGhlcmU=", [("hello there", "base64")]),
    ("NBSWY3DP", [("hello", "base32")]),
    ("nbswy3dp", [("hello", "base32")]),
    ("68656c6c6f", [("hello", "hex")]),
    ("0x68656c6c6f", [("hello", "hex")]),
    ("68 65 6c 6c 6f", [("hello", "hex")]),
    ("\\x68\\x65\\x6c\\x6c\\x6f", [("hello", "escape")]),
    ("68656c", []),
    ("68656c6c6", []),
    ("%61%62", [("ab", "percent")]),
    ("a+b", [("a b", "percent")]),
    ("a%2Bb+c", [("a+b+c", "percent"), ("a+b c", "percent"), ("a b c", "percent percent")]),
    ("&lt;b&gt;", [("<b>", "html")]),
    ("a\\u0040b", [("a@b", "escape")]),
    ("a\\u{1F600}b", [("a\U0001f600b", "escape")]),
    ("a\\U0001F600b", [("a\U0001f600b", "escape")]),
    ("a\\x40b", [("a@b", "escape")]),
    ('a\\n\\tb\\/c\\"', [('a\n\tb/c"', "escape")]),
    ("a\\qb", []),
    ("\\u{110000}", []),
    ("\\u{10FFFF}", [("\U0010ffff", "escape")]),
    ("a=40b", [("a@b", "quoted-printable")]),
    ("a=\nb", [("ab", "quoted-printable")]),
    ("a=4", []),
    ("=?utf-8?Q?a_b=40c?=", [("=?utf-8?Q?a_b@c?=", "quoted-printable"), ("a b@c", "encoded-word")]),
    ("=?utf-8?q?a_b?=", [("a b", "encoded-word")]),
    ("=?utf-8?B?aGVsbG8=?=", [("hello", "encoded-word")]),
    ("=?utf-8?b?aGVsbG8=?=", [("hello", "encoded-word")]),
    ("=?x?B?!!!!?=", []),
    ("ann at acme dot com", [("ann@acme.com", "spoken"), ("ann at acme.com", "spoken")]),
    ("ann [at] acme [dot] com", [("ann@acme.com", "spoken"), ("ann [at] acme.com", "spoken")]),
    ("ann(at)acme(dot)com", [("ann@acme.com", "spoken"), ("ann(at)acme.com", "spoken")]),
    ("ann@acme dot com", [("ann@acme.com", "spoken")]),
    ("ann at acme", []),
    ("acme dot com", [("acme.com", "spoken")]),
    ("acme [.] com", [("acme.com", "spoken")]),
    ("%2561", [("%61", "percent"), ("a", "percent percent")]),
    ("YUdWc2JHOD0=", [("aGVsbG8=", "base64"), ("hello", "base64 base64")]),
    ("ann <at> acme {dot} com", [("ann@acme.com", "spoken"), ("ann <at> acme.com", "spoken")]),
]
WITHIN: Final[list[tuple[str, list[tuple[str, str]]]]] = [
    ("say aGVsbG8gdGhlcmU= now", [("hello there", "base64")]),
    ("say 68656c6c6f207468657265 now", [("hello there", "hex")]),
    ("say NBSWY3DPEB2GQZLSMU====== now", [("hello there", "base32")]),
    ("write to ann at acme dot com", [("ann@acme.com", "spoken")]),
    ("a%20b", [("a b", "percent")]),
    ("&amp;amp;", [("&amp;", "html"), ("&", "html html")]),
    ("x=40y", [("x@y", "quoted-printable")]),
    ("=?utf-8?q?a=40b?= z", [("=?utf-8?q?a@b?= z", "quoted-printable"), ("a@b z", "encoded-word")]),
    ("look at that dot com", [("look@that.com", "spoken")]),
]


@pytest.mark.parametrize(("text", "expected"), WHOLE)
def test_a_value_may_say_these(text: str, expected: list[tuple[str, str]]) -> None:
    assert readings(text) == [(text, ()), *((each, tuple(how.split())) for each, how in expected)]


@pytest.mark.parametrize(("text", "expected"), WITHIN)
def test_pieces_of_a_text_say_these(text: str, expected: list[tuple[str, str]]) -> None:
    assert embedded(text, 10_000) == ([(each, tuple(how.split())) for each, how in expected], True)


def test_what_there_is_no_room_for_is_told() -> None:
    assert embedded("a%20b", 3) == ([("a b", ("percent",))], True)
    assert embedded("a%20b", 2) == ([], False)
    found = [("ab &lt;", ("percent",)), ("ab <", ("percent", "html"))]
    assert embedded("%61%62 &lt;", 12) == (found, False), "there is no room for `%61%62 <` beside them"


def test_readings_are_looked_for_four_deep_and_no_deeper_and_there_are_not_too_many() -> None:
    deep = "a@b"
    for _ in range(5):
        deep = deep.replace("%", "%25").replace("@", "%40")
    assert [each for each, _ in readings(deep)][-1] == "a%40b"
    assert [how for _, how in readings(deep)] == [("percent",) * times for times in range(5)]
    assert len(readings("+".join(f"{n:02x}%{n:02x}&amp;=41\\x41" for n in range(48, 80)))) <= READINGS


@pytest.mark.parametrize(
    ("how", "expected"),
    [((), False), (("percent",), False), (("base64",), True), (("percent", "hex"), True), (("base32", "html"), True)],
)
def test_words_can_pass_for_a_binary_encoding(how: tuple[str, ...], expected: bool) -> None:
    assert is_binary(how) is expected
