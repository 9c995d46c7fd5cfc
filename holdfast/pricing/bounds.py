"""How many tokens a request can be at most: from its bytes, sound for every tokenizer, or by a public tokenizer's count.

Why the bound from bytes is sound. Tokenizers of both providers are byte-level: every token of text stands for at least one byte of
UTF-8, so text never has more tokens than bytes. What a provider adds to the text is bounded for each wire:

- Messages: Chat Completions adds 3 tokens a message and 3 for the reply's start (OpenAI's cookbook, "How to count tokens
  with tiktoken"); Messages adds a handful for roles. Counted here: 16 a message or block, 64 a request.
- Tools: a prompt that turns them on, 159 to 530 tokens on the Messages wire (docs.anthropic.com, "Tool use pricing and
  tokens", dearest row). Counted here: 1,024 a request with tools on either wire.
- Schemas and arguments are not sent as their JSON: one wire shows TypeScript, the other its own markup. Both repeat no
  more than the names and values, with separators per member. Counted here: twice the bytes of the ASCII-escaped JSON
  (which is never shorter than any other spelling of the strings) and 64 a tool or call.
- Text may be brought to a normal form first, which can make it longer: the longest form counts.

A tokenizer's count takes the place of the bytes only for models whose maker has published it, as OpenAI has with tiktoken. The
overheads are the same, schemas and arguments count double here, too, and a tenth is added to whatever was counted. It is never less
than a token for every four bytes: what answers under a model's name need not be its maker's.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import toktok

from holdfast.errors import ContentUnsupported
from holdfast.providers.model import ModelRequest, ToolSpec
from holdfast_verdict.canonical import JsonValue

REQUEST_OVERHEAD_TOKENS = 64
MESSAGE_OVERHEAD_TOKENS = 16
TOOLS_OVERHEAD_TOKENS = 1_024
TOOL_OVERHEAD_TOKENS = 64
JSON_EXPANSION = 2


LINE_OVERHEAD_TOKENS = 4
NODE_OVERHEAD_TOKENS = 4
COUNT_MARGIN_PERCENT = 10
COUNTED_BYTES_PER_TOKEN_MAX = 4
COUNTED_CHARS_MAX = 4 * 1024 * 1024
"""Counting takes time that grows with the text, never faster; what is longer has no bound but its bytes."""

Tokenizer = Literal["o200k_base", "cl100k_base"]
_SENT_MEMBERS: Final = ("text", "content", "call_id")
_UNSENT_MEMBERS: Final = ("kind", "thinking", "stop_reason", "tool", "ok")
_SPELT_AS_IT_IS: Final = re.compile(r"[ !#-\[\]-~]*")
"""Texts that JSON only puts into quotes."""
_NORMAL_FORMS: tuple[Literal["NFC", "NFD", "NFKC", "NFKD"], ...] = ("NFC", "NFD", "NFKC", "NFKD")


def text_tokens_bound(text: str) -> int:
    """Returns an upper bound of the tokens of a text."""
    if text.isascii():
        return len(text)
    forms = (text, *(unicodedata.normalize(form, text) for form in _NORMAL_FORMS))
    return max(len(form.encode("utf-8", "surrogatepass")) for form in forms)


def json_tokens_bound(value: object) -> int:
    """Returns an upper bound of the tokens of a JSON value in whatever markup a provider shows it."""
    escaped, plain = _spellings(value)
    return JSON_EXPANSION * max(len(escaped), text_tokens_bound(plain))


def _spellings(value: object) -> tuple[str, str]:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")), json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class _Measure:
    """What the parts of a request count for."""

    text: Callable[[str], int]
    json: Callable[[object], int]


_BY_BYTES: Final = _Measure(text_tokens_bound, json_tokens_bound)


def _measured(request: ModelRequest, measure: _Measure) -> int:
    bound = REQUEST_OVERHEAD_TOKENS + MESSAGE_OVERHEAD_TOKENS + measure.text(request.system)
    bound += sum(_entry_tokens_bound(entry, measure) for entry in request.entries)
    if request.tools:
        bound += TOOLS_OVERHEAD_TOKENS + sum(_tool_tokens_bound(tool, measure) for tool in request.tools)
    return bound


def _tool_tokens_bound(tool: ToolSpec, measure: _Measure) -> int:
    described = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return TOOL_OVERHEAD_TOKENS + measure.json(described)


def _entry_tokens_bound(entry: Mapping[str, JsonValue], measure: _Measure) -> int:
    bound = MESSAGE_OVERHEAD_TOKENS
    if other := entry.keys() - {*_SENT_MEMBERS, *_UNSENT_MEMBERS, "tool_calls"}:
        raise _unsupported(f"{entry.get('kind')} with {', '.join(sorted(other))}")
    for name in _SENT_MEMBERS:
        value = entry.get(name, "")
        if not isinstance(value, str):
            raise _unsupported(f"{entry.get('kind')} whose {name} is no text")
        bound += measure.text(value)
    calls = entry.get("tool_calls", [])
    if not isinstance(calls, list):
        raise _unsupported(f"{entry.get('kind')} whose tool_calls are no list")
    for call in calls:
        bound += TOOL_OVERHEAD_TOKENS + measure.json(call)
    return bound


def _unsupported(what: str) -> ContentUnsupported:
    return ContentUnsupported(
        f"the conversation has an entry of the kind {what}: its cost cannot be bounded", remedy="send text"
    )


def input_tokens_bound(request: ModelRequest) -> int:
    """Returns an upper bound of the input tokens that a provider can count for a request, whatever its tokenizer.

    Raises:
        ContentUnsupported: An entry holds something that is not known here, such as an image (LAW 7).
    """
    return _measured(request, _BY_BYTES)


def counted_tokens_bound(request: ModelRequest, tokenizer: Tokenizer) -> int:
    """Returns an upper bound of the input tokens for a model with that public tokenizer.

    It takes milliseconds for ordinary requests and up to a second for the largest: call it where that blocks nobody.

    Raises:
        ContentUnsupported: As `input_tokens_bound`.
    """
    by_bytes = input_tokens_bound(request)
    texts: dict[str, int] = {}
    _measured(request, _counting(lambda text: texts.setdefault(text, 0)))
    if sum(map(len, texts)) > COUNTED_CHARS_MAX:
        return by_bytes
    try:
        # on this thread: a pool would take the cores from others
        counts = toktok.batch_count(texts, tokenizer, 1)
    except UnicodeEncodeError:  # a lone surrogate, for which no tokenizer has a token
        return by_bytes
    for text, count in zip(texts, counts, strict=True):
        margin = -(-count * COUNT_MARGIN_PERCENT // 100)
        texts[text] = max(count + margin, -(-len(text.encode()) // COUNTED_BYTES_PER_TOKEN_MAX))
    return min(_measured(request, _counting(texts.__getitem__)), by_bytes)


def _counting(count: Callable[[str], int]) -> _Measure:
    """Measures with a count of texts.

    JSON with much punctuation has few tokens, for they stand for whole runs of it, while another markup may spell out what
    stands between. So each member is counted by itself, in its dearest spelling, with what any markup puts around it: a node
    and its separators, and for each line of a text the beginning of a comment.
    """

    def measure_json(value: object) -> int:
        whole = JSON_EXPANSION * max(map(count, _spellings(value)))
        parts, left = 0, [value]
        while left:
            part = left.pop()
            parts += NODE_OVERHEAD_TOKENS
            if isinstance(part, Mapping):
                left += [*part, *part.values()]
            elif isinstance(part, list | tuple):
                left += part
            elif isinstance(part, str):
                spellings = () if _SPELT_AS_IT_IS.fullmatch(part) else _spellings(part)
                parts += max(count(part), *(count(spelling[1:-1]) for spelling in spellings), 0)
                parts += LINE_OVERHEAD_TOKENS * part.count("\n")
            else:
                parts += len(json.dumps(part))
        return max(whole, parts)

    return _Measure(count, measure_json)
