"""Text that others wrote, made harmless: no character of it moves the cursor, colours anything or hides what stands there."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final

from rich.cells import cell_len

_HARMFUL: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Controls, formatting (such as the direction of writing), halves of surrogate pairs, separators of lines."""
_JOINERS: Final = "\u200c\u200d"
"""They are of that kind, too, but scripts and emoji need them."""
_BLANKS: Final = str.maketrans(dict.fromkeys("\n\r\t\v\f", " "))
_TAB: Final = "    "
_BYTE: Final = 0x100
_PLANE: Final = 0x10000


def _is_harmful(character: str) -> bool:
    return unicodedata.category(character) in _HARMFUL and character not in _JOINERS


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < _BYTE else f"\\u{number:04x}" if number < _PLANE else f"\\U{number:08x}"


def safe(text: str, *, keep: str = "") -> str:
    r"""Returns text with every harmful character written out, such as `\x1b`.

    Args:
        text: What a model, a tool or a server has said.
        keep: Characters that stay as they are, such as a line feed where lines are expected.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(one) if one not in keep and _is_harmful(one) else one for one in text)


def one_line(text: str) -> str:
    """Returns text as one harmless line: what would begin another line is a blank."""
    return safe(text.translate(_BLANKS))


def json_line(value: object) -> str:
    """Returns a value as JSON on one line that is as harmless: harmful characters are escapes of JSON."""
    text = json.dumps(value, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(json.dumps(one)[1:-1] if _is_harmful(one) else one for one in text)


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yields rows as lines with aligned columns. Nothing is cut: ids are there to be copied."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(cell_len(row[index]) for row in cells) for index in range(len(cells[0]))] if cells else []
    for row in cells:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(padded).rstrip()


def wrapped(text: str, width: int) -> Iterator[str]:
    """Yields harmless text in lines of at most so many columns, broken between words where that can be."""
    for line in safe(text, keep="\n\t").expandtabs(len(_TAB)).split("\n"):
        rest = line
        while cell_len(rest) > width:
            end = fitting(rest, width)
            space = rest.rfind(" ", 0, end + 1)
            cut = space if space > 0 else end
            yield rest[:cut].rstrip()
            rest = rest[cut:].lstrip(" ")
        yield rest


def fitting(text: str, width: int) -> int:
    """Returns how many characters of a text fit into so many columns; at least one."""
    used = 0
    for index, character in enumerate(text):
        used += cell_len(character)
        if used > width:
            return max(index, 1)
    return len(text)
