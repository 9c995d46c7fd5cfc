"""Limits: what each asks the ledger to hold, and what is denied because it is known not to fit."""

from __future__ import annotations

import pytest

from holdfast_verdict import decide
from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.engine.facts import Estimate, Facts
from holdfast_verdict.engine.usage import Usage
from holdfast_verdict.engine.verdict import Leg

from .policies import AMOUNT, call, clerk, limit, policy, rule

USD = 1_000_000_000
DAY = 86_400_000


def test_a_limit_becomes_a_leg_for_the_ledger() -> None:
    summed = limit(
        "sum", 2000 * USD, "nano_usd", of=["as_money", AMOUNT, "usd"], window={"rolling_ms": DAY}, per="tenant"
    )
    compiled = policy(
        rule("permit"), rule("limit", name="l", limit=summed), rule("limit", "*", limit=limit("count", 5, "calls"))
    )
    verdict = decide(compiled, call(amount={"$number": "12.5"}), clerk())
    assert verdict.allowed
    assert verdict.legs == (
        Leg("l", "l 86400000 tenant=acme", "nano_usd", 12_500_000_000, 2000 * USD, DAY, "tenant", "acme"),
        Leg("limit-*", "limit-* run run=r1", "calls", 1, 5, "run", "run", "r1"),
    )


@pytest.mark.parametrize(("used", "fits"), [(0, True), (4, True), (5, False), (-9, True)])
def test_what_is_used_up_already_counts(used: int, fits: bool) -> None:
    compiled = policy(rule("permit"), rule("limit", name="l", limit=limit("count", 5, "calls")))
    verdict = decide(compiled, call(), clerk(usage={"l run run=r1": used}))
    assert verdict.allowed is fits
    assert fits or (verdict.code, verdict.rule_id) == ("policy.limit", "l")


def test_a_usage_that_was_not_given_is_none_that_is_zero() -> None:
    compiled = policy(rule("permit"), rule("limit", limit=limit("count", 5, "calls")))
    assert decide(compiled, call(), clerk()).legs  # for the ledger to hold
    assert decide(compiled, call(), clerk(usage={})).code == "facts.missing"
    assert decide(compiled, call(), clerk(usage={"limit-pay run run=r1": None})).code == "facts.missing"


def test_that_a_usage_was_not_given_is_recorded_as_well() -> None:
    compiled = policy(rule("permit"), rule("limit", limit=limit("count", 5, "calls")))
    verdict = decide(compiled, call(), clerk(usage={}))
    assert verdict.facts_read["usage"] == {"limit-pay run run=r1": None}
    assert decide(compiled, call(), Facts.from_json(verdict.facts_read)) == verdict


def test_what_never_fits_is_denied_without_asking_the_ledger() -> None:
    compiled = policy(rule("permit"), rule("limit", limit=limit("sum", 10, "units", of=AMOUNT)))
    assert decide(compiled, call(amount=10), clerk()).allowed
    assert decide(compiled, call(amount=11), clerk()).code == "policy.limit"


@pytest.mark.parametrize(
    ("args", "amount"),
    [
        ({"amount": 3}, 3),
        ({"amount": -3}, 0),
        ({"amount": {"$number": "2.1"}}, 3),
        ({"amount": "3"}, None),
        ({"amount": None}, None),
        ({}, None),
    ],
)
def test_an_amount_is_never_taken_for_less_than_it_is(args: dict[str, JsonValue], amount: int | None) -> None:
    compiled = policy(rule("permit"), rule("limit", limit=limit("sum", 10, "units", of=AMOUNT)))
    verdict = decide(compiled, call("pay", **args), clerk())
    if amount is None:
        assert verdict.code == "policy.limit"
    else:
        assert verdict.legs[0].amount == amount


def test_money_finer_than_a_nano_dollar_cannot_be_held() -> None:
    compiled = policy(
        rule("permit"), rule("limit", limit=limit("sum", USD, "nano_usd", of=["as_money", AMOUNT, "usd"]))
    )
    assert decide(compiled, call(amount={"$number": "0.0000000001"}), clerk()).code == "policy.limit"
    assert decide(compiled, call(amount={"$number": "0.000000001"}), clerk()).legs[0].amount == 1


@pytest.mark.parametrize(("measure", "unit"), [("spend", "nano_usd"), ("tokens", "tokens")])
def test_spend_and_tokens_are_those_of_the_estimate(measure: str, unit: str) -> None:
    compiled = policy(rule("permit"), rule("limit", name="l", limit=limit(measure, 10, unit)))
    known = clerk(estimate=Estimate(7, 7))
    assert decide(compiled, call(), known).legs[0].amount == 7
    assert decide(compiled, call(), clerk(estimate=Estimate(-7, -7))).legs[0].amount == 0
    assert decide(compiled, call(), clerk()).legs[0].amount is None  # the ledger knows, or denies
    usage = {"l run run=r1": 3}
    assert decide(compiled, call(), clerk(estimate=Estimate(7, 7), usage=usage)).allowed
    assert decide(compiled, call(), clerk(estimate=Estimate(8, 8), usage=usage)).code == "policy.limit"
    assert decide(compiled, call(), clerk(usage=usage)).code == "facts.missing"


def test_a_leg_whose_scope_was_not_said_is_for_the_ledger_to_know() -> None:
    compiled = policy(rule("permit"), rule("limit", limit=limit("count", 5, "calls", per="project")))
    assert decide(compiled, call(), clerk()).legs[0].scope is None
    usage = {"limit-pay run project=": 0}
    assert decide(compiled, call(), clerk(usage=usage)).code == "facts.missing"


def test_a_limit_that_does_not_match_asks_for_nothing() -> None:
    compiled = policy(rule("permit"), rule("limit", when=[">", AMOUNT, ["int", 5]], limit=limit("count", 0, "calls")))
    assert decide(compiled, call(amount=5), clerk()).legs == ()
    assert decide(compiled, call(amount=6), clerk()).code == "policy.limit"
    assert decide(compiled, call(amount="x"), clerk()).code == "policy.limit"


def _leg(window: str | int) -> Leg:
    return Leg("l", "k", "calls", 1, 5, window, "run", "r1")


HOUR = 3_600_000
MARCH_1_2024 = 1_709_251_200_000  # 00:00 UTC


@pytest.mark.parametrize(
    ("window", "at_ms", "now_ms", "used"),
    [
        ("hour", HOUR - 1, HOUR, 0),
        ("hour", HOUR, 2 * HOUR - 1, 1),
        ("day", DAY - 1, DAY, 0),
        ("day", DAY, 2 * DAY - 1, 1),
        ("month", MARCH_1_2024 - 1, MARCH_1_2024, 0),
        ("month", MARCH_1_2024 - 29 * DAY, MARCH_1_2024 - 1, 1),
        ("month", MARCH_1_2024, MARCH_1_2024 + 31 * DAY - 1, 1),
        ("month", MARCH_1_2024, MARCH_1_2024 + 31 * DAY, 0),
        ("run", 0, 10**15, 1),
        ("total", 0, 10**15, 1),
        (1000, 0, 1000, 1),
        (1000, 0, 1001, 0),
    ],
)
def test_usage_in_memory_ends_with_its_window(window: str | int, at_ms: int, now_ms: int, used: int) -> None:
    usage = Usage(at_ms)
    usage.hold(_leg(window))
    usage.now_ms = now_ms
    assert usage["k"] == used
