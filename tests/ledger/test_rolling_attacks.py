"""Who tries to get more out of a rolling cap: hundreds at the turn of an hour, late bills, dying callers, and programs with faults."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from holdfast.database.engine import create_engine, transaction
from holdfast.ledger import budget
from holdfast.ledger.auditor import audit
from holdfast.ledger.service import Ledger

from .books import check_books
from .rolling import audited, balances, buckets, carried, limit, pass_hours
from .test_auditor import broken
from .test_rolling import use
from .world import Database, Tenant

pytestmark = pytest.mark.usefixtures("hour")


@pytest.fixture
async def ledgers(database: Database) -> AsyncIterator[list[Ledger]]:
    """Two processes' ledgers, each with connections of its own."""
    engines = [create_engine(database.urls["holdfast_governor"], process=f"rolling-{n}") for n in range(2)]
    yield [Ledger(engine) for engine in engines]
    for engine in engines:
        await engine.dispose()


@pytest.fixture
async def full(tenant: Tenant) -> tuple[Tenant, dict[UUID, dict[str, int]]]:
    """A tenant that may use 100 in any three hours, and in each of the last three hours has used 33."""
    await limit(tenant, 100)
    actual: dict[UUID, dict[str, int]] = {}
    for _ in range(3):
        actual |= dict([await use(tenant, 33)])
        await pass_hours(tenant, 1)
    return tenant, actual


# Many at once ------------------------------------------------------------------------------------------------------------


async def test_five_hundred_at_the_turn_of_an_hour_share_the_last_cent(
    full: tuple[Tenant, dict[UUID, dict[str, int]]], ledgers: list[Ledger]
) -> None:
    """All of them find the hour ended; what has left is free once, and what has not is not."""
    tenant, actual = full
    runs = await tenant.runs(500)
    for turn, free in enumerate((1, 33, 33)):
        asked = [await tenant.reservation(run, turn, amounts={"nano_usd": 1}) for run in runs]
        answers = await asyncio.gather(*(ledgers[n % 2].reserve(one) for n, one in enumerate(asked)))
        assert Counter(answer.verdict for answer in answers) == {"allow": free, "deny": 500 - free}
        assert len(await buckets(tenant)) == 4 + turn, "one new bucket an hour"
        await pass_hours(tenant, 1)
    await check_books(tenant, actual)
    assert await audited(tenant) == []


async def test_late_bills_of_older_hours_race_with_those_who_take_what_is_free(
    tenant: Tenant, ledgers: list[Ledger]
) -> None:
    await limit(tenant, 100)
    holds = [await tenant.held(run, amounts={"nano_usd": 5}) for run in await tenant.runs(10)]
    for hold in holds:
        await tenant.executed(hold)
    await pass_hours(tenant, 1)
    asked = [await tenant.reservation(run, amounts={"nano_usd": 1}) for run in await tenant.runs(200)]
    actual = {hold.hold_id: {"nano_usd": 2 + 3 * (n % 4)} for n, hold in enumerate(holds)}  # 2, 5, 8 or 11
    answers, _ = await asyncio.gather(
        asyncio.gather(*(ledgers[n % 2].reserve(one) for n, one in enumerate(asked))),
        asyncio.gather(*(tenant.settle(hold.hold_id, "committed", actual[hold.hold_id]) for hold in holds)),
    )
    granted = sum(answer.verdict == "allow" for answer in answers)
    _, committed, debt = await carried(tenant)
    assert committed + debt == sum(one["nano_usd"] for one in actual.values())
    assert granted + committed <= 100
    await check_books(tenant, actual)
    assert await audited(tenant) == []


async def test_lowering_raising_and_settling_race_over_the_turn_of_an_hour(tenant: Tenant) -> None:
    await limit(tenant, 300)
    actual = {}
    for _ in range(8):
        holds = [await tenant.held(run, amounts={"nano_usd": 3}) for run in await tenant.runs(6)]
        for hold in holds:
            await tenant.executed(hold)
            actual[hold.hold_id] = {"nano_usd": hold.hold_id.int % 9}
        await asyncio.gather(
            pass_hours(tenant, 1),
            *(tenant.settle(hold.hold_id, "committed", actual[hold.hold_id]) for hold in holds),
            limit(tenant, 5),
            limit(tenant, 300),
            *(tenant.reserve(run, amounts={"nano_usd": 2}) for run in await tenant.runs(6)),
        )
        await limit(tenant, 300)
    await check_books(tenant, actual)
    assert await audited(tenant) == []


async def test_who_dies_or_is_frozen_between_two_hours_leaves_nothing_behind(
    full: tuple[Tenant, dict[UUID, dict[str, int]]],
) -> None:
    tenant, actual = full
    frozen = await tenant.database.connect("api")
    await frozen.execute("SELECT set_config('holdfast.tenant_id', $1, false)", str(tenant.tenant_id))
    began = frozen.transaction()
    await began.start()
    await frozen.fetch(
        "SELECT * FROM lock_for_budget($1::ledger_scope[])", [(tenant.tenant_id, "tenant", str(tenant.tenant_id))]
    )
    waiting = asyncio.create_task(tenant.reserve(await tenant.run(), amounts={"nano_usd": 1}))
    await tenant.database.execute("SELECT pg_terminate_backend($1)", frozen.get_server_pid())
    assert (await waiting).verdict == "allow"
    assert len(await buckets(tenant)) == 4, "the bucket that the dead had begun is not there"
    assert await carried(tenant) == (0, 99, 0)
    await check_books(tenant, actual)


async def test_a_guaranteed_budget_returns_to_the_hour_in_which_it_was_taken(tenant: Tenant) -> None:
    await limit(tenant, 100)
    run = await tenant.run()
    decision = await tenant.reserve(run, amounts={})
    assert decision.hold_id is not None
    await tenant.settle(decision.hold_id, "voided")
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        caps = await budget.lock_for_budget(connection, tenant.tenant_id, [tenant.scope("tenant")])
        await budget.admit_budget(
            connection, tenant.tenant_id, run, caps, 80, decision_id=decision.decision_id, life_ms=60_000
        )
    await pass_hours(tenant, 1)
    assert (await tenant.reserve(await tenant.run(), amounts={"nano_usd": 21})).verdict == "deny"
    await tenant.database.execute("UPDATE runs SET ended_at = now(), status = 'succeeded' WHERE run_id = $1", run)
    async with transaction(tenant.database.engine("governor"), tenant.tenant_id) as connection:
        assert await budget.return_budget(connection, tenant.tenant_id, run)
    assert (await balances(tenant), await carried(tenant)) == ([(0, 0, 0), (0, 0, 0)], (0, 0, 0))
    assert (await tenant.reserve(await tenant.run(), amounts={"nano_usd": 100})).verdict == "allow"


# Programs with faults ----------------------------------------------------------------------------------------------------

FAULTS = {
    "reserves over what is carried": "UPDATE caps SET reserved = 2 WHERE cap_id = '{newest}'",
    "commits over what is carried": "UPDATE caps SET committed = 2 WHERE cap_id = '{newest}'",
    "carries less": "UPDATE caps SET carried_committed = carried_committed - 1 WHERE cap_id = '{newest}'",
    "moves an older bucket alone": "UPDATE caps SET committed = committed - 1 WHERE cap_id = '{older}'",
    "moves debt of an older bucket alone": "UPDATE caps SET debt = debt + 1 WHERE cap_id = '{older}'",
    "bills an older bucket more than is free": """UPDATE caps SET committed = committed + CASE cap_id WHEN '{older}' THEN 2 ELSE 0 END,
        carried_committed = carried_committed + CASE cap_id WHEN '{newest}' THEN 2 ELSE 0 END
        WHERE cap_id IN ('{older}', '{newest}')""",
    "rolls without carrying": """UPDATE caps SET newest = false, carried_committed = 0 WHERE cap_id = '{newest}';
        INSERT INTO caps (tenant_id, cap_id, scope_kind, scope_id, unit, window_kind, rolling_hours, starts_at, ends_at, limit_amount,
            ceiling) SELECT tenant_id, gen_random_uuid(), scope_kind, scope_id, unit, window_kind, rolling_hours, ends_at,
            ends_at + interval '1 hour', limit_amount, ceiling FROM caps WHERE cap_id = '{newest}'""",
    "lets an older bucket carry": "UPDATE caps SET carried_committed = 1 WHERE cap_id = '{older}'",
    "names another window than it has": "UPDATE caps SET rolling_hours = 1 WHERE cap_id = '{newest}'",
}


@pytest.mark.parametrize("fault", [*FAULTS])
async def test_the_schema_refuses_a_program_that(full: tuple[Tenant, dict[UUID, dict[str, int]]], fault: str) -> None:
    tenant, actual = full
    assert (await tenant.reserve(await tenant.run(), amounts={"nano_usd": 2})).verdict == "deny"
    *_, older, newest = [row["cap_id"] for row in await buckets(tenant)]
    with pytest.raises(asyncpg.CheckViolationError):
        await tenant.database.execute(FAULTS[fault].format(older=older, newest=newest))
    await check_books(tenant, actual)


BREAKS = [
    ("cap.carried", "UPDATE caps SET carried_committed = carried_committed - 1 WHERE cap_id = '{newest}'"),
    ("cap.carried", "UPDATE caps SET carried_reserved = carried_reserved + 1 WHERE cap_id = '{newest}'"),
    ("cap.carried", "UPDATE caps SET carried_debt = 1 WHERE cap_id = '{newest}'"),
    ("cap.carried", "UPDATE caps SET limit_amount = 101, ceiling = 101 WHERE cap_id = '{older}'"),
    ("cap.ceiling", "UPDATE caps SET ceiling = 101 WHERE cap_id = '{newest}'"),
    # each alone fits under this limit; with what the two older hours had, the last does not
    ("journal.rolling", "UPDATE journal SET limit_amounts = '{{98}}' WHERE kind = 'reserve' AND cap_ids = ARRAY['{older}'::uuid]"),
    ("journal.rolling", "UPDATE journal SET reserved_deltas = '{{36}}' WHERE kind = 'reserve' AND cap_ids = ARRAY['{older}'::uuid]"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "statement"), BREAKS)
async def test_the_auditor_names_a_sum_that_was_falsified(
    database: Database, full: tuple[Tenant, dict[UUID, dict[str, int]]], check: str, statement: str
) -> None:
    tenant, _ = full
    await tenant.reserve(await tenant.run(), amounts={"nano_usd": 2})
    *_, older, newest = [row["cap_id"] for row in await buckets(tenant)]
    async with broken(database, statement.format(older=older, newest=newest)):
        found = await audit(database.engine("auditor"))
    slug = await database.value("SELECT slug FROM tenants WHERE tenant_id = $1", tenant.tenant_id)
    assert check in {one.check for one in found.discrepancies}
    assert {one.tenant for one in found.discrepancies} == {slug}
    assert await audited(tenant) == []
