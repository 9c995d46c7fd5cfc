"""Why an action is decided as it is: the rule that decided, and those that nearly did, condition by condition with the values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.check.request import watch_words
from holdfast_verdict.check.ruling import Node, walk
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.deciding import decide
from holdfast_verdict.engine.expressions import compile_expression, conjuncts
from holdfast_verdict.engine.facts import Facts
from holdfast_verdict.engine.program import CompiledRule, program_of
from holdfast_verdict.engine.unknown import UNKNOWN, Truth
from holdfast_verdict.engine.values import Unrunnable, compile_value
from holdfast_verdict.engine.verdict import Verdict
from holdfast_verdict.engine.words import in_words
from holdfast_verdict.policy import Policy

_READ: Final = ("arg", "principal", "bytes", "chars", "size", "host", "domain", "local", "estimate")
_SHOWN_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """One condition of a rule.

    Attributes:
        words: The condition.
        truth: What came of it; `None`: nobody can tell.
        values: What it read, by name.
    """

    words: str
    truth: Truth
    values: tuple[tuple[str, object], ...]

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        return {"condition": self.words, "holds": self.truth, "values": dict(self.values)}


@dataclass(frozen=True, slots=True)
class Considered:
    """A rule that speaks of the action.

    Attributes:
        rule_id: Its name.
        line: Its line in the source; 0 if it has none.
        effect: What it does.
        fires: Whether it does it here.
        conditions: Its conditions.
    """

    rule_id: str
    line: int
    effect: str
    fires: bool
    conditions: tuple[Asked, ...]

    @property
    def against(self) -> tuple[Asked, ...]:
        """The conditions for which it does not fire."""
        stands = (False, None) if self.effect == "permit" else (False,)
        return tuple(each for each in self.conditions if each.truth in stands)

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        return {
            "rule_id": self.rule_id,
            "line": self.line,
            "effect": self.effect,
            "fires": self.fires,
            "conditions": [each.to_json() for each in self.conditions],
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an action is decided as it is.

    Attributes:
        verdict: What was decided.
        rules: Every rule that speaks of it, in the order of the decision.
    """

    verdict: Verdict
    rules: tuple[Considered, ...]

    @property
    def decided(self) -> Considered | None:
        """The rule that decided, if one did."""
        return next((rule for rule in self.rules if rule.rule_id == self.verdict.rule_id), None)

    @property
    def nearly(self) -> tuple[Considered, ...]:
        """Rules that did not fire for one condition alone, and would have changed the verdict or its reason."""
        return tuple(
            rule
            for rule in self.rules
            if len(rule.against) == 1 and not rule.fires and rule.rule_id != self.verdict.rule_id
        )

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        verdict = self.verdict
        return {
            "verdict": verdict.verdict,
            "code": verdict.code,
            "message": verdict.message,
            "rule_id": verdict.rule_id,
            "nearly": [rule.rule_id for rule in self.nearly],
            "rules": [rule.to_json() for rule in self.rules],
        }


def explain(policy: Policy, action: CanonicalAction, facts: Facts, verdict: Verdict | None = None) -> Explanation:
    """Explains a decision.

    Args:
        policy: The policy.
        action: The action.
        facts: What is known.
        verdict: What was decided; without, it is decided here.
    """
    decided = verdict if verdict is not None else decide(policy, action, facts)
    program = program_of(policy)
    role = facts.principal.get("role")
    if not isinstance(role, str) or role not in policy.roles:
        return Explanation(decided, ())
    external = program.is_external(action.name, declared=action.external)
    plan = program.plan(role, action.name, external=external)
    context = Context(action.name, external, action.args, facts, program, getattr(action, "parameters", None))
    rules = (*plan.forbids, *plan.permits, *plan.limits, *plan.gates)
    return Explanation(decided, tuple(_considered(rule, policy, context) for rule in rules))


def _considered(rule: CompiledRule, policy: Policy, context: Context) -> Considered:
    nodes = conjuncts(rule.rule.when)
    asked = tuple(
        Asked(in_words(node), compile_expression(node)(context), tuple(_values(node, context))) for node in nodes
    )
    truths = [each.truth for each in asked]
    fires = all(truth is True for truth in truths) if rule.rule.effect == "permit" else False not in truths
    return Considered(rule.rule.id, policy.lines.get(rule.rule.id, 0), rule.rule.effect, fires, asked)


def _values(node: object, context: Context) -> Iterator[tuple[str, object]]:
    """Yields what a condition reads of action and principal; what is derived is shown beside what it is derived from."""
    seen: dict[str, object] = {}
    for part in _outermost(node):
        words = in_words(part)
        if words not in seen:
            seen[words] = None
            yield words, _shown(part, context)
    for part in walk(node):
        if part[0] in ("happened", "count<=", "sum<="):
            value = context.watch(str(part[1]))
            watch = (
                next(each for each in context.program.policy.watches if each.id == part[1]) if context.program else None
            )
            name = str(part[1]) if watch is None else watch_words(watch)
            yield name, "unknown" if value is UNKNOWN else value if isinstance(value, int) else str(value)
        elif part[0] == "run_has":
            labels = context.labels()
            yield "labels of the run", "not given" if labels is UNKNOWN else sorted(labels)


def _outermost(node: object) -> Iterator[Node]:
    if not isinstance(node, tuple) or not node:
        return
    if node[0] in _READ and not any(part[0] == "var" for part in walk(node)):
        yield node
        return
    for each in node[1:]:
        yield from _outermost(each)


def _shown(node: Node, context: Context) -> object:
    try:
        value = compile_value(node)(context)
    except Unrunnable:
        return "unknown"
    if value is UNKNOWN:
        return "not there"
    return value if not isinstance(value, str) or len(value) <= _SHOWN_MAX else f"{value[:_SHOWN_MAX]}…"
