"""Canonical actions: what becomes of arguments along real schemas."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from holdfast_verdict.actions import ActionRefused, Catalogue, CatalogueInvalid
from holdfast_verdict.actions.codes import CODES

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/Person"}}},
}
SEND = {
    "parameters": {
        "type": "object",
        "properties": {
            "to": {"type": "array", "items": {"type": "string", "format": "email"}},
            "amount": {"type": "number", "maximum": 500},
            "copies": {"type": "integer", "default": 1},
            "cc": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}], "default": None},
            "who": {"$ref": "#/$defs/Person"},
            "free": {},
        },
        "required": ["to"],
        "$defs": {"Person": PERSON},
    },
    "formats": {"cc": "email"},
}
CATALOGUE = Catalogue.of({"send": SEND}).with_builtin_kinds()


def canonical(arguments: Any, name: str = "send") -> Any:
    action = CATALOGUE.action(name, arguments)
    again = CATALOGUE.action(name, action.arguments())
    assert again == action, "bringing it to its form again changes nothing"
    return action.value["args"]


def refused(arguments: Any, name: str = "send") -> str:
    with pytest.raises(ActionRefused) as refusal:
        CATALOGUE.action(name, arguments)
    assert refusal.value.code in CODES.keys() | {"action.unknown"}
    return refusal.value.code


def test_the_canonical_action_says_kind_tool_and_arguments() -> None:
    action = CATALOGUE.action("send", {"to": ["Bob@ACME.com"]})
    assert action.canonical == (
        b'{"args":{"cc":null,"copies":1,"to":["bob@acme.com"]},"kind":"tool.call","tool":"send"}'
    )
    assert (action.name, action.kind, action.external) == ("send", "tool.call", True)
    call = CATALOGUE.action("http.request", {"url": "https://API.stripe.com:443", "method": "GET"})
    assert call.canonical == b'{"args":{"method":"GET","url":"https://api.stripe.com/"},"kind":"http.request"}'


def amount(written: str) -> str:
    return f'{{"to":[],"amount":{written}}}'


def test_numbers_have_one_form_and_keep_all_digits() -> None:
    for written in (100, 100.0, "1e2", "100.00", "1E+2"):
        assert (
            canonical(amount(written) if isinstance(written, str) else {"to": [], "amount": written})["amount"] == 100
        )
    for written in ("12.5", "12.50", "1.25e1", "0.125e2"):
        assert canonical(amount(written))["amount"] == {"$number": "12.5"}
    assert canonical({"to": [], "amount": 0.1})["amount"] == {"$number": "0.1"}
    assert canonical('{"to":[],"amount":-0.0}')["amount"] == 0
    exact = '{"to":[],"amount":499.99999999999999999999}'
    assert CATALOGUE.action("send", exact).arguments()["amount"] == Decimal("499.99999999999999999999")
    assert refused('{"to":[],"amount":500.00000000000000000001}') == "schema.mismatch"
    assert refused({"to": [], "copies": 1.5}) == "number.fraction"
    assert refused('{"to":[],"amount":9007199254740992}') == "number.range"
    assert refused('{"to":[],"amount":1e400}') == "number.range"
    assert refused('{"to":[],"amount":1e99999999999999999999}') == "number.range"
    assert refused({"to": [], "amount": float("nan")}) == "number.not_finite"
    assert refused({"to": [], "amount": True}) == "schema.mismatch"
    assert refused({"to": [], "amount": "5"}) == "schema.mismatch"


@pytest.mark.parametrize(
    ("form", "written", "becomes"),
    [
        ("ipv4", "192.0.2.1", "192.0.2.1"),
        ("ipv4", "127.1", "host.number"),
        ("ipv4", "::1", "host.form"),
        ("ipv4", "a1", "host.form"),
        ("ipv6", "2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("ipv6", "[2001:db8::1]", "2001:db8::1"),
        ("ipv6", "::ffff:127.0.0.1", "host.embedded_address"),
        ("ipv6", "fe80::1%eth0", "host.form"),
        ("ip", "127.0.0.1", "127.0.0.1"),
        ("ip", "localhost", "host.form"),
        ("line", "Re: your order – größer 😀", "Re: your order – größer 😀"),
        ("line", "Re:\x0bx", "text.line"),
        ("line", "hi\r\nBcc: eve@evil.example", "text.line"),
        ("line", "hi\nBcc: eve@evil.example", "text.line"),
        ("line", "a\u2028b", "text.line"),
        ("line", "a\x85b", "text.line"),
        ("line", "pay \u202egnp.exe", "text.line"),
        ("header", "a\r\nb: c", "header.value"),
        ("header", "text/html; q=0.9", "text/html; q=0.9"),
        ("date", "2024-02-29", "2024-02-29"),
        ("date", "2023-02-29", "date.form"),
        ("date", "2024-2-9", "date.form"),
        ("date", "٢٠٢٤-01-01", "date.form"),
        ("date-time", "2024-05-15T10:00:00+02:00", "2024-05-15T08:00:00Z"),
        ("date-time", "2024-05-15t08:00:00.500z", "2024-05-15T08:00:00.5Z"),
        ("date-time", "2024-05-15 10:00", "2024-05-15T10:00:00"),
        ("date-time", "0001-01-01T00:00:00+01:00", "date.form"),
        ("date-time", "2024-05-15T10:00:00+99:00", "date.form"),
        ("decimal", " +012.50 ", "12.5"),
        ("decimal", "1e3", "1000"),
        ("decimal", "-0.0", "0"),
        ("decimal", "1_000", "decimal.form"),
        ("decimal", "1,5", "decimal.form"),
        ("decimal", "NaN", "decimal.form"),
        ("decimal", "1e999999999", "decimal.form"),
        ("decimal", "٥", "decimal.form"),
        ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("uuid", "a0eebc999c0b4ef8bb6d6bb9bd380a11", "uuid.form"),
        ("time", "25:00:00Z", "schema.mismatch"),
        ("nobody-knows-this", "any text", "any text"),
        # a number is taken where its text is
        ("decimal", 12.5, "12.5"),
        ("decimal", 2**53 - 1, "9007199254740991"),
        ("decimal", 1.5e-37, "0.00000000000000000000000000000000000015"),
        ("decimal", 1.5e-38, "decimal.form"),
        ("decimal", -4.426291153485151e-32, "decimal.form"),
    ],
)
def test_formats_beside_those_of_the_corpus(form: str, written: str | float, becomes: str) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string", "format": form}}}
    catalogue = Catalogue.of({"x": {"parameters": schema}})
    if becomes in CODES:
        with pytest.raises(ActionRefused) as refusal:
            catalogue.action("x", {"x": written})
        assert refusal.value.code == becomes
    else:
        action = catalogue.action("x", {"x": written})
        assert action.args["x"] == becomes
        assert catalogue.action("x", action.arguments()) == action


def test_real_schemas_are_taken_as_they_are_written() -> None:
    """What pydantic and makers of tools write: unions with null, references, merged objects, text patterns of decimals."""
    animal = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Arguments",
        "type": "object",
        "properties": {
            "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None, "title": "Limit"},
            "price": {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}]},
            "pet": {
                "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
                "discriminator": {"propertyName": "kind"},
            },
            "color": {"allOf": [{"$ref": "#/$defs/Color"}], "default": "red", "description": "which"},
            "meta": {"additionalProperties": True, "type": "object"},
            "bag": {"type": "object"},
            "scores": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "number"}}},
            "pair": {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "minItems": 2,
                "maxItems": 2,
            },
        },
        "$defs": {
            "Color": {"enum": ["red", "green"], "type": "string"},
            "Animal": animal,
            "Cat": {
                "allOf": [
                    {"$ref": "#/$defs/Animal"},
                    {
                        "type": "object",
                        "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}},
                        "required": ["kind"],
                    },
                ]
            },
            "Dog": {
                "type": "object",
                "properties": {"kind": {"const": "dog"}, "good": {"type": "boolean", "default": True}},
            },
        },
    }
    catalogue = Catalogue.of({"x": {"parameters": schema}})

    def args(**given: Any) -> Any:
        action = catalogue.action("x", given)
        assert catalogue.action("x", action.arguments()) == action
        return action.args

    assert args() == {"limit": None, "color": "red"}
    sloppy = Catalogue.of(
        {"x": {"parameters": {"type": "object", "properties": {"name": {"type": "string", "default": None}}}}}
    )
    assert sloppy.action("x", {}).args == {}
    assert args(price="5.50")["price"] == "5.5"
    assert args(price=5.5)["price"] == {"$number": "5.5"}
    assert args(pet={"kind": "cat", "name": "x", "lives": 9})["pet"] == {"kind": "cat", "name": "x", "lives": 9}
    assert args(pet={"kind": "dog"})["pet"] == {"kind": "dog", "good": True}
    assert args(meta={"a": [1]}, bag={"b": {}})["bag"] == {"b": {}}
    assert args(scores={"x": [1.5, 2]})["scores"] == {"x": [{"$number": "1.5"}, 2]}
    assert args(pair=[1, "x"])["pair"] == [1, "x"]
    for wrong in (
        {"pet": {"kind": "dog", "lives": 9}},
        {"pet": {"kind": "cat", "name": "x", "good": True}},
        {"pet": {"kind": "cat"}},
        {"pet": {"kind": "fox"}},
        {"color": "blue"},
        {"pair": ["x", 1]},
        {"scores": {"x": "1"}},
        {"limit": "5"},
    ):
        with pytest.raises(ActionRefused):
            catalogue.action("x", wrong)


def test_nothing_unknown_gets_through_at_any_depth() -> None:
    assert refused({"to": [], "bcc": []}) == "schema.unknown_field"
    assert refused({"to": [], "who": {"nme": "x"}}) == "schema.unknown_field"
    assert refused({"to": [], "who": {"kids": [{"kids": [{"x": 1}]}]}}) == "schema.unknown_field"
    assert refused({}) == "schema.missing_field"
    assert refused({}, "burn") == "action.unknown"
    assert canonical({"to": [], "free": {"x": [1.5, None]}})["free"] == {"x": [{"$number": "1.5"}, None]}
    assert refused({"to": [], "free": {"$number": "1.5"}}) == "json.key_name"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"to":[],"to":["a@b.example"]}', "json.duplicate_key"),
        ('{"to":[]}x', "json.syntax"),
        ('\ufeff{"to":[]}', "json.encoding"),
        (b'{"to":["\xff"]}', "json.encoding"),
        ('{"to":[],"free":NaN}', "number.not_finite"),
        ('{"to":[],"free":"\\ud800"}', "text.surrogate"),
        ('{"to":[],"free":"a\\u0000b"}', "text.nul"),
        ("[]", "json.type"),
        ("{" * 100_000, "json.syntax"),
        ("[" * 100_000, "json.depth"),
        ('{"to":[],"free":' + "[" * 100 + "]" * 100 + "}", "json.depth"),
        ('{"to":[],"free":"' + "x" * 70_000 + '"}', "json.size"),
        (" " * 300_000, "json.size"),
    ],
)
def test_json_that_readers_read_differently_is_refused(text: str | bytes, code: str) -> None:
    assert refused(text) == code


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"parameters": {"type": "array"}}, "object"),
        ({"parameters": {"type": "object", "additionalProperties": True}}, "nothing describes"),
        ({"parameters": {"type": "object", "properties": {"x": {"$ref": "https://a.example/x"}}}}, "outside of itself"),
        ({"parameters": {"type": "object", "properties": {"x": {"$ref": "#/$defs/x"}}}}, "not there"),
        ({"parameters": {"type": "object", "properties": {"x": {"type": "strnig"}}}}, "valid JSON Schema"),
        ({"parameters": {"type": "object", "properties": {"x": {"pattern": "(?=a)b"}}}}, "linear"),
        ({"parameters": {"type": "object", "properties": {"x": {"patternProperties": {}}}}}, "not taken"),
        ({"parameters": {}, "formats": {"to": "email"}}, "no text"),
        ({"parameters": {}, "formats": {"to": "mail"}}, "no format"),
        ({"parameter": {}}, "not known"),
        ({"external": "yes"}, "neither true nor false"),
        ({"yields": "secret"}, "labels"),
    ],
)
def test_a_catalogue_that_would_leave_something_open_is_refused(entry: Any, said: str) -> None:
    with pytest.raises(CatalogueInvalid, match=said):
        Catalogue.of({"x": entry})
    with pytest.raises(CatalogueInvalid, match="no name"):
        Catalogue.of({"tool.call": {}})


def test_a_default_that_holds_itself_is_refused_and_not_filled_in_for_ever() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node", "default": {}}}}
    catalogue = Catalogue.of(
        {
            "x": {
                "parameters": {"type": "object", "properties": {"n": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": node}}
            }
        }
    )
    with pytest.raises(ActionRefused, match="holds itself"):
        catalogue.action("x", {"n": {}})
