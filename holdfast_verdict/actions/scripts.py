"""Scripts: whether a word mixes letters of several in a way that no language does.

By the rule "highly restrictive" of UTS #39: one script, or Latin with Han and what Japanese, Korean or Chinese write beside it.
A whole word in one other script passes, however much it looks like another: it is compared by its A-label, which is another.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Final

_BESIDE_LATIN: Final = (
    frozenset({"LATIN", "CJK", "HIRAGANA", "KATAKANA"}),
    frozenset({"LATIN", "CJK", "BOPOMOFO"}),
    frozenset({"LATIN", "CJK", "HANGUL"}),
)
_SAME: Final = {
    "IDEOGRAPHIC": "CJK",
    "KATAKANA-HIRAGANA": "",
    "COMBINING": "",
    "MODIFIER": "",
    "MIDDLE": "",
    "KANGXI": "CJK",
    "VULGAR": "",
}


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    """Returns the script of a letter by the first word of its Unicode name, or empty if it belongs to all."""
    if character.isascii():
        return "LATIN" if character.isalpha() else ""
    if unicodedata.category(character)[0] not in "LM":
        return ""
    word = unicodedata.name(character, "UNKNOWN").split(" ", 1)[0]
    return _SAME.get(word, word)


def mixes_scripts(word: str) -> bool:
    """Says whether a word has letters of scripts that are not written together."""
    if word.isascii():
        return False
    found = frozenset(map(_script, word)) - {""}
    return len(found) > 1 and not any(found <= together for together in _BESIDE_LATIN)
