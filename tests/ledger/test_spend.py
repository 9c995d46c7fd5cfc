"""The rollups: equal to the journal at every moment, and every settlement on the day that the tenant's calendar says."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.database.engine import transaction
from holdfast.ledger.auditor import audit
from holdfast.ledger.service import Ledger
from holdfast.ledger.spend import SpendFilter, SpendPage, read_spend
from holdfast.ledger.types import Settlement

from .test_properties import SETTINGS
from .world import Database, Record, Tenant, new_tenant

_SETTLE = "FUNCTION ledger_settle(settle_member[])"
_SUMS = "count(*), sum({0}calls), sum({0}tokens), sum({0}input_tokens), sum({0}cached_tokens), sum({0}cost_nano_usd)"
# both in one statement, and so of one moment
_BOTH = f"""
    SELECT (SELECT ROW(sum(holds), {_SUMS.partition(", ")[2].format("")})::text FROM rollups WHERE tenant_id = $1),
           (SELECT ROW({_SUMS.format("")})::text FROM journal WHERE tenant_id = $1 AND kind = 'commit'),
           (SELECT count(*) FROM journal WHERE tenant_id = $1 AND kind = 'commit')
"""


@asynccontextmanager
async def _clock(database: Database) -> AsyncIterator[None]:
    """Settling takes its time from a table of the test's, until the block ends."""
    await database.execute("CREATE SCHEMA test_clock")
    try:
        await database.execute("CREATE TABLE test_clock.clock (at timestamptz)")
        await database.execute("INSERT INTO test_clock.clock VALUES (now())")
        await database.execute(
            "CREATE FUNCTION test_clock.now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT at FROM test_clock.clock'"
        )
        await database.execute("GRANT USAGE ON SCHEMA test_clock TO holdfast_definer")
        await database.execute("GRANT SELECT ON test_clock.clock TO holdfast_definer")
        await database.execute(f"ALTER {_SETTLE} SET search_path = test_clock, pg_catalog, public, pg_temp")
        yield
    finally:
        await database.execute(f"ALTER {_SETTLE} SET search_path = public, pg_temp")
        await database.execute("DROP SCHEMA test_clock CASCADE")


async def _set_clock(database: Database, at: datetime) -> None:
    await database.execute("UPDATE test_clock.clock SET at = $1", at)


async def _set_zone(tenant: Tenant, zone: str) -> None:
    await tenant.database.execute("UPDATE tenants SET time_zone = $2 WHERE tenant_id = $1", tenant.tenant_id, zone)


async def _spend(tenant: Tenant, *dimensions: str) -> SpendPage:
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        return await read_spend(connection, tenant.tenant_id, dimensions, SpendFilter(), count=10_000)


async def _commit(tenant: Tenant, run: UUID, step: int, **actual: int) -> None:
    hold = await tenant.held(run, step)
    await tenant.executed(hold)
    await tenant.settle(hold.hold_id, "committed", actual)


@pytest.mark.parametrize(
    ("zone", "begins"),
    [
        ("UTC", ["2026-03-01T00:00Z"]),
        ("Asia/Kathmandu", ["2026-02-28T18:15Z"]),
        ("Pacific/Kiritimati", ["2026-02-28T10:00Z"]),
        ("Europe/Berlin", ["2026-03-28T23:00Z", "2026-03-29T22:00Z"]),  # a day of 23 hours
        ("Europe/Berlin", ["2026-10-24T22:00Z", "2026-10-25T23:00Z"]),  # and one of 25
        ("America/New_York", ["2026-03-08T05:00Z", "2026-03-09T04:00Z"]),
        ("Asia/Beirut", ["2026-03-28T22:00Z", "2026-03-29T21:00Z"]),  # where midnight itself is left out
    ],
)
async def test_a_settlement_belongs_to_the_day_of_the_tenants_calendar(
    database: Database, tenant: Tenant, zone: str, begins: list[str]
) -> None:
    await tenant.cap("tenant", 10**9)
    await _set_zone(tenant, zone)
    run = await tenant.run()
    midnights = [datetime.fromisoformat(one) for one in begins]
    expected: Counter[str] = Counter()
    async with _clock(database):
        days = 0
        for midnight in midnights:
            for off, later in ((timedelta(microseconds=-1), False), (timedelta(), True)):
                await _set_clock(database, midnight + off)
                days += later
                await _commit(tenant, run, len(expected) * 10 + days + later, nano_usd=1 + days)
                expected[f"{days}"] += 1 + days
    found = (await _spend(tenant, "day")).groups
    assert [spent.cost_nano_usd for spent in found] == list(expected.values())
    first = min(spent.group["day"] for spent in found)
    numbers = [(datetime.fromisoformat(spent.group["day"]) - datetime.fromisoformat(first)).days for spent in found]
    assert numbers == list(range(len(midnights) + 1)), "each midnight begins the next day"
    assert (await audit(database.engine("auditor"))).discrepancies == ()


async def test_what_was_booked_stays_on_its_day_when_the_tenant_moves(database: Database, tenant: Tenant) -> None:
    await tenant.cap("tenant", 10**9)
    run = await tenant.run()
    async with _clock(database):
        await _set_clock(database, datetime(2026, 5, 1, 23, 30, tzinfo=UTC))
        await _commit(tenant, run, 1, nano_usd=5)
        await _set_zone(tenant, "Asia/Tokyo")
        await _commit(tenant, run, 2, nano_usd=6)
    found = await _spend(tenant, "day")
    assert [(spent.group["day"], spent.cost_nano_usd) for spent in found.groups] == [
        ("2026-05-01", 5),
        ("2026-05-02", 6),
    ]
    assert found.time_zone == "Asia/Tokyo"
    assert (await audit(database.engine("auditor"))).discrepancies == ()


amounts = st.integers(0, 60)
histories = st.lists(
    st.tuples(
        st.sampled_from(["commit", "commit", "commit", "void", "expire", "happened", "did not happen"]),
        st.integers(0, 2),
        st.tuples(amounts, amounts, amounts, amounts),
        st.integers(0, 60),
        st.sampled_from([None, None, None, "Europe/Berlin", "America/Havana", "Asia/Tokyo"]),
    ),
    min_size=5,
    max_size=14,
)


@settings(SETTINGS, max_examples=15)
@given(history=histories)
async def test_whatever_happens_spend_is_what_was_settled(database: Database, history: list[Record]) -> None:
    """Committed, worst, voided, expired, a person's word; at any hour, in any zone, real and simulated."""
    tenant = await new_tenant(database)
    await tenant.cap("tenant", 200)
    await tenant.cap("user", 10**6, unit="tokens")
    runs = await tenant.runs(3)
    expected: Counter[tuple[str, str, str, int]] = Counter()
    async with _clock(database):
        at = datetime(2026, 10, 24, tzinfo=UTC)
        for step, (end, run, (cost, tokens, cached, output), hours, zone) in enumerate(history):
            at += timedelta(hours=hours)
            await _set_clock(database, at)
            if zone is not None:
                await _set_zone(tenant, zone)
            decision = await tenant.reserve(runs[run], step, amounts={"nano_usd": 10, "tokens": 9})
            if decision.hold_id is None:
                continue  # the cap has not as much left
            hold = await tenant.hold(decision.hold_id)
            actual = {
                "nano_usd": cost,
                "calls": 1,
                "tokens": tokens + cached + output,
                "input_tokens": tokens + cached,
                "cached_tokens": cached,
            }
            if end in ("void", "expire"):
                await tenant.settle(hold.hold_id, f"{end}d" if end == "expire" else "voided")
                continue
            if end == "commit":
                await tenant.executed(hold)
                await tenant.settle(hold.hold_id, "committed", actual)
            else:
                await tenant.begin(hold.hold_id, (await tenant.redeem(hold)).lease_token)
                await tenant.settle(hold.hold_id, "unknown")
                happened = end == "happened"
                await tenant.resolve(hold.hold_id, happened=happened, cost=cost)
                if not happened and cost == 0:
                    continue
                actual = {"nano_usd": cost, "calls": 1, "tokens": 9}  # what nobody measured counts as it was held
            day = await database.value(
                "SELECT ($1::timestamptz AT TIME ZONE time_zone)::date::text FROM tenants WHERE tenant_id = $2",
                at,
                tenant.tenant_id,
            )
            simulated = "true" if end == "commit" else "false"
            for place, unit in enumerate(("nano_usd", "calls", "tokens", "input_tokens", "cached_tokens")):
                expected[day, str(runs[run]), simulated, place] += actual.get(unit, 0)
    found = await _spend(tenant, "day", "run", "simulated")
    seen: Counter[tuple[str, str, str, int]] = Counter()
    for spent in found.groups:
        places = (spent.cost_nano_usd, spent.calls, spent.tokens, spent.input_tokens, spent.cached_tokens)
        for place, number in enumerate(places):
            seen[spent.group["day"], spent.group["run"], spent.group["simulated"], place] += number
        assert spent.simulated_nano_usd == (spent.cost_nano_usd if spent.group["simulated"] == "true" else 0)
    assert +seen == +expected
    assert found.total.cost_nano_usd == sum(
        spent.cost_nano_usd for spent in (await _spend(tenant, "kind", "role")).groups
    )
    assert (await audit(database.engine("auditor"))).discrepancies == ()


async def test_one_hot_rollup_counts_every_settlement_and_is_never_behind(database: Database, tenant: Tenant) -> None:
    """Forty who settle holds of one run, over two ledgers as two processes have them; somebody looks all the while."""
    await tenant.cap("tenant", 10**9)
    run = await tenant.run()
    holds = []
    for step in range(40):
        hold = await tenant.held(run, step)
        await tenant.executed(hold)
        holds.append(await tenant.hold(hold.hold_id))
    ledgers = (tenant.ledger, Ledger(database.engine("sweeper")))
    actual = {"nano_usd": 3, "calls": 1, "tokens": 5, "input_tokens": 4, "cached_tokens": 2}
    settling = [
        asyncio.create_task(
            ledgers[number % 2].settle(
                Settlement(tenant.tenant_id, hold.hold_id, "executed", True, True, "committed", actual, "run", "test")
            )
        )
        for number, hold in enumerate(holds)
    ]
    counts = set()
    while True:
        done = all(task.done() for task in settling)
        ((rolled, journalled, count),) = await database.fetch(_BOTH, tenant.tenant_id)
        assert count == 0 or rolled == journalled
        counts.add(count)
        if done:
            break
    await asyncio.gather(*settling)
    assert max(counts) == 40
    (spent,) = (await _spend(tenant, "run", "day", "tool")).groups
    assert (spent.holds, spent.calls, spent.tokens, spent.cost_nano_usd) == (40, 40, 200, 120)
    assert await database.value("SELECT count(*) FROM rollups WHERE run_id = $1", run) == 1
