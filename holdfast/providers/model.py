"""The canonical model call: what is asked, and what came of it, whatever wire it went over."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from holdfast.errors import RequestInvalid
from holdfast_verdict.canonical import JsonValue, NotCanonical, canonical_bytes

Wire = Literal["anthropic", "openai"]
Cost = Literal["known", "nothing", "partial", "unknown"]
Channel = Literal["answer", "thinking", "tool"]

_TOOL_NAME = re.compile(r"[A-Za-z0-9-]+(?:_[A-Za-z0-9-]+)*(?:\.[A-Za-z0-9-]+(?:_[A-Za-z0-9-]+)*)*")
_NOT_IN_WIRE_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_TOOL_NAME_LENGTH_MAX = 64
_INVALID_SHOWN_CHARS = 4_000


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call that a model proposes.

    Attributes:
        call_id: The provider's id of the call; never empty.
        tool: Name of the tool as Holdfast knows it, such as `mail.send`.
        arguments: The arguments, or None when the text is not a JSON object that has a canonical form.
        raw_arguments: The text that the model wrote.
    """

    call_id: str
    tool: str
    arguments: dict[str, JsonValue] | None
    raw_arguments: str

    def to_json(self) -> dict[str, JsonValue]:
        """Returns the call as it stands in transcript entries."""
        return {
            "call_id": self.call_id,
            "tool": self.tool,
            "arguments": self.arguments,
            "raw_arguments": self.raw_arguments,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, JsonValue]) -> ToolCall:
        """Reads what `to_json` wrote."""
        arguments = value["arguments"]
        return cls(
            call_id=str(value["call_id"]),
            tool=str(value["tool"]),
            arguments=dict(arguments) if isinstance(arguments, Mapping) else None,
            raw_arguments=str(value["raw_arguments"]),
        )


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as a model is shown it; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """Everything that decides what a provider is asked and what that can cost.

    Attributes:
        wire: The protocol the provider speaks.
        model: The provider's name of the model.
        max_tokens: Upper bound of output tokens, reasoning included. What is forwarded is what was reserved for.
        system: System prompt, may be empty.
        entries: Transcript entries, oldest first (kinds `user`, `assistant`, `tool_result`).
        tools: Tools the model may propose to call.
    """

    wire: Wire
    model: str
    max_tokens: int
    system: str
    entries: list[dict[str, JsonValue]]
    tools: list[ToolSpec]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider reported them; the three kinds of input never overlap, their sum is the whole input.

    Attributes:
        input_tokens: Input that was neither read from nor written to a cache.
        output_tokens: Output, reasoning included.
        cache_read_tokens: Input read from a cache.
        cache_write_tokens: Input written to a cache.
        surcharge_percent: What the place of inference adds to every price.
    """

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    surcharge_percent: int = 0

    @property
    def total_input_tokens(self) -> int:
        """The whole input, on which long-context prices depend."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens

    def to_json(self) -> dict[str, JsonValue]:
        """Returns the counts by name."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cache_read_tokens": self.cache_read_tokens,
            "cache_write_tokens": self.cache_write_tokens,
            "surcharge_percent": self.surcharge_percent,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, JsonValue]) -> Usage:
        """Reads what `to_json` wrote."""
        return cls(**{name: int(cast(int, value[name])) for name in cls.__dataclass_fields__})


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer that is still being written, with the channel it belongs to."""

    channel: Channel
    text: str


@dataclass(frozen=True, slots=True)
class ModelOutcome:
    """What came of one try of a model call, success or not.

    Attributes:
        ok: The answer is complete.
        text: The answer's text as far as it was received.
        thinking: The reasoning that the provider showed.
        tool_calls: Calls the model proposes, in order.
        stop_reason: `end_turn`, `tool_use`, `max_tokens`, `stop_sequence`, `refusal`, or the provider's own word.
        usage: Tokens as reported, final or so far; None when nothing usable was reported.
        provider_request_id: The provider's id of the request, for reconciling.
        error_code: Stable code (`provider.…`), None when ok.
        error_message: A sentence for people and logs.
        retryable: A new try may succeed.
        retry_after_ms: How long the provider asks to wait.
        cost: `known`: final usage was seen; `nothing`: provably not billed; `partial`: an answer came, its final usage
            did not; `unknown`: nobody here can tell what was billed (LAW 4).
        received_output_bytes: UTF-8 bytes of output received, kept beside what the provider reports.
        simulated: The answer came from a simulated provider.
    """

    ok: bool
    text: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    stop_reason: str | None
    usage: Usage | None
    provider_request_id: str | None
    error_code: str | None
    error_message: str | None
    retryable: bool
    retry_after_ms: int | None
    cost: Cost
    received_output_bytes: int
    simulated: bool

    def to_json(self) -> dict[str, JsonValue]:
        """Returns the outcome as a JSON object with a canonical form."""
        return {
            "ok": self.ok,
            "text": self.text,
            "thinking": self.thinking,
            "tool_calls": [call.to_json() for call in self.tool_calls],
            "stop_reason": self.stop_reason,
            "usage": None if self.usage is None else self.usage.to_json(),
            "provider_request_id": self.provider_request_id,
            "error_code": self.error_code,
            "error_message": self.error_message,
            "retryable": self.retryable,
            "retry_after_ms": self.retry_after_ms,
            "cost": self.cost,
            "received_output_bytes": self.received_output_bytes,
            "simulated": self.simulated,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, JsonValue]) -> ModelOutcome:
        """Reads what `to_json` wrote."""
        # The store returns exactly what `to_json` wrote, so each member has its declared type.
        members: dict[str, object] = dict(value)
        calls = cast("list[Mapping[str, JsonValue]]", members["tool_calls"])
        usage = cast("Mapping[str, JsonValue] | None", members["usage"])
        members["tool_calls"] = tuple(ToolCall.from_json(call) for call in calls)
        members["usage"] = None if usage is None else Usage.from_json(usage)
        return cls(**members)  # type: ignore[arg-type]  # see above

    def transcript_entry(self) -> dict[str, JsonValue]:
        """Returns the transcript entry of kind `assistant` for this answer."""
        return {
            "kind": "assistant",
            "text": self.text,
            "thinking": self.thinking,
            "tool_calls": [call.to_json() for call in self.tool_calls],
            "stop_reason": self.stop_reason,
        }


def wire_tool_name(name: str) -> str:
    """Returns a tool's name as wires take it: they allow no dots, so `mail.send` travels as `mail__send`.

    Raises:
        RequestInvalid: The name could not be told apart from another one on the way back, or is too long.
    """
    wire_name = name.replace(".", "__")
    if _TOOL_NAME.fullmatch(name) is None or len(wire_name) > _TOOL_NAME_LENGTH_MAX:
        raise RequestInvalid(
            f"{name!r} cannot be a tool's name",
            remedy="use words of letters, digits, '-' and single '_', joined by dots, 64 characters at most",
        )
    return wire_name


def tool_name_from_wire(wire_name: str) -> str:
    """Returns the tool that a model means by a name on the wire (the inverse of `wire_tool_name`)."""
    return wire_name.replace("__", ".")


def echoed_tool_name(name: str) -> str:
    """Returns a name that a model used earlier as it goes back to a provider.

    A model can make up any name; providers refuse a whole conversation for one with other characters than these.
    """
    return _NOT_IN_WIRE_NAMES.sub("_", name.replace(".", "__"))[:_TOOL_NAME_LENGTH_MAX] or "_"


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def parse_arguments(raw_arguments: str) -> tuple[dict[str, JsonValue] | None, str | None]:
    """Reads a tool call's arguments.

    Returns:
        The arguments and None, or None and a sentence that tells the model what is wrong with them.
    """
    # A tool without parameters is called with no text at all on one wire and with {} on the other.
    text = raw_arguments.strip() or "{}"
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return None, f"the arguments are not JSON: {error}"
    if not isinstance(value, dict):
        return None, f"the arguments are a JSON {type(value).__name__}, not an object"
    try:
        canonical = canonical_bytes(value)
    except NotCanonical as error:
        return None, f"the arguments cannot be used: {error} ($ is the arguments object)"
    if b"\\u0000" in canonical.replace(b"\\\\", b""):
        return None, "the arguments cannot be used: they hold the character U+0000"
    return value, None


def sendable_arguments(call: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Returns the arguments to send back to a provider for an earlier call of a transcript.

    Wires insist on an object; where the model wrote none, it is shown what it wrote under one member.
    """
    arguments = call.get("arguments")
    if isinstance(arguments, Mapping):
        return dict(arguments)
    return {"invalid_arguments": str(call.get("raw_arguments", ""))[:_INVALID_SHOWN_CHARS]}
