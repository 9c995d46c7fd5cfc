"""What a run has read, gathered: as few rows as there are ways of reading, and none that is lost or stays too long."""

from __future__ import annotations

from uuid import UUID

from holdfast.actions.run_facts import RunReader
from holdfast.database.engine import transaction
from holdfast.ledger.types import TryKey
from holdfast.policies.family import read_family
from holdfast.policies.readings import Reading, read_family_readings
from tests.ledger.world import Tenant

from .test_past import asked, call, reserve, under

ALWAYS = "role worker { permit tools }\nlabel vault yields secret\nforbid pay when run has secret\n"
WHERE = ALWAYS.replace("label vault", 'label vault where args.kind == "secret"')


async def readings(tenant: Tenant, run_id: UUID) -> list[Reading]:
    async with transaction(tenant.database.engine("governor"), tenant.tenant_id) as connection:
        run = await RunReader().read(connection, tenant.tenant_id, run_id)
        family = await read_family(connection, run)
        assert family is not None
        found = await read_family_readings(connection, run, family, TryKey(run.tenant_id, run_id, 100, 1))
    assert found is not None
    return list(found.all)


async def may_pay(tenant: Tenant, run_id: UUID) -> bool:
    return (await asked(tenant, run_id, call("pay"), 100))[0].verdict.allowed


async def test_actions_that_are_labelled_alike_are_one_reading(tenant: Tenant) -> None:
    (run,) = await under(tenant, ALWAYS)
    for step in range(1, 6):
        await reserve(tenant, run, call("vault", number=step), step)
        await reserve(tenant, run, call("lamp", number=step), step + 50)
    assert sorted((each.name, each.action, each.is_open) for each in await readings(tenant, run)) == [
        ("lamp", None, True),
        ("vault", None, True),
    ]
    assert not await may_pay(tenant, run)


async def test_where_labels_ask_about_arguments_each_action_is_looked_at(tenant: Tenant) -> None:
    (run,) = await under(tenant, WHERE)
    for step in (1, 2):
        await reserve(tenant, run, call("vault", kind="plain"), step)
    assert len(await readings(tenant, run)) == 1
    assert await may_pay(tenant, run)
    secret = await reserve(tenant, run, call("vault", kind="secret"), 3)
    assert len(await readings(tenant, run)) == 2
    assert not await may_pay(tenant, run)
    assert secret.hold_id is not None
    await tenant.settle(secret.hold_id, "voided")
    assert await may_pay(tenant, run), "it came to nothing, so nothing was read"


async def test_what_went_out_and_came_to_nothing_may_have_been_read(tenant: Tenant) -> None:
    (run,) = await under(tenant, ALWAYS)
    decision = await reserve(tenant, run, call("vault"))
    assert decision.hold_id is not None
    await tenant.executed(await tenant.hold(decision.hold_id))
    await tenant.database.execute(
        "UPDATE holds SET state = 'voided', settled_at = now(), settled_by = 'run' WHERE hold_id = $1", decision.hold_id
    )
    assert not await may_pay(tenant, run)
