"""The catalogue: which actions there are, what they take, and what is known of their effects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

from holdfast_verdict.actions.action import TOOL_KIND, CanonicalAction
from holdfast_verdict.actions.closing import closed
from holdfast_verdict.actions.json_text import parse_json
from holdfast_verdict.actions.kinds import KINDS, NO_NAME
from holdfast_verdict.actions.refused import UNKNOWN, ActionRefused, CatalogueInvalid, FormRefused, shown
from holdfast_verdict.actions.schemas import SchemaRefused
from holdfast_verdict.actions.shaping import Shape
from holdfast_verdict.actions.values import ARGUMENTS_BYTES_MAX, copy_of

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}(?:\.[A-Za-z0-9_-]{1,100}){0,7}")
_FLAGS: Final = ("external", "idempotent", "reversible")
_WORDS: Final = ("parameters", "formats", "yields", "description", *_FLAGS)
_NO_ARGUMENTS: Final[Mapping[str, Any]] = MappingProxyType({"type": "object", "properties": {}})


@dataclass(frozen=True, slots=True)
class ActionType:
    """What is known of an action before it is proposed.

    Attributes:
        name: Name by which policies speak of it.
        parameters: JSON Schema of its arguments, draft 2020-12, as it was written.
        external: Its effect leaves the tenant's boundary; so it is unless somebody says otherwise.
        idempotent: The same call twice has its effect once.
        reversible: Its effect can be taken back.
        yields: Labels of what it returns, by path of the field; `""` is the whole output.
        formats: Formats by path of argument, beside those that the schema names itself.
        description: What models are told of it.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=lambda: _NO_ARGUMENTS)
    external: bool = True
    idempotent: bool = False
    reversible: bool = False
    yields: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    formats: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    description: str = ""

    @property
    def kind(self) -> str:
        """Its kind: `tool.call` for all but the built-in ones."""
        return self.name if self.name in KINDS else TOOL_KIND

    @classmethod
    def of(cls, name: str, entry: Mapping[str, Any]) -> Self:
        """Reads an entry of a catalogue.

        Raises:
            CatalogueInvalid: It is not of the documented form.
        """
        if not isinstance(entry, Mapping):
            raise CatalogueInvalid(name, "", "is not a mapping", 'write {"parameters": {…}}')
        if unknown := sorted(str(key) for key in entry if key not in _WORDS):
            raise CatalogueInvalid(name, unknown[0], "is not known here", f"write {', '.join(_WORDS)}")
        for word in _FLAGS:
            if not isinstance(entry.get(word, False), bool):
                raise CatalogueInvalid(name, word, "is neither true nor false")
        formats = entry.get("formats", {})
        if not isinstance(formats, Mapping) or not all(
            isinstance(text, str) for pair in formats.items() for text in pair
        ):
            raise CatalogueInvalid(name, "formats", "is not format by argument", 'write {"to": "email"}')
        return cls(
            name,
            entry.get("parameters", _NO_ARGUMENTS),
            entry.get("external", True),
            entry.get("idempotent", False),
            entry.get("reversible", False),
            _labels(name, entry.get("yields", ())),
            MappingProxyType(dict(formats)),
            str(entry.get("description", "")),
        )


def _labels(name: str, written: object) -> Mapping[str, tuple[str, ...]]:
    fields = written if isinstance(written, Mapping) else {"": written}
    found = {}
    for path, labels in fields.items():
        if (
            not isinstance(path, str)
            or not isinstance(labels, list | tuple)
            or not all(isinstance(each, str) for each in labels)
        ):
            raise CatalogueInvalid(name, "yields", "is neither labels nor labels by field", 'write ["untrusted"]')
        if labels:
            found[path] = tuple(labels)
    return MappingProxyType(found)


class Catalogue:
    """All action types that there are; an action of no other type has a canonical form."""

    __slots__ = ("_shapes", "_types")

    def __init__(self, types: Mapping[str, ActionType]) -> None:
        self._types = MappingProxyType(dict(types))
        self._shapes = {name: _shape(each) for name, each in self._types.items()}

    @classmethod
    def of(cls, entries: Mapping[str, Mapping[str, Any] | ActionType]) -> Self:
        """Reads a catalogue.

        Args:
            entries: By name: `parameters` (JSON Schema), and where they differ from what is assumed `external`, `idempotent`,
                `reversible`, `yields`, `formats`.

        Raises:
            CatalogueInvalid: An entry is not of the documented form, or its schema cannot be taken.
        """
        types = {}
        for name, entry in entries.items():
            if not isinstance(name, str) or _NAME.fullmatch(name) is None or name in NO_NAME:
                raise CatalogueInvalid(str(name), "", "is no name of an action", "write letters, digits, _, - and dots")
            types[name] = entry if isinstance(entry, ActionType) else ActionType.of(name, entry)
            if types[name].name != name:
                raise CatalogueInvalid(name, "", f"stands for the action type {types[name].name!r}", "use one name")
        return cls(types)

    @property
    def types(self) -> Mapping[str, ActionType]:
        """All types by name."""
        return self._types

    def get(self, name: str) -> ActionType | None:
        """Returns a type, or None if there is none of this name."""
        return self._types.get(name)

    def schema(self, name: str) -> Mapping[str, Any] | None:
        """Returns the closed schema that a type's arguments are checked by, or None if there is no such type.

        `allOf` is merged, references lead to `#/$defs/dN` only, a format with a normal form stands under `x-form`.
        """
        shape = self._shapes.get(name)
        return None if shape is None else shape.schema

    def with_builtin_kinds(self) -> Catalogue:
        """Returns a catalogue that also has the kinds that are no tool calls, where it does not describe them itself."""
        return Catalogue({**{name: ActionType.of(name, entry) for name, entry in KINDS.items()}, **self._types})

    def action(self, name: str, arguments: Mapping[str, object] | str | bytes) -> CanonicalAction:
        """Brings an action to its canonical form.

        Args:
            name: Name of the action.
            arguments: A mapping, or JSON text, in which duplicate keys and the like are refused.

        Raises:
            ActionRefused: It has none.
        """
        shape = self._shapes.get(name) if isinstance(name, str) else None
        if shape is None:
            raise ActionRefused(
                UNKNOWN,
                "action",
                f"there is no action {shown(name) if isinstance(name, str) else type(name).__name__}",
                "call one that is listed",
            )
        if isinstance(arguments, str | bytes | bytearray):
            try:
                read = parse_json(arguments)
            except FormRefused as refused:
                raise ActionRefused(refused.code, "args", refused.message, refused.remedy) from None
        else:
            read = arguments
        if not isinstance(read, Mapping):
            raise ActionRefused("json.type", "args", "are not an object", 'send {"name": value, …}')
        about = self._types[name]
        action = CanonicalAction.of(
            name,
            about.kind,
            shape.of(copy_of(read, (None, "args"))),
            external=about.external,
            yields=about.yields,
            parameters=about.parameters,
        )
        if len(action.canonical) > ARGUMENTS_BYTES_MAX:
            raise ActionRefused("json.size", "args", f"the arguments are over {ARGUMENTS_BYTES_MAX} bytes", "send less")
        return action


def _shape(about: ActionType) -> Shape:
    try:
        return Shape(closed(about.parameters, about.formats))
    except SchemaRefused as refused:
        raise CatalogueInvalid(about.name, refused.path, refused.message, refused.remedy) from None
