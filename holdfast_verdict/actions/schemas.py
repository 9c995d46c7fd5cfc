"""JSON Schemas of arguments: those that are taken, and the closed form in which they check.

Draft 2020-12, as pydantic and the makers of tools write it. The closed form differs from what was written in this: references are
local and lead to `$defs`, `allOf` is merged, an object takes only what it names (LAW 7), formats that have a normal form stand
under `x-form`. A tenant writes the schema and a model the arguments, so no schema is taken whose check could take more than linear
time: no look-around in patterns, no union in which two branches lead back into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson
from jsonschema_rs import Draft202012Validator, RegexOptions, ValidationError

from holdfast_verdict.actions.formats import FORMATS
from holdfast_verdict.actions.headers import HEADERS
from holdfast_verdict.actions.values import refusal_of_key

SCHEMA_BYTES_MAX: Final = 262_144
SCHEMA_DEPTH_MAX: Final = 48
SCHEMA_SIZE_MAX: Final = 20_000
"""Bound of schemas that a validator meets on its way, references followed."""
FORM: Final = "x-form"

Schema = Mapping[str, Any]  # JSON of any shape, checked here
Forms = dict[str, Any]  # format by name of argument, nested; under "" that of the value itself

_PATTERN_BYTES_MAX: Final = 200_000
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
_UNIONS: Final = ("anyOf", "oneOf")
_OBJECT_WORDS: Final = ("properties", "additionalProperties", "required")
_TYPES: Final = ("object", "array", "string", "integer", "number", "boolean", "null")
# as some releases of pydantic start the pattern of a `Decimal`; the format says the same in linear time
_DECIMAL_PATTERN: Final = r"^(?!^[-+.]*$)[+-]?0*"


class SchemaRefused(ValueError):
    """A schema cannot be taken; the place and the remedy go with it."""

    def __init__(self, path: str, message: str, remedy: str = "") -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message
        self.remedy = remedy


def _below(path: str, *words: str | int) -> str:
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
        where = _below("parameters", *error.instance_path)
        raise SchemaRefused(where, f"is not valid JSON Schema: {error.message[:200]}") from None
    closer = _Closer(written)
    root = closer.top(_nested(forms))
    if closer.unused:
        raise SchemaRefused(
            _below("formats", min(closer.unused)), "names no text of the schema", "name an argument that is a string"
        )
    found = {**root, "$defs": closer.definitions}
    _check_cost(found)
    try:
        validator(found)
    except ValidationError as error:
        where = _below("parameters", *error.instance_path)
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
                _below("formats", path), f"there is no format {name!r}", f"write one of {', '.join(sorted(FORMATS))}"
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
                _below("parameters", "type"), "the arguments of a tool are an object", 'write "type": "object"'
            )
        if flat.get("additionalProperties", False) is True or flat.get("additionalProperties") == {}:
            raise SchemaRefused(
                _below("parameters", "additionalProperties"),
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
            raise SchemaRefused(_below(path, word), "is not taken", "name each property under `properties`")
        flat = {key: value for key, value in written.items() if key not in _NOTES and key not in ("$ref", "allOf")}
        if flat.pop("unevaluatedProperties", False) is not False:
            raise SchemaRefused(
                _below(path, "unevaluatedProperties"), "would let through what nothing describes", "leave it out"
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
            flat = _merged(flat, self._flat(member, _below(path, "allOf", index), seen), path)
        return flat

    def _closed(self, flat: dict[str, Any], path: str, depth: int, forms: Forms) -> dict[str, Any]:
        found = {
            key: value for key, value in flat.items() if key in _ASSERTIONS or key in ("default", "allOf", "x-unit")
        }
        for word in _TESTS:
            if word in flat:
                found[word] = _only_checks(flat[word], _below(path, word))
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
                    self.schema(inner, _below(path, "properties", name), depth + 1, forms.get(name, {}))
                )
                for name, inner in named.items()
            }
            rest = flat.get("additionalProperties", False)
            found["additionalProperties"] = self.schema(
                rest, _below(path, "additionalProperties"), depth + 1, _own(forms)
            )
        if "items" in flat:
            found["items"] = self.schema(flat["items"], _below(path, "items"), depth + 1, forms)
        if "prefixItems" in flat:
            found["prefixItems"] = [
                self.schema(inner, _below(path, "prefixItems", index), depth + 1, forms)
                for index, inner in enumerate(flat["prefixItems"])
            ]
        return found

    def _with_branches(
        self, flat: dict[str, Any], found: dict[str, Any], path: str, depth: int, forms: Forms
    ) -> dict[str, Any]:
        """Closes the branches of unions; what an object says beside them is said in each of them."""
        for word in _UNIONS:
            if word not in flat:
                continue
            branches = [self._branch(branch, _below(path, word, index)) for index, branch in enumerate(flat[word])]
            if any("properties" in branch for branch in branches) and any(key in flat for key in _OBJECT_WORDS):
                shared = {key: value for key, value in flat.items() if key not in (*_UNIONS, "default", *_TESTS)}
                branches = [_merged(shared, branch, path) for branch in branches]
                flat = {key: value for key, value in flat.items() if key not in _OBJECT_WORDS}
                found.pop("required", None)
            elif "properties" in flat:
                found[word] = _only_checks(flat[word], _below(path, word))
                continue
            found[word] = [
                self.schema(branch, _below(path, word, index), depth + 1, forms)
                for index, branch in enumerate(branches)
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
            and not any(word in flat for word in _UNIONS)
        ):
            form, where = forms[""]
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
    branches = [branch for word in _UNIONS for branch in schema.get(word, ())]
    if "$ref" in schema or any(
        branch is True or (isinstance(branch, dict) and _takes_null(branch)) for branch in branches
    ):
        return True
    return not branches and "null" in types_of(schema)


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
            raise SchemaRefused(_below(path, key), "is said twice, differently", "write it as one schema")
    return both


def _check_cost(schema: dict[str, Any]) -> None:
    """Refuses a schema whose check could take more than linear time."""
    definitions = schema["$defs"]
    sizes: dict[str, int] = {}

    def size_of(part: Any, open_names: frozenset[str]) -> int:
        if not isinstance(part, dict):
            return 1
        total = 1
        if reference := part.get("$ref"):
            name = reference.rpartition("/")[2]
            if name not in open_names:
                if name not in sizes:
                    sizes[name] = size_of(definitions[name], open_names | {name})
                total += sizes[name]
        for inner in _inner(part):
            total += size_of(inner, open_names)
        if total > SCHEMA_SIZE_MAX:
            raise SchemaRefused("parameters", f"is over {SCHEMA_SIZE_MAX} schemas when all references are followed")
        return total

    size_of({key: value for key, value in schema.items() if key != "$defs"}, frozenset())
    for part in (
        *_all_parts({**schema, "$defs": None}),
        *(each for one in definitions.values() for each in _all_parts(one)),
    ):
        for word in _UNIONS:
            if word in part:
                _check_union(part, word, definitions)


def _check_union(part: dict[str, Any], word: str, definitions: Mapping[str, Any]) -> None:
    for kind in ("object", "array"):
        leading_back = [
            branch
            for branch in part[word]
            if isinstance(branch, dict)
            and kind in types_of(_at(branch, definitions))
            and _reaches(branch, part, definitions)
        ]
        if len(leading_back) > 1:
            raise SchemaRefused(
                "parameters",
                f"has a union in which two branches of the type {kind} lead back into it",
                "join these branches into one",
            )


def _at(branch: Any, definitions: Mapping[str, Any]) -> Any:
    seen = 0
    while isinstance(branch, dict) and "$ref" in branch and seen <= len(definitions):
        branch, seen = definitions[branch["$ref"].rpartition("/")[2]], seen + 1
    return branch if isinstance(branch, dict) else {}


def _reaches(start: Any, goal: Any, definitions: Mapping[str, Any]) -> bool:
    waiting, seen = [start], set()
    while waiting:
        part = waiting.pop()
        if part is goal:
            return True
        if not isinstance(part, dict) or id(part) in seen:
            continue
        seen.add(id(part))
        waiting += _inner(part)
        if "$ref" in part:
            waiting.append(definitions[part["$ref"].rpartition("/")[2]])
    return False


def _inner(part: dict[str, Any]) -> Iterator[Any]:
    yield from part.get("properties", {}).values()
    for word in ("additionalProperties", "items"):
        if word in part:
            yield part[word]
    for word in ("prefixItems", *_UNIONS):
        yield from part.get(word, ())


def _all_parts(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for inner in _inner(part):
            yield from _all_parts(inner)
