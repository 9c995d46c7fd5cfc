"""Anthropic's Messages wire, server side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cli.simulated_provider.answer import Answer, Asked, Chunk, MalformedRequestError, json_bytes, pieces
from cli.simulated_provider.brain import BrainMessage, BrainRequest, BrainToolCall
from holdfast.providers.model import tool_name_from_wire

REQUEST_ID_HEADER = "request-id"
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def _blocks(content: object) -> list[dict[str, Any]]:
    """Any: a request is JSON from outside; each member is checked where it is read."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list) and all(isinstance(block, dict) for block in content):
        return content
    raise MalformedRequestError("messages: content must be a string or a list of blocks")


def _text(blocks: list[dict[str, Any]]) -> str:
    return "".join(str(block.get("text", "")) for block in blocks if block.get("type") == "text")


def _message(message: object, calls: dict[str, str]) -> Iterator[BrainMessage]:
    if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
        raise MalformedRequestError("messages: each needs the role user or assistant")
    blocks = _blocks(message.get("content"))
    if not blocks:
        raise MalformedRequestError("messages: content must not be empty")
    if message["role"] == "assistant":
        made = [block for block in blocks if block.get("type") == "tool_use"]
        for block in made:
            calls[str(block.get("id"))] = tool_name_from_wire(str(block.get("name")))
        tool_calls = tuple(BrainToolCall(calls[str(b.get("id"))], b.get("input") or {}) for b in made)
        yield BrainMessage("assistant", _text(blocks), tool_calls)
        return
    for block in blocks:
        if block.get("type") == "tool_result":
            call_id = str(block.get("tool_use_id"))
            if call_id not in calls:
                raise MalformedRequestError(f"messages: tool_result for {call_id!r}, which no tool_use has")
            content = _text(_blocks(block.get("content", "")))
            yield BrainMessage("tool", content, tool=calls[call_id], ok=block.get("is_error") is not True)
    if text := _text(blocks):
        yield BrainMessage("user", text)


def read(body: Mapping[str, Any]) -> Asked:
    """Reads a request.

    Raises:
        MalformedRequestError: It is not one of this wire.
    """
    messages, max_tokens, model = body.get("messages"), body.get("max_tokens"), body.get("model")
    if not isinstance(model, str) or type(max_tokens) is not int or max_tokens < 1:
        raise MalformedRequestError("model and a positive max_tokens are required")
    if not isinstance(messages, list) or not messages:
        raise MalformedRequestError("messages: at least one is required")
    calls: dict[str, str] = {}
    tools = body.get("tools", [])
    system = body.get("system", "")
    return Asked(
        request=BrainRequest(
            model=model,
            system=system if isinstance(system, str) else _text(_blocks(system)),
            messages=tuple(read_one for message in messages for read_one in _message(message, calls)),
            tools=tuple(tool_name_from_wire(str(tool["name"])) for tool in tools),
        ),
        max_tokens=max_tokens,
        stream=body.get("stream") is True,
        include_usage=True,
        tools_bytes=len(json_bytes(tools)) if tools else 0,
    )


def _event(kind: str, payload: Mapping[str, object], output_bytes: int = 0, *, closing: bool = False) -> Chunk:
    data = b"event: " + kind.encode() + b"\ndata: " + json_bytes({"type": kind, **payload}) + b"\n\n"
    return Chunk(data, output_bytes, closing)


def _block(index: int, start: Mapping[str, object], deltas: list[dict[str, str]]) -> Iterator[Chunk]:
    yield _event("content_block_start", {"index": index, "content_block": start})
    for delta in deltas:
        carried = next(value for name, value in delta.items() if name != "type")
        yield _event("content_block_delta", {"index": index, "delta": delta}, len(carried.encode()))
    yield _event("content_block_stop", {"index": index})


def _call_id(answer: Answer, position: int) -> str:
    return f"toolu_{answer.answer_id}_{position}"


def _usage_members(usage: Mapping[str, object] | None) -> dict[str, object]:
    """What is said of the input at a stream's start."""
    if usage is None:
        return {}
    given = {name: value for name, value in usage.items() if name != "output_tokens"}
    return {"usage": {**given, "output_tokens": 1}}


def chunks(answer: Answer, usage: Mapping[str, object] | None, *, include_usage: bool) -> Iterator[Chunk]:
    """Yields the events of a streamed answer; without usage if there is none."""
    if not include_usage:
        usage = None
    message = {"id": f"msg_{answer.answer_id}", "type": "message", "role": "assistant", "model": answer.model}
    start = {**message, "content": [], "stop_reason": None, "stop_sequence": None, **_usage_members(usage)}
    yield _event("message_start", {"message": start})
    yield _event("ping", {})
    index = 0
    if answer.thinking:
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(answer.thinking)]
        yield from _block(index, {"type": "thinking", "thinking": "", "signature": ""}, deltas)
        index += 1
    if answer.text:
        deltas = [{"type": "text_delta", "text": piece} for piece in pieces(answer.text)]
        yield from _block(index, {"type": "text", "text": ""}, deltas)
        index += 1
    for position, call in enumerate(answer.tool_calls):
        name = call.tool.replace(".", "__")
        opened = {"type": "tool_use", "id": _call_id(answer, position), "name": name, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(call.wire_arguments)]
        yield from _block(index, opened, deltas)
        index += 1
    total = {} if usage is None else {"usage": {"output_tokens": usage.get("output_tokens")}}
    delta = {"stop_reason": answer.stop_reason, "stop_sequence": None}
    yield _event("message_delta", {"delta": delta, **total}, closing=True)
    yield _event("message_stop", {}, closing=True)


def document(answer: Answer, usage: Mapping[str, object] | None) -> dict[str, object]:
    """Returns the answer in one piece."""
    content: list[dict[str, object]] = []
    if answer.thinking:
        content.append({"type": "thinking", "thinking": answer.thinking, "signature": ""})
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    content.extend(
        {
            "type": "tool_use",
            "id": _call_id(answer, position),
            "name": call.tool.replace(".", "__"),
            "input": dict(call.arguments),
        }
        for position, call in enumerate(answer.tool_calls)
    )
    return {
        "id": f"msg_{answer.answer_id}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": content,
        "stop_reason": answer.stop_reason,
        "stop_sequence": None,
        **({} if usage is None else {"usage": dict(usage)}),
    }


def usage_document(input_tokens: int, output_tokens: int) -> dict[str, object]:
    """Returns usage as this wire reports it."""
    return {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0,
    }


def error_document(status: int, message: str) -> dict[str, object]:
    """Returns an error as this wire reports it."""
    return {"type": "error", "error": {"type": _ERROR_TYPES.get(status, "api_error"), "message": message}}


def stream_error(message: str) -> Chunk:
    """Returns an error inside a stream."""
    return _event("error", {"error": {"type": "overloaded_error", "message": message}}, closing=True)
