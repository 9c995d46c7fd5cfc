"""Activation in the middle of decisions: each is made by exactly one version, and none by one that was replaced before."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest

from holdfast.database.engine import transaction
from holdfast.ledger.types import FactsChanged, Reservation
from holdfast.policies import store
from holdfast.policies.version import PolicyVersion
from holdfast_verdict import Catalogue, Facts, compile_policy, decide
from holdfast_verdict.canonical import canonical_bytes
from tests.ledger.world import Tenant

PERMIT = "role worker {\n  permit orders.read\n}\n"
OTHER = "role worker {\n  permit orders.read as other\n}\n"
CATALOGUE = Catalogue.of({"orders.read": {}})


async def put(tenant: Tenant, source: str) -> PolicyVersion:
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        return await store.put(connection, tenant.tenant_id, source, compile_policy(source), put_by="user:alice")


async def activate(tenant: Tenant, version: PolicyVersion) -> None:
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        await store.activate(connection, tenant.tenant_id, version.policy_id, by="user:alice")


async def read(tenant: Tenant, run: UUID, step: int) -> Reservation:
    """Reads the facts and decides, as the governor does: what comes of it is reserved later."""
    asked = await tenant.reservation(run, step)
    async with transaction(tenant.database.engine("governor"), tenant.tenant_id) as connection:
        pinned = await store.read_pinned(connection, tenant.tenant_id, run)
    verdict = decide(pinned.policy, CATALOGUE.action("orders.read", {}), Facts(principal={"role": "worker"}))
    assert verdict.verdict == "allow"
    return replace(
        asked, part_a=canonical_bytes({"policy_hash": pinned.policy.policy_hash.hex(), "rule": verdict.rule_id})
    )


async def followers(tenant: Tenant, count: int) -> list[UUID]:
    runs = await tenant.runs(count)
    await tenant.database.execute("UPDATE runs SET follows_latest = true WHERE run_id = ANY($1)", runs)
    return runs


async def test_what_was_decided_by_a_replaced_version_is_asked_again(tenant: Tenant) -> None:
    first, second = await put(tenant, PERMIT), await put(tenant, OTHER)
    await activate(tenant, first)
    await tenant.cap("tenant", 1_000)
    (latest,), pinned = await followers(tenant, 1), await tenant.run()
    stale, mine = await read(tenant, latest, 1), await read(tenant, pinned, 1)
    await activate(tenant, second)
    with pytest.raises(FactsChanged):
        await tenant.ledger.reserve(stale)
    fresh = await read(tenant, latest, 1)
    assert second.policy_hash.hex().encode() in fresh.part_a
    assert (await tenant.ledger.reserve(fresh)).verdict == "allow"
    assert (await tenant.ledger.reserve(mine)).verdict == "allow", "a pinned run goes on undisturbed"
    assert first.policy_hash.hex().encode() in mine.part_a


async def test_an_activation_in_the_middle_of_fifty_reserves(tenant: Tenant) -> None:
    first, second = await put(tenant, PERMIT), await put(tenant, OTHER)
    await activate(tenant, first)
    await tenant.cap("tenant", 1_000)
    runs = await followers(tenant, 50)
    is_replaced = asyncio.Event()

    async def reserve(run: UUID, number: int) -> tuple[bool, UUID]:
        if number >= 25:
            await is_replaced.wait()
        after = is_replaced.is_set()
        while True:
            try:
                decision = await tenant.ledger.reserve(await read(tenant, run, 1))
            except FactsChanged:
                continue
            return after, decision.decision_id

    async def replace_it() -> None:
        await activate(tenant, second)
        is_replaced.set()

    tasks = [asyncio.create_task(reserve(run, number)) for number, run in enumerate(runs)]
    await asyncio.gather(asyncio.create_task(replace_it()), *tasks)
    hashes = {first.policy_hash.hex(): 1, second.policy_hash.hex(): 2}
    decided = []
    for task in tasks:
        after, decision_id = task.result()
        part_a = await tenant.database.value("SELECT part_a FROM decisions WHERE decision_id = $1", decision_id)
        found = [version for hash_, version in hashes.items() if hash_.encode() in part_a]
        assert len(found) == 1, "each by exactly one version"
        decided.append((after, found[0]))
    assert all(version == 2 for after, version in decided if after)
    assert sum(after for after, _ in decided) >= 25
