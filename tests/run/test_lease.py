"""The lease of an execution, tried from the executor's side: one who has redeemed a permit, and then is late, or is another."""

from __future__ import annotations

import base64
from uuid import UUID

import httpx
import pytest

from activities.lease import Lease
from activities.tools.dispatch import run_tool
from activities.tools.invocation import ToolInvocation
from holdfast.contracts import names
from holdfast.errors import LeaseLost
from holdfast.ledger.executions import Executions
from holdfast.ledger.types import OutcomeView
from holdfast.tools.registry import find_tool

from .captured import permit_of
from .harness import Rig, Run, Tenant, mail, say, task
from .rigs import LEASE_TOOL_MS

PLACE = "redeem.before:tool.call"
DONE = OutcomeView(True, "", False, None, "known", "", False, b'{"content":"sent"}')


async def stolen_lease(rig: Rig, tenant: Tenant, subject: str) -> tuple[Run, UUID, bytes]:
    """Redeems the permit of a run's mail in its executor's place."""
    rig.points.park(PLACE)
    run = await tenant.start(task(mail(subject), say("done")))
    await rig.points.until_parked(PLACE)
    async with httpx.AsyncClient(base_url=rig.stack.urls.broker, trust_env=False, timeout=60) as broker:
        body = {
            "permit": await permit_of(rig, run, "step-2-try-1"),
            "workflow_id": str(run.run_id),
            "activity_type": names.EXECUTE_TOOL_CALL,
        }
        reply = (await broker.post("/redeem", json=body)).json()
    [hold] = await run.holds(tool="mail.send")
    return run, hold["hold_id"], base64.b64decode(reply["lease_token"])


async def test_a_lease_is_good_once_in_time_and_for_its_holder(rig: Rig, tenant: Tenant) -> None:
    run, hold_id, token = await stolen_lease(rig, tenant, "leased")
    executions = Executions(rig.engine("executor"))
    with pytest.raises(LeaseLost):
        await Lease(executions, hold_id, bytes(32), LEASE_TOOL_MS).begin()
    with pytest.raises(LeaseLost):
        await Lease(executions, hold_id, bytes(32), LEASE_TOOL_MS).store(DONE)
    await rig.database.execute("UPDATE holds SET lease_expires_at = clock_timestamp() WHERE hold_id = $1", hold_id)
    with pytest.raises(LeaseLost):
        await Lease(executions, hold_id, token, LEASE_TOOL_MS).begin()
    await rig.database.execute(
        "UPDATE holds SET lease_expires_at = clock_timestamp() + interval '1 minute' WHERE hold_id = $1", hold_id
    )
    lease = Lease(executions, hold_id, token, LEASE_TOOL_MS)
    with pytest.raises(LeaseLost):
        lease.assert_live()  # it has not begun
    await lease.begin()
    lease.assert_live()
    with pytest.raises(LeaseLost):
        await lease.begin()
    await lease.store(DONE)
    await lease.store(DONE)  # its answer was lost: the same again is no error
    with pytest.raises(LeaseLost):
        await lease.store(OutcomeView(False, "x", True, None, "nothing", "", False, b"{}"))
    rig.points.release(PLACE)
    assert await run.ended() == "succeeded"
    assert await run.states("tool.call") == ["committed"]


async def test_whoever_is_late_by_its_own_clock_lets_nothing_out(rig: Rig, tenant: Tenant) -> None:
    """The process was frozen between asking PostgreSQL and writing."""
    run, hold_id, token = await stolen_lease(rig, tenant, "too late")
    lease = Lease(
        Executions(rig.engine("executor")), hold_id, token, 1
    )  # a millisecond: over before any connection is made
    definition = find_tool("mail.send")
    arguments = definition.validate({"to": ["jo@customer.example"], "subject": "too late", "body": "x"})
    credential = rig.world.credentials()["tool.mail"]
    call = ToolInvocation("mail.send", definition, arguments, credential, tenant.slug, "key", lease)
    with pytest.raises(LeaseLost):
        await run_tool(call)
    assert lease.began
    assert lease.withheld
    assert not rig.mails("too late")
    rig.points.release(PLACE)
    [hold] = [hold for hold in await run.holds(tool="mail.send") if hold["hold_id"] == hold_id]
    assert hold["outward_at"] is not None
    await run.resolve(await run.until_hold("unknown", tool="mail.send"), happened=False)
    assert await run.ended() == "succeeded"
    assert len(rig.mails("too late")) == 1
