"""An action in the one form that is decided, held and executed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.sealing import Pattern


@dataclass(frozen=True, slots=True)
class Action:
    """An action, ready to be decided.

    Attributes:
        value: The canonical action.
        canonical: Its canonical bytes.
        digest: SHA-256 of them.
        kind: `llm.call`, `tool.call` or `code.exec`.
        tool: Tool, or empty; for `code.exec` that name, so that a stop can name it.
        known: Whether the agent was given this action.
        malformed: Why the arguments are not what it takes, or empty.
        idempotent: Whether it may be tried again when its outcome is unknown.
        external: Whether its effect leaves the tenant's boundary.
        yields: Labels of what it returns.
        salt: What its digest and its personal values are salted with; empty if its schema marks none as such.
        personal: Where its personal values stand.
    """

    value: dict[str, JsonValue]
    canonical: bytes
    digest: bytes
    kind: str
    tool: str
    known: bool
    malformed: str
    idempotent: bool
    external: bool = True
    yields: tuple[str, ...] = ("untrusted",)
    salt: bytes = b""
    personal: tuple[Pattern, ...] = ()


def raw_digest(raw_arguments: str, salt: bytes) -> str:
    """Returns what names arguments that have no canonical form, hex; salted, as nobody knows what may be in them."""
    return hashlib.sha256(f"{salt.hex()}{raw_arguments}".encode(errors="replace")).hexdigest()
