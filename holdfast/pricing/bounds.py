"""How many tokens a request can be at most, from its bytes: sound for every tokenizer, however odd the text.

Why it is sound. Tokenizers of both providers are byte-level: every token of text stands for at least one byte of UTF-8,
so text never has more tokens than bytes. What a provider adds to the text is bounded for each wire:

- Messages: Chat Completions adds 3 tokens a message and 3 for the reply's start (OpenAI's cookbook, "How to count tokens
  with tiktoken"); Messages adds a handful for roles. Counted here: 16 a message or block, 64 a request.
- Tools: a prompt that turns them on, 159 to 530 tokens on the Messages wire (docs.anthropic.com, "Tool use pricing and
  tokens", dearest row). Counted here: 1,024 a request with tools on either wire.
- Schemas and arguments are not sent as their JSON: one wire shows TypeScript, the other its own markup. Both repeat no
  more than the names and values, with separators per member. Counted here: twice the bytes of the ASCII-escaped JSON
  (which is never shorter than any other spelling of the strings) and 64 a tool or call.
- Text may be brought to a normal form (NFKC) first, which can make it longer: the longest form counts.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping

from holdfast.providers.model import ModelRequest, ToolSpec
from holdfast_verdict.canonical import JsonValue

REQUEST_OVERHEAD_TOKENS = 64
MESSAGE_OVERHEAD_TOKENS = 16
TOOLS_OVERHEAD_TOKENS = 1_024
TOOL_OVERHEAD_TOKENS = 64
JSON_EXPANSION = 2


def text_tokens_bound(text: str) -> int:
    """Returns an upper bound of the tokens of a text."""
    if text.isascii():
        return len(text)
    forms = (text, unicodedata.normalize("NFKC", text), unicodedata.normalize("NFKD", text))
    return max(len(form.encode("utf-8", "surrogatepass")) for form in forms)


def json_tokens_bound(value: object) -> int:
    """Returns an upper bound of the tokens of a JSON value in whatever markup a provider shows it."""
    escaped = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return JSON_EXPANSION * max(len(escaped), text_tokens_bound(json.dumps(value, ensure_ascii=False)))


def _tool_tokens_bound(tool: ToolSpec) -> int:
    described = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return TOOL_OVERHEAD_TOKENS + json_tokens_bound(described)


def _entry_tokens_bound(entry: Mapping[str, JsonValue]) -> int:
    bound = MESSAGE_OVERHEAD_TOKENS
    for name in ("text", "content", "call_id"):
        value = entry.get(name)
        if isinstance(value, str):
            bound += text_tokens_bound(value)
    calls = entry.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        bound += TOOL_OVERHEAD_TOKENS + json_tokens_bound(call)
    return bound


def input_tokens_bound(request: ModelRequest) -> int:
    """Returns an upper bound of the input tokens that a provider can count for a request."""
    bound = REQUEST_OVERHEAD_TOKENS + MESSAGE_OVERHEAD_TOKENS + text_tokens_bound(request.system)
    bound += sum(_entry_tokens_bound(entry) for entry in request.entries)
    if request.tools:
        bound += TOOLS_OVERHEAD_TOKENS + sum(_tool_tokens_bound(tool) for tool in request.tools)
    return bound
