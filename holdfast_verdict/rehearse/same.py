"""What of a recorded fact a candidate may take for its own: that of a watch, a limit or a gate which it has as well, unchanged.

Names are no help there: two policies may give one name to different things. What is compared is what the thing says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from holdfast_verdict.engine.program import Program, program_of
from holdfast_verdict.policy import Policy, Rule

_HISTORY: Final = ("happened", "count<=", "sum<=")


@dataclass(frozen=True, slots=True)
class Same:
    """What of the facts that a policy's decisions recorded holds for a candidate as well.

    Attributes:
        watches: Watches of the candidate, and those of the policy that say the same.
        limits: Keys of the candidate's limits, without whose they are, and those of the policy's.
        gates: Gates of the policy, and those of the candidate.
        labels: Whether outputs carry the same labels.
    """

    watches: dict[str, str]
    limits: dict[str, str]
    gates: dict[str, Rule]
    labels: bool


NOTHING: Final = Same({}, {}, {}, labels=False)


def _renamed(node: object, names: dict[str, str]) -> object:
    """Returns an expression with other names of watches; a watch without one gets a name that nothing has."""
    if not isinstance(node, tuple):
        return node
    if node and node[0] in _HISTORY:
        return (node[0], names.get(str(node[1]), f"! {node[1]}"), *(_renamed(part, names) for part in node[2:]))
    return tuple(_renamed(part, names) for part in node)


def _said(rule: Rule, names: dict[str, str]) -> tuple[object, ...]:
    """Returns what a rule says, without what it is called and how high its ceiling is."""
    limit = None if rule.limit is None else replace(rule.limit, ceiling=0)
    return rule.role, frozenset(rule.actions), _renamed(rule.when, names), rule.gate, limit


def compare(candidate: Policy, decider: Policy) -> Same:
    """Compares a candidate with a policy that decided."""
    if candidate.external != decider.external:
        return NOTHING  # what is external counts for watches, limits and labels
    theirs = {replace(watch, id=""): watch.id for watch in decider.watches}
    watches = {watch.id: theirs[same] for watch in candidate.watches if (same := replace(watch, id="")) in theirs}
    limits: dict[str, str] = {}
    gates: dict[str, Rule] = {}
    alike = candidate.roles == decider.roles
    own_rules, their_rules = _rules(program_of(candidate)), _rules(program_of(decider))
    for rule, key in own_rules:
        for other, other_key in their_rules:
            if rule.effect != other.effect or not (alike or rule.role == "*"):
                continue
            if _said(rule, watches) == _said(other, {watch.id: watch.id for watch in decider.watches}):
                if rule.effect == "limit":
                    limits.setdefault(key, other_key)
                else:
                    gates.setdefault(other.id, rule)
    return Same(watches, limits, gates, labels=candidate.labels == decider.labels)


def _rules(program: Program) -> list[tuple[Rule, str]]:
    return [(each.rule, each.key) for each in program.rules if each.rule.effect in ("limit", "gate")]
