"""Code runs in the tier of its run or not at all; the model has no say in it, and a policy can demand one."""

from __future__ import annotations

import json

from holdfast.database.engine import transaction
from holdfast.tenancy.tiers import set_tier

from .harness import PERMIT_ALL, Rig, Run, Tenant
from .test_code import RULES, code, outcome, results, start


async def asking(rig: Rig, tenant: Tenant) -> None:
    async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
        await set_tier(connection, tenant.tenant_id, "", "kernel", by="test")


async def refused(run: Run, code: str) -> dict[str, object]:
    """Returns the record of the code that was refused: it has no hold, and nothing was spent."""
    assert await run.ended() == "succeeded"
    assert await run.holds("code.exec") == []
    [decision] = [one for one in await run.decisions() if code in one["reason_codes"]]
    assert decision["verdict"] == "deny"
    found = json.loads(decision["part_a"])
    assert isinstance(found, dict)
    return found


async def test_a_tier_that_is_not_there_is_a_refusal_and_no_other_takes_its_place(rig: Rig, tenant: Tenant) -> None:
    before = await start(tenant, code("print('ran' + 'ning')"))
    await asking(rig, tenant)
    after = await start(tenant, code("print('ran' + 'ning')"))
    record = await refused(after, "isolation.tier_unavailable")
    assert record["action"]["args"]["tier"] == "kernel"  # type: ignore[index]  # JSON
    [told] = await results(after)
    assert "the tier kernel" in told["content"]
    assert "HOLDFAST_SANDBOX_BACKENDS" in told["content"]
    assert await before.ended() == "succeeded"
    [hold] = await before.holds("code.exec")
    assert json.loads(hold["action"])["args"]["tier"] == "process"
    receipt = (await outcome(before, hold))["receipt"]
    assert (receipt["backend"], receipt["tier"]) == ("native", "process")


async def test_a_model_can_name_no_tier(tenant: Tenant) -> None:
    run = await start(tenant, code("print(1)", tier="process"))
    await refused(run, "action.malformed")


async def test_a_rule_can_demand_a_tier(tenant: Tenant) -> None:
    demand = 'forbid code.exec where args.tier != "kernel" as "hard" code "code.too_soft"'
    run = await start(tenant, code("print(1)"), rules=(*RULES, demand))
    await refused(run, "code.too_soft")
    only = 'permit code.exec where args.tier == "kernel" as "hard"'
    await refused(await start(tenant, code("print(1)"), rules=(*PERMIT_ALL, only)), "policy.not_permitted")


async def test_a_policy_can_demand_a_tier(tenant: Tenant) -> None:
    policy = 'role ROLE {\n  permit llm.call\n  permit code.exec where args.tier == "kernel"\n}\n'
    run = await start(tenant, code("print(1)"), policy=policy)
    await refused(run, "policy.not_permitted")
