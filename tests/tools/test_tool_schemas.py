"""Which schemas own tools may have, and the one form to which their arguments are brought."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import RequestInvalid
from holdfast.tools import schemas
from holdfast_verdict.canonical import canonical_bytes

LEAVES = st.one_of(
    st.fixed_dictionaries({"type": st.just("string")}, optional={"maxLength": st.integers(0, 50)}),
    st.fixed_dictionaries({"type": st.just("integer")}, optional={"minimum": st.integers(-50, 50)}),
    st.just({"type": "boolean"}),
    st.just({"type": "string", "format": "decimal"}),
    st.just({"enum": ["a", 1, None]}),
)
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(NAMES, inner, max_size=4).flatmap(
        lambda named: st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.just(named)},
            optional={"required": st.lists(st.sampled_from(sorted(named) or ["x"]), max_size=3, unique=True)},
        )
    )


SCHEMAS = objects(
    st.recursive(
        LEAVES,
        lambda inner: objects(inner) | st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        max_leaves=6,
    )
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.decimals().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(SCHEMAS, st.data())
def test_what_is_taken_is_a_fixed_point_in_canonical_form(schema: dict[str, Any], data: st.DataObject) -> None:
    schemas.check(schema)
    named = sorted(schemas.properties(schema))
    keys = st.sampled_from(named) if named else NAMES
    given_arguments = data.draw(st.dictionaries(keys | NAMES, VALUES, max_size=5))
    try:
        normal = schemas.normalise(schema, given_arguments)
    except RequestInvalid:
        return
    assert schemas.normalise(schema, normal) == normal
    assert set(normal) <= set(named), "nothing that the schema does not name gets through"
    canonical_bytes(normal)


@given(st.integers(-(10**20), 10**20), st.integers(0, 8))
def test_a_number_has_one_text(whole: int, places: int) -> None:
    text = f"{whole / 1:.0f}" if places == 0 else f"{whole}.{'5' * places}"
    schema = {"type": "object", "properties": {"amount": {"type": "string", "format": "decimal"}}}
    first = schemas.normalise(schema, {"amount": text})["amount"]
    for other in (f" {text} ", f"+{text}" if whole >= 0 else text, f"{text}0" if places else text):
        assert schemas.normalise(schema, {"amount": other})["amount"] == first


def test_numbers_of_a_model_become_decimals_where_the_schema_says_so_and_nowhere_else() -> None:
    schema = {
        "type": "object",
        "properties": {
            "price": {"type": "string", "format": "decimal"},
            "lines": {"type": "array", "items": {"type": "string", "format": "decimal"}},
            "count": {"type": "integer"},
        },
    }
    normal = schemas.normalise(schema, {"price": 12.50, "lines": [1, "2.0", 0.1], "count": 3})
    assert normal == {"price": "12.5", "lines": ["1", "2", "0.1"], "count": 3}
    for bad in (
        {"price": "12,50"},
        {"price": True},
        {"price": float("nan")},
        {"price": "1e999"},
        {"price": "1" * 50},
        {"count": 3.0},
        {"count": True},
        {"count": "3"},
        {"lines": [None]},
    ):
        with pytest.raises(RequestInvalid):
            schemas.normalise(schema, bad)


def test_what_is_not_named_is_refused_at_every_depth() -> None:
    schema = {
        "type": "object",
        "properties": {
            "to": {"type": "object", "properties": {"name": {"type": "string"}}},
            "all": {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "integer"}}}},
            "free": {"type": "object"},
        },
    }
    for bad in (
        {"bcc": 1},
        {"to": {"name": "x", "bcc": "y"}},
        {"all": [{"id": 1}, {"id": 2, "more": 3}]},
        {"free": {"anything": 1}},
    ):
        with pytest.raises(RequestInvalid, match="takes"):
            schemas.normalise(schema, bad)


def test_defaults_are_filled_in_so_that_rules_and_approvers_see_them() -> None:
    schema = {
        "type": "object",
        "properties": {
            "urgent": {"type": "boolean", "default": False},
            "options": {"type": "object", "properties": {"copies": {"type": "integer", "default": 1}}},
        },
    }
    assert schemas.normalise(schema, {}) == {"urgent": False}
    assert schemas.normalise(schema, {"options": {}}) == {"urgent": False, "options": {"copies": 1}}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "object", "properties": {"x": {"type": "number"}}}, "decimal"),
        ({"type": "object", "properties": {"x": {"type": ["number", "null"]}}}, "decimal"),
        ({"type": "object", "properties": {"x": {"anyOf": [{"type": "null"}, {"type": "number"}]}}}, "decimal"),
        ({"type": "object", "properties": {"x": {"$ref": "#/$defs/x"}}, "$defs": {"x": {}}}, r"\$ref"),
        ({"type": "object", "properties": {"x": {"type": "integer", "minimum": 0.5}}}, "float"),
        ({"type": "object", "additionalProperties": True}, "additionalProperties"),
        ({"type": "object", "properties": {"a b": {}}}, "no name of an argument"),
        ({"type": "object", "properties": {"x": {"type": "strnig"}}}, "no valid JSON Schema"),
        ({"type": "array"}, "object"),
        ({}, "object"),
    ],
)
def test_a_schema_that_would_leave_something_open_is_refused(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestInvalid, match=said):
        schemas.check(schema)


def test_names_and_values_that_look_like_keywords_are_only_names_and_values() -> None:
    schemas.check(
        {
            "type": "object",
            "properties": {"type": {"type": "string"}, "number": {"enum": ["$ref", "number"], "default": "number"}},
        }
    )


def test_no_schema_makes_checking_slow() -> None:
    """Checking happens in processes that serve all tenants: no tenant's schema may hold them up."""
    evil = {
        "type": "object",
        "properties": {
            "text": {"type": "string", "pattern": "^(a+)+(b|a)*$"},
            "list": {"type": "array", "uniqueItems": True, "items": {"type": "integer"}},
        },
    }
    schemas.check(evil)
    for given_arguments in ({"text": "a" * 60_000 + "!"}, {"list": [*range(10_000), 0]}):
        with pytest.raises(RequestInvalid):
            schemas.normalise(evil, given_arguments)
    for pattern in ("(?<=a)b", r"(a)\1", "(" * 50, "a{1000}{1000}{1000}"):
        with pytest.raises(RequestInvalid, match="no valid JSON Schema"):
            schemas.check({"type": "object", "properties": {"x": {"type": "string", "pattern": pattern}}})


def test_bounds_of_arguments() -> None:
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    with pytest.raises(RequestInvalid, match="bytes"):
        schemas.normalise(schema, {"text": "x" * schemas.ARGUMENTS_BYTES_MAX})
    for text in ("a\0b", "\ud800"):
        with pytest.raises(RequestInvalid):
            schemas.normalise(schema, {"text": text})
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        deep = {"type": "array", "items": deep}
    with pytest.raises(RequestInvalid, match="nested"):
        schemas.check({"type": "object", "properties": {"x": deep}})
