"""What kind of thing a value is, as far as the tools' JSON Schemas say: enough to refuse what could never be true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

ANYTHING: Final = frozenset({"text", "number", "flag", "list", "object", "money"})
_KIND_OF: Final = {
    "string": "text",
    "number": "number",
    "integer": "number",
    "boolean": "flag",
    "array": "list",
    "object": "object",
}
_MAX_DEPTH: Final = 64


class ActionType(Protocol):
    """What the language asks of a catalogue's entry."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def parameters(self) -> Mapping[str, object]:
        """The JSON Schema of its arguments."""

    @property
    def external(self) -> bool:
        """Whether it leaves the tenant's boundary."""

    @property
    def yields(self) -> Mapping[str, object]:
        """The labels of its output, by field."""


class Catalogue(Protocol):
    """What the language asks of a catalogue."""

    @property
    def types(self) -> Mapping[str, ActionType]:
        """All its entries, by name."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a value may be.

    Attributes:
        kinds: Of `ANYTHING`.
        known: Whether a schema or the language says so; else anything goes.
        unit: The unit of an amount of money, if it is declared.
        choices: The texts it may be, if a schema lists them.
        literal: Whether it stands in the policy itself.
        date: Whether it is a date or time whose text sorts as it does.
        members: Of a list.
        fields: Of an object.
    """

    kinds: frozenset[str] = ANYTHING
    known: bool = False
    unit: str = ""
    choices: frozenset[str] = frozenset()
    literal: bool = False
    date: bool = False
    members: Shape | None = None
    fields: Mapping[str, Shape] = field(default_factory=dict)

    def is_only(self, *kinds: str) -> bool:
        """Says whether it can be nothing but one of these kinds."""
        return self.kinds <= frozenset(kinds)

    def may_be(self, *kinds: str) -> bool:
        """Says whether it can be one of these kinds."""
        return bool(self.kinds & frozenset(kinds))

    def says(self) -> str:
        """Returns what it is, for messages."""
        names = {"flag": "true or false", "money": "an amount of money", "list": "a list", "object": "an object"}
        plain = {"text": "text", "number": "a number"}
        return " or ".join(sorted((names | plain)[kind] for kind in self.kinds)) or "nothing"


UNKNOWN: Final = Shape()


def of_kind(kind: str, *, literal: bool = False, unit: str = "", date: bool = False) -> Shape:
    """Returns the shape of a value of one kind."""
    return Shape(frozenset({kind}), known=True, literal=literal, unit=unit, date=date)


def joined(shapes: Sequence[Shape]) -> Shape:
    """Returns the shape of what may have any of these shapes."""
    if len(shapes) == 1:
        return shapes[0]
    if not shapes or not all(shape.known for shape in shapes):
        return replace(UNKNOWN, unit=next((shape.unit for shape in shapes if shape.unit), ""))
    members = [shape.members for shape in shapes if shape.members is not None]
    names = {name for shape in shapes for name in shape.fields}
    every_choice = all(shape.choices or not shape.may_be("text") for shape in shapes)
    return Shape(
        frozenset().union(*(shape.kinds for shape in shapes)),
        known=True,
        unit=next((shape.unit for shape in shapes if shape.unit), ""),
        choices=frozenset().union(*(shape.choices for shape in shapes)) if every_choice else frozenset(),
        date=all(shape.date for shape in shapes),
        members=joined(members) if members else None,
        fields={name: joined([shape.fields[name] for shape in shapes if name in shape.fields]) for name in names},
    )


def shape_of(schema: object) -> Shape:
    """Returns the shape that a JSON Schema describes; what it does not say is left open."""
    return _Reader(schema).shape(schema, 0)


class _Reader:
    """Reads one schema; each definition once, so that one that holds itself ends."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._referred: dict[str, Shape] = {}

    def shape(self, schema: object, depth: int) -> Shape:
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return UNKNOWN
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference not in self._referred:
                self._referred[reference] = UNKNOWN
                self._referred[reference] = self.shape(_referred(self._root, reference), depth + 1)
            return _with_unit(self._referred[reference], schema)
        for word in ("anyOf", "oneOf"):
            if isinstance(schema.get(word), Sequence) and not schema.get("properties"):
                branches = [branch for branch in schema[word] if not _is_null(branch)]
                return _with_unit(joined([self.shape(branch, depth + 1) for branch in branches]), schema)
        only = schema.get("allOf")
        if isinstance(only, Sequence) and len(only) == 1 and not schema.get("properties"):
            return _with_unit(self.shape(only[0], depth + 1), schema)
        return self._plain(schema, depth)

    def _plain(self, schema: Mapping[str, object], depth: int) -> Shape:
        choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
        texts: frozenset[str] = frozenset()
        types = schema.get("type")
        if isinstance(choices, Sequence) and not isinstance(choices, str):
            texts = frozenset(choice for choice in choices if isinstance(choice, str))
            if types is None and len(texts) == len([choice for choice in choices if choice is not None]):
                types = "string"
        if types is None:
            types = "object" if "properties" in schema else None
        named = [types] if isinstance(types, str) else types if isinstance(types, Sequence) else []
        kinds = frozenset(_KIND_OF[name] for name in named if name in _KIND_OF)
        if not kinds:
            return _with_unit(UNKNOWN, schema)
        properties = schema.get("properties")
        fields = properties if isinstance(properties, Mapping) else {}
        shape = Shape(
            kinds,
            known=True,
            choices=texts,
            date=schema.get("format") in ("date", "date-time"),
            members=self.shape(schema.get("items"), depth + 1) if "list" in kinds else None,
            fields={str(name): self.shape(member, depth + 1) for name, member in fields.items()},
        )
        return _with_unit(shape, schema)


def _is_null(schema: object) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "null"


def _with_unit(shape: Shape, schema: Mapping[str, object]) -> Shape:
    unit = schema.get("x-unit")
    return replace(shape, unit=unit) if isinstance(unit, str) else shape


def _referred(root: object, reference: str) -> object:
    node = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        node = node.get(name) if isinstance(node, Mapping) else None
    return node if reference.startswith("#") else None
