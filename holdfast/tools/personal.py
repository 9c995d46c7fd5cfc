"""What of a tool's arguments may be personal or secret, where nobody has said: any text that is not one of a few known ones.

A definition that is imported, from an OpenAPI document, a typed function or a query, says so in its schema from then on. So it is seen
in the stored definition, and who knows better says `false` there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from holdfast.tools.schemas import DECIMAL
from holdfast_verdict.sealing import PERSONAL, is_personal

Schema = dict[str, Any]  # JSON Schema of any shape, checked by `schemas.check` in the end

_FORMS_OF_NO_PERSON: Final = frozenset({DECIMAL, "date", "date-time", "time", "duration", "uuid"})
_MARKS: Final = (PERSONAL, "writeOnly")
_VALUES: Final = ("default", "const", "enum", "examples")
_OF_VARIANTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_OF_ANYTHING: Final = ("not", "if", "then", "else", "contains", "patternProperties", "dependentSchemas")


def marked(schema: Mapping[str, Any]) -> Schema:  # Any: as in Schema
    """Returns a schema in which every value that may be a free text is marked as personal, unless the schema itself says.

    A mark stands at the value; where a value has several forms, at all of it, since a mark in one form would not be found.
    """
    said = PERSONAL in schema or is_personal(schema)
    if _has_forms(schema):
        bare = {key: member if key in _MARKS else _bare(member) for key, member in schema.items()}
        return bare if said or not _may_hold_text(schema) else {**bare, PERSONAL: True}
    if said:
        return dict(schema)
    out = dict(schema)
    if isinstance(named := schema.get("properties"), Mapping):
        out["properties"] = {name: marked(member) for name, member in named.items()}
    if isinstance(items := schema.get("items"), Mapping):
        out["items"] = marked(items)
    if _is_free(schema):
        out[PERSONAL] = True
    return out


def _has_forms(schema: Mapping[str, Any]) -> bool:
    open_object = schema.get("additionalProperties", False) is not False
    return open_object or any(key in schema for key in (*_OF_VARIANTS, *_OF_ANYTHING))


def _bare(value: Any) -> Any:  # Any: JSON
    """Returns a part of a schema without marks; those of single forms are not found, and the whole has one."""
    if isinstance(value, Mapping):
        return {
            key: member if key in _VALUES else _bare(member)
            for key, member in value.items()
            if not (key in _MARKS and isinstance(member, bool))
        }
    return [_bare(member) for member in value] if isinstance(value, list | tuple) else value


def _is_free(schema: Mapping[str, Any]) -> bool:
    """Says whether the value itself may be a text that nobody has listed."""
    if "enum" in schema or "const" in schema or schema.get("format") in _FORMS_OF_NO_PERSON:
        return False
    kinds = schema.get("type")
    if kinds is None:
        return not any(key in schema for key in ("properties", "items", *_OF_VARIANTS))
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    return "string" in kinds or ("array" in kinds and "items" not in schema and "prefixItems" not in schema)


def _may_hold_text(schema: Any) -> bool:  # Any: a schema, or true for anything
    if not isinstance(schema, Mapping):
        return schema is not False
    if any(key in schema for key in _OF_ANYTHING) or schema.get("additionalProperties", False) is not False:
        return True  # the names of fields are texts as well
    return is_personal(schema) or _is_free(schema) or any(_may_hold_text(member) for member in _members(schema))


def _members(schema: Mapping[str, Any]) -> Iterator[Any]:
    if isinstance(named := schema.get("properties"), Mapping):
        yield from named.values()
    if "items" in schema:
        yield schema["items"]
    for key in _OF_VARIANTS:
        yield from schema.get(key, ())
