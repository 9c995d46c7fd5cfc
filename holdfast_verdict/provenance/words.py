"""Text as words and what stands between them, so that what people and machines write alike compares alike.

Case, Unicode form, invisible characters, the kind and amount of white space, quotes, brackets and the punctuation of sentences do not
matter. What joins the parts of an address, path or number (`@ . / : _ -` and such) does: `green energy` is not `green.energy`.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
_ALONE: Final = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_PICTURE: Final = "\u2190-\u21ff\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff"
_DIGIT: Final = re.compile(r"(?![0-9])\d")
"""A digit of another script; all of them are decimal ones."""
_WORD: Final = re.compile(f"[{_ALONE}{_PICTURE}]|[^\\W_{_ALONE}{_PICTURE}]+")
"""A word; in scripts that write none apart, a letter; and each emoji."""
_ALONE_LETTER: Final = re.compile(f"[{_ALONE}]")
_HARD: Final = frozenset("@./\\:_-+=&#%~?*|^")
_LEADING: Final = frozenset("./\\~-+*%")
_TRAILING: Final = frozenset("*%")
_STEP_UPWARDS: Final = re.compile(r"[/\\]\.\.(?![.\w])")
_JOINTS: Final = frozenset("._-+~")
BREAK: Final = "\x1f"
"""Between two texts that must not be read as one."""


def fold(text: str) -> str:
    """Returns the text without what does not matter: case, compatibility forms, the script of digits, invisible characters."""
    if text.isascii():
        return text.lower()
    folded = _INVISIBLE.sub("", text)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", folded).casefold())
    return _DIGIT.sub(lambda match: str(unicodedata.decimal(match[0])), folded)


@dataclass(frozen=True, slots=True)
class Words:
    """A folded text as words.

    Attributes:
        words: The words.
        gaps: What stands before each word, and after the last; one more than words.
    """

    words: tuple[str, ...]
    gaps: tuple[str, ...]

    def text(self, start: int = 0, end: int | None = None) -> str:
        """Returns the normal form of the words from `start` to before `end`; outer gaps only where it is the outer end."""
        stop = len(self.words) if end is None else end
        parts = [self.gaps[0] if start == 0 else ""]
        for index in range(start, stop):
            if index > start:
                parts.append(self.gaps[index])
            parts.append(self.words[index])
        if stop == len(self.words):
            parts.append(self.gaps[stop])
        return "".join(parts)


def words_of(folded: str) -> Words:
    """Returns the words of a folded text."""
    words: list[str] = []
    gaps: list[str] = []
    at = 0
    for match in _WORD.finditer(folded):
        raw = folded[at : match.start()]
        gaps.append(_gap(raw) if words else _lead(raw))
        words.append(match[0])
        at = match.end()
    gaps.append(_trail(folded[at:].partition(" ")[0]) if words else "")
    return Words(tuple(words), tuple(gaps))


def _trail(raw: str) -> str:
    kept = "".join(each for each in raw if each in _TRAILING)
    return f"{kept}/.." if _STEP_UPWARDS.search(raw) else kept


def joins(gap: str) -> bool:
    """Says whether what stands between two words makes one name of them."""
    return bool(gap) and " " not in gap


def steps_upwards(gap: str) -> bool:
    """Says whether what stands between two words leads out of the folder that the first one names."""
    return _STEP_UPWARDS.search(gap) is not None


def is_alone(character: str) -> bool:
    """Says whether it is a letter of a script that writes no words apart."""
    return _ALONE_LETTER.match(character) is not None


@lru_cache(maxsize=4096)
def _gap(raw: str) -> str:
    if not raw or raw == " ":
        return raw
    if raw.strip() == "@":
        return "@"
    parts = raw.split()
    if len(parts) == 1 and not raw[0].isspace() and not raw[-1].isspace():
        return "".join(each for each in raw if each in _HARD) or " "
    before = "" if raw[0].isspace() or not parts else parts[0]
    after = "" if raw[-1].isspace() or not parts else parts[-1]
    return "".join(each for each in before if each in _TRAILING) + " " + _lead(after)


def _lead(raw: str) -> str:
    parts = raw.split()
    if not parts or raw[-1].isspace():
        return ""
    return "".join(each for each in parts[-1] if each in _LEADING)


def is_whole(text: str, start: int, end: int) -> bool:
    """Says whether what stands there is a whole name and no piece of a longer one.

    `bob@acme.com` is no part of `xbob@acme.com`, `rob.bob@acme.com` or `bob@acme.com.example`; `acme.com` is one of `bob@acme.com`,
    and `q3.pdf` of `/reports/q3.pdf`.
    """
    return _ends(text, start, start - 1, -1) and _ends(text, end - 1, end, 1)


def _ends(text: str, inner: int, outer: int, step: int) -> bool:
    if not 0 <= outer < len(text):
        return True
    near = text[outer]
    if _is_letter(near):
        return not _is_letter(text[inner]) or bool(_ALONE_LETTER.match(near) or _ALONE_LETTER.match(text[inner]))
    beyond = outer + step
    return near not in _JOINTS or not 0 <= beyond < len(text) or not _is_letter(text[beyond])


def _is_letter(character: str) -> bool:
    return character.isalnum()
