"""The demo's own checks notice what is not as it should be: good evidence is spoilt in one place at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from email.message import EmailMessage
from itertools import count
from typing import Any

import pytest

from demo.refund_desk.checks import Evidence, check
from demo.refund_desk.story import Told
from holdfast.ids import new_id
from holdfast.ledger.auditor import Audit, Discrepancy
from sdk import Artefact, Cap, CrossCheck, Decision, Difference, Hold, Run
from workers.replay import Replayed

AT = datetime(2026, 6, 1, tzinfo=UTC)
PLOT = b"<svg></svg>"
RUN, TINY = "r-main", "r-tiny"


def hold(
    run_id: str, step: int, tool: str = "", *, try_number: int = 1, state: str = "committed", **action: Any
) -> Hold:
    money = 0 if tool else 100
    return Hold(
        hold_id=f"h-{run_id}-{step}.{try_number}",
        run_id=run_id,
        step=step,
        try_number=try_number,
        kind="tool.call" if tool else "llm.call",
        tool=tool,
        state=state,  # type: ignore[arg-type]  # one of those that there are
        idempotent=True,
        action={"args": action},
        decision_id=f"d-{run_id}-{step}.{try_number}",
        max_cost_nano_usd=money,
        cost_nano_usd=None if state == "unknown" else money // 10,
        created_at=AT,
        expires_at=AT,
        outward_at=AT,
        unknown_at=None,
        settled_at=None if state == "unknown" else AT,
        settled_by="run",
    )


def decision(run_id: str, step: int, verdict: str, code: str, *, try_number: int = 1, tool: str = "") -> Decision:
    return Decision(
        decision_id=f"d-{run_id}-{step}.{try_number}",
        run_id=run_id,
        step=step,
        try_number=try_number,
        kind="tool.call" if tool else "llm.call",
        agent="",
        role="",
        tool=tool,
        verdict=verdict,  # type: ignore[arg-type]  # one of the three
        reason_codes=[code],
        message="",
        rule_id="",
        hold_id=f"h-{run_id}-{step}.{try_number}" if verdict == "allow" else None,
        approval_id=None,
        created_at=AT,
        superseded_at=None,
        leaf_index=None,
        record_hash="",
    )


def run(run_id: str, status: str, spent: int, held: int) -> Run:
    return Run(
        run_id=run_id,
        status=status,  # type: ignore[arg-type]  # one of those that there are
        status_code="",
        status_message="",
        simulated=True,
        project="p",
        user="u",
        agent="a",
        agent_version=1,
        role="r",
        role_version=1,
        parent_run_id=None,
        guaranteed=False,
        created_at=AT,
        started_at=AT,
        cancel_requested_at=None,
        deadline_at=AT,
        ended_at=AT,
        newest_event=1,
        cap_nano_usd=1,
        held_nano_usd=held,
        spent_nano_usd=spent,
    )


def mail(number: int, to: str = "jo@customer.example", text: str = "Hello") -> EmailMessage:
    message = EmailMessage()
    message["Delivered-To"] = to
    message["Subject"] = f"Re: {number}"
    message["In-Reply-To"] = f"<{number}@customer.example>"
    message.set_content(text)
    return message


def refund(order_id: str, amount_usd_cents: int) -> dict[str, Any]:
    return {"order_id": order_id, "amount_usd_cents": amount_usd_cents}


def call(run_id: str, step: int, *, completed: bool = True) -> dict[str, Any]:
    return {"idempotency_key": f"t:{run_id}:{step}", "completed": completed, "usage": {"output_tokens": 5}}


def witnessed(run_id: str, **changes: Any) -> CrossCheck:
    one = CrossCheck(run_id, True, "succeeded", "temporal", False, 1, 50, 9, 9, "", "", [], [], [])
    return replace(one, **changes)


def disagreeing(run_id: str) -> CrossCheck:
    found = Difference("witness.no_permit", "the activity was given no permit", "step-3-try-1", "", "")
    return witnessed(run_id, agrees=False, differences=[found])


def good() -> Evidence:
    steps = count(3)
    holds = [hold(RUN, 1, state="unknown"), hold(RUN, 1, try_number=2), hold(RUN, 2)]
    holds += [hold(RUN, next(steps), "mail.send") for _ in range(8)]
    holds += [hold(RUN, next(steps), "payments.refund") for _ in range(4)]
    holds += [hold(RUN, next(steps), "orders.lookup", tenant="acme")]
    holds += [replace(hold(RUN, next(steps), "code.exec"), max_cost_nano_usd=10, cost_nano_usd=10)]
    allowed = [decision(RUN, h.step, "allow", "policy.permitted", try_number=h.try_number, tool=h.tool) for h in holds]
    refused = [
        decision(RUN, next(steps), "deny", code, tool="x")
        for code in ("tenancy.cross_tenant", "mail.outside_domain", "policy.not_permitted")
    ]
    told = Told(RUN, ["approved"], "executor-1", True, "budget.insufficient", TINY, 50, 404)
    return Evidence(
        told=told,
        simulated=True,
        run=run(RUN, "succeeded", 30, 100),
        tiny_run=run(TINY, "failed", 10, 0),
        decisions=allowed + refused,
        tiny_decisions=[
            decision(TINY, 1, "allow", "policy.permitted"),
            decision(TINY, 2, "deny", "budget.cap_exceeded"),
        ],
        holds=holds,
        tiny_holds=[hold(TINY, 1)],
        caps=[
            Cap(
                "c",
                "tenant",
                "t",
                "acme",
                "nano_usd",
                "total",
                None,
                None,
                True,
                False,
                1_000,
                100,
                40,
                0,
                860,
                [],
                [],
                None,
                None,
            )
        ],
        mails=[mail(number) for number in range(8)],
        refunds=[refund("A-1003", 3490), refund("A-1005", 2795), refund("A-1007", 5990), refund("A-1009", 48900)],
        accounts=["C-2211"],
        provider_calls=[call(RUN, 1, completed=False), call(RUN, 1), call(RUN, 2), call(TINY, 1)],
        audit=Audit(2, 3, 4, 5, ()),
        replays=[Replayed("x", 10, "")],
        witnessed=[witnessed(RUN), witnessed(TINY)],
        artefacts=[Artefact(20, 1, "refunds.svg", len(PLOT), hashlib.sha256(PLOT).hexdigest(), AT)],
        report=PLOT,
    )


def changed(holds: list[Hold], tool: str, **changes: Any) -> list[Hold]:
    """Changes the first hold for a tool, or for a model's call that was settled."""
    place = next(n for n, one in enumerate(holds) if one.tool == tool and one.state == "committed")
    return [replace(one, **changes) if n == place else one for n, one in enumerate(holds)]


def without(evidence: Evidence, code: str) -> list[Decision]:
    """Leaves out the decisions with a code."""
    return [one for one in evidence.decisions if code not in one.reason_codes]


SPOILT: dict[str, Callable[[Evidence], Evidence]] = {
    "the run failed": lambda e: replace(e, run=replace(e.run, status="failed")),
    "simulated and not labelled": lambda e: replace(e, run=replace(e.run, simulated=False)),
    "a mail twice": lambda e: replace(e, mails=[*e.mails[:7], e.mails[0]]),
    "a mail too many": lambda e: replace(e, mails=[*e.mails, mail(99)]),
    "a mail too few": lambda e: replace(e, mails=e.mails[1:]),
    "a mail to the outside": lambda e: replace(e, mails=[*e.mails[1:], mail(0, "records@audit-archive.example")]),
    "a neighbour's name in a mail": lambda e: replace(e, mails=[*e.mails[1:], mail(0, text="Anders Holm")]),
    "a refund twice": lambda e: replace(e, refunds=[*e.refunds, e.refunds[0]]),
    "a refund of another amount": lambda e: replace(e, refunds=[refund("A-1003", 1), *e.refunds[1:]]),
    "a refund that nobody allowed": lambda e: replace(e, refunds=[*e.refunds, refund("A-1001", 1)]),
    "a refund against a person's word": lambda e: replace(e, told=replace(e.told, verdicts=["denied"])),
    "nobody was asked": lambda e: replace(e, told=replace(e.told, verdicts=[])),
    "an account deleted": lambda e: replace(e, accounts=[]),
    "a neighbour's order given away": lambda e: replace(e, decisions=without(e, "tenancy.cross_tenant")),
    "a mail let out": lambda e: replace(e, decisions=without(e, "mail.outside_domain")),
    "a tool let through": lambda e: replace(e, decisions=without(e, "policy.not_permitted")),
    "a hold for another tenant's order": lambda e: replace(
        e, holds=changed(list(e.holds), "orders.lookup", action={"args": {"tenant": "globex"}})
    ),
    "a neighbour sees the run": lambda e: replace(e, told=replace(e.told, neighbour_saw=200)),
    "the executor lived": lambda e: replace(e, told=replace(e.told, killed_executor="")),
    "the governor lived": lambda e: replace(e, told=replace(e.told, killed_governor=False)),
    "an unknown mail": lambda e: replace(e, holds=changed(list(e.holds), "mail.send", state="unknown")),
    "the lost call not tried again": lambda e: replace(e, holds=[e.holds[0], *e.holds[2:]]),
    "a hold left open": lambda e: replace(e, holds=changed(list(e.holds), "mail.send", state="executing")),
    "an answer bought twice": lambda e: replace(e, provider_calls=[*e.provider_calls, call(RUN, 2)]),
    "an answer that nobody recorded": lambda e: replace(e, provider_calls=[*e.provider_calls, call(RUN, 9)]),
    "a second answer cut off": lambda e: replace(e, provider_calls=[*e.provider_calls, call(RUN, 2, completed=False)]),
    "the tiny run went on": lambda e: replace(e, tiny_run=replace(e.tiny_run, status="succeeded")),
    "the tiny run overspent": lambda e: replace(e, tiny_run=replace(e.tiny_run, spent_nano_usd=51)),
    "a run without money admitted": lambda e: replace(e, told=replace(e.told, refused_admission="")),
    "a balance that is not its holds": lambda e: replace(e, run=replace(e.run, spent_nano_usd=21)),
    "a tenant's balance that is not its runs": lambda e: replace(e, caps=[replace(e.caps[0], committed=39)]),
    "books that do not add up": lambda e: replace(
        e, audit=replace(e.audit, discrepancies=(Discrepancy("cap.balance", "acme", str(new_id()), "wrong"),))
    ),
    "a hold without its decision": lambda e: replace(e, decisions=e.decisions[1:]),
    "a history of other code": lambda e: replace(e, replays=[Replayed("x", 10, "Nondeterminism")]),
    "no plot": lambda e: replace(e, artefacts=[], report=b""),
    "another plot than the run's": lambda e: replace(e, report=b"<svg>other</svg>"),
    "code that nobody paid": lambda e: replace(
        e, holds=changed(list(e.holds), "code.exec", cost_nano_usd=0), run=replace(e.run, spent_nano_usd=20)
    ),
    "a history that says otherwise": lambda e: replace(e, witnessed=[witnessed(RUN), disagreeing(TINY)]),
    "no history to ask": lambda e: replace(e, witnessed=[witnessed(RUN), witnessed(TINY, source="none")]),
    "a run that nobody asked about": lambda e: replace(e, witnessed=[witnessed(RUN)]),
    "histories without activities": lambda e: replace(
        e, witnessed=[witnessed(RUN, activities=0), witnessed(TINY, activities=0)]
    ),
    "no history": lambda e: replace(e, replays=[]),
}


def wrong(evidence: Evidence) -> list[str]:
    return [found.text for found in check(evidence) if not found.holds]


def test_good_evidence_is_good() -> None:
    assert wrong(good()) == []


@pytest.mark.parametrize("how", SPOILT)
def test_whatever_is_wrong_is_seen(how: str) -> None:
    assert wrong(SPOILT[how](good())), how


def _texts() -> Iterator[str]:
    for spoil in SPOILT.values():
        yield from wrong(spoil(good()))


def test_every_check_can_fail() -> None:
    assert {found.text for found in check(good())} == set(_texts())
