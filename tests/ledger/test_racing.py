"""Many at once: the last cent, one lock order, and killed connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from uuid import UUID

import asyncpg
import pytest

from holdfast.database.engine import DatabaseAway
from holdfast.ledger.types import Decision, FactsChanged
from holdfast_verdict.decide import Verdict

from .books import check_books
from .world import Database, Tenant, approval_request, until


@pytest.mark.parametrize(
    ("count", "limit", "amount", "fit"), [(500, 799, 100, 7), (50, 700, 100, 7), (50, 1, 1, 1), (50, 99, 100, 0)]
)
async def test_many_at_once_get_exactly_what_fits(
    tenant: Tenant, count: int, limit: int, amount: int, fit: int
) -> None:
    cap = await tenant.cap("tenant", limit)
    other = await tenant.cap("user", 10**9)
    asked = [await tenant.reservation(run, amounts={"nano_usd": amount}) for run in await tenant.runs(count)]
    answers = await asyncio.gather(*(tenant.ledger.reserve(one) for one in asked))
    assert Counter(answer.verdict for answer in answers) == Counter({"allow": fit, "deny": count - fit})
    for answer in answers:
        if answer.verdict == "deny":
            assert answer.code == "budget.cap_exceeded"
            assert answer.message.startswith("the cap on tenant has $0.")
    assert await tenant.balances(cap) == await tenant.balances(other) == (fit * amount, 0, 0)
    await check_books(tenant, {})


async def test_what_is_returned_is_granted_again_and_never_twice(tenant: Tenant) -> None:
    """Fifty who settle what they got and ask again, over three caps that are each short at another time."""
    caps = [
        await tenant.cap("tenant", 500),
        await tenant.cap("project", 8, unit="slots"),
        await tenant.cap("user", 130, unit="calls"),
    ]
    actual = {}
    granted = 0

    async def work(run: UUID) -> None:
        nonlocal granted
        for step in range(4):
            decision = await tenant.reserve(run, step, amounts={"nano_usd": 20, "slots": 1, "calls": 1})
            if decision.hold_id is None:
                continue
            granted += 1
            actual[decision.hold_id] = {"nano_usd": 3, "calls": 1}
            await tenant.executed(await tenant.hold(decision.hold_id))
            await tenant.settle(decision.hold_id, "committed", actual[decision.hold_id])

    await asyncio.gather(*(work(run) for run in await tenant.runs(50)))
    assert await tenant.balances(caps[0]) == (0, 3 * granted, 0)
    assert await tenant.balances(caps[1]) == (0, 0, 0)
    assert await tenant.balances(caps[2]) == (0, granted, 0)
    assert 0 < granted <= 130
    await check_books(tenant, actual)


async def test_one_key_reserved_by_many_at_once_is_decided_once(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    answers = await asyncio.gather(*(tenant.reserve(run) for _ in range(40)))
    assert len({(answer.decision_id, answer.hold_id, answer.verdict) for answer in answers}) == 1
    assert await tenant.balances(cap) == (10, 0, 0)
    assert await tenant.database.value("SELECT count(*) FROM decisions WHERE run_id = $1", run) == 1


async def test_of_many_who_decide_on_the_same_facts_one_decides(tenant: Tenant) -> None:
    """Also where no cap is in common: what one of them decided, the others had not read."""
    run = await tenant.run()
    asked = [await tenant.reservation(run, step, amounts={}) for step in range(20)]
    answers = await asyncio.gather(*(tenant.ledger.reserve(one) for one in asked), return_exceptions=True)
    assert Counter(type(answer) for answer in answers) == Counter({Decision: 1, FactsChanged: 19})


async def test_an_approval_raced_for_is_used_once(tenant: Tenant) -> None:
    await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    request = approval_request(tenant)
    await tenant.reserve(run, evaluated=Verdict("needs_approval", "x", "x"), approval=request)
    await tenant.consent(request)
    tries = range(2, 22)
    answers = await asyncio.gather(*(tenant.reserve(run, 1, number, consumes=request.approval_id) for number in tries))
    assert Counter(answer.verdict for answer in answers) == Counter({"allow": 1, "deny": 19})
    assert {answer.code for answer in answers if answer.verdict == "deny"} == {"approval.consumed"}


async def test_other_arguments_race_redemption_and_exactly_one_of_them_wins(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 10_000)
    for run in await tenant.runs(20):
        hold = await tenant.held(run)
        redeemed, decision = await asyncio.gather(
            tenant.redeem(hold), tenant.reserve(run, argument="y"), return_exceptions=True
        )
        assert isinstance(decision, Decision)
        if isinstance(redeemed, BaseException):
            assert (decision.verdict, decision.superseded) == ("allow", hold.hold_id)
        else:
            assert decision.code == "hold.key_conflict"
            assert len(await tenant.alarms(run)) == 1
    assert await tenant.balances(cap) == (200, 0, 0)
    await check_books(tenant, {})


async def _waits_for_lock(database: Database) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast-test-governor' AND wait_event_type = 'Lock'"
    return bool(await database.value(waiting))


@pytest.mark.parametrize("low_first", [True, False])
async def test_superseding_takes_its_locks_in_the_one_order(tenant: Tenant, low_first: bool) -> None:
    """The old hold stands on one cap, the new action asks for another: whoever holds the lower one may ask for the higher one."""
    units = {await tenant.cap("tenant", 1_000, unit=unit): unit for unit in ("calls", "tokens")}
    low, high = sorted(units)
    old, new = (low, high) if low_first else (high, low)
    run = await tenant.run()
    await tenant.held(run, amounts={units[old]: 1})
    raw = await asyncpg.connect(tenant.database.superuser_url)
    try:
        transaction = raw.transaction()
        await transaction.start()
        lock = "SELECT 1 FROM caps WHERE cap_id = $1 FOR NO KEY UPDATE"
        await raw.execute(lock, low)
        superseding = asyncio.create_task(tenant.reserve(run, argument="y", amounts={units[new]: 1}))
        await until(lambda: _waits_for_lock(tenant.database))
        await raw.execute(lock, high)
        await transaction.commit()
        assert (await superseding).verdict == "allow"
    finally:
        await raw.close()
    assert await tenant.balances(old) == (0, 0, 0)
    assert await tenant.balances(new) == (1, 0, 0)


async def test_a_foreign_key_that_points_at_a_run_does_not_wait_for_the_ledger(tenant: Tenant) -> None:
    """Inputs and events of a run are written by others, who then want its row as well: with stronger locks, a deadlock."""
    await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    raw = await tenant.database.connect("api")
    try:
        transaction = raw.transaction()
        await transaction.start()
        await raw.execute("SELECT set_config('holdfast.tenant_id', $1, true)", str(tenant.tenant_id))
        await raw.execute(
            "INSERT INTO run_inputs (tenant_id, run_id, seq, mode, content, user_id) VALUES ($1, $2, 1, 'steer', '', $3)",
            tenant.tenant_id,
            run,
            tenant.user_id,
        )
        assert (await asyncio.wait_for(tenant.reserve(run), 60)).verdict == "allow"
        await raw.execute("UPDATE runs SET timeline_seq = timeline_seq + 1 WHERE run_id = $1", run)
        await transaction.commit()
    finally:
        await raw.close()


async def test_random_subsets_of_caps_never_deadlock(tenant: Tenant) -> None:
    units = ("nano_usd", "tokens", "calls", "slots", "searches")
    kinds = ("tenant", "project", "user", "role")
    for index, unit in enumerate(units):
        for kind in kinds[: 2 + index % 3]:
            await tenant.cap(kind, 10_000, unit=unit)
    shared = await tenant.runs(3)

    async def work(worker: int) -> None:
        for turn in range(6):
            subset = {unit: 1 for n, unit in enumerate(units) if (worker * 7 + turn * 3 + n) % 3}
            scopes = tuple(scope for n, scope in enumerate(tenant.scopes) if (worker + turn + n) % 4)
            # few keys, many workers: the same key comes with other arguments and other caps, over and over
            decision = await tenant.reserve(
                shared[worker % 3],
                turn % 2,
                argument=(worker + turn) % 3,
                amounts={**subset, "nano_usd": 0},
                scopes=scopes,
            )
            if decision.verdict == "allow" and turn % 3 == 2:
                hold = await tenant.hold(decision.hold_id)  # type: ignore[arg-type]  # an allow has a hold
                if hold.state == "held":
                    with contextlib.suppress(FactsChanged):
                        await tenant.settle(hold.hold_id, "expired", seen=hold)
            if turn % 3 == 1:
                await tenant.cap(kinds[worker % 2], 10_000 + turn, unit=units[worker % len(units)])

    await asyncio.gather(*(work(worker) for worker in range(24)))
    await check_books(tenant, {})


async def test_a_connection_killed_in_the_middle_leaves_nothing_behind_and_the_batch_is_done_once(
    tenant: Tenant,
) -> None:
    cap = await tenant.cap("tenant", 1_000)
    for number, run in enumerate(await tenant.runs(8)):
        blocker = await asyncpg.connect(tenant.database.superuser_url)
        await blocker.execute("BEGIN")
        await blocker.execute("SELECT 1 FROM runs WHERE run_id = $1 FOR NO KEY UPDATE", run)
        reserving = asyncio.create_task(tenant.ledger.reserve(await tenant.reservation(run)))
        await until(lambda: _waits_for_lock(tenant.database))
        await tenant.database.execute(
            """SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
               WHERE application_name = 'holdfast-test-governor' AND wait_event_type = 'Lock'"""
        )
        assert await tenant.balances(cap) == (10 * number, 0, 0)
        await blocker.close()
        assert (await reserving).verdict == "allow"
        assert await tenant.balances(cap) == (10 * (number + 1), 0, 0)
    await check_books(tenant, {})


async def test_a_database_that_goes_away_again_and_again_is_said_to_be_away(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    blocker = await asyncpg.connect(tenant.database.superuser_url)
    await blocker.execute("BEGIN")
    await blocker.execute("SELECT 1 FROM runs WHERE run_id = $1 FOR NO KEY UPDATE", run)
    reserving = asyncio.create_task(tenant.ledger.reserve(await tenant.reservation(run)))
    while not reserving.done():
        await tenant.database.execute(
            """SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
               WHERE application_name = 'holdfast-test-governor' AND wait_event_type = 'Lock'"""
        )
        await asyncio.sleep(0.01)
    with pytest.raises(DatabaseAway):
        await reserving
    await blocker.close()
    assert await tenant.balances(cap) == (0, 0, 0)
    assert (await tenant.reserve(run)).verdict == "allow"
