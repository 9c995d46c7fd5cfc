"""A reply cut to `max_tokens` and counted; what the wires then put into their own form."""

from __future__ import annotations

import json
from dataclasses import dataclass

from cli.simulated_provider.brain import BrainReply, BrainRequest, BrainToolCall

BYTES_PER_TOKEN = 4
"""The simulated tokenizer: one token is four bytes of UTF-8, rounded up over the whole."""
CHUNK_CHARS = 24
MESSAGE_BYTES = 16


class MalformedRequestError(ValueError):
    """The request is not one of this wire."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as its wire read it; `tools_bytes` is the size of the tools' JSON."""

    request: BrainRequest
    max_tokens: int
    stream: bool
    include_usage: bool
    tools_bytes: int

    @property
    def input_bytes(self) -> int:
        """The bytes that count as input: what was said, and a little for each message."""
        size = len(self.request.system.encode()) + self.tools_bytes
        for message in self.request.messages:
            size += MESSAGE_BYTES + len(message.text.encode("utf-8", "surrogatepass"))
            size += sum(len(call.tool) + len(call.wire_arguments.encode()) for call in message.tool_calls)
        return size


@dataclass(frozen=True, slots=True)
class Tokens:
    """A count of tokens; `input_tokens` is the whole input."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    answer_id: str
    model: str
    text: str
    thinking: str
    tool_calls: tuple[BrainToolCall, ...]
    stop_reason: str
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of a stream: its bytes on the wire, and how many bytes of output it carries.

    Attributes:
        data: The event.
        output_bytes: Bytes of output in it.
        closing: It belongs to the stream's end, after all output.
    """

    data: bytes
    output_bytes: int = 0
    closing: bool = False


def tokens_of(size_bytes: int) -> int:
    """Counts tokens as the simulated tokenizer does."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def pieces(text: str) -> list[str]:
    """Splits text as a stream does."""
    return [text[start : start + CHUNK_CHARS] for start in range(0, len(text), CHUNK_CHARS)]


def _cut(text: str, bytes_max: int) -> str:
    return text.encode()[: max(0, bytes_max)].decode("utf-8", "ignore")


def compose(asked: Asked, reply: BrainReply, number: int) -> Answer:
    """Cuts a reply to the request's `max_tokens`, as a provider does, and counts it."""
    left = asked.max_tokens * BYTES_PER_TOKEN
    thinking = _cut(reply.thinking, left)
    left -= len(thinking.encode())
    text = _cut(reply.text, left)
    left -= len(text.encode())
    calls: list[BrainToolCall] = []
    for call in reply.tool_calls:
        size = len(call.tool.encode()) + len(call.wire_arguments.encode())
        if size > left:
            break
        left -= size
        calls.append(call)
    whole = thinking == reply.thinking and text == reply.text and len(calls) == len(reply.tool_calls)
    stop_reason = reply.stop_reason or ("tool_use" if calls else "end_turn")
    used = asked.max_tokens * BYTES_PER_TOKEN - left
    return Answer(
        answer_id=f"sim_{number:06d}",
        model=asked.request.model,
        text=text,
        thinking=thinking,
        tool_calls=tuple(calls),
        stop_reason=stop_reason if whole else "max_tokens",
        tokens=Tokens(tokens_of(asked.input_bytes), tokens_of(used)),
    )


def json_bytes(value: object) -> bytes:
    """Writes JSON as the simulated provider does everywhere."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
