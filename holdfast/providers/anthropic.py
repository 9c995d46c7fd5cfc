"""Anthropic's Messages wire: a canonical request as SDK arguments, and the SDK's events as an answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from holdfast.errors import RequestInvalid
from holdfast.providers.answer import Answer, Failure, RubbishError, member, text_member, token_count
from holdfast.providers.model import (
    Delta,
    ModelOutcome,
    ModelRequest,
    ToolSpec,
    Usage,
    echoed_tool_name,
    sendable_arguments,
    wire_tool_name,
)
from holdfast.providers.transcript import assistant_calls, entry_kind, entry_text, user_text

if TYPE_CHECKING:
    from anthropic.types import RawMessageStreamEvent

    from holdfast_verdict.canonical import JsonValue

US_INFERENCE_SURCHARGE_PERCENT = 10
"""Inference held in the US costs 1.1 times as much, and a workspace may ask for it by default
(platform.claude.com/docs/en/manage-claude/data-residency)."""
_GLOBAL_INFERENCE = (None, "global", "not_available")
_USAGE_MEMBERS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def _assistant_blocks(entry: dict[str, JsonValue], position: int) -> list[dict[str, JsonValue]]:
    blocks: list[dict[str, JsonValue]] = []
    text = entry_text(entry, "text", position)
    if text.strip():
        blocks.append({"type": "text", "text": text})
    blocks.extend(
        {
            "type": "tool_use",
            "id": call["call_id"],
            "name": echoed_tool_name(str(call["tool"])),
            "input": sendable_arguments(call),
        }
        for call in assistant_calls(entry, position)
    )
    return blocks


def _entry_message(entry: dict[str, JsonValue], position: int) -> tuple[str, list[dict[str, JsonValue]]]:
    kind = entry_kind(entry, position)
    if kind == "assistant":
        return "assistant", _assistant_blocks(entry, position)
    if kind == "user":
        return "user", [{"type": "text", "text": user_text(entry, position)}]
    result: dict[str, JsonValue] = {
        "type": "tool_result",
        "tool_use_id": entry_text(entry, "call_id", position),
        "content": entry_text(entry, "content", position),
        "is_error": entry.get("ok") is not True,
    }
    return "user", [result]


def _messages(entries: Iterable[dict[str, JsonValue]]) -> list[dict[str, Any]]:
    """Neighbours of one role become one message: all results of a turn's calls must stand in the next message."""
    messages: list[dict[str, Any]] = []
    for position, entry in enumerate(entries):
        role, blocks = _entry_message(entry, position)
        if not blocks:
            continue  # an answer without text and calls says nothing, and the wire has no form for it
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"].extend(blocks)
        else:
            messages.append({"role": role, "content": blocks})
    if not messages:
        raise RequestInvalid("the transcript has nothing to send", remedy="start it with a user message")
    return messages


def _tool(spec: ToolSpec) -> dict[str, JsonValue]:
    return {"name": wire_tool_name(spec.name), "description": spec.description, "input_schema": spec.parameters}


def request_arguments(request: ModelRequest) -> dict[str, Any]:
    """Returns the keyword arguments of `messages.create` for a streamed call.

    The members are `Any` because the SDK's parameter types are one TypedDict for each kind of block, while these are
    plain JSON that the SDK takes as well.

    Raises:
        RequestInvalid: The transcript or a tool has no form on this wire.
    """
    arguments: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "messages": _messages(request.entries),
        # Priority capacity has prices of its own; the estimate is made at the standard ones (LAW 3).
        "service_tier": "standard_only",
        "stream": True,
    }
    if request.system.strip():
        arguments["system"] = request.system
    if request.tools:
        arguments["tools"] = [_tool(spec) for spec in request.tools]
    return arguments


class AnthropicAccumulator:
    """Builds an answer from the events of one streamed message."""

    def __init__(self) -> None:
        self._answer = Answer()
        self._reported: dict[str, int] = {}
        self._surcharge_percent = 0

    @property
    def events(self) -> int:
        """How many events were understood."""
        return self._answer.events

    def feed(self, event: RawMessageStreamEvent) -> tuple[Delta, ...]:
        """Takes the next event and returns what it adds to the answer.

        Raises:
            RubbishError: The event makes no sense, or the answer is over a bound.
        """
        kind = text_member(event, "type")
        if kind is None:
            raise RubbishError("an event has no type")
        self._answer.events += 1
        if kind == "content_block_delta":
            return self._block_delta(event)
        if kind == "content_block_start":
            return self._block_start(event)
        if kind == "message_start":
            message = member(event, "message")
            self._answer.message_id = text_member(message, "id")
            self._count(member(message, "usage"), final=False)
        elif kind == "message_delta":
            reason = text_member(member(event, "delta"), "stop_reason")
            if reason is not None:
                self._answer.stop_reason = reason[:64]
            self._count(member(event, "usage"), final=True)
        return ()  # other kinds of event carry no output; the wire may gain more of them

    def _index(self, event: object) -> int:
        index = member(event, "index")
        if not isinstance(index, int):
            raise RubbishError("a content block has no index")
        return index

    def _block_start(self, event: object) -> tuple[Delta, ...]:
        block = member(event, "content_block")
        kind = text_member(block, "type")
        if kind == "text" and (text := text_member(block, "text")):
            return (self._answer.add_text(text),)
        if kind == "thinking" and (text := text_member(block, "thinking")):
            return (self._answer.add_thinking(text),)
        if kind == "tool_use":
            name, call_id = text_member(block, "name"), text_member(block, "id")
            return (self._answer.open_call(self._index(event), call_id or "", name or ""),)
        return ()

    def _block_delta(self, event: object) -> tuple[Delta, ...]:
        delta = member(event, "delta")
        kind = text_member(delta, "type")
        if kind == "text_delta" and (text := text_member(delta, "text")):
            return (self._answer.add_text(text),)
        if kind == "thinking_delta" and (text := text_member(delta, "thinking")):
            return (self._answer.add_thinking(text),)
        if kind == "input_json_delta" and (text := text_member(delta, "partial_json")):
            return (self._answer.add_arguments(self._index(event), text),)
        if kind is None:
            raise RubbishError("a delta has no type")
        return ()

    def _count(self, usage: object, *, final: bool) -> None:
        """Counts are cumulative on this wire, and a later one never lowers an earlier one (LAW 3)."""
        if usage is None:
            return
        reported: dict[str, int] = {}
        for name in _USAGE_MEMBERS:
            value = member(usage, name)
            if value is None:
                continue
            count = token_count(value)
            if count is None:
                return  # a report with one absurd count is believed in nothing
            reported[name] = count
        if final and "output_tokens" not in reported:
            return
        for name, count in reported.items():
            self._reported[name] = max(count, self._reported.get(name, 0))
        if member(usage, "inference_geo") not in _GLOBAL_INFERENCE:
            self._surcharge_percent = US_INFERENCE_SURCHARGE_PERCENT
        merged = Usage(
            input_tokens=self._reported.get("input_tokens", 0),
            output_tokens=self._reported.get("output_tokens", 0),
            cache_read_tokens=self._reported.get("cache_read_input_tokens", 0),
            cache_write_tokens=self._reported.get("cache_creation_input_tokens", 0),
            surcharge_percent=self._surcharge_percent,
        )
        if merged.total_input_tokens:  # a request without any input is not possible
            self._answer.usage = merged
            self._answer.usage_is_final = self._answer.usage_is_final or final

    def outcome(self, failure: Failure | None, provider_request_id: str | None, *, simulated: bool) -> ModelOutcome:
        """Returns what came of the call (see `Answer.outcome`)."""
        return self._answer.outcome(failure, provider_request_id, simulated=simulated)
