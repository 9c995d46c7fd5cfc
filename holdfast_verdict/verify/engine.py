"""What the verifier asks of an engine version: to read a policy, and to evaluate a record by it once more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

from holdfast_verdict.canonical import JsonValue


class Evaluated(NamedTuple):
    """What an engine says of a record's facts: what stands in the record as `evaluated` and `trace`.

    Attributes:
        verdict: Allow, deny or needs_approval.
        code: Reason code.
        rule_id: The rule that decided, or empty.
        trace: Every rule that was looked at, with what came of it.
        approvals: Of an allow: the approvals among the facts that opened its gates.
    """

    verdict: str
    code: str
    rule_id: str
    trace: list[JsonValue]
    approvals: list[Mapping[str, Any]]  # Any: as the facts have them


class EnginePolicy(Protocol):
    """A policy as one engine version evaluates it. What it decides never changes: old records are evaluated by it for ever.

    Attributes:
        MEMBERS: Members of part A of its records.
        MAY_HAVE: Members that some of them have besides.
        REFUSALS: By kind of action, codes by which something else than the policy may have refused, on facts that no record holds.
        policy_hash: Hash that names the policy, hex.
    """

    MEMBERS: ClassVar[frozenset[str]]
    MAY_HAVE: ClassVar[frozenset[str]]
    REFUSALS: ClassVar[Mapping[str, frozenset[str]]]
    policy_hash: str

    def __init__(self, form: JsonValue, source: JsonValue, beside: JsonValue) -> None:
        """Reads the form, the text it was compiled from and what decides beside it; ValueError if it is none of this version."""

    def evaluate(self, part_a: Mapping[str, JsonValue]) -> Evaluated:
        """Evaluates the action of a record, whose digest was compared, on its facts; ValueError if they are none of this version."""
        ...

    def binding(self, rule_id: str, approver_role: str, action_digest: str, expires_at_ms: int) -> str | None:
        """Returns what a consent at a gate is bound to, hex; None if the policy has no such gate."""
        ...
