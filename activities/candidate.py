"""A candidate in the shadow: asked about the same action on the same facts, recorded beside the decision, never acted on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from activities.governor import log
from holdfast.actions.form import Action
from holdfast.actions.run_facts import RunFacts
from holdfast.contracts.gate import ReserveRequest
from holdfast.database.engine import transaction
from holdfast.errors import HoldfastError
from holdfast.ledger.types import Decision, Reservation
from holdfast.policies import shadow
from holdfast.policies.evaluation import Refusal, canonical, evaluate
from holdfast.policies.past import NOTHING_ASKED, Past, read_past
from holdfast.policies.shadow import ShadowVerdict
from holdfast.policies.version import NO_POLICY_ID
from holdfast_verdict.engine.facts import Estimate
from holdfast_verdict.engine.program import program_of


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a candidate is asked with.

    Attributes:
        run: The run, as if the candidate were its policy.
        past: What the candidate's own rules ask of the past; it differs from what the run's policy asks.
    """

    run: RunFacts
    past: Past


async def read_candidate(
    connection: AsyncConnection, run: RunFacts, action: Action, request: ReserveRequest, head: bytes | None
) -> Candidate | None:
    """Reads what the tenant's candidate asks, before the action is decided and counts itself.

    A try that cites an approval is not looked at: consents are bound to the policy that asked for them, and the step was looked at
    when it asked. What fails here is told, and hinders nothing.
    """
    policy = run.policy
    if policy.shadow is None or policy.shadow_id is None or request.approval_id:
        return None
    candidate = replace(
        policy, policy=policy.shadow, policy_hash=program_of(policy.shadow).policy_hash, policy_id=policy.shadow_id
    )
    as_if = replace(run, policy=candidate)
    if not action.known or action.malformed:
        return Candidate(as_if, NOTHING_ASKED)
    try:
        async with connection.begin_nested():
            past = await read_past(
                connection,
                as_if,
                canonical(action),
                step=request.step,
                try_number=request.try_number,
                head=head,
            )
            return Candidate(as_if, past)
    except (HoldfastError, DBAPIError) as error:
        log.warning("shadow.not_asked", policy_id=str(policy.shadow_id), reason=type(error).__name__)
        return None


async def record_candidate(
    engine: AsyncEngine,
    run: RunFacts,
    candidate: Candidate | None,
    action: Action,
    reservation: Reservation,
    decision: Decision,
    *,
    estimate: Estimate | None,
    refusal: Refusal | None,
    waits: bool,
) -> None:
    """Asks the candidate, and keeps its verdict beside the one that holds, which is made and stays as it is.

    Args:
        engine: Database as the governor.
        run: The run, with the policy that decided.
        candidate: The candidate, if there is one.
        action: The action.
        reservation: What was asked of the ledger; a try that was decided before is not recorded again.
        decision: What came of it.
        estimate: What the action may cost at worst.
        refusal: What stands against it whatever a policy says.
        waits: Whether whoever asks can wait for a consent.
    """
    if candidate is None or decision.decision_id != reservation.decision_id:
        return
    would = evaluate(
        candidate.run, action, estimate=estimate, refusal=refusal, past=candidate.past, waits=waits
    ).verdict
    was = reservation.evaluated
    looked = ShadowVerdict(
        decision_id=decision.decision_id,
        policy_id=candidate.run.policy.policy_id,
        run_id=run.run_id,
        step=reservation.key.step,
        try_number=reservation.key.try_number,
        action=canonical(action).name,
        role=run.role,
        active_id=None if run.policy.policy_id == NO_POLICY_ID else run.policy.policy_id,
        active_verdict=was.verdict,
        active_code=was.code,
        active_rule=was.rule_id,
        verdict=would.verdict,
        code=would.code,
        rule=would.rule_id,
    )
    try:
        async with transaction(engine, run.tenant_id) as connection:
            await shadow.record(connection, run.tenant_id, looked)
    except DBAPIError as error:
        log.warning("shadow.not_recorded", policy_id=str(looked.policy_id), reason=type(error).__name__)
