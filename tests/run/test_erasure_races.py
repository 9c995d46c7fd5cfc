"""Erasures that are killed, that meet a legal hold, an export, and another tenant: what goes and what stays is defined."""

from __future__ import annotations

import asyncio
from pathlib import Path

from holdfast.database.engine import transaction
from holdfast.retention import keeping, legal_holds
from holdfast.retention.erasing import Scope

from .harness import Rig, Tenant, say, task, until
from .test_audit_export import checked, exported, logged
from .test_erasure import PLAIN, SECRET, erased, is_left, note, noted, numbered

__all__ = ["note"]

CALL = {"text": SECRET, "priority": 1}
_WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


async def waits(rig: Rig) -> None:
    """Waits until somebody waits for the lock that legal holds and erasures share."""
    await until(lambda: rig.value(_WAITING), what="somebody who waits for the lock")


async def codes(tenant: Tenant) -> list[str]:
    rows = await tenant.rig.rows("SELECT reason_codes FROM decisions WHERE tenant_id = $1", tenant.tenant_id)
    return [code for row in rows for code in row["reason_codes"]]


async def test_a_batch_that_dies_is_taken_up_and_counts_once(
    rig: Rig, tenant: Tenant, note: object, tmp_path: Path
) -> None:
    runs = [await noted(tenant, PLAIN, CALL, CALL) for _ in range(3)]
    rig.points.kill("erasure.before_commit")
    erasure = await erased(tenant, Scope())
    assert not rig.points.armed("erasure.before_commit"), "nobody has died"
    assert (erasure.runs, erasure.records, erasure.held, erasure.open) == (3, 6, 0, 0)
    for run in runs:
        assert not await is_left(run)
    assert (await codes(tenant)).count("erasure.done") == 1
    await rig.calm()
    await logged(rig, tenant)
    report = await checked(tmp_path, await exported(tenant))
    assert report.holds, report.findings


async def test_a_legal_hold_waits_for_the_batch_that_is_taking_and_no_more_is_taken_after_it(
    rig: Rig, tenant: Tenant, note: object
) -> None:
    taken = await noted(tenant, PLAIN, CALL)

    async def place() -> None:
        async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
            await legal_holds.place(connection, tenant.bob, None, "a dispute")

    rig.points.park("erasure.before_commit")
    erasing = asyncio.create_task(erased(tenant, Scope()))
    await rig.points.until_parked("erasure.before_commit")
    placing = asyncio.create_task(place())
    await waits(rig)
    assert not placing.done()
    rig.points.release("erasure.before_commit")
    erasure = await erasing
    await placing
    assert (erasure.runs, erasure.held) == (1, 0)
    assert not await is_left(taken)


async def test_an_erasure_waits_for_a_legal_hold_that_is_being_placed_and_leaves_what_it_is_on(
    rig: Rig, tenant: Tenant, note: object
) -> None:
    held, free = await noted(tenant, PLAIN, CALL), await noted(tenant, PLAIN, CALL)
    async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
        await legal_holds.place(connection, tenant.bob, held.run_id, "a dispute")
        erasing = asyncio.create_task(erased(tenant, Scope()))
        await waits(rig)
    erasure = await erasing
    assert (erasure.runs, erasure.held) == (1, 1)
    assert await is_left(held)
    assert not await is_left(free)


async def test_exports_while_it_is_erased_all_hold(rig: Rig, tenant: Tenant, note: object, tmp_path: Path) -> None:
    for _ in range(3):
        await noted(tenant, PLAIN, CALL)
    bundles = [await exported(tenant)]
    erasing = asyncio.create_task(erased(tenant, Scope()))
    while not erasing.done():
        bundles.append(await exported(tenant))
    await erasing
    bundles.append(await exported(tenant))
    assert SECRET.encode() in bundles[0]
    assert SECRET.encode() not in bundles[-1]
    for bundle in bundles:
        report = await checked(tmp_path, bundle)
        assert report.holds, report.findings


async def test_what_another_tenant_has_stays(rig: Rig, tenant: Tenant, note: object) -> None:
    mine = await noted(tenant, PLAIN, CALL)
    other = await rig.tenant()
    before = await rig.rows("SELECT * FROM run_salts WHERE tenant_id <> $1 ORDER BY run_id", tenant.tenant_id)
    theirs = await other.start(task(say("done")), tools=())
    await theirs.ended()
    await erased(tenant, Scope())
    assert not await is_left(mine)
    after = await rig.rows("SELECT * FROM run_salts WHERE tenant_id <> $1 ORDER BY run_id", tenant.tenant_id)
    assert {row["run_id"] for row in before} | {theirs.run_id} <= {row["run_id"] for row in after}
    await theirs.settled()


async def test_what_another_tenant_has_is_kept_as_long_as_that_tenant_says(
    rig: Rig, tenant: Tenant, note: object
) -> None:
    mine = await noted(tenant, PLAIN, CALL)
    other = await rig.tenant()
    theirs = await other.start(task(say("done")), tools=())
    await theirs.ended()
    await theirs.settled()
    for each in (tenant, other):
        await numbered(each)
    mine.excuse("nothing is left to hold its history against")
    for run in (mine, theirs):
        for table, column in (("decisions", "created_at"), ("runs", "ended_at")):
            await rig.database.execute(
                f"UPDATE {table} SET {column} = {column} - interval '40 days' WHERE run_id = $1", run.run_id
            )
    async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
        await keeping.put(connection, tenant.ada, 30)

    async def done() -> bool:
        async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
            return (await keeping.read(connection, tenant.tenant_id)).finished_at is not None

    await until(done, what="the end of the pass")
    assert all(row["part_a"] is None for row in await mine.decisions())
    assert all(row["part_a"] is not None for row in await theirs.decisions())
    assert await rig.value("SELECT count(*) FROM run_salts WHERE run_id = $1", theirs.run_id) == 1
