"""Decision records: part A from the evaluator, part B from the ledger, one hash over both.

`record_hash = SHA-256(0x00 || SHA-256(A) || SHA-256(B))`: the leaf hash of RFC 6962 over the two digests, so that a part can be
erased later and the tree still stands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from uuid import UUID

from holdfast_verdict.canonical import JsonValue, canonical_bytes
from holdfast_verdict.decide import ENGINE_VERSION, Facts, Verdict

RECORD_VERSION = 1


def part_a(
    *,
    subject: Mapping[str, JsonValue],
    action: Mapping[str, JsonValue],
    action_digest: bytes,
    facts: Facts,
    verdict: Verdict,
    prices: JsonValue,
) -> bytes:
    """Returns the canonical bytes of what was evaluated: who, what, facts, trace, policy hash.

    Args:
        subject: Tenant, project, user, run, step, try, agent and role.
        action: The canonical action.
        action_digest: Its digest.
        facts: What the evaluator read.
        verdict: What the evaluator said.
        prices: Prices and bounds of the estimate.
    """
    return canonical_bytes(
        {
            "v": RECORD_VERSION,
            "engine": ENGINE_VERSION,
            "subject": dict(subject),
            "action": dict(action),
            "action_digest": action_digest.hex(),
            "facts": facts.to_json(),
            "policy_hash": facts.policy_hash,
            "evaluated": {"verdict": verdict.verdict, "code": verdict.code, "rule_id": verdict.rule_id},
            "trace": list(verdict.trace),
            "prices": prices,
        }
    )


def part_b(
    *,
    decision_id: UUID,
    time_ms: int,
    verdict: str,
    reason_codes: tuple[str, ...],
    hold_id: UUID | None,
    legs: JsonValue,
) -> bytes:
    """Returns the canonical bytes of what the ledger decided: verdict, legs and balances.

    Args:
        decision_id: Id of the decision.
        time_ms: PostgreSQL's time of the decision, milliseconds of the epoch.
        verdict: The final verdict.
        reason_codes: Why.
        hold_id: The hold that was granted, if any.
        legs: For each cap: its limit and balances before, of a rolling one also what its older hours `carried`, and the amount asked.
    """
    return canonical_bytes(
        {
            "v": RECORD_VERSION,
            "decision_id": str(decision_id),
            "time_ms": time_ms,
            "verdict": verdict,
            "reason_codes": list(reason_codes),
            "hold_id": None if hold_id is None else str(hold_id),
            "legs": legs,
        }
    )


def record_hash(a: bytes, b: bytes) -> bytes:
    """Returns the leaf hash over both parts (RFC 6962 section 2.1)."""
    return hashlib.sha256(b"\x00" + hashlib.sha256(a).digest() + hashlib.sha256(b).digest()).digest()
