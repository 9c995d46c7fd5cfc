"""Engine version `rules/2`: a role's table of rules, evaluated by `holdfast_verdict.decide`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, cast

from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.decide import (
    ApprovalFact,
    Facts,
    approval_binding,
    decide,
    policy_hash,
    rule_from_json,
    rule_to_json,
)
from holdfast_verdict.verify.engine import Evaluated

VERSION: Final = "rules/2"
_FACTS: Final = {"principal", "known", "malformed", "approval"}


class RulesPolicy:
    """A role's table; see `EnginePolicy`."""

    MEMBERS: ClassVar = frozenset(
        {"v", "engine", "subject", "action", "action_digest", "facts", "policy_hash", "evaluated", "trace", "prices"}
    )
    MAY_HAVE: ClassVar = frozenset[str]()
    # before a model is called its worst case is bounded; what cannot be bounded is refused, whatever the rules say
    REFUSALS: ClassVar[Mapping[str, frozenset[str]]] = {"llm.call": frozenset({"price.unknown", "content.unsupported"})}

    def __init__(self, form: JsonValue, source: JsonValue, beside: JsonValue) -> None:
        if not isinstance(form, list) or source is not None or beside is not None:
            raise ValueError("a table of rules is a list, with nothing beside it")
        try:
            self._rules = tuple(rule_from_json(row) for row in form)
            written = [rule_to_json(rule) for rule in self._rules]
        except (TypeError, AttributeError, AssertionError) as error:
            raise ValueError(f"a rule is not of its form: {error}") from None
        if written != form:
            raise ValueError("a rule is not written as rules are")
        self.policy_hash = policy_hash(self._rules).hex()

    def evaluate(self, part_a: Mapping[str, JsonValue]) -> Evaluated:
        """Evaluates a record."""
        facts = part_a["facts"]
        if not isinstance(facts, dict) or facts.keys() != _FACTS:
            raise ValueError("the facts have other members than engine rules/2 reads")
        approval = facts["approval"]
        try:
            read = Facts(
                principal=facts["principal"],
                rules=self._rules,
                policy_hash=self.policy_hash,
                known=facts["known"],
                malformed=facts["malformed"],
                approval=None if approval is None else ApprovalFact(**approval),
            )
        except TypeError:
            raise ValueError("the approval among the facts has other members than engine rules/2 reads") from None
        verdict = decide(read, cast("Mapping[str, JsonValue]", part_a["action"]))
        used = (
            [approval]
            if verdict.verdict == "allow" and approval is not None and approval["state"] == "approved"
            else []
        )
        return Evaluated(verdict.verdict, verdict.code, verdict.rule_id, list(verdict.trace), used)

    def binding(self, rule_id: str, approver_role: str, action_digest: str, expires_at_ms: int) -> str | None:
        """Returns what a consent at a gate is bound to."""
        for rule in self._rules:
            if rule.rule_id == rule_id and rule.effect == "gate" and rule.approver_role == approver_role:
                return approval_binding(self.policy_hash, bytes.fromhex(action_digest), rule, expires_at_ms).hex()
        return None
