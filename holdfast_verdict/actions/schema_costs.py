"""What checking against a closed schema can cost: none is taken whose cost could grow faster than the arguments.

A tenant writes the schema and a model the arguments, and processes that serve all tenants check them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from holdfast_verdict.actions.schemas import UNIONS, SchemaRefused, parts_of, types_of

SCHEMA_SIZE_MAX: Final = 20_000
"""Bound of schemas that a validator meets on its way, references followed."""
UNIONS_MAX: Final = 500


def check_cost(schema: dict[str, Any]) -> None:
    """Refuses a schema whose check could take more than linear time."""
    definitions = schema["$defs"]
    _check_ends(definitions)
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
        for inner in parts_of(part):
            total += size_of(inner, open_names)
        if total > SCHEMA_SIZE_MAX:
            raise SchemaRefused("parameters", f"is over {SCHEMA_SIZE_MAX} schemas when all references are followed")
        return total

    size_of({key: value for key, value in schema.items() if key != "$defs"}, frozenset())
    unions = [
        (part, word)
        for top in ({**schema, "$defs": None}, *definitions.values())
        for part in _all_parts(top)
        for word in UNIONS
        if word in part
    ]
    if len(unions) > UNIONS_MAX:
        raise SchemaRefused("parameters", f"has over {UNIONS_MAX} unions", "describe less")
    for part, word in unions:
        _check_union(part, word, definitions)


def _check_ends(definitions: Mapping[str, Any]) -> None:
    """Refuses definitions that lead back to themselves without going down into the value: asking them never ends."""
    leads_to = {name: set(_in_place(part)) for name, part in definitions.items()}
    while ends := [name for name, others in leads_to.items() if not others & leads_to.keys()]:
        for name in ends:
            del leads_to[name]
    if leads_to:
        raise SchemaRefused(
            "parameters", "has a reference that leads to itself without an end", "write what it stands for"
        )


def _in_place(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"].rpartition("/")[2]
        for word in UNIONS:
            for branch in part.get(word, ()):
                yield from _in_place(branch)


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
        waiting += parts_of(part)
        if "$ref" in part:
            waiting.append(definitions[part["$ref"].rpartition("/")[2]])
    return False


def _all_parts(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for inner in parts_of(part):
            yield from _all_parts(inner)
