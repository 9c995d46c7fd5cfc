"""Metrics of the audit side, read from a running server as Prometheus reads them."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from holdfast.audit import counts
from holdfast.audit.counts import count_decisions, read_counts
from holdfast.database.engine import transaction
from holdfast.ids import new_id
from holdfast.transparency.keys import new_key, public_of
from holdfast_verdict.log.note import VerifierKey

from .test_log_routes import sequence, write
from .world import Tenant, World, problem

Samples = dict[tuple[str, ...], float]

_EMPTY = {
    ("holdfast_log_lag_seconds",): 0,
    ("holdfast_log_waiting_records",): 0,
    ("holdfast_audit_alarms", "allow_without_outcome"): 0,
    ("holdfast_audit_alarms", "outcome_without_allow"): 0,
}


async def read(client: httpx.AsyncClient) -> Samples:
    """The samples of an answer, by name and values of labels in the order of the labels' names."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def decisions(samples: Samples) -> Counter[tuple[str, str]]:
    return Counter(
        {(key[2], key[1]): int(value) for key, value in samples.items() if key[0] == "holdfast_decisions_total"}
    )


async def recount(world: World, tenant: Tenant) -> Counter[tuple[str, str]]:
    rows = await world.fetch(
        "SELECT verdict, coalesce(reason_codes[1], '') AS code FROM decisions WHERE tenant_id = $1 AND leaf_index IS NOT NULL",
        tenant.tenant_id,
    )
    return Counter((row["verdict"], row["code"]) for row in rows)


async def test_the_log_and_its_lag_are_told(world: World, tenant: Tenant) -> None:
    auditor = await tenant.as_user("auditor", "auditor")
    await write(world, tenant, 2)
    await sequence(world)
    before = await read(auditor)
    assert {key: before[key] for key in _EMPTY} == _EMPTY
    size = before["holdfast_log_records_total",]
    assert size == before["holdfast_log_signed_records",] >= 2
    assert before["holdfast_log_keys",] == 1
    assert before["holdfast_log_checkpoint_timestamp_seconds",] > 1_700_000_000
    await write(world, tenant, 3)
    await world.execute(
        "UPDATE decisions SET created_at = created_at - interval '90 s' WHERE tenant_id = $1 AND leaf_index IS NULL",
        tenant.tenant_id,
    )
    late = await read(auditor)
    assert (late["holdfast_log_records_total",], late["holdfast_log_waiting_records",]) == (size, 3)
    assert late["holdfast_log_lag_seconds",] >= 90
    await sequence(world)
    after = await read(auditor)
    assert (after["holdfast_log_records_total",], after["holdfast_log_lag_seconds",]) == (size + 3, 0)
    assert after["holdfast_log_checkpoints_total",] == before["holdfast_log_checkpoints_total",] + 1


async def test_a_tenant_without_a_log_has_metrics(world: World, tenant: Tenant) -> None:
    for table in ("log_checkpoints", "log_keys", "log_tiles", "logs", "decisions"):
        await world.execute(f"DELETE FROM {table} WHERE tenant_id = $1", tenant.tenant_id)
    found = await read(tenant.owner)
    assert (found["holdfast_log_records_total",], found["holdfast_log_signed_records",]) == (0, 0)
    assert decisions(found) == Counter()


async def test_decisions_are_counted_once_by_verdict_and_code_whoever_asks(world: World, tenant: Tenant) -> None:
    run_id = await tenant.run()
    await tenant.reserve(run_id)
    await tenant.reserve(run_id, step=2, tool="mail.list", args={}, nano_usd=10**18)  # more than there is
    for _ in range(3):
        await write(world, tenant, 7)
        await sequence(world)
        found = await asyncio.gather(*(read(tenant.owner) for _ in range(4)))
        whole = await recount(world, tenant)
        assert all(decisions(each) <= whole for each in found)
        last = await read(tenant.owner)
        assert decisions(last) == await recount(world, tenant)
        assert last["holdfast_decisions_counted_records_total",] == last["holdfast_log_records_total",]
    assert decisions(last)["allow", "cap.set"] >= 21
    assert {verdict for verdict, _ in decisions(last)} >= {"allow", "deny"}


async def test_what_waits_for_its_number_is_not_counted_yet(world: World, tenant: Tenant) -> None:
    await sequence(world)
    before = decisions(await read(tenant.owner))
    await write(world, tenant, 5)
    assert decisions(await read(tenant.owner)) == before
    await sequence(world)
    assert decisions(await read(tenant.owner)).total() == before.total() + 5


async def test_a_long_log_is_counted_in_steps_and_says_how_far(
    world: World, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "STEP", 10)
    await write(world, tenant, 25)
    await sequence(world)
    seen = []
    while True:
        async with transaction(world.engine("api"), tenant.tenant_id) as connection:
            await count_decisions(connection, tenant.tenant_id)
            found = await read_counts(connection, tenant.tenant_id)
        seen.append(found.counted)
        assert sum(found.decisions.values()) == found.counted
        if found.counted == found.log.size:
            break
    assert seen == [*range(10, found.log.size, 10), found.log.size]


async def test_cosignatures_and_refused_ones_are_counted(world: World, tenant: Tenant) -> None:
    await write(world, tenant, 3)
    await sequence(world)
    vkey = VerifierKey("w.example", 4, bytes.fromhex(public_of(new_key())))
    assert (await tenant.owner.post("/v1/log/witnesses", json={"vkey": vkey.text})).status_code == 204
    await sequence(world)
    note = (await tenant.owner.get("/v1/log/checkpoint")).text
    root = note.splitlines()[2]
    other_root = ("A" if root[0] != "A" else "B") + root[1:]
    for wrong in ("x", note, note.replace(root, other_root), note.replace(root, other_root)):
        problem(await tenant.owner.post("/v1/log/cosignatures", json={"checkpoint": wrong}), 422, "request.invalid")
    size = int(note.splitlines()[1])
    name = "+".join(vkey.text.split("+")[:2])
    found = await read(tenant.owner)
    refused = {key[1]: value for key, value in found.items() if key[0] == "holdfast_log_cosignatures_refused_total"}
    assert refused == {"no_checkpoint": 1, "unknown_witness": 1, "fork": 2}
    assert (found["holdfast_log_cosignatures_total", name], found["holdfast_log_witness_behind_records", name]) == (
        0,
        size,
    )
    await world.execute("INSERT INTO log_cosignatures VALUES ($1, $2, $3, 'x')", tenant.tenant_id, size, vkey.text)
    found = await read(tenant.owner)
    assert (found["holdfast_log_cosignatures_total", name], found["holdfast_log_witness_behind_records", name]) == (
        1,
        0,
    )


async def alarms(tenant: Tenant) -> tuple[float, float]:
    found = await read(tenant.owner)
    return (
        found["holdfast_audit_alarms", "allow_without_outcome"],
        found["holdfast_audit_alarms", "outcome_without_allow"],
    )


async def test_an_allow_without_an_outcome_is_an_alarm(world: World, tenant: Tenant) -> None:
    run_id = await tenant.run()
    hold_id = (await tenant.reserve(run_id, tool="mail.list", args={}, nano_usd=1_000)).hold_id
    executing = """UPDATE holds SET state = 'executing', lease_hash = sha256('x'), lease_expires_at = now() + $2::text::interval
        WHERE hold_id = $1"""
    assert await alarms(tenant) == (0, 0), "it may still be executed"
    await world.execute(executing, hold_id, "1 hour")
    assert await alarms(tenant) == (0, 0), "it is being executed"
    await world.execute(executing, hold_id, "-1 s")
    assert await alarms(tenant) == (1, 0)
    await tenant.unknown_hold(await tenant.run())
    assert await alarms(tenant) == (2, 0)


async def test_an_outcome_without_an_allow_is_an_alarm(world: World, tenant: Tenant) -> None:
    run_id = await tenant.run()
    decision = await tenant.reserve(run_id, tool="mail.list", args={}, nano_usd=1_000)
    await world.execute("UPDATE holds SET state = 'executed' WHERE hold_id = $1", decision.hold_id)
    await world.execute(
        """INSERT INTO outcomes (tenant_id, hold_id, run_id, ok, cost_class, result) VALUES ($1, $2, $3, true, 'nothing', '{}')""",
        tenant.tenant_id,
        decision.hold_id,
        UUID(run_id),
    )
    assert await alarms(tenant) == (0, 0)
    await world.execute("UPDATE decisions SET verdict = 'deny' WHERE decision_id = $1", decision.decision_id)
    assert await alarms(tenant) == (0, 1)


async def test_cross_checks_are_counted_by_what_came_of_them(world: World, tenant: Tenant) -> None:
    run_id = await tenant.run()
    told: Counter[str] = Counter()
    differences: Counter[str] = Counter()
    for _ in range(2):
        checked: dict[str, Any] = (await tenant.owner.get(f"/v1/runs/{run_id}/cross-check")).json()  # JSON
        told["agrees" if checked["agrees"] else "differs"] += 1
        differences.update(each["code"] for each in checked["differences"])
    found = await read(tenant.owner)
    assert {key[1]: value for key, value in found.items() if key[0] == "holdfast_cross_checks_total"} == told
    counted = {key[1]: value for key, value in found.items() if key[0] == "holdfast_cross_check_differences_total"}
    assert counted == differences
    assert (await tenant.owner.get(f"/v1/runs/{new_id()}/cross-check")).status_code == 404
    again = await read(tenant.owner)
    assert {key: value for key, value in again.items() if "cross_check" in key[0]} == {
        key: value for key, value in found.items() if "cross_check" in key[0]
    }


async def test_the_reference_names_every_metric_with_its_type(tenant: Tenant) -> None:
    page = (Path(__file__).parents[2] / "docs/reference/metrics.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"^\| `(holdfast_\w+)` \| (\w+) \|", page, re.MULTILINE))
    answer = await tenant.owner.get("/metrics")
    assert named == dict(re.findall(r"^# TYPE (\w+) (\w+)$", answer.text, re.MULTILINE))


async def test_each_tenant_sees_its_own_alone_and_an_agents_key_nothing(
    world: World, tenant: Tenant, other: Tenant
) -> None:
    await write(world, tenant, 11)
    await write(world, other, 3)
    await sequence(world)
    await read(tenant.owner)
    assert decisions(await read(other.owner)) == await recount(world, other)
    assert decisions(await read(tenant.owner)) == await recount(world, tenant)
    robot = await tenant.as_user("robot", "agent")
    problem(await robot.get("/metrics"), 403, "auth.not_permitted")
    assert (await world.api.client().get("/metrics")).status_code == 401
