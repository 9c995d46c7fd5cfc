"""A run from start to end, before anything goes wrong."""

from __future__ import annotations

from .harness import Rig, Tenant, mail, refund, say, task


async def test_a_run_does_what_its_model_proposes_once(rig: Rig, tenant: Tenant) -> None:
    run = await tenant.start(task(mail("plain 1"), refund("A-1"), say("all done")))
    assert await run.ended() == "succeeded"
    assert len(rig.mails("plain 1")) == 1
    assert len(rig.refunds("A-1")) == 1
    assert await run.states() == ["committed"] * 5
