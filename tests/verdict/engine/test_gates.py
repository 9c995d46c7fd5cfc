"""Gates: whose consent counts, how often, until when, and for what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from holdfast_verdict import decide
from holdfast_verdict.canonical import JsonValue, digest
from holdfast_verdict.engine.facts import Approval, ApprovalState, Consent
from holdfast_verdict.engine.gates import approval_binding
from holdfast_verdict.engine.verdict import Verdict
from holdfast_verdict.policy import Policy

from .policies import AMOUNT, call, clerk, gate, limit, policy, rule

FINANCE, RISK = (1, "role", "finance"), (1, "agent", "risk")
ASKED, NOW, EXPIRES = 9_500, 10_000, 10_500
PAY = call(amount=5)
BOB = Consent("bob", "user", ("finance",), 9_900)
EVE = Consent("eve", "user", ("finance", "legal"), 9_900)
LEE = Consent("lee", "user", ("legal",), 9_900)
RISKS = Consent("risk", "agent", (), 9_900)


def gated(*needs: tuple[int, str, str], **members: Any) -> Policy:  # any member of a gate
    return policy(rule("permit"), rule("gate", name="g", gate=gate(*needs, **members)))


def approval(
    compiled: Policy, *consents: Consent, action: dict[str, JsonValue] = PAY, rule_id: str = "g", **members: Any
) -> Approval:
    asked = next(each for each in compiled.rules if each.id == rule_id)
    assert asked.gate is not None
    expires_at_ms = members.pop("expires_at_ms", EXPIRES)
    binding = approval_binding(compiled.policy_hash, digest(action), rule_id, asked.gate, expires_at_ms)
    given = Approval("a1", rule_id, binding.hex(), "pending", ASKED, expires_at_ms, consents)
    return replace(given, **members)


def decided(compiled: Policy, *consents: Consent, **members: Any) -> Verdict:
    facts = clerk(approvals=(approval(compiled, *consents, **members),), now_ms=members.pop("now_ms", NOW))
    return decide(compiled, PAY, facts)


def test_a_gate_asks_and_says_whom() -> None:
    compiled = gated(FINANCE, RISK)
    verdict = decide(compiled, PAY, clerk())
    assert (verdict.verdict, verdict.code, verdict.rule_id) == ("needs_approval", "approval.required", "g")
    assert [(need.count, need.kind, need.name) for need in verdict.gates[0].waiting] == [FINANCE, RISK]
    assert "finance" in verdict.message
    assert "risk" in verdict.message


def test_a_gate_narrows_and_never_grants() -> None:
    compiled = policy(rule("permit", "other"), rule("gate", name="g", gate=gate(FINANCE)))
    facts = clerk(approvals=(approval(compiled, BOB),))
    assert decide(compiled, PAY, facts).code == "policy.not_permitted"


def test_all_that_is_needed_opens_it_and_the_consent_is_used_up() -> None:
    verdict = decided(gated(FINANCE, RISK), BOB, RISKS)
    assert (verdict.verdict, verdict.code, verdict.approvals) == ("allow", "policy.permitted", ("a1",))


@pytest.mark.parametrize("consents", [(), (BOB,), (RISKS,), (LEE, RISKS), (replace(RISKS, kind="user"), BOB)])
def test_less_than_is_needed_does_not(consents: tuple[Consent, ...]) -> None:
    verdict = decided(gated(FINANCE, RISK), *consents)
    assert (verdict.verdict, verdict.code) == ("needs_approval", "approval.required")


def test_what_the_state_says_opens_nothing() -> None:
    assert decided(gated(FINANCE), state="approved").verdict == "needs_approval"


def test_n_of_m_are_n_different_ones() -> None:
    two = gated((2, "role", "finance"))
    assert decided(two, BOB).verdict == "needs_approval"
    assert decided(two, BOB, replace(BOB, at_ms=9_950)).verdict == "needs_approval"
    assert decided(two, BOB, LEE).verdict == "needs_approval"
    assert decided(two, BOB, EVE).verdict == "allow"


def test_one_approver_of_two_roles_takes_one_seat_and_moves_if_another_comes() -> None:
    both = gated(FINANCE, (1, "role", "legal"))
    assert decided(both, EVE).verdict == "needs_approval"
    assert decided(both, EVE, BOB).verdict == "allow"
    assert decided(both, EVE, LEE).verdict == "allow"
    assert decided(both, BOB, LEE).verdict == "allow"


def test_signers_are_known_by_name_alone() -> None:
    signed = gated((1, "signer", "bank"))
    assert decided(signed, Consent("bank", "signer", (), 9_900)).verdict == "allow"
    assert decided(signed, Consent("bank", "user", ("bank",), 9_900)).verdict == "needs_approval"
    assert decided(gated(RISK), Consent("x", "agent", ("risk",), 9_900)).verdict == "needs_approval"


def test_who_asked_cannot_consent() -> None:
    own = Consent("ann", "user", ("finance",), 9_900)  # the principal's user
    assert decided(gated(FINANCE), own).verdict == "needs_approval"
    assert decided(gated(FINANCE, not_requester=False), own).verdict == "allow"
    assert decided(gated((1, "agent", "a")), Consent("a", "agent", (), 9_900)).verdict == "needs_approval"
    assert (
        decided(gated((1, "agent", "a"), not_requester=False), Consent("a", "agent", (), 9_900)).verdict
        == "needs_approval"
    )


def test_who_asked_has_to_be_known_for_that() -> None:
    compiled = gated(FINANCE)
    nobody = replace(clerk(approvals=(approval(compiled, BOB),)), principal={"role": "clerk"})
    assert decide(compiled, PAY, nobody).code == "facts.missing"
    timeless = clerk(approvals=(approval(compiled, BOB),), now_ms=None)
    assert decide(compiled, PAY, timeless).code == "facts.missing"


@pytest.mark.parametrize(
    ("at_ms", "now_ms", "code"),
    [
        (9_499, NOW, "approval.required"),  # before it was asked for
        (9_500, NOW, "policy.permitted"),
        (10_499, 10_499, "policy.permitted"),
        (10_500, 10_499, "approval.required"),
        (9_900, 10_500, "approval.expired"),
    ],
)
def test_a_consent_counts_from_when_it_is_asked_for_until_it_expires(at_ms: int, now_ms: int, code: str) -> None:
    compiled = gated(FINANCE)
    facts = clerk(approvals=(approval(compiled, replace(BOB, at_ms=at_ms)),), now_ms=now_ms)
    assert decide(compiled, PAY, facts).code == code


@pytest.mark.parametrize("state", ["denied", "expired", "consumed", "withdrawn"])
def test_a_closed_approval_opens_nothing(state: ApprovalState) -> None:
    verdict = decided(gated(FINANCE), BOB, state=state)
    assert (verdict.verdict, verdict.code) == ("deny", f"approval.{state}")


def test_a_state_that_nobody_knows_is_a_deny() -> None:
    assert decided(gated(FINANCE), BOB, state="waved-through").code == "policy.error"


def test_a_newer_approval_stands_beside_one_that_was_used_up() -> None:
    compiled = gated(FINANCE)
    old, new = approval(compiled, BOB, state="consumed"), approval(compiled, BOB, approval_id="a2")
    assert decide(compiled, PAY, clerk(approvals=(old, new))).approvals == ("a2",)
    assert decide(compiled, PAY, clerk(approvals=(new, old))).approvals == ("a2",)


def test_an_approval_is_for_exactly_what_it_was_given_for() -> None:
    compiled = gated(FINANCE)
    given = approval(compiled, BOB)
    edited = decide(compiled, call(amount=6), clerk(approvals=(given,)))
    assert (edited.verdict, edited.code) == ("deny", "approval.mismatch")
    others = [
        gated((2, "role", "finance")),
        gated(FINANCE, not_requester=False),
        gated(FINANCE, expires_ms=2000),
        policy(rule("permit"), rule("permit", "other"), rule("gate", name="g", gate=gate(FINANCE))),
    ]
    for other in others:
        assert decide(other, PAY, clerk(approvals=(given,))).code == "approval.mismatch"
    for forged in (replace(given, expires_at_ms=EXPIRES + 1), replace(given, binding=""), replace(given, binding="00")):
        assert decide(compiled, PAY, clerk(approvals=(forged,))).code == "approval.mismatch"
    longer = approval(compiled, BOB, expires_at_ms=ASKED + 1001)
    assert decide(compiled, PAY, clerk(approvals=(longer,))).code == "approval.mismatch"


def test_an_approval_of_another_gate_opens_nothing() -> None:
    compiled = policy(
        rule("permit"), rule("gate", name="g", gate=gate(FINANCE)), rule("gate", name="h", gate=gate(FINANCE))
    )
    one = approval(compiled, BOB)
    verdict = decide(compiled, PAY, clerk(approvals=(one,)))
    assert [ask.rule_id for ask in verdict.gates] == ["h"]
    both = (one, approval(compiled, BOB, rule_id="h", approval_id="a2"))
    assert decide(compiled, PAY, clerk(approvals=both)).approvals == ("a1", "a2")


def test_everything_is_evaluated_again_after_the_consent() -> None:
    rules = rule("permit"), rule("forbid", when=["run_has", "secret"]), rule("gate", name="g", gate=gate(FINANCE))
    compiled = policy(*rules)
    given = (approval(compiled, BOB),)
    assert decide(compiled, PAY, clerk(approvals=given)).allowed
    assert decide(compiled, PAY, clerk(approvals=given, labels=frozenset({"secret"}))).code == "policy.forbidden"
    limited = policy(
        rule("permit"), rule("limit", limit=limit("count", 1, "calls")), rule("gate", name="g", gate=gate(FINANCE))
    )
    usage = {"limit-pay run run=r1": 1}
    assert decide(limited, PAY, clerk(approvals=(approval(limited, BOB),), usage=usage)).code == "policy.limit"


def test_a_gate_opens_only_when_it_matches() -> None:
    compiled = policy(rule("permit"), rule("gate", when=[">", AMOUNT, ["int", 5]], gate=gate(FINANCE)))
    assert decide(compiled, PAY, clerk()).allowed
    assert decide(compiled, call(amount=6), clerk()).verdict == "needs_approval"
    assert decide(compiled, call(amount="x"), clerk()).verdict == "needs_approval"


def test_whom_it_escalates_to_stands_in_only_after_that_time() -> None:
    need = {"count": 1, "kind": "role", "name": "cfo"}
    compiled = gated(FINANCE, RISK, after_ms=600, to=need)
    cfo = Consent("zoe", "user", ("cfo",), 9_900)

    def opened(now_ms: int, *consents: Consent) -> bool:
        return decide(compiled, PAY, clerk(approvals=(approval(compiled, *consents),), now_ms=now_ms)).allowed

    assert not opened(10_099, cfo, RISKS)
    assert opened(10_100, cfo, RISKS)
    assert not opened(10_100, cfo)  # one approver, one seat
    two = gated(FINANCE, after_ms=600, to={**need, "count": 2})
    given = approval(two, cfo)
    assert not decide(two, PAY, clerk(approvals=(given,), now_ms=10_100)).allowed
    given = approval(two, cfo, replace(cfo, by="yan"))
    assert decide(two, PAY, clerk(approvals=(given,), now_ms=10_100)).allowed
