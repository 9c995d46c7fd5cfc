"""What is wrong with a text that does not parse: it is cut into statements, and each is parsed alone, so that all is said at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from lark import Token
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.parsers.lalr_interactive_parser import InteractiveParser

from holdfast_verdict.language.grammar import grammar, reserved, words_of
from holdfast_verdict.language.source import MAX_PROBLEMS, Text, describe
from holdfast_verdict.problems import Problem

STARTS: Final = ("ROLE", "PERMIT", "FORBID", "LIMIT", "GATE", "LABEL", "INVARIANT", "SET", "ACTION", "AT", "SUM")
ODD: Final = "ODD"
"""Kind of the token that stands for what is none: its problem is noted already, and its statement is not looked at further."""
_WORD: Final = re.compile(r"[^\s\"#(){}\[\],:]+")
_NAMES: Final = ("NAME", "PATH", "PATTERN", "STRING")


def syntax_problems(source: Text, first: UnexpectedInput) -> list[Problem]:
    """Returns everything that is wrong with the form of a source.

    Args:
        source: The source, which does not parse.
        first: What the parser said of the whole.
    """
    problems: list[Problem] = []
    tokens = list(_tokens(source, problems))
    for chunk in _chunks(source, tokens, problems):
        problem = _parse(source, chunk)
        if problem is not None:
            problems.append(problem)
    if not problems:
        position = first.pos_in_stream or 0
        problems.append(source.problem("policy.syntax", "This cannot stand here.", (position, position + 1)))
    return sorted(problems, key=lambda problem: (problem.line, problem.column))[:MAX_PROBLEMS]


# --- letters that begin no word of the language


def _tokens(source: Text, problems: list[Problem]) -> Iterator[Token]:
    start = 0
    while True:
        try:
            for token in grammar().lex(source.text[start:], dont_ignore=False):
                token.start_pos = (token.start_pos or 0) + start
                token.end_pos = (token.end_pos or 0) + start
                yield token
        except UnexpectedCharacters as found:
            position = start + (found.pos_in_stream or 0)
            length = _odd(source, position, problems)
            start = position + length
            yield Token(ODD, source.text[position:start], position, end_pos=start)
            if len(problems) >= MAX_PROBLEMS:
                return
        else:
            return


def _odd(source: Text, position: int, problems: list[Problem]) -> int:
    """Notes what begins no token; returns how many characters to pass over."""
    letter = source.text[position]
    rest = source.text[position:].partition("\n")[0]
    word = _WORD.match(rest)
    length = word.end() if word else 1
    if letter == '"':
        message, remedy = (
            "The text does not end on its line.",
            'Close it with `"`; inside, write `\\"` for a quotation mark.',
        )
        if re.match(r'"(?:[^"\\]|\\.)*"', rest):
            message, remedy = "The text holds an unknown escape.", 'Known are `\\"`, `\\\\`, `\\n` and `\\t`.'
        length = len(rest)
    elif not letter.isascii():
        message = f"{describe(letter)} stands outside of text and comments, where only ASCII does."
        remedy = "If it looks like a letter of the name that was meant, it is another one."
    elif letter.isdigit() or letter == "-":
        message = f"{rest[:length]} is no number, duration or time."
        remedy = "Write 12, 12.5, 20_000; 500ms, 90s, 30m, 24h, 7d; 09:00."
    elif letter == "'":
        message, remedy = "Text stands in double quotes.", 'Write "…".'
    else:
        message, remedy = f"`{letter}` is no part of the language.", ""
    at = (position, position + length)
    problems.append(source.problem("policy.syntax", message, at, remedy=remedy))
    return max(1, length)


# --- statements


def _begins(tokens: list[Token], index: int) -> bool:
    """Says whether a statement begins with this token."""
    kind = tokens[index].type
    before = tokens[index - 1].type if index else ""
    following = tokens[index + 1].type if index + 1 < len(tokens) else ""
    if kind not in STARTS or before == "COLON":
        return False
    if kind == "ROLE":
        return following != "LPAR" and before != "PER"
    if kind == "AT":
        return following == "MOST"
    if kind == "SUM":
        close = next((n for n in range(index, min(index + 12, len(tokens) - 1)) if tokens[n].type == "RPAR"), index)
        return tokens[min(close + 1, len(tokens) - 1)].type == "OF"
    return True


def _chunks(source: Text, tokens: list[Token], problems: list[Problem]) -> Iterator[list[Token]]:
    """Cuts the tokens into what can be parsed alone: statements, declarations, and the heads of roles."""
    role: Token | None = None
    chunk: list[Token] = []
    braces = 0
    for index, token in enumerate(tokens):
        if len(problems) >= MAX_PROBLEMS:
            return
        head = chunk[0].type if chunk else ""
        if _begins(tokens, index):
            yield from [chunk] if chunk else []
            chunk, braces = [], 0
            if role is not None and token.type in ("ROLE", "SET", "ACTION"):
                problems.append(_unclosed(source, role, f"`{token}` cannot stand inside of a role."))
                role = None
        elif token.type == "LBRACE" and head == "ROLE" and role is None:
            role = chunk[0]
            yield [*chunk, token, Token.new_borrow_pos("RBRACE", "}", token)]
            chunk = []
            continue
        elif token.type == "LBRACE":
            braces += 1
        elif token.type == "RBRACE" and not braces:
            yield from [chunk] if chunk else []
            chunk = []
            if role is None:
                at = (token.start_pos or 0, token.end_pos or 0)
                problems.append(source.problem("policy.syntax", "This `}` closes nothing.", at, remedy="Take it out."))
            role = None
            continue
        elif token.type == "RBRACE":
            braces -= 1
        chunk.append(token)
    yield from [chunk] if chunk else []
    if role is not None:
        problems.append(_unclosed(source, role, "The role is not closed."))


def _unclosed(source: Text, role: Token, message: str) -> Problem:
    at = (role.start_pos or 0, role.end_pos or 0)
    return source.problem("policy.syntax", message, at, remedy="Close this role with `}` first.")


def _fresh(tokens: list[Token]) -> InteractiveParser:
    parser = grammar().parse_interactive("")
    for token in tokens:
        parser.feed_token(token)
    return parser


def _accepted(tokens: list[Token]) -> set[str]:
    return set(_fresh(tokens).accepts())  # type: ignore[no-untyped-call]  # lark leaves it without types


def _parse(source: Text, chunk: list[Token]) -> Problem | None:
    parser = _fresh([])
    for index, token in enumerate(chunk):
        if token.type == ODD:
            return None
        try:
            parser.feed_token(token)
        except UnexpectedToken:
            accepted = _accepted(chunk[:index])
            return _unexpected(source, token, chunk[:index], accepted)
    try:
        parser.feed_eof(chunk[-1])  # type: ignore[no-untyped-call]  # lark leaves it without types
    except UnexpectedToken:
        last = chunk[-1]
        at = (last.end_pos or 0, (last.end_pos or 0) + 1)
        accepted = _accepted(chunk) - set(STARTS)
        message = f"The statement ends too early, after `{last}`."
        return source.problem("policy.syntax", message, at, expected=_expected(accepted))
    return None


def _expected(accepted: set[str]) -> list[str]:
    if {"NAME", "LPAR", "NOT"} <= accepted:
        return ["a condition"]
    if "PERMIT" in accepted:
        accepted = accepted - set(STARTS) - {"RBRACE"} | {"$END"}
    return words_of(accepted)


def _unexpected(source: Text, token: Token, before: list[Token], accepted: set[str]) -> Problem:
    at = (token.start_pos or 0, token.end_pos or 0)
    if not before:
        message = f"`{token}` begins no statement."
        close = get_close_matches(str(token), [start.lower() for start in STARTS], 1)
        remedy = f"Did you mean `{close[0]}`?" if close else ""
        return source.problem("policy.syntax", message, at, expected=words_of(set(STARTS)), remedy=remedy)
    message = f"`{token}` cannot stand after `{before[-1]}`."
    remedy = _remedy(token, before, accepted)
    if token.type in ("AND", "OR") and {"AND": "OR", "OR": "AND"}[token.type] in accepted:
        message = "`and` and `or` stand side by side, and people would read that in two ways."
    return source.problem("policy.syntax", message, at, expected=_expected(accepted), remedy=remedy)


def _remedy(token: Token, before: list[Token], accepted: set[str]) -> str:
    if token.type in ("AND", "OR") and {"AND", "OR"} & accepted:
        return "Put parentheses around what belongs together."
    if token.type == "EQUAL" and "EQUALS" in accepted:
        return "Write `==` to compare."
    if token.type in ("LESS", "MORE", "AT_LEAST") and "AT_MOST" in accepted:
        return "A bound is written `<=`."
    if "NAME" in accepted and str(token) in reserved():
        quote = f', or "{token}" in quotes if an action is called so' if "STRING" in accepted else ""
        return f"`{token}` is a word of the language: choose another name{quote}."
    if token.type == "NOT" and before[-1].type == "NOT":
        return "Say it without the double negation."
    words = [kind.lower() for kind in accepted if kind.isalpha() and kind.lower() in reserved()]
    close = get_close_matches(str(token), words, 1) if token.type in _NAMES else []
    return f"Did you mean `{close[0]}`?" if close else ""
