"""How providers say that they count a request, worked out on what is really put on the wire.

OpenAI: its cookbook, "How to count tokens with tiktoken": three tokens a message and three for the reply's start, a token for a
name, and for tools a formula that knows flat parameters. How nested ones are shown to a model is no secret, either: as TypeScript.
Both are worked out here, with the tools' JSON as a third reading, and the largest counts.

Anthropic publishes no tokenizer, only what counts: names, descriptions and schemas of tools, blocks of tool use and their results,
and a system prompt of up to 530 tokens that turns tools on. Counted here with the worst tokenizer there can be, one token a byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import toktok

from holdfast.pricing.bounds import Tokenizer

# JSON as it goes over the wire has no types
Json = Any

_OBJECT_START: Final[Mapping[Tokenizer, int]] = {"o200k_base": 7, "cl100k_base": 10}
_TOOL_PROMPT_TOKENS: Final = 530
_BLOCK_TOKENS: Final = 10


def count(text: str, tokenizer: Tokenizer) -> int:
    """The tokens of a text; a tokenizer sees a lone surrogate as the character that stands for what cannot be read."""
    return int(toktok.batch_count([text.encode("utf-8", "replace").decode()], tokenizer, 1)[0])


def chat_tokens(arguments: Mapping[str, Json], tokenizer: Tokenizer) -> int:
    """The input tokens of a Chat Completions request."""
    total = 3
    for message in arguments["messages"]:
        total += 3 + count(message["role"], tokenizer) + count(message.get("content") or "", tokenizer)
        if "name" in message:
            total += 1 + count(message["name"], tokenizer)
        total += count(message.get("tool_call_id", ""), tokenizer)
        for call in message.get("tool_calls", ()):
            function = call["function"]
            total += 8 + sum(count(text, tokenizer) for text in (function["name"], function["arguments"], call["id"]))
    tools = [tool["function"] for tool in arguments.get("tools", ())]
    if tools:
        readings = [count(_typescript(tools), tokenizer), count(json.dumps(tools, ensure_ascii=False), tokenizer)]
        if all(_is_flat(tool["parameters"]) for tool in tools):
            readings.append(_formula(tools, tokenizer))
        total += max(readings)
    return total


def _is_flat(schema: Json) -> bool:
    properties = schema.get("properties", {}) if isinstance(schema, dict) else None
    return isinstance(properties, dict) and all(
        isinstance(each, dict) and isinstance(each.get("type"), str) for each in properties.values()
    )


def _formula(tools: list[Json], tokenizer: Tokenizer) -> int:
    total = 12
    for tool in tools:
        total += _OBJECT_START[tokenizer] + count(f"{tool['name']}:{tool['description'].removesuffix('.')}", tokenizer)
        properties = tool["parameters"].get("properties", {})
        total += 3 if properties else 0
        for name, property_ in properties.items():
            total += 3
            if isinstance(property_.get("enum"), list):
                total += -3 + sum(3 + count(str(item), tokenizer) for item in property_["enum"])
            description = str(property_.get("description", "")).removesuffix(".")
            total += count(f"{name}:{property_['type']}:{description}", tokenizer)
    return total


def _comment(text: Json, indent: str) -> Iterator[str]:
    if isinstance(text, str) and text:
        yield from (f"{indent}// {line}" for line in text.split("\n"))


def _type(schema: Json, indent: str) -> str:
    if not isinstance(schema, dict):
        return "any"
    if isinstance(schema.get("enum"), list):
        return " | ".join(json.dumps(item, ensure_ascii=False) for item in schema["enum"]) or "never"
    if isinstance(schema.get("anyOf"), list):
        return " | ".join(_type(each, indent) for each in schema["anyOf"])
    kind = schema.get("type")
    if kind == "array":
        return f"Array<\n{indent}{_type(schema.get('items'), indent)}\n{indent}>"
    if kind == "object" and isinstance(schema.get("properties"), dict):
        return "{\n" + "\n".join(_members(schema, indent + "  ")) + "\n" + indent + "}"
    return {"integer": "number", "null": "null"}.get(str(kind), str(kind) if kind else "any")


def _members(schema: Json, indent: str) -> Iterator[str]:
    required = schema.get("required") if isinstance(schema.get("required"), list) else []
    for name, member in schema.get("properties", {}).items():
        if isinstance(member, dict):
            yield from _comment(member.get("description"), indent)
        default = (
            f", // default: {json.dumps(member['default'])}"
            if isinstance(member, dict) and "default" in member
            else ","
        )
        yield f"{indent}{name}{'' if name in required else '?'}: {_type(member, indent)}{default}"


def _typescript(tools: list[Json]) -> str:
    lines = ["# Tools", "", "## functions", "", "namespace functions {", ""]
    for tool in tools:
        lines += _comment(tool["description"], "")
        properties = tool["parameters"].get("properties")
        if isinstance(properties, dict) and properties:
            lines += [f"type {tool['name']} = (_: {{", *_members(tool["parameters"], ""), "}) => any;", ""]
        else:
            lines += [f"type {tool['name']} = () => any;", ""]
    return "\n".join([*lines, "} // namespace functions"])


def message_bytes(arguments: Mapping[str, Json]) -> int:
    """The input tokens of a Messages request for a tokenizer that makes one of every byte."""
    total = len(arguments.get("system", "").encode("utf-8", "surrogatepass"))
    for message in arguments["messages"]:
        total += _BLOCK_TOKENS
        for block in message["content"]:
            texts = [block[name] for name in ("text", "content", "id", "tool_use_id", "name") if name in block]
            if "input" in block:
                texts.append(json.dumps(block["input"], ensure_ascii=False))
            total += _BLOCK_TOKENS + sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    if tools := arguments.get("tools"):
        total += _TOOL_PROMPT_TOKENS + len(json.dumps(tools, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return total
