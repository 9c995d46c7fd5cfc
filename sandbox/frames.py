"""Frames between a job and its supervisor: four bytes of length, then JSON, of which nothing is believed. Standard library only."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NoReturn, get_args

LENGTH: Final = struct.Struct("!I")
Kind = Literal["tool", "emit", "cite"]
_KINDS: Final = frozenset(get_args(Kind))
_KEYS: Final = frozenset(("token", "kind", "name", "arguments"))
_NAME_MAX: Final = 512


class Malformed(Exception):
    """What came is no request; whoever sends such a thing is cut off."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a job asks of its run.

    Attributes:
        number: Which of the job's requests it is, from 1.
        kind: `tool` calls a tool, `emit` says something on a channel, `cite` names a source.
        name: The tool, the channel or the source.
        arguments: The keyword arguments; of `emit` it is `data` alone.
    """

    number: int
    kind: Kind
    name: str
    arguments: Mapping[str, object]


def _no_constant(text: str) -> NoReturn:
    raise Malformed(f"{text} is no JSON")


def _one_of_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a key stands twice in an object")
    return found


def _within(value: object, depth: int) -> None:
    """Refuses what is nested deeper, and texts that no database takes. Level by level, so that nothing here recurses."""
    level = [value]
    while level:
        if depth < 0:
            raise Malformed("it is nested too deeply")
        deeper: list[object] = []
        for item in level:
            if isinstance(item, str):
                if "\0" in item or (not item.isascii() and any("\ud800" <= sign <= "\udfff" for sign in item)):
                    raise Malformed("a text has a NUL or half a character")
            elif isinstance(item, dict):
                deeper += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                deeper += item
        level, depth = deeper, depth - 1


def parse(body: bytes, number: int, depth: int) -> tuple[str, Request]:
    """Returns a frame's token and its request.

    Args:
        body: What came after the length.
        number: Which of the job's requests it is.
        depth: How deeply it may be nested.

    Raises:
        Malformed: If it is no request.
    """
    try:
        found = json.loads(body.decode(), parse_constant=_no_constant, object_pairs_hook=_one_of_each)
    except (ValueError, RecursionError) as error:
        raise Malformed("it is no JSON, or nested too deeply") from error
    _within(found, depth)
    if not isinstance(found, dict) or found.keys() != _KEYS:
        raise Malformed("a request has token, kind, name and arguments, and nothing else")
    token, kind, name, arguments = (found[key] for key in ("token", "kind", "name", "arguments"))
    if not isinstance(token, str) or not isinstance(kind, str) or kind not in _KINDS:
        raise Malformed("the kind of request is not known")
    if not isinstance(name, str) or not 0 < len(name) <= _NAME_MAX or not name.isprintable():
        raise Malformed("the name is too long, or has control characters")
    if not isinstance(arguments, dict) or (kind == "emit" and arguments.keys() != {"data"}):
        raise Malformed("the arguments are not such as go with the request")
    known: Kind = next(one for one in get_args(Kind) if one == kind)
    return token, Request(number, known, name, arguments)
