"""`python -m tests.verify.record_golden`: runs a small tenant on the real stack and keeps its bundle as a golden file of its engine.

Golden files of earlier engine versions stay as they are, for ever: what they hold has to hold with every later verifier.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from holdfast.audit.content import Wanted, read_content
from holdfast.database.engine import transaction
from holdfast_verdict.decide import Condition, Rule
from holdfast_verdict.engine.deciding import ENGINE_VERSION
from holdfast_verdict.verify.lines import Line
from tests.run.harness import PERMIT_ALL, Rig, Tenant, mail, refund, running_rig, say, task
from tests.run.test_gate import consent, pending
from tests.verify.sealing import TestLog

FOLDER = Path(__file__).parent / "golden"
GATED = (*PERMIT_ALL, Rule("consent", "gate", "tool.call", "payments.refund"))
SMALL = (
    Rule("think", "permit", "llm.call"),
    Rule("small-refunds", "permit", "tool.call", "payments.refund", (Condition("args.amount_usd_cents", "<=", 2_000),)),
    Rule("no-strangers", "forbid", "tool.call", "mail.send", (Condition("args.to", "any_outside_domains", ["x.example"]),)),
)  # fmt: skip


def golden_file(engine: str, scope: str) -> Path:
    return FOLDER / f"{engine.replace('/', '-')}-{scope}.jsonl"


async def play(rig: Rig) -> tuple[Tenant, UUID]:
    """Does, on a tenant of its own, a bit of everything that leaves records; returns the tenant and a run with a consent."""
    tenant = await rig.tenant()
    await (await tenant.start(task(mail("one"), mail("two"), say("done")))).ended()
    gated = await tenant.start(task(refund("G-1"), refund("G-2"), refund("G-3"), say("done")), rules=GATED)
    await consent(gated, await pending(gated))
    await consent(gated, await pending(gated), deny=True)
    edited: dict[str, str | int | bool | None] = {
        "order_id": "G-3",
        "amount_usd_cents": 700,
        "reason": "half of it is enough",
    }
    await consent(gated, await pending(gated), edited=dict(edited))
    await gated.ended()
    small = await tenant.start(
        task(refund("S-1", 1_500), refund("S-2", 9_000), mail("hello"), say("done")), rules=SMALL
    )
    await small.ended()
    funded = await tenant.start(task(refund("F-1"), say("done")), guaranteed=True)
    await funded.ended()
    for run in tenant.runs:
        await run.settled()
    return tenant, gated.run_id


async def content(rig: Rig, tenant_id: UUID, run_id: UUID | None) -> list[Line]:
    """Returns the content of a bundle of a run, or of the tenant."""
    start = datetime.now(UTC) - timedelta(days=1)
    wanted = Wanted(tenant_id, run_id, start, datetime.now(UTC) + timedelta(minutes=1))
    async with transaction(rig.engine("api"), tenant_id) as connection:
        return [line async for line in read_content(connection, wanted, f"holdfast.example/{tenant_id}")]


async def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    async with running_rig() as rig:
        tenant, run_id = await play(rig)
        for scope, of in (("tenant", None), ("run", run_id)):
            file = golden_file(ENGINE_VERSION, scope)
            lines = await content(rig, tenant.tenant_id, of)
            file.write_bytes(TestLog(f"holdfast.example/{tenant.tenant_id}").bundle(lines))
            sys.stdout.write(f"{file.name}: {len(lines)} lines\n")


if __name__ == "__main__":
    asyncio.run(main())
