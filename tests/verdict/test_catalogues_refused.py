"""What no catalogue takes: the place, what is wrong, and what to write instead."""

from __future__ import annotations

from typing import Any, Final

import pytest

from holdfast_verdict.actions import Catalogue, CatalogueInvalid
from holdfast_verdict.actions.formats import FORMATS

REFUSED: Final[list[tuple[Any, str, str, str]]] = [  # Any: what callers may write
    # an entry; where, what is wrong, and the remedy
    (5, "", "is not a mapping", 'write {"parameters": {…}}'),
    (
        {"paramters": {}},
        "paramters",
        "is not known here",
        "write parameters, formats, yields, description, external, idempotent, reversible",
    ),
    ({"external": 1}, "external", "is neither true nor false", ""),
    ({"reversible": "no"}, "reversible", "is neither true nor false", ""),
    ({"formats": ["x"]}, "formats", "is not format by argument", 'write {"to": "email"}'),
    ({"formats": {"x": 1}}, "formats", "is not format by argument", 'write {"to": "email"}'),
    ({"yields": "untrusted"}, "yields", "is neither labels nor labels by field", 'write ["untrusted"]'),
    ({"yields": {"a": "b"}}, "yields", "is neither labels nor labels by field", 'write ["untrusted"]'),
    ({"yields": [1]}, "yields", "is neither labels nor labels by field", 'write ["untrusted"]'),
    ({"parameters": {"a": {1, 2}}}, "parameters", "is not JSON: Type is not JSON serializable: set", ""),
    ({"parameters": []}, "parameters", "is not a JSON Schema", 'write {"type": "object", "properties": {…}}'),
    (
        {"parameters": {"type": "objct"}},
        "parameters.type",
        "is not valid JSON Schema: \"objct\" is not valid under any of the schemas listed in the 'anyOf' keyword",
        "",
    ),
    (
        {"parameters": {"type": "string"}},
        "parameters.type",
        "the arguments of a tool are an object",
        'write "type": "object"',
    ),
    (
        {"parameters": {"type": "object", "additionalProperties": True}},
        "parameters.additionalProperties",
        "would let through what nothing describes",
        "name the arguments, and leave it out",
    ),
    (
        {"parameters": {"type": "object", "additionalProperties": {}}},
        "parameters.additionalProperties",
        "would let through what nothing describes",
        "name the arguments, and leave it out",
    ),
    (
        {"parameters": {"type": "object", "unevaluatedProperties": True}},
        "parameters.unevaluatedProperties",
        "would let through what nothing describes",
        "leave it out",
    ),
    (
        {"parameters": {"type": "object", "patternProperties": {"a": {}}}},
        "parameters.patternProperties",
        "is not taken",
        "name each property under `properties`",
    ),
    (
        {"parameters": {"type": "object", "properties": {"a": {"$ref": "https://x/y"}}}},
        "parameters.properties.a",
        "refers to 'https://x/y', outside of itself",
        "write what it refers to under $defs",
    ),
    (
        {"parameters": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}},
        "parameters.properties.a",
        "refers to '#/$defs/a', which is not there",
        "",
    ),
    (
        {
            "parameters": {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/a"}},
                "$defs": {"a": {"$ref": "#/$defs/a"}},
            }
        },
        "parameters",
        "has a reference that leads to itself without an end",
        "write what it stands for",
    ),
    (
        {"parameters": {"type": "object", "properties": {"$a": {}}}},
        "parameters",
        "names '$a', which starts with $ as Holdfast's own do",
        "rename it",
    ),
    (
        {"parameters": {"type": "object", "properties": {"é": {}}}},
        "parameters",
        "names 'é', which is not printable ASCII",
        "rename it",
    ),
    (
        {"parameters": {"type": "object", "properties": {"a": {"type": "string"}}}, "formats": {"a": "emial"}},
        "formats.a",
        "there is no format 'emial'",
        f"write one of {', '.join(sorted(FORMATS))}",
    ),
    (
        {"parameters": {"type": "object", "properties": {"a": {"type": "string"}}}, "formats": {"b": "email"}},
        "formats.b",
        "names no text of the schema",
        "name an argument that is a string",
    ),
    (
        {"parameters": {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)b"}}}},
        "parameters.properties.a.pattern",
        'cannot be checked in linear time: "(?=a)b" is not a "regex"',
        "",
    ),
    (
        {"parameters": {"type": "object", "allOf": [False]}},
        "parameters.allOf.0",
        "is not a schema that can be merged",
        "",
    ),
    (
        {"parameters": {"type": "object", "properties": {"a": {"not": {"$ref": "#/$defs/b"}}}, "$defs": {"b": {}}}},
        "parameters.properties.a.not",
        "has a reference inside of what only checks",
        "write what it refers to in its place",
    ),
    (
        {
            "parameters": {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/n"}},
                "$defs": {
                    "n": {
                        "anyOf": [
                            {"type": "object", "properties": {"x": {"$ref": "#/$defs/n"}}},
                            {"type": "object", "properties": {"y": {"$ref": "#/$defs/n"}}},
                        ]
                    }
                },
            }
        },
        "parameters",
        "has a union in which two branches of the type object lead back into it",
        "join these branches into one",
    ),
]


@pytest.mark.parametrize("word", ["anyOf", "oneOf"])
def test_a_branch_is_named_by_its_number(word: str) -> None:
    branches = [{"type": "string"}, {"type": "object", "properties": {"$a": {}}}]
    entry = {"parameters": {"type": "object", "properties": {"x": {word: branches}}}}
    with pytest.raises(CatalogueInvalid) as refused:
        Catalogue.of({"t": entry})
    assert refused.value.path == f"parameters.properties.x.{word}.1"


@pytest.mark.parametrize(("entry", "path", "message", "remedy"), REFUSED)
def test_an_entry_is_refused_in_so_many_words(entry: Any, path: str, message: str, remedy: str) -> None:
    with pytest.raises(CatalogueInvalid) as refused:
        Catalogue.of({"t": entry})
    assert (refused.value.action, refused.value.path) == ("t", path)
    assert (refused.value.message, refused.value.remedy) == (message, remedy)


@pytest.mark.parametrize("name", ["", "a b", "a/b", 5, "é", "a\n"])
def test_a_name_is_letters_digits_and_dots(name: Any) -> None:
    with pytest.raises(CatalogueInvalid) as refused:
        Catalogue.of({name: {}})
    assert (refused.value.action, refused.value.path) == (str(name), "")
    assert (refused.value.message, refused.value.remedy) == (
        "is no name of an action",
        "write letters, digits, _, - and dots",
    )


def test_an_entry_is_taken_whole() -> None:
    written = {
        "external": False,
        "idempotent": True,
        "reversible": True,
        "description": "d",
        "yields": {"a": ["x"], "b": []},
    }
    about = Catalogue.of({"t": written}).types["t"]
    assert (about.name, about.external, about.idempotent, about.reversible) == ("t", False, True, True)
    assert (about.description, dict(about.yields), about.kind) == ("d", {"a": ("x",)}, "tool.call")
    plain = Catalogue.of({"t": {"yields": ["x", "y"]}}).types["t"]
    assert (plain.external, plain.idempotent, plain.reversible) == (True, False, False)
    assert (plain.description, dict(plain.yields)) == ("", {"": ("x", "y")})
    assert Catalogue.of({"t": plain}).types["t"] is plain
    with pytest.raises(CatalogueInvalid, match="stands for the action type 't'; use one name"):
        Catalogue.of({"u": plain})
