"""The corpus of tricks and honest values: `tricks/*.toml`, one noun a file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "tricks"

NOUNS: Final = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


@dataclass(frozen=True, slots=True)
class Sample:
    """One value that is tried.

    Attributes:
        noun: The file it stands in.
        name: What is tried.
        honest: Nothing is wrong with it.
        given: The text of the argument, or of its JSON where `raw`.
        raw: `given` is JSON text.
        refused: Code that it is refused with, or empty.
        becomes: What is executed, unless it is refused.
        allowed: Whether a policy that allows the harmless reading allows it.
    """

    noun: str
    name: str
    honest: bool
    given: str
    raw: bool
    refused: str
    becomes: Any  # any JSON
    allowed: bool

    def __str__(self) -> str:
        return f"{self.noun}: {self.name}"


def samples(noun: str) -> list[Sample]:
    """Returns all samples of a noun."""
    document = tomllib.loads((FOLDER / f"{noun}.toml").read_text(encoding="utf-8"))
    return [
        _sample(noun, row, honest=honest)
        for honest, rows in ((False, document["trick"]), (True, document["honest"]))
        for row in rows
    ]


def _sample(noun: str, row: Mapping[str, Any], *, honest: bool) -> Sample:
    assert set(row) <= {"name", "given", "raw", "refused", "becomes", "allowed"}, row
    assert ("given" in row) != ("raw" in row)
    assert ("refused" in row) != ("becomes" in row)
    assert not (honest and "refused" in row)
    given = _written(row.get("given", row.get("raw", "")))
    becomes = given if row.get("becomes") == "SAME" else _listed(row.get("becomes"))
    name = row.get("name", given[:60])
    return Sample(noun, name, honest, given, "raw" in row, row.get("refused", ""), becomes, row.get("allowed", honest))


def _written(text: str) -> str:
    """Writes out what would be too long for the file."""
    word, _, rest = text.partition(" ")
    if word == "REPEAT":
        start, repeated, count = rest.rsplit(" ", 2)
        tail = start if start.startswith("@") else ""
        return ("" if tail else start) + repeated * int(count) + tail
    if word == "NEST":
        return '{"to": "bob", "meta": ' + "[" * int(rest) + "]" * int(rest) + "}"
    if word == "SIZE":
        return json.dumps({"to": "bob", "meta": "x" * int(rest)})
    if word == "MARKS":
        return json.dumps("a" + "\u0301\u0316" * int(rest))
    return text


def _listed(value: Any) -> Any:
    """Puts in the one list that TOML, whose lists know no null, cannot write."""
    if isinstance(value, dict):
        return {key: [True, None] if inner == "LIST" else _listed(inner) for key, inner in value.items()}
    return value
