"""OpenAI's Chat Completions wire, server side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from cli.simulated_provider.answer import Answer, Asked, Chunk, MalformedRequestError, json_bytes, pieces
from cli.simulated_provider.brain import BrainMessage, BrainRequest, BrainToolCall
from holdfast.providers.model import tool_name_from_wire

REQUEST_ID_HEADER = "x-request-id"
DEFAULT_MAX_TOKENS = 4_096
_FINISH_REASONS = {"end_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length", "refusal": "content_filter"}
_CREATED = 1_750_000_000  # a constant, so that a recorded answer is the same every time


def _text(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    raise MalformedRequestError("messages: content must be a string or a list of parts")


def _call(call: Mapping[str, Any], calls: dict[str, str]) -> BrainToolCall:
    """Any: a request is JSON from outside; each member is checked where it is read."""
    function = call.get("function")
    if not isinstance(function, dict):
        raise MalformedRequestError("messages: a tool call has no function")
    try:
        arguments = json.loads(str(function.get("arguments")))
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise MalformedRequestError("messages: a tool call's arguments are not a JSON object")
    tool = calls[str(call.get("id"))] = tool_name_from_wire(str(function.get("name")))
    return BrainToolCall(tool, arguments)


def _message(message: object, calls: dict[str, str]) -> BrainMessage:
    if not isinstance(message, dict):
        raise MalformedRequestError("messages: each must be an object")
    role, text = message.get("role"), _text(message.get("content"))
    if role == "user":
        return BrainMessage("user", text)
    if role == "assistant":
        return BrainMessage("assistant", text, tuple(_call(call, calls) for call in message.get("tool_calls") or ()))
    if role == "tool":
        call_id = str(message.get("tool_call_id"))
        if call_id not in calls:
            raise MalformedRequestError(f"messages: a result for {call_id!r}, which no tool call has")
        return BrainMessage("tool", text, tool=calls[call_id])
    raise MalformedRequestError(f"messages: {role!r} is not a role")


def read(body: Mapping[str, Any]) -> Asked:
    """Reads a request.

    Raises:
        MalformedRequestError: It is not one of this wire.
    """
    messages, model = body.get("messages"), body.get("model")
    if not isinstance(model, str) or not isinstance(messages, list) or not messages:
        raise MalformedRequestError("model and messages are required")
    max_tokens = body.get("max_completion_tokens", body.get("max_tokens", DEFAULT_MAX_TOKENS))
    if type(max_tokens) is not int or max_tokens < 1:
        raise MalformedRequestError("max_completion_tokens must be positive")
    system = [m for m in messages if isinstance(m, dict) and m.get("role") in ("system", "developer")]
    calls: dict[str, str] = {}
    tools = body.get("tools", [])
    options = body.get("stream_options")
    return Asked(
        request=BrainRequest(
            model=model,
            system="\n".join(_text(message.get("content")) for message in system),
            messages=tuple(_message(message, calls) for message in messages if message not in system),
            tools=tuple(tool_name_from_wire(str(tool["function"]["name"])) for tool in tools),
        ),
        max_tokens=max_tokens,
        stream=body.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        tools_bytes=len(json_bytes(tools)) if tools else 0,
    )


def _chunk(answer: Answer, members: Mapping[str, object], output_bytes: int = 0, *, closing: bool = False) -> Chunk:
    payload = {
        "id": f"chatcmpl-{answer.answer_id}",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": answer.model,
        **members,
    }
    return Chunk(b"data: " + json_bytes(payload) + b"\n\n", output_bytes, closing)


def _delta(answer: Answer, delta: Mapping[str, object], output_bytes: int = 0) -> Chunk:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return _chunk(answer, {"choices": [choice]}, output_bytes)


def _call_chunks(answer: Answer, position: int, call: BrainToolCall) -> Iterator[Chunk]:
    name = call.tool.replace(".", "__")
    opened = {"index": position, "id": f"call_{answer.answer_id}_{position}", "type": "function"}
    yield _delta(answer, {"tool_calls": [{**opened, "function": {"name": name, "arguments": ""}}]})
    for piece in pieces(call.wire_arguments):
        fragment = {"index": position, "function": {"arguments": piece}}
        yield _delta(answer, {"tool_calls": [fragment]}, len(piece.encode()))


def chunks(answer: Answer, usage: Mapping[str, object] | None, *, include_usage: bool) -> Iterator[Chunk]:
    """Yields the chunks of a streamed answer; the one with usage only if it was asked for and there is any."""
    yield _delta(answer, {"role": "assistant", "content": ""})
    for piece in pieces(answer.thinking):
        yield _delta(answer, {"reasoning_content": piece}, len(piece.encode()))
    for piece in pieces(answer.text):
        yield _delta(answer, {"content": piece}, len(piece.encode()))
    for position, call in enumerate(answer.tool_calls):
        yield from _call_chunks(answer, position, call)
    finish = {"index": 0, "delta": {}, "finish_reason": _FINISH_REASONS[answer.stop_reason]}
    yield _chunk(answer, {"choices": [finish]}, closing=True)
    if include_usage and usage is not None:
        yield _chunk(answer, {"choices": [], "usage": dict(usage)}, closing=True)
    yield Chunk(b"data: [DONE]\n\n", closing=True)


def document(answer: Answer, usage: Mapping[str, object] | None) -> dict[str, object]:
    """Returns the answer in one piece."""
    message: dict[str, object] = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.thinking:
        message["reasoning_content"] = answer.thinking
    if answer.tool_calls:
        message["tool_calls"] = [
            {
                "id": f"call_{answer.answer_id}_{position}",
                "type": "function",
                "function": {"name": call.tool.replace(".", "__"), "arguments": call.wire_arguments},
            }
            for position, call in enumerate(answer.tool_calls)
        ]
    return {
        "id": f"chatcmpl-{answer.answer_id}",
        "object": "chat.completion",
        "created": _CREATED,
        "model": answer.model,
        "choices": [{"index": 0, "message": message, "finish_reason": _FINISH_REASONS[answer.stop_reason]}],
        **({} if usage is None else {"usage": dict(usage)}),
    }


def usage_document(input_tokens: int, output_tokens: int) -> dict[str, object]:
    """Returns usage as this wire reports it."""
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def error_document(status: int, message: str) -> dict[str, object]:
    """Returns an error as this wire reports it."""
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"  # noqa: PLR2004 (HTTP statuses)
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def stream_error(message: str) -> Chunk:
    """Returns an error inside a stream."""
    payload = {"error": {"message": message, "type": "server_error", "param": None, "code": None}}
    return Chunk(b"data: " + json_bytes(payload) + b"\n\n", closing=True)
