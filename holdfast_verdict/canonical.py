"""Canonical JSON and digests: one value, one sequence of bytes.

The form is RFC 8785 (JCS) on a subset on which it is cheap: objects with ASCII keys, no floats, integers within ±(2^53 - 1).
There, sorted keys in compact form are exactly what JCS prescribes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
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


def canonical_bytes(value: object) -> bytes:
    """Returns the canonical JSON of a value.

    Raises:
        NotCanonical: The value holds a float, a key that is not ASCII, an integer beyond ±(2^53 - 1) or is nested too deep.
    """
    _check(value, "$", 0)
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(value: object) -> bytes:
    """Returns the SHA-256 of the value's canonical JSON."""
    return hashlib.sha256(canonical_bytes(value)).digest()


def chain(parent_id: bytes, content: bytes) -> bytes:
    """Returns the id of an entry in a hash chain: SHA-256 over the parent's id (empty for the first) and the content."""
    return hashlib.sha256(parent_id + content).digest()
