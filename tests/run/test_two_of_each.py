"""Two APIs and two governors on one database: one is killed with -9, the other frozen until it was given up, and woken.

What it then writes counts once: each hold is settled once, each run admitted once, and no budget is held twice.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from .harness import Rig, Run, Tenant, mail, refund, say, task, until
from .rigs import LEASE_TOOL_MS, running_rig
from .test_log_lines import api_key
from .test_rolling_restart import Second, seconds

PLACES: Final = ("settle.after", "settle.before", "reserve.after", "reserve.before")
"""Later places first: whoever is to stand at an earlier one passes none at which others stand."""
KINDS: Final = ("llm.call", "tool.call")
EACH: Final = 3
STANDING_MAX: Final = 40
ADMISSIONS: Final = 40


@pytest.fixture(scope="module")
async def standing_rig() -> AsyncIterator[Rig]:
    async with running_rig(more_parts=("api", "bootstrap"), executors=2) as rig:
        yield rig


@pytest.fixture
async def second(rig: Rig, tmp_path: Path) -> AsyncIterator[tuple[Second, Second, str]]:
    """A second governor, a second API, and where that listens."""
    async with seconds(rig, tmp_path) as (governor, api, url):
        yield governor, api, url


def pid_of(one: Second) -> int:
    assert one.now is not None
    return one.now.process.pid


async def settle_the_lost(rig: Rig, tenant: Tenant) -> None:
    """A person settles what nobody knows the outcome of: under load, an execution may be given up at its lease."""
    unknown = "SELECT hold_id, run_id FROM holds WHERE tenant_id = $1 AND state = 'unknown'"
    for hold in await rig.rows(unknown, tenant.tenant_id):
        await Run(tenant, hold["run_id"]).resolve(hold["hold_id"], happened=True)

    async def returned() -> bool:
        return not await rig.value("SELECT sum(reserved) FROM caps WHERE tenant_id = $1", tenant.tenant_id)

    try:
        await until(returned, what="the settling of every hold")
    except AssertionError as late:
        open_holds = "SELECT run_id, kind, step, try, state FROM holds WHERE tenant_id = $1 AND settled_at IS NULL"
        raise AssertionError(f"{late}: {await rig.rows(open_holds, tenant.tenant_id)}") from None


async def counted_once(rig: Rig, tenant: Tenant) -> None:
    """Every hold was reserved once and settled once on each of its caps; each settlement was told once."""
    await settle_the_lost(rig, tenant)
    entries = await rig.rows(
        "SELECT hold_id, cap_id, kind FROM journal_legs WHERE tenant_id = $1 AND hold_id IS NOT NULL", tenant.tenant_id
    )
    times = Counter((row["hold_id"], row["cap_id"], row["kind"] == "reserve") for row in entries)
    assert entries
    assert set(times.values()) == {1}
    assert len([key for key in times if key[2]]) == len([key for key in times if not key[2]])
    told = await rig.rows(
        "SELECT data->>'hold_id' AS hold_id FROM timeline_events WHERE tenant_id = $1 AND type = 'hold.settled'",
        tenant.tenant_id,
    )
    assert set(Counter(row["hold_id"] for row in told).values()) == {1}
    await rig.audit()


async def stand(rig: Rig, tenant: Tenant, place: str, pid: int) -> list[tuple[Run, str]]:
    """Brings runs to a place of a governor, until at least one stands there in the process meant."""
    found: list[tuple[Run, str]] = []
    for kind in KINDS:
        rig.points.park(f"{place}:{kind}")
    count = 0
    while count < EACH or (count < STANDING_MAX and pid not in rig.points.parked(f"{place}:llm.call")):
        count += 1
        token = f"two-of-each-{place.replace('.', '-')}-{count}"
        script = task(refund(token.upper()), mail(token), say("done"), words=token)
        found.append((await tenant.start(script), token))
        await rig.points.until_parked(f"{place}:llm.call", count)
    return found


async def test_a_governor_killed_and_one_frozen_past_its_leases_and_woken_count_nothing_twice(
    rig: Rig, tenant: Tenant, second: tuple[Second, Second, str]
) -> None:
    governor, _, _ = second
    frozen = pid_of(governor)
    runs = [run for place in PLACES for run in await stand(rig, tenant, place, frozen)]
    assert all(frozen in rig.points.parked(f"{place}:llm.call") for place in PLACES)
    os.kill(frozen, signal.SIGSTOP)
    await rig.kill("governor")
    rig.points.clear()
    await rig.all_up()
    # the other one, started again, has all of them to do
    for run, _ in runs:
        assert await run.ended(within_s=90.0) == "succeeded", await run.story()

    async def leases_over() -> bool:
        live = "SELECT count(*) FROM holds WHERE tenant_id = $1 AND lease_expires_at > clock_timestamp()"
        return not await rig.value(live, tenant.tenant_id)

    await until(leases_over, within_s=LEASE_TOOL_MS / 1000 + 30, what="the end of the leases")
    await settle_the_lost(rig, tenant)
    before = await rig.rows("SELECT * FROM caps WHERE tenant_id = $1 ORDER BY cap_id", tenant.tenant_id)
    os.kill(frozen, signal.SIGCONT)
    # it wakes in the middle of what it was doing; that it works again says that it has done with that
    more = [await tenant.start(task(say("awake"))) for _ in range(EACH)]
    for run in more:
        assert await run.ended() == "succeeded", await run.story()
    assert governor.now is not None
    assert governor.now.process.returncode is None
    assert await governor.now.stop() == 0
    await settle_the_lost(rig, tenant)
    spent_since = sum([await _spent(rig, run) for run in more])
    after = await rig.rows("SELECT * FROM caps WHERE tenant_id = $1 ORDER BY cap_id", tenant.tenant_id)
    assert _money(after, tenant) == _money(before, tenant) + spent_since
    for run, token in runs:
        assert (len(rig.mails(token)), len(rig.refunds(token.upper()))) == (1, 1), await run.story()
    await counted_once(rig, tenant)


def _money(caps: list[Any], tenant: Tenant) -> int:
    [cap] = [cap for cap in caps if (cap["scope_kind"], cap["unit"]) == ("tenant", "nano_usd")]
    assert cap["scope_id"] == str(tenant.tenant_id)
    committed: int = cap["committed"]
    return committed


async def _spent(rig: Rig, run: Run) -> int:
    spent: int = await rig.value(
        "SELECT coalesce(sum(cost_nano_usd), 0)::bigint FROM holds WHERE run_id = $1", run.run_id
    )
    return spent


async def test_an_api_killed_and_one_frozen_in_the_middle_of_admissions_admit_nothing_twice(
    rig: Rig, tenant: Tenant, second: tuple[Second, Second, str]
) -> None:
    """Each run is asked for at both, under one key, with its whole budget held; whoever asked asks again until it is told."""
    _, api, second_url = second
    frozen = pid_of(api)
    warm = await tenant.start(task(say("warm")))
    assert await warm.ended() == "succeeded"
    key = await api_key(rig, tenant)
    agent = await rig.value("SELECT agent_name FROM runs WHERE run_id = $1", warm.run_id)
    answers: dict[str, set[str]] = {}
    answered = asyncio.Event()

    async def ask(url: str, number: int) -> None:
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": f"two-of-each-{number}"}
        body = {"agent": agent, "input": task(say("done")), "guaranteed": True, "cap_usd": "0.05"}
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=90) as client:
            while True:
                try:
                    answer = await client.post("/v1/runs", json=body, headers=headers)
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
                    continue
                if answer.status_code < 500:
                    break
                await asyncio.sleep(0.1)
        assert answer.status_code in (200, 201), answer.text
        answers.setdefault(str(number), set()).add(answer.json()["run_id"])
        if url == second_url and len(answers) >= 3:
            answered.set()

    asking = [asyncio.create_task(ask(second_url, number)) for number in range(ADMISSIONS)]
    asking += [asyncio.create_task(ask(rig.stack.urls.api, number)) for number in reversed(range(ADMISSIONS))]
    await answered.wait()
    os.kill(frozen, signal.SIGSTOP)
    await rig.kill("api")
    await rig.all_up()

    async def told_by_the_other() -> bool:
        return len(answers) == ADMISSIONS

    # frozen inside of a transaction, it holds locks that the other one waits for: then nobody is told before it wakes
    try:
        await until(told_by_the_other, within_s=10.0)
    except AssertionError:
        pass
    finally:
        os.kill(frozen, signal.SIGCONT)
    await asyncio.gather(*asking)
    assert all(len(told) == 1 for told in answers.values())
    told = {run_id for each in answers.values() for run_id in each}
    rows = await rig.rows(
        "SELECT run_id FROM runs WHERE tenant_id = $1 AND run_id <> $2", tenant.tenant_id, warm.run_id
    )
    assert {str(row["run_id"]) for row in rows} == told
    assert len(told) == ADMISSIONS
    budgets = "SELECT count(*) FROM holds WHERE tenant_id = $1 AND kind = 'run.budget'"
    assert await rig.value(budgets, tenant.tenant_id) == ADMISSIONS
    for row in rows:
        run = Run(tenant, row["run_id"])
        assert await run.ended(within_s=90.0) == "succeeded", await run.story()
    await counted_once(rig, tenant)
