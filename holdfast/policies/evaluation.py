"""An action of a run, held against the run's policy: what the engine said, and what stood against it besides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from holdfast.actions.form import Action
from holdfast.actions.run_facts import RunFacts
from holdfast.policies.clocks import local_times
from holdfast.policies.past import NOTHING_ASKED, Past
from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.actions.kinds import KINDS
from holdfast_verdict.engine.deciding import decide
from holdfast_verdict.engine.facts import Approval, Estimate, Facts
from holdfast_verdict.engine.verdict import Verdict

_FREE: Final = Estimate(0, 0)
GATE_IN_CODE: Final = "approval.not_in_code"
_ASK_ITSELF: Final = "the model has to propose this call itself"
NEEDS_MAX: Final = 12
"""Needs of one gate; PostgreSQL looks at every set of them (`gate_met`)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an action is denied whatever the policy says.

    Attributes:
        code: Stable reason code.
        message: A sentence for people and models.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was evaluated.

    Attributes:
        action: The action, as it was decided.
        policy_hash: Hash of the policy.
        verdict: What holds: the engine's verdict, or a deny by the refusal.
        refusal: What stood against the action besides the policy, if anything.
    """

    action: CanonicalAction
    policy_hash: bytes
    verdict: Verdict
    refusal: Refusal | None


def canonical(action: Action) -> CanonicalAction:
    """Returns an action as the engine takes it: with what its tool's definition says of boundary and labels."""
    name = action.tool if action.kind == "tool.call" else action.kind
    external = action.external
    if action.kind in KINDS:
        external = bool(KINDS[action.kind].get("external", True))
    return CanonicalAction(
        name, action.kind, action.value, action.canonical, action.digest, external, {"": action.yields}
    )


def evaluate(
    run: RunFacts,
    action: Action,
    *,
    estimate: Estimate | None = None,
    approvals: Sequence[Approval] = (),
    refusal: Refusal | None = None,
    past: Past = NOTHING_ASKED,
    waits: bool = True,
) -> Evaluation:
    """Decides on an action by the run's policy; total, like the engine.

    Args:
        run: The run, with its policy and PostgreSQL's time of reading.
        action: The action.
        estimate: What it may cost at worst; without, nothing.
        approvals: Approvals that were asked for it.
        refusal: What stands against it whatever the policy says.
        past: What was read of the run's past.
        waits: Whether whoever asks can wait for days; where not, what needs a consent is refused, and nobody is asked for it.
    """
    asked = canonical(action)
    if not action.known:
        refusal = Refusal("action.unknown", f"{asked.name} is no action that this agent has")
    elif action.malformed:
        refusal = Refusal("action.malformed", action.malformed)
    policy = run.policy.policy
    if past.sources is not None and asked.name in run.tools:
        asked = replace(asked, parameters=run.tools[asked.name].schema())  # what it lists itself is nobody's words
    if action.known and not action.malformed:
        facts = Facts(
            principal=run.principal,
            now_ms=int(run.now.timestamp() * 1000),
            zones=local_times(policy.zones, run.now) if policy.zones else {},
            labels=past.labels,
            released=past.releases,
            sources=past.sources,
            history=past.history,
            usage=past.usage,
            approvals=tuple(approvals),
            estimate=estimate or _FREE,
        )
        verdict = decide(policy, asked, facts)
        refusal = refusal or _unheld(verdict, past)
        if refusal is None and verdict.gates and not waits:
            refusal = Refusal(
                GATE_IN_CODE, f"{asked.name} needs a consent here, and code cannot wait for one: {_ASK_ITSELF}"
            )
    else:
        verdict = Verdict("deny", "action.malformed", "")
    if refusal is not None:
        verdict = replace(verdict, verdict="deny", code=refusal.code, message=refusal.message, gates=(), approvals=())
    return Evaluation(asked, run.policy.policy_hash, verdict, refusal)


def _unheld(verdict: Verdict, past: Past) -> Refusal | None:
    """Says what of a verdict nobody here can hold an action to; it is refused, and never left out (LAW 7)."""
    if verdict.verdict != "deny" and verdict.legs and past.usage is None:
        limits = ", ".join(leg.rule_id for leg in verdict.legs)
        return Refusal("policy.limit_unsupported", f"what is used of the limit {limits} cannot be told")
    if any(len(ask.gate.needs) > NEEDS_MAX for ask in verdict.gates):
        return Refusal("policy.gate_unsupported", f"a gate asks for more than {NEEDS_MAX} kinds of consent")
    return None
