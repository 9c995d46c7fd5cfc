"""The lines of a bundle: which members each type has, and of what form they are. Nothing else may stand in a line."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Final

import orjson

from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.verify.findings import DoesNotHold
from holdfast_verdict.verify.forms import (
    AMOUNT,
    ANYTHING,
    COUNT,
    FLAG,
    HASH,
    LONG_TEXT,
    NUMBER,
    TEXT,
    UUID,
    Form,
    constant,
    list_of,
    matcher,
    members,
    or_null,
)

FORMAT: Final = "holdfast audit bundle"
VERSION: Final = 1

ORDER: Final = (
    "header", "policy", "record", "approval", "hold", "cap", "journal", "seal", "lines", "proof", "consistency", "key", "checkpoint",
    "end",
)  # fmt: skip
"""Types of lines, in the order in which they stand."""
RECORDS: Final = frozenset({"record", "sealed", "deleted"})
"""Types of lines that are about a record: whole, with sealed values, without its part A. They stand where `record` stands."""
SEALED: Final = frozenset(ORDER[: ORDER.index("seal")]) | RECORDS
"""Types whose lines the seal is over."""
ALONE: Final = frozenset({"header", "seal", "checkpoint", "end"})
"""Types of which there is one line."""
PLACE: Final = {name: place for place, name in enumerate(ORDER)} | dict.fromkeys(RECORDS, ORDER.index("record"))

Line = dict[str, JsonValue]
_HASH: Final = 32


def hashes_in(value: object) -> bytes:
    """Reads hashes of 32 bytes each, written behind each other in base64, and returns them behind each other.

    Raises:
        DoesNotHold: It is not that.
    """
    try:
        raw = binascii.a2b_base64(value) if isinstance(value, str) else b"?"
    except ValueError:
        raw = b"?"
    if len(raw) % _HASH or binascii.b2a_base64(raw, newline=False).decode() != value:
        raise DoesNotHold("audit.bundle", "what should be hashes in base64 is none")
    return raw


def hashes_of(value: object) -> list[bytes]:
    """Reads hashes as `hashes_in` does, one by one.

    Raises:
        DoesNotHold: It is not that.
    """
    raw = hashes_in(value)
    return [raw[place : place + _HASH] for place in range(0, len(raw), _HASH)]


_BALANCES = members(reserved=AMOUNT, committed=AMOUNT, debt=AMOUNT)
_OUTCOME = members(
    ok=FLAG, error_code=TEXT, cost_class=TEXT, provider_request_id=TEXT, simulated=FLAG, stored_at_ms=NUMBER, result_sha256=HASH
)  # fmt: skip
_SCOPE = members(run_id=or_null(UUID), from_ms=or_null(NUMBER), to_ms=or_null(NUMBER))
HOLD_LEG: Final = members(cap_id=UUID, amount=AMOUNT)
ENTRY_LEG: Final = members(cap_id=UUID, reserved=AMOUNT, committed=AMOUNT, debt=AMOUNT, limit=or_null(AMOUNT))

MEMBERS: Final[Mapping[str, Mapping[str, Form]]] = {
    "header": {
        "format": TEXT, "v": NUMBER, "tenant_id": UUID, "tenant": TEXT, "scope": _SCOPE, "read_at_ms": NUMBER, "origin": TEXT,
    },
    "policy": {
        "policy_hash": HASH, "engine": TEXT, "role": TEXT, "version": NUMBER, "form": ANYTHING, "source": or_null(TEXT),
        "beside": ANYTHING,
    },
    "record": {
        "decision_id": UUID, "kind": TEXT, "run_id": or_null(UUID), "approval_id": or_null(UUID), "created_at_ms": NUMBER,
        "superseded_at_ms": or_null(NUMBER), "message": TEXT, "part_a": LONG_TEXT, "part_b": LONG_TEXT,
    },
    "sealed": {
        "decision_id": UUID, "kind": TEXT, "run_id": UUID, "approval_id": or_null(UUID), "created_at_ms": NUMBER,
        "superseded_at_ms": or_null(NUMBER), "message": TEXT, "part_a": LONG_TEXT, "part_b": LONG_TEXT, "salt": or_null(HASH),
        "opened": ANYTHING,
    },
    "deleted": {
        "decision_id": UUID, "kind": TEXT, "run_id": or_null(UUID), "approval_id": or_null(UUID), "created_at_ms": NUMBER,
        "superseded_at_ms": or_null(NUMBER), "part_a_sha256": HASH, "part_b": LONG_TEXT,
    },
    "approval": {
        "approval_id": UUID, "run_id": UUID, "step": NUMBER, "rule": TEXT, "approver_role": TEXT, "binding": HASH,
        "action_digest": HASH, "edited_digest": or_null(HASH), "requester_id": UUID, "expires_at_ms": NUMBER,
        "verdict": or_null(TEXT), "decided_by": or_null(UUID), "decided_at_ms": or_null(NUMBER), "consumed_by": or_null(UUID),
        "beside": ANYTHING,
    },
    "hold": {
        "hold_id": UUID, "decision_id": UUID, "run_id": UUID, "step": NUMBER, "try": NUMBER, "kind": TEXT, "digest": HASH,
        "idempotent": FLAG, "state": TEXT, "max_cost_nano_usd": AMOUNT, "cost_nano_usd": or_null(AMOUNT), "legs": list_of(HOLD_LEG),
        "created_at_ms": NUMBER, "expires_at_ms": NUMBER, "lease_expires_at_ms": or_null(NUMBER),
        "outward_at_ms": or_null(NUMBER),
        "unknown_at_ms": or_null(NUMBER), "settled_at_ms": or_null(NUMBER), "settled_by": TEXT, "superseded": FLAG,
        "outcome": or_null(_OUTCOME),
    },
    "cap": {
        "cap_id": UUID, "scope_kind": TEXT, "scope_id": TEXT, "unit": TEXT, "window": TEXT, "limit": or_null(AMOUNT),
        "opening": or_null(_BALANCES), "closing": or_null(_BALANCES),
    },
    "journal": {
        "entry_id": COUNT, "at_ms": NUMBER, "kind": TEXT, "hold_id": or_null(UUID), "run_id": or_null(UUID),
        "legs": list_of(ENTRY_LEG), "cost_nano_usd": or_null(AMOUNT), "tokens": or_null(AMOUNT), "calls": or_null(AMOUNT),
        "actor": TEXT, "reason": TEXT, "counts": FLAG,
    },
    "seal": {"decision_id": UUID, "part_a": LONG_TEXT, "part_b": LONG_TEXT},
    "lines": {"first": COUNT, "sha256": TEXT},
    "proof": {"decision_id": UUID, "record_hash": HASH, "leaf_index": COUNT, "path": TEXT},
    "consistency": {"from_size": COUNT, "from_root": HASH, "path": TEXT},
    "key": {"vkey": TEXT},
    "checkpoint": {"note": TEXT},
    "end": {"lines": COUNT},
}  # fmt: skip
"""Members of each type of line beside `type`, and the form of each."""

_KEYS: Final = {name: {"type", *forms} for name, forms in MEMBERS.items()}
_MATCHERS: Final = {name: matcher(members(type=constant(name), **forms)) for name, forms in MEMBERS.items()}


def parse(raw: bytes) -> Line:
    """Reads a line, without its line break.

    Raises:
        DoesNotHold: It is no line of a bundle, or is not written the one way it may be.
    """
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise DoesNotHold("audit.bundle", "the line is no JSON") from None
    kind = line.get("type") if type(line) is dict else None
    forms = MEMBERS.get(kind) if isinstance(kind, str) else None
    if forms is None or not isinstance(kind, str):
        raise DoesNotHold("audit.bundle", "the line is of no type that a bundle has")
    matched = _MATCHERS[kind]
    if matched is not None and matched(raw) is not None:
        return line  # type: ignore[no-any-return]  # a dict: `kind` was read from it
    if line.keys() != _KEYS[kind]:
        odd = sorted(line.keys() ^ _KEYS[kind])
        raise DoesNotHold("audit.bundle", f"the line of type {kind} has other members than it should: {', '.join(odd)}")
    for name, form in forms.items():
        if not form.holds(line[name]):
            raise DoesNotHold("audit.bundle", f"the member {name} of the line of type {kind} is not of its form")
    if orjson.dumps(line, option=orjson.OPT_SORT_KEYS) != raw:
        raise DoesNotHold("audit.bundle", f"the line of type {kind} is not written in canonical form")
    return line  # type: ignore[no-any-return]  # a dict: `kind` was read from it


def write(line: Mapping[str, JsonValue]) -> bytes:
    """Returns a line as it is written, without its line break."""
    return orjson.dumps(line, option=orjson.OPT_SORT_KEYS)


def subject_of(line: Mapping[str, JsonValue]) -> str:
    """Says whom a line is about."""
    kind = line["type"]
    match kind:
        case "record" | "sealed" | "deleted" | "proof":
            return f"decision {line['decision_id']}"
        case "seal":
            return f"decision {line['decision_id']} (the export)"
        case "approval" | "hold" | "cap":
            return f"{kind} {line[f'{kind}_id']}"
        case "policy":
            return f"policy {line['policy_hash']}"
        case "journal":
            return f"journal entry {line['entry_id']}"
        case _:
            return f"line of type {kind}"
