"""What one policy says on one action, as formulas: which rules fire, and what comes of them for a role."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from holdfast_verdict.check.encode import Encoder
from holdfast_verdict.check.formulas import Answer, Formula, conj, disj, neg
from holdfast_verdict.check.search import Question
from holdfast_verdict.check.shape import ANY, Shape
from holdfast_verdict.check.world import NANO, Path, World
from holdfast_verdict.engine.program import CompiledRule, Plan, program_of
from holdfast_verdict.policy import Policy, Rule

Node = tuple[object, ...]
_OF_MEMBERS: Final = ("every", "some", "all_in", "any_in", "none_in", "contains", "from", "only_from")
_PLACES_MIN: Final = 3
_PLACES_MAX: Final = 7


def walk(node: object) -> Iterator[Node]:
    """Yields an expression and everything in it."""
    if isinstance(node, tuple):
        if node and isinstance(node[0], str):
            yield node
        for each in node:
            yield from walk(each)


def conditions_of(policy: Policy) -> Iterator[Node]:
    """Yields all that a policy's rules ask and measure."""
    for rule in policy.rules:
        yield rule.when
        if rule.limit is not None and rule.limit.of is not None:
            yield rule.limit.of
    for watch in policy.watches:
        yield from (present for _, present in watch.same)


def world_of(action: str, arguments: Shape, policies: Sequence[tuple[Policy, bool]]) -> World:
    """Makes the unknowns of an action, as fine as policies ask.

    Args:
        action: Its name.
        arguments: What its arguments may be.
        policies: The policies, each with whether the action is external there.
    """
    nodes: dict[Node, None] = {}
    for policy, external in policies:
        roles = policy.roles or {"": ()}
        heard = {rule.rule.id for role in roles for rule in _rules(_plan(policy, role, action, external=external))}
        for rule in policy.rules:
            if rule.id in heard:
                nodes.update(dict.fromkeys(walk(rule.when)))
    digits = (len(str(node[1]).partition(".")[2]) for node in nodes if node[0] == "number")
    places = min(max([_PLACES_MIN, *(count + 1 for count in digits)]), _PLACES_MAX)
    return World(action, arguments, policies[0][1], places, _list_questions(nodes, arguments))


def _list_questions(nodes: Iterable[Node], arguments: Shape) -> Mapping[Path, int]:
    counts: dict[Path, int] = {}
    for node in nodes:
        if node[0] not in _OF_MEMBERS:
            continue
        value = cast("Node", node[1])
        path: Path = ("args", *(str(name) for name in value[1:])) if value[0] == "arg" else ()
        if path and _may_be_list(arguments, path[1:], origins=node[0] in ("from", "only_from")):
            counts[path] = counts.get(path, 0) + 1
        if not path or node[0] in ("from", "only_from"):
            counts[()] = counts.get((), 0) + 1
    return counts


def _may_be_list(shape: Shape, names: Path, *, origins: bool) -> bool:
    for name in names:
        shape = shape.field(str(name))
    return "list" in shape.kinds or (origins and "object" in shape.kinds)


def _plan(policy: Policy, role: str, action: str, *, external: bool) -> Plan:
    return program_of(policy).plan(role, action, external=external)


def _rules(plan: Plan) -> tuple[CompiledRule, ...]:
    return (*plan.forbids, *plan.permits, *plan.limits, *plan.gates)


@dataclass(frozen=True, slots=True)
class Outcome:
    """When an action of a role comes to which end.

    Attributes:
        forbidden: A forbid fires.
        permitted: A permit matches.
        short: It takes more of a limit than there is of it at all, or nobody can tell how much.
        gated: A gate fires.
    """

    forbidden: Formula
    permitted: Formula
    short: Formula
    gated: Formula

    @property
    def passed(self) -> Formula:
        """Permitted, and nothing but a gate may stand against it."""
        return conj(self.permitted, neg(self.forbidden), neg(self.short))

    @property
    def allowed(self) -> Formula:
        """The verdict is an allow."""
        return conj(self.passed, neg(self.gated))

    @property
    def asked(self) -> Formula:
        """The verdict is that somebody has to consent."""
        return conj(self.passed, self.gated)

    @property
    def denied(self) -> Formula:
        """The verdict is a deny."""
        return neg(self.passed)

    def of(self, verdict: str) -> Formula:
        """Returns when the verdict is this one."""
        return {"allow": self.allowed, "needs_approval": self.asked, "deny": self.denied}[verdict]


@dataclass(eq=False)
class Ruling:
    """One policy on one action.

    Attributes:
        policy: The policy.
        world: The action's unknowns.
        external: Whether the action leaves the tenant's boundary, by this policy.
    """

    policy: Policy
    world: World
    external: bool
    _encoder: Encoder = field(init=False)
    _answers: dict[str, tuple[Answer, frozenset[Question]]] = field(default_factory=dict)
    _outcomes: dict[str, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._encoder = Encoder(self.world, {watch.id: watch for watch in self.policy.watches})

    def plan(self, role: str) -> Plan:
        """Returns the rules that speak of this action and role."""
        return _plan(self.policy, role, self.world.action, external=self.external)

    def knows(self, role: str) -> bool:
        """Says whether the policy has the role at all."""
        return role in self.policy.roles

    def answer(self, rule: Rule) -> Answer:
        """Returns when a rule's condition is true, and when false."""
        return self._read(rule)[0]

    def fires(self, rule: Rule) -> Formula:
        """Returns when a rule has its effect: unknown stands against the action."""
        answer = self.answer(rule)
        return answer.true if rule.effect == "permit" else neg(answer.false)

    def questions(self, rules: Iterable[Rule]) -> frozenset[Question]:
        """Returns what rules ask of texts."""
        return frozenset().union(*(self._read(rule)[1] for rule in rules))

    def _read(self, rule: Rule) -> tuple[Answer, frozenset[Question]]:
        found = self._answers.get(rule.id)
        if found is None:
            self._encoder.asked.clear()
            answer = self._encoder.answer(rule.when)
            found = self._answers[rule.id] = (answer, frozenset(self._encoder.asked))
        return found

    def as_role(self, role: str) -> Formula:
        """Says that the role is this one."""
        return self.world.principal["role"].text == self.world.number_of(role)

    def rules(self, role: str) -> tuple[Rule, ...]:
        """Returns all rules that speak of this action and role."""
        return tuple(each.rule for each in _rules(self.plan(role)))

    def outcome(self, role: str) -> Outcome:
        """Returns when an action of a role comes to which end."""
        if not self.knows(role):
            return Outcome(forbidden=False, permitted=False, short=False, gated=False)
        found = self._outcomes.get(role)
        if found is None:
            plan = self.plan(role)
            found = self._outcomes[role] = Outcome(
                disj(*(self.fires(each.rule) for each in plan.forbids)),
                disj(*(self.fires(each.rule) for each in plan.permits)),
                disj(*(conj(self.fires(each.rule), self.over(each.rule)) for each in plan.limits)),
                disj(*(self.fires(each.rule) for each in plan.gates)),
            )
        return found

    def over(self, rule: Rule) -> Formula:
        """Says when one action alone takes more than a limit has, or when nobody can tell what it takes."""
        limit = rule.limit
        assert limit is not None  # the form of a policy says so
        if limit.measure == "count":
            return limit.ceiling < 1
        if limit.of is None:
            return self.world.estimate(limit.unit) > limit.ceiling
        term = self._encoder.term(limit.of)
        return disj(neg(term.of("number")), conj(term.of("number"), term.nano > limit.ceiling * NANO))


def shape_of_arguments(shape: Shape | None) -> Shape:
    """Returns what arguments may be; without a catalogue, anything."""
    return ANY if shape is None else shape
