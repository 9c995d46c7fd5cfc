"""Trying a tool as Holdfast would call it, without Holdfast: what the model would read, and how the call would be settled."""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sdk.tools import ATTRIBUTE, Marks, ToolCall, ToolRefused


class LeaseOver(BaseException):
    """Takes the place of the end of the process, which a call meets that begins too late. No tool should catch it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended.

    Attributes:
        kind: `done`; `nothing`: it provably did nothing; `unknown`: it may have done something, and nobody knows.
        content: What the model would read, if it is done or refused.
        begun: Whether it asked to go outside.
        retried: Whether Holdfast would try it again by itself.
        error: What it raised.
    """

    kind: Literal["done", "nothing", "unknown"]
    content: str
    begun: bool
    retried: bool
    error: BaseException | None


def late_call(**said: Any) -> ToolCall:  # the fields of a ToolCall
    """Returns a call whose lease is over when it begins: whatever a tool does after `begin()` must not happen then."""

    def asking() -> None:
        raise LeaseOver

    return ToolCall(**said, asking=asking)


def try_tool(function: Callable[..., Any], call: ToolCall | None = None, /, **arguments: Any) -> Outcome:
    """Calls a tool as Holdfast would, and says how the call would be settled.

    Args:
        function: A function marked with `@tool`; a coroutine function is awaited.
        call: What it is given as its call; a fresh one if left out.
        arguments: Its arguments, as values of its own types.

    Raises:
        TypeError: It is not marked with `@tool`.
    """
    marks = getattr(function, ATTRIBUTE, None)
    if not isinstance(marks, Marks):
        raise TypeError(f"{function!r} is no tool: mark it with @tool(…)")
    given = call or ToolCall()
    try:
        if _takes_call(function):
            result = function(given, **arguments)
        else:
            given.begin()
            result = function(**arguments)
        if inspect.isawaitable(result):
            result = asyncio.run(_wait(result))
        return Outcome("done", _content(result), given.begun, retried=False, error=None)
    except ToolRefused as error:
        return Outcome("nothing", error.message, given.begun, retried=error.retryable, error=error)
    except (Exception, SystemExit, LeaseOver) as error:  # noqa: BLE001 (whatever a tool raises is its outcome)
        kind: Literal["nothing", "unknown"] = "unknown" if given.begun else "nothing"
        return Outcome(kind, "", given.begun, retried=given.begun and marks.idempotent, error=error)


async def _wait(result: Any) -> Any:  # whatever the tool returns
    return await result


def _takes_call(function: Callable[..., Any]) -> bool:
    first = next(iter(inspect.signature(function).parameters), None)
    hint = typing.get_type_hints(function).get(first) if first is not None else None
    return isinstance(hint, type) and issubclass(hint, ToolCall)


def _content(result: object) -> str:
    """Returns a result as the text that the model reads."""
    if isinstance(result, str):
        return result
    from pydantic_core import to_json  # of `holdfast-sdk[tools]`, as the server does it

    return to_json(result, inf_nan_mode="strings").decode()
