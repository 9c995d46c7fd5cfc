"""Attacks on the emergency stop with real processes: nothing is sent after it, and runs end by it, wherever they are (LAW 1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest

from holdfast.database.engine import transaction
from holdfast.errors import StopActive
from holdfast.tenancy import keys
from sdk import Holdfast, StandingStop
from sdk.types import StopKind

from .captured import permit_of
from .harness import Rig, Run, Tenant, mail, refund, say, task, until
from .rigs import running_rig

REASON = "it mails nonsense"
STOPPED = "failed stop.active"


@pytest.fixture(scope="module")
async def standing_rig() -> AsyncIterator[Rig]:
    """Two executors, and an API that a stop is asked of."""
    async with running_rig(more_parts=("api", "bootstrap"), executors=2) as rig:
        yield rig


@pytest.fixture
async def owner(rig: Rig, tenant: Tenant) -> AsyncIterator[Holdfast]:
    """The client of one who may stop things."""
    async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
        _, key = await keys.create_key(
            connection,
            tenant.tenant_id,
            user_id=tenant.ada.user_id,
            project_id=tenant.ada.project_id,
            roles=["owner"],
        )
    with Holdfast(rig.stack.urls.api, key) as client:
        yield client


async def stop(owner: Holdfast, kind: StopKind = "tenant", name: str = "") -> StandingStop:
    return await asyncio.to_thread(owner.stop, kind, name, reason=REASON)


async def agent_of(run: Run) -> str:
    return str((await run.row())["agent_name"])


async def outside(rig: Rig, tenant: Tenant) -> set[UUID]:
    """The holds whose requests were let out."""
    rows = await rig.rows("SELECT hold_id FROM holds WHERE tenant_id = $1 AND outward_at IS NOT NULL", tenant.tenant_id)
    return {row["hold_id"] for row in rows}


@pytest.mark.parametrize("kind", ["tenant", "agent"])
async def test_a_permit_that_was_given_before_is_refused_and_the_run_ends(
    rig: Rig, tenant: Tenant, owner: Holdfast, kind: StopKind
) -> None:
    place = "redeem.before:tool.call"
    rig.points.park(place)
    run = await tenant.start(task(mail(f"given {kind}"), say("done")))
    other = await tenant.start(task(mail(f"other {kind}"), say("done")))
    await rig.points.until_parked(place, 2)
    await stop(owner, kind, "" if kind == "tenant" else await agent_of(run))
    rig.points.release(place)
    assert await run.ended() == STOPPED, await run.story()
    assert await run.states("tool.call") == ["voided"]
    assert not rig.mails(f"given {kind}")
    refusals = [one for one in await run.decisions() if one["kind"] == "permit"]
    assert [one["reason_codes"] for one in refusals] == [["stop.active"]]
    assert (await run.codes()).count("stop.active") == 3, "the permit, the mail's new try, the model's next call"
    assert (await run.row())["status_message"] == f"an emergency stop is on: {REASON}"
    assert await other.ended() == (STOPPED if kind == "tenant" else "succeeded")
    assert len(rig.mails(f"other {kind}")) == (0 if kind == "tenant" else 1)


async def test_a_run_without_another_try_says_why_it_ended(rig: Rig, tenant: Tenant, owner: Holdfast) -> None:
    """Nobody decides anew here: the code is the one that the broker gave and the executor passed on."""
    place = "redeem.before:llm.call"
    rig.points.park(place)
    run = await tenant.start(task(say("done")), max_tries=1)
    await rig.points.until_parked(place)
    await stop(owner)
    rig.points.release(place)
    assert await run.ended() == STOPPED, await run.story()
    assert await rig.model_calls() == []


async def test_a_permit_redeemed_before_lets_nothing_out(rig: Rig, tenant: Tenant, owner: Holdfast) -> None:
    place = "execute.before_outward:tool.call"
    rig.points.park(place)
    run = await tenant.start(task(mail("redeemed"), say("done")))
    await rig.points.until_parked(place)
    assert (await run.holds(tool="mail.send"))[0]["state"] == "executing"
    assert (await stop(owner)).outside == 0
    rig.points.release(place)
    assert await run.ended() == STOPPED, await run.story()
    [hold] = await run.holds(tool="mail.send")
    assert (hold["state"], hold["outward_at"], hold["cost_nano_usd"]) == ("voided", None, 0)
    assert not rig.mails("redeemed")


async def test_a_model_call_redeemed_before_is_not_made(rig: Rig, tenant: Tenant, owner: Holdfast) -> None:
    place = "execute.before_outward:llm.call"
    rig.points.park(place)
    run = await tenant.start(task(say("done")))
    await rig.points.until_parked(place)
    await stop(owner)
    rig.points.release(place)
    assert await run.ended() == STOPPED, await run.story()
    assert await rig.model_calls() == []
    assert await run.states() == ["voided"]
    assert [one for one in await run.events("decision.made") if REASON in one["data"]["message"]]


async def test_a_stopped_tool_is_refused_to_the_model_and_the_rest_goes_on(
    rig: Rig, tenant: Tenant, owner: Holdfast
) -> None:
    place = "redeem.before:tool.call"
    rig.points.park(place)
    run = await tenant.start(task(mail("stopped tool"), refund("STOP-1"), say("done")))
    await rig.points.until_parked(place)
    await stop(owner, "tool", "mail.send")
    rig.points.release(place)
    assert await run.ended() == "succeeded", await run.story()
    assert not rig.mails("stopped tool")
    assert len(rig.refunds("STOP-1")) == 1
    results = [entry["content"] for entry in await run.transcript() if entry["kind"] == "tool_result"]
    assert results[0] == f"not done: stop.active: an emergency stop is on: {REASON}"


async def test_what_is_outside_comes_back_and_nothing_follows(rig: Rig, tenant: Tenant, owner: Holdfast) -> None:
    rig.fault("mail", "gate")
    run = await tenant.start(task(mail("under way"), mail("after it"), say("done")))
    await rig.until_held()
    assert (await stop(owner)).outside == 1
    rig.world.faults.release()
    assert await run.ended() == STOPPED, await run.story()
    assert await run.states("tool.call") == ["committed"]
    assert (len(rig.mails("under way")), len(rig.mails("after it"))) == (1, 0)


async def test_a_stop_outlives_every_process_until_it_is_lifted(rig: Rig, tenant: Tenant, owner: Holdfast) -> None:
    async with rig.nothing_swept():
        before = await tenant.admit(task(mail("outlived"), say("done")))
        made = await stop(owner)
    for processes in (("postgres",), ("governor", "executor-1", "executor-2", "api")):
        await asyncio.gather(*map(rig.kill, processes))
        await rig.all_up()
    await before.start()
    assert await before.ended() == STOPPED, await before.story()
    assert await rig.model_calls() == []
    with pytest.raises(StopActive, match=REASON):
        await tenant.admit(task(say("no")))
    assert [one.stop_id for one in await asyncio.to_thread(owner.stops)] == [made.stop_id]
    await asyncio.to_thread(owner.lift_stop, made.stop_id, reason="repaired")
    after = await tenant.start(task(mail("lifted"), say("done")))
    assert await after.ended() == "succeeded", await after.story()
    assert len(rig.mails("lifted")) == 1


async def test_the_broker_says_what_it_refuses(rig: Rig, tenant: Tenant, owner: Holdfast) -> None:
    place = "redeem.before:tool.call"
    rig.points.park(place)
    run = await tenant.start(task(mail("asked"), say("done")))
    await rig.points.until_parked(place)
    await stop(owner)
    body = {
        "permit": await permit_of(rig, run, "step-2-try-1"),
        "workflow_id": str(run.run_id),
        "activity_type": "execute_tool_call",
    }
    async with httpx.AsyncClient(base_url=rig.stack.urls.broker, trust_env=False, timeout=60) as broker:
        answer = await broker.post("/redeem", json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "stop.active")
    assert REASON in answer.json()["detail"]
    assert answer.json()["remedy"]
    rig.points.release(place)
    assert await run.ended() == STOPPED


async def test_a_stop_races_many_runs_and_nothing_is_sent_after_it(rig: Rig, tenant: Tenant, owner: Holdfast) -> None:
    """Two executors send what they can. What was let out when the stop is confirmed is all that is ever sent."""
    bystander = await rig.tenant()
    runs = await asyncio.gather(
        *(tenant.start(task(*(mail(f"race {run}.{n}") for n in range(8)), say("done"))) for run in range(8))
    )
    beside = await bystander.start(task(*(mail(f"beside {n}") for n in range(8)), say("done")))

    async def busy() -> bool:
        return len(await outside(rig, tenant)) >= 20

    await until(busy, within_s=120, what="20 requests outside")
    await stop(owner)
    let_out = await outside(rig, tenant)
    assert [await run.ended(within_s=120) for run in runs] == [STOPPED] * len(runs)
    assert await outside(rig, tenant) == let_out
    holds = [hold for run in runs for hold in await run.holds(tool="mail.send")]
    sent = sum(len(rig.mails(f"race {run}.{n}")) for run in range(8) for n in range(8))
    assert 0 < sent == sum(hold["outward_at"] is not None for hold in holds) < 64
    assert {hold["state"] for hold in holds if hold["outward_at"] is None} <= {"voided", "expired"}
    assert {hold["state"] for hold in holds if hold["outward_at"] is not None} == {"committed"}
    assert await beside.ended(within_s=120) == "succeeded", "another tenant is not touched"
