"""Text of a model on the terminal, as it comes: every line of it begins with a mark, so that it can never pass for ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from rich.cells import cell_len

from cli.terminal import columns_of_terminal, styled, write
from cli.text import fitting, safe, wrapped

MARKS: Final[Mapping[str, str]] = MappingProxyType(
    {"thinking": "       ┆ ", "answer": "       │ ", "tool": "       ¦ ", "code": "       › "}
)
_STYLES: Final[Mapping[str, str]] = MappingProxyType({"thinking": "dim", "answer": "", "tool": "dim", "code": "dim"})
_MARK_WIDTH: Final = 9
_ROOM_MIN: Final = 4
_PART: Final = re.compile(r"\n| +|[^ \n]+")


def room() -> int:
    """Returns how many columns a text has beside its mark; the last one stays empty, or the terminal might break the line."""
    return max(columns_of_terminal() - _MARK_WIDTH - 1, _ROOM_MIN)


def quoted(text: str, kind: str, *, lines_max: int | None = None) -> list[str]:
    """Returns somebody else's text as marked lines, ready to be printed.

    Args:
        text: What was said.
        kind: `thinking`, `answer`, `tool` or `code`.
        lines_max: Show so many lines and say how many there are more.
    """
    if not text.strip():
        return []
    lines = list(wrapped(text.rstrip(), room()))
    shown = lines if lines_max is None else lines[:lines_max]
    if more := len(lines) - len(shown):
        shown = [*shown, f"… {more} more lines"]
    return [styled(f"{MARKS[kind]}{line}", _STYLES[kind]) for line in shown]


@dataclass(slots=True)
class LiveText:
    """Writes pieces of text and breaks lines by itself: a line that the terminal broke would begin without its mark."""

    _kind: str = ""
    _begun: bool = False
    _column: int = 0
    _word: str = ""
    _said: dict[tuple[int, int, str], str] = field(default_factory=dict)

    def feed(self, step: int, try_number: int, kind: str, text: str) -> None:
        """Writes a piece of what one try of a step says."""
        key = (step, try_number, kind)
        self._said[key] = self._said.get(key, "") + text
        if kind != self._kind:
            self.end_line()
            self._kind = kind
        parts = _PART.findall(self._word + safe(text, keep="\n\t").replace("\t", "    "))
        self._word = ""
        for index, part in enumerate(parts):
            if index == len(parts) - 1 and part.strip() and cell_len(part) < room():
                self._word = part  # more of this word may come
            else:
                self._put(part)

    def forget(self, step: int) -> None:
        """Forgets what a step has said so far: it is tried again."""
        self.end_line()
        for key in [key for key in self._said if key[0] == step]:
            del self._said[key]

    def take(self, step: int, try_number: int, kind: str) -> str:
        """Returns, and forgets, what was written of a try of a step."""
        return self._said.pop((step, try_number, kind), "")

    def end_line(self) -> None:
        """Ends the line that is being written, if there is one."""
        if self._word:
            word, self._word = self._word, ""
            self._put(word)
        if self._begun:
            self._break()
        self._kind = ""

    def _put(self, part: str) -> None:
        if part == "\n":
            self._write("")
            self._break()
            return
        wide = room()
        if self._column and self._column + cell_len(part) > wide:
            self._break()
            part = part.lstrip(" ")
        while cell_len(part) > wide:
            end = fitting(part, wide)
            self._write(part[:end])
            self._break()
            part = part[end:]
        if part:
            self._write(part)

    def _write(self, text: str) -> None:
        mark = "" if self._begun else MARKS[self._kind]
        write(styled(f"{mark}{text}", _STYLES[self._kind]))
        self._begun = True
        self._column += cell_len(text)

    def _break(self) -> None:
        write("\n")
        self._begun, self._column = False, 0
