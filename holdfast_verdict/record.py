"""Decision records: part A from the evaluator, part B from the ledger, one hash over both.

`record_hash = SHA-256(0x00 || SHA-256(A) || SHA-256(B))`: the leaf hash of RFC 6962 over the two digests, so that a part can be
erased later and the tree still stands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.canonical import JsonValue, canonical_bytes
from holdfast_verdict.decide import ENGINE_VERSION, Facts, Verdict
from holdfast_verdict.engine import verdict as engine
from holdfast_verdict.engine.deciding import ENGINE_VERSION as POLICY_ENGINE
from holdfast_verdict.sealing import RECORD_VERSION as SEALED_VERSION

RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class SealedAction:
    """An action as its record has it, if a schema marks values of its arguments as personal.

    Attributes:
        value: The action without these values.
        paths: Where they stood, as JSON pointers into the arguments.
        box: The values under a key that is made from the salt, base64; without the salt, nobody can read it.
    """

    value: Mapping[str, JsonValue]
    paths: tuple[str, ...]
    box: str


def part_a(
    *,
    subject: Mapping[str, JsonValue],
    action: Mapping[str, JsonValue],
    action_digest: bytes,
    facts: Facts,
    verdict: Verdict,
    prices: JsonValue,
) -> bytes:
    """Returns the canonical bytes of what was evaluated by a table of rules, as records of `rules/2` have it.

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


def policy_part_a(
    *,
    subject: Mapping[str, JsonValue],
    action: CanonicalAction,
    policy_hash: bytes,
    verdict: engine.Verdict,
    refusal: Mapping[str, JsonValue] | None,
    prices: JsonValue,
    sealed: SealedAction | None = None,
) -> bytes:
    """Returns the canonical bytes of what was evaluated by a policy: who, what, the facts that were read, trace, policy hash.

    The policy of that hash, the action with its `boundary`, and the facts give the same verdict again (LAW 8), unless there is a
    `refusal`: what stands against an action whatever the policy says.

    Args:
        subject: Tenant, project, user, run, step, try, agent and role.
        action: The action.
        policy_hash: Hash of the policy that decided.
        verdict: What holds, with the facts that the engine read.
        refusal: Code and message of what stood against the action besides the policy.
        prices: Prices and bounds of the estimate.
        sealed: The action without its personal values, if it has such.
    """
    yields: dict[str, JsonValue] = {path: list(labels) for path, labels in action.yields.items()}
    told = verdict.to_json()
    of_sealed: dict[str, JsonValue] = {}
    if sealed is not None:
        of_sealed = {"sealed": {"paths": list(sealed.paths), "box": sealed.box}}
    return canonical_bytes(
        {
            **of_sealed,
            "v": RECORD_VERSION if sealed is None else SEALED_VERSION,
            "engine": POLICY_ENGINE,
            "subject": dict(subject),
            "action": dict(action.value if sealed is None else sealed.value),
            "action_digest": action.digest.hex(),
            "boundary": {"external": action.external, "yields": yields},
            "facts": verdict.facts_read,
            "policy_hash": policy_hash.hex(),
            "evaluated": {"verdict": verdict.verdict, "code": verdict.code, "rule_id": verdict.rule_id},
            "trace": told["trace"],
            "legs": told["legs"],
            "refusal": None if refusal is None else dict(refusal),
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
    return record_hash_of(hashlib.sha256(a).digest(), b)


def record_hash_of(a_sha256: bytes, b: bytes) -> bytes:
    """Returns the leaf hash of a record of whose part A only the SHA-256 is left."""
    return hashlib.sha256(b"\x00" + a_sha256 + hashlib.sha256(b).digest()).digest()
