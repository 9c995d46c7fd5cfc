"""Whose past counts, once and in full: each case is one that no other test had noticed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from holdfast_verdict import Facts, History, decide
from holdfast_verdict.engine.facts import HistoryFacts
from holdfast_verdict.engine.history import Event, EventMalformed
from holdfast_verdict.engine.series import Last, Total
from holdfast_verdict.engine.unknown import UNKNOWN
from holdfast_verdict.engine.usage import _month_of
from holdfast_verdict.policy import Policy

from .policies import call, clerk, policy, rule, watch
from .test_history import HOUR, INVOICE, after, allowed, at_most, event, requires, sums

NOBODY = {"role": "clerk"}
FORBIDS = rule("forbid", when=["not", ["count<=", "w", 1]], code="policy.invariant")


def code(compiled: Policy, *events: Event, **members: object) -> str:
    history = History.of(compiled, events, clerk().principal)
    return decide(compiled, call(), clerk(**{"history": history, "now_ms": 0, **members})).code


def test_what_is_nobodys_is_added_to_what_is_ones_own() -> None:
    own, nobodys = event("pay", "requested", 0), event("pay", "requested", 0, NOBODY)
    assert allowed(at_most(3), own, nobodys)
    assert not allowed(at_most(2), own, nobodys)
    by_invoice = at_most(2, same=[INVOICE])
    same, untold = event("pay", "requested", 0, invoice=1), event("pay", "requested", 0)
    assert not allowed(by_invoice, same, untold, invoice=1)
    assert allowed(by_invoice, untold, invoice=1)


def test_where_nobody_says_whose_it_is_nothing_counts_twice() -> None:
    compiled = at_most(2, scope="tenant")
    history = History.of(compiled, [event("pay", "requested", 0, NOBODY)])
    assert decide(compiled, call(), Facts(principal=NOBODY, now_ms=1, history=history)).allowed
    mixed = [event("pay", "requested", 0, {"tenant": "acme"}), event("pay", "requested", 0, NOBODY)]
    verdict = decide(compiled, call(), Facts(principal=NOBODY, now_ms=1, history=History.of(compiled, mixed)))
    assert (verdict.code, verdict.trace[0].missing) == ("facts.missing", ("principal.tenant",))


def test_a_scope_that_is_no_name_is_nobodys() -> None:
    assert code(at_most(1), event("pay", "requested", 0, {"run": ["r1"]})) == "policy.invariant"


def test_a_past_action_is_asked_by_who_did_it() -> None:
    compiled = at_most(1, where=["==", ["principal", "user"], ["text", "ann"]])
    own = {**clerk().principal}
    assert not allowed(compiled, event("pay", "requested", 0, own))
    assert allowed(compiled, event("pay", "requested", 0, {**own, "user": "bob"}))


def test_a_watch_that_does_not_count_leaves_the_next_one_to_count() -> None:
    for first in (
        watch("v", where=["false"]),
        watch("v", event="succeeded", keep="last", doubt=False, same=[[["arg", "x"], ["arg", "x"]]]),
    ):
        compiled = policy(rule("permit"), FORBIDS, watches=[first, watch()])
        assert code(compiled, event("pay", "requested", 0)) == "policy.invariant"


def test_the_policys_word_on_what_is_external_goes_for_the_past_too() -> None:
    watches = [watch(actions="external")]
    for external, expected in ((True, "policy.invariant"), (False, "policy.permitted")):
        compiled = policy(rule("permit"), FORBIDS, watches=watches, external={"tell": external})
        assert code(compiled, event("tell", "requested", 0)) == expected


def test_requests_that_are_alike_end_one_by_one() -> None:
    open_, failed = event("read", "requested", 0), event("read", "failed", 1)
    assert code(after(), open_, open_) == code(after(), open_, open_, failed) == "policy.invariant"
    assert allowed(after(), open_, open_, failed, failed)
    much, lost = event("pay", "requested", 0, amount="much"), event("pay", "failed", 1, amount="much")
    compiled = sums(10, event="succeeded")
    assert not allowed(compiled, much, much, lost, amount=3)
    assert allowed(compiled, much, much, lost, lost, amount=3)


def test_what_is_open_counts_only_where_doubt_does() -> None:
    open_ = event("pay", "requested", 0, amount=8)
    assert allowed(sums(10, event="succeeded", doubt=False), open_, amount=3)
    assert not allowed(sums(10, event="succeeded"), open_, amount=3)


def test_what_happened_is_told_once_however_often_it_did() -> None:
    compiled = requires()
    history = History.of(compiled, [event("tell", "succeeded", n) for n in range(3)], clerk().principal)
    assert history.facts(call(), clerk().principal, 10) == HistoryFacts({"w": 1})
    assert code(after("requested"), event("read", "requested", 0)) == "policy.invariant"


def test_the_time_that_a_window_lacks_is_named() -> None:
    compiled = at_most(1)
    verdict = decide(compiled, call(), clerk(history=History(compiled), now_ms=None))
    assert (verdict.code, verdict.trace[0].missing) == ("facts.missing", ("now_ms",))


def test_a_history_of_another_policy_with_the_same_watch_is_taken() -> None:
    other = policy(rule("permit"), FORBIDS, watches=[watch(window_ms=HOUR)])
    history = History.of(other, [event("pay", "requested", 0)], clerk().principal)
    third = policy(rule("permit"), rule("permit", "fly"), FORBIDS, watches=[watch(window_ms=HOUR)])
    assert decide(third, call(), clerk(history=history, now_ms=0)).code == "policy.invariant"


@pytest.mark.parametrize(
    ("past", "present", "counts"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("in-1", "in\u200b-1 ", True),
        ({"$number": "2.0"}, 2, True),
        ({"$number": "2.50"}, {"$number": "2.5"}, True),
        ({"$number": "2.5"}, {"$number": "2.6"}, False),
        (2, "2", False),
        (None, None, True),
    ],
)
def test_a_cap_counts_what_has_the_same_value(past: str, present: str, counts: bool) -> None:
    told = event("pay", "requested", 0, invoice=past)
    assert allowed(at_most(1, same=[INVOICE]), told, invoice=present) is not counts


@pytest.mark.parametrize(
    ("rubbish", "sentence"),
    [
        ({"action": "pay"}, "an event has action, args, event, at_ms, principal, action_id, external"),
        (
            {"action": "pay", "args": {}, "event": "done", "at_ms": 1},
            "an event has a name, arguments, one of requested, succeeded, failed, unknown, and a time in ms",
        ),
        (
            {"action": "pay", "args": {"x": 1.5}, "event": "failed", "at_ms": 1},
            "the arguments of an event have no canonical form: $.x is a float, which canonical JSON does not have",
        ),
    ],
)
def test_an_event_that_is_none_says_why(rubbish: object, sentence: str) -> None:
    with pytest.raises(EventMalformed) as raised:
        History(at_most(9)).add(rubbish)
    assert str(raised.value) == sentence


def test_what_is_told_late_moves_nothing_back() -> None:
    last = Last()
    last.add(10)
    last.add(5)
    assert [last.happened(since) for since in (None, 5, 10, 11)] == [1, 1, 1, 0]


def test_a_total_without_a_window_or_without_a_time_is_all() -> None:
    ever, windowed = Total(None), Total(100)
    assert (ever.since(None), ever.since(3), windowed.since(None), windowed.since(3)) == (0, 0, 0, 0)
    for at_ms, amount in ((1, 5), (2, 7), (200, 1)):
        ever.add(at_ms, amount)
        windowed.add(at_ms, amount)
    assert (ever.since(None), ever.since(100), windowed.since(None), windowed.since(100)) == (13, 13, 13, 1)


def test_a_sum_whose_past_was_dropped_cannot_be_told() -> None:
    compiled = sums(10**6)
    events = [event("pay", "requested", HOUR * n, amount=1) for n in range(200)]
    history = History.of(compiled, events, clerk().principal)
    late = decide(compiled, call(amount=1), clerk(history=history, now_ms=0))
    assert (late.code, late.facts_read["history"]) == ("policy.invariant", {"w": None})
    assert decide(compiled, call(amount=1), clerk(history=history, now_ms=HOUR * 200)).facts_read["history"] == {"w": 1}
    assert Total(1).since(5) is not UNKNOWN


def test_months_are_counted_from_the_year_nought() -> None:
    epoch, day = datetime(1970, 1, 1, tzinfo=UTC), timedelta(days=1)
    for year in range(1, 2402):
        for month in range(1, 13):
            first = (datetime(year, month, 1, tzinfo=UTC) - epoch) // timedelta(milliseconds=1)
            assert _month_of(first) == 12 * year + month - 1
            if first > -62_135_596_800_000:
                assert _month_of(first - day // timedelta(milliseconds=1)) == 12 * year + month - 2
