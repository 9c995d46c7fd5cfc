"""A recorded decision is explained on its own facts, by the policy of the hash that it names, and what cannot be said is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from holdfast_verdict import Catalogue, Facts, History, compile_policy, decide
from holdfast_verdict.check.explaining import explain
from holdfast_verdict.check.recorded import Told, explain_record, policy_hash_of
from holdfast_verdict.engine.verdict import Verdict
from holdfast_verdict.record import policy_part_a

CATALOGUE = Catalogue.of(
    {
        "refund": {"parameters": {"type": "object", "properties": {"amount": {"type": "integer"}}}},
        "notify": {"parameters": {"type": "object", "properties": {}}},
    }
)
POLICY = compile_policy(
    """
role desk {
  permit refund where args.amount <= 500 as small
  permit notify
  gate large: refund where args.amount > 100 and principal.project == "p" needs 1 of role("finance")
}
invariant never-at-night:
  forbid refund when principal.user == "night"
invariant notify-first:
  refund requires notify succeeded within 1h
""",
    CATALOGUE,
)
PRINCIPAL = {"tenant": "acme", "project": "p", "user": "ann", "agent": "a", "role": "desk", "run": "r"}
SUBJECT: dict[str, Any] = {"run_id": "r", "step": 1, "try": 1, "agent": "a", "role": "desk"}


def record(
    amount: int, *, user: str = "ann", notified: bool = True, refusal: dict[str, Any] | None = None
) -> tuple[bytes, Verdict]:
    action = CATALOGUE.action("refund", {"amount": amount})
    history = History(POLICY)
    principal = {**PRINCIPAL, "user": user}
    if notified:
        history.add({"action": "notify", "args": {}, "event": "requested", "at_ms": 1_000, "principal": principal})
        history.add({"action": "notify", "args": {}, "event": "succeeded", "at_ms": 2_000, "principal": principal})
    verdict = decide(POLICY, action, Facts(principal=principal, now_ms=10_000, history=history))
    part_a = policy_part_a(
        subject=SUBJECT, action=action, policy_hash=POLICY.policy_hash, verdict=verdict, refusal=refusal, prices={}
    )
    return part_a, verdict


def told_of(part_a: bytes, verdict: Verdict) -> Told:
    return explain_record(part_a, POLICY, verdict)


@pytest.mark.parametrize(
    ("amount", "user", "notified", "rule", "nearly"),
    [
        (50, "ann", True, "small", {"never-at-night", "notify-first", "large"}),
        (700, "ann", True, "", {"small"}),
        (300, "ann", True, "large", set()),
        (50, "ann", False, "notify-first", {"never-at-night"}),
    ],
)
def test_it_says_what_a_hypothetical_request_of_the_same_facts_would(
    amount: int, user: str, notified: bool, rule: str, nearly: set[str]
) -> None:
    part_a, verdict = record(amount, user=user, notified=notified)
    told = told_of(part_a, verdict)
    assert told.explanation.verdict.rule_id == rule
    assert nearly <= {each.rule_id for each in told.explanation.nearly}
    assert told.notes == ()
    known = {each.rule_id for each in told.explanation.rules}
    assert [words for words in told.cannot if "gate large" not in words] == []
    assert (len(told.cannot) == 1) == ("large" not in known)
    facts = Facts.from_json(orjson.loads(part_a)["facts"])
    whole = explain(POLICY, CATALOGUE.action("refund", {"amount": amount}), facts)
    same = [(each.rule_id, each.fires) for each in whole.rules if each.rule_id in known]
    assert same == [(each.rule_id, each.fires) for each in told.explanation.rules]
    assert policy_hash_of(part_a) == POLICY.policy_hash.hex()


def test_what_was_not_looked_at_and_not_recorded_is_named_and_not_made_up() -> None:
    part_a, verdict = record(300, user="night")
    told = told_of(part_a, verdict)
    assert told.explanation.verdict.rule_id == "never-at-night"
    assert [each.rule_id for each in told.explanation.rules] == ["never-at-night", "notify-first", "small"]
    [cannot] = told.cannot
    assert "gate large" in cannot
    assert cannot.endswith('principal.project == "p"')
    told = told_of(*record(50))
    large = next(each for each in told.explanation.rules if each.rule_id == "large")
    assert [asked.values for asked in large.conditions] == [
        (("args.amount", 50),),
        (("principal.project", "not recorded"),),
    ]


def test_what_stood_against_it_besides_the_policy_is_told() -> None:
    part_a, verdict = record(50)
    denied = replace(verdict, verdict="deny", code="budget.cap_exceeded", message="no money")
    told = told_of(part_a, denied)
    assert told.explanation.verdict.code == "budget.cap_exceeded"
    assert "allow policy.permitted" in told.notes[0]
    refused, _ = record(50, refusal={"code": "price.unknown", "message": "nobody knows"})
    told = told_of(refused, replace(verdict, verdict="deny", code="price.unknown", message="nobody knows"))
    assert "price.unknown stood against it" in told.notes[0]


def test_a_record_that_comes_out_otherwise_is_called_that() -> None:
    part_a, verdict = record(50)
    forged = orjson.loads(part_a)
    forged["action"]["args"]["amount"] = 9_000
    told = told_of(orjson.dumps(forged), verdict)
    assert "evaluated again it comes out as deny" in told.cannot[0]


def test_what_is_erased_older_or_of_another_policy_explains_nothing() -> None:
    part_a, verdict = record(50)
    other = compile_policy("role desk {\n  permit refund\n}\n")
    older = orjson.dumps({**orjson.loads(part_a), "engine": "rules/2"})
    without = orjson.loads(part_a)
    del without["facts"]
    assert "was deleted" in told_of(b"", verdict).cannot[0]
    for erased in (b"null", b"[]", b"{}", orjson.dumps(without), part_a[:100]):
        told = told_of(erased, verdict)
        assert (told.explanation.verdict, told.explanation.rules) == (verdict, ())
        assert "erased" in told.cannot[0]
    for given, policy, words in (
        (part_a, None, "is not kept here"), (part_a, other, "not the one that decided"), (older, POLICY, "rules/2"),
    ):  # fmt: skip
        told = explain_record(given, policy, verdict)
        assert told.explanation.rules == ()
        assert words in told.cannot[0]
    assert "something else than an action" in explain_record(b'{"v":1}', None, verdict, of_action=False).notes[0]


def test_no_part_that_is_broken_raises() -> None:
    part_a, verdict = record(300)
    whole = orjson.loads(part_a)
    for member in whole:
        for broken in (None, [], {}, "x", 7, [1], {"x": 1}, True):
            explain_record(orjson.dumps({**whole, member: broken}), POLICY, verdict).to_json()
