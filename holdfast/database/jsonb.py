"""JSON for `jsonb` columns, from values that people and models may have written."""

from __future__ import annotations

import re
from collections.abc import Mapping

import orjson

from holdfast_verdict.canonical import JsonValue

_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")


def _storable(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return _NOT_TEXT.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {str(_storable(key)): _storable(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(member) for member in value]
    return value


def jsonb(value: Mapping[str, JsonValue]) -> str:
    """Returns JSON text that a `jsonb` column takes.

    PostgreSQL's text has no NUL, and UTF-8 no lone surrogates. A tool name or message that a model put one into must not make
    a decision or a settlement fail for ever, so each becomes U+FFFD; the exact bytes stand in the record and the transcript.
    """
    try:
        encoded = orjson.dumps(dict(value))
    except orjson.JSONEncodeError:
        encoded = orjson.dumps(_storable(value))
    if b"\\u0000" in encoded:
        encoded = orjson.dumps(_storable(value))
    return encoded.decode()
