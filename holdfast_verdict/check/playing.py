"""Plays cases through a run in memory, and says where the policy decides otherwise than they expect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from holdfast_verdict.actions.refused import ActionRefused
from holdfast_verdict.check.anything import ANYTHING
from holdfast_verdict.check.cases import Case, Past, Read, Step
from holdfast_verdict.check.questions import with_kinds
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.history import Event, EventKind
from holdfast_verdict.engine.labels import yields_of
from holdfast_verdict.engine.program import program_of
from holdfast_verdict.engine.session import Clocks, Session
from holdfast_verdict.engine.verdict import Verdict
from holdfast_verdict.policy import Policy

if TYPE_CHECKING:
    from holdfast_verdict.actions.catalogue import Catalogue


@dataclass(frozen=True, slots=True)
class Played:
    """A step as it came out.

    Attributes:
        step: The step.
        verdict: What was decided.
        differences: In which ways that is not what was expected; empty if it is.
    """

    step: Step
    verdict: Verdict
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """A case as it came out.

    Attributes:
        case: The case.
        steps: Its steps, up to the first that came out otherwise than expected.
    """

    case: Case
    steps: tuple[Played, ...]

    @property
    def passed(self) -> bool:
        """Whether all of it came out as expected."""
        return not any(step.differences for step in self.steps)

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        return {
            "name": self.case.name,
            "passed": self.passed,
            "steps": [
                {
                    "action": played.step.action,
                    "expected": played.step.expect,
                    "verdict": played.verdict.verdict,
                    "code": played.verdict.code,
                    "rule_id": played.verdict.rule_id,
                    "message": played.verdict.message,
                    "differences": list(played.differences),
                }
                for played in self.steps
            ],
        }


class Unplayable(ValueError):
    """A case cannot be played as it is written; the message names it."""


def session_of(
    policy: Policy, catalogue: object, principal: dict[str, object], at_ms: int, clocks: Clocks | None
) -> Session:
    """Begins a run in memory; without a catalogue, every call is an action."""
    actions = cast("Catalogue", with_kinds(catalogue) or ANYTHING)
    return Session(policy, actions, principal, now_ms=at_ms, clocks=clocks)


def play(policy: Policy, case: Case, catalogue: object = None, clocks: Clocks | None = None) -> Result:
    """Plays a case.

    Args:
        policy: The policy.
        case: The case.
        catalogue: The actions there are; without, every call is one, with any arguments.
        clocks: What clocks say in a zone, for policies that ask.

    Raises:
        Unplayable: What a case says of the past is no action of the catalogue.
    """
    session = session_of(policy, catalogue, dict(case.principal), case.at_ms, clocks)
    played: list[Played] = []
    for step in case.steps:
        try:
            prepare(session, policy, step)
        except ActionRefused as refused:
            raise Unplayable(f"case {case.name!r}: its history or reads: {refused}") from None
        verdict = propose(session, step)
        found = tuple(differences(step, verdict))
        played.append(Played(step, verdict, found))
        if found:
            break
        conclude(session, step, verdict)
    return Result(case, tuple(played))


def prepare(session: Session, policy: Policy, step: Step) -> None:
    """Brings about what is so before a step.

    Raises:
        ActionRefused: An action of the past has no canonical form.
    """
    session.advance(step.after_ms)
    for said in step.user_says:
        session.user_says(said)
    for read in step.reads:
        _take_in(session, policy, read)
    session.labels.update(step.labels)
    for label, role in step.released:
        session.release(label, f"some {role}", [role])
    for past in step.history:
        _remember(session, past)


def _take_in(session: Session, policy: Policy, read: Read) -> None:
    action = session._catalogue.action(read.action, read.args)
    principal = session.facts().principal
    program = program_of(policy)
    role = str(principal.get("role", ""))
    by_field: dict[str, tuple[str, ...]] = {}
    if role in policy.roles:
        external = program.is_external(action.name, declared=action.external)
        plan = program.plan(role, action.name, external=external)
        context = Context(action.name, external, action.args, session.facts(), program)
        by_field = dict(yields_of(plan, getattr(action, "yields", {}), context))
    session.sources.tool(read.action, read.output, {*by_field.pop("", ()), *read.labels}, by_field)


def _remember(session: Session, past: Past) -> None:
    action = session._catalogue.action(past.action, past.args)
    principal = {**session.facts().principal, **past.principal}
    at_ms = session.now_ms - past.ago_ms
    for _ in range(past.times):
        event = cast("EventKind", past.event)
        session.history.add(Event(action.name, action.args, event, at_ms, principal, external=action.external))


def propose(session: Session, step: Step) -> Verdict:
    """Proposes a step; with approvals it is proposed, consented to, and proposed again."""
    verdict = session.propose(step.action, step.arguments, estimate=step.estimate)
    if verdict.verdict != "needs_approval" or not (step.approvals or step.refused):
        return verdict
    if step.refused:
        session.refuse()
    for consent in step.approvals:
        session.approve(consent.by, kind=consent.kind, roles=consent.roles)
    return session.propose(step.action, step.arguments, estimate=step.estimate)


def conclude(session: Session, step: Step, verdict: Verdict) -> None:
    """Tells what became of an allowed step."""
    if not verdict.allowed or step.outcome == "pending":
        return
    if step.outcome == "succeeded":
        session.succeeded(step.output)
    elif step.outcome == "failed":
        session.failed()
    else:
        session.unknown()


def differences(step: Step, verdict: Verdict) -> Iterator[str]:
    """Yields in which ways a verdict is not what a step expects."""
    if verdict.verdict != step.expect:
        yield f"expected {step.expect}, but it is {verdict.verdict}"
    if step.code is not None and verdict.code != step.code:
        yield f"expected the code {step.code}, but it is {verdict.code}"
    if step.rule is not None and verdict.rule_id != step.rule:
        yield f"expected rule {step.rule} to decide, but {verdict.rule_id or 'no rule'} does"
    if step.because is not None and step.because not in verdict.message:
        yield f"expected {step.because!r} in the message, but it is {verdict.message!r}"
    if step.needs is not None:
        waiting = sorted({need.name for ask in verdict.gates for need in ask.waiting})
        if waiting != sorted(step.needs):
            yield f"expected consent of {', '.join(sorted(step.needs))} to be needed, but it is {', '.join(waiting) or 'nobody'}"
