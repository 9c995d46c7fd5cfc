"""A policy made ready to run: conditions compiled once, rules found by role and action without looking at the others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from holdfast_verdict.actions.kinds import KINDS
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.expressions import Ask, compile_expression, conjuncts
from holdfast_verdict.engine.unknown import Truth
from holdfast_verdict.engine.values import Read, Unrunnable, compile_value
from holdfast_verdict.engine.verdict import Looked
from holdfast_verdict.engine.watches import CompiledWatch
from holdfast_verdict.engine.words import in_words
from holdfast_verdict.policy import LabelRule, Policy, Rule

_PLANS_MAX: Final = 10_000
_PROGRAMS_MAX: Final = 256


Answer = tuple[Truth, Looked]


@dataclass(frozen=True, slots=True)
class Condition:
    """One of the conditions of a rule, with what is answered when it is the one that stands in the way."""

    ask: Ask
    words: str
    failed: Answer


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule that can be asked.

    Attributes:
        rule: The rule.
        ask: Says whether it matches, and what the trace says of that.
        measured: For a sum, what is added up.
        key: For a limit, the part of its leg's key that is always the same.
    """

    rule: Rule
    ask: Callable[[Context], Answer]
    measured: Read | None = None
    key: str = ""


def _asker(rule: Rule, conditions: tuple[Condition, ...]) -> Callable[[Context], Answer]:
    """Returns what asks a rule. A condition that is false ends it; one that is unknown does only if none is false."""
    matched: Answer = (True, Looked(rule.effect, rule.id, "matched"))

    def ask(context: Context) -> Answer:
        doubt: Looked | None = None
        for condition in conditions:
            asked = len(context.missing)
            truth = condition.ask(context)
            if truth is False:
                return condition.failed
            if truth is not True and doubt is None:
                missing = tuple(dict.fromkeys(context.missing[asked:]))
                doubt = Looked(rule.effect, rule.id, "unknown", condition.words, missing)
        return matched if doubt is None else (None, doubt)

    return ask if conditions else lambda _: matched


@dataclass(frozen=True, slots=True)
class CompiledLabel:
    """What the output of some actions carries."""

    label: LabelRule
    where: Ask


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a policy has to say on one action of one role, in the policy's order."""

    forbids: tuple[CompiledRule, ...]
    permits: tuple[CompiledRule, ...]
    limits: tuple[CompiledRule, ...]
    gates: tuple[CompiledRule, ...]
    labels: tuple[CompiledLabel, ...]


def speaks_of(patterns: Iterable[str], name: str, *, external: bool) -> bool:
    """Says whether patterns of actions cover one: a name, a prefix with `*`, `external`, or `tools`."""
    return any(
        pattern == name
        or (pattern == "external" and external)
        or (pattern == "tools" and name not in KINDS)
        or (pattern.endswith("*") and name.startswith(pattern[:-1]))
        for pattern in patterns
    )


@dataclass(slots=True)
class Program:
    """A compiled policy.

    Attributes:
        policy: The policy.
        policy_hash: Its hash.
        rules: Its rules, in order.
        labels: What outputs carry.
        watches: What history remembers, by id.
        by_role: Rules by role, made when a role is first asked about.
        plans: Rules by role and action, likewise.
    """

    policy: Policy
    policy_hash: bytes
    rules: tuple[CompiledRule, ...]
    labels: tuple[CompiledLabel, ...]
    watches: dict[str, CompiledWatch]
    by_role: dict[str, tuple[CompiledRule, ...]] = field(default_factory=dict)
    plans: dict[tuple[str, str, bool], Plan] = field(default_factory=dict)

    def is_external(self, name: str, *, declared: bool) -> bool:
        """Says whether an action leaves the tenant's boundary: the policy's word goes before the catalogue's."""
        return self.policy.external.get(name, declared)

    def plan(self, role: str, name: str, *, external: bool) -> Plan:
        """Returns what the policy says on an action of a role."""
        key = (role, name, external)
        plan = self.plans.get(key)
        if plan is None:
            if len(self.plans) >= _PLANS_MAX:
                self.plans.clear()
            plan = self.plans[key] = self._plan(role, name, external=external)
        return plan

    def _plan(self, role: str, name: str, *, external: bool) -> Plan:
        rules = self.by_role.get(role)
        if rules is None:
            roles = {"*", role, *self.policy.roles[role]}
            rules = self.by_role[role] = tuple(rule for rule in self.rules if rule.rule.role in roles)
        heard = [rule for rule in rules if speaks_of(rule.rule.actions, name, external=external)]

        def of(effect: str) -> tuple[CompiledRule, ...]:
            return tuple(rule for rule in heard if rule.rule.effect == effect)

        labels = tuple(each for each in self.labels if speaks_of(each.label.actions, name, external=external))
        return Plan(of("forbid"), of("permit"), of("limit"), of("gate"), labels)


def _compile_rule(rule: Rule) -> CompiledRule:
    if rule.effect not in ("forbid", "permit", "limit", "gate"):
        raise Unrunnable(f"there is no effect {rule.effect!r}")
    conditions = []
    for node in conjuncts(rule.when):
        words = in_words(node)
        failed = False, Looked(rule.effect, rule.id, "no", words)
        conditions.append(Condition(compile_expression(node), words, failed))
    ask = _asker(rule, tuple(conditions))
    limit = rule.limit
    if limit is None:
        return CompiledRule(rule, ask)
    measured = None if limit.of is None else compile_value(limit.of)
    return CompiledRule(rule, ask, measured, f"{rule.id} {limit.window} {limit.per}=")


def compile_program(policy: Policy) -> Program:
    """Compiles a policy.

    Raises:
        Unrunnable: It holds what this engine does not know.
    """
    return Program(
        policy,
        policy.policy_hash,
        tuple(_compile_rule(rule) for rule in policy.rules),
        tuple(CompiledLabel(label, compile_expression(label.where)) for label in policy.labels),
        {watch.id: CompiledWatch.of_watch(watch) for watch in policy.watches},
    )


_PROGRAMS: OrderedDict[bytes, Program] = OrderedDict()
_KNOWN: OrderedDict[int, tuple[Policy, Program]] = OrderedDict()


def program_of(policy: Policy) -> Program:
    """Returns a policy's program, which is compiled once for each hash; a policy that was seen before is known by itself."""
    known = _KNOWN.get(id(policy))
    if known is not None and known[0] is policy:
        return known[1]
    if not isinstance(policy, Policy):
        raise Unrunnable(f"a {type(policy).__name__} is no policy")
    program = _PROGRAMS.get(policy.policy_hash)
    if program is None:
        program = compile_program(policy)
        _PROGRAMS[program.policy_hash] = program
    _KNOWN[id(policy)] = policy, program
    for kept in (_PROGRAMS, _KNOWN):
        while len(kept) > _PROGRAMS_MAX:
            kept.popitem(last=False)
    return program
