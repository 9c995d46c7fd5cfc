"""A candidate with known differences gives exactly those, with what follows from them."""

from __future__ import annotations

from typing import Any, Final

import pytest

from holdfast_verdict import Policy
from holdfast_verdict.rehearse.lanes import Lanes, Rehearsal
from holdfast_verdict.rehearse.recorded import Became, Recorded

from .stage import BEGIN_MS, Stage, policy, told

BASE: Final = """
role desk {{
  permit notify
  permit refund where args.amount <= {most} as small
  permit send
  permit fetch
  {more}
}}
label notify yields nothing
label refund yields nothing
{after}
"""
NOTIFY_FIRST: Final = """
invariant notify-first:
  refund requires notify succeeded within 1h with same args.invoice
"""


UNREAD: Final = "args/{}, which was erased"


def of(*, most: int = 500, more: str = "", after: str = "") -> Policy:
    return policy(BASE.format(most=f"usd({most})", more=more, after=after))


def test_what_is_forbidden_is_newly_refused_in_both_views_with_its_rule_and_an_example() -> None:
    stage = Stage(of())
    run = stage.run()
    run.act("refund", {"invoice": "a", "amount": 50})
    run.act("send", {"to": "bob"})
    tally = stage.rehearse(of(after="forbid send as silent"))
    expected = {("newly_refused", "send", "silent"): 1}
    assert told(tally, "as_recorded") == told(tally) == expected
    report: Any = tally.to_json()
    [change] = report["changes"]
    assert change["was"] == {"verdict": "allow", "code": "policy.permitted", "rule": "desk/send-1"}
    [example] = change["examples"]
    assert example["decision_id"] == stage.records[-1].decision_id
    assert example["arguments"] == "{to: text of 3}"


def test_a_refused_action_leaves_no_history_so_what_requires_it_flips() -> None:
    stage = Stage(of(after=NOTIFY_FIRST))
    run = stage.run()
    assert run.act("notify", {"invoice": "a"}) == "allow"
    assert run.act("refund", {"invoice": "a", "amount": 50}) == "allow"
    tally = stage.rehearse(of(after=f'forbid notify when args.invoice == "a" as quiet{NOTIFY_FIRST}'))
    assert told(tally, "as_recorded") == {("newly_refused", "notify", "quiet"): 1}
    assert told(tally) == {("newly_refused", "notify", "quiet"): 1, ("newly_refused", "refund", "notify-first"): 1}


@pytest.mark.parametrize("again", [False, True], ids=["a lower ceiling", "the same limit"])
def test_a_refused_action_frees_a_limit(again: bool) -> None:
    limit = "limit refund sum(args.amount) <= usd(100) per run as purse"
    stage = Stage(of(more=limit))
    run = stage.run()
    assert run.act("refund", {"invoice": "a", "amount": 80}) == "allow"
    assert run.act("refund", {"invoice": "b", "amount": 60}) == "deny"
    assert run.act("refund", {"invoice": "c", "amount": 60}) == "deny"
    more = limit if again else limit.replace("100", "90")
    tally = stage.rehearse(of(more=more, after='forbid refund when args.invoice == "a" as not-a'))
    assert told(tally, "as_recorded") == {("newly_refused", "refund", "not-a"): 1}
    assert told(tally) == {("newly_refused", "refund", "not-a"): 1, ("newly_allowed", "refund", "small"): 1}
    # the third is refused still: the second would have taken what is left, for all that anybody knows
    assert tally.untaken == 1


def test_what_would_have_been_allowed_has_no_outcome_so_it_counts_as_asked_for_and_never_as_done() -> None:
    stage = Stage(
        of(
            most=10,
            after=NOTIFY_FIRST.replace("refund requires notify", "send requires refund").replace(
                " with same args.invoice", ""
            ),
        )
    )
    run = stage.run()
    assert run.act("refund", {"invoice": "a", "amount": 50}) == "deny"
    assert run.act("send", {"to": "bob"}) == "deny"
    after = NOTIFY_FIRST.replace("refund requires notify", "send requires refund").replace(
        " with same args.invoice", ""
    )
    tally = stage.rehearse(of(after=after))
    assert told(tally) == {("newly_allowed", "refund", "small"): 1}
    tally = stage.rehearse(of(after="invariant once:\n  at most 1 refund within 1h"))
    assert told(tally) == {("newly_allowed", "refund", "small"): 1, ("newly_allowed", "send", "desk/send-1"): 1}
    run.act("refund", {"invoice": "b", "amount": 5})
    tally = stage.rehearse(of(after="invariant once:\n  at most 1 refund within 1h"))
    assert told(tally)["newly_refused", "refund", "once"] == 1
    assert told(tally, "as_recorded")["newly_allowed", "refund", "small"] == 1
    assert sum(count.unsure for count in tally.groups.values()) == 2  # both that come after it


def test_a_new_invariant_is_told_from_the_runs_own_records_where_they_are_whole() -> None:
    stage = Stage(of())
    whole = stage.run()
    whole.act("notify", {"invoice": "a"})
    whole.act("refund", {"invoice": "a", "amount": 5})
    whole.act("refund", {"invoice": "b", "amount": 5})
    assert told(stage.rehearse(of(after=NOTIFY_FIRST))) == {("newly_refused", "refund", "notify-first"): 1}
    part = stage.run(begun=False)
    part.act("refund", {"invoice": "c", "amount": 5})
    tally = stage.rehearse(of(after=NOTIFY_FIRST))
    assert told(tally)["untold", "refund", "history of notify"] == 1
    assert told(tally, "as_recorded") == told(tally)


def test_a_failed_step_is_no_step_that_was_done() -> None:
    stage = Stage(of())
    run = stage.run()
    run.act("notify", {"invoice": "a"}, outcome="failed")
    run.act("refund", {"invoice": "a", "amount": 5})
    assert told(stage.rehearse(of(after=NOTIFY_FIRST))) == {("newly_refused", "refund", "notify-first"): 1}


def test_a_limit_of_the_tenant_is_told_from_when_all_is_known() -> None:
    stage = Stage(of())
    for name in "ab":
        stage.run().act("refund", {"invoice": name, "amount": 60})
    candidate = of(more="limit refund sum(args.amount) <= usd(100) per 24h per tenant as purse")
    assert told(stage.rehearse(candidate)) == {("untold", "refund", "use of limit purse"): 2}
    known = stage.rehearse(candidate, since_ms=BEGIN_MS - 25 * 3_600_000)
    assert told(known) == {("newly_refused", "refund", "purse"): 1}


BOSS: Final = 'needs 1 of role("boss"), expires 30m'
ODD: Final = f"gate odd:\n  send where args.to from untrusted {BOSS}"


@pytest.mark.parametrize(
    ("after", "fact"),
    [
        ("forbid send when args.to from untrusted as injected", "sources of args.to"),
        (f"gate big:\n  send {BOSS}\n{ODD}", ""),
        (ODD, "sources of args.to"),
        ('forbid send when principal.roles any in ["intern"] as interns', "principal.roles"),
    ],
)  # fmt: skip
def test_what_a_record_does_not_hold_is_named_and_never_guessed(after: str, fact: str) -> None:
    stage = Stage(of())
    stage.run().act("send", {"to": "bob"})
    found = told(stage.rehearse(of(after=after)))
    if fact:
        assert found == {("untold", "send", fact): 1}
    else:  # one gate that is shut for certain is enough
        assert list(found) == [("newly_gated", "send", "big")]


def test_labels_are_those_that_the_candidate_would_have_given() -> None:
    no_exfil = "label fetch yields secret\ninvariant no-exfil:\n  forbid send when run has secret"
    stage = Stage(of())
    run = stage.run()
    run.act("send", {"to": "before"})
    run.act("fetch", {"url": "x"})
    run.act("send", {"to": "after"})
    tally = stage.rehearse(of(after=no_exfil))
    assert told(tally, "as_recorded") == told(tally) == {("newly_refused", "send", "no-exfil"): 1}
    # without what it would have read the run carries nothing
    assert told(stage.rehearse(of(after=no_exfil + "\nforbid fetch as unread"))) == {
        ("newly_refused", "fetch", "unread"): 1
    }


def family() -> Stage:
    """A run that does something before and after it has started another one, and that one."""
    stage = Stage(of())
    parent = stage.run()
    parent.act("send", {"to": "before"})
    child = stage.run(parent=parent)
    child.act("fetch", {"url": "x"})
    parent.act("send", {"to": "after"})
    child.act("send", {"to": "of the child"})
    return stage


NO_EXFIL: Final = "label fetch yields secret\ninvariant no-exfil:\n  forbid send when run has secret"


def test_what_the_runs_of_a_family_carry_is_not_told_by_the_records_of_one() -> None:
    assert told(family().rehearse(of(after=NO_EXFIL))) == {("untold", "send", "labels"): 2}


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_each_lane_hears_which_runs_have_started_others(workers: int) -> None:
    stage = family()
    candidate, decider = of(after=NO_EXFIL), stage.decider
    forms: Any = candidate.to_json(), decider.to_json()
    with Lanes(Rehearsal(forms[0], forms[1:], workers=workers)) as lanes:
        lanes.take(stage.records)
        assert told(lanes.finish()) == {("untold", "send", "labels"): 2}


def test_a_release_that_no_record_tells_of_is_not_taken_for_none() -> None:
    stage = Stage(of())
    run = stage.run()
    run.act("send", {"to": "before"})
    run.act("fetch", {"url": "x"})
    run.act("send", {"to": "after"})
    released = 'label fetch yields secret\ninvariant no-exfil:\n  forbid send when run has secret unless released by role("dpo")'
    assert told(stage.rehearse(of(after=released))) == {("untold", "send", "released"): 1}


GATE: Final = 'gate big:\n  refund where args.amount > usd(100)\n  needs 1 of role("finance"), expires 30m'


def consented(stage: Stage) -> None:
    run = stage.run()
    assert run.act("refund", {"invoice": "a", "amount": 200}) == "needs_approval"
    run.session.approve("bob", roles=("finance",))
    assert run.act("refund", {"invoice": "a", "amount": 200}, again=True) == "allow"
    assert run.act("send", {"to": "bob"}) == "allow"


def test_who_consented_at_a_gate_has_consented_at_the_same_gate_of_another_policy() -> None:
    stage = Stage(of(after=GATE))
    consented(stage)
    tally = stage.rehearse(of(after=GATE.replace("gate big", "gate large") + "\nforbid send as silent"))
    assert told(tally) == {("newly_refused", "send", "silent"): 1}
    other = stage.rehearse(of(after=GATE.replace("finance", "boss")))
    assert told(other) == {("newly_gated", "refund", "big"): 1}  # nobody was asked for the boss's consent


def test_without_its_gate_a_step_is_done_at_once_and_only_once() -> None:
    stage = Stage(of(after=GATE))
    consented(stage)
    run_limit = "limit refund count <= 1 per run as once"
    tally = stage.rehearse(of(more=run_limit))
    assert told(tally) == {("newly_allowed", "refund", "small"): 1}
    assert tally.untaken == 0  # what would have come of it is known: it was done after all


def test_what_the_ledger_refused_is_not_done_by_a_candidate_that_would_have_allowed_it() -> None:
    stage = Stage(of())
    run = stage.run()
    run.act("notify", {"invoice": "a"}, ledger="deny")
    run.act("refund", {"invoice": "a", "amount": 5})
    assert told(stage.rehearse(of(after=NOTIFY_FIRST))) == {("newly_refused", "refund", "notify-first"): 1}


def test_records_of_other_engines_and_broken_ones_are_counted_and_not_rehearsed() -> None:
    stage = Stage(of())
    stage.add(Recorded("1", "tool.call", "r", BEGIN_MS, "allow", b'{"engine":"rules/2"}'))
    stage.add(Recorded("2", "tool.call", "r", BEGIN_MS, "allow", b"{"))
    stage.run().act("send", {"to": "bob"})
    stage.records.append(stage.records[-1]._replace(superseded=True, became=Became()))
    tally = stage.rehearse(of())
    assert tally.skipped == {"engine rules/2": 1, "unreadable": 1, "superseded": 1}
    assert tally.decisions == 1
    assert not tally.groups


def test_a_record_with_erased_values_is_rehearsed_as_far_as_the_candidate_does_not_read_them() -> None:
    stage = Stage(of())
    run = stage.run()
    run.act("refund", {"invoice": "a", "amount": 50})
    run.act("send", {"to": "bob"})
    stage.erase("invoice", "to")
    tally = stage.rehearse(of(most=20, after='forbid send when args.to == "bob" as not-bob'))
    needs = UNREAD.format("to")
    expected = {("newly_refused", "refund", "policy.not_permitted"): 1, ("untold", "send", needs): 1}
    assert {(change, action, why or "policy.not_permitted"): n for (change, action, why), n in told(tally).items()} == (
        expected
    )
    assert told(tally, "as_recorded").keys() == told(tally).keys()
    assert (tally.decisions, tally.skipped) == (2, {})
    report: Any = tally.to_json()
    assert report["untold"][0]["examples"][0]["arguments"] == "{to: erased}"


@pytest.mark.parametrize(
    ("rule", "names", "told_now"),
    [
        # the first refund may have been of the same invoice, so it stands against the second: nobody can tell that it was another
        ("invariant once: at most 1 refund with same args.invoice", ("invoice",), {("untold", "refund", UNREAD.format("invoice")): 2}),
        ('forbid send after refund where args.invoice == "b" as then', ("invoice",), {("newly_refused", "send", "then"): 1}),
        ('forbid send after refund where args.invoice == "b" as then', (), {}),
        ("invariant little: sum(args.amount) of refund <= usd(500)", ("amount",), {("untold", "refund", UNREAD.format("amount")): 2}),
        ("limit send count <= 1 per run as one", ("to", "invoice"), {}),
    ],
)  # fmt: skip
def test_what_was_erased_of_the_past_stands_against_what_comes_after_it(
    rule: str, names: tuple[str, ...], told_now: dict[tuple[str, str, str], int]
) -> None:
    stage = Stage(of(most=500_000))
    run = stage.run()
    run.act("refund", {"invoice": "a", "amount": 50})
    run.act("refund", {"invoice": "c", "amount": 50})
    run.act("send", {"to": "bob"})
    stage.erase(*names)
    is_limit = rule.startswith("limit")
    candidate = of(most=500_000, more=rule) if is_limit else of(most=500_000, after=rule)
    assert told(stage.rehearse(candidate)) == told_now


def test_an_erased_value_of_the_past_may_have_been_any() -> None:
    once = of(after="invariant once: at most 1 refund with same args.invoice")
    stage = Stage(of())
    run = stage.run()
    run.act("refund", {"invoice": "a", "amount": 50})
    run.act("refund", {"invoice": "b", "amount": 50})
    assert told(stage.rehearse(once)) == {}
    stage.erase("invoice", first=2)  # the run's beginning and the first refund
    assert told(stage.rehearse(once)) == {
        ("untold", "refund", UNREAD.format("invoice")): 1,
        ("newly_refused", "refund", "once"): 1,
    }


@pytest.mark.parametrize("unread", [b'{"engine":"rules/2"}', b"{", b""], ids=["other engine", "broken", "deleted"])
@pytest.mark.parametrize(
    ("rule", "since"), [("per run", False), ("per 1h per tenant", True)], ids=["of the run", "of all runs"]
)
def test_what_nobody_can_read_leaves_a_limit_untold_and_not_free(unread: bytes, rule: str, since: bool) -> None:
    stage = Stage(of())
    run = stage.run()
    begin_ms = stage.now_ms - 3_600_000
    run.act("send", {"to": "bob"})
    stage.records[-1] = stage.records[-1]._replace(part_a=unread)
    run.act("send", {"to": "eve"})
    tally = stage.rehearse(of(more=f"limit send count <= 1 {rule} as one"), since_ms=begin_ms if since else None)
    assert told(tally) == {("untold", "send", "use of limit one"): 1}
    assert sum(tally.skipped.values()) == 1
