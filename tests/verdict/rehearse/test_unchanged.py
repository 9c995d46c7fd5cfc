"""The very policy that decided changes nothing, whatever it is and whatever it read; and parts add up to the whole."""

from __future__ import annotations

import hashlib
import random
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_verdict import Facts, Policy, decide
from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.canonical import canonical_bytes
from holdfast_verdict.engine.history import EventKind
from holdfast_verdict.record import policy_part_a
from holdfast_verdict.rehearse.lanes import Lanes, Rehearsal
from holdfast_verdict.rehearse.recorded import ADMISSION, Became, Recorded
from holdfast_verdict.rehearse.rehearsing import Rehearser
from holdfast_verdict.rehearse.tally import Tally
from tests.verdict.engine.generated import actions, facts, policies

from .stage import Stage, policy

# whole policies and facts take their time to be thought of, more so on a busy machine
SLOW: Final = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
OUTCOMES: Final = st.sampled_from(["succeeded", "failed", "unknown", None])


def canonical(value: Any) -> CanonicalAction:
    raw = canonical_bytes(value)
    return CanonicalAction(value["tool"], "tool.call", value, raw, hashlib.sha256(raw).digest(), external=True)


def record(number: int, decider: Policy, action: CanonicalAction, known: Facts, outcome: Any) -> Recorded:
    verdict = decide(decider, action, known)
    subject: Any = {"agent": "a", "role": known.principal["role"], "run_id": "r1", "step": number, "try": 1}
    part_a = policy_part_a(
        subject=subject,
        action=action,
        policy_hash=decider.policy_hash,
        verdict=verdict,
        refusal=None,
        prices={},
    )
    at_ms = 10_000 + number
    became = Became(outcome, at_ms + 1) if verdict.allowed else None
    return Recorded(str(number), action.kind, "r1", at_ms, verdict.verdict, part_a, became=became)


@SLOW
@given(policies, st.lists(st.tuples(actions, facts(), OUTCOMES), max_size=4), st.booleans())
def test_the_policy_that_decided_changes_nothing(decider: Policy, steps: list[Any], begun: bool) -> None:
    admission = Recorded("0", ADMISSION, "r1", 0, "allow", canonical_bytes({"facts": {"parent_run_id": None}}))
    rehearser = Rehearser(decider, {decider.policy_hash.hex(): decider}, since_ms=0 if begun else None)
    if begun:
        rehearser.take(admission)
    for number, (value, known, outcome) in enumerate(steps):
        action = canonical(value)
        rehearser.take(record(number, decider, action, known, outcome))
    assert not rehearser.tally.groups
    assert rehearser.tally.otherwise == [0, 0]
    assert rehearser.tally.untaken == 0
    assert rehearser.tally.decisions == len(steps)


@SLOW
@given(policies, policies, st.lists(st.tuples(actions, facts(), OUTCOMES), min_size=1, max_size=3))
def test_no_record_and_no_candidate_breaks_it(candidate: Policy, decider: Policy, steps: list[Any]) -> None:
    rehearser = Rehearser(candidate, {decider.policy_hash.hex(): decider})
    for number, (value, known, outcome) in enumerate(steps):
        action = canonical(value)
        rehearser.take(record(number, decider, action, known, outcome))
    assert rehearser.tally.decisions == len(steps)
    assert all(group.would[1] != "policy.error" for group in rehearser.tally.groups if group.change != "untold")


RULES: Final = """
role desk {
  permit notify
  permit refund where args.amount <= usd(500)
  permit send
  permit fetch
  limit refund sum(args.amount) <= usd(%d) per run as purse
}
label notify yields nothing
label fetch yields secret
invariant notify-first:
  refund requires notify succeeded within 1h with same args.invoice
invariant few:
  at most 4 send within 10m
invariant no-exfil:
  forbid send when run has secret
gate big:
  refund where args.amount > usd(100) needs 1 of role("finance"), expires 30m
%s
"""


def played(decider: Policy, *, runs: int = 12) -> Stage:
    """Plays runs that do a bit of everything, always the same."""
    chance = random.Random(7)
    stage = Stage(decider)
    for _ in range(runs):
        run = stage.run(begun=chance.random() < 0.8)
        for _ in range(20):
            outcomes: list[EventKind | None] = ["succeeded", "succeeded", "failed", "unknown", None]
            outcome = chance.choice(outcomes)
            name = chance.choice(["notify", "refund", "refund", "send", "fetch"])
            invoice = chance.choice("ab")
            match name:
                case "notify":
                    run.act(name, {"invoice": invoice}, outcome=outcome)
                case "refund":
                    args = {"invoice": invoice, "amount": chance.choice([20, 60, 150])}
                    verdict = run.act(name, args, outcome=outcome)
                    if verdict == "needs_approval" and chance.random() < 0.7:
                        run.session.approve("bob", roles=("finance",))
                        run.act(name, args, again=True, outcome=outcome)
                case "send":
                    run.act(name, {"to": "bob"}, outcome=outcome)
                case _:
                    run.act(name, {"url": "x"}, outcome=outcome)
    return stage


def test_runs_rehearsed_by_what_decided_them_stay_as_they_were() -> None:
    decider = policy(RULES % (200, ""))
    tally = played(decider).rehearse(decider)
    assert tally.decisions > 200
    assert not tally.groups
    assert tally.otherwise == [0, 0]


def test_the_same_rules_under_other_names_stay_as_they_were() -> None:
    decider = policy(RULES % (200, ""))
    renamed = RULES.replace("purse", "wallet").replace("big", "large").replace("few", "not-many")
    tally = played(decider).rehearse(policy(renamed % (200, "")))
    assert not tally.groups


@pytest.mark.parametrize("workers", [2, 3])
def test_several_processes_find_what_one_finds(workers: int) -> None:
    decider = policy(RULES % (200, ""))
    stage = played(decider)
    candidate = policy(RULES % (90, 'forbid notify when args.invoice == "b" as quiet'))
    one = stage.rehearse(candidate)
    assert len(one.groups) > 3
    form: Any = candidate.to_json()
    deciding: Any = decider.to_json()
    with Lanes(Rehearsal(form, (deciding,), workers=workers)) as lanes:
        lanes.take(stage.records)
        many = lanes.finish()
    assert many.to_json() == one.to_json()
    whole = Tally()
    whole.merge(one)
    assert whole.to_json() == one.to_json()
