"""A limit is as hard as a cap: over two processes, whichever of them dies, and with what came to nothing given back."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Sequence
from uuid import UUID

import pytest

from tests.ledger.world import Tenant

from .test_past import PERMIT, call, reserve, under

ASKING = 25
"""Callers in each of two processes."""
PASS = 7
HELD = "SELECT count(*) FROM holds WHERE tenant_id = $1 AND state IN ('held', 'executing', 'executed', 'committed', 'unknown')"

pytestmark = pytest.mark.usefixtures("hour")  # some limits are those of an hour, or a day


async def governor(tenant: Tenant, asks: Sequence[tuple[UUID, int]], **more: object) -> Process:
    """Starts another process that asks."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.policies.governor", stdin=PIPE, stdout=PIPE
    )
    given = {
        "urls": dict(tenant.database.urls),
        "superuser_url": tenant.database.superuser_url,
        "tenant_id": str(tenant.tenant_id),
        "project_id": str(tenant.project_id),
        "user_id": str(tenant.user_id),
        "asks": [(str(run), step) for run, step in asks],
        **more,
    }
    assert process.stdin is not None
    process.stdin.write(json.dumps(given).encode())
    process.stdin.close()
    return process


async def said(process: Process) -> Counter[str]:
    out, _ = await process.communicate()
    assert process.returncode == 0
    return Counter(out.decode().split())


async def asks_of(tenant: Tenant, rule: str) -> list[tuple[UUID, int]]:
    """Returns what fifty ask for: steps of one run for a limit per run, else each a run of its own."""
    if rule.endswith("per run"):
        (run,) = await under(tenant, PERMIT + rule)
        return [(run, step) for step in range(1, 2 * ASKING + 1)]
    return [(run, 1) for run in await under(tenant, PERMIT + rule, 2 * ASKING)]


@pytest.mark.parametrize(
    "rule",
    [
        "limit pay count <= 7 per run",
        "limit pay sum(args.amount) <= 14 per run",
        "limit pay count <= 7 in total per tenant",
        "limit pay count <= 7 per hour per tenant",
        "limit pay sum(args.amount) <= 14 per 24h per tenant",
        "limit pay sum(args.amount) <= 14 per day per user",
    ],
)
async def test_of_fifty_in_two_processes_exactly_as_many_pass_as_may(tenant: Tenant, rule: str) -> None:
    asks = await asks_of(tenant, rule)
    both = await asyncio.gather(governor(tenant, asks[::2]), governor(tenant, asks[1::2]))
    codes = sum(await asyncio.gather(*(said(process) for process in both)), Counter[str]())
    assert codes == {"policy.permitted": PASS, "policy.limit": 2 * ASKING - PASS}
    assert await tenant.database.value(HELD, tenant.tenant_id) == PASS


@pytest.mark.parametrize(
    "rule", ["limit pay count <= 7 per run", "limit pay sum(args.amount) <= 14 in total per tenant"]
)
async def test_a_process_that_is_killed_among_its_decisions_opens_no_gap(tenant: Tenant, rule: str) -> None:
    asks = await asks_of(tenant, rule)
    dying, living = await asyncio.gather(governor(tenant, asks[::2]), governor(tenant, asks[1::2]))
    assert dying.stdout is not None
    await dying.stdout.readline()  # it has decided something, and is in the middle of the rest
    dying.kill()
    await dying.wait()
    await said(living)
    assert await tenant.database.value(HELD, tenant.tenant_id) <= PASS
    # whoever takes over asks again for all of it, by the same keys: what was allowed is answered, and no more is
    after = await said(await governor(tenant, asks))
    assert after["policy.permitted"] <= PASS
    assert await tenant.database.value(HELD, tenant.tenant_id) == PASS


async def test_what_came_to_nothing_is_given_back_once(tenant: Tenant) -> None:
    asks = await asks_of(tenant, "limit pay count <= 7 in total per tenant")
    decisions = await asyncio.gather(*(reserve(tenant, run, call("pay", amount=2), step) for run, step in asks))
    holds = [decision.hold_id for decision in decisions if decision.hold_id is not None]
    assert len(holds) == PASS
    await tenant.settle(holds[0], "voided")
    later = [(run, 2) for run, _ in asks]
    both = await asyncio.gather(governor(tenant, later[::2]), governor(tenant, later[1::2]))
    codes = sum(await asyncio.gather(*(said(process) for process in both)), Counter[str]())
    assert codes == {"policy.permitted": 1, "policy.limit": 2 * ASKING - 1}
    assert await tenant.database.value(HELD, tenant.tenant_id) == PASS
