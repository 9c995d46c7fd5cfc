"""Shell blocks, taken apart: which commands they hold, with which arguments, and what is put into them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_VARIABLE: Final = re.compile(r"\$\{?([A-Z_]+)\}?")
_HERE: Final = re.compile(r"<<'(\w+)'\n.*?^\1$", re.MULTILINE | re.DOTALL)
_KEYWORDS: Final = frozenset({"until", "while", "if", "then", "do", "done", "fi"})
_ENDS: Final = frozenset({"|", "||", "&&", ";", "&"})
_ID: Final = "0199f3a0-0000-7000-8000-000000000000"

PLACEHOLDERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "RUN": _ID,
        "HOLD": _ID,
        "STOP": _ID,
        "WEBHOOK": _ID,
        "APPROVAL": _ID,
        "DECISION": _ID,
        "KEY_ID": _ID,
        "HOLDFAST_URL": "http://127.0.0.1:8080",
        "HOLDFAST_API_KEY": "hf_key",
        "TOKEN": "A" * 43,
    }
)
"""Variables that a reader fills in."""


def _filled(text: str) -> str:
    return _VARIABLE.sub(lambda match: PLACEHOLDERS[match[1]], text)


def commands(body: str) -> Iterator[list[str]]:
    """Yields the commands of a block: words without comments and variables' assignments, `uv run` taken off."""
    lexer = shlex.shlex(_filled(_HERE.sub("", body)).replace("\\\n", " "), posix=True, punctuation_chars="|&;<>\n")
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, "\n"]:
        if word in _ENDS or set(word) == {"\n"}:
            while words and (words[0] in _KEYWORDS or _ASSIGNMENT.match(words[0])):
                words.pop(0)
            if words[:2] == ["uv", "run"]:
                words = words[2:]
            if words:
                yield words
            words = []
        else:
            words.append(word)


def without_redirects(words: list[str]) -> list[str]:
    """Returns a command without `< file` and `> file`."""
    out: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in ("<", ">", ">>", "2>"):
            skip = True
        else:
            out.append(word)
    return out
