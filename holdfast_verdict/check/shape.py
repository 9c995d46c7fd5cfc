"""What an argument may be, as far as its JSON Schema says it in words that a solver can use.

A shape never excludes what the schema takes: what it does not understand, it leaves open. What it leaves open too far shows when
the example is brought to its canonical form, which the catalogue may refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Final, Literal

Kind = Literal["null", "bool", "number", "text", "list", "object"]

KINDS: Final[tuple[Kind, ...]] = ("null", "bool", "number", "text", "list", "object")
_KIND_OF_TYPE: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "null": "null",
        "boolean": "bool",
        "integer": "number",
        "number": "number",
        "string": "text",
        "array": "list",
        "object": "object",
    }
)
_BOUNDED: Final[tuple[Kind, ...]] = ("number", "text", "list", "object")
_DEPTH_MAX: Final = 8
"""A schema that refers to itself is followed so far; below, everything is possible."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What a value may be.

    Attributes:
        kinds: Of which kinds.
        whole: Numbers are whole ones.
        least: The least number.
        most: The greatest number.
        choices: The only values of the kinds in `listed`, if there is such a list.
        listed: The kinds of which only the choices are possible.
        chars_least: The least length of a text.
        chars_most: The greatest length of a text.
        format: Of texts; empty for any text.
        pattern: Whether texts have to match a pattern, which only the catalogue can tell.
        examples: Values that the schema itself gives as examples or default.
        fields: Of objects, by name.
        required: Fields that an object must have.
        items: Of lists.
        size_least: The least size of a list.
        size_most: The greatest size of a list.
    """

    kinds: frozenset[Kind] = frozenset(KINDS)
    whole: bool = False
    least: Fraction | None = None
    most: Fraction | None = None
    choices: tuple[object, ...] | None = None
    listed: frozenset[Kind] = frozenset()
    chars_least: int = 0
    chars_most: int | None = None
    format: str = ""
    pattern: str = ""
    examples: tuple[object, ...] = ()
    fields: Mapping[str, Shape] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    items: Shape | None = None
    size_least: int = 0
    size_most: int | None = None

    def field(self, name: str) -> Shape:
        """Returns the shape of a field."""
        return self.fields.get(name, ANY)

    @property
    def text_key(self) -> tuple[object, ...]:
        """What two shapes must share so that a text of the one is a text of the other."""
        return (self.format, self.pattern, self.chars_least, self.chars_most, self.examples)


ANY: Final = Shape()
LEAF: Final = Shape(kinds=frozenset(KINDS) - {"list", "object"})
"""Anything that holds nothing else."""
ITEM: Final = Shape(kinds=frozenset(KINDS) - {"list"})
"""Anything in a list of which nothing is known; lists in lists are not followed there."""


def text(chars_least: int = 0) -> Shape:
    """Returns the shape of any text."""
    return Shape(kinds=frozenset({"text"}), chars_least=chars_least)


def shape_of(schema: object, formats: Mapping[str, str] | None = None) -> Shape:
    """Returns the shape of a JSON Schema.

    Args:
        schema: The schema.
        formats: Formats of top-level arguments that the catalogue declares beside it.
    """
    shape = _read(schema, schema if isinstance(schema, Mapping) else {}, _DEPTH_MAX)
    for name, format_ in (formats or {}).items():
        shape = _with_format(shape, name.split("."), format_)
    return shape


def _with_format(shape: Shape, names: list[str], format_: str) -> Shape:
    if not names:
        items = None if shape.items is None else replace(shape.items, format=format_)
        return replace(shape, format=format_, items=items)
    name, *rest = names
    if name in {"*", "[]"}:
        return shape if shape.items is None else replace(shape, items=_with_format(shape.items, rest, format_))
    if name not in shape.fields:
        return shape
    return replace(shape, fields={**shape.fields, name: _with_format(shape.fields[name], rest, format_)})


def _read(schema: object, root: Mapping[str, object], depth: int) -> Shape:
    if not isinstance(schema, Mapping) or depth == 0:
        return ANY
    if isinstance(reference := schema.get("$ref"), str):
        return _read(_resolved(reference, root), root, depth - 1)
    for keyword in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(keyword), Sequence) and options:
            read = [_read(option, root, depth - 1) for option in options]
            own = _own(schema, root, depth)
            return _narrowed(_union(read), own)
    if isinstance(parts := schema.get("allOf"), Sequence) and parts:
        shape = _own(schema, root, depth)
        for part in parts:
            shape = _narrowed(shape, _read(part, root, depth - 1))
        return shape
    return _own(schema, root, depth)


def _resolved(reference: str, root: Mapping[str, object]) -> object:
    node: object = root
    if not reference.startswith("#"):
        return None
    for step in reference.lstrip("#").strip("/").split("/"):
        if step:
            node = node.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
    return node


def _own(schema: Mapping[str, object], root: Mapping[str, object], depth: int) -> Shape:
    types = schema.get("type")
    named = [types] if isinstance(types, str) else list(types) if isinstance(types, Sequence) else []
    kinds = frozenset(_KIND_OF_TYPE[name] for name in named if name in _KIND_OF_TYPE) or frozenset(KINDS)
    choices = _choices(schema)
    if choices is not None:
        kinds &= frozenset(kind_of(choice) for choice in choices)
    fields = schema.get("properties")
    read = (
        {str(name): _read(each, root, depth - 1) for name, each in fields.items()}
        if isinstance(fields, Mapping)
        else {}
    )
    required = schema.get("required")
    return Shape(
        kinds=kinds or frozenset(KINDS),
        whole="number" not in named and "integer" in named,
        least=_bound(schema, "minimum", "exclusiveMinimum", 1, whole="number" not in named),
        most=_bound(schema, "maximum", "exclusiveMaximum", -1, whole="number" not in named),
        choices=choices,
        listed=frozenset() if choices is None else kinds,
        chars_least=_count(schema, "minLength") or 0,
        chars_most=_count(schema, "maxLength"),
        format=str(schema.get("format") or ""),
        pattern=str(schema.get("pattern") or ""),
        examples=_examples(schema),
        fields=read,
        required=_required(required, fields),
        items=_read(schema["items"], root, depth - 1) if isinstance(schema.get("items"), Mapping) else None,
        size_least=_count(schema, "minItems") or 0,
        size_most=_count(schema, "maxItems"),
    )


def _required(names: object, fields: object) -> frozenset[str]:
    """Returns the fields that a canonical action always has: those that it must name, and those that have a default."""
    given = frozenset(str(name) for name in names) if isinstance(names, Sequence) else frozenset()
    if not isinstance(fields, Mapping):
        return given
    return given | {str(name) for name, each in fields.items() if isinstance(each, Mapping) and "default" in each}


def _examples(schema: Mapping[str, object]) -> tuple[object, ...]:
    given = schema.get("examples")
    listed = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    return tuple(each for each in [*listed, schema.get("default")] if isinstance(each, str | int) and each != "")


def _choices(schema: Mapping[str, object]) -> tuple[object, ...] | None:
    if "const" in schema:
        return (schema["const"],)
    given = schema.get("enum")
    return tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) and given else None


def _count(schema: Mapping[str, object], keyword: str) -> int | None:
    value = schema.get(keyword)
    return value if type(value) is int and value >= 0 else None


def _bound(
    schema: Mapping[str, object], inclusive: str, exclusive: str, step: Literal[1, -1], *, whole: bool
) -> Fraction | None:
    given = schema.get(inclusive)
    if isinstance(given, int | float) and not isinstance(given, bool):
        return Fraction(str(given))
    given = schema.get(exclusive)
    if isinstance(given, int | float) and not isinstance(given, bool):
        bound = Fraction(str(given))
        # of fractions the bound itself is let through here; the catalogue refuses it
        return bound + step if whole and bound.denominator == 1 else bound
    return None


def kind_of(value: object) -> Kind:
    """Returns the kind of a JSON value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list | tuple):
        return "list"
    if isinstance(value, Mapping):
        return "number" if set(value) == {"$number"} else "object"
    return "number"


def _union(shapes: Sequence[Shape]) -> Shape:
    """What one of the shapes may be. Bounds that not all have for a kind are no bounds of the union."""
    united = shapes[0]
    for other in shapes[1:]:
        united = _either(united, other)
    return united


def _either(one: Shape, other: Shape) -> Shape:
    if not one.kinds & other.kinds:  # such as a text or null
        return _apart(one, other)
    choices = None if one.choices is None or other.choices is None else (*one.choices, *other.choices)
    both = frozenset(one.fields) & frozenset(other.fields)
    loose = dict.fromkeys([*one.fields, *other.fields])
    return Shape(
        kinds=one.kinds | other.kinds,
        whole=one.whole and other.whole,
        choices=choices,
        listed=frozenset() if choices is None else one.listed | other.listed,
        fields={name: _either(one.fields[name], other.fields[name]) if name in both else ANY for name in loose},
        required=one.required & other.required,
        items=_either(one.items, other.items) if one.items is not None and other.items is not None else None,
    )


def _apart(one: Shape, other: Shape) -> Shape:
    """A union of shapes without a kind in common: each keeps its bounds."""
    of: dict[Kind, Shape] = {**dict.fromkeys(one.kinds, one), **dict.fromkeys(other.kinds, other)}
    number, words, many, record = (of.get(kind, ANY) for kind in _BOUNDED)
    choices = (*(one.choices or ()), *(other.choices or ()))
    return Shape(
        kinds=frozenset(of),
        choices=choices or None,
        listed=one.listed | other.listed,
        whole=number.whole,
        least=number.least,
        most=number.most,
        chars_least=words.chars_least,
        chars_most=words.chars_most,
        format=words.format,
        pattern=words.pattern,
        examples=words.examples,
        fields=record.fields,
        required=record.required,
        items=many.items,
        size_least=many.size_least,
        size_most=many.size_most,
    )


def _narrowed(shape: Shape, by: Shape) -> Shape:
    """What both shapes allow, as far as that can be said by one."""
    fields = {name: _narrowed(shape.field(name), by.field(name)) for name in dict.fromkeys([*shape.fields, *by.fields])}
    return Shape(
        kinds=(shape.kinds & by.kinds) or shape.kinds,
        whole=shape.whole or by.whole,
        least=max((each for each in (shape.least, by.least) if each is not None), default=None),
        most=min((each for each in (shape.most, by.most) if each is not None), default=None),
        choices=shape.choices if by.choices is None else by.choices,
        listed=shape.listed if by.choices is None else by.listed,
        chars_least=max(shape.chars_least, by.chars_least),
        chars_most=min((each for each in (shape.chars_most, by.chars_most) if each is not None), default=None),
        format=shape.format or by.format,
        pattern=shape.pattern or by.pattern,
        examples=(*shape.examples, *by.examples),
        fields=fields,
        required=shape.required | by.required,
        items=shape.items or by.items,
        size_least=max(shape.size_least, by.size_least),
        size_most=min((each for each in (shape.size_most, by.size_most) if each is not None), default=None),
    )
