"""Harmless text: whatever comes in, nothing that comes out controls a terminal, and JSON stays the same JSON."""

from __future__ import annotations

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cli.text import columns, json_line, one_line, safe, wrapped

anything = st.text(st.characters(), max_size=200) | st.text(
    st.sampled_from("\x1b[]2J\r\n\t\x07\x9b\u202e\u2066 ab漢👩\u200d")
)
JOINERS = "\u200c\u200d"


def controls(text: str, keep: str = "") -> list[str]:
    harmful = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return [one for one in text if unicodedata.category(one) in harmful and one not in keep + JOINERS]


@given(anything)
def test_nothing_that_comes_out_controls_a_terminal(text: str) -> None:
    assert not controls(safe(text))
    assert not controls(safe(text, keep="\n"), keep="\n")
    assert not controls(one_line(text))
    assert not controls("".join(columns([[text, text]])))
    assert not controls(json_line({text: [text]}))


@given(anything)
def test_json_says_the_same(text: str) -> None:
    value = {text: [text, 1, None]}
    assert json.loads(json_line(value)) == json.loads(json.dumps(value))


@given(anything, st.integers(10, 60))
def test_no_line_is_wider_than_it_may_be_and_no_letter_is_lost(text: str, width: int) -> None:
    lines = list(wrapped(text, width))
    assert all(cell_len(line) <= width for line in lines)
    kept = "".join(lines).replace(" ", "")
    assert kept == safe(text, keep="\n\t").replace("\n", "").replace("\t", "").replace(" ", "")


def test_what_is_harmful_is_written_out_and_the_rest_is_left_alone() -> None:
    assert safe("a\x1b[2J\rb\x9b\u202e\U000e0041") == "a\\x1b[2J\\x0db\\x9b\\u202e\\U000e0041"
    assert safe("é 漢字 👩\u200d👧 \u00a0✓") == "é 漢字 👩\u200d👧 \u00a0✓"
    assert one_line("a\nb\r\nc") == "a b  c"
    assert list(columns([["a", "b"], ["漢", "c\n"]])) == ["a   b", "漢  c"]
    assert list(columns([])) == []
