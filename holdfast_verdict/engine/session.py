"""A run in memory: proposes actions, keeps what follows from them, and so decides as a whole run would be decided.

It is for tests, simulations and benchmarks of policies. Nothing in it executes, and nothing is kept when it ends; the server keeps the
same things in its database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.actions.refused import ActionRefused
from holdfast_verdict.engine.deciding import decide
from holdfast_verdict.engine.facts import Approval, ApproverKind, Consent, Estimate, Facts, LocalTime, Release
from holdfast_verdict.engine.gates import approval_binding
from holdfast_verdict.engine.history import Event, EventKind, History
from holdfast_verdict.engine.usage import Usage
from holdfast_verdict.engine.verdict import Verdict
from holdfast_verdict.provenance.sources import Sources

if TYPE_CHECKING:
    from holdfast_verdict.actions.catalogue import Catalogue
    from holdfast_verdict.policy import Policy

Clocks = Callable[[str, int], LocalTime]
"""Tells what the clocks of a zone say at a time. There are no time zones without their tables, which are somebody's files."""

_FREE: Final = Estimate(0, 0)


class NothingProposed(ValueError):  # a mistake of whoever drives the session
    """There is no step to which this could be said."""


@dataclass(slots=True)
class Step:
    """What was proposed.

    Attributes:
        name: The action's name.
        action: Its canonical form; `None` if it has none.
        verdict: What was decided.
        at_ms: When.
        outcome: What became of it, once that was told.
    """

    name: str
    action: CanonicalAction | None
    verdict: Verdict
    at_ms: int
    outcome: EventKind | None = None


class Session:
    """One run in memory.

    Attributes:
        now_ms: The time, which only whoever drives the session sets.
        sources: What the run was told and has read.
        history: What it has done.
        usage: What it has used up of limits.
        labels: Labels that it carries beside those of its sources.
        released: Releases that were recorded.
        steps: What it has proposed, in order.
    """

    def __init__(
        self,
        policy: Policy,
        catalogue: Catalogue,
        principal: Mapping[str, object],
        *,
        now_ms: int = 0,
        clocks: Clocks | None = None,
        labels: Iterable[str] = (),
    ) -> None:
        """Begins a run.

        Args:
            policy: The policy that decides.
            catalogue: The actions that there are.
            principal: Who acts: tenant, project, user, agent, role, run.
            now_ms: The time.
            clocks: What clocks say, for policies that ask.
            labels: Labels that the run carries from the beginning.
        """
        self._policy = policy
        self._policy_hash = policy.policy_hash
        self._catalogue = catalogue
        self._principal = dict(principal)
        self._clocks = clocks
        self.now_ms = now_ms
        self.sources = Sources()
        self.history = History(policy, principal=self._principal)
        self.usage = Usage(now_ms)
        self.labels = set(labels)
        self.released: list[Release] = []
        self.steps: list[Step] = []
        self._approvals: dict[str, Approval] = {}

    def advance(self, by_ms: int) -> None:
        """Lets time pass."""
        self.now_ms += by_ms

    def user_says(self, text: object) -> None:
        """Takes the user's own words."""
        self.sources.user(text)

    def release(self, label: str, by: str, roles: Iterable[str]) -> None:
        """Records that somebody released a label."""
        self.released.append(Release(label, by, tuple(roles)))

    def facts(self, estimate: Estimate | None = None) -> Facts:
        """Returns what is known now. Without an estimate an action costs nothing here."""
        self.usage.now_ms = self.now_ms
        clocks = self._clocks
        return Facts(
            self._principal,
            self.now_ms,
            {} if clocks is None else {zone: clocks(zone, self.now_ms) for zone in self._policy.zones},
            self.sources.labels | self.labels,
            tuple(self.released),
            self.sources,
            history=self.history,
            usage=self.usage,
            estimate=estimate or _FREE,
        )

    def propose(self, name: str, arguments: object, *, estimate: Estimate | None = None) -> Verdict:
        """Decides on an action. An allow counts as requested from now on, before anything is told of its outcome.

        A step that was consented to is proposed again, with the same arguments: it is decided anew, and the consent is used up.
        """
        try:
            action = self._catalogue.action(name, arguments)  # type: ignore[arg-type]  # it refuses whatever is no arguments
        except ActionRefused as error:
            refused = Verdict("deny", error.verdict_code, str(error))
            self.steps.append(Step(name, None, refused, self.now_ms))
            return refused
        verdict = decide(self._policy, action, replace(self.facts(estimate), approvals=self._standing(action)))
        self.steps.append(Step(name, action, verdict, self.now_ms))
        if verdict.allowed:
            for leg in verdict.legs:
                self.usage.hold(leg)
            for approval_id in verdict.approvals:
                self._approvals[approval_id] = replace(self._approvals[approval_id], state="consumed")
            self._tell(len(self.steps) - 1, "requested")
        for ask in verdict.gates:
            self._ask(action, ask.rule_id)
        return verdict

    def approve(self, by: str, *, kind: ApproverKind = "user", roles: Iterable[str] = (), step: int = -1) -> None:
        """Records one consent to a step that waits for it."""
        for approval in self._waiting(step):
            consents = (*approval.consents, Consent(by, kind, tuple(roles), self.now_ms))
            self._approvals[approval.approval_id] = replace(approval, consents=consents)

    def refuse(self, *, step: int = -1) -> None:
        """Records that an approver refused a step that waits."""
        for approval in self._waiting(step):
            self._approvals[approval.approval_id] = replace(approval, state="denied")

    def succeeded(self, output: object = None, *, labels: Iterable[str] = (), step: int = -1) -> None:
        """Takes the output of an allowed step, with the labels that policy and catalogue give it, and further ones."""
        self._tell(step, "succeeded")
        taken = self.steps[step]
        by_field = dict(taken.verdict.yields)
        whole = {*by_field.pop("", ()), *labels}
        self.sources.tool(taken.name, output, whole, by_field)

    def failed(self, *, step: int = -1) -> None:
        """Takes in that an allowed step did not have its effect."""
        self._tell(step, "failed")

    def unknown(self, *, step: int = -1) -> None:
        """Takes in that nobody knows whether an allowed step had its effect."""
        self._tell(step, "unknown")

    def _standing(self, action: CanonicalAction) -> tuple[Approval, ...]:
        """Returns what was asked for exactly this action; what was used up, or was found expired before, is asked anew."""
        asked = [each for each in self._approvals.values() if each.approval_id.startswith(action.digest.hex())]
        for each in asked:
            if each.state == "pending" and self.now_ms >= each.expires_at_ms:
                self._approvals[each.approval_id] = replace(each, state="expired")  # from the next time on
        return tuple(each for each in asked if each.state not in ("consumed", "expired"))

    def _tell(self, index: int, event: EventKind) -> None:
        step = self._step(index)
        if step.action is None or not step.verdict.allowed:
            raise NothingProposed(f"step {index} was not allowed, so nothing can have come of it")
        if event != "requested":
            if step.outcome is not None:
                raise NothingProposed(f"the outcome of step {index} was told before")
            step.outcome = event
        name = f"step-{index % len(self.steps)}"
        action = step.action
        self.history.add(
            Event(action.name, action.args, event, self.now_ms, self._principal, name, external=action.external)
        )

    def _step(self, index: int) -> Step:
        if not -len(self.steps) <= index < len(self.steps):
            raise NothingProposed(f"there is no step {index}")
        return self.steps[index]

    def _ask(self, action: CanonicalAction, rule_id: str) -> None:
        """Asks for consent, unless that was done for exactly this before and still stands."""
        prefix = f"{action.digest.hex()} {rule_id}"
        asked = [each for each in self._approvals.values() if each.approval_id.startswith(prefix)]
        if any(each.state == "pending" and self.now_ms < each.expires_at_ms for each in asked):
            return
        rule = next(rule for rule in self._policy.rules if rule.id == rule_id)
        assert rule.gate is not None  # it was the gate that asked
        expires_at_ms = self.now_ms + rule.gate.expires_ms
        binding = approval_binding(self._policy_hash, action.digest, rule_id, rule.gate, expires_at_ms)
        approval_id = f"{prefix} {len(asked)}"
        self._approvals[approval_id] = Approval(
            approval_id, rule_id, binding.hex(), "pending", self.now_ms, expires_at_ms
        )

    def _waiting(self, index: int) -> list[Approval]:
        step = self._step(index)
        gates = {ask.rule_id for ask in step.verdict.gates}
        if step.action is None or not gates:
            raise NothingProposed(f"step {index} does not wait for anybody")
        prefix = step.action.digest.hex()
        return [
            each
            for each in self._approvals.values()
            if each.approval_id.startswith(prefix) and each.rule_id in gates and each.state == "pending"
        ]
