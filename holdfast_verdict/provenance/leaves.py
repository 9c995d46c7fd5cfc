"""The leaves of JSON values, where they stand, and which of them a schema makes constants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Path = tuple[str | int, ...]

DEEPEST: Final = 64
_PLAIN_KEY: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_$")
_LONGEST_KEY: Final = 64


@dataclass(frozen=True, slots=True)
class TooDeep:
    """In place of a leaf: what is nested deeper than anybody looks."""


def leaves_of(value: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Yields each leaf with its path. A name of a field that can only be data (`X-Evil`, `a@b.c`) is a leaf, too."""
    if len(path) > DEEPEST:
        yield path, TooDeep()
    elif isinstance(value, Mapping) and not is_number(value):
        for key, member in value.items():
            name = str(key)
            if path and not is_plain(name):
                yield (*path, name), name
            yield from leaves_of(member, (*path, name))
    elif isinstance(value, list | tuple | set | frozenset):
        for index, member in enumerate(value):
            yield from leaves_of(member, (*path, index))
    else:
        yield path, value


def is_number(value: Mapping[object, object]) -> bool:
    """Says whether it is a fraction in the canonical form, `{"$number": "12.5"}`."""
    return len(value) == 1 and isinstance(value.get("$number"), str)


def is_plain(name: str) -> bool:
    """Says whether a field's name looks like one that a programmer gave."""
    return 0 < len(name) <= _LONGEST_KEY and _PLAIN_KEY.issuperset(name)


def shown(path: Path) -> str:
    """Returns the path as text: `to[0]`, `items[2].price`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def steps_of(field: str) -> tuple[str, ...]:
    """Returns the names in a field's path; `[]` and indices stand for nothing, as a list's members are meant with it."""
    names: list[str] = []
    for part in field.split("."):
        name = part.partition("[")[0].strip()
        if name:
            names.append(name)
    return tuple(names)


def labels_at(path: Path, by_field: Sequence[tuple[tuple[str, ...], frozenset[str]]]) -> frozenset[str]:
    """Returns the labels of the fields on the way to a leaf; `*` in a field's path is any name."""
    names = tuple(step for step in path if isinstance(step, str))
    found: frozenset[str] = frozenset()
    for steps, labels in by_field:
        if len(steps) <= len(names) and all(step in ("*", name) for step, name in zip(steps, names, strict=False)):
            found |= labels
    return found


def constants_in(arguments: object, parameters: Mapping[str, object]) -> set[str]:
    """Returns the paths of leaves whose value the schema itself lists (`enum`, `const`)."""
    return {
        shown(path)
        for path, leaf in leaves_of(arguments)
        if isinstance(leaf, str | int | None) and any(_lists(schema, leaf) for schema in _schemas_at(parameters, path))
    }


def _lists(schema: Mapping[str, object], leaf: object) -> bool:
    listed = schema.get("enum")
    values = list(listed) if isinstance(listed, Sequence) and not isinstance(listed, str) else []
    if "const" in schema:
        values.append(schema["const"])
    return any(type(each) is type(leaf) and each == leaf for each in values)


def _schemas_at(root: Mapping[str, object], path: Path) -> list[Mapping[str, object]]:
    here = _alternatives(root, root)
    for step in path:
        below: list[Mapping[str, object]] = []
        for schema in here:
            below.extend(each for child in _children(schema, step) for each in _alternatives(root, child))
        here = below[:DEEPEST]
    return here


def _children(schema: Mapping[str, object], step: str | int) -> Iterable[object]:
    if isinstance(step, int):
        return (schema.get("items"),)
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and step in properties:
        return (properties[step],)
    return (schema.get("additionalProperties"),)


def _alternatives(root: Mapping[str, object], schema: object) -> list[Mapping[str, object]]:
    found: list[Mapping[str, object]] = []
    waiting: list[object] = [schema]
    while waiting and len(found) < DEEPEST:
        each = waiting.pop(0)
        if not isinstance(each, Mapping) or each in found:
            continue
        found.append(each)
        reference = each.get("$ref")
        if isinstance(reference, str):
            waiting.append(_referred(root, reference))
        for word in ("anyOf", "oneOf", "allOf"):
            listed = each.get(word)
            if isinstance(listed, list | tuple):
                waiting.extend(listed)
    return found


def _referred(root: Mapping[str, object], reference: str) -> object:
    if not reference.startswith("#"):
        return None
    here: object = root
    for step in reference.removeprefix("#").split("/")[1:]:
        here = here.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(here, Mapping) else None
    return here
