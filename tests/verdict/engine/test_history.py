"""History: windows end exactly where they say, nothing passes side by side, and what nobody knows counts against the action."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_verdict import Facts, History, decide
from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.engine.facts import HistoryFacts
from holdfast_verdict.engine.history import Event, EventKind, EventMalformed
from holdfast_verdict.engine.series import Total
from holdfast_verdict.engine.unknown import UNKNOWN
from holdfast_verdict.policy import Policy

from .policies import AMOUNT, call, clerk, policy, rule, watch

HOUR = 3_600_000
INVOICE = [["arg", "invoice"], ["arg", "invoice"]]


def event(
    action: str, event: EventKind, at_ms: int, principal: Mapping[str, object] | None = None, **args: JsonValue
) -> Event:
    return Event(action, args, event, at_ms, principal)


def at_most(most: int, *, window_ms: int | None = HOUR, **members: object) -> Policy:
    return policy(
        rule("permit"),
        rule("forbid", when=["not", ["count<=", "w", most]], code="policy.invariant"),
        watches=[watch(window_ms=window_ms, **members)],  # type: ignore[arg-type]  # any member
    )


def requires(**members: object) -> Policy:
    return policy(
        rule("permit"),
        rule("forbid", when=["not", ["happened", "w"]], code="policy.invariant"),
        watches=[
            watch(actions="tell", event="succeeded", keep="last", window_ms=HOUR, doubt=False, **members)  # type: ignore[arg-type]  # of `watch`
        ],
    )


def after(event: str = "succeeded", *, doubt: bool = True, **members: object) -> Policy:
    return policy(
        rule("permit"),
        rule("forbid", when=["happened", "w"], code="policy.invariant"),
        watches=[watch(actions="read", event=event, keep="last", doubt=doubt, **members)],  # type: ignore[arg-type]  # of `watch`
    )


def allowed(compiled: Policy, *events: Event, now_ms: int = 0, **args: JsonValue) -> bool:
    history = History.of(compiled, events, clerk().principal)
    return decide(compiled, call("pay", **args), clerk(history=history, now_ms=now_ms)).allowed


@pytest.mark.parametrize(("ago_ms", "passes"), [(0, False), (HOUR - 1, False), (HOUR, False), (HOUR + 1, True)])
def test_a_cap_counts_what_is_exactly_as_old_as_its_window(ago_ms: int, passes: bool) -> None:
    assert allowed(at_most(1), event("pay", "requested", 0), now_ms=ago_ms) is passes


@pytest.mark.parametrize(("ago_ms", "passes"), [(0, True), (HOUR - 1, True), (HOUR, True), (HOUR + 1, False)])
def test_a_precondition_holds_exactly_as_long_as_its_window(ago_ms: int, passes: bool) -> None:
    assert allowed(requires(), event("tell", "succeeded", 0), now_ms=ago_ms) is passes


def test_the_present_one_is_one_of_the_many() -> None:
    events = [event("pay", "requested", n) for n in range(2)]
    assert allowed(at_most(3), *events)
    assert not allowed(at_most(2), *events)
    assert not allowed(at_most(0))


def test_actions_side_by_side_do_not_pass_together() -> None:
    compiled = at_most(1)
    history = History(compiled, principal=clerk().principal)
    first = decide(compiled, call(), clerk(history=history))
    assert first.allowed
    history.add(event("pay", "requested", 10_000))  # the outcome is not there yet
    assert not decide(compiled, call(), clerk(history=history)).allowed


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "unknown"])
def test_a_cap_counts_requests_whatever_became_of_them(outcome: EventKind) -> None:
    assert not allowed(at_most(1), event("pay", "requested", 0), event("pay", outcome, 1))


def test_an_outcome_of_which_no_request_was_told_is_a_request_as_well() -> None:
    assert not allowed(at_most(1), event("pay", "succeeded", 0))
    assert allowed(at_most(2), event("pay", "requested", 0, invoice="a"), event("pay", "succeeded", 1, invoice="a"))


@pytest.mark.parametrize(
    ("events", "passes"),
    [
        ([], False),
        (["requested"], False),
        (["requested", "failed"], False),
        (["requested", "unknown"], False),
        (["requested", "succeeded"], True),
    ],
)
def test_a_precondition_looks_at_outcomes(events: list[EventKind], passes: bool) -> None:
    assert allowed(requires(), *(event("tell", each, n) for n, each in enumerate(events))) is passes


@pytest.mark.parametrize(
    ("events", "passes"),
    [
        ([], True),
        (["requested"], False),  # it may have had its effect: nobody has said that it has not
        (["requested", "failed"], True),
        (["requested", "unknown"], False),
        (["requested", "succeeded"], False),
    ],
)
def test_what_must_not_have_happened_may_not_be_open_either(events: list[EventKind], passes: bool) -> None:
    assert allowed(after(), *(event("read", each, n) for n, each in enumerate(events))) is passes


def test_after_a_request_is_after_it_whatever_became_of_it() -> None:
    assert not allowed(after("requested"), event("read", "requested", 0), event("read", "failed", 1))


def test_what_they_must_have_in_common_is_compared_by_value() -> None:
    told = event("tell", "succeeded", 0, invoice=7)
    compiled = requires(same=[INVOICE])
    assert allowed(compiled, told, invoice=7)
    assert not allowed(compiled, told, invoice=8)
    assert not allowed(compiled, told, invoice="7")
    assert not allowed(compiled, told)
    assert not allowed(compiled, event("tell", "succeeded", 0), invoice=7)
    nested: JsonValue = {"b": [1, {"$number": "0.5"}], "a": "x"}
    same: JsonValue = {"a": "x", "b": [1, {"$number": "0.5"}]}
    assert allowed(compiled, event("tell", "succeeded", 0, invoice=nested), invoice=same)


def test_a_past_action_that_cannot_be_told_apart_counts_where_it_stands_against() -> None:
    compiled = at_most(1, same=[INVOICE])
    assert allowed(compiled, event("pay", "requested", 0, invoice=1), invoice=2)
    assert not allowed(compiled, event("pay", "requested", 0, invoice=1), invoice=1)
    assert not allowed(compiled, event("pay", "requested", 0), invoice=2)
    assert not allowed(compiled)  # the present one cannot be told apart: unknown, so the forbid fires


def test_a_key_that_is_spelt_otherwise_is_the_same_where_it_stands_against() -> None:
    spelt = "in\u200b-1 "
    assert not allowed(at_most(1, same=[INVOICE]), event("pay", "requested", 0, invoice=spelt), invoice="in-1")
    assert not allowed(requires(same=[INVOICE]), event("tell", "succeeded", 0, invoice=spelt), invoice="in-1")


def test_where_is_asked_of_the_past_action_and_doubt_decides() -> None:
    big = [">", AMOUNT, ["int", 100]]
    assert allowed(at_most(1, where=big), event("pay", "requested", 0, amount=100))
    assert not allowed(at_most(1, where=big), event("pay", "requested", 0, amount=101))
    assert not allowed(at_most(1, where=big), event("pay", "requested", 0, amount="many"))
    assert not allowed(requires(where=big), event("tell", "succeeded", 0, amount="many"))


def test_whose_history_counts() -> None:
    other = {**clerk().principal, "run": "r2"}
    foreign = {**other, "tenant": "other"}
    per_run, per_tenant = at_most(1), at_most(1, scope="tenant")
    assert allowed(per_run, event("pay", "requested", 0, other))
    assert not allowed(per_tenant, event("pay", "requested", 0, other))
    assert allowed(per_tenant, event("pay", "requested", 0, foreign))
    nobodys = event("pay", "requested", 0, {"role": "clerk"})
    assert not allowed(per_tenant, nobodys)  # it may have been ours
    assert not allowed(requires(), event("tell", "succeeded", 0, {"role": "clerk"}))


def test_a_principal_that_does_not_say_whose_it_is_cannot_be_told() -> None:
    compiled = at_most(9, scope="tenant")
    history = History.of(compiled, [event("pay", "requested", 0, {"tenant": "acme"})])
    facts = clerk(history=history)
    bare = decide(compiled, call(), type(facts)(principal={"role": "clerk"}, now_ms=1, history=history))
    assert (bare.code, bare.trace[0].missing) == ("facts.missing", ("principal.tenant",))
    assert (
        decide(compiled, call(), type(facts)(principal={"role": "clerk"}, history=History(compiled))).code
        == "facts.missing"
    )


def test_where_nobody_says_whose_it_is_it_is_the_same_ones() -> None:
    compiled = at_most(1, scope="tenant")
    nobody = {"role": "clerk"}
    history = History.of(compiled, [event("pay", "requested", 0, nobody)])
    verdict = decide(compiled, call(), Facts(principal=nobody, now_ms=1, history=history))
    assert verdict.code == "policy.invariant"


def test_a_history_of_another_policy_is_none() -> None:
    compiled, other = at_most(1), at_most(1, actions="other")
    verdict = decide(compiled, call(), clerk(history=History(other)))
    assert (verdict.code, verdict.trace[0].missing) == ("facts.missing", ("history.w",))


def sums(most: int, **members: object) -> Policy:
    return policy(
        rule("permit"),
        rule("forbid", when=["not", ["sum<=", "w", AMOUNT, most]], code="policy.invariant"),
        watches=[watch(keep="sum", of=AMOUNT, window_ms=HOUR, **members)],  # type: ignore[arg-type]  # of `watch`
    )


def test_sums_are_exact_and_negative_amounts_make_no_room() -> None:
    past = [event("pay", "requested", n, amount={"$number": "0.1"}) for n in range(3)]
    assert allowed(sums(1), *past, amount={"$number": "0.7"})
    assert not allowed(sums(1), *past, amount={"$number": "0.71"})
    assert not allowed(
        sums(10), event("pay", "requested", 0, amount=8), event("pay", "requested", 1, amount=-8), amount=3
    )
    assert not allowed(sums(10), event("pay", "requested", 0, amount=11), amount=-5)
    assert not allowed(sums(10), event("pay", "requested", 0, amount="much"), amount=1)
    assert allowed(sums(10), event("pay", "requested", 0, amount="much"), amount=1, now_ms=HOUR + 1)
    assert not allowed(sums(10), amount="much")


@pytest.mark.parametrize(
    ("told", "total"),
    [
        ((("requested", "0.5"), ("requested", "1.5")), 2),
        ((("requested", "0.5"), ("failed", "0.5")), 0),
        ((("requested", "0.5"), ("requested", "0.75")), {"$number": "1.25"}),
    ],
)
def test_a_sum_of_fractions_is_read_from_its_record_also_when_it_is_whole(
    told: tuple[tuple[EventKind, str], ...], total: JsonValue
) -> None:
    compiled = sums(100, event="succeeded")
    past = [event("pay", kind, n, amount={"$number": amount}) for n, (kind, amount) in enumerate(told)]
    facts = clerk(history=History.of(compiled, past, clerk().principal), now_ms=1)
    verdict = decide(compiled, call("pay", amount=1), facts)
    assert verdict.facts_read["history"] == {"w": total}
    assert decide(compiled, call("pay", amount=1), Facts.from_json(verdict.facts_read)) == verdict


def test_sums_of_what_is_open_count_until_it_failed() -> None:
    compiled = sums(10, event="succeeded")
    open_ = event("pay", "requested", 0, amount=8)
    assert not allowed(compiled, open_, amount=3)
    assert not allowed(compiled, open_, event("pay", "unknown", 1, amount=8), amount=3)
    assert allowed(compiled, open_, event("pay", "failed", 1, amount=8), amount=3)
    assert not allowed(compiled, event("pay", "requested", 0, amount="much"), amount=3)


def test_ids_keep_actions_apart_that_are_alike_and_a_request_told_twice_counts_once() -> None:
    compiled = after()
    same = {"action": "read", "args": {}}
    history = History(compiled, principal=clerk().principal)
    for number in ("1", "2"):
        history.add({**same, "event": "requested", "at_ms": 0, "action_id": number})
    history.add({**same, "event": "failed", "at_ms": 1, "action_id": "1"})
    assert not decide(compiled, call(), clerk(history=history)).allowed
    history.add({**same, "event": "failed", "at_ms": 1, "action_id": "2"})
    assert decide(compiled, call(), clerk(history=history)).allowed
    capped = at_most(2)
    twice = [{"action": "pay", "args": {}, "event": "requested", "at_ms": 0, "action_id": "1"}] * 2
    assert decide(capped, call(), clerk(history=History.of(capped, twice, clerk().principal))).allowed


@pytest.mark.parametrize(
    "rubbish",
    [
        None,
        {},
        {"action": "pay"},
        {"action": "pay", "args": {}, "event": "done", "at_ms": 1},
        {"action": "pay", "args": [], "event": "failed", "at_ms": 1},
        {"action": "pay", "args": {}, "event": "failed", "at_ms": 1.5},
        {"action": "pay", "args": {"x": 1.5}, "event": "failed", "at_ms": 1},
        {"action": "pay", "args": {}, "event": "failed", "at_ms": 1, "more": 1},
    ],
)
def test_an_event_that_is_none_is_refused_and_a_decision_over_it_denies(rubbish: object) -> None:
    compiled = at_most(9)
    with pytest.raises(EventMalformed):
        History(compiled).add(rubbish)
    assert decide(compiled, call(), clerk(history=[rubbish])).code == "policy.error"


def test_a_plain_list_of_events_is_a_history() -> None:
    events = [{"action": "tell", "args": {}, "event": "succeeded", "at_ms": 9_000}]
    assert decide(requires(), call(), clerk(history=events)).allowed
    assert not decide(requires(), call(), clerk(history=[])).allowed


def test_facts_of_a_history_stay_what_they_were() -> None:
    compiled = at_most(2)
    history = History(compiled, principal=clerk().principal)
    facts = history.facts(call(), clerk().principal, 10)
    history.add(event("pay", "requested", 0))
    history.add(event("pay", "requested", 0))
    assert facts == HistoryFacts({"w": 0})
    assert decide(compiled, call(), clerk(history=facts)).allowed
    assert not decide(compiled, call(), clerk(history=history)).allowed


times = st.integers(0, 300)
moves = st.lists(st.tuples(times, st.integers(0, 5)), max_size=200)


@given(moves, st.integers(1, 100), st.integers(0, 400))
def test_a_total_is_the_plain_sum_over_its_window_or_unknown(
    events: list[tuple[int, int]], window_ms: int, now_ms: int
) -> None:
    total = Total(window_ms)
    for at_ms, amount in events:
        total.add(at_ms, Fraction(amount))
    plain = sum(amount for at_ms, amount in events if now_ms - at_ms <= window_ms)
    latest = max((at_ms for at_ms, _ in events), default=0)
    told = total.since(now_ms - window_ms)
    assert told == plain or (told is UNKNOWN and now_ms < latest)


def test_a_total_forgets_what_has_left_its_window() -> None:
    total = Total(100)
    for at_ms in range(10_000):
        total.add(at_ms, 1)
    assert len(total.times_ms) < 300
    assert total.since(9_999 - 100) == 101
    assert total.since(0) is UNKNOWN
    forgotten_ms = total.forgotten_ms
    assert forgotten_ms is not None
    assert total.since(forgotten_ms) is UNKNOWN
    assert total.since(forgotten_ms + 1) == 9_999 - forgotten_ms
