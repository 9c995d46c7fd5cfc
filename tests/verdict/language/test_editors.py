"""The TextMate grammar colours every word of the language, in every policy of the cookbook."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

from holdfast_verdict.language.grammar import grammar, reserved

from .test_cookbook import POLICIES

FILE: Final = Path(__file__).parents[3] / "docs" / "reference" / "policy.tmLanguage.json"
DOCUMENT: Final[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
WORDS: Final = ("keyword.", "storage.", "constant.language")


def spans(text: str) -> list[tuple[int, str, str]]:
    """Returns place, text and scope of every part of a line, as an editor would find them."""
    found, position = [], 0
    while position < len(text):
        best: tuple[int, int, str] | None = None
        for pattern in DOCUMENT["patterns"]:
            start = re.compile(pattern.get("match") or pattern["begin"]).search(text, position)
            if start is None or (best is not None and start.start() >= best[0]):
                continue
            end = start.end()
            if "end" in pattern:
                inner = start.end()
                while inner < len(text) and text[inner] != '"':
                    inner += 2 if text[inner] == "\\" else 1
                end = min(inner + 1, len(text))
            best = (start.start(), end, pattern["name"])
        if best is None:
            break
        found.append((best[0], text[best[0] : best[1]], best[2]))
        position = max(best[1], position + 1)
    return found


def test_it_is_a_grammar_of_these_files() -> None:
    assert DOCUMENT["fileTypes"] == ["policy"]
    assert DOCUMENT["scopeName"].startswith("source.")
    assert all(pattern["name"].endswith("holdfast-policy") for pattern in DOCUMENT["patterns"])


def test_every_word_of_the_language_is_one_there_and_no_other_is() -> None:
    for word in reserved():
        ((_, text, scope),) = spans(word)
        assert text == word
        assert scope.startswith(WORDS), word
    for name in ("args", "where-else", "a.where", "permits", "usd"):
        assert not spans(name)[0][2].startswith(WORDS), name


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_it_finds_the_words_that_the_parser_finds(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        expected = [(token.start_pos, str(token)) for token in grammar().lex(line) if str(token) in reserved()]
        found = [(place, text) for place, text, scope in spans(line) if scope.startswith(WORDS) and text in reserved()]
        assert found == expected, line
