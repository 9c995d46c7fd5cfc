"""What the simulated provider answers: a brain is a function from a neutral request to a reply."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from holdfast.errors import ConfigurationInvalid

SCRIPT_MARK = "#!script "


class ScriptError(ValueError):
    """A script cannot be played; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class BrainToolCall:
    """A tool call, by Holdfast's name of the tool; `raw_arguments`, if given, is sent in place of the arguments."""

    tool: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    raw_arguments: str | None = None

    @property
    def wire_arguments(self) -> str:
        """The arguments as text."""
        if self.raw_arguments is not None:
            return self.raw_arguments
        return json.dumps(dict(self.arguments), ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class BrainMessage:
    """One message of the conversation.

    Attributes:
        role: `user`, `assistant`, or `tool` for the result of a call.
        text: What was said, or the result's content.
        tool_calls: Calls that an assistant message made.
        tool: The tool whose result this is.
        ok: Whether the tool succeeded, as far as the wire tells.
    """

    role: Literal["user", "assistant", "tool"]
    text: str
    tool_calls: tuple[BrainToolCall, ...] = ()
    tool: str | None = None
    ok: bool = True


@dataclass(frozen=True, slots=True)
class BrainRequest:
    """What the model is asked, whatever wire it came over; `tools` are the names of the tools on offer."""

    model: str
    system: str
    messages: tuple[BrainMessage, ...]
    tools: tuple[str, ...]

    @property
    def turn(self) -> int:
        """How many answers the model has given in this conversation."""
        return sum(message.role == "assistant" for message in self.messages)

    @property
    def first_user_text(self) -> str:
        """What the user said first."""
        return next((message.text for message in self.messages if message.role == "user"), "")


@dataclass(frozen=True, slots=True)
class BrainReply:
    """What the model answers; without a stop reason it follows from whether there are tool calls."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[BrainToolCall, ...] = ()
    stop_reason: Literal["end_turn", "tool_use", "max_tokens", "refusal"] | None = None


Brain = Callable[[BrainRequest], BrainReply]


def _step_call(step: Mapping[str, Any]) -> BrainToolCall:
    """Any: a script is JSON from outside; each member is checked here."""
    arguments, raw = step.get("arguments", {}), step.get("raw_arguments")
    if not isinstance(step.get("tool"), str) or not isinstance(arguments, dict) or not isinstance(raw, str | None):
        raise ScriptError(f"{step!r} is not a tool call: it needs a tool and an object of arguments")
    return BrainToolCall(step["tool"], arguments, raw)


def _step_reply(step: object) -> BrainReply:
    if not isinstance(step, dict) or not {"say", "think", "tool", "tools"} & step.keys():
        raise ScriptError(f"{step!r} is not a step: it needs one of say, think, tool and tools")
    calls = [step] if "tool" in step else step.get("tools", [])
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise ScriptError(f"{step!r}: tools must be an array of tool calls")
    return BrainReply(
        text=str(step.get("say", "")),
        thinking=str(step.get("think", "")),
        tool_calls=tuple(_step_call(call) for call in calls),
    )


def _steps(script: str) -> list[object]:
    try:
        steps = json.loads(script)
    except ValueError as error:
        raise ScriptError(f"it is not JSON: {error}") from None
    if not isinstance(steps, list):
        raise ScriptError("it is not a JSON array of steps")
    return steps


def _play(script: str, turn: int) -> BrainReply:
    """Answers with the script's step of that number."""
    try:
        steps = _steps(script)
        return _step_reply(steps[turn]) if turn < len(steps) else BrainReply(text="done")
    except ScriptError as error:
        return BrainReply(text=f"simulated: the script cannot be played: {error}")


def default_brain(request: BrainRequest) -> BrainReply:
    """Plays the script that the first user message holds, or answers with a short labelled text.

    A script is a line `#!script [step, …]`; a step is `{"say": …}`, `{"think": …, "say": …}`, `{"tool": "mail.send",
    "arguments": {…}}` or `{"tools": [call, …]}`. The n-th answer plays the n-th step; after the last comes `done`.
    """
    for line in request.first_user_text.splitlines():
        if line.startswith(SCRIPT_MARK):
            return _play(line.removeprefix(SCRIPT_MARK), request.turn)
    last = request.messages[-1].text if request.messages else ""
    return BrainReply(text=f"simulated: an answer from {request.model} to {len(last)} characters of text.")


def load_brain(name: str) -> Brain:
    """Imports a brain named `module:function`.

    Raises:
        ConfigurationInvalid: There is no such function.
    """
    module_name, _, function_name = name.partition(":")
    try:
        brain = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationInvalid(
            f"cannot load the brain {name!r}: {error}", remedy="name it module:function"
        ) from None
    if not callable(brain):
        raise ConfigurationInvalid(f"{name!r} is not a function")
    loaded: Brain = brain
    return loaded
