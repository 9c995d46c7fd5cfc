"""Decisions as other programs read them: JSON Lines, CSV, and events of the Open Cybersecurity Schema Framework (OCSF)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Final, Literal

import orjson

from holdfast.csv_text import csv_lines, plain
from holdfast.decisions.query import Found
from holdfast_verdict.canonical import JsonValue

Format = Literal["jsonl", "csv", "ocsf"]
OCSF_VERSION: Final = "1.4.0"

COLUMNS: Final = (
    "decision_id", "created_at", "verdict", "reason_codes", "kind", "tool", "agent", "role", "run_id", "step", "try_number", "rule_id",
    "message", "hold_id", "approval_id", "superseded_at", "leaf_index", "record_hash",
)  # fmt: skip
"""Members of a line of JSON Lines, and the heading of the CSV."""

_API_ACTIVITY: Final = 6003
_OTHER_ACTIVITY: Final = 99
_APPLICATION_CATEGORY: Final = 6

# What the profile `security_control` has for a verdict: action, disposition, status and severity, each with its caption.
_OUTCOMES: Final[Mapping[str, dict[str, JsonValue]]] = {
    "allow": {
        "action_id": 1, "action": "Allowed", "disposition_id": 1, "disposition": "Allowed", "status_id": 1, "status": "Success",
        "severity_id": 1, "severity": "Informational",
    },
    "deny": {
        "action_id": 2, "action": "Denied", "disposition_id": 2, "disposition": "Blocked", "status_id": 2, "status": "Failure",
        "severity_id": 3, "severity": "Medium",
    },
    "needs_approval": {
        "action_id": 2, "action": "Denied", "disposition_id": 99, "disposition": "Needs approval", "status_id": 99,
        "status": "Waiting for approval", "severity_id": 2, "severity": "Low",
    },
}  # fmt: skip


def heading(format_: Format) -> bytes:
    """Returns what stands before the first decision."""
    return csv_lines([COLUMNS]).encode() if format_ == "csv" else b""


def written(found: Iterable[Found], format_: Format) -> bytes:
    """Returns decisions as text of a format, each with its line's end."""
    if format_ == "csv":
        return csv_lines([_cell(value) for value in flat(each).values()] for each in found).encode()
    build = flat if format_ == "jsonl" else ocsf
    return b"".join(orjson.dumps(build(each)) + b"\n" for each in found)


def flat(found: Found) -> dict[str, JsonValue]:
    """Returns a decision as an object without depth."""
    row = found.row
    return {
        "decision_id": str(row.decision_id),
        "created_at": _time(row.created_at),
        "verdict": row.verdict,
        "reason_codes": list(row.reason_codes),
        "kind": row.kind,
        "tool": row.tool,
        "agent": row.agent,
        "role": row.role,
        "run_id": _text(row.run_id),
        "step": row.step,
        "try_number": row.try_number,
        "rule_id": row.rule_id,
        "message": row.message,
        "hold_id": _text(row.hold_id),
        "approval_id": _text(row.approval_id),
        "superseded_at": None if row.superseded_at is None else _time(row.superseded_at),
        "leaf_index": row.leaf_index,
        "record_hash": row.record_hash.hex(),
    }


def ocsf(found: Found) -> dict[str, JsonValue]:
    """Returns a decision as an OCSF event: class API Activity with the profile Security Control.

    The activity is `Other`, with the kind of action as its name: whether an action creates, reads or deletes, no decision says.
    """
    row, record = found.row, _object(orjson.loads(found.part_a or b"{}"))
    facts = _object(record.get("facts"))
    subject = _object(record.get("subject")) or _object(facts.get("subject"))
    operation = row.tool or row.kind
    policy: dict[str, JsonValue] = {"name": row.rule_id or "none", "uid": row.rule_id or "none"}
    if "policy_hash" in record:
        policy["version"] = record["policy_hash"]
    return {
        "category_uid": _APPLICATION_CATEGORY,
        "category_name": "Application Activity",
        "class_uid": _API_ACTIVITY,
        "class_name": "API Activity",
        "activity_id": _OTHER_ACTIVITY,
        "activity_name": row.kind,
        "type_uid": _API_ACTIVITY * 100 + _OTHER_ACTIVITY,
        "type_name": f"API Activity: {row.kind}",
        "time": _ms(found),
        "message": row.message,
        **_OUTCOMES[row.verdict],
        "status_code": row.reason_codes[0] if row.reason_codes else "",
        "status_detail": row.message,
        "actor": _actor(found, subject),
        "api": {"operation": operation, "service": {"name": "holdfast"}, "request": {"uid": str(row.decision_id)}},
        "src_endpoint": {"name": row.agent or "holdfast", "uid": str(row.run_id or row.decision_id), "type_id": 0},
        "resources": [{"name": operation, "type": row.kind}],
        "authorizations": [{"decision": row.verdict, "policy": policy}],
        "policy": policy,
        "metadata": {
            "version": OCSF_VERSION,
            "profiles": ["security_control"],
            "uid": str(row.decision_id),
            "event_code": row.kind,
            "correlation_uid": str(row.run_id or row.decision_id),
            "log_name": "decisions",
            "log_provider": "holdfast",
            "original_time": _time(row.created_at),
            "product": {"name": "Holdfast", "vendor_name": "Holdfast", "version": version("holdfast")},
            **({} if row.leaf_index is None else {"sequence": row.leaf_index}),
        },
        "unmapped": {
            "reason_codes": list(row.reason_codes), "step": row.step, "try_number": row.try_number, "hold_id": _text(row.hold_id),
            "approval_id": _text(row.approval_id), "record_hash": row.record_hash.hex(),
            "superseded_at": None if row.superseded_at is None else _time(row.superseded_at),
        },
    }  # fmt: skip


def _actor(found: Found, subject: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    user: dict[str, JsonValue] = {"name": _text(subject.get("user")) or "unknown", "type_id": 0}
    if subject.get("user_id"):
        user["uid"] = _text(subject["user_id"])
    if subject.get("tenant"):
        user["org"] = {"name": _text(subject["tenant"])}
    if found.row.role:
        user["groups"] = [{"name": found.row.role, "type": "role"}]
    return {"user": user, "app_name": found.row.agent or "holdfast"}


def _object(value: object) -> Mapping[str, JsonValue]:
    return value if isinstance(value, dict) else {}


def _ms(found: Found) -> int:
    at = found.row.created_at
    return int(at.timestamp()) * 1000 + at.microsecond // 1000


def _time(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _cell(value: JsonValue) -> object:
    if isinstance(value, list):
        return plain(" ".join(map(str, value)))
    return plain(value) if isinstance(value, str) else value
