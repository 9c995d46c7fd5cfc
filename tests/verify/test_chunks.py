"""Parts of a file are read apart; what holds of each by itself is held against where it stands in the whole."""

from __future__ import annotations

import pytest

from holdfast_verdict.verify.chunks import Chunk
from holdfast_verdict.verify.findings import Finding
from holdfast_verdict.verify.lines import PLACE


@pytest.mark.parametrize(
    ("before", "first", "belongs"),
    [
        ("policy", "record", True),
        ("record", "record", True),
        ("record", "policy", False),
        ("journal", "hold", False),
        ("seal", "seal", False),
        ("header", "header", False),
        ("key", "end", True),
        ("", "header", True),
    ],
)
def test_a_part_that_begins_out_of_order_is_found_where_it_stands(before: str, first: str, *, belongs: bool) -> None:
    found = list(Chunk(lines=3, first=PLACE[first]).found_behind(PLACE.get(before, -1), 40))
    expected = Finding("audit.line", "line 41", f"a line of type {first} does not belong here", 41)
    assert found == ([] if belongs else [expected])


def test_what_was_found_in_a_part_is_named_by_its_line_of_the_file() -> None:
    chunk = Chunk(lines=3, findings=[Finding("audit.line", "line 2", "x", 2), Finding("audit.line", "a hold", "y", 3)])
    assert [(one.subject, one.line) for one in chunk.found_behind(-1, 40)] == [("line 42", 42), ("a hold", 43)]
