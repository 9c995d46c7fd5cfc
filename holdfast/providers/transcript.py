"""Reads the transcript entries that both wires translate; what has no translation is an error, never dropped."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.errors import RequestInvalid
from holdfast_verdict.canonical import JsonValue


def entry_kind(entry: Mapping[str, JsonValue], position: int) -> str:
    """Returns the kind of an entry.

    Raises:
        RequestInvalid: No wire has a translation for it.
    """
    kind = entry.get("kind")
    if isinstance(kind, str) and kind in ("user", "assistant", "tool_result"):
        return kind
    raise RequestInvalid(
        f"transcript entry {position} has the kind {kind!r}", remedy="kinds are user, assistant and tool_result"
    )


def entry_text(entry: Mapping[str, JsonValue], name: str, position: int) -> str:
    """Returns a text member of an entry.

    Raises:
        RequestInvalid: The member is missing or no text.
    """
    value = entry.get(name)
    if not isinstance(value, str):
        raise RequestInvalid(f"transcript entry {position} has no text {name!r}")
    return value


def user_text(entry: Mapping[str, JsonValue], position: int) -> str:
    """Returns what the user said.

    Raises:
        RequestInvalid: It is blank, which providers refuse.
    """
    text = entry_text(entry, "text", position)
    if not text.strip():
        raise RequestInvalid(f"the user message in transcript entry {position} is blank", remedy="send some text")
    return text


def assistant_calls(entry: Mapping[str, JsonValue], position: int) -> list[Mapping[str, JsonValue]]:
    """Returns the tool calls of an assistant entry.

    Raises:
        RequestInvalid: They are not a list of objects.
    """
    calls = entry.get("tool_calls", [])
    if not isinstance(calls, list):
        raise RequestInvalid(f"the tool_calls of transcript entry {position} are not a list")
    checked: list[Mapping[str, JsonValue]] = []
    for call in calls:
        if not isinstance(call, Mapping) or not isinstance(call.get("call_id"), str):
            raise RequestInvalid(f"a tool call of transcript entry {position} is not an object with a call_id")
        if not isinstance(call.get("tool"), str):
            raise RequestInvalid(f"a tool call of transcript entry {position} names no tool")
        checked.append(call)
    return checked
