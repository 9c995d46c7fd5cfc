"""Texts as words: what compares alike, and what is a whole name."""

from __future__ import annotations

from typing import Final

import pytest

from holdfast_verdict.provenance.words import fold, is_whole, steps_upwards, words_of

NORMAL: Final[list[tuple[str, str, int]]] = [
    # a text, its normal form, and how many words it has
    ("Ann@ACME.com", "ann@acme.com", 3),
    ("a b", "a b", 2),
    ("a  b", "a b", 2),
    ("a, b", "a b", 2),
    ("a,b", "a b", 2),
    ("a - b", "a b", 2),
    ("a-b", "a-b", 2),
    ("a.b", "a.b", 2),
    ("a. b", "a b", 2),
    ("a .b", "a .b", 2),
    ("a / b", "a b", 2),
    ("a/b", "a/b", 2),
    ("/a/b/", "/a/b", 2),
    ("~/a", "~/a", 1),
    ("../a", "../a", 1),
    ("a/..", "a/..", 1),
    ("a/../b", "a/../b", 2),
    ("a/.../b", "a/.../b", 2),
    ('"a" (b)', "a b", 2),
    ("a@ b", "a@b", 2),
    ("a @ b", "a@b", 2),
    ("a'b", "a b", 2),
    ("don\u2019t", "don t", 2),
    ("a*b", "a*b", 2),
    ("*.a", "*.a", 1),
    ("50%", "50%", 1),
    ("%50", "%50", 1),
    ("a\u2026b", "a...b", 2),
    ("x\u2013y", "x y", 2),
    ("\u65e5\u672c\u8a9e", "\u65e5\u672c\u8a9e", 3),
    ("\u65e5\u672c go", "\u65e5\u672c go", 3),
    ("\U0001f600a", "\U0001f600a", 2),
    ("\uff42\uff4f\uff42", "bob", 1),
    ("STRASSE stra\xdfe", "strasse strasse", 2),
    ("a\u200bb", "ab", 1),
    ("a\xadb", "ab", 1),
    ("\ufb01n", "fin", 1),
    ("\xbfa?", "a", 1),
    ("#5", "5", 1),
    ("$5", "5", 1),
    ("a_b", "a_b", 2),
    ("_a_", "a", 1),
    ("a:b", "a:b", 2),
    ("a: b", "a b", 2),
    ("-5", "-5", 1),
    ("+5", "+5", 1),
    ("a\n\nb", "a b", 2),
    ("", "", 0),
    ("...", "", 0),
    ("a/ b", "a b", 2),
    ("a /b", "a /b", 2),
    ("a& b", "a b", 2),
    ("a &b", "a b", 2),
    ("a*, b", "a* b", 2),
]
NAMES: Final[list[tuple[str, str, bool]]] = [
    # a text, a part of it, and whether that is a whole name there
    ("bob@acme.com", "bob@acme.com", True),
    ("xbob@acme.com", "bob@acme.com", False),
    ("rob.bob@acme.com", "bob@acme.com", False),
    ("bob@acme.com.example", "bob@acme.com", False),
    ("bob@acme.com", "acme.com", True),
    ("bob@acme.com", "bob", True),
    ("/reports/q3.pdf", "q3.pdf", True),
    ("well-known", "known", False),
    ("a known b", "known", True),
    ("known.", "known", True),
    ("known-", "known", True),
    ("known- x", "known", True),
    (".known", "known", True),
    ("a/known/b", "known", True),
    ("\u65e5\u672c\u8a9e", "\u672c", True),
    ("go\u65e5\u672c", "go", True),
    ("known5", "known", False),
    ("_known", "known", True),
    ("a_known", "known", False),
    ("known+x", "known", False),
    ("known~x", "known", False),
    ("known:x", "known", True),
    ("known=x", "known", True),
    ("50%", "50", True),
    ("-5", "5", True),
    ("a-5", "5", False),
]


@pytest.mark.parametrize(("text", "normal", "words"), NORMAL)
def test_a_text_has_one_normal_form(text: str, normal: str, words: int) -> None:
    found = words_of(fold(text))
    assert (found.text(), len(found.words), len(found.gaps)) == (normal, words, words + 1 if words else 1)


def test_a_part_of_a_text_has_outer_marks_only_where_it_ends() -> None:
    words = words_of("/x a-b c/d *y*")
    assert words.gaps == ("/", " ", "-", " ", "/", " *", "*")
    parts = [(0, 1), (0, 3), (1, 3), (1, None), (3, 5), (5, 6)]
    assert [words.text(start, end) for start, end in parts] == ["/x", "/x a-b", "a-b", "a-b c/d *y*", "c/d", "y*"]


@pytest.mark.parametrize(("text", "part", "expected"), NAMES)
def test_a_name_is_whole(text: str, part: str, expected: bool) -> None:
    at = text.index(part)
    assert is_whole(text, at, at + len(part)) is expected


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        ("/../", True),
        ("/..", True),
        ("\\..\\", True),
        ("/...", False),
        ("/..a", False),
        ("..", False),
        ("/ ../", False),
    ],
)
def test_a_step_upwards(gap: str, expected: bool) -> None:
    assert steps_upwards(gap) is expected
