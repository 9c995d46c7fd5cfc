"""What decisions are found by, as the sequencer gives it with their numbers; the unusual is left to the database's function."""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

LENGTH_MAX: Final = 200
"""Characters of a name by which it is found."""
TOOL_CALL: Final = "tool.call"


class Facets(NamedTuple):
    """The names in the columns `facet_…` of a decision; `None` in all of them leaves them to the database."""

    agent: str | None
    role: str | None
    tool: str | None
    rule: str | None
    code: str | None


_LEFT: Final = Facets(None, None, None, None, None)


def facets_of(
    part_a: bytes | None, kind: str, agent: str | None, role: str | None, rule: str | None, code: str | None
) -> Facets:
    """Returns what a record is found by, the same as the database's function says, or leaves it to that.

    Args:
        part_a: What was evaluated; `None` if it was not read.
        kind: The record's.
        agent: That of the run; `None` if it has none.
        role: That of the run.
        rule: The rule of the reply.
        code: The first of the reasons.
    """
    if agent is None or role is None:
        return _LEFT  # of no run: subject and facts are asked, in this order
    tool = ""
    if kind == TOOL_CALL:
        found = _tool_of(part_a)
        if found is None:
            return _LEFT
        tool = found
    return Facets(agent[:LENGTH_MAX], role[:LENGTH_MAX], tool, (rule or "")[:LENGTH_MAX], (code or "")[:LENGTH_MAX])


def _tool_of(part_a: bytes | None) -> str | None:
    if part_a is None or b"\\u0000" in part_a:
        return None  # a text with a NUL is none to the database
    try:
        tool = orjson.loads(part_a)["action"]["tool"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return tool[:LENGTH_MAX] if isinstance(tool, str) else None
