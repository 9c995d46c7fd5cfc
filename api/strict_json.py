"""JSON with one meaning: no key twice, no NaN, no text that a database cannot hold, bounded in depth."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Final, NoReturn

from holdfast.errors import RequestInvalid, RequestTooLarge

DEPTH_MAX: Final = 64
_DIGITS_MAX: Final = 40
# A text (one that does not end goes to the end of the body, so that every match is found in linear time) or a bracket.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.|\\\Z)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)


def check_json(body: bytes) -> None:
    """Checks a body before anything parses it for its content.

    Raises:
        RequestTooLarge: It is nested too deeply.
        RequestInvalid: It is not JSON, or not JSON with one meaning.
    """
    _check_depth(body)
    try:
        value = json.loads(
            body.decode(), object_pairs_hook=_object, parse_constant=_refuse_constant, parse_int=_integer
        )
    except UnicodeDecodeError:
        raise RequestInvalid("the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise RequestInvalid(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    _check_texts(value, "body")


def _check_depth(body: bytes) -> None:
    """Counts brackets outside of texts; a parser would recurse into each."""
    depth = 0
    for token in _TOKEN.finditer(body):
        first = token[0][:1]
        if first in b"[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise RequestTooLarge(f"the body is nested deeper than {DEPTH_MAX}")
        elif first in b"]}":
            depth -= 1


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        doubled = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise RequestInvalid(f"`{doubled[:80]}`: the key stands twice in one object", remedy="send it once")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise RequestInvalid(f"the body holds {name}, which is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS_MAX:
        raise RequestInvalid(f"the body holds a number of {len(digits)} digits")
    return int(digits)


def _check_texts(value: object, path: str) -> None:
    if isinstance(value, str):
        if "\x00" in value:
            raise RequestInvalid(f"`{path}`: the text holds a NUL character")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise RequestInvalid(f"`{path}`: the text holds half of a surrogate pair") from None
    elif isinstance(value, dict):
        for name, member in value.items():
            _check_texts(name, f"{path}: a key")
            _check_texts(member, f"{path}.{name[:40]}")
    elif isinstance(value, list):
        for index, member in enumerate(value):
            _check_texts(member, f"{path}[{index}]")
