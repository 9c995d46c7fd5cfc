"""Why a recorded decision was decided as it was: its own facts, held against the policy of the hash that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from holdfast_verdict.check.explaining import Considered, Explanation, explain
from holdfast_verdict.engine.facts import Facts
from holdfast_verdict.engine.verdict import Verdict
from holdfast_verdict.policy import Policy
from holdfast_verdict.verify.policy_engine import VERSION, action_of

_UNASKED: Final = "not recorded"
_NOT_THERE: Final = ("not there", "not given", "unknown")
_UNREAD: Final = "what was evaluated cannot be read: it was erased, or it has another form"


@dataclass(frozen=True, slots=True)
class Told:
    """What a record says of why.

    Attributes:
        explanation: The verdict that was recorded, and the rules, on the recorded facts.
        notes: What else is to be known of it.
        cannot: What cannot be said, and why.
    """

    explanation: Explanation
    notes: tuple[str, ...] = ()
    cannot: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        return {**self.explanation.to_json(), "notes": list(self.notes), "cannot": list(self.cannot)}


def policy_hash_of(part_a: bytes) -> str:
    """Returns the hash of the policy that decided, hex; empty if the record names none."""
    record = _read(part_a)
    named = None if record is None else record.get("policy_hash")
    return named if isinstance(named, str) else ""


def explain_record(part_a: bytes, policy: Policy | None, verdict: Verdict, *, of_action: bool = True) -> Told:
    """Explains a recorded decision; total.

    Args:
        part_a: What was evaluated, as it was recorded; whatever is there.
        policy: The policy of the hash that it names, if that is kept.
        verdict: What was decided in the end, by policy and ledger.
        of_action: Whether it is the decision on an action: then a policy decided, and a record without one is none any more.
    """
    bare = Explanation(verdict, ())
    if not part_a:
        return Told(bare, cannot=("what was evaluated was deleted; what was decided is kept",))
    record = _read(part_a)
    if record is not None and "sealed" in record:
        return Told(bare, cannot=("personal values of it were erased, so that its rules cannot be asked again",))
    if record is None:
        return Told(bare, cannot=(_UNREAD,))
    if "policy_hash" not in record and of_action:
        return Told(bare, cannot=(_UNREAD,))
    if "policy_hash" not in record:
        return Told(bare, ("No rule was asked: this is the record of something else than an action.",))
    if record.get("engine") != VERSION:
        return Told(
            bare,
            cannot=(f"it was decided by the engine {record.get('engine')}, which had no policies in this language",),
        )
    if policy is None:
        return Told(bare, cannot=(f"the policy {record['policy_hash']} that decided is not kept here",))
    if policy.policy_hash.hex() != record["policy_hash"]:
        return Told(bare, cannot=("the policy at hand is not the one that decided",))
    try:
        return _told(record, policy, verdict)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return Told(bare, cannot=(_UNREAD,))


def _read(part_a: bytes) -> Mapping[str, Any] | None:  # Any: JSON; its members are looked at before use
    try:
        record = orjson.loads(part_a)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def _told(record: Mapping[str, Any], policy: Policy, verdict: Verdict) -> Told:  # Any: as above
    refusal, evaluated = record["refusal"], record["evaluated"]
    notes = [*_beside(refusal, evaluated, verdict)]
    if refusal is not None and not record["trace"]:
        return Told(Explanation(verdict, ()), tuple(notes))  # refused for its form: no rule was looked at
    whole = explain(policy, action_of(record), Facts.from_json(record["facts"]))
    cannot: list[str] = []
    again = whole.verdict
    if refusal is None and (again.verdict, again.code, again.rule_id) != (
        evaluated["verdict"], evaluated["code"], evaluated["rule_id"],
    ):  # fmt: skip
        cannot.append(
            f"evaluated again it comes out as {again.verdict} {again.code}, and not as recorded: verify this record"
        )
    outcomes = {looked[1]: looked[2] for looked in record["trace"]}
    rules = []
    for rule in whole.rules:
        if rule.rule_id in outcomes or all(asked.truth is not None for asked in rule.conditions):
            rules.append(rule if outcomes.get(rule.rule_id) == "unknown" else _as_recorded(rule))
        else:
            cannot.append(_not_looked_at(rule))
    shown = Verdict(verdict.verdict, verdict.code, verdict.message, evaluated["rule_id"] or verdict.rule_id)
    return Told(Explanation(shown, tuple(rules)), tuple(notes), tuple(cannot))


def _beside(
    refusal: Mapping[str, Any] | None, evaluated: Mapping[str, Any], verdict: Verdict
) -> Iterator[str]:  # Any: as above
    if refusal is not None:
        yield f"No rule decided: {refusal['code']} stood against it, whatever the policy says."
    elif (evaluated["verdict"], evaluated["code"]) != (verdict.verdict, verdict.code):
        yield f"The policy said {evaluated['verdict']} {evaluated['code']}; {verdict.code} came of the ledger, not of a rule."


def _as_recorded(rule: Considered) -> Considered:
    """Tells what was not there then from what was not asked, because another condition had failed already."""
    return replace(
        rule,
        conditions=tuple(
            asked
            if asked.truth is not None
            else replace(
                asked, values=tuple((name, _UNASKED if value in _NOT_THERE else value) for name, value in asked.values)
            )
            for asked in rule.conditions
        ),
    )


def _not_looked_at(rule: Considered) -> str:
    asked = "; ".join(each.words for each in rule.conditions if each.truth is None)
    return f"whether {rule.effect} {rule.rule_id} would have applied: it was not looked at then, nor was recorded what it asks: {asked}"
