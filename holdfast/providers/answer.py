"""An answer while it is being received: bounded, and sceptical of everything that a provider sends.

The SDKs build their typed events without validating them, so any member may be missing or of another type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from holdfast.providers.model import (
    Cost,
    Delta,
    ModelOutcome,
    ToolCall,
    Usage,
    parse_arguments,
    tool_name_from_wire,
)

TEXT_BYTES_MAX = 2 * 1024 * 1024
ARGUMENTS_BYTES_MAX = 256 * 1024
TOOL_CALLS_MAX = 64
NAME_CHARS_MAX = 128
MESSAGE_CHARS_MAX = 500
_CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
REPORTED_TOKENS_MAX = 100_000_000
"""More than any context window by far: what claims more is no count of tokens."""


class RubbishError(ValueError):
    """What the provider sent is not an answer, or is over a bound; the message says which."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an answer is not complete.

    Attributes:
        error_code: Stable code.
        message: A sentence for people.
        retryable: A new try may succeed.
        retry_after_ms: How long the provider asks to wait.
        cost: What is known of the bill: `nothing` or `unknown` whatever was received, or `as_received`.
    """

    error_code: str
    message: str
    retryable: bool
    cost: Literal["nothing", "unknown", "as_received"] = "as_received"
    retry_after_ms: int | None = None


def clean(text: str) -> str:
    """Replaces what neither UTF-8 nor PostgreSQL can hold: lone surrogates and U+0000."""
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if _has_surrogate(text) else text


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def shorten(text: str, chars_max: int) -> str:
    """Returns cleaned text of at most that many characters."""
    return clean(text[:chars_max])


def member(holder: object, name: str) -> object:
    """Returns a member of an SDK object or of the plain dict an SDK leaves in place of one; None when missing."""
    if isinstance(holder, Mapping):
        return holder.get(name)
    return getattr(holder, name, None)


def text_member(holder: object, name: str) -> str | None:
    """Returns a text member, or None when missing.

    Raises:
        RubbishError: The member is there and is no text.
    """
    value = member(holder, name)
    if value is None or isinstance(value, str):
        return value
    raise RubbishError(f"{name} is a {type(value).__name__}, not text")


def token_count(value: object) -> int | None:
    """Returns a reported count of tokens, or None when it is no plausible count."""
    if type(value) is int and 0 <= value <= REPORTED_TOKENS_MAX:
        return value
    return None


@dataclass(slots=True)
class _OpenCall:
    call_id: str
    tool: str
    fragments: list[str] = field(default_factory=list)
    size_bytes: int = 0


@dataclass(slots=True)
class Answer:
    """Collects an answer's parts within bounds.

    Attributes:
        stop_reason: Set when the provider says that the answer is complete.
        usage: Usage as reported so far.
        usage_is_final: The provider has reported its final count.
        message_id: The provider's id of the message, where no header gives one of the request.
        events: How many events were understood.
        received_output_bytes: UTF-8 bytes of output.
    """

    stop_reason: str | None = None
    usage: Usage | None = None
    usage_is_final: bool = False
    message_id: str | None = None
    events: int = 0
    received_output_bytes: int = 0
    _text: list[str] = field(default_factory=list)
    _thinking: list[str] = field(default_factory=list)
    _calls: dict[int | str, _OpenCall] = field(default_factory=dict)

    def _grow(self, text: str) -> int:
        size_bytes = len(text.encode())
        self.received_output_bytes += size_bytes
        if self.received_output_bytes > TEXT_BYTES_MAX:
            raise RubbishError(f"the answer is over {TEXT_BYTES_MAX} bytes")
        return size_bytes

    def add_text(self, text: str) -> Delta:
        """Appends to the answer proper."""
        text = clean(text)
        self._grow(text)
        self._text.append(text)
        return Delta("answer", text)

    def add_thinking(self, text: str) -> Delta:
        """Appends to the reasoning."""
        text = clean(text)
        self._grow(text)
        self._thinking.append(text)
        return Delta("thinking", text)

    def open_call(self, key: int | str, call_id: str, wire_name: str) -> Delta:
        """Starts a tool call; later fragments name it by its key."""
        if len(self._calls) >= TOOL_CALLS_MAX:
            raise RubbishError(f"the answer has more than {TOOL_CALLS_MAX} tool calls")
        if not wire_name:
            raise RubbishError("a tool call names no tool")
        self._grow(wire_name := shorten(wire_name, NAME_CHARS_MAX))
        taken = {call.call_id for call in self._calls.values()}
        # Results are matched to calls by id, so a repeated one would misdirect them; an odd one is refused later on.
        if _CALL_ID.fullmatch(call_id) is None or call_id in taken:
            call_id = next(name for number in count(1) if (name := f"call_{number}") not in taken)
        tool = tool_name_from_wire(wire_name)
        separator = "\n" if self._calls else ""
        self._calls[key] = _OpenCall(call_id, tool)
        return Delta("tool", f"{separator}{tool} ")

    def has_call(self, key: int | str) -> bool:
        """Whether a call with that key was opened."""
        return key in self._calls

    def add_arguments(self, key: int | str, fragment: str) -> Delta:
        """Appends to the arguments of an open call."""
        call = self._calls.get(key)
        if call is None:
            raise RubbishError("arguments came for a tool call that was never opened")
        fragment = clean(fragment)
        call.size_bytes += self._grow(fragment)
        if call.size_bytes > ARGUMENTS_BYTES_MAX:
            raise RubbishError(f"the arguments of a tool call are over {ARGUMENTS_BYTES_MAX} bytes")
        call.fragments.append(fragment)
        return Delta("tool", fragment)

    def _cost(self, failure: Failure | None) -> Cost:
        if failure is None:
            return "known" if self.usage_is_final and self.usage is not None else "partial"
        if failure.cost != "as_received":
            return failure.cost
        return "partial" if self.usage is not None or self.received_output_bytes else "unknown"

    def _tool_calls(self) -> tuple[ToolCall, ...]:
        calls = []
        for call in self._calls.values():
            raw = "".join(call.fragments)
            # No text at all means no arguments, unless the answer was cut before the text came.
            whole = self.stop_reason is not None and (raw != "" or self.stop_reason != "max_tokens")
            calls.append(ToolCall(call.call_id, call.tool, parse_arguments(raw)[0] if whole else None, raw))
        return tuple(calls)

    def outcome(self, failure: Failure | None, provider_request_id: str | None, *, simulated: bool) -> ModelOutcome:
        """Returns what came of the call.

        Args:
            failure: What ended the stream, None when it ended by itself. It no longer matters once the provider has
                said that the answer is complete.
            provider_request_id: The id that the response's headers gave.
            simulated: The answer came from a simulated provider.
        """
        if self.stop_reason is not None:
            failure = None
        elif failure is None:
            failure = Failure("provider.cut", "the stream ended before the answer was complete", retryable=True)
        request_id = provider_request_id or self.message_id
        return ModelOutcome(
            ok=failure is None,
            text="".join(self._text),
            thinking="".join(self._thinking),
            tool_calls=self._tool_calls(),
            stop_reason=self.stop_reason,
            usage=self.usage,
            provider_request_id=None if request_id is None else shorten(request_id, NAME_CHARS_MAX),
            error_code=None if failure is None else failure.error_code,
            error_message=None if failure is None else shorten(failure.message, MESSAGE_CHARS_MAX),
            retryable=failure is not None and failure.retryable,
            retry_after_ms=None if failure is None else failure.retry_after_ms,
            cost=self._cost(failure),
            received_output_bytes=self.received_output_bytes,
            simulated=simulated,
        )
