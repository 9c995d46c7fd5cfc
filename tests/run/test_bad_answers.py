"""Providers and services that refuse, break, cut off, talk rubbish or hang: a run comes through, and its books are right."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final, Literal

from holdfast_verdict.canonical import JsonValue

from .harness import Rig, Run, Tenant, mail, refund, say, task

WIRES: Final[tuple[Literal["anthropic", "openai"], ...]] = ("anthropic", "openai")
FAULTS: Final[list[tuple[dict[str, JsonValue], str]]] = [
    ({"kind": "status", "status": 429, "retry_after": "1"}, "voided"),
    ({"kind": "status", "status": 500}, "unknown"),
    ({"kind": "status", "status": 408}, "unknown"),
    ({"kind": "cut", "at": "start"}, "unknown"),
    ({"kind": "cut", "at": "middle"}, "committed"),
    ({"kind": "cut", "at": "end"}, "committed"),
    ({"kind": "rubbish", "form": "not_http"}, "unknown"),
    ({"kind": "rubbish", "form": "html"}, "unknown"),
    ({"kind": "stream_error"}, "committed"),
    ({"kind": "error_after_billing"}, "unknown"),
    ({"kind": "hang", "at": "start"}, "unknown"),
    ({"kind": "hang", "at": "middle"}, "committed"),
]


async def test_whatever_the_provider_does_the_run_comes_through(rig: Rig, tenant: Tenant) -> None:
    words = "a long answer in several pieces, so that there is a middle to cut it at"
    runs: list[Run] = []
    for wire in WIRES:
        await rig.think_badly(*(fault for fault, _ in FAULTS))
        runs += await asyncio.gather(*(tenant.start(task(say(words)), wire=wire, max_tries=20) for _ in FAULTS))
        await rig.until_received(len(runs))
    for run in runs:
        # who meets several that hang waits for as many leases
        assert await run.ended(within_s=150) == "succeeded", await run.story()
        assert [entry["text"] for entry in await run.transcript() if entry["kind"] == "assistant"] == [words]
    tries = [await run.states() for run in runs]
    assert {states[-1] for states in tries} == {"committed"}
    # who meets which fault is the provider's to say; together they met them all, each in a try of its own
    assert Counter([state for states in tries for state in states[:-1]]) == Counter(
        [state for _, state in FAULTS] * len(WIRES)
    )
    billed = [one for one in await rig.model_calls() if one["billed"]]
    assert len(billed) <= sum([len(await run.holds()) for run in runs])


async def test_whatever_the_services_do_mails_and_refunds_exist_once(rig: Rig, tenant: Tenant) -> None:
    for kind in ("rate_limited", "answer_lost", "error_before"):
        rig.fault("refunds", kind)
    refunding = await tenant.start(task(refund("BAD-1"), say("done")))
    assert await refunding.ended() == "succeeded"
    assert await refunding.states("tool.call") == ["voided", "unknown", "unknown", "committed"]
    assert len(rig.refunds("BAD-1")) == 1
    rig.fault("mail", "rate_limited")
    rig.fault("mail", "error_before")
    refused = await tenant.start(task(mail("bad 1"), say("a pity")))
    assert await refused.ended() == "succeeded"
    assert await refused.states("tool.call") == ["voided", "voided"]
    assert not rig.mails("bad 1")
    rig.fault("mail", "answer_lost")
    lost = await tenant.start(task(mail("bad 2"), say("done")))
    await lost.until_status("waiting")
    await lost.resolve(await lost.until_hold("unknown", tool="mail.send"), happened=True)
    assert await lost.ended() == "succeeded"
    assert await lost.states("tool.call") == ["committed"]
    assert len(rig.mails("bad 2")) == 1
    told = [entry["content"] for entry in await lost.transcript() if entry["kind"] == "tool_result"]
    assert told == ["a person looked and confirmed that this happened; its answer is lost"]


async def test_a_person_who_says_that_it_did_not_happen_lets_it_happen(rig: Rig, tenant: Tenant) -> None:
    place = "execute.after_outward:tool.call"
    rig.points.park(place)
    run = await tenant.start(task(mail("not yet"), say("done")))
    await rig.points.until_parked(place)
    await rig.kill("executor-1")
    rig.points.clear()
    hold_id = await run.until_hold("unknown", tool="mail.send")
    await run.until_status("waiting")
    assert not rig.mails("not yet")
    await run.resolve(hold_id, happened=False)
    assert await run.ended() == "succeeded"
    assert len(rig.mails("not yet")) == 1


async def test_a_step_that_never_works_ends_and_the_run_is_told_why(rig: Rig, tenant: Tenant) -> None:
    rig.fault("mail", "rate_limited", times=2)
    given_up = await tenant.start(task(mail("never"), say("I could not")), max_tries=2)
    assert await given_up.ended() == "succeeded"
    [told] = [entry["content"] for entry in await given_up.transcript() if entry["kind"] == "tool_result"]
    assert told.startswith("not done: mail.refused")
    await rig.database.execute(
        "DELETE FROM vault_entries WHERE tenant_id = $1 AND name = 'tool.payments'", tenant.tenant_id
    )
    unequipped = await tenant.start(task(refund("NO-KEY"), say("I could not")))
    assert await unequipped.ended() == "succeeded"
    assert await unequipped.states("tool.call") == ["voided"], "trying again does not fill the vault"
    [told] = [entry["content"] for entry in await unequipped.transcript() if entry["kind"] == "tool_result"]
    assert told.startswith("not done: vault.credential_missing")
    assert not rig.refunds("NO-KEY")
