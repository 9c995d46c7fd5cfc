"""OpenAI's Chat Completions wire: a canonical request as SDK arguments, and the SDK's chunks as an answer."""

from __future__ import annotations

import json
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
    from openai.types.chat import ChatCompletionChunk

    from holdfast_verdict.canonical import JsonValue

REGIONAL_SURCHARGE_PERCENT = 10
"""Regional hosts cost 1.1 times as much for models of 2026-03-05 and later, which usage does not say
(developers.openai.com/api/docs/guides/data-residency)."""
_REGIONAL_HOST_SUFFIX = ".api.openai.com"
_STOP_REASONS = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "length": "max_tokens",
    "content_filter": "refusal",
}
_REASONING_MEMBERS = ("reasoning_content", "reasoning")  # what servers of open models call the reasoning they show


def regional_surcharge_percent(host: str) -> int:
    """Returns what a host adds to every price."""
    return REGIONAL_SURCHARGE_PERCENT if host.lower().endswith(_REGIONAL_HOST_SUFFIX) else 0


def _assistant_message(entry: dict[str, JsonValue], position: int) -> dict[str, JsonValue] | None:
    text = entry_text(entry, "text", position)
    calls: list[JsonValue] = [
        {
            "id": call["call_id"],
            "type": "function",
            "function": {
                "name": echoed_tool_name(str(call["tool"])),
                "arguments": json.dumps(sendable_arguments(call), ensure_ascii=False),
            },
        }
        for call in assistant_calls(entry, position)
    ]
    if not calls and not text.strip():
        return None  # an answer without text and calls says nothing
    message: dict[str, JsonValue] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = calls
    return message


def _entry_message(entry: dict[str, JsonValue], position: int) -> dict[str, JsonValue] | None:
    kind = entry_kind(entry, position)
    if kind == "assistant":
        return _assistant_message(entry, position)
    if kind == "user":
        return {"role": "user", "content": user_text(entry, position)}
    # The wire has no member for failure: a failed result says so in its content.
    return {
        "role": "tool",
        "tool_call_id": entry_text(entry, "call_id", position),
        "content": entry_text(entry, "content", position),
    }


def _tool(spec: ToolSpec) -> dict[str, JsonValue]:
    return {
        "type": "function",
        "function": {
            "name": wire_tool_name(spec.name),
            "description": spec.description,
            "parameters": spec.parameters,
        },
    }


def request_arguments(request: ModelRequest) -> dict[str, Any]:
    """Returns the keyword arguments of `chat.completions.create` for a streamed call.

    The members are `Any` because the SDK's parameter types are one TypedDict for each role, while these are plain JSON
    that the SDK takes as well.

    Raises:
        RequestInvalid: The transcript or a tool has no form on this wire.
    """
    messages = [
        message
        for position, entry in enumerate(request.entries)
        if (message := _entry_message(entry, position)) is not None
    ]
    if not messages:
        raise RequestInvalid("the transcript has nothing to send", remedy="start it with a user message")
    if request.system.strip():
        messages.insert(0, {"role": "system", "content": request.system})
    arguments: dict[str, Any] = {
        "model": request.model,
        "max_completion_tokens": request.max_tokens,  # unlike max_tokens it bounds reasoning, too
        "messages": messages,
        # A project's default tier may be a dearer one; the estimate is made at the standard prices (LAW 3).
        "service_tier": "default",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        arguments["tools"] = [_tool(spec) for spec in request.tools]
    return arguments


class OpenAIAccumulator:
    """Builds an answer from the chunks of one streamed completion."""

    def __init__(self, surcharge_percent: int = 0) -> None:
        """Starts an empty answer.

        Args:
            surcharge_percent: What the host that is asked adds to every price.
        """
        self._answer = Answer()
        self._surcharge_percent = surcharge_percent

    @property
    def events(self) -> int:
        """How many chunks were understood."""
        return self._answer.events

    def feed(self, chunk: ChatCompletionChunk) -> tuple[Delta, ...]:
        """Takes the next chunk and returns what it adds to the answer.

        Raises:
            RubbishError: The chunk makes no sense, or the answer is over a bound.
        """
        choices, usage = member(chunk, "choices"), member(chunk, "usage")
        if not isinstance(choices, list) and usage is None:
            raise RubbishError("a chunk has neither choices nor usage")
        self._answer.events += 1
        if (message_id := text_member(chunk, "id")) and self._answer.message_id is None:
            self._answer.message_id = message_id
        deltas: list[Delta] = []
        for choice in choices if isinstance(choices, list) else ():
            deltas.extend(self._choice(choice))
        if usage is not None:
            self._count(usage)
        return tuple(deltas)

    def _choice(self, choice: object) -> list[Delta]:
        if member(choice, "index") not in (0, None):
            raise RubbishError("more than the one completion that was asked for")
        delta = member(choice, "delta")
        deltas: list[Delta] = []
        for name in _REASONING_MEMBERS:
            if isinstance(text := member(delta, name), str) and text:
                deltas.append(self._answer.add_thinking(text))
                break
        texts = (text_member(delta, name) for name in ("content", "refusal"))
        deltas.extend(self._answer.add_text(text) for text in texts if text)
        calls = member(delta, "tool_calls")
        if calls is not None and not isinstance(calls, list):
            raise RubbishError("tool_calls is not a list")
        for call in calls or ():
            deltas.extend(self._tool_call(call))
        if reason := text_member(choice, "finish_reason"):
            self._answer.stop_reason = _STOP_REASONS.get(reason, reason[:64])
        return deltas

    def _tool_call(self, call: object) -> list[Delta]:
        index, function, call_id = member(call, "index"), member(call, "function"), text_member(call, "id")
        key = index if isinstance(index, int) else call_id
        if key is None:
            raise RubbishError("a tool call has neither index nor id")
        deltas: list[Delta] = []
        if not self._answer.has_call(key):
            deltas.append(self._answer.open_call(key, call_id or "", text_member(function, "name") or ""))
        if fragment := text_member(function, "arguments"):
            deltas.append(self._answer.add_arguments(key, fragment))
        return deltas

    def _count(self, usage: object) -> None:
        details = member(usage, "prompt_tokens_details")
        prompt, output = token_count(member(usage, "prompt_tokens")), token_count(member(usage, "completion_tokens"))
        read, written = member(details, "cached_tokens"), member(details, "cache_write_tokens")
        cache_read = 0 if read is None else token_count(read)
        cache_write = 0 if written is None else token_count(written)
        if not prompt or output is None or cache_read is None or cache_write is None:
            return  # a report with one absurd count, or without any input, is believed in nothing
        # What a cache held is part of prompt_tokens on this wire; a claim of more than all of it earns no discount.
        cache_write = min(cache_write, prompt)
        cache_read = min(cache_read, prompt - cache_write)
        self._answer.usage = Usage(
            input_tokens=prompt - cache_read - cache_write,
            output_tokens=output,
            cache_read_tokens=cache_read,
            cache_write_tokens=cache_write,
            surcharge_percent=self._surcharge_percent,
        )
        self._answer.usage_is_final = True

    def outcome(self, failure: Failure | None, provider_request_id: str | None, *, simulated: bool) -> ModelOutcome:
        """Returns what came of the call (see `Answer.outcome`)."""
        return self._answer.outcome(failure, provider_request_id, simulated=simulated)
