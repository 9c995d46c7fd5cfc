"""Readings of a text that may be an encoding of another one, also of one that was encoded twice or three times."""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import unquote, unquote_plus

Decoder = Callable[[str], Iterator[str]]

DEPTH: Final = 4
"""How often a text may have been encoded."""
READINGS: Final = 32
"""How many readings of one value are looked up."""
_SHORTEST: Final = 3
_SHORTEST_BYTES: Final = 4
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{4,}={0,2}")
_BASE64_LINES: Final = re.compile(r"(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+/]{40,80}\r?\n){1,4096}[A-Za-z0-9+/]{1,80}={0,2}")
_BASE32: Final = re.compile(r"[A-Z2-7]{7,}={0,6}|[a-z2-7]{7,}={0,6}")
_HEX: Final = re.compile(r"(?:0x)?(?:[0-9a-fA-F]{2}){4,}|(?:(?:0x|\\x)?[0-9a-fA-F]{2}[ ,:\\-]{0,2}){4,}")
_HEX_NOISE: Final = re.compile(r"0x|\\x|[ ,:\\-]")
_DATA_URL: Final = re.compile(r"\Adata:[\w/+.;=-]{0,100};base64,")
_PERCENT: Final = re.compile(r"%[0-9a-fA-F]{2}")
_PRINTABLE_EQUALS: Final = re.compile(r"=([0-9A-Fa-f]{2})|=\r?\n")
_ESCAPE: Final = re.compile(
    r"\\(?:u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|([\"'\\/bfnrt]))"
)
_LETTERS: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ENCODED_WORD: Final = re.compile(r"=\?[\w-]{1,40}\?([bBqQ])\?([^?\s]{1,4000})\?=")
_AT: Final = re.compile(
    r"(?<![\w+-])([\w+-]{1,64}(?:(?:\.|\s{1,3}dot\s{1,3}|\s{0,3}[\[({<]\s?dot\s?[\])}>]\s{0,3})[\w+-]{1,64}){0,8})"
    r"(?:@|\s{1,3}at\s{1,3}|\s{0,3}[\[({<]\s?(?:at|@)\s?[\])}>]\s{0,3})"
    r"([\w-]{1,64}(?:(?:\.|\s{1,3}(?:dot|\.)\s{1,3}|\s{0,3}[\[({<]\s?(?:dot|\.)\s?[\])}>]\s{0,3})[\w-]{1,64}){1,8})",
    re.IGNORECASE,
)
_DOT: Final = re.compile(r"\s{0,3}[\[({<]\s?(?:dot|\.)\s?[\])}>]\s{0,3}|\s{1,3}(?:dot|\.)\s{1,3}", re.IGNORECASE)


def readings(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Returns the text and all that it may be an encoding of, with the encodings, the plainest first."""
    found: dict[str, tuple[str, ...]] = {text: ()}
    fresh = [text]
    for _ in range(DEPTH):
        deeper: list[str] = []
        for each in fresh:
            for name, decoder in _WHOLE:
                for decoded in decoder(each):
                    if len(found) < READINGS and decoded not in found and len(decoded) <= 2 * len(text):
                        found[decoded] = (*found[each], name)
                        deeper.append(decoded)
        fresh = deeper
    return list(found.items())


def embedded(text: str, room: int) -> tuple[list[tuple[str, tuple[str, ...]]], bool]:
    """Returns what encoded pieces of a text say, at most `room` characters of it, and whether that is all."""
    is_all = True
    found: dict[str, tuple[str, ...]] = {}
    fresh: list[tuple[str, tuple[str, ...]]] = [(text, ())]
    for _ in range(DEPTH):
        deeper: list[tuple[str, tuple[str, ...]]] = []
        for each, before in fresh:
            for name, decoder in _WITHIN:
                for decoded in decoder(each):
                    if decoded in found or decoded == text:
                        continue
                    if len(decoded) > room:
                        is_all = False
                        continue
                    room -= len(decoded)
                    found[decoded] = (*before, name)
                    deeper.append((decoded, (*before, name)))
        fresh = deeper
    return list(found.items()), is_all


def is_binary(how: tuple[str, ...]) -> bool:
    """Says whether one of the encodings is such that plain words can pass for it."""
    return not {"base64", "base32", "hex"}.isdisjoint(how)


def _plain(data: bytes) -> Iterator[str]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    if len(data) >= _SHORTEST and text.translate(_CONTROLS).isprintable() and any(map(str.isalnum, text)):
        yield text


_CONTROLS: Final = str.maketrans("\t\r\n", "   ")


def _base64(text: str) -> Iterator[str]:
    squeezed = _DATA_URL.sub("", "".join(text.split()))
    if not _BASE64.fullmatch(squeezed):
        return
    body = squeezed.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        yield from _plain(base64.b64decode(body + "=" * (-len(body) % 4), validate=True))
    except binascii.Error:
        return


def _base32(text: str) -> Iterator[str]:
    squeezed = "".join(text.split())
    if not _BASE32.fullmatch(squeezed):
        return
    body = squeezed.rstrip("=").upper()
    try:
        yield from _plain(base64.b32decode(body + "=" * (-len(body) % 8)))
    except binascii.Error:
        return


def _hex(text: str) -> Iterator[str]:
    stripped = text.strip()
    if not _HEX.fullmatch(stripped):
        return
    digits = _HEX_NOISE.sub("", stripped)
    if len(digits) % 2 == 0 and len(digits) >= 2 * _SHORTEST_BYTES:
        yield from _plain(bytes.fromhex(digits))


def _percent(text: str) -> Iterator[str]:
    if _PERCENT.search(text):
        yield unquote(text, errors="replace")


def _form(text: str) -> Iterator[str]:
    if "+" in text:
        yield unquote_plus(text, errors="replace")


def _entities(text: str) -> Iterator[str]:
    if "&" in text:
        yield html.unescape(text)


def _escapes(text: str) -> Iterator[str]:
    if "\\" in text:
        yield _ESCAPE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3] or match[4]
    if code is None:
        return _LETTERS.get(match[5], match[5])
    number = int(code, 16)
    return chr(number) if number <= 0x10FFFF else match[0]  # noqa: PLR2004 (Unicode's end)


def _quoted_printable(text: str) -> Iterator[str]:
    if not _PRINTABLE_EQUALS.search(text):
        return
    data = re.sub(
        rb"=([0-9A-Fa-f]{2})|=\r?\n",
        lambda match: bytes.fromhex(match[1].decode()) if match[1] else b"",
        text.encode("utf-8", "surrogatepass"),
    )
    yield data.decode("utf-8", "replace")


def _encoded_words(text: str) -> Iterator[str]:
    if "=?" not in text:
        return
    yield _ENCODED_WORD.sub(lambda match: next(_encoded_word(match), match[0]), text)


def _encoded_word(match: re.Match[str]) -> Iterator[str]:
    return _base64(match[2]) if match[1] in "bB" else _quoted_printable(match[2].replace("_", " ") + "=\n")


def _address(text: str) -> Iterator[str]:
    match = _AT.fullmatch(text.strip())
    if match is not None:
        yield from _written(match)


def _addresses(text: str) -> Iterator[str]:
    lowered = text.lower()
    if "at" in lowered or "dot" in lowered or " @" in text or "@ " in text or "[@" in text or "(@" in text:
        for match in _AT.finditer(text):
            yield from _written(match)


def _written(match: re.Match[str]) -> Iterator[str]:
    written = _DOT.sub(".", match[1]) + "@" + _DOT.sub(".", match[2])
    if written != match[0]:
        yield written


def _spoken_dots(text: str) -> Iterator[str]:
    if _DOT.search(text) and len(text.split()) <= 2 * READINGS:
        yield _DOT.sub(".", text)


def _runs(pattern: re.Pattern[str], decoder: Decoder, shortest: int) -> Decoder:
    def decode(text: str) -> Iterator[str]:
        for match in pattern.finditer(text):
            if len(match[0]) >= shortest:
                yield from decoder(match[0])

    return decode


_WHOLE: Final[tuple[tuple[str, Decoder], ...]] = (
    ("percent", _percent),
    ("percent", _form),
    ("html", _entities),
    ("escape", _escapes),
    ("quoted-printable", _quoted_printable),
    ("encoded-word", _encoded_words),
    ("base64", _base64),
    ("hex", _hex),
    ("base32", _base32),
    ("spoken", _address),
    ("spoken", _spoken_dots),
)
_WITHIN: Final[tuple[tuple[str, Decoder], ...]] = (
    ("percent", _percent),
    ("html", _entities),
    ("escape", _escapes),
    ("quoted-printable", _quoted_printable),
    ("encoded-word", _encoded_words),
    ("base64", _runs(_BASE64, _base64, 6)),
    ("base64", _runs(_BASE64_LINES, _base64, 6)),
    ("hex", _runs(_HEX, _hex, 8)),
    ("base32", _runs(_BASE32, _base32, 7)),
    ("spoken", _addresses),
)
