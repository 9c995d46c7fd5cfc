"""JSON Schemas of arguments: those that are taken, and the closed form in which they check.

Draft 2020-12, as pydantic and the makers of tools write it. The closed form differs from what was written in this: references are
local and lead to `$defs`, `allOf` is merged, an object takes only what it names (LAW 7), formats that have a normal form stand
under `x-form`. A tenant writes the schema and a model the arguments, so no schema is taken whose check could take more than linear
time: no look-around in patterns, no union in which two branches lead back into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson
from jsonschema_rs import Draft202012Validator, ValidationError

from holdfast_verdict.actions.formats import FORMATS
from holdfast_verdict.actions.headers import HEADERS
from holdfast_verdict.actions.schema_costs import check_cost
from holdfast_verdict.actions.schemas import FORM, UNIONS, Schema, SchemaRefused, below, types_of, validator
from holdfast_verdict.actions.values import refusal_of_key

SCHEMA_BYTES_MAX: Final = 262_144
SCHEMA_DEPTH_MAX: Final = 48
Forms = dict[str, Any]  # format by name of argument, nested; under "" that of the value itself

_REFUSED: Final = (
    "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$anchor", "patternProperties", "unevaluatedItems", "dependencies",
)  # fmt: skip
_NOTES: Final = frozenset(
    {"$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "examples", "example", "deprecated", "readOnly",
     "writeOnly", "discriminator", "contentEncoding", "contentMediaType"}
)  # fmt: skip
_ASSERTIONS: Final = frozenset(
    {"type", "enum", "const", "minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
     "multipleOf", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "required", "dependentRequired",
     "minContains", "maxContains"}
)  # fmt: skip
_TESTS: Final = ("not", "if", "then", "else", "contains", "propertyNames", "dependentSchemas")
"""Subschemas that only check; nothing in them is closed, filled in or brought to another form."""
GUESSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(("headers", "http_headers", "extra_headers"), HEADERS),
        **dict.fromkeys(("subject", "method"), "line"),
    }
)
"""Formats of arguments that nobody has given one, by name: what goes into the head of a message, where a line break begins another."""
_DESCRIBED: Final = ("enum", "const", "properties")
"""What says so much of a value that nothing is guessed of it."""
_OBJECT_WORDS: Final = ("properties", "additionalProperties", "required")
# as some releases of pydantic start the pattern of a `Decimal`; the format says the same in linear time
_DECIMAL_PATTERN: Final = r"^(?!^[-+.]*$)[+-]?0*"


def closed(schema: Schema, forms: Mapping[str, str]) -> dict[str, Any]:
    """Returns the closed form of a tool's schema.

    Args:
        schema: As it was written.
        forms: Formats by dotted path of argument, beside those that the schema names itself.

    Raises:
        SchemaRefused: It cannot be taken.
    """
    try:
        encoded = orjson.dumps(schema, default=_not_json)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise SchemaRefused("parameters", f"is not JSON: {error}") from None
    if len(encoded) > SCHEMA_BYTES_MAX:
        raise SchemaRefused("parameters", f"is over {SCHEMA_BYTES_MAX} bytes")
    written = orjson.loads(encoded)
    if not isinstance(written, dict):
        raise SchemaRefused("parameters", "is not a JSON Schema", 'write {"type": "object", "properties": {…}}')
    try:
        Draft202012Validator({"$ref": "https://json-schema.org/draft/2020-12/schema"}).validate(
            _without_dialect(written)
        )
    except ValidationError as error:
        where = below("parameters", *error.instance_path)
        raise SchemaRefused(where, f"is not valid JSON Schema: {error.message[:200]}") from None
    closer = _Closer(written)
    try:
        root = closer.top(_nested(forms))
    except RecursionError:
        raise SchemaRefused("parameters", "has too many references in each other") from None
    if closer.unused:
        raise SchemaRefused(
            below("formats", min(closer.unused)), "names no text of the schema", "name an argument that is a string"
        )
    found = {**root, "$defs": closer.definitions}
    try:
        check_cost(found)
        validator(found)
    except RecursionError:
        raise SchemaRefused("parameters", "has too many references in each other") from None
    except ValidationError as error:
        where = below("parameters", *error.instance_path)
        raise SchemaRefused(where, f"cannot be checked in linear time: {error.message[:200]}") from None
    return found


def _not_json(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"it holds a {type(value).__name__}")


def _without_dialect(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ("$schema", "$id")}


def _nested(forms: Mapping[str, str]) -> Forms:
    found: Forms = {}
    for path, name in forms.items():
        if name not in FORMATS and name != HEADERS:
            raise SchemaRefused(
                below("formats", path), f"there is no format {name!r}", f"write one of {', '.join(sorted(FORMATS))}"
            )
        inner = found
        for word in path.split("."):
            inner = inner.setdefault(word, {})
        inner[""] = (name, path)
    return found


class _Closer:
    """Closes one schema; `definitions` grows by what is referred to."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._names: dict[str, str] = {}
        self.definitions: dict[str, Any] = {}
        self.unused: set[str] = set()

    def top(self, forms: Forms) -> dict[str, Any]:
        self.unused = set(_paths(forms))
        flat = self._flat(self._root, "parameters", ())
        if flat.get("type", "object") != "object":
            raise SchemaRefused(
                below("parameters", "type"), "the arguments of a tool are an object", 'write "type": "object"'
            )
        if flat.get("additionalProperties", False) is True or flat.get("additionalProperties") == {}:
            raise SchemaRefused(
                below("parameters", "additionalProperties"),
                "would let through what nothing describes",
                "name the arguments, and leave it out",
            )
        flat["type"] = "object"
        flat.setdefault("properties", {})
        return self._closed(flat, "parameters", 0, forms)

    def schema(self, written: object, path: str, depth: int, forms: Forms) -> Any:
        """Returns the closed form of a schema that stands for a value."""
        if isinstance(written, bool):
            return written
        if not isinstance(written, dict):
            raise SchemaRefused(path, "is not a schema")
        if depth > SCHEMA_DEPTH_MAX:
            raise SchemaRefused(path, f"is nested deeper than {SCHEMA_DEPTH_MAX}")
        reference = self._bare_reference(written)
        if reference is not None and not forms:
            kept = {"default": written["default"]} if "default" in written else {}
            return {"$ref": f"#/$defs/{self._defined(reference, path)}", **kept}
        return self._closed(self._flat(written, path, ()), path, depth, forms)

    def _bare_reference(self, written: dict[str, Any]) -> str | None:
        """Returns where a schema refers to, if it says nothing else that checks."""
        members = written.get("allOf")
        if isinstance(members, list) and len(members) == 1 and isinstance(members[0], dict) and "$ref" not in written:
            written = {**{key: value for key, value in written.items() if key != "allOf"}, **members[0]}
        rest = {key for key in written if key not in _NOTES and not key.startswith("x-")} - {"$ref", "default"}
        return written.get("$ref") if not rest else None

    def _defined(self, reference: str, path: str) -> str:
        if reference not in self._names:
            name = self._names[reference] = f"d{len(self._names)}"
            self.definitions[name] = True  # stands until it is known, for those that refer to themselves
            self.definitions[name] = self.schema(self._resolved(reference, path), reference, 0, {})
        return self._names[reference]

    def _resolved(self, reference: str, path: str) -> object:
        if not reference.startswith("#"):
            raise SchemaRefused(
                path, f"refers to {reference!r}, outside of itself", "write what it refers to under $defs"
            )
        found: object = self._root
        for word in reference[1:].split("/")[1:]:
            key = word.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            else:
                raise SchemaRefused(path, f"refers to {reference!r}, which is not there")
        return found

    def _flat(self, written: object, path: str, seen: tuple[str, ...]) -> dict[str, Any]:
        """Returns a schema with what it refers to, and what all its parts say, in one."""
        if written is True:
            return {}
        if not isinstance(written, dict):
            raise SchemaRefused(path, "is not a schema that can be merged")
        if word := next((word for word in _REFUSED if word in written), None):
            raise SchemaRefused(below(path, word), "is not taken", "name each property under `properties`")
        flat = {key: value for key, value in written.items() if key not in _NOTES and key not in ("$ref", "allOf")}
        if flat.pop("unevaluatedProperties", False) is not False:
            raise SchemaRefused(
                below(path, "unevaluatedProperties"), "would let through what nothing describes", "leave it out"
            )
        if str(flat.get("pattern", "")).startswith(_DECIMAL_PATTERN):
            flat["format"] = "decimal"
            del flat["pattern"]
        if "$ref" in written:
            reference = written["$ref"]
            if reference in seen:
                raise SchemaRefused(path, f"{reference!r} refers to itself without an end")
            flat = _merged(flat, self._flat(self._resolved(reference, path), reference, (*seen, reference)), path)
        for index, member in enumerate(written.get("allOf", ())):
            flat = _merged(flat, self._flat(member, below(path, "allOf", index), seen), path)
        return flat

    def _closed(self, flat: dict[str, Any], path: str, depth: int, forms: Forms) -> dict[str, Any]:
        found = {
            key: value for key, value in flat.items() if key in _ASSERTIONS or key in ("default", "allOf", "x-unit")
        }
        for word in _TESTS:
            if word in flat:
                found[word] = _only_checks(flat[word], below(path, word))
        flat = self._with_branches(flat, found, path, depth, forms)
        self._close_text(flat, found, path, forms)
        # an object that names nothing may hold anything; one that names something holds that and no more
        if "properties" in flat or "additionalProperties" in flat:
            named = flat.get("properties", {})
            for name in named:
                if refusal := refusal_of_key(name):
                    raise SchemaRefused(path, f"names {name!r}, which {refusal}", "rename it")
            found["properties"] = {
                name: _without_impossible_default(
                    self.schema(inner, below(path, "properties", name), depth + 1, _forms_of(name, forms))
                )
                for name, inner in named.items()
            }
            rest = flat.get("additionalProperties", False)
            found["additionalProperties"] = self.schema(
                rest, below(path, "additionalProperties"), depth + 1, _own(forms)
            )
        if "items" in flat:
            found["items"] = self.schema(flat["items"], below(path, "items"), depth + 1, forms)
        if "prefixItems" in flat:
            found["prefixItems"] = [
                self.schema(inner, below(path, "prefixItems", index), depth + 1, forms)
                for index, inner in enumerate(flat["prefixItems"])
            ]
        return found

    def _with_branches(
        self, flat: dict[str, Any], found: dict[str, Any], path: str, depth: int, forms: Forms
    ) -> dict[str, Any]:
        """Closes the branches of unions; what an object says beside them is said in each of them."""
        for word in UNIONS:
            if word not in flat:
                continue
            branches = [self._branch(branch, below(path, word, index)) for index, branch in enumerate(flat[word])]
            if any("properties" in branch for branch in branches) and any(key in flat for key in _OBJECT_WORDS):
                shared = {key: value for key, value in flat.items() if key not in (*UNIONS, "default", *_TESTS)}
                branches = [_merged(shared, branch, path) for branch in branches]
                flat = {key: value for key, value in flat.items() if key not in _OBJECT_WORDS}
                found.pop("required", None)
            elif "properties" in flat:
                found[word] = _only_checks(flat[word], below(path, word))
                continue
            found[word] = [
                self.schema(branch, below(path, word, index), depth + 1, forms) for index, branch in enumerate(branches)
            ]
            if "properties" not in flat:
                flat = {key: value for key, value in flat.items() if key != "type" or value != "object"}
        return flat

    def _branch(self, branch: object, path: str) -> Any:
        """Returns a branch as it is if it only refers, else in one."""
        if isinstance(branch, dict) and self._bare_reference(branch) is None:
            return self._flat(branch, path, ())
        return branch if isinstance(branch, dict) else self._flat(branch, path, ())

    def _close_text(self, flat: dict[str, Any], found: dict[str, Any], path: str, forms: Forms) -> None:
        form = flat.get("format")
        if (
            "" in forms
            and ("object" if forms[""][0] == HEADERS else "string") in types_of(flat)
            and not any(word in flat for word in UNIONS)
        ):
            given, where = forms[""]
            if where is not None or (form is None and not any(word in flat for word in _DESCRIBED)):
                form = given
            self.unused.discard(where)
        if form in FORMATS or form == HEADERS:
            found[FORM] = form
        elif isinstance(form, str):
            found["format"] = form


def _without_impossible_default(schema: Any) -> Any:
    """Leaves out a default of null where null is not taken: so `name: str = None` is written by many, and means "not given"."""
    if isinstance(schema, dict) and schema.get("default", 0) is None and not _takes_null(schema):
        return {key: value for key, value in schema.items() if key != "default"}
    return schema


def _takes_null(schema: Mapping[str, Any]) -> bool:
    branches = [branch for word in UNIONS for branch in schema.get(word, ())]
    if "$ref" in schema or any(
        branch is True or (isinstance(branch, dict) and _takes_null(branch)) for branch in branches
    ):
        return True
    return not branches and "null" in types_of(schema)


def _forms_of(name: str, forms: Forms) -> Forms:
    """Returns the formats of a property; one that is guessed has no place where it was written."""
    named: Forms = forms.get(name, {})
    guessed = GUESSED.get(name.lower().replace("-", "_"))
    return {**named, "": (guessed, None)} if guessed and "" not in named else named


def _own(forms: Forms) -> Forms:
    return {"": forms[""]} if "" in forms else {}


def _paths(forms: Forms) -> Iterator[str]:
    for word, inner in forms.items():
        if word == "":
            yield inner[1]
        else:
            yield from _paths(inner)


def _only_checks(written: Any, path: str) -> Any:
    if '"$ref"' in orjson.dumps(written).decode():
        raise SchemaRefused(path, "has a reference inside of what only checks", "write what it refers to in its place")
    return written


def _merged(one: dict[str, Any], other: dict[str, Any], path: str) -> dict[str, Any]:
    """Returns a schema that says what both say."""
    both = dict(one)
    for key, value in other.items():
        if key not in both or key == "default":
            both.setdefault(key, value)
        elif both[key] == value:
            continue
        elif key == "properties":
            named = dict(both[key])
            for name, inner in value.items():
                named[name] = {"allOf": [named[name], inner]} if name in named else inner
            both[key] = named
        elif key == "required":
            both[key] = [*both[key], *(name for name in value if name not in both[key])]
        elif key in _ASSERTIONS:
            both["allOf"] = [*both.get("allOf", []), {key: value}]
        else:
            raise SchemaRefused(below(path, key), "is said twice, differently", "write it as one schema")
    return both
