"""JSON Schemas of arguments, as far as closing them, asking what they take and checking with them have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from jsonschema_rs import Draft202012Validator, RegexOptions

FORM: Final = "x-form"
UNIONS: Final = ("anyOf", "oneOf")

Schema = Mapping[str, Any]  # JSON of any shape, checked where it is read

_PATTERN_BYTES_MAX: Final = 200_000
_TYPES: Final = ("object", "array", "string", "integer", "number", "boolean", "null")


class SchemaRefused(ValueError):
    """A schema cannot be taken; the place and the remedy go with it."""

    def __init__(self, path: str, message: str, remedy: str = "") -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message
        self.remedy = remedy


def below(path: str, *words: str | int) -> str:
    """Returns a place further down."""
    return ".".join((path, *map(str, words)))


def types_of(schema: Schema) -> tuple[str, ...]:
    """Returns the JSON types that a closed schema takes, as far as it says so itself."""
    written = schema.get("type")
    if isinstance(written, str):
        return ("integer", "number") if written == "number" else (written,)
    if isinstance(written, list):
        return (*written, "integer") if "number" in written else tuple(written)
    if "const" in schema:
        return (_type_of(schema["const"]),)
    if "enum" in schema:
        return tuple(_type_of(value) for value in schema["enum"])
    return _TYPES


def _type_of(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    for name, kind in (("integer", int), ("number", float), ("string", str), ("array", list)):
        if isinstance(value, kind):
            return name
    return "object"


def validator(schema: Schema) -> Draft202012Validator:
    """Returns what checks values against a closed schema, in linear time and without fetching anything."""
    return Draft202012Validator(
        dict(schema), pattern_options=RegexOptions(size_limit=_PATTERN_BYTES_MAX), validate_formats=True, offline=True
    )


def parts_of(part: dict[str, Any]) -> Iterator[Any]:
    """Yields the schemas that stand right inside a closed one."""
    yield from part.get("properties", {}).values()
    for word in ("additionalProperties", "items"):
        if word in part:
            yield part[word]
    for word in ("prefixItems", *UNIONS):
        yield from part.get(word, ())
