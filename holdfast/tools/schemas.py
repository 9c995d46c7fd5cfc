"""JSON Schemas of own tools' arguments: which ones are taken, and the one form to which arguments are brought.

Draft 2020-12 (https://json-schema.org/draft/2020-12), less what would give one value two spellings or two readings: no
`$ref`, no numbers with a fraction (canonical JSON has none: a fraction is a string of the format `decimal`), and an object
takes nothing that its schema does not name.

A tenant writes the schema and a model the arguments, and both are checked in processes that serve all tenants. So the checker's time
is linear: patterns without look-around and back references, and no comparison of everything with everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, Final, cast

import orjson
from jsonschema_rs import Draft202012Validator, RegexOptions, ValidationError, ValidationErrorKind

from holdfast.errors import RequestInvalid
from holdfast_verdict import sealing
from holdfast_verdict.actions.numbers import decimal_text
from holdfast_verdict.canonical import JsonValue, NotCanonical, canonical_bytes

ARGUMENTS_BYTES_MAX: Final = 65_536
SCHEMA_DEPTH_MAX: Final = 24
PROPERTIES_MAX: Final = 100
DECIMAL: Final = "decimal"

_PROPERTY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PROBLEMS_SHOWN_MAX = 5
_PATTERN_BYTES_MAX = 200_000
_MESSAGE_LENGTH_MAX = 200
_REFERENCES = ("$ref", "$dynamicRef", "$id", "$anchor", "$dynamicAnchor", "$schema")
# keywords under which names are a person's, not the language's
_BY_NAME = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_OF_VALUES = ("default", "const", "enum", "examples")

Schema = Mapping[str, Any]  # JSON of any shape, checked here


def properties(schema: Schema) -> Mapping[str, Any]:
    """Returns the schemas of an object's fields by name."""
    named = schema.get("properties", {})
    return named if isinstance(named, Mapping) else {}


def check(schema: Schema) -> None:
    """Checks that a schema describes arguments in the form that is taken here.

    Raises:
        RequestInvalid: It does not; the message names the place.
    """
    try:
        canonical_bytes(schema)
    except NotCanonical as error:
        raise RequestInvalid(
            f"{error}", remedy="a schema holds whole numbers and text only; bound a `decimal` by its tool"
        ) from None
    marked = 0
    for path, part in _parts(schema, "$", 0):
        if not isinstance(part.get(sealing.PERSONAL, False), bool):
            raise RequestInvalid(f"{path} has `{sealing.PERSONAL}`, which is true or false")
        marked += sealing.is_personal(part)
        if reference := next((key for key in _REFERENCES if key in part), None):
            raise RequestInvalid(f"{path} has `{reference}`", remedy="write what it refers to in its place")
        kinds = part.get("type", ())
        if "number" in ([kinds] if isinstance(kinds, str) else kinds):
            raise RequestInvalid(
                f'{path} is a `number`, and floats have no canonical form; use {{"type": "string", "format": "decimal"}} '
                "or `integer`"
            )
    try:
        _validator(canonical_bytes(schema))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.instance_path) or "$"
        raise RequestInvalid(f"no valid JSON Schema: {_cut(error.message)} at {where}") from None
    if marked > sealing.marks_in(schema):
        raise RequestInvalid(
            f"`{sealing.PERSONAL}` or `writeOnly` stands where nobody finds the value that it is about",
            remedy="mark arguments, fields below `properties`, or the `items` of a list",
        )
    if schema.get("type") != "object":
        raise RequestInvalid('the arguments of a tool are an object: `"type": "object"`')
    if schema.get("additionalProperties", False) is not False:
        raise RequestInvalid("`additionalProperties` would let through what nothing describes", remedy="leave it out")
    names = properties(schema)
    if len(names) > PROPERTIES_MAX:
        raise RequestInvalid(f"a tool has at most {PROPERTIES_MAX} arguments")
    for name in names:
        if _PROPERTY.fullmatch(name) is None:
            raise RequestInvalid(f"{name!r} is no name of an argument: letters, digits, `_` and `-`, 64 at most")


def _parts(schema: object, path: str, depth: int) -> Iterator[tuple[str, Schema]]:
    """Yields every schema inside a schema with its path."""
    if depth > SCHEMA_DEPTH_MAX:
        raise RequestInvalid(f"{path} is nested deeper than {SCHEMA_DEPTH_MAX}")
    if isinstance(schema, Mapping):
        yield path, schema
        for key, member in schema.items():
            if key in _OF_VALUES:
                continue
            if key in _BY_NAME and isinstance(member, Mapping):
                for name, inner in member.items():
                    yield from _parts(inner, f"{path}.{key}.{name}", depth + 1)
            else:
                yield from _parts(member, f"{path}.{key}", depth + 1)
    elif isinstance(schema, list | tuple):
        for index, member in enumerate(schema):
            yield from _parts(member, f"{path}[{index}]", depth + 1)


def normalise(schema: Schema, given: Mapping[str, object]) -> dict[str, JsonValue]:
    """Brings arguments to the one form that is decided and executed; bringing it there again changes nothing.

    Defaults are filled in, decimals get their one text, nothing else is converted.

    Args:
        schema: One that `check` has let pass.
        given: What a model wrote.

    Raises:
        RequestInvalid: They are not what the schema describes; the message is one that a model can act on.
    """
    normal = _filled(schema, dict(given))
    try:
        encoded = canonical_bytes(normal)
    except NotCanonical as error:
        raise RequestInvalid(
            f"the arguments cannot be taken: {_cut(str(error))}", remedy="write whole numbers without a point"
        ) from None
    if len(encoded) > ARGUMENTS_BYTES_MAX:
        raise RequestInvalid(f"the arguments are over {ARGUMENTS_BYTES_MAX} bytes", remedy="send less")
    if b"\\u0000" in encoded:
        raise RequestInvalid("the arguments hold a NUL character", remedy="leave it out")
    errors = list(islice(_validator(canonical_bytes(schema)).iter_errors(normal), _PROBLEMS_SHOWN_MAX))
    if errors:
        sentences = "; ".join(_explain(error, schema) for error in errors)
        raise RequestInvalid(sentences, remedy="correct the arguments and call again")
    return cast("dict[str, JsonValue]", normal)


def _filled(schema: Schema, value: object) -> object:
    """Returns the value with defaults filled in and decimals in their one form."""
    if isinstance(value, dict):
        named = properties(schema)
        filled = {name: _filled(named[name], member) if name in named else member for name, member in value.items()}
        for name, inner in named.items():
            if name not in filled and isinstance(inner, Mapping) and "default" in inner:
                filled[name] = _filled(inner, inner["default"])
        return filled
    items = schema.get("items") if isinstance(schema, Mapping) else None
    if isinstance(value, list | tuple):
        return [_filled(items, member) if isinstance(items, Mapping) else member for member in value]
    if isinstance(schema, Mapping) and schema.get("format") == DECIMAL:
        text = decimal_text(value)
        return value if text is None else text
    return value


@lru_cache(maxsize=512)
def _validator(schema: bytes) -> Draft202012Validator:
    return Draft202012Validator(
        _closed(orjson.loads(schema)),
        pattern_options=RegexOptions(size_limit=_PATTERN_BYTES_MAX),
        validate_formats=True,
        formats={DECIMAL: lambda text: decimal_text(text) is not None},
    )


def _closed(schema: Any) -> Any:
    """Returns the schema with every object closed to what it names (LAW 7)."""
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    if "properties" in closed or closed.get("type") == "object":
        closed["properties"] = {name: _closed(inner) for name, inner in properties(schema).items()}
        closed.setdefault("additionalProperties", False)
    if isinstance(closed.get("items"), dict):
        closed["items"] = _closed(closed["items"])
    return closed


def _explain(error: ValidationError, schema: Schema) -> str:
    where = ".".join(str(part)[:60] for part in error.instance_path)
    if isinstance(error.kind, ValidationErrorKind.AdditionalProperties):
        inner: Any = schema
        for part in error.schema_path[:-1]:
            inner = inner[part]
        known = ", ".join(properties(inner)) or "none"
        return f"{f'`{where}`: ' if where else ''}{_cut(error.message)} (it takes: {known})"
    return f"`{where}`: {_cut(error.message)}" if where else _cut(error.message)


def _cut(message: str) -> str:
    return message if len(message) <= _MESSAGE_LENGTH_MAX else message[:_MESSAGE_LENGTH_MAX] + " …"
