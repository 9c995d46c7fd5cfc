"""The grammar, loaded once: its parser, and the names of its words for messages."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from lark import Lark

_KINDS: Final = {
    "NAME": "a name",
    "PATH": "a dotted name",
    "PATTERN": "a pattern such as crm.*",
    "STAR": "`*`",
    "CLOCK": "a time such as 09:00",
    "DURATION": "a duration such as 30m",
    "NUMBER": "a number",
    "STRING": 'text in "quotes"',
    "EQUALS": "`==`",
    "DIFFERS": "`!=`",
    "AT_LEAST": "`>=`",
    "AT_MOST": "`<=`",
    "LESS": "`<`",
    "MORE": "`>`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "COMMA": "`,`",
    "COLON": "`:`",
    "EQUAL": "`=`",
    "DOTS": "`..`",
    "$END": "the end of the statement",
}


@cache
def grammar() -> Lark:
    """Returns the parser of `policy.lark`."""
    text = (files("holdfast_verdict.language") / "policy.lark").read_text(encoding="utf-8")
    return Lark(text, parser="lalr", lexer="basic", start="policy", propagate_positions=True, maybe_placeholders=False)


@cache
def reserved() -> frozenset[str]:
    """Returns the words of the language, which name nothing else."""
    return frozenset(
        terminal.pattern.value
        for terminal in grammar().terminals
        if terminal.pattern.type == "str" and terminal.pattern.value.isalpha()
    )


def words_of(kinds: set[str]) -> list[str]:
    """Returns how the kinds of tokens are named in messages, the words of the language last."""
    words = {kind.lower() for kind in kinds if kind not in _KINDS}
    named = [name for kind, name in _KINDS.items() if kind in kinds]
    return [*named, *(f"`{word}`" for word in sorted(words))]
