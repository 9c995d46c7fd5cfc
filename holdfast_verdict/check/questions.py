"""All actions that policies speak of, each with its solver, and the questions that are put to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

from holdfast_verdict.actions import ActionRefused
from holdfast_verdict.check.anything import ANYTHING
from holdfast_verdict.check.finding import Example
from holdfast_verdict.check.formulas import Formula
from holdfast_verdict.check.request import Canonicaliser, Request
from holdfast_verdict.check.ruling import Ruling, world_of
from holdfast_verdict.check.search import Confirm, Outcome, Question, Search
from holdfast_verdict.check.shape import ANY, shape_of
from holdfast_verdict.engine.program import program_of, speaks_of
from holdfast_verdict.engine.verdict import Verdict
from holdfast_verdict.policy import Policy, Rule


class ActionTypeLike(Protocol):
    """What is known of an action before it is proposed; see `holdfast_verdict.actions`."""

    @property
    def parameters(self) -> Mapping[str, object]:
        """JSON Schema of its arguments."""

    @property
    def external(self) -> bool:
        """Whether it leaves the tenant's boundary."""

    @property
    def formats(self) -> Mapping[str, str]:
        """Formats by argument."""

    @property
    def yields(self) -> Mapping[str, tuple[str, ...]]:
        """Labels of its output."""


class CatalogueLike(Canonicaliser, Protocol):
    """A catalogue of actions; see `holdfast_verdict.actions`."""

    @property
    def types(self) -> Mapping[str, ActionTypeLike]:
        """All types by name."""


@dataclass(eq=False)
class Subject:
    """One action, as all policies of a check see it.

    Attributes:
        action: Its name.
        rulings: What each policy says on it.
        search: The solver.
    """

    action: str
    rulings: tuple[Ruling, ...]
    search: Search


@dataclass(eq=False)
class Questions:
    """The actions that there are, and the questions about them.

    Attributes:
        policies: The policies, one for a check and two for a difference.
        catalogue: The actions there are; without, those that the policies name.
        asked: How many questions were put so far.
    """

    policies: tuple[Policy, ...]
    catalogue: CatalogueLike | None
    asked: int = 0
    _subjects: dict[str, Subject] = field(default_factory=dict)

    @property
    def canonicaliser(self) -> Canonicaliser:
        """What brings calls to their canonical form."""
        return ANYTHING if self.catalogue is None else self.catalogue

    def actions(self) -> list[str]:
        """Returns the names of all actions: the catalogue's, or those that the policies name, with one for each pattern."""
        if self.catalogue is not None:
            return list(self.catalogue.types)
        named: dict[str, None] = {}
        for policy in self.policies:
            patterns = [pattern for rule in policy.rules for pattern in rule.actions]
            patterns += [pattern for watch in policy.watches for pattern in watch.actions]
            for pattern in patterns:
                if pattern == "external":
                    named["some-external-action"] = None
                elif pattern == "tools":
                    named["some-tool"] = None
                else:
                    named[pattern.replace("*", "something") if pattern.endswith("*") else pattern] = None
        return list(named)

    def is_external(self, policy: Policy, action: str) -> bool:
        """Says whether an action leaves the tenant's boundary: the policy's word goes before the catalogue's."""
        declared = True if self.catalogue is None else self.catalogue.types[action].external
        return program_of(policy).is_external(action, declared=declared)

    def subject(self, action: str) -> Subject:
        """Returns an action with its solver."""
        found = self._subjects.get(action)
        if found is None:
            about = None if self.catalogue is None else self.catalogue.types[action]
            shape = ANY if about is None else shape_of(about.parameters, about.formats)
            sides = [(policy, self.is_external(policy, action)) for policy in self.policies]
            world = world_of(action, shape, sides)
            rulings = tuple(Ruling(policy, world, external) for policy, external in sides)
            found = self._subjects[action] = Subject(action, rulings, Search(world))
        return found

    def spoken_of(self, policy: Policy, patterns: Iterable[str]) -> list[str]:
        """Returns the actions that patterns cover."""
        listed = list(patterns)
        return [
            action for action in self.actions() if speaks_of(listed, action, external=self.is_external(policy, action))
        ]

    def pairs(self, policy: Policy, rule: Rule) -> Iterator[tuple[str, str]]:
        """Yields each role and action that a rule speaks of."""
        for action in self.spoken_of(policy, rule.actions):
            for role in roles_of(policy, rule):
                yield role, action

    def find(
        self, subject: Subject, goals: Mapping[str, Formula], questions: frozenset[Question], confirm: Confirm
    ) -> Outcome:
        """Puts a question."""
        self.asked += 1
        return subject.search.find(goals, questions, confirm)

    def verdict(self, policy: Policy, request: Request) -> Verdict:
        """Returns what the engine decides on a request; one without canonical form is a deny."""
        try:
            return request.verdict(policy, self.canonicaliser)
        except ActionRefused as refused:
            return Verdict("deny", "action.malformed", str(refused))

    def example(self, request: Request) -> Example:
        """Returns a request with what the engine decides on it."""
        verdicts = [self.verdict(policy, request) for policy in self.policies]
        history = [pair for policy in self.policies[-1:] for pair in request.history(policy).items()]
        return Example(
            request,
            tuple(each.verdict for each in verdicts),
            tuple(each.code for each in verdicts),
            tuple(each.rule_id for each in verdicts),
            tuple(history),
        )


def roles_of(policy: Policy, rule: Rule) -> list[str]:
    """Returns the roles that a rule speaks of."""
    return [role for role, parents in policy.roles.items() if rule.role in ("*", role) or rule.role in parents]


def with_kinds(catalogue: object) -> CatalogueLike | None:
    """Returns the catalogue with the kinds of action that are no tools, which policies may speak of as well."""
    if catalogue is None:
        return None
    extend = getattr(catalogue, "with_builtin_kinds", None)
    return cast("CatalogueLike", catalogue if extend is None else extend())
