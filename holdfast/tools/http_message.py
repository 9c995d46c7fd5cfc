"""An operation's call as the parts of an HTTP request: no argument can leave the place that was meant for it.

Arguments in path and query are percent-encoded. What would still be read differently by some server is refused: a `/` in a
path, a dot segment, an escape that is encoded already, a control character in a header.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import quote, unquote

import orjson

from holdfast.tools.definition import PLACEHOLDER, OpenapiBinding, Place
from holdfast.tools.urls import Url, parse_url
from holdfast_verdict.actions.numbers import decimal_text
from holdfast_verdict.canonical import JsonValue

HEADER_LENGTH_MAX: Final = 8_000

_ESCAPED = re.compile(r"%[0-9A-Fa-f]{2}")
_SEPARATOR = re.compile(r"[;/\\]")
_HEADER_VALUE = re.compile(r"([!-~]([ -~]*[!-~])?)?")
_BODIES_EXPECTED = ("POST", "PUT", "PATCH")


class NotSendable(ValueError):
    """An argument cannot be sent in its place; the message is one that a model can act on."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a call sends, before credentials.

    Attributes:
        url: Where to.
        headers: Headers that arguments go into.
        body: JSON, or None.
    """

    url: Url
    headers: Mapping[str, str]
    body: bytes | None


def build_message(binding: OpenapiBinding, arguments: Mapping[str, JsonValue], base: Url) -> Message:
    """Puts arguments into their places.

    Args:
        binding: The operation.
        arguments: In the form that was decided.
        base: The service's address; the operation's path follows its own.

    Raises:
        NotSendable: An argument would not stay in its place.
    """
    given = [(binding.places[name], name, value) for name, value in arguments.items() if name in binding.places]
    target = base.target.rstrip("/") + _path(binding.path, given) + _query(given)
    text = f"{base.scheme}://{base.authority}{target}"
    try:
        url = parse_url(text)
    except ValueError as error:
        raise NotSendable(f"the arguments make no address: {error}") from None
    # what the strict reader of URLs would write differently, such as `..`, a server might read differently
    if url.text != text:
        raise NotSendable("an argument would lead to another path, such as by `.` or `..`")
    return Message(url, _headers(given), _body(binding, given))


Given = Sequence[tuple[Place, str, JsonValue]]


def _path(template: str, given: Given) -> str:
    texts = {
        place.name: _path_text(name, value)
        for place, name, value in given
        if place.where == "path" and value is not None
    }

    def fill(placeholder: re.Match[str]) -> str:
        text = texts.get(placeholder[1])
        if not text:
            raise NotSendable(f"{placeholder[1]}: is part of the path, and cannot be empty")
        return quote(text, safe="")

    path = PLACEHOLDER.sub(fill, template)
    for segment in path.split("/"):
        if any(part in (".", "..") for part in _SEPARATOR.split(unquote(segment))):
            raise NotSendable("an argument would lead to another path, such as by `.` or `..`")
    return path


def _path_text(name: str, value: JsonValue) -> str:
    text = _text(name, value)
    if any(character in "/\\" or unicodedata.category(character) == "Cc" for character in text):
        raise NotSendable(f"{name}: is one part of a path, so it has no `/`, `\\` or control characters")
    if _ESCAPED.search(text) is not None:
        raise NotSendable(f"{name}: is percent-encoded already; write the plain text")
    return text


def _query(given: Given) -> str:
    pairs = []
    for place, name, value in given:
        if place.where == "query" and value is not None:
            values = value if isinstance(value, list | tuple) else [value]
            pairs += [f"{quote(place.name, safe='')}={quote(_text(name, each), safe='')}" for each in values]
    return f"?{'&'.join(pairs)}" if pairs else ""


def _headers(given: Given) -> dict[str, str]:
    headers: dict[str, str] = {}
    for place, name, value in given:
        if place.where == "header" and value is not None:
            text = _text(name, value)
            if _HEADER_VALUE.fullmatch(text) is None or len(text) > HEADER_LENGTH_MAX:
                raise NotSendable(
                    f"{name}: goes into a header, so it is at most {HEADER_LENGTH_MAX} characters of ASCII in one line, "
                    "without spaces around them"
                )
            headers[place.name] = text
    return headers


def _text(name: str, value: JsonValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | str):
        return str(value)
    raise NotSendable(f"{name}: only text, numbers, true and false can stand there")


def _body(binding: OpenapiBinding, given: Given) -> bytes | None:
    for place, _, value in given:
        if place.where == "whole-body":
            return orjson.dumps(_numbered(value, place.numbers))
    fields = {place.name: _numbered(value, place.numbers) for place, _, value in given if place.where == "body"}
    takes_fields = any(place.where == "body" for place in binding.places.values())
    if fields or (takes_fields and binding.method in _BODIES_EXPECTED):
        return orjson.dumps(fields)
    return None


def _numbered(value: JsonValue, paths: Sequence[str]) -> object:
    """Returns a value in which the decimals at these paths are JSON numbers, to the last digit."""
    return _at(value, [tuple(path.split("/")[1:]) for path in paths])


def _at(value: JsonValue, paths: Sequence[tuple[str, ...]]) -> object:
    if not paths:
        return value
    if () in paths and isinstance(value, str):
        text = decimal_text(value)
        if text is None:
            raise NotSendable("a number is not written as one")
        return orjson.Fragment(text)
    if isinstance(value, Mapping):
        return {
            key: _at(member, [path[1:] for path in paths if path[:1] == (escape(key),)])
            for key, member in value.items()
        }
    if isinstance(value, list | tuple):
        inner = [path[1:] for path in paths if path[:1] == ("*",)]
        return [_at(cast("JsonValue", member), inner) for member in value]
    return value


def escape(name: str) -> str:
    """Returns a property's name as it stands in a path of `Place.numbers`, where `*` is every item of a list."""
    return name.replace("~", "~0").replace("/", "~1").replace("*", "~2")
