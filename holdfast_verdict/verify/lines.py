"""The lines of a bundle: which members each type has, and of what form they are. Nothing else may stand in a line."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Final

import orjson

from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.verify.findings import DoesNotHold

FORMAT: Final = "holdfast audit bundle"
VERSION: Final = 1

ORDER: Final = (
    "header", "policy", "record", "approval", "hold", "cap", "journal", "seal", "lines", "proof", "consistency", "key", "checkpoint",
    "end",
)  # fmt: skip
"""Types of lines, in the order in which they stand."""
SEALED: Final = frozenset(ORDER[: ORDER.index("seal")])
"""Types whose lines the seal is over."""
ALONE: Final = frozenset({"header", "seal", "checkpoint", "end"})
"""Types of which there is one line."""
PLACE: Final = {name: place for place, name in enumerate(ORDER)}

Line = dict[str, JsonValue]
_Form = Callable[[object], bool]

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
_HEX32: Final = re.compile(r"[0-9a-f]{64}").fullmatch
_AMOUNT: Final = re.compile(r"0|-?[1-9][0-9]{0,18}").fullmatch


def _text(value: object) -> bool:
    return type(value) is str


def _number(value: object) -> bool:
    return type(value) is int


def _flag(value: object) -> bool:
    return type(value) is bool


def _uuid(value: object) -> bool:
    return type(value) is str and _UUID(value) is not None


def _hash(value: object) -> bool:
    return type(value) is str and _HEX32(value) is not None


def _amount(value: object) -> bool:
    return type(value) is str and _AMOUNT(value) is not None


def _count(value: object) -> bool:
    return type(value) is int and value >= 0


def _object(value: object) -> bool:
    return type(value) is dict


def _anything(_: object) -> bool:
    return True


def _or_null(form: _Form) -> _Form:
    return lambda value: value is None or form(value)


def _list_of(form: _Form) -> _Form:
    return lambda value: type(value) is list and all(form(member) for member in value)


def _members(**forms: _Form) -> _Form:
    return lambda value: (
        type(value) is dict and value.keys() == forms.keys() and all(form(value[name]) for name, form in forms.items())
    )


def hashes_of(value: object) -> list[bytes]:
    """Reads hashes of 32 bytes each, written behind each other in base64.

    Raises:
        DoesNotHold: It is not that.
    """
    try:
        raw = base64.b64decode(value, validate=True) if isinstance(value, str) else b"?"
    except (binascii.Error, ValueError):
        raw = b"?"
    if len(raw) % 32 or base64.b64encode(raw).decode() != value:
        raise DoesNotHold("audit.bundle", "what should be hashes in base64 is none")
    return [raw[place : place + 32] for place in range(0, len(raw), 32)]


_BALANCES = _members(reserved=_amount, committed=_amount, debt=_amount)
_OUTCOME = _members(
    ok=_flag, error_code=_text, cost_class=_text, provider_request_id=_text, simulated=_flag, stored_at_ms=_number, result_sha256=_hash
)  # fmt: skip
_SCOPE = _members(run_id=_or_null(_uuid), from_ms=_or_null(_number), to_ms=_or_null(_number))
_LEG = _members(cap_id=_uuid, amount=_amount)
_ENTRY = _members(cap_id=_uuid, reserved=_amount, committed=_amount, debt=_amount, limit=_or_null(_amount))

MEMBERS: Final[Mapping[str, Mapping[str, _Form]]] = {
    "header": {
        "format": _text, "v": _number, "tenant_id": _uuid, "tenant": _text, "scope": _SCOPE, "read_at_ms": _number, "origin": _text,
    },
    "policy": {
        "policy_hash": _hash, "engine": _text, "role": _text, "version": _number, "form": _anything, "source": _or_null(_text),
        "beside": _anything,
    },
    "record": {
        "decision_id": _uuid, "kind": _text, "run_id": _or_null(_uuid), "approval_id": _or_null(_uuid), "created_at_ms": _number,
        "superseded_at_ms": _or_null(_number), "message": _text, "part_a": _text, "part_b": _text,
    },
    "approval": {
        "approval_id": _uuid, "run_id": _uuid, "step": _number, "rule": _text, "approver_role": _text, "binding": _hash,
        "action_digest": _hash, "edited_digest": _or_null(_hash), "requester_id": _uuid, "expires_at_ms": _number,
        "verdict": _or_null(_text), "decided_by": _or_null(_uuid), "decided_at_ms": _or_null(_number), "consumed_by": _or_null(_uuid),
        "beside": _anything,
    },
    "hold": {
        "hold_id": _uuid, "decision_id": _uuid, "run_id": _uuid, "step": _number, "try": _number, "kind": _text, "digest": _hash,
        "idempotent": _flag, "state": _text, "max_cost_nano_usd": _amount, "cost_nano_usd": _or_null(_amount), "legs": _list_of(_LEG),
        "created_at_ms": _number, "expires_at_ms": _number, "lease_expires_at_ms": _or_null(_number),
        "outward_at_ms": _or_null(_number),
        "unknown_at_ms": _or_null(_number), "settled_at_ms": _or_null(_number), "settled_by": _text, "superseded": _flag,
        "outcome": _or_null(_OUTCOME),
    },
    "cap": {
        "cap_id": _uuid, "scope_kind": _text, "scope_id": _text, "unit": _text, "window": _text, "limit": _or_null(_amount),
        "opening": _or_null(_BALANCES), "closing": _or_null(_BALANCES),
    },
    "journal": {
        "entry_id": _count, "at_ms": _number, "kind": _text, "hold_id": _or_null(_uuid), "run_id": _or_null(_uuid),
        "legs": _list_of(_ENTRY), "cost_nano_usd": _or_null(_amount), "tokens": _or_null(_amount), "calls": _or_null(_amount),
        "actor": _text, "reason": _text, "counts": _flag,
    },
    "seal": {"decision_id": _uuid, "part_a": _text, "part_b": _text},
    "lines": {"first": _count, "sha256": _text},
    "proof": {"decision_id": _uuid, "record_hash": _hash, "leaf_index": _count, "path": _text},
    "consistency": {"from_size": _count, "from_root": _hash, "path": _text},
    "key": {"vkey": _text},
    "checkpoint": {"note": _text},
    "end": {"lines": _count},
}  # fmt: skip
"""Members of each type of line beside `type`, and the form of each."""

_KEYS: Final = {name: {"type", *members} for name, members in MEMBERS.items()}


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
    members = MEMBERS.get(kind) if isinstance(kind, str) else None
    if members is None or not isinstance(kind, str):
        raise DoesNotHold("audit.bundle", "the line is of no type that a bundle has")
    if line.keys() != _KEYS[kind]:
        odd = sorted(line.keys() ^ _KEYS[kind])
        raise DoesNotHold("audit.bundle", f"the line of type {kind} has other members than it should: {', '.join(odd)}")
    for name, form in members.items():
        if not form(line[name]):
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
        case "record" | "proof":
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
