"""A run whose tier is `kernel` has its code in gVisor, from admission to receipt, calls of its tools and artefacts included."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from tests.sandbox.installed import require

from .harness import Rig, Tenant
from .rigs import running_rig
from .test_code import MAKE_ORDERS, REPORT, code, outcome, results, start
from .test_tiers import asking


@pytest.fixture(scope="module")
async def both() -> AsyncIterator[Rig]:
    """A stack that is set up for both tiers."""
    require("runsc")
    environment = {"HOLDFAST_SANDBOX_BACKENDS": "native,runsc", "HOLDFAST_SANDBOX_ALLOW_OLD": "runsc"}
    async with running_rig(environment=environment) as rig:
        yield rig


@pytest.fixture
async def rig(both: Rig) -> AsyncIterator[Rig]:
    """Like the other tests' own: afterwards the books are right."""
    yield both
    await both.calm()
    await both.audit()
    await both.cross_check()


async def test_each_run_has_its_code_in_its_tier(rig: Rig, tenant: Tenant) -> None:
    before = await start(tenant, code("print('ran' + 'ning')"))
    await asking(rig, tenant)
    after = await start(tenant, code(MAKE_ORDERS), code(REPORT, files=["orders.csv"], timeout_ms=30_000))
    for run, backend, tier in ((before, "native", "process"), (after, "runsc", "kernel")):
        assert await run.ended() == "succeeded"
        for hold in await run.holds("code.exec"):
            assert json.loads(hold["action"])["args"]["tier"] == tier
            receipt = (await outcome(run, hold))["receipt"]
            assert (receipt["backend"], receipt["tier"]) == (backend, tier)
            assert ("seccomp" in receipt["by_own_kernel"]) == (tier == "kernel")
    assert "total 1550" in (await results(after))[-1]["content"]


async def test_what_a_policy_demands_is_there(tenant: Tenant, rig: Rig) -> None:
    await asking(rig, tenant)
    policy = 'role ROLE {\n  permit llm.call\n  permit code.exec where args.tier == "kernel"\n}\n'
    run = await start(tenant, code("print('ran' + 'ning')"), policy=policy)
    assert await run.ended() == "succeeded"
    [told] = await results(run)
    assert "ranning" in told["content"]
