"""The grammar itself: each text has one reading."""

from __future__ import annotations

import logging

import pytest
from lark import Lark, logger

from holdfast_verdict.language.grammar import grammar, reserved, words_of


def test_no_text_has_two_readings(caplog: pytest.LogCaptureFixture) -> None:
    """Lark resolves what could be read in two ways by itself, and only its log says so."""
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.DEBUG, logger=logger.name):
            Lark('start: a "x"?\na: "y" "x"?', parser="lalr", debug=True)
            assert "conflict" in caplog.text.lower()  # so it would be seen here
            caplog.clear()
            Lark(grammar().source_grammar, start="policy", parser="lalr", lexer="basic", debug=True)
            assert "conflict" not in caplog.text.lower()
    finally:
        logger.removeHandler(caplog.handler)


def test_every_kind_of_token_has_a_name_for_people() -> None:
    for terminal in grammar().terminals:
        (word,) = words_of({terminal.name})
        named = (
            terminal.name in grammar().ignore_tokens
            or terminal.pattern.type == "re"
            or word.strip("`") == terminal.pattern.value
        )
        assert named, terminal
        if terminal.pattern.type == "re" and terminal.name not in grammar().ignore_tokens:
            assert word.startswith(("a ", "text")), terminal


def test_words_of_the_language_are_reserved() -> None:
    assert {"permit", "where", "unless", "and", "or", "run", "time", "true"} <= reserved()
    assert not {"args", "principal", "usd", "tenant", "external"} & reserved()
