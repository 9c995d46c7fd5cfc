"""Versions of policies, what is active, and what a run is pinned to: on a real PostgreSQL, with the rights of each process."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from holdfast.database.engine import transaction
from holdfast.errors import Conflict, NotFound, PolicyBroken, RunUnknown
from holdfast.ids import new_id
from holdfast.policies import store
from holdfast.policies.version import NO_POLICY_ID, Activation, PinnedPolicy, PolicyVersion
from holdfast_verdict import Catalogue, Facts, compile_policy, decide
from tests.ledger.world import Tenant, new_tenant

PERMIT = "role worker {\n  permit orders.read\n}\n"
FORBID = "role worker {\n  permit orders.read\n  forbid orders.read\n}\n"
CATALOGUE = Catalogue.of({"orders.read": {}})


async def put(tenant: Tenant, source: str, note: str = "") -> PolicyVersion:
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        return await store.put(
            connection, tenant.tenant_id, source, compile_policy(source), put_by="user:alice", note=note
        )


async def activate(tenant: Tenant, version: PolicyVersion) -> Activation:
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        return await store.activate(connection, tenant.tenant_id, version.policy_id, by="user:alice", reason="because")


async def pinned(tenant: Tenant, run: UUID, process: str = "governor") -> PinnedPolicy:
    async with transaction(tenant.database.engine(process), tenant.tenant_id) as connection:
        return await store.read_pinned(connection, tenant.tenant_id, run)


async def following(tenant: Tenant) -> UUID:
    run = await tenant.run()
    await tenant.database.execute("UPDATE runs SET follows_latest = true WHERE run_id = $1", run)
    return run


async def test_a_tenant_without_a_policy_is_denied_everything(tenant: Tenant) -> None:
    found = await pinned(tenant, await tenant.run())
    assert (found.policy_id, found.version, found.shadow) == (NO_POLICY_ID, 0, None)
    verdict = decide(found.policy, CATALOGUE.action("orders.read", {}), Facts(principal={"role": "worker"}))
    assert (verdict.verdict, verdict.code) == ("deny", "policy.empty")


async def test_versions_count_from_one_and_the_same_text_makes_no_new_one(tenant: Tenant) -> None:
    first = await put(tenant, PERMIT, "to begin with")
    second = await put(tenant, FORBID)
    again = await put(tenant, FORBID, "once more")
    assert (first.version, second.version, again) == (1, 2, second)
    assert first.policy_hash == compile_policy(PERMIT).policy_hash
    third = await put(tenant, PERMIT)
    assert (third.version, third.policy_hash) == (3, first.policy_hash)
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        listed = await store.versions(connection, tenant.tenant_id, before=3, count=10)
        assert listed == [second, first]
        assert (await store.find(connection, tenant.tenant_id, 1)).source == PERMIT
        with pytest.raises(NotFound):
            await store.find(connection, tenant.tenant_id, 4)


async def test_a_run_keeps_the_version_that_it_began_with(tenant: Tenant) -> None:
    first, second = await put(tenant, PERMIT), await put(tenant, FORBID)
    await activate(tenant, first)
    run, latest = await tenant.run(), await following(tenant)
    await activate(tenant, second)
    assert (await pinned(tenant, run)).policy_id == first.policy_id
    assert (await pinned(tenant, latest)).policy_id == second.policy_id
    later = await pinned(tenant, await tenant.run(), "broker")
    assert (later.policy_id, later.source, later.policy) == (second.policy_id, FORBID, compile_policy(FORBID))


async def test_a_child_is_decided_by_what_its_parent_is_decided_by(tenant: Tenant) -> None:
    first, second = await put(tenant, PERMIT), await put(tenant, FORBID)
    await activate(tenant, first)
    parent = await tenant.run()
    await activate(tenant, second)
    child = new_id()
    await tenant.database.execute(
        """INSERT INTO runs (tenant_id, run_id, project_id, user_id, agent_name, agent_version, role_name, role_version, parent_run_id,
           deadline_at) SELECT tenant_id, $2, project_id, user_id, 'agent', 1, 'worker', 1, run_id, deadline_at
           FROM runs WHERE run_id = $1""",
        parent,
        child,
    )
    assert (await pinned(tenant, child)).policy_id == first.policy_id


async def test_roll_back_is_a_new_activation_of_what_was_active_before(tenant: Tenant) -> None:
    first, second = await put(tenant, PERMIT), await put(tenant, FORBID)
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        with pytest.raises(Conflict):
            await store.roll_back(connection, tenant.tenant_id, by="user:bob")
    await activate(tenant, first)
    await activate(tenant, second)
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        back = await store.roll_back(connection, tenant.tenant_id, by="user:bob", reason="it denied refunds")
        assert (back.seq, back.version, back.action, back.activated_by) == (3, 1, "roll_back", "user:bob")
        log = await store.activations(connection, tenant.tenant_id, before=99, count=9)
    assert [(each.seq, each.action, each.version) for each in log] == [
        (3, "roll_back", 1),
        (2, "activate", 2),
        (1, "activate", 1),
    ]
    assert log[0].reason == "it denied refunds"
    assert (await pinned(tenant, await tenant.run())).policy_id == first.policy_id


async def test_a_candidate_is_read_beside_what_decides_until_that_is_ended(tenant: Tenant) -> None:
    first, second = await put(tenant, PERMIT), await put(tenant, FORBID)
    await activate(tenant, first)
    run = await tenant.run()
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        await store.shadow(connection, tenant.tenant_id, second.policy_id, by="user:bob")
    found = await pinned(tenant, run)
    assert (found.policy_id, found.shadow_id, found.shadow) == (
        first.policy_id,
        second.policy_id,
        compile_policy(FORBID),
    )
    await activate(tenant, second)
    assert (await pinned(tenant, await tenant.run())).shadow is None, "it decides already"
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        await store.shadow(connection, tenant.tenant_id, None, by="user:bob")
        with pytest.raises(Conflict):
            await store.shadow(connection, tenant.tenant_id, None, by="user:bob")
    assert (await pinned(tenant, run)).shadow_id is None


async def test_two_activations_at_once_have_an_order_and_both_are_kept(tenant: Tenant) -> None:
    stored = [await put(tenant, f"role worker {{\n  permit orders.read\n}}\n# {n}\n") for n in range(12)]
    done = await asyncio.gather(*(activate(tenant, version) for version in stored))
    assert sorted(each.seq for each in done) == list(range(1, 13))
    last = max(done, key=lambda each: each.seq)
    assert (await pinned(tenant, await tenant.run())).policy_id == last.policy_id
    count = await tenant.database.value(
        "SELECT count(*) FROM policy_activations WHERE tenant_id = $1", tenant.tenant_id
    )
    assert count == 12


async def test_versions_put_at_once_are_numbered_without_a_gap(tenant: Tenant) -> None:
    stored = await asyncio.gather(*(put(tenant, f"{PERMIT}# {n}\n") for n in range(12)))
    assert sorted(each.version for each in stored) == list(range(1, 13))


async def test_an_activation_makes_runs_that_follow_the_latest_look_again_and_no_others(tenant: Tenant) -> None:
    version = await put(tenant, PERMIT)
    run, latest = await tenant.run(), await following(tenant)
    before = [await tenant.versions(each) for each in (run, latest)]
    await activate(tenant, version)
    after = [await tenant.versions(each) for each in (run, latest)]
    assert after[0] == before[0]
    assert after[1].history == before[1].history + 1


async def test_nobody_may_change_or_take_away_a_version_or_an_activation(tenant: Tenant) -> None:
    await activate(tenant, await put(tenant, PERMIT))
    for process in ("api", "governor", "broker", "sweeper"):
        for statement in (
            "UPDATE policies SET source = ''",
            "DELETE FROM policies",
            "UPDATE policy_activations SET reason = ''",
            "DELETE FROM policy_activations",
            "UPDATE runs SET policy_id = NULL" if process in ("api", "broker") else "DELETE FROM shadow_verdicts",
        ):
            with pytest.raises(DBAPIError, match="permission denied"):
                async with transaction(tenant.database.engine(process), tenant.tenant_id) as connection:
                    await connection.execute(text(statement))


async def test_what_was_tampered_with_decides_nothing(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    version = await put(tenant, PERMIT)
    await activate(tenant, version)
    run = await tenant.run()
    monkeypatch.setattr(store, "_versions", OrderedDict())  # as in another process
    with pytest.raises(asyncpg.CheckViolationError):
        await tenant.database.execute("UPDATE policies SET compiled = '{}' WHERE policy_id = $1", version.policy_id)
    await tenant.database.execute(
        "UPDATE policies SET compiled = '{}', policy_hash = sha256('{}') WHERE policy_id = $1", version.policy_id
    )
    with pytest.raises(PolicyBroken):
        await pinned(tenant, run)


async def test_another_tenants_policies_are_not_there(tenant: Tenant) -> None:
    version = await put(tenant, PERMIT)
    other = await new_tenant(tenant.database)
    await activate(tenant, version)
    with pytest.raises(NotFound):
        await activate(other, version)
    with pytest.raises(RunUnknown):
        await pinned(other, await tenant.run())
    assert (await pinned(other, await other.run())).version == 0
