"""Gates: whose consent is needed, which consents count, and what an approval was given for."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_verdict.canonical import digest
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.facts import Approval, Consent
from holdfast_verdict.engine.unknown import Unknown
from holdfast_verdict.policy import Gate, Need, Rule


def approval_binding(policy_hash: bytes, action_digest: bytes, rule_id: str, gate: Gate, expires_at_ms: int) -> bytes:
    """Returns what an approval is given for: policy, exact arguments, who has to consent, and until when."""
    return digest([policy_hash.hex(), action_digest.hex(), rule_id, gate.to_json(), expires_at_ms])


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a gate stands.

    Attributes:
        code: Empty if it is open; else why not.
        message: The same in a sentence.
        waiting: For `approval.required`, what is still missing.
        approval_id: The approval that opened it.
        missing: A fact without which it could not be told.
    """

    code: str
    message: str = ""
    waiting: tuple[Need, ...] = ()
    approval_id: str = ""
    missing: str = ""


def standing(rule: Rule, context: Context, policy_hash: bytes, action_digest: bytes) -> Standing:
    """Says whether the approvals that go with an action open a gate."""
    gate = rule.gate
    assert gate is not None  # the form of a policy says so
    context.read["approvals", ""] = context.facts.approvals
    asked = [approval for approval in context.facts.approvals if approval.rule_id == rule.id]
    if not asked:
        return _required(gate.needs)
    now_ms = context.now_ms()
    if isinstance(now_ms, Unknown):
        return Standing("facts.missing", "whether an approval is still good cannot be told", missing="now_ms")
    bound = [
        approval
        for approval in asked
        if approval.binding == approval_binding(policy_hash, action_digest, rule.id, gate, approval.expires_at_ms).hex()
        and approval.expires_at_ms - approval.asked_at_ms <= gate.expires_ms
    ]
    if not bound:
        return Standing("approval.mismatch", "the approval was given for other arguments, or under another policy")
    stands = [_stands(approval, gate, context, now_ms) for approval in bound]
    return next((each for each in stands if not each.code), stands[-1])


def _required(waiting: tuple[Need, ...]) -> Standing:
    return Standing("approval.required", f"needs the consent of {in_words(waiting)}", waiting)


def in_words(needs: tuple[Need, ...]) -> str:
    """Names those who have to consent."""
    return " and of ".join(f"{need.count} × {need.kind} {need.name}" for need in needs)


_CLOSED = {
    "denied": ("approval.denied", "the approver refused"),
    "expired": ("approval.expired", "nobody consented in time"),
    "consumed": ("approval.consumed", "the approval was used already"),
    "withdrawn": ("approval.withdrawn", "the request for consent was withdrawn"),
}


def _stands(approval: Approval, gate: Gate, context: Context, now_ms: int) -> Standing:
    if approval.state in _CLOSED:
        return Standing(*_CLOSED[approval.state])
    if approval.state not in ("pending", "approved"):
        return Standing("policy.error", f"{approval.state!r} is no state of an approval")
    if now_ms >= approval.expires_at_ms:
        return Standing(*_CLOSED["expired"])
    requester = context.principal("user") if gate.not_requester else None
    if isinstance(requester, Unknown):
        return Standing("facts.missing", "who asked cannot be told from who consents", missing="principal.user")
    agent = context.facts.principal.get("agent")
    context.read["principal", "agent"] = agent
    consents = {
        (consent.kind, consent.by): consent
        for consent in approval.consents
        if approval.asked_at_ms <= consent.at_ms < approval.expires_at_ms
        and not (consent.kind == "user" and gate.not_requester and consent.by == requester)
        and not (consent.kind == "agent" and consent.by == agent)  # nobody consents to what it asked for itself
    }
    escalate = gate.escalate
    stand_in = escalate.to if escalate is not None and now_ms - approval.asked_at_ms >= escalate.after_ms else None
    waiting = _waiting(gate.needs, stand_in, tuple(consents.values()))
    return _required(waiting) if waiting else Standing("", approval_id=approval.approval_id)


def _meets(consent: Consent, need: Need) -> bool:
    if need.kind == "role":
        return consent.kind == "user" and need.name in consent.roles
    return consent.kind == need.kind and consent.by == need.name


def _waiting(needs: tuple[Need, ...], stand_in: Need | None, consents: tuple[Consent, ...]) -> tuple[Need, ...]:
    """Returns the needs that no distribution of the consents meets. Each approver counts for one seat only.

    Whom a gate escalates to may take any seat, once as many of them as it says have consented.
    """
    standing_in = [consent for consent in consents if stand_in is not None and _meets(consent, stand_in)]
    if stand_in is not None and len(standing_in) < stand_in.count:
        standing_in = []
    seats = [need for need in needs for _ in range(need.count)]
    may_take = [
        [n for n, consent in enumerate(consents) if _meets(consent, need) or consent in standing_in] for need in seats
    ]
    taken: dict[int, int] = {}

    def seat(number: int, tried: set[int]) -> bool:
        """Finds an approver for a seat; those who sit elsewhere move if they can (augmenting paths)."""
        for approver in may_take[number]:
            if approver not in tried:
                tried.add(approver)
                if approver not in taken or seat(taken[approver], tried):
                    taken[approver] = number
                    return True
        return False

    empty = [need for number, need in enumerate(seats) if not seat(number, set())]
    return tuple(Need(empty.count(need), need.kind, need.name) for need in dict.fromkeys(empty))
