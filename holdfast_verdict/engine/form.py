"""The form in which an action is decided: read from what a catalogue returned, or from a plain canonical object."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.canonical import NotCanonical, canonical_bytes

# no subclasses and nothing that is turned into text: what is decided is what the bytes say
_STRICT: Final = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)


_OF_TOOLS: Final = frozenset({"kind", "tool", "args"})
_OF_OTHERS: Final = frozenset({"kind", "args"})
_MAY_HAVE: Final = frozenset({"definition", "salt"})


class Malformed(Exception):  # it becomes a deny, and never leaves the engine
    """An action has no form that can be decided."""


class Action(NamedTuple):
    """The action as it is decided."""

    name: str
    args: Mapping[str, object]
    digest: bytes
    external: bool
    yields: Mapping[str, tuple[str, ...]]
    parameters: Mapping[str, object] | None = None


def read_action(action: object) -> Action:
    """Reads an action; one that was altered after it got its canonical form is refused."""
    if not isinstance(action, CanonicalAction) and isinstance(action, Mapping):
        value: Any = dict(action)  # JSON of any form, looked at below
        try:
            canonical = canonical_bytes(value)
        except NotCanonical as error:
            raise Malformed(f"the action has no canonical form: {error}") from None
        return Action(name_of(value), value["args"], hashlib.sha256(canonical).digest(), True, {})
    try:
        value, canonical = action.value, action.canonical  # type: ignore[attr-defined]  # whatever is none is malformed
        name, external, digest = action.name, action.external, action.digest  # type: ignore[attr-defined]  # as above
        whole = orjson.dumps(value, option=_STRICT) == canonical and hashlib.sha256(canonical).digest() == digest
        yields, parameters = getattr(action, "yields", {}), getattr(action, "parameters", None)
    except (AttributeError, TypeError):
        raise Malformed("this is no canonical action") from None
    if not whole or name_of(value) != name:
        raise Malformed("the action was altered after it got its canonical form")
    return Action(name, value["args"], digest, external is not False, yields, parameters)


def name_of(value: object) -> str:
    """Returns the name by which policies speak of an action.

    Raises:
        Malformed: It has none.
    """
    if not isinstance(value, dict):
        raise Malformed("an action is an object")
    is_tool_call = value.get("kind") == "tool.call"
    needs = _OF_TOOLS if is_tool_call else _OF_OTHERS
    if value.keys() - _MAY_HAVE != needs:
        raise Malformed(f"an action of this kind has the members {', '.join(sorted(needs))}")
    name = value["tool"] if is_tool_call else value["kind"]
    if not isinstance(value["args"], dict) or not isinstance(name, str) or not name:
        raise Malformed("an action's kind and tool are names, and its args an object")
    return name
