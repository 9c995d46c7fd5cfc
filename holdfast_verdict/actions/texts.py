"""Text: one Unicode form, nothing that is no character, and nothing invisible where a text names something."""

from __future__ import annotations

import unicodedata
from typing import Final

from holdfast_verdict.actions.refused import FormRefused

_MARKS_MAX: Final = 30
"""Marks in a row, as in the Stream-Safe Text Format (UAX #15): sorting longer rows takes time that is not linear."""
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_BLANK: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0\u2800") | {
    chr(point) for low, high in ((0xFE00, 0xFE0F), (0xE0100, 0xE01EF)) for point in range(low, high + 1)
}
"""Characters of other categories that show as nothing: fillers, the empty Braille cell, variation selectors."""


def normal_text(text: str) -> str:
    """Brings text of any kind to NFC; all else that people write stays as it is.

    Raises:
        FormRefused: It holds a lone surrogate, a NUL, or more marks on one letter than anything readable has.
    """
    if "\0" in text:
        raise FormRefused("text.nul", "holds a NUL character", "leave it out")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FormRefused(
            "text.surrogate",
            "holds a lone surrogate, which is no character",
            r"write the character, or a whole pair \uD83D\uDE00",
        ) from None
    if unicodedata.is_normalized("NFC", text):
        return text
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > _MARKS_MAX:
            raise FormRefused("text.marks", f"holds more than {_MARKS_MAX} combining marks in a row", "leave them out")
    return unicodedata.normalize("NFC", text)


def check_visible(text: str) -> None:
    """Accepts the text of an address, host, URL or path only if a person sees all of it.

    Raises:
        FormRefused: It holds a control character, a character that reorders text, or one that shows as nothing.
    """
    if text.isascii() and text.isprintable():
        return
    for character in text:
        if character in _BLANK or unicodedata.category(character) in _INVISIBLE:
            raise FormRefused(
                "text.invisible",
                f"holds U+{ord(character):04X}, which cannot be seen or reorders what is",
                "leave it out",
            )


def without_invisible(text: str) -> str:
    """Returns a text without tabs, line ends and what shows as nothing, as the readers of URLs take it that drop these."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(each for each in text if each not in _BLANK and unicodedata.category(each) not in _INVISIBLE)


def folded_text(text: str) -> str:
    """Returns a text as a lenient reader takes it: compatibility forms plain, without what shows as nothing or stands around it.

    Where a comparison of plain text comes out differently for the folded one, two readers disagree, and the answer is unknown.
    """
    if text.isascii():
        return text.strip()
    plain = unicodedata.normalize("NFKC", normal_text(text))
    return "".join(each for each in plain if each not in _BLANK and unicodedata.category(each) != "Cf").strip()
