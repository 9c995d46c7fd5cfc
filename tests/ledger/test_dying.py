"""PostgreSQL dies in the middle of batches, callers freeze: what was answered stays so, and nobody holds the others up."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from cli.stack.supervisor import Stack
from holdfast.database.engine import LOST
from holdfast.database.roles import PROCESS_ROLES
from holdfast.errors import Unavailable
from holdfast.ids import new_id
from holdfast.ledger.auditor import audit
from holdfast.ledger.executions import Executions
from holdfast.ledger.types import Decision, FactsChanged, FactVersions, OutcomeView, Reservation, Settlement
from tests.stack.places import ROOT

from .books import check_books
from .world import Database, Tenant, new_tenant, until

CALLERS = 48
DEATHS = 3


@dataclass(slots=True)
class Mortal:
    """A PostgreSQL of this file's own, which may be killed."""

    stack: Stack
    database: Database


@pytest.fixture
async def mortal() -> AsyncIterator[Mortal]:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    folder.chmod(0o755)
    try:
        async with Stack(folder, ports="free", parts={"postgres", "migrations"}) as stack:
            roles = (*PROCESS_ROLES, "holdfast_owner")
            pool = await asyncpg.create_pool(stack.superuser_url, min_size=0, max_size=4)
            database = Database({role: stack.database_url(role) for role in roles}, stack.superuser_url, pool)
            yield Mortal(stack, database)
            for engine in database.engines.values():
                await engine.dispose()
            pool.terminate()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def test_what_was_answered_outlives_the_death_of_the_database(mortal: Mortal) -> None:
    """An answer says that it is on the disk: nothing acknowledged is lost, nothing is done twice, whenever it dies."""
    tenant = await new_tenant(mortal.database)
    cap = await tenant.cap("tenant", 10**9)
    await tenant.cap("user", 10**6, unit="calls")
    first = [await tenant.reservation(run, amounts={"nano_usd": 10, "calls": 1}) for run in await tenant.runs(CALLERS)]
    granted: list[Decision] = []
    voided: list[UUID] = []
    over = asyncio.Event()

    async def work(number: int) -> None:
        step = 0
        while not over.is_set():
            step += 1
            asked = replace(
                first[number],
                key=replace(first[number].key, step=step),
                decision_id=new_id(),
                hold_id=new_id(),
                versions=FactVersions(step - 1, 1),
            )
            decision = await insist(asked)
            granted.append(decision)
            if number % 2:
                await void(decision)

    async def insist(asked: Reservation) -> Decision:
        while True:
            try:
                return await tenant.ledger.reserve(asked)
            except Unavailable:
                await asyncio.sleep(0.02)

    async def void(decision: Decision) -> None:
        assert decision.hold_id is not None
        settlement = Settlement(tenant.tenant_id, decision.hold_id, "held", False, False, "voided", {}, "run", "tried")
        while True:
            try:
                await tenant.ledger.settle(settlement)
            except Unavailable:
                await asyncio.sleep(0.02)
                continue
            except FactsChanged:
                pass  # it was done by the batch whose answer was lost; what it is now, is looked at in the end
            voided.append(decision.hold_id)
            return

    working = [asyncio.create_task(work(number)) for number in range(CALLERS)]
    for alive in range(DEATHS + 1):
        least = len(granted) + 3 * CALLERS

        async def busy(least: int = least) -> bool:
            return len(granted) >= least

        await until(busy, timeout_s=60)
        if alive < DEATHS:
            await mortal.stack.kill("postgres", signal.SIGKILL)
    over.set()
    await asyncio.gather(*working)
    kept = {
        row["decision_id"]: row["record_hash"]
        for row in await mortal.database.fetch(
            "SELECT decision_id, record_hash FROM decisions WHERE run_id IS NOT NULL"
        )
    }
    states = {row["hold_id"]: row["state"] for row in await mortal.database.fetch("SELECT hold_id, state FROM holds")}
    assert {decision.verdict for decision in granted} == {"allow"}
    assert {decision.decision_id: decision.record_hash for decision in granted} == kept, "each once, and none besides"
    assert {states[hold_id] for hold_id in voided} == {"voided"}
    assert await tenant.balances(cap) == (10 * (len(granted) - len(voided)), 0, 0)
    await check_books(tenant, {})
    assert (await audit(mortal.database.engine("auditor"))).discrepancies == ()


async def test_an_answer_is_on_the_disk_when_it_comes(mortal: Mortal) -> None:
    """The database dies right after each: a commit that did not wait for the disk would be forgotten."""
    tenant, database = await new_tenant(mortal.database), mortal.database
    await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    asked = await tenant.reservation(run)

    async def dies() -> None:
        began = "SELECT pg_postmaster_start_time()"
        before = await database.value(began)
        await mortal.stack.kill("postgres", signal.SIGKILL)

        async def lives() -> bool:
            try:
                # a process of the dead one may answer once more before it notices
                return bool(await database.value(began) > before)
            except (*LOST, asyncpg.PostgresError):
                return False

        await until(lives, timeout_s=60)

    decision = await tenant.ledger.reserve(asked)
    await dies()
    assert decision.hold_id is not None
    hold = await tenant.hold(decision.hold_id)
    assert (hold.state, hold.decision_id) == ("held", decision.decision_id)
    executions = Executions(database.engine("executor"))
    token = (await tenant.redeem(hold)).lease_token
    assert await executions.begin(hold.hold_id, token) is not None
    await dies()
    assert (await tenant.hold(hold.hold_id)).went_outward
    outcome = OutcomeView(True, "", False, None, "known", "req", True, b"{}")
    assert await executions.store(hold.hold_id, token, outcome)
    await dies()
    assert (await tenant.hold(hold.hold_id)).outcome == outcome
    await tenant.settle(hold.hold_id, "committed", {"nano_usd": 7})
    await dies()
    assert (await tenant.hold(hold.hold_id)).cost_nano_usd == 7
    await check_books(tenant, {hold.hold_id: {"nano_usd": 7}})


_ENDLESS = """
import asyncio, sys
from uuid import UUID
from tests.ledger.world import Database, Tenant
import asyncpg

async def main(url, superuser, *ids):
    pool = await asyncpg.create_pool(superuser, min_size=1, max_size=2)
    tenant = Tenant(Database({"holdfast_governor": url}, superuser, pool), *map(UUID, ids))
    runs = await tenant.runs(8)
    print("ready", flush=True)
    async def work(run):
        step = 0
        while True:
            step += 1
            await tenant.reserve(run, step)
    await asyncio.gather(*(work(run) for run in runs))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_process_that_freezes_in_the_middle_holds_nobody_up(tenant: Tenant) -> None:
    """Frozen at any moment, it keeps no lock: its batch is one statement, which PostgreSQL ends without it."""
    await tenant.cap("tenant", 10**9)
    database = tenant.database
    ids = [str(one) for one in (tenant.tenant_id, tenant.project_id, tenant.user_id)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _ENDLESS, database.urls["holdfast_governor"], database.superuser_url, *ids),
        cwd=ROOT,
        env=dict(os.environ),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        for number in range(20):
            await asyncio.sleep(0.01 + 0.003 * number)  # another moment each time
            os.kill(process.pid, signal.SIGSTOP)
            async with asyncio.timeout(30):
                assert (await tenant.held()).state == "held"
            os.kill(process.pid, signal.SIGCONT)
    finally:
        process.kill()
        await process.wait()
    await check_books(tenant, {})
