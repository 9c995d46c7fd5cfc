"""The kinds of action that are no tool calls, with the arguments that they take."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

_TEXT: Final = {"type": "string"}
_WHOLE: Final = {"type": "integer", "minimum": 0}


def _takes(required: list[str], **named: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": "object", "properties": named, "required": required}


KINDS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "llm.call": {
            "parameters": _takes(
                ["model"],
                model=_TEXT,
                wire=_TEXT,
                max_tokens=_WHOLE,
                system_digest=_TEXT,
                tools_digest=_TEXT,
                transcript=_TEXT,
            ),
            "idempotent": True,
        },
        "code.exec": {
            "parameters": _takes(
                ["code"],
                code=_TEXT,
                language=_TEXT,
                files={
                    "type": "array",
                    "items": _takes(["name", "sha256"], name=_TEXT, sha256=_TEXT, size_bytes=_WHOLE),
                },
                timeout_ms=_WHOLE,
                memory_mb=_WHOLE,
                tier={"enum": ["process", "kernel"]},
            ),
            "external": False,
        },
        "http.request": {
            "parameters": _takes(
                ["method", "url"],
                method={"enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]},
                url={"type": "string", "format": "url"},
                headers={"type": "object", "format": "headers", "additionalProperties": _TEXT},
                body=_TEXT,
            ),
            "yields": ["untrusted"],
        },
        "kb.search": {
            "parameters": _takes(["query"], query=_TEXT, collection=_TEXT, limit=_WHOLE),
            "external": False,
            "idempotent": True,
        },
        "agent.spawn": {"parameters": _takes(["agent"], agent=_TEXT, role=_TEXT, input=_TEXT), "external": False},
    }
)
"""Entries of a catalogue by kind."""

WORDS: Final = ("external", "tools")
"""Words of the language that stand for many actions: those that leave the tenant's boundary, and all tools."""

NO_NAME: Final = frozenset({"tool.call", *WORDS})
"""What no action type can be called: the kind of all tools, and the words of the language for many actions."""
