"""Canonical JSON is RFC 8785 on the subset it accepts, and refuses the rest."""

from __future__ import annotations

import enum
import hashlib
import json
import math

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from holdfast_verdict.canonical import MAX_DEPTH, MAX_INTEGER, JsonValue, NotCanonical, canonical_bytes, chain, digest

from .actions import anything, values


@given(values)
def test_it_writes_what_the_rfc_prescribes(value: JsonValue) -> None:
    written = canonical_bytes(value)
    assert written == rfc8785.dumps(value)
    assert json.loads(written) == value
    assert canonical_bytes(json.loads(written)) == written
    assert digest(value) == hashlib.sha256(written).digest()


@given(st.dictionaries(st.text(st.characters(max_codepoint=127)), st.integers(0, 9)), st.randoms())
def test_the_order_of_members_does_not_count(value: dict[str, int], random: object) -> None:
    shuffled = list(value.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # Hypothesis's Random
    assert canonical_bytes(dict(shuffled)) == canonical_bytes(value)


@given(values, values)
def test_different_values_have_different_bytes(one: JsonValue, other: JsonValue) -> None:
    assert (canonical_bytes(one) == canonical_bytes(other)) == (repr(_plain(one)) == repr(_plain(other)))


def _plain(value: object) -> object:
    """The value with its members sorted; `repr` tells `True` from `1`."""
    if isinstance(value, dict):
        return ("object", sorted((key, _plain(member)) for key, member in value.items()))
    return [_plain(member) for member in value] if isinstance(value, list) else value


@given(anything)
def test_whatever_it_does_not_refuse_is_what_the_rfc_prescribes(value: object) -> None:
    try:
        written = canonical_bytes(value)
    except NotCanonical:
        return
    assert written == rfc8785.dumps(value)  # type: ignore[arg-type]  # whatever it is, it was accepted


class Colour(enum.Enum):
    RED = "red"


def _deep(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [0.0, 1.5, -0.0, math.nan, math.inf, b"x", {1: 2}, {None: 1}, {"é": 1}, {"\ud800": 1}, "\ud800", ["a\udfff"], {"a": {"b": 1.0}},
     MAX_INTEGER + 1, -MAX_INTEGER - 1, 2**64, Colour.RED, object(), {1, 2}, _deep(MAX_DEPTH + 1), _deep(5_000)],
)  # fmt: skip
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    for nested in (value, [value], {"a": value}):
        with pytest.raises(NotCanonical, match=r"\$"):
            canonical_bytes(nested)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (MAX_INTEGER, b"9007199254740991"),
        (-MAX_INTEGER, b"-9007199254740991"),
        (True, b"true"),
        ([1, True, None], b"[1,true,null]"),
        (
            '\x00\b\t\n\x0b\f\r\x1f"\\/\x7f\u2028é😀',
            '"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f\\"\\\\/\x7f\u2028é😀"'.encode(),
        ),
        ({"b": 1, "a": 2, "B": 3, "": 4, "a\x00": 5}, b'{"":4,"B":3,"a":2,"a\\u0000":5,"b":1}'),
        ((1, (2,)), b"[1,[2]]"),
    ],
)
def test_known_forms(value: object, written: bytes) -> None:
    assert canonical_bytes(value) == written


@given(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=5), st.data())
def test_a_chain_names_every_byte_of_every_entry(contents: list[bytes], data: st.DataObject) -> None:
    def head(entries: list[bytes]) -> bytes:
        entry_id = b""
        for content in entries:
            entry_id = chain(entry_id, content)
        return entry_id

    index = data.draw(st.integers(0, len(contents) - 1))
    place = data.draw(st.integers(0, len(contents[index]) - 1))
    changed = bytearray(contents[index])
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    assert head([*contents[:index], bytes(changed), *contents[index + 1 :]]) != head(contents)
    assert len(contents) == 1 or contents == contents[::-1] or head(contents[::-1]) != head(contents)
