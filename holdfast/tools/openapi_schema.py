"""Schemas of OpenAPI documents as JSON Schemas of arguments: written out, closed, and without floats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from holdfast.tools.http_message import escape
from holdfast.tools.openapi_document import Document, Node, Unsupported
from holdfast.tools.schemas import DECIMAL
from holdfast_verdict.actions.numbers import decimal_text
from holdfast_verdict.canonical import MAX_INTEGER
from holdfast_verdict.sealing import PERSONAL

NODES_MAX: Final = 5_000
DEPTH_MAX: Final = 20

_KEPT: Final[Mapping[str, tuple[str, ...]]] = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": ("minItems", "maxItems", "uniqueItems"),
    "object": ("minProperties", "maxProperties"),
}
_LIMITS: Final = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
}
# What these say of a value cannot be left out without letting through what the service did not describe.
_NOT_UNDERSTOOD: Final = (
    "not", "if", "then", "else", "patternProperties", "propertyNames", "prefixItems", "contains", "dependentRequired",
    "dependentSchemas", "$dynamicRef", "$recursiveRef",
)  # fmt: skip

Schema = dict[str, Any]  # JSON of any shape, checked by `schemas.check` in the end
Path = tuple[str, ...]


class SchemaReader:
    """Reads schemas of one operation.

    Attributes:
        numbers: Paths of the decimals that the service takes as JSON numbers, in the value that is being read.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self._nodes = 0
        self.numbers: list[Path] = []

    def read(self, value: object) -> Schema:
        """Returns a value's schema, and leaves the paths of its numbers in `numbers`.

        Raises:
            Unsupported: It says what cannot be said here.
        """
        self.numbers = []
        return _without_unknown(self._read(value, (), ()))

    def _read(self, value: object, path: Path, references: tuple[str, ...]) -> Schema:
        self._nodes += 1
        if self._nodes > NODES_MAX or len(path) > DEPTH_MAX or len(references) > DEPTH_MAX:
            raise Unsupported(f"{_where(path)} is too large or too deep when written out")
        if value is True:
            return {}
        if not isinstance(value, Mapping):
            raise Unsupported(f"{_where(path)} has no schema")
        if isinstance(reference := value.get("$ref"), str):
            if reference in references:
                raise Unsupported(f"{_where(path)}: {reference} contains itself, so it cannot be written out")
            schema = self._read(self._document.find(reference), path, (*references, reference))
            return _described(schema, value)
        if keyword := next((each for each in _NOT_UNDERSTOOD if each in value), None):
            raise Unsupported(f"{_where(path)} has `{keyword}`, which is not supported")
        for several in ("allOf", "oneOf", "anyOf"):
            if isinstance(value.get(several), list):
                rest = {key: member for key, member in value.items() if key != several}
                if several == "allOf":
                    return self._all_of(value[several], rest, path, references)
                return self._one_of(several, value[several], rest, path, references)
        return self._plain(value, path, references)

    def _plain(self, node: Node, path: Path, references: tuple[str, ...]) -> Schema:
        kinds, nullable = self._kinds(node)
        if "number" in kinds:
            schema = self._number(node, kinds, path)
        else:
            schema = {"type": kinds[0]} if len(kinds) == 1 else {"type": list(kinds)} if kinds else {}
            for kind in kinds:
                schema |= {key: node[key] for key in _KEPT.get(kind, ()) if key in node}
            if schema.get("format") == "binary":
                raise Unsupported(f"{_where(path)} is a file, which is not supported")
            if "integer" in kinds:
                _whole(schema)
            if "array" in kinds and "items" in node:
                schema["items"] = self._read(node["items"], (*path, "*"), references)
            if "object" in kinds:
                schema |= self._object(node, path, references)
            schema |= {key: node[key] for key in ("enum", "const", "default") if key in node}
        if schema.get("default", 0) is None:
            del schema["default"]
        if nullable:
            schema = _or_null(schema)
        return _described(schema, node)

    def _kinds(self, node: Node) -> tuple[tuple[str, ...], bool]:
        """Returns the types that a value may have, less `null`, and whether it may be null."""
        given = node.get("type")
        if given is None:
            given = "object" if {"properties", "required"} & set(node) else "array" if "items" in node else []
        kinds = [given] if isinstance(given, str) else list(given) if isinstance(given, list) else []
        nullable = "null" in kinds or (self._document.is_3_0 and node.get("nullable") is True)
        return tuple(str(kind) for kind in kinds if kind != "null"), nullable

    def _number(self, node: Node, kinds: Sequence[str], path: Path) -> Schema:
        if set(kinds) - {"number", "integer"}:
            raise Unsupported(f"{_where(path)} is a number or something else, which is not supported")
        self.numbers.append(path)
        schema: Schema = {"type": "string", "format": DECIMAL}
        for key in ("const", "default"):
            if node.get(key) is not None:
                schema[key] = _decimal(node[key], path)
        if isinstance(node.get("enum"), list):
            schema["enum"] = [None if each is None else _decimal(each, path) for each in node["enum"]]
        bounds = _limits_3_0(node)
        limits = [
            words.format(decimal_text(bounds[key])) for key, words in _LIMITS.items() if decimal_text(bounds.get(key))
        ]
        schema["description"] = "a decimal number" + (f", {', '.join(limits)}" if limits else "")
        return schema

    def _object(self, node: Node, path: Path, references: tuple[str, ...]) -> Schema:
        named = node.get("properties", {})
        if not isinstance(named, Mapping):
            raise Unsupported(f"{_where(path)}: properties is no object")
        properties: Schema = {}
        for name, member in named.items():
            if not _flag(self._document, member, "readOnly"):
                properties[str(name)] = self._read(member, (*path, escape(str(name))), references)
        schema: Schema = {"properties": properties}
        if isinstance(node.get("required"), list):
            schema["required"] = [str(name) for name in node["required"]]
        more = node.get("additionalProperties", not {"properties", "required"} & set(node))
        if more is True:
            schema["additionalProperties"] = True
        elif isinstance(more, Mapping):
            schema["additionalProperties"] = self._without_numbers(more, path, references)
        return schema

    def _without_numbers(self, value: object, path: Path, references: tuple[str, ...]) -> Schema:
        before = len(self.numbers)
        schema = self._read(value, path, references)
        if len(self.numbers) > before:
            raise Unsupported(
                f"{_where(path)} has a `number` where its place depends on the value, which is not supported"
            )
        return schema

    def _all_of(self, members: Sequence[object], rest: Node, path: Path, references: tuple[str, ...]) -> Schema:
        """Returns one schema that says what all of them say: their properties together."""
        parts = [self._read(member, path, references) for member in members]
        if set(rest) & {"type", "properties", "required", "nullable", "enum", "items", "anyOf", "oneOf"}:
            parts.append(self._read({key: rest[key] for key in rest if key != "description"}, path, references))
        merged: Schema = {}
        for part in parts:
            for key, member in part.items():
                if key == "properties":
                    both = merged.setdefault("properties", {})
                    if clash := next((name for name in member if name in both and both[name] != member[name]), None):
                        raise Unsupported(f"{_where((*path, clash))} is described twice, each time differently")
                    both |= member
                elif key == "required":
                    merged["required"] = list(dict.fromkeys([*merged.get("required", ()), *member]))
                elif key == "description":
                    merged.setdefault(key, member)
                elif merged.setdefault(key, member) != member:
                    raise Unsupported(f"{_where(path)}: the parts of its allOf disagree about `{key}`")
        return _described(merged, rest)

    def _one_of(
        self, several: str, members: Sequence[object], rest: Node, path: Path, references: tuple[str, ...]
    ) -> Schema:
        variants = [one for one in members if not (isinstance(one, Mapping) and one.get("type") == "null")]
        nullable = len(variants) < len(members) or (self._document.is_3_0 and rest.get("nullable") is True)
        kinds = [one.get("type") if isinstance(one, Mapping) else None for one in variants]
        if sorted(map(str, kinds)) == ["number", "string"]:
            # taken as text as well: then it is sent as text
            variants = [one for one, kind in zip(variants, kinds, strict=True) if kind == "string"]
        if set(rest) & {"properties", "items", "enum", "required"}:
            raise Unsupported(
                f"{_where(path)} has {several} beside what all of its forms share, which is not supported"
            )
        if len(variants) == 1:
            schema = self._read(variants[0], path, references)
            return _described(_or_null(schema) if nullable else schema, rest)
        each = [self._without_numbers(one, path, references) for one in variants]
        schema = {several: [*each, {"type": "null"}] if nullable else each}
        if rest.get("default") is not None:
            schema["default"] = rest["default"]
        return _described(schema, rest)


def _where(path: Path) -> str:
    return f"`{'.'.join(path)}`" if path else "its schema"


def _described(schema: Schema, node: Node) -> Schema:
    """Returns the schema with what the document says of it, before what was said of it here, and whether it is personal."""
    if node.get("writeOnly") is True or isinstance(node.get(PERSONAL), bool):
        schema = {**schema, PERSONAL: node.get(PERSONAL, True)}
    description = node.get("description")
    if not isinstance(description, str) or not description.strip():
        return schema
    mine = schema.get("description", "")
    said = description.strip()
    return {**schema, "description": f"{said} ({mine})" if mine.startswith("a decimal number") else said}


def _or_null(schema: Schema) -> Schema:
    schema = dict(schema)
    if "enum" in schema and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    kinds = schema.get("type")
    if kinds is not None:
        schema["type"] = [*([kinds] if isinstance(kinds, str) else kinds), "null"]
    return schema


def _without_unknown(schema: Schema) -> Schema:
    """Returns a schema that requires only what it takes: what is read-only was left out."""
    tidy = dict(schema)
    if "properties" in tidy:
        tidy["properties"] = {name: _without_unknown(member) for name, member in tidy["properties"].items()}
        if required := [name for name in tidy.pop("required", ()) if name in tidy["properties"]]:
            tidy["required"] = required
    for key in ("items", "additionalProperties"):
        if isinstance(tidy.get(key), dict):
            tidy[key] = _without_unknown(tidy[key])
    for key in ("oneOf", "anyOf"):
        if key in tidy:
            tidy[key] = [_without_unknown(member) for member in tidy[key]]
    return tidy


def _limits_3_0(node: Node) -> Schema:
    """Returns a number's limits, those of 3.0 (`exclusiveMinimum: true`) as those of 3.1."""
    limits = {key: node[key] for key in _LIMITS if key in node}
    for exclusive, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(limits.get(exclusive), bool) and limits.pop(exclusive) and limit in limits:
            limits[exclusive] = limits.pop(limit)
    return limits


def _whole(schema: Schema) -> None:
    """Brings an integer's limits to whole numbers; those beyond what canonical JSON has say nothing more."""
    limits = _limits_3_0(schema)
    for key in _LIMITS:
        schema.pop(key, None)
    for key, value in limits.items():
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        if isinstance(whole, int) and abs(whole) <= MAX_INTEGER:
            schema[key] = whole


def _decimal(value: object, path: Path) -> str:
    text = decimal_text(value)
    if text is None:
        raise Unsupported(f"{_where(path)}: {str(value)[:50]!r} is no number")
    return text


def _flag(document: Document, value: object, name: str) -> bool:
    if not isinstance(value, Mapping):
        return False
    if value.get(name) is True:
        return True
    return isinstance(value.get("$ref"), str) and document.follow(value, name).get(name) is True
