"""What bringing arguments to their form costs grows as the arguments do: steps are counted, no clock is asked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from holdfast_verdict.actions import ActionRefused, Catalogue, CatalogueInvalid, host_of, mail_domain, path_of

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/Person"}}},
}
SHAPES = {
    "anyOf": [
        {"type": "object", "properties": {"a": {"type": "integer"}}},
        {"type": "object", "properties": {"a": {"type": "string"}}},
        {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "number"}}}},
    ]
}
TEXT = {"type": "string"}
CATALOGUE = Catalogue.of(
    {
        "any": {
            "parameters": {
                "type": "object",
                "properties": {
                    "free": {},
                    "numbers": {"type": "array", "items": {"type": "number"}},
                    "mails": {"type": "array", "items": {**TEXT, "format": "email"}},
                    "shapes": {"type": "array", "items": SHAPES},
                    "person": {"$ref": "#/$defs/Person"},
                    "headers": {"type": "object", "format": "headers", "additionalProperties": TEXT},
                    **{
                        form: {**TEXT, "format": form}
                        for form in ("email", "url", "hostname", "path", "date", "decimal")
                    },
                },
                "$defs": {"Person": PERSON},
            }
        }
    }
)
ARGUMENTS: dict[str, Callable[[int], Any]] = {
    "letters": lambda n: {"free": "x" * n},
    "marks": lambda n: {"free": "a" + "\u0301\u0316" * (n // 4)},
    "letters with marks": lambda n: {"free": "e\u0301" * (n // 3)},
    "numbers": lambda n: {"numbers": [1.5] * (n // 18)},
    "members": lambda n: {"free": {f"k{index}": index for index in range(n // 14)}},
    "members of a long name": lambda n: {"free": {"k" * (n // 2): [1] * (n // 5)}},
    "mails": lambda n: {"mails": ["bob@acme.com"] * (n // 16)},
    "mails of other letters": lambda n: {"mails": ["bob@b\u00fccher.com"] * (n // 40)},
    "a union": lambda n: {"shapes": [{"a": "y"}] * (n // 10)},
    "a union that fits nowhere": lambda n: {"shapes": [{"a": None}] * (n // 10)},
    "headers": lambda n: {"headers": {f"x-{index}": "y" for index in range(n // 14)}},
    "people": lambda n: {"person": {"kids": [{"name": "x", "kids": []}] * (n // 24)}},
    "what is unknown": lambda n: {f"k{index}": 1 for index in range(n // 10)},
    "what is of another type": lambda n: {"numbers": ["x"] * (n // 4)},
    **{f"a long {form}": lambda n, form=form: {form: "a." * (n // 2)} for form in ("email", "hostname", "decimal")},  # type: ignore[misc]  # the default binds the name
    "at signs": lambda n: {"email": "@" * n},
    "steps upwards": lambda n: {"url": "https://a.example/" + "../" * (n // 3)},
    "slashes": lambda n: {"path": "/" * n},
    "JSON with a key twice": lambda n: "{" + "".join(f'"k{index}":1,' for index in range(n // 10)) + '"k1":2}',
    "JSON that never ends": lambda n: "[" * n,
    "JSON of digits": lambda n: '{"numbers":[' + "9" * n + "]}",
    "JSON of spaces": lambda n: " " * n + "{}",
}
SIZE = 4_096


def steps(call: Callable[[], object]) -> int:
    """Returns how many functions are called, C's among them."""
    count = 0

    def counted(_frame: object, event: str, _what: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        call()
    except ActionRefused:
        pass
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("name", ARGUMENTS)
def test_four_times_the_arguments_are_four_times_the_steps(name: str) -> None:
    make = ARGUMENTS[name]
    CATALOGUE.schema("any")
    one, four = make(SIZE), make(SIZE * 4)
    steps(lambda: CATALOGUE.action("any", make(64)))  # what is made once is made here
    small = steps(lambda: CATALOGUE.action("any", one))
    assert steps(lambda: CATALOGUE.action("any", four)) <= 4.4 * small + 200


@pytest.mark.parametrize("reading", [mail_domain, host_of, path_of], ids=lambda each: each.__name__)
def test_a_reading_of_long_text_ends_at_once(reading: Callable[[object], object]) -> None:
    for text in ("a" * 60_000, "@" * 60_000, "a." * 30_000, "/" * 60_000, "\u00e9" * 60_000):
        assert steps(lambda text=text: reading(text)) < 100  # type: ignore[misc]  # the default binds the text


def nested(depth: int) -> dict[str, Any]:
    """Returns a schema of as many unions in each other, each of which doubles the ways down."""
    definitions: dict[str, Any] = {"d0": {"type": "object", "properties": {"x": TEXT}}}
    for level in range(1, depth):
        inner = {"$ref": f"#/$defs/d{level - 1}"}
        definitions[f"d{level}"] = {
            "anyOf": [
                {"type": "object", "properties": {"c": inner, "x": {"const": 1}}},
                {"type": "object", "properties": {"c": inner, "x": {"const": 2}}},
            ]
        }
    return {"type": "object", "properties": {"c": {"$ref": f"#/$defs/d{depth - 1}"}}, "$defs": definitions}


@pytest.mark.parametrize(
    "definitions",
    [
        {"a": {"$ref": "#/$defs/a"}},
        {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        {"a": {"anyOf": [{"$ref": "#/$defs/a"}, TEXT]}},
        {"a": {"allOf": [{"$ref": "#/$defs/a"}, TEXT]}},
        {"a": {"oneOf": [{"anyOf": [{"$ref": "#/$defs/a"}]}, {"type": "integer"}]}},
        {"a": {"$ref": "#/$defs/d0"}, "d5000": TEXT, **{f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(5000)}},
        {"a": {"$ref": "#/$defs/d0"}, "d5000": TEXT, **{f"d{n}": {"$ref": f"#/$defs/d{n + 1}", "minLength": 1} for n in range(5000)}},
    ],
    ids=["itself", "each other", "a union", "a merge", "unions", "a chain", "a chain that says more"],
)  # fmt: skip
def test_references_without_an_end_are_refused_and_not_followed_for_ever(definitions: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}}, "$defs": definitions}
    with pytest.raises(CatalogueInvalid, match=r"without an end|in each other"):
        Catalogue.of({"x": {"parameters": schema}})


def test_schemas_that_would_multiply_the_work_are_refused() -> None:
    Catalogue.of({"x": {"parameters": nested(6)}})
    with pytest.raises(CatalogueInvalid, match="references are followed"):
        Catalogue.of({"x": {"parameters": nested(30)}})
    back = {"$ref": "#/$defs/Tree"}
    for branches, taken in (
        ([{"type": "object", "properties": {"a": back}}, {"type": "object", "properties": {"b": back}}], False),
        ([{"type": "array", "items": back}, {"type": "object", "additionalProperties": back}, TEXT], True),
    ):
        schema = {"type": "object", "properties": {"tree": back}, "$defs": {"Tree": {"anyOf": branches}}}
        if taken:
            Catalogue.of({"x": {"parameters": schema}}).action("x", {"tree": [{"a": ["b"]}]})
        else:
            with pytest.raises(CatalogueInvalid, match="lead back"):
                Catalogue.of({"x": {"parameters": schema}})


def test_a_value_that_shares_its_parts_costs_no_more_than_the_largest_that_is_taken() -> None:
    laughs: Any = "ha"
    for _ in range(6):
        laughs = [laughs] * 10
    with pytest.raises(ActionRefused) as refusal:
        CATALOGUE.action("any", {"free": laughs})
    assert refusal.value.code == "json.size"
    assert steps(lambda: CATALOGUE.action("any", {"free": laughs})) < 1_000_000
