"""JSON text: one document that every reader reads alike."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal, InvalidOperation
from typing import Final, NoReturn

from holdfast_verdict.actions.refused import FormRefused, shown

JSON_BYTES_MAX: Final = 262_144
"""Bound of what is read at all; what it says is bounded further."""
_INTEGER_LENGTH_MAX: Final = 4000


def parse_json(text: str | bytes | bytearray) -> object:
    """Reads JSON text with exact numbers: integers as `int`, all others as `Decimal`.

    Raises:
        FormRefused: It is not JSON by RFC 8259, or readers would read it differently.
    """
    if len(text) > JSON_BYTES_MAX:
        raise FormRefused("json.size", f"the JSON text is over {JSON_BYTES_MAX} bytes", "send less")
    if not isinstance(text, str):
        try:
            text = bytes(text).decode()
        except UnicodeDecodeError:
            raise FormRefused("json.encoding", "the JSON text is not UTF-8", "send it as UTF-8") from None
    if text.startswith("\ufeff"):
        raise FormRefused("json.encoding", "the JSON text starts with a byte order mark", "leave it out")
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=_not_a_number
        )
    except json.JSONDecodeError as error:
        raise FormRefused(
            "json.syntax", f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}", "send one JSON object"
        ) from None
    except RecursionError:
        raise FormRefused("json.depth", "the JSON text is nested too deep", "send flatter arguments") from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise FormRefused(
            "json.duplicate_key", f"the key {shown(twice)} stands twice in one object", "write each key once"
        )
    return found


def _integer(text: str) -> int:
    if len(text) > _INTEGER_LENGTH_MAX:  # Python's own bound lies a little above
        raise FormRefused("number.range", "a whole number is outside ±(2^53 - 1)", "send it as text")
    return int(text)


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise FormRefused("number.range", f"{shown(text)} is out of all range", "write fewer digits") from None


def _not_a_number(text: str) -> NoReturn:
    raise FormRefused("number.not_finite", f"{text} is not a number of JSON", "write a finite number")
