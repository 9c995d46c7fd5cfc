"""reserve: facts → verdict → caps → decision record and hold, in one transaction → permit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from temporalio import activity

from activities.candidate import Candidate, read_candidate, record_candidate
from activities.governor import Governor, log
from holdfast import permits
from holdfast.actions import build, code_run, model_call
from holdfast.actions.build import ActionUnbuildable
from holdfast.actions.form import Action
from holdfast.actions.model_call import ModelCall
from holdfast.actions.run_facts import RunFacts
from holdfast.approvals.asked import Asked, approvals_for, edited_action, read_asked
from holdfast.contracts import names
from holdfast.contracts.gate import ActionRef, Reason, ReserveReply, ReserveRequest
from holdfast.database.engine import transaction
from holdfast.decisions import sealed
from holdfast.errors import HoldfastError
from holdfast.failpoint import failpoint
from holdfast.ids import new_id
from holdfast.ledger.types import (
    CALLS,
    NANO_USD,
    SLOTS,
    TOKENS,
    ApprovalRequest,
    Decision,
    FactsChanged,
    Reservation,
    TryKey,
)
from holdfast.policies.evaluation import Evaluation, Refusal, canonical, evaluate
from holdfast.policies.past import NOTHING_ASKED, Past, read_past
from holdfast.transcript import TranscriptBroken
from holdfast_verdict import record
from holdfast_verdict.canonical import JsonValue, canonical_bytes, digest
from holdfast_verdict.engine.facts import Approval, Estimate
from holdfast_verdict.engine.gates import approval_binding
from holdfast_verdict.engine.verdict import Verdict

HOLD_MARGIN_MS = 60_000
CAP_EXCEEDED = "budget.cap_exceeded"
_CHANGES_MAX = 64


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was asked, with every fact that the decision depends on."""

    run: RunFacts
    action: Action
    approvals: tuple[Approval, ...]
    model_call: ModelCall | None = None
    past: Past = NOTHING_ASKED
    candidate: Candidate | None = None


@dataclass(frozen=True, slots=True)
class _Worst:
    """What the action may cost at worst.

    Attributes:
        amounts: What is held, by unit.
        prices: How that was reckoned, for the record.
        estimate: The same as policies see it; None if it costs nothing.
        refusal: What the reckoning found against the action.
    """

    amounts: Mapping[str, int]
    prices: Mapping[str, JsonValue]
    estimate: Estimate | None = None
    refusal: Refusal | None = None


class Reserve:
    """The local activity that decides."""

    def __init__(self, governor: Governor) -> None:
        self._governor = governor

    @activity.defn(name=names.RESERVE)
    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        """Decides on a try of a step; asked again for the same try, it answers the same (LAW 9)."""
        await failpoint("reserve.before", request.action.kind)
        tenant_id, run_id = await self._governor.whose()
        for _ in range(_CHANGES_MAX):
            asked = await self._ask(tenant_id, run_id, request)
            worst = self._worst(asked)
            reservation = self._reservation(asked, request, worst)
            try:
                decision = await self._governor.ledger.reserve(reservation)
            except FactsChanged:
                continue
            break
        else:
            raise FactsChanged(f"the facts of run {run_id} changed {_CHANGES_MAX} times")
        log.info(
            "action.decided",
            kind=request.action.kind,
            verdict=decision.verdict,
            code=decision.code,
            hold_id=str(decision.hold_id or ""),
        )
        await failpoint("reserve.after", request.action.kind)
        await record_candidate(
            self._governor.engine,
            asked.run,
            asked.candidate,
            asked.action,
            reservation,
            decision,
            estimate=worst.estimate,
            refusal=worst.refusal,
            waits=not request.action.code_hold_id,
        )
        await self._governor.poke(tenant_id, run_id, decision.timeline_seq)
        return self._reply(asked, request, decision)

    async def _ask(self, tenant_id: UUID, run_id: UUID, request: ReserveRequest) -> _Asked:
        async with transaction(self._governor.engine, tenant_id) as connection:
            run = await self._governor.reader.read(connection, tenant_id, run_id)
            asked: tuple[Asked, ...] = ()
            if request.approval_id:
                asked = await read_asked(connection, tenant_id, run_id, request.step)
            edited, call = edited_action(asked, request.approval_id), None
            try:
                if edited is not None:
                    action = build.edited_action(run.agent, run.tools, edited)
                elif request.action.kind == "llm.call":
                    call = await model_call.build(
                        connection,
                        run,
                        bytes.fromhex(request.action.head),
                        step=request.step,
                        try_number=request.try_number,
                        approval_id=request.approval_id,
                    )
                    action = call.action
                else:
                    action = await build.proposed_action(connection, run, request.action, request.step)
            except (ActionUnbuildable, TranscriptBroken, ValueError) as error:
                action = _unbuildable(request.action, str(error))
            past = NOTHING_ASKED
            # what code passes on may be anything that it was given, or made of it: nobody can tell where it comes from (LAW 7)
            told = action.kind == "tool.call" and not request.action.code_hold_id
            proposed = bytes.fromhex(request.action.assistant) if told else None
            if action.known and not action.malformed:
                past = await read_past(
                    connection,
                    run,
                    canonical(action),
                    step=request.step,
                    try_number=request.try_number,
                    head=proposed,
                )
            candidate = await read_candidate(connection, run, action, request, proposed)
        approvals = approvals_for(asked, request.approval_id, action.canonical)
        return _Asked(run, action, approvals, call, past, candidate)

    def _worst(self, asked: _Asked) -> _Worst:
        refused = code_run.tier_refused(asked.action, self._governor.tiers)
        if refused is not None:
            return _Worst(
                {NANO_USD: 0, CALLS: 1}, {}, None, Refusal(refused.code, f"{refused.message}. {refused.remedy}")
            )
        return _worst(asked)

    def _reservation(self, asked: _Asked, request: ReserveRequest, worst: _Worst) -> Reservation:
        run, action = asked.run, asked.action
        evaluation = evaluate(
            run,
            action,
            estimate=worst.estimate,
            approvals=asked.approvals,
            refusal=worst.refusal,
            past=asked.past,
            waits=not request.action.code_hold_id,
        )
        verdict = evaluation.verdict
        lease_ms = self._governor.lease_ms(action.kind)
        return Reservation(
            key=TryKey(run.tenant_id, run.run_id, request.step, request.try_number),
            decision_id=new_id(),
            hold_id=new_id(),
            action=action.canonical,
            digest=action.digest,
            kind=action.kind,
            tool=action.tool,
            idempotent=action.idempotent,
            evaluated=verdict,
            part_a=_record(run, action, request, evaluation, worst.prices),
            versions=run.versions,
            # concurrency: while code runs it waits for what it asks for, so both are in the one slot
            amounts=worst.amounts if request.action.code_hold_id else {**worst.amounts, SLOTS: 1},
            scopes=run.scopes,
            estimate=worst.prices,
            lease_ms=lease_ms,
            # INVARIANT: a hold outlasts every moment at which its permit could still be redeemed
            hold_ms=lease_ms + names.QUEUE_WAIT_MS + HOLD_MARGIN_MS,
            approval=_approval_request(run, action, verdict),
            consumes_approval_id=_consumed(verdict, request),
            funded=run.funded,
            history_head=asked.past.head,
        )

    def _reply(self, asked: _Asked, request: ReserveRequest, decision: Decision) -> ReserveReply:
        permit = ""
        if decision.verdict == "allow":
            assert decision.hold_id is not None  # an allow has a hold: LAW 2
            assert decision.hold_expires_at is not None
            permit = permits.sign(
                permits.Permit(
                    tenant_id=str(asked.run.tenant_id),
                    run_id=str(asked.run.run_id),
                    step=request.step,
                    try_number=request.try_number,
                    kind=asked.action.kind,
                    digest=asked.action.digest.hex(),
                    hold_id=str(decision.hold_id),
                    max_cost_nano_usd=decision.max_cost_nano_usd,
                    expires_at_ms=int(decision.hold_expires_at.timestamp() * 1000),
                    record_hash=decision.record_hash.hex(),
                ),
                self._governor.permit_key,
            )
        expires = decision.approval_expires_at
        # others took from the cap meanwhile: the next try reads anew what is left, and asks for less
        shrinks = decision.code == CAP_EXCEEDED and asked.model_call is not None and asked.model_call.shrinkable
        return ReserveReply(
            verdict=decision.verdict,
            decision_id=str(decision.decision_id),
            hold_id=str(decision.hold_id or ""),
            permit=permit,
            max_cost_nano_usd=decision.max_cost_nano_usd,
            # sentences may quote values, and values do not belong into history: code and rule are enough there (rule 8)
            reasons=(Reason(code=decision.code, rule=decision.rule_id),),
            retryable=decision.retryable or shrinks,
            approval_id=str(decision.approval_id or ""),
            approval_expires_ms=int(expires.timestamp() * 1000) if expires else 0,
        )


def _worst(asked: _Asked) -> _Worst:
    if (code := code_run.worst_case(asked.action)) is not None:
        amounts = {NANO_USD: code.max_cost_nano_usd, CALLS: 1}
        return _Worst(amounts, code.to_json(), Estimate(code.max_cost_nano_usd, 0))
    call, refusal = asked.model_call, None
    if call is None:
        return _Worst({NANO_USD: 0, CALLS: 1}, {})
    if call.refusal is not None:
        refusal = Refusal(call.refusal.code, call.refusal.message)
    if call.estimate is None:
        return _Worst({NANO_USD: 0, CALLS: 1}, {}, None, refusal)
    money, tokens = call.estimate.max_cost_nano_usd, call.estimate.max_tokens_total
    amounts = {NANO_USD: money, CALLS: 1, TOKENS: tokens}
    return _Worst(amounts, call.estimate.to_json(), Estimate(money, tokens), refusal)


def _record(
    run: RunFacts, action: Action, request: ReserveRequest, evaluation: Evaluation, estimate: Mapping[str, JsonValue]
) -> bytes:
    refusal, kept = evaluation.refusal, sealed.seal(action)
    # why arguments are malformed may quote them; the sentence beside the record says it, and goes when they go
    says = "" if refusal is None or (kept is not None and action.malformed) else refusal.message
    return record.policy_part_a(
        subject={
            "tenant_id": str(run.tenant_id),
            "project_id": str(run.project_id),
            "user_id": str(run.user_id),
            "run_id": str(run.run_id),
            "step": request.step,
            "try": request.try_number,
            "agent": run.agent_name,
            "role": run.role,
        },
        action=evaluation.action,
        policy_hash=evaluation.policy_hash,
        verdict=evaluation.verdict,
        refusal=None if refusal is None else {"code": refusal.code, "message": says},
        prices=dict(estimate),
        sealed=kept,
    )


def _consumed(verdict: Verdict, request: ReserveRequest) -> UUID | None:
    """Returns the approval that an allow uses up; PostgreSQL uses up all others of the step with it."""
    if verdict.verdict != "allow" or not verdict.approvals:
        return None
    return UUID(request.approval_id if request.approval_id in verdict.approvals else verdict.approvals[0])


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _approval_request(run: RunFacts, action: Action, verdict: Verdict) -> ApprovalRequest | None:
    if not verdict.gates:
        return None
    ask = verdict.gates[0]  # one after the other: the next reserve asks for the next
    # to the second, so that the binding can be computed again from what is stored
    expires_at = run.now.replace(microsecond=0) + timedelta(milliseconds=ask.gate.expires_ms)
    return ApprovalRequest(
        approval_id=new_id(),
        binding=approval_binding(run.policy.policy_hash, action.digest, ask.rule_id, ask.gate, _ms(expires_at)),
        rule_id=ask.rule_id,
        gate=ask.gate,
        requester_id=run.user_id,
        expires_at=expires_at,
    )


def _unbuildable(reference: ActionRef, message: str) -> Action:
    """Stands for a reference that points at nothing: it is decided and recorded like any action, and denied."""
    value: dict[str, JsonValue] = {"kind": reference.kind, "args": {"reference": reference.model_dump_json()}}
    return Action(
        value,
        canonical_bytes(value),
        digest(value),
        reference.kind,
        "",
        known=True,
        malformed=message or HoldfastError.code,
        idempotent=False,
    )
