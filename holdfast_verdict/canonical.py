"""Canonical JSON and digests: one value, one sequence of bytes.

The form is RFC 8785 (JCS) on a subset on which it is cheap: objects with ASCII keys, no floats, integers within ±(2^53 - 1).
There, sorted keys in compact form are exactly what JCS prescribes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Union

import orjson

JsonValue = Union[None, bool, int, str, Sequence["JsonValue"], Mapping[str, "JsonValue"]]  # noqa: UP007 (quoted names cannot be parts of a `|`)
"""What canonical JSON may hold: no floats."""

MAX_INTEGER = 2**53 - 1
MAX_DEPTH = 64


class NotCanonical(ValueError):
    """A value has no canonical form; the message names the place."""


def _check(value: object, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise NotCanonical(f"{path} is nested deeper than {MAX_DEPTH}")
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise NotCanonical(f"{path} holds a lone surrogate") from None
    elif isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise NotCanonical(f"{path} is outside ±(2^53 - 1)")
    elif isinstance(value, dict):
        for key, member in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise NotCanonical(f"{path} has the key {key!r}, which is not ASCII text")
            _check(member, f"{path}.{key}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, member in enumerate(value):
            _check(member, f"{path}[{index}]", depth + 1)
    else:
        raise NotCanonical(f"{path} is a {type(value).__name__}, which canonical JSON does not have")


def _is_plain(value: object, depth: int) -> bool:
    """Says, fast, that a container has a canonical form; if not, `_check` says whether it has one, and where it has none.

    It knows only JSON's own types, exactly these, and ASCII text: nearly all that is ever asked.
    """
    if depth >= MAX_DEPTH:
        return False
    if type(value) is dict:
        for key in value:
            if type(key) is not str or not key.isascii():
                return False
        members: Iterable[object] = value.values()
    elif type(value) is list or type(value) is tuple:
        members = value
    else:
        return False
    for member in members:
        kind = type(member)
        if kind is str:
            if not member.isascii():  # type: ignore[attr-defined]  # it is text: `kind` says so
                return False
        elif kind is int:
            if not -MAX_INTEGER <= member <= MAX_INTEGER:  # type: ignore[operator]  # it is an integer
                return False
        elif member is not None and kind is not bool and not _is_plain(member, depth + 1):
            return False
    return True


def check_canonical(value: object) -> None:
    """Sees that a value has a canonical form.

    Raises:
        NotCanonical: The value holds a float, a key that is not ASCII, an integer beyond ±(2^53 - 1) or is nested too deep.
    """
    if not _is_plain(value, 0):
        _check(value, "$", 0)


def canonical_bytes(value: object) -> bytes:
    """Returns the canonical JSON of a value.

    Raises:
        NotCanonical: As `check_canonical` does.
    """
    check_canonical(value)
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(value: object) -> bytes:
    """Returns the SHA-256 of the value's canonical JSON."""
    return hashlib.sha256(canonical_bytes(value)).digest()


def chain(parent_id: bytes, content: bytes) -> bytes:
    """Returns the id of an entry in a hash chain: SHA-256 over the parent's id (empty for the first) and the content."""
    return hashlib.sha256(parent_id + content).digest()
