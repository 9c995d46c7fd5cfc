"""What a server exports can be checked without it: a run's decisions, and a tenant's, with the log's own proofs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

import orjson
import pytest

from holdfast.audit.content import Wanted, _cap
from holdfast.audit.export import export, log_of
from holdfast.errors import NotFound, RequestInvalid
from holdfast.ledger.types import NANO_USD, Scope
from holdfast_verdict.log.note import VerifierKey
from holdfast_verdict.verify.report import Report
from holdfast_verdict.verify.verifying import Request, verify
from tests.verify.checking import Check, wrong
from tests.verify.sealing import TestLog, content_of

from .harness import Rig, Run, Tenant, mail, refund, say, task, until
from .test_gate import RULES, consent, pending


async def logged(rig: Rig, tenant: Tenant) -> None:
    """Waits until the tenant's log has all that was decided, and a checkpoint over it."""
    all_of_it = """
        SELECT EXISTS (SELECT FROM log_checkpoints WHERE tenant_id = $1)
            AND NOT EXISTS (SELECT FROM decisions WHERE tenant_id = $1 AND leaf_index IS NULL)
    """
    await until(lambda: rig.value(all_of_it, tenant.tenant_id), what="a checkpoint over all of it")


async def exported(tenant: Tenant, run_id: UUID | None = None, *, since: int | None = None) -> bytes:
    engine = tenant.rig.engine("api")
    now = datetime.now(UTC)
    wanted = Wanted(tenant.tenant_id, run_id, now - timedelta(days=1), now + timedelta(minutes=1))
    origin = await log_of(engine, tenant.tenant_id, since)
    return b"".join([line async for line in export(engine, tenant.ada, wanted, origin, since)])


async def checked(folder: Path, bundle: bytes, *, since: str = "") -> Report:
    file = folder / "bundle.jsonl"
    file.write_bytes(bundle)
    keys = [line["vkey"] for line in map(orjson.loads, bundle.splitlines()) if line["type"] == "key"]
    return await asyncio.to_thread(verify, Request(file, tuple(map(VerifierKey.parse, keys)), since, workers=1))


async def gated(tenant: Tenant) -> Run:
    run = await tenant.start(task(refund("AUDIT-1"), mail("audit"), say("done")), rules=RULES)
    await consent(run, await pending(run))
    await run.ended()
    await run.settled()
    return run


async def test_a_run_and_its_tenant_hold_and_go_on_from_what_was_seen(rig: Rig, tenant: Tenant, tmp_path: Path) -> None:
    run = await gated(tenant)
    await logged(rig, tenant)
    first = await exported(tenant, run.run_id)
    report = await checked(tmp_path, first)
    assert report.holds, report.findings
    assert report.trust.source == "given"
    assert report.counts()["needs_approval"] == 1
    seen = next(line["note"] for line in map(orjson.loads, first.splitlines()) if line["type"] == "checkpoint")

    await gated(tenant)
    whole = await exported(tenant, since=int(seen.splitlines()[1]))
    report = await checked(tmp_path, whole, since=seen)
    assert report.holds, report.findings
    assert report.trust.since == int(seen.splitlines()[1])
    assert report.bundle is not None
    # the first export is a decision of the tenant, and it is in the second
    assert [one.code for one in report.bundle.decided].count("audit.exported") == 1
    assert len({one.run_id for one in report.bundle.decided if one.run_id}) == 2
    forged = await checked(tmp_path, whole.replace(b"AUDIT-1", b"AUDIT-2", 1))
    assert not forged.holds


async def test_caps_of_windows_are_those_that_decisions_have_read(rig: Rig, tenant: Tenant, tmp_path: Path) -> None:
    """A bundle with caps that begin anew, by the clock or rolling, holds; one that names another window does not."""
    caps = ("project", tenant.ada.project_id, "calls", "month"), ("user", tenant.ada.user_id, NANO_USD, "24h")
    for kind, scope_id, unit, window in caps:
        await tenant.limit(10**11, unit, scope=Scope(kind, str(scope_id)), window=window)
    for _ in range(2):
        run = await tenant.start(task(mail("windows"), say("done")))
        await run.ended()
        await run.settled()
    await logged(rig, tenant)
    whole = await exported(tenant)
    check = Check(tmp_path / "bundle.jsonl")
    report = check(whole)
    assert report.holds, report.findings
    assert check.by_sums(whole)
    assert report.bundle is not None
    read = {tuple(leg.named)[2:] for one in report.bundle.decided for leg in one.legs}
    assert read >= {(NANO_USD, "total"), ("calls", "month"), (NANO_USD, "24h")}
    content = content_of(whole)
    cap = next(line for line in content if line["type"] == "cap" and line["window"] == "24h")
    cap["window"] = "48h"
    forged = check(TestLog(str(content[0]["origin"])).bundle(content))
    assert wrong(forged) == [("audit.balance", f"cap {cap['cap_id']}")]


async def test_an_export_under_way_says_what_is_still_open(rig: Rig, tenant: Tenant, tmp_path: Path) -> None:
    rig.fault("mail", "gate")
    run = await tenant.start(task(mail("under way"), say("done")))
    await rig.until_held()
    await logged(rig, tenant)
    report = await checked(tmp_path, await exported(tenant, run.run_id))
    rig.world.faults.release()
    assert report.holds, report.findings
    assert report.bundle is not None
    assert "executing" in {line["state"] for _, line in report.bundle.holds}


async def test_what_is_not_there_is_refused(rig: Rig, tenant: Tenant) -> None:
    await (await tenant.start(task(say("done")))).ended()
    await logged(rig, tenant)
    with pytest.raises(NotFound):
        await exported(tenant, uuid4())
    other = await rig.tenant()
    run = await other.start(task(say("theirs")))
    await run.ended()
    await run.settled()
    with pytest.raises(NotFound):
        await exported(tenant, run.run_id)
    with pytest.raises(RequestInvalid):
        await exported(tenant, since=1_000_000)


def test_sums_are_whole_numbers_however_the_database_writes_them() -> None:
    """A sum of PostgreSQL comes as a decimal, and one with noughts at its end with an exponent."""
    amounts = dict.fromkeys(("reserved", "committed", "debt"), 50_000)
    sums = {f"{what}_{name}": Decimal("5E+4") for what in ("opening", "moved") for name in amounts}
    row = {"cap_id": UUID(int=1), "scope_kind": "tenant", "scope_id": "t", "unit": "nano_usd", "window_kind": "total"}
    limit = {"unlimited": False, "limit_amount": 200_000, "whole": True}
    for is_last, closing in ((True, "50000"), (False, "100000")):
        line = _cap({**row, **limit, **amounts, **sums, "is_last": is_last})
        assert line["opening"] == dict.fromkeys(amounts, "50000")
        assert line["closing"] == dict.fromkeys(amounts, closing)
