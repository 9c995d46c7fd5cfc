"""The leaves of JSON values: where they stand, which labels they have there, and which of them a schema makes constants."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast_verdict.provenance.leaves import (
    DEEPEST,
    TooDeep,
    constants_in,
    is_number,
    is_plain,
    labels_at,
    leaves_of,
    shown,
    steps_of,
)


def test_each_leaf_has_its_path_and_names_that_are_data_are_leaves() -> None:
    value = {"a": [1, {"X-Y": None}], "b c": 2, "n": {"$number": "5"}, "d": {"e@f": {"g": True}}}
    assert {shown(path): leaf for path, leaf in leaves_of(value)} == {
        "a[0]": 1,
        "a[1].X-Y": None,
        "b c": 2,
        "n": {"$number": "5"},
        "d.e@f": "e@f",
        "d.e@f.g": True,
    }
    assert (("a", 1, "X-Y"), "X-Y") in list(leaves_of(value))


def test_nobody_looks_deeper_than_so_deep() -> None:
    value: Any = "x"
    for _ in range(DEEPEST):
        value = [value]
    assert list(leaves_of(value)) == [((0,) * DEEPEST, "x")]
    assert list(leaves_of([value])) == [((0,) * (DEEPEST + 1), TooDeep())]


@pytest.mark.parametrize(
    ("path", "text"),
    [((), ""), (("a",), "a"), (("a", 0, "b", 1, 2, "c"), "a[0].b[1][2].c"), ((0, "a"), "[0].a")],
)
def test_a_path_as_text(path: tuple[str | int, ...], text: str) -> None:
    assert shown(path) == text


@pytest.mark.parametrize(
    ("field", "steps"),
    [
        ("a.b", ("a", "b")),
        ("a[].b", ("a", "b")),
        ("a[0].b", ("a", "b")),
        ("[].a", ("a",)),
        ("", ()),
        ("a..b", ("a", "b")),
        (" a . b ", ("a", "b")),
        ("*.a", ("*", "a")),
    ],
)
def test_the_names_in_a_fields_path(field: str, steps: tuple[str, ...]) -> None:
    assert steps_of(field) == steps


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", True),
        ("a_B9$", True),
        ("", False),
        ("a-b", False),
        ("é", False),
        (" a", False),
        ("a" * 64, True),
        ("a" * 65, False),
    ],
)
def test_a_name_that_a_programmer_gives(name: str, expected: bool) -> None:
    assert is_plain(name) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"$number": "5"}, True),
        ({"$number": 5}, False),
        ({"$number": "5", "a": 1}, False),
        ({}, False),
        ({"a": "5"}, False),
    ],
)
def test_a_fraction_in_the_canonical_form(value: dict[object, object], expected: bool) -> None:
    assert is_number(value) is expected


@pytest.mark.parametrize(
    ("path", "labels"),
    [
        (("a", "b"), "xz"),
        (("a", 0, "b", "d"), "xz"),
        (("a",), "z"),
        (("b", "a"), "z"),
        (("q", "c"), "yz"),
        (("a", "c"), "yz"),
        ((0,), "z"),
    ],
)
def test_the_labels_of_the_fields_on_the_way(path: tuple[str | int, ...], labels: str) -> None:
    fields = [(("a", "b"), frozenset("x")), (("*", "c"), frozenset("y")), ((), frozenset("z"))]
    assert labels_at(path, fields) == set(labels)


LEVEL = {"enum": ["high", "low", 3, None]}
LISTED: dict[str, object] = {
    "$defs": {"level": LEVEL, "a/b~c": {"const": "odd"}},
    "type": "object",
    "properties": {
        "plain": {"type": "string"},
        "level": LEVEL,
        "one": {"const": "only"},
        "by_name": {"$ref": "#/$defs/level"},
        "escaped": {"$ref": "#/$defs/a~1b~0c"},
        "elsewhere": {"$ref": "other.json#/$defs/level"},
        "nowhere": {"$ref": "#/$defs/missing/level"},
        "any": {"anyOf": [{"type": "null"}, LEVEL]},
        "one_of": {"oneOf": [{"type": "string"}, {"$ref": "#/$defs/level"}]},
        "all_of": {"allOf": [LEVEL]},
        "list": {"type": "array", "items": {"type": "object", "properties": {"level": LEVEL}}},
        "map": {"type": "object", "additionalProperties": LEVEL},
        "both": {"type": "object", "properties": {"own": {"type": "string"}}, "additionalProperties": LEVEL},
        "text": {"enum": "high"},
        "itself": {"$ref": "#/properties/itself"},
    },
}


@pytest.mark.parametrize(
    ("arguments", "constants"),
    [
        ({"plain": "high"}, ""),
        ({"level": "high"}, "level"),
        ({"level": "High"}, ""),
        ({"level": 3}, "level"),
        ({"level": "3"}, ""),
        ({"level": 3.0}, ""),
        ({"level": None}, "level"),
        ({"one": "only"}, "one"),
        ({"by_name": "low"}, "by_name"),
        ({"escaped": "odd"}, "escaped"),
        ({"elsewhere": "high"}, ""),
        ({"nowhere": "high"}, ""),
        ({"any": "high"}, "any"),
        ({"one_of": "high"}, "one_of"),
        ({"all_of": "high"}, "all_of"),
        ({"list": [{"level": "high"}, {"level": "odd"}, {"level": "low"}]}, "list[0].level list[2].level"),
        ({"map": {"a": "high", "b": "odd"}}, "map.a"),
        ({"both": {"own": "high", "other": "high"}}, "both.other"),
        ({"text": "high"}, ""),
        ({"itself": "high"}, ""),
        ({"unknown": "high"}, ""),
    ],
)
def test_what_the_schema_lists_itself(arguments: dict[str, object], constants: str) -> None:
    assert constants_in(arguments, LISTED) == set(constants.split())
