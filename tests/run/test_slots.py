"""Caps on slots: how much may run at once, and that it is given back."""

from __future__ import annotations

import pytest

from holdfast.ledger.types import SLOTS

from .harness import PERMIT_ALL, Rig, Tenant, call, mail, say, task

RULES = (*PERMIT_ALL, 'permit code.exec as "compute"')
TOOLS = ("code.exec", "mail.send")


async def taken(rig: Rig, tenant: Tenant) -> tuple[int, int]:
    """What of the cap is reserved, and what is committed."""
    (row,) = await rig.rows(
        "SELECT reserved, committed FROM caps WHERE tenant_id = $1 AND unit = 'slots'", tenant.tenant_id
    )
    return row["reserved"], row["committed"]


async def test_where_nothing_may_run_nothing_runs(rig: Rig, tenant: Tenant) -> None:
    await tenant.limit(0, SLOTS)
    run = await tenant.start(task(say("done")))
    assert await run.ended() == "failed budget.cap_exceeded"
    assert await run.holds() == []


async def test_what_runs_takes_the_slot_of_others_and_gives_it_back(rig: Rig, tenant: Tenant) -> None:
    await tenant.limit(1, SLOTS)
    rig.points.park("outcome.before:tool.call")
    first = await tenant.start(task(mail("slots: the first"), say("done")))
    await rig.points.until_parked("outcome.before:tool.call")
    assert await taken(rig, tenant) == (1, 0)
    second = await tenant.start(task(say("done")))
    assert await second.ended() == "failed budget.cap_exceeded"
    rig.points.release("outcome.before:tool.call")
    assert await first.ended() == "succeeded"
    assert await taken(rig, tenant) == (0, 0)
    third = await tenant.start(task(mail("slots: the third"), say("done")))
    assert await third.ended() == "succeeded"
    assert len(rig.mails("slots: the third")) == 1


@pytest.mark.parametrize("limit", [1, 2])
async def test_what_code_asks_for_is_in_the_slot_of_the_code(rig: Rig, tenant: Tenant, limit: int) -> None:
    await tenant.limit(limit, SLOTS)
    text = f"""
from holdfast_guest import tool
for n in range(3):
    tool("mail.send", to=["jo@customer.example"], subject=f"slots {limit} {{n}}", body="Dear customer, it is done.")
"""
    step = call("code.exec", code=text, timeout_ms=60_000)
    run = await tenant.start(task(step, say("done")), rules=RULES, tools=TOOLS)
    assert await run.ended() == "succeeded"
    assert [len(rig.mails(f"slots {limit} {n}")) for n in range(3)] == [1, 1, 1]
    assert await run.states(tool="mail.send") == ["committed"] * 3
    assert await taken(rig, tenant) == (0, 0)
