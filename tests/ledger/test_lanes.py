"""Group commit: who comes while a batch is under way is in the next one; a bad member harms nobody; nothing waits without a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import asyncpg
import pytest

from holdfast.errors import LedgerBusy
from holdfast.ledger import service
from holdfast.ledger.lanes import Lanes
from holdfast.ledger.members import Reserve, ReserveAnswer
from holdfast.ledger.service import Ledger
from holdfast.ledger.types import Scope, Settlement

from .books import check_books
from .world import Database, Tenant, new_tenant, until


class Slow:
    """A batch operation that waits until it is let go, and notes what came together."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.batches: list[list[int]] = []

    async def __call__(self, connection: asyncpg.Connection, members: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(members))
        await self.go.wait()
        await connection.fetchval("SELECT 1")
        if any(member < 0 for member in members):
            raise asyncpg.CheckViolationError("negative")
        return [member * 2 for member in members]


@pytest.fixture
def slow() -> Slow:
    return Slow()


async def _begun(slow: Slow) -> None:
    async def begun() -> bool:
        return bool(slow.batches)

    await until(begun)


async def test_one_goes_at_once_and_those_who_come_meanwhile_go_together(database: Database, slow: Slow) -> None:
    lanes = Lanes(database.engine("governor"), slow, lanes=1)
    first = asyncio.create_task(lanes.submit(UUID(int=0), 0))
    await _begun(slow)
    others = [asyncio.create_task(lanes.submit(UUID(int=number), number)) for number in range(1, 30)]
    await asyncio.sleep(0)
    assert slow.batches == [[0]], "it did not wait for company"
    slow.go.set()
    assert await asyncio.gather(first, *others) == [number * 2 for number in range(30)]
    assert slow.batches == [[0], list(range(1, 30))]
    assert (lanes.figures.batches, lanes.figures.members) == (2, 30)


async def test_where_many_wait_a_part_of_them_goes_so_that_client_and_server_work_at_once(
    database: Database, slow: Slow
) -> None:
    lanes = Lanes(database.engine("governor"), slow, lanes=1)
    tasks = [asyncio.create_task(lanes.submit(UUID(int=0), 0))]
    await _begun(slow)
    tasks += [asyncio.create_task(lanes.submit(UUID(int=0), number)) for number in range(1, 301)]
    await asyncio.sleep(0)
    slow.go.set()
    assert await asyncio.gather(*tasks) == [number * 2 for number in range(301)]
    assert [len(batch) for batch in slow.batches][:3] == [1, 100, 66]
    assert [member for batch in slow.batches for member in batch] == list(range(301)), "in order of arrival"


async def test_a_batch_has_a_bound(database: Database, slow: Slow) -> None:
    slow.go.set()
    lanes = Lanes(database.engine("governor"), slow, lanes=1, batch_max=10)
    await asyncio.gather(*(lanes.submit(UUID(int=0), number) for number in range(35)))
    assert [len(batch) for batch in slow.batches] == [10, 10, 10, 5]


async def test_a_bad_member_is_refused_alone(database: Database, slow: Slow) -> None:
    slow.go.set()
    lanes = Lanes(database.engine("governor"), slow, lanes=1)
    answers = await asyncio.gather(
        *(lanes.submit(UUID(int=0), number) for number in (1, -1, 3)), return_exceptions=True
    )
    assert answers[0] == 2
    assert isinstance(answers[1], asyncpg.CheckViolationError)
    assert answers[2] == 6


async def test_a_reservation_that_has_no_form_on_the_wire_harms_no_other_tenants(database: Database) -> None:
    tenants = [await new_tenant(database) for _ in range(5)]
    ledger = Ledger(database.engine("governor"))
    asked = []
    for tenant in tenants:
        await tenant.cap("tenant", 1_000)
        asked.append(await tenant.reservation(await tenant.run()))
    asked[1] = replace(asked[1], amounts={"nano_usd": 2**63})
    asked[3] = replace(asked[3], tool="\ud800")
    lanes = Lanes(database.engine("governor"), service._reserve, lanes=1)
    first = asyncio.create_task(
        lanes.submit(UUID(int=0), Reserve(await tenants[0].reservation(await tenants[0].run())))
    )
    await asyncio.sleep(0)  # it is under way: the others are one batch
    together = [asyncio.create_task(lanes.submit(UUID(int=0), Reserve(one))) for one in asked]
    answers = await asyncio.gather(first, *together, return_exceptions=True)
    assert [isinstance(answer, asyncpg.DataError) for answer in answers] == [False, False, True, False, True, False], (
        answers
    )
    assert [answer.verdict for answer in answers if isinstance(answer, ReserveAnswer)] == ["allow"] * 4
    assert lanes.figures.batches <= 6, "nobody tried again and again what has no form"
    assert (await ledger.reserve(await tenants[1].reservation(await tenants[1].run()))).verdict == "allow"


async def test_whoever_finds_too_many_waiting_is_told_so(database: Database, slow: Slow) -> None:
    lanes = Lanes(database.engine("governor"), slow, lanes=1, queue_max=5)
    tasks = [asyncio.create_task(lanes.submit(UUID(int=0), 0))]
    await _begun(slow)
    tasks += [asyncio.create_task(lanes.submit(UUID(int=0), number)) for number in range(1, 6)]
    await asyncio.sleep(0)
    with pytest.raises(LedgerBusy):
        await lanes.submit(UUID(int=0), 6)
    slow.go.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8, 10]
    assert await lanes.submit(UUID(int=0), 7) == 14, "it takes more when it has room again"


async def test_who_is_cancelled_in_the_queue_is_not_done_and_who_is_under_way_is(
    database: Database, slow: Slow
) -> None:
    lanes = Lanes(database.engine("governor"), slow, lanes=1)
    under_way = asyncio.create_task(lanes.submit(UUID(int=0), 0))
    await _begun(slow)
    waiting = asyncio.create_task(lanes.submit(UUID(int=0), 1))
    await asyncio.sleep(0)
    under_way.cancel()
    waiting.cancel()
    slow.go.set()
    await asyncio.gather(under_way, waiting, return_exceptions=True)
    assert await lanes.submit(UUID(int=0), 2) == 4
    assert slow.batches == [[0], [2]]


async def test_a_batch_of_many_tenants_keeps_them_apart(database: Database) -> None:
    """The same role, the same steps, all in one statement: each tenant's caps are its own, and other tenants' runs are nobody's."""
    tenants = [await new_tenant(database) for _ in range(8)]
    caps = []
    for number, tenant in enumerate(tenants):
        caps.append(await tenant.cap("role", 10 * number, scope_id="worker"))
        await tenant.cap("tenant", 1_000)
    asked = []
    for tenant in tenants:
        asked += [await tenant.reservation(run) for run in await tenant.runs(4)]
    foreign = [
        replace(one, key=replace(one.key, tenant_id=other.tenant_id))
        for one, other in zip(asked[::4], [*tenants[1:], tenants[0]], strict=True)
    ]
    raw = await asyncpg.connect(database.urls["holdfast_governor"])
    answers: Sequence[ReserveAnswer] = await service._reserve(raw, [Reserve(one) for one in (*asked, *foreign)])
    await raw.close()
    assert {answer.status for answer in answers[len(asked) :]} == {"no_run"}
    for number, (tenant, cap) in enumerate(zip(tenants, caps, strict=True)):
        granted = [answer for answer in answers[number * 4 : number * 4 + 4] if answer.verdict == "allow"]
        assert len(granted) == min(number, 4)
        assert await tenant.balances(cap) == (10 * len(granted), 0, 0)
        await check_books(tenant, {})


async def test_a_member_of_another_tenant_is_refused_in_a_tenants_transaction(database: Database) -> None:
    one, other = await new_tenant(database), await new_tenant(database)
    await other.cap("tenant", 1_000)
    hold = await other.held()
    raw = await asyncpg.connect(database.urls["holdfast_governor"])
    try:
        await raw.execute("SELECT set_config('holdfast.tenant_id', $1, false)", str(one.tenant_id))
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="belongs to another tenant"):
            await service._reserve(raw, [Reserve(await other.reservation(hold.key.run_id, 2))])
        settlement = Settlement(other.tenant_id, hold.hold_id, "held", False, False, "voided", {}, "run", "x")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="belongs to another tenant"):
            await service._settle(raw, [settlement])
    finally:
        await raw.close()
    assert (await other.hold(hold.hold_id)).state == "held"


async def test_a_hold_of_another_tenant_is_not_found(database: Database) -> None:
    one, other = await new_tenant(database), await new_tenant(database)
    await other.cap("tenant", 1_000)
    hold = await other.held()
    raw = await asyncpg.connect(database.urls["holdfast_governor"])
    settlement = Settlement(one.tenant_id, hold.hold_id, "held", False, False, "voided", {}, "run", "x")
    (answer,) = await service._settle(raw, [settlement])
    await raw.close()
    assert answer.status == "changed"
    assert (await other.hold(hold.hold_id)).state == "held"


async def test_one_batch_settles_a_hold_once_whoever_asks_twice(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 1_000)
    holds = [await tenant.held() for _ in range(5)]
    twice = [
        Settlement(tenant.tenant_id, hold.hold_id, "held", False, False, to, {}, "run", "x")
        for to in ("voided", "expired")
        for hold in holds
    ]
    raw = await asyncpg.connect(tenant.database.urls["holdfast_governor"])
    answers = await service._settle(raw, twice)
    await raw.close()
    assert [answer.status for answer in answers] == ["settled"] * 5 + ["changed"] * 5
    assert await tenant.balances(cap) == (0, 0, 0)
    await check_books(tenant, {})


async def test_decisions_of_one_run_in_one_batch_are_decided_one_by_one(tenant: Tenant) -> None:
    """The second had not read what the first decided: it is told so, and nothing of it is written."""
    await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    raw = await asyncpg.connect(tenant.database.urls["holdfast_governor"])
    answers = await service._reserve(raw, [Reserve(await tenant.reservation(run, step)) for step in (1, 2)])
    await raw.close()
    assert [answer.status for answer in answers] == ["decided", "changed"]


async def test_a_scope_that_is_named_twice_counts_once(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 15)
    scope = Scope("tenant", str(tenant.tenant_id))
    decision = await Ledger(tenant.database.engine("governor")).reserve(
        await tenant.reservation(await tenant.run(), scopes=(scope, scope))
    )
    assert decision.verdict == "allow"
    assert await tenant.balances(cap) == (10, 0, 0)
