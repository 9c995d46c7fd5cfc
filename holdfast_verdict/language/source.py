"""The text of a policy before it is parsed: bounds, characters that have no place in it, lines and columns."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from holdfast_verdict.language.syntax import Span
from holdfast_verdict.problems import PolicyRefused, Problem

MAX_BYTES: Final = 256 * 1024
MAX_NESTING: Final = 64
MAX_PROBLEMS: Final = 50
"""How many problems are reported at once."""
MAX_LINE: Final = 4_096
"""How much of a line is shown."""

# look like nothing, though Unicode calls them letters
_BLANK_LETTERS: Final = frozenset("ᅟᅠㅤﾠ⠀")
_SPACES: Final = frozenset("\n\t ")
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class Text:
    r"""A source with its lines.

    Attributes:
        text: The source, with `\n` at the ends of lines and no byte order mark.
        file: Name of the source, for messages.
    """

    __slots__ = ("_starts", "file", "text")

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self._starts = [0, *(index + 1 for index, letter in enumerate(text) if letter == "\n")]

    def line_of(self, position: int) -> int:
        """Returns the line of a character, from 1."""
        return bisect_right(self._starts, position)

    def problem(self, code: str, message: str, at: Span, *, remedy: str = "", expected: Sequence[str] = ()) -> Problem:
        """Returns a problem at a place of the source."""
        start = min(at[0], len(self.text))
        line = self.line_of(start)
        first = self._starts[line - 1]
        end = self.text.find("\n", first)
        shown = self.text[first : len(self.text) if end < 0 else end][:MAX_LINE]
        column = start - first + 1
        end_column = max(column + 1, min(at[1] - first, len(shown)) + 1)
        return Problem(
            code, message, line, column, end_column, _visible(shown), tuple(expected), remedy, file=self.file
        )


def _visible(line: str) -> str:
    """Returns a line as it may be shown: what is unseen, or would turn the line around, is a replacement character."""
    return "".join("\ufffd" if _unseen(letter) else " " if letter == "\t" else letter for letter in line)


def _unseen(letter: str) -> bool:
    return letter not in _SPACES and (unicodedata.category(letter) in _UNSEEN or letter in _BLANK_LETTERS)


def describe(letter: str) -> str:
    """Returns a character's name, for messages."""
    name = unicodedata.name(letter, "a character without a name")
    return f"U+{ord(letter):04X} {name}"


def read_text(text: object, file: str = "") -> Text:
    """Returns the source, if it is text that people see as it is.

    Raises:
        PolicyRefused: It is too large, or holds characters that are unseen or change how it reads, in comments and texts, too.
    """
    if not isinstance(text, str):
        raise PolicyRefused([Problem("policy.source", "A policy is text.", file=file)])
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        message = f"The policy has {size} bytes; at most {MAX_BYTES} are read."
        raise PolicyRefused([Problem("policy.source", message, file=file, remedy="Split it by role.")])
    source = Text(text.removeprefix("\ufeff").replace("\r\n", "\n"), file)
    problems = []
    for position, letter in enumerate(source.text):
        if (letter < " " or letter > "~") and _unseen(letter):
            message = f"{describe(letter)} cannot be seen, or changes how the text around it reads."
            remedy = "Take it out; in text, write what is meant."
            problems.append(source.problem("policy.source", message, (position, position + 1), remedy=remedy))
            if len(problems) == MAX_PROBLEMS:
                break
    if problems:
        raise PolicyRefused(problems)
    return source
