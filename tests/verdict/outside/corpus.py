"""Calls as others try them: what a careful engineer expects of each, by noun, in `outside/*.toml`."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent
NOUNS: Final = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
_EXPECTED: Final = {"allow", "deny", "format"}
_MEMBERS: Final = {"name", "tool", "argument", "format", "type", "many", "raw", "with", "effect", "where", "cases"}


@dataclass(frozen=True, slots=True)
class Group:
    """Cases of one tool under one rule.

    Attributes:
        noun: The file it stands in.
        name: What the rule is about.
        tool: The tool that is called.
        argument: The argument that is tried; empty if it is all of them.
        format: The format that the catalogue declares of it, or empty.
        type: Its JSON type, or `any`.
        many: Whether the argument is a list.
        effect: `permit` allows what the condition holds of; `forbid` allows all else.
        where: The condition.
    """

    noun: str
    name: str
    tool: str
    argument: str
    format: str
    type: str
    many: bool
    effect: str
    where: str


@dataclass(frozen=True, slots=True)
class Case:
    """One call.

    Attributes:
        group: Its tool and rule.
        expected: `allow`, `deny`, or `format`: an allow where the argument has its format, a deny where it is plain text.
        arguments: The arguments, as JSON text.
        why: Why that is right.
    """

    group: Group
    expected: str
    arguments: str
    why: str

    def __str__(self) -> str:
        return f"{self.group.noun}: {self.group.name}: {self.why}"


def cases(noun: str) -> list[Case]:
    """Returns all cases of a noun."""
    document = tomllib.loads((FOLDER / f"{noun}.toml").read_text(encoding="utf-8"))
    assert set(document) == {"group"}, noun
    return [case for group in document["group"] for case in _group(noun, group)]


def _group(noun: str, row: dict[str, Any]) -> list[Case]:  # Any: TOML
    assert set(row) <= _MEMBERS, set(row) - _MEMBERS
    group = Group(
        noun,
        row["name"],
        row["tool"],
        row["argument"],
        row.get("format", ""),
        row.get("type", "string"),
        row.get("many", False),
        row.get("effect", "permit"),
        row["where"],
    )
    found = []
    for expected, given, why in row["cases"]:
        assert expected in _EXPECTED, expected
        assert why, given
        value = given if row.get("raw", False) else json.dumps(given)
        beside = f"{row['with']}, " if "with" in row else ""
        arguments = f'{{{beside}"{group.argument}": {value}}}' if group.argument else given
        found.append(Case(group, expected, arguments, why))
    return found
