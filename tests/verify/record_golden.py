"""`python -m tests.verify.record_golden [clear] [sealed]`: runs a small tenant on the real stack and keeps its bundles as golden files.

`clear` is of records of version 1: a bundle of a run and one of the tenant. `sealed` is of records of version 2, with personal
values: a bundle in which these are there, and one of the same tenant after an erasure of some and after retention has taken part A
of others. Golden files of earlier engine versions stay as they are, for ever: what they hold has to hold with every later verifier.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from holdfast.audit.content import Wanted, read_content
from holdfast.database.engine import transaction
from holdfast.retention import erasing, keeping
from holdfast.retention.erasing import Scope
from holdfast.tools.definition import ToolForm
from holdfast_verdict.engine.deciding import ENGINE_VERSION
from holdfast_verdict.verify.lines import Line
from tests.run.harness import PERMIT_ALL, Rig, Run, Tenant, call, mail, refund, say, task, until
from tests.run.rigs import running_rig
from tests.run.test_gate import consent, pending
from tests.run.test_own_tools import note_form, put, store
from tests.tools.raw_server import raw_server
from tests.verify.sealing import TestLog

FOLDER = Path(__file__).parent / "golden"
GATED = (*PERMIT_ALL, 'gate "consent": payments.refund needs 1 of role("approver"), expires 1d')
SMALL = (
    'permit llm.call as "think"',
    'permit payments.refund where args.amount_usd_cents <= 2000 as "small-refunds"',
    'forbid mail.send where some args.to as address: (not (address in domain("x.example"))) as "no-strangers"',
)  # fmt: skip
SECRET = "ada.lovelace@analytical.example"
READS = f"""role ROLE {{
    permit llm.call
    permit crm.note where args.text == "{SECRET}" and args.priority <= 3
}}
"""
NOTES_GATED = (
    "role ROLE { permit llm.call permit tools }\n"
    'gate careful: crm.note needs 1 of role("approver"), expires 30m, not requester\n'
)


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


def marked(folder: Path) -> ToolForm:
    """`crm.note`, whose text is marked as personal."""
    form = note_form(folder, "v1").to_json()
    binding: Any = form["binding"]  # Any: JSON
    parameters: dict[str, Any] = {  # Any: JSON
        "type": "object",
        "required": ["text", "priority"],
        "properties": {
            "text": {"type": "string", "x-holdfast-personal": True, "maxLength": 60},
            "priority": {"type": "integer"},
        },
    }
    places = {"text": {"where": "body", "name": "text"}, "priority": {"where": "query", "name": "priority"}}
    marks = {**form, "parameters": parameters, "binding": {**binding, "places": places}}
    return ToolForm.model_validate_json(json.dumps(marks))


async def play_sealed(rig: Rig, folder: Path) -> tuple[Tenant, Run, Run]:
    """Has personal values decided on; returns the tenant, a run whose values are to be erased, and one that is to be too old."""
    tenant = await rig.tenant()
    async with raw_server() as server:
        auth = {"kind": "bearer", "token": "hush-hush"}
        await store(
            tenant, "tool.crm", {"base_url": f"http://127.0.0.1:{server.port}", "auth": auth, "allow_private": True}
        )
        await put(tenant, "crm.note", marked(folder))

        async def noted(policy: str, *calls: dict[str, Any]) -> Run:
            script = task(*(call("crm.note", **each) for each in calls), say("done"))
            return await tenant.start(script, tools=("crm.note",), policy=policy)

        calls = (
            {"text": SECRET, "priority": 1},
            {"text": "somebody else", "priority": 1},
            {"text": SECRET, "priority": 9},
        )
        kept, erased, old = [await noted(READS, *calls) for _ in range(3)]
        asked = await noted(NOTES_GATED, calls[0], calls[1])
        await consent(asked, await pending(asked))
        await consent(asked, await pending(asked), deny=True)
        for run in (kept, erased, old, asked):
            await run.ended()
            await run.settled()
    await until(
        lambda: rig.value("SELECT max(size) FROM log_checkpoints WHERE tenant_id = $1", tenant.tenant_id),
        what="a checkpoint",
    )
    return tenant, erased, old


async def take_away(rig: Rig, tenant: Tenant, erased: Run, old: Run) -> None:
    """Erases the values of one run, and lets another be too old to be kept."""
    old.excuse("nothing is left to hold its history against")
    async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
        asked = await erasing.ask(connection, tenant.ada, Scope(run_id=erased.run_id), "asked for by letter")
    for table, column in (("decisions", "created_at"), ("runs", "ended_at")):
        await rig.database.execute(
            f"UPDATE {table} SET {column} = {column} - interval '40 days' WHERE run_id = $1",
            old.run_id,
        )
    async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
        await keeping.put(connection, tenant.ada, 30)

    async def done() -> bool:
        async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
            erasure = await erasing.read(connection, tenant.tenant_id, asked.erasure_id)
            kept = await keeping.read(connection, tenant.tenant_id)
            return erasure.ended_at is not None and kept.finished_at is not None and kept.records > 0

    await until(done, what="the end of the erasure and of the pass")


async def content(rig: Rig, tenant_id: UUID, run_id: UUID | None) -> list[Line]:
    """Returns the content of a bundle of a run, or of the tenant."""
    start = datetime.now(UTC) - timedelta(days=60)
    wanted = Wanted(tenant_id, run_id, start, datetime.now(UTC) + timedelta(minutes=1))
    async with transaction(rig.engine("api"), tenant_id) as connection:
        return [line async for line in read_content(connection, wanted, f"holdfast.example/{tenant_id}")]


async def keep(rig: Rig, scope: str, tenant: Tenant, run_id: UUID | None = None) -> None:
    """Seals a bundle, and keeps it as the golden file of a scope."""
    file = golden_file(ENGINE_VERSION, scope)
    lines = await content(rig, tenant.tenant_id, run_id)
    file.write_bytes(TestLog(f"holdfast.example/{tenant.tenant_id}").bundle(lines))
    sys.stdout.write(f"{file.name}: {len(lines)} lines\n")


async def main(kinds: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    async with running_rig() as rig:
        if "clear" in kinds:
            tenant, run_id = await play(rig)
            await keep(rig, "tenant", tenant)
            await keep(rig, "run", tenant, run_id)
        if "sealed" in kinds:
            with tempfile.TemporaryDirectory() as folder:
                tenant, erased, old = await play_sealed(rig, Path(folder))
            await keep(rig, "sealed", tenant)
            await take_away(rig, tenant, erased, old)
            await keep(rig, "erased", tenant)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or ["clear", "sealed"]))
