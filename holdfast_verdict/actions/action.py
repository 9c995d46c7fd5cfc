"""Canonical actions: the one form in which an action is decided, approved, recorded and executed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

import orjson

from holdfast_verdict.actions.numbers import FRACTION_KEY, plain_text
from holdfast_verdict.actions.values import Plain
from holdfast_verdict.canonical import JsonValue, canonical_bytes

TOOL_KIND = "tool.call"


@dataclass(frozen=True, slots=True)
class CanonicalAction:
    """An action in its one form.

    Attributes:
        name: Name by which policies speak of it: the tool's, or the kind.
        kind: `tool.call`, or another kind.
        value: The canonical JSON object: `kind`, `tool` for tools, `args`; a fraction stands as `{"$number": "12.5"}`.
        canonical: Its bytes.
        digest: SHA-256 of these.
        external: Its effect leaves the tenant's boundary.
        yields: Labels of what it returns, by path of the field; as its type says.
        parameters: JSON Schema of its arguments, as its type says.
    """

    name: str
    kind: str
    value: Mapping[str, JsonValue]
    canonical: bytes
    digest: bytes
    external: bool
    yields: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False, repr=False)
    parameters: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        name: str,
        kind: str,
        arguments: Mapping[str, Plain],
        *,
        external: bool,
        yields: Mapping[str, tuple[str, ...]],
        parameters: Mapping[str, Any],
    ) -> CanonicalAction:
        """Builds it from arguments that are in their one form already."""
        about: dict[str, JsonValue] = {"kind": kind, "args": _encoded(dict(arguments))}
        if kind == TOOL_KIND:
            about["tool"] = name
        canonical = canonical_bytes(about)
        return cls(name, kind, about, canonical, hashlib.sha256(canonical).digest(), external, yields, parameters)

    @property
    def args(self) -> Mapping[str, JsonValue]:
        """The canonical arguments."""
        return cast("Mapping[str, JsonValue]", self.value["args"])

    def arguments(self, fractions: Callable[[str], object] = Decimal) -> dict[str, object]:
        """Returns plain Python arguments to execute, fresh on each call.

        Args:
            fractions: Makes a number with a fraction from its text: `Decimal` keeps it exact, `float` suits tools that take one.
        """
        # from the bytes that were decided, not from `value`, which somebody may have changed
        decided = orjson.loads(self.canonical)["args"]
        return {name: _decoded(member, fractions) for name, member in decided.items()}


def _encoded(value: Plain) -> JsonValue:
    if isinstance(value, Decimal):
        return {FRACTION_KEY: plain_text(value)}
    if isinstance(value, dict):
        return {name: _encoded(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_encoded(member) for member in value]
    return value


def _decoded(value: JsonValue, fractions: Callable[[str], object]) -> object:
    if isinstance(value, Mapping):
        text = value.get(FRACTION_KEY)
        if isinstance(text, str):
            return fractions(text)
        return {name: _decoded(member, fractions) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_decoded(member, fractions) for member in value]
    return value
