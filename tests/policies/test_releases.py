"""`released by role(…)`: it lets pass what was read before, and nothing that is read later or was still under way."""

from __future__ import annotations

import asyncio
from uuid import UUID

import orjson
import pytest

from holdfast.database.engine import transaction
from holdfast.errors import Conflict
from holdfast.ids import new_id
from holdfast.policies import releases
from holdfast.policies.releases import ReleaseRefused
from holdfast.tenancy.principals import Principal
from tests.ledger.world import Tenant, until

from .test_past import asked, call, reserve, under

POLICY = (
    "role worker { permit tools }\nlabel vault yields secret\n"
    'invariant stays: forbid mail when run has secret unless released by role("dpo")\n'
)


def officer(tenant: Tenant, *roles: str, user_id: UUID | None = None) -> Principal:
    user = user_id or new_id()
    return Principal(tenant.tenant_id, "t", new_id(), "p", user, "olga", new_id(), frozenset(roles or ("dpo",)))


async def release(tenant: Tenant, run: UUID, principal: Principal | None = None, label: str = "secret") -> None:
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        await releases.release(connection, principal or officer(tenant), run, label, "it is public")


async def read_vault(tenant: Tenant, run: UUID, step: int) -> UUID:
    decision = await reserve(tenant, run, call("vault"), step)
    assert decision.hold_id is not None
    await tenant.executed(await tenant.hold(decision.hold_id))
    await tenant.settle(decision.hold_id, "committed")
    return decision.hold_id


async def verdict(tenant: Tenant, run: UUID, step: int = 50) -> str:
    evaluation, _ = await asked(tenant, run, call("mail"), step)
    return evaluation.verdict.verdict


async def test_a_release_covers_what_was_read_before_and_the_next_read_needs_another(tenant: Tenant) -> None:
    run, other = await under(tenant, POLICY, 2)
    assert await verdict(tenant, run) == "allow"
    for step in (1, 2):
        await read_vault(tenant, run, step)
        await read_vault(tenant, other, step)
        assert await verdict(tenant, run) == "deny"
        await release(tenant, run)
        assert await verdict(tenant, run) == "allow"
        assert await verdict(tenant, other) == "deny", "it is released for one run alone"


async def test_a_release_before_anything_was_read_covers_nothing(tenant: Tenant) -> None:
    (run,) = await under(tenant, POLICY)
    await release(tenant, run)
    await read_vault(tenant, run, 1)
    assert await verdict(tenant, run) == "deny"


async def test_another_role_or_another_label_releases_nothing(tenant: Tenant) -> None:
    (run,) = await under(tenant, POLICY)
    await read_vault(tenant, run, 1)
    await release(tenant, run, officer(tenant, "owner", "admin"))
    await release(tenant, run, label="personal")
    assert await verdict(tenant, run) == "deny"


async def test_what_was_under_way_is_not_released(tenant: Tenant) -> None:
    (run,) = await under(tenant, POLICY)
    decision = await reserve(tenant, run, call("vault"))
    assert decision.hold_id is not None
    await release(tenant, run)
    assert await verdict(tenant, run) == "deny"
    await tenant.executed(await tenant.hold(decision.hold_id))
    await tenant.settle(decision.hold_id, "committed")
    assert await verdict(tenant, run) == "deny"


async def test_what_began_to_be_settled_before_and_was_settled_after_is_not_released(tenant: Tenant) -> None:
    """Its time of settling is that of its statement's begin, which lies before the release."""
    (run,) = await under(tenant, POLICY)
    await tenant.cap("tenant", 10**6)
    decision = await reserve(tenant, run, call("vault"))
    assert decision.hold_id is not None
    await tenant.executed(await tenant.hold(decision.hold_id))
    async with tenant.database.superuser.acquire() as connection:
        held = connection.transaction()
        await held.start()
        await connection.execute("SELECT 1 FROM caps WHERE tenant_id = $1 FOR UPDATE", tenant.tenant_id)
        settling = asyncio.create_task(tenant.settle(decision.hold_id, "committed"))
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ILIKE '%ledger_settle%'"
        )
        await until(lambda: tenant.database.value(waiting))
        await release(tenant, run)
        await held.commit()
    await settling
    late = await tenant.database.value(
        "SELECT bool_and(h.settled_at < r.created_at) FROM holds h JOIN releases r USING (tenant_id, run_id) WHERE r.run_id = $1",
        run,
    )
    assert late, "else this test shows nothing"
    assert await verdict(tenant, run) == "deny"


async def test_a_child_carries_its_parents_labels_and_none_of_its_releases(tenant: Tenant) -> None:
    parent, child = await under(tenant, POLICY, 2)
    await read_vault(tenant, parent, 1)
    await tenant.database.execute("UPDATE runs SET parent_run_id = $2 WHERE run_id = $1", child, parent)
    await release(tenant, parent)
    assert (await verdict(tenant, parent), await verdict(tenant, child)) == ("allow", "deny")
    await release(tenant, child)
    assert await verdict(tenant, child) == "allow"


async def test_who_started_the_run_cannot_release_and_an_ended_run_has_nothing_to_release(tenant: Tenant) -> None:
    (run,) = await under(tenant, POLICY)
    starter = await tenant.database.value("SELECT user_id FROM runs WHERE run_id = $1", run)
    with pytest.raises(ReleaseRefused):
        await release(tenant, run, officer(tenant, "dpo", "owner", user_id=starter))
    await tenant.database.execute("UPDATE runs SET ended_at = now(), status = 'succeeded' WHERE run_id = $1", run)
    with pytest.raises(Conflict):
        await release(tenant, run)


async def test_the_decision_names_the_release_and_the_release_has_a_record(tenant: Tenant) -> None:
    (run,) = await under(tenant, POLICY)
    await read_vault(tenant, run, 1)
    await release(tenant, run)
    _, past = await asked(tenant, run, call("mail"), 2)
    assert [(fact.label, fact.by, fact.roles) for fact in past.releases] == [("secret", "olga", ("dpo",))]
    row = await tenant.database.fetch("SELECT * FROM decisions WHERE run_id = $1 AND kind = 'release'", run)
    assert row[0]["reason_codes"] == ["label.released"]
    assert orjson.loads(row[0]["part_a"])["facts"]["label"] == "secret"
    assert row[0]["decision_id"] == await tenant.database.value(
        "SELECT decision_id FROM releases WHERE run_id = $1", run
    )
