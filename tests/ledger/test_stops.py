"""Attacks on the emergency stop: with permits given before, permits redeemed before, and everything at once (LAW 1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID

import pytest

from holdfast.database.engine import transaction
from holdfast.errors import NotFound, RequestInvalid, StopActive
from holdfast.ids import new_id
from holdfast.ledger import stops
from holdfast.ledger.auditor import audit
from holdfast.ledger.service import Ledger
from holdfast.ledger.stops import ScopeKind, Stop
from holdfast.ledger.types import HoldView, Redemption
from holdfast.tenancy.principals import Principal

from .world import Database, Tenant, new_tenant, until

SCOPES: list[tuple[ScopeKind, str]] = [("tenant", ""), ("agent", "agent"), ("role", "worker"), ("tool", "mail.list")]
"""What the tenant's runs are of; the holds of the tests below are for `mail.list`."""
ELSEWHERE: list[tuple[ScopeKind, str]] = [("agent", "other"), ("role", "other"), ("tool", "mail.send")]


@pytest.fixture
async def tenant(database: Database) -> Tenant:
    tenant = await new_tenant(database)
    await tenant.cap("tenant", 1_000_000)
    definition = '{"role": "other", "instructions": "x", "model": {"wire": "anthropic", "name": "claude-sonnet-4-5"}}'
    await database.execute(
        "INSERT INTO agents (tenant_id, name, version, definition) VALUES ($1, 'other', 1, $2::text::jsonb)",
        tenant.tenant_id,
        definition,
    )
    await database.execute(
        "UPDATE agents SET definition = $2::text::jsonb WHERE tenant_id = $1 AND name = 'agent'",
        tenant.tenant_id,
        definition,
    )
    await database.execute(
        "INSERT INTO roles (tenant_id, name, version, rules, policy_hash) VALUES ($1, 'other', 1, '[]', sha256(''))",
        tenant.tenant_id,
    )
    return tenant


def owner(tenant: Tenant) -> Principal:
    ids = (tenant.tenant_id, "t", tenant.project_id, "main", tenant.user_id, "ann", new_id())
    return Principal(*ids, frozenset({"owner"}))


async def stop(tenant: Tenant, kind: ScopeKind = "tenant", name: str = "", reason: str = "it mails nonsense") -> Stop:
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        return (await stops.put_stop(connection, owner(tenant), kind, name, reason))[0]


async def lift(tenant: Tenant, stop_id: UUID, reason: str = "repaired") -> tuple[Stop, bool]:
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        return await stops.lift_stop(connection, owner(tenant), stop_id, reason)


async def held(tenant: Tenant, run: UUID | None = None, step: int = 1) -> HoldView:
    """A hold for `mail.list`."""
    asked = await tenant.reservation(run or await tenant.run(), step)
    decision = await tenant.ledger.reserve(replace(asked, tool="mail.list"))
    assert decision.hold_id is not None, decision
    return await tenant.hold(decision.hold_id)


async def code(tenant: Tenant) -> tuple[str, str]:
    asked = await tenant.reservation(await tenant.run())
    decision = await tenant.ledger.reserve(replace(asked, tool="mail.list"))
    return decision.verdict, decision.code


async def outward(tenant: Tenant) -> set[UUID]:
    rows = await tenant.database.fetch(
        "SELECT hold_id FROM holds WHERE tenant_id = $1 AND outward_at IS NOT NULL", tenant.tenant_id
    )
    return {row["hold_id"] for row in rows}


async def waits_for_the_gate(tenant: Tenant) -> bool:
    """Whether somebody waits for an advisory lock."""
    return bool(
        await tenant.database.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    )


@asynccontextmanager
async def going_outside(tenant: Tenant, hold: HoldView, token: bytes) -> AsyncIterator[None]:
    """An executor that has asked, and whose answer is not committed before the block ends."""
    executor = await tenant.database.connect("executor")
    async with executor.transaction():
        assert await executor.fetchval("SELECT begin_outward($1, $2)", hold.hold_id, token) is not None
        yield
    await executor.close()


# What is stopped, and what is not ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), SCOPES)
async def test_nothing_of_what_is_stopped_is_allowed_redeemed_or_begun(
    tenant: Tenant, kind: ScopeKind, name: str
) -> None:
    permit, redeemed = await held(tenant), await held(tenant)
    token = (await tenant.redeem(redeemed)).lease_token
    made = await stop(tenant, kind, name)
    assert await code(tenant) == ("deny", "stop.active")
    with pytest.raises(StopActive, match="it mails nonsense"):
        await tenant.redeem(permit)
    assert await tenant.begin(redeemed.hold_id, token) is None
    assert (await tenant.hold(permit.hold_id)).state == "held", "a refused permit is not used up"
    assert not await outward(tenant)
    for hold in (permit, redeemed):
        await tenant.settle(hold.hold_id, "voided")
    assert await tenant.database.value("SELECT reserved FROM caps WHERE tenant_id = $1", tenant.tenant_id) == 0
    await lift(tenant, made.stop_id)
    hold = await held(tenant)
    assert await tenant.begin(hold.hold_id, (await tenant.redeem(hold)).lease_token) is not None


@pytest.mark.parametrize(("kind", "name"), ELSEWHERE)
async def test_a_stop_on_something_else_touches_nothing(tenant: Tenant, kind: ScopeKind, name: str) -> None:
    permit = await held(tenant)
    await stop(tenant, kind, name)
    assert (await code(tenant))[0] == "allow"
    assert await tenant.begin(permit.hold_id, (await tenant.redeem(permit)).lease_token) is not None


@pytest.mark.parametrize(("kind", "name"), SCOPES)
async def test_a_stop_of_another_tenant_touches_nothing(tenant: Tenant, kind: ScopeKind, name: str) -> None:
    other = await new_tenant(tenant.database)
    await other.cap("tenant", 1_000)
    hold = await held(other)
    await stop(tenant, kind, name)
    assert (await code(other))[0] == "allow"
    assert await other.begin(hold.hold_id, (await other.redeem(hold)).lease_token) is not None


async def test_what_has_gone_outside_comes_back_and_is_settled(tenant: Tenant) -> None:
    hold = await held(tenant)
    token = (await tenant.redeem(hold)).lease_token
    first = await tenant.begin(hold.hold_id, token)
    made = await stop(tenant)
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        assert await stops.count_outside(connection, tenant.tenant_id, made) == 1
    # the same executor asks again because its answer was lost: it has been let out before the stop
    assert first is not None
    assert await tenant.begin(hold.hold_id, token) is not None
    assert await tenant.store(hold.hold_id, token)
    await tenant.settle(hold.hold_id, "committed", {"nano_usd": 3})
    assert (await tenant.hold(hold.hold_id)).state == "committed"
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        assert await stops.count_outside(connection, tenant.tenant_id, made) == 0


async def test_what_is_not_there_cannot_be_stopped(tenant: Tenant) -> None:
    for kind, name in (("agent", "nobody"), ("role", "nobody"), ("tool", "no.such")):
        with pytest.raises(NotFound, match=name):
            await stop(tenant, kind, name)  # type: ignore[arg-type]  # mypy does not see the literals
    for kind, name in (("agent", ""), ("tenant", "x")):
        with pytest.raises(RequestInvalid, match=r"scope\.name"):
            await stop(tenant, kind, name)  # type: ignore[arg-type]  # mypy does not see the literals
    with pytest.raises(NotFound):
        await lift(tenant, new_id())


async def test_no_process_takes_a_stop_away_or_rewrites_it(tenant: Tenant) -> None:
    made = await stop(tenant)
    for role in ("governor", "broker", "executor", "sweeper", "auditor", "api"):
        for change in ("DELETE FROM stops", "UPDATE stops SET reason = 'x'"):
            connection = await tenant.database.connect(role)
            await connection.execute(f"SET holdfast.tenant_id = '{tenant.tenant_id}'")
            with pytest.raises(Exception, match="permission denied"):
                await connection.execute(change)
            await connection.close()
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        assert await stops.read_stop(connection, tenant.tenant_id, made.stop_id) == made


# At once -----------------------------------------------------------------------------------------------------------------


async def test_many_who_stop_the_same_set_one_stop_and_record_it_once(tenant: Tenant) -> None:
    made = await asyncio.gather(*(stop(tenant, "agent", "agent", f"reason {n}") for n in range(12)))
    assert len({one.stop_id for one in made}) == 1
    lifted = await asyncio.gather(*(lift(tenant, made[0].stop_id, f"reason {n}") for n in range(12)))
    assert len({one.lift_reason for one, _ in lifted}) == 1
    assert sum(was_on for _, was_on in lifted) == 1
    codes = await tenant.database.fetch(
        "SELECT reason_codes[1] AS code FROM decisions WHERE tenant_id = $1 AND kind = 'config' ORDER BY decision_id",
        tenant.tenant_id,
    )
    assert [row["code"] for row in codes] == ["stop.set", "stop.lifted"]
    assert (await stop(tenant, "agent", "agent")).stop_id != made[0].stop_id


async def test_a_stop_waits_for_what_is_just_going_outside(tenant: Tenant) -> None:
    hold = await held(tenant)
    token = (await tenant.redeem(hold)).lease_token
    async with going_outside(tenant, hold, token):
        stopping = asyncio.create_task(stop(tenant))
        await until(lambda: waits_for_the_gate(tenant))
        assert not stopping.done(), "it would be in force before what was let out is known to be outside"
    await stopping
    assert await outward(tenant) == {hold.hold_id}


async def test_what_comes_while_a_stop_is_being_set_waits_and_is_refused(tenant: Tenant) -> None:
    hold = await held(tenant)
    token = (await tenant.redeem(hold)).lease_token
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        await stops.put_stop(connection, owner(tenant), "tenant", "", "now")
        beginning = asyncio.create_task(tenant.begin(hold.hold_id, token))
        await until(lambda: waits_for_the_gate(tenant))
        assert not beginning.done(), "it would go outside with an old look at the stops"
    assert await beginning is None
    assert not await outward(tenant)


async def test_other_tenants_wait_for_nobodys_stop(tenant: Tenant) -> None:
    other = await new_tenant(tenant.database)
    await other.cap("tenant", 1_000)
    hold = await held(other)
    token = (await other.redeem(hold)).lease_token
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        await stops.put_stop(connection, owner(tenant), "tenant", "", "now")
        assert await other.begin(hold.hold_id, token) is not None


async def test_stops_race_permits_and_nothing_goes_outside_after_the_stop(tenant: Tenant) -> None:
    """Two brokers and executors race a stop, round after round: what is outside when it is set is all that ever will be."""
    brokers = [tenant.database.ledger("broker"), Ledger(tenant.database.engine("broker"))]
    went = refused = 0
    for round_number in range(6):
        run = await tenant.run()
        holds = [await held(tenant, run, step) for step in range(1, 13)]
        started = asyncio.Event()

        async def execute(number: int, hold: HoldView, started: asyncio.Event = started) -> bool:
            try:
                redeemed = await brokers[number % 2].redeem(tenant.tenant_id, hold.hold_id, hold.digest)
            except StopActive:
                return False
            assert isinstance(redeemed, Redemption)
            if number >= 3:
                started.set()
            return await tenant.begin(hold.hold_id, redeemed.lease_token) is not None

        async def pull(started: asyncio.Event = started, pause_s: float = 0.002 * round_number) -> set[UUID]:
            await started.wait()
            await asyncio.sleep(pause_s)  # another moment in each round; what has to hold, holds in all
            await stop(tenant)
            return await outward(tenant)

        pulling = asyncio.create_task(pull())
        let_out = await asyncio.gather(*(execute(number, hold) for number, hold in enumerate(holds)))
        at_stop = await pulling
        assert await outward(tenant) == at_stop, f"round {round_number}"
        assert at_stop >= {hold.hold_id for hold, out in zip(holds, let_out, strict=True) if out}
        went, refused = went + sum(let_out), refused + len(holds) - sum(let_out)
        async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
            (standing,) = await stops.list_stops(connection, tenant.tenant_id, before=None, lifted=False, count=9)
        await lift(tenant, standing.stop_id)
    assert went + refused == 72
    found = (await audit(tenant.database.engine("auditor"))).discrepancies
    slug = await tenant.database.value("SELECT slug FROM tenants WHERE tenant_id = $1", tenant.tenant_id)
    assert not [one for one in found if one.tenant == slug]
