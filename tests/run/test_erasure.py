"""Erasing what is personal: no trace of it is left in the decision log, and everything that was proved before still is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from holdfast.database.engine import transaction
from holdfast.retention import erasing, keeping, legal_holds
from holdfast.retention.erasing import Erasure, Scope
from holdfast.tools.definition import ToolForm
from tests.tools.raw_server import RawServer, raw_server

from .harness import Rig, Run, Step, Tenant, call, say, task, until
from .test_audit_export import checked, exported, logged
from .test_gate import consent, pending
from .test_own_tools import note_form, put, store

SECRET = "ada.lovelace@analytical.example"
PLAIN = "role ROLE { permit llm.call permit crm.note where args.priority <= 3 }\n"
READS = f'role ROLE {{ permit llm.call permit crm.note where args.text == "{SECRET}" }}\n'
GATED = (
    "role ROLE { permit llm.call permit tools }\n"
    'gate careful: crm.note needs 1 of role("approver"), expires 30m, not requester\n'
)


@pytest.fixture
async def note(tenant: Tenant, tmp_path: Path) -> AsyncIterator[RawServer]:
    async with raw_server() as server:
        auth = {"kind": "bearer", "token": "hush-hush"}
        entry = {"base_url": f"http://127.0.0.1:{server.port}", "auth": auth, "allow_private": True}
        await store(tenant, "tool.crm", entry)
        form = note_form(tmp_path, "v1").to_json()
        parameters: Any = {
            "type": "object",
            "required": ["text", "priority"],
            "properties": {
                "text": {"type": "string", "x-holdfast-personal": True, "maxLength": 60},
                "priority": {"type": "integer"},
            },
        }
        places: Any = {"text": {"where": "body", "name": "text"}, "priority": {"where": "query", "name": "priority"}}
        binding: Any = form["binding"]
        marked = {**form, "parameters": parameters, "binding": {**binding, "places": places}}
        await put(tenant, "crm.note", ToolForm.model_validate_json(json.dumps(marked)))
        yield server


async def noted(tenant: Tenant, policy: str, *calls: dict[str, Any]) -> Run:
    script = task(*(call("crm.note", **each) for each in calls), say("done"))
    run = await tenant.start(script, tools=("crm.note",), policy=policy)
    assert await run.ended() == "succeeded", await run.story()
    await run.settled()
    await logged(tenant.rig, tenant)
    return run


async def numbered(tenant: Tenant) -> None:
    """Waits until every record of a tenant's runs has its number: a run whose last has none yet is left to the next pass."""
    all_of_all = """
        SELECT bool_and(r.history_digest IS NOT NULL AND NOT EXISTS (
            SELECT FROM decisions d WHERE d.run_id = r.run_id AND d.leaf_index IS NULL)) FROM runs r WHERE r.tenant_id = $1
    """
    await until(lambda: tenant.rig.value(all_of_all, tenant.tenant_id), what="the numbers of all records")


async def erased(tenant: Tenant, scope: Scope) -> Erasure:
    rig = tenant.rig
    async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
        erasure = await erasing.ask(connection, tenant.ada, scope, "asked for by letter")

    async def done() -> bool:
        async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
            return (await erasing.read(connection, tenant.tenant_id, erasure.erasure_id)).ended_at is not None

    await until(done, what="the end of the erasure")
    async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
        return await erasing.read(connection, tenant.tenant_id, erasure.erasure_id)


async def is_left(run: Run) -> bool:
    """Whether the decision log, or what it stands on, has the value of a run in clear."""
    for table in ("decisions", "holds", "approvals"):
        rows = await run.rig.rows(f"SELECT x::text AS text FROM {table} x WHERE run_id = $1", run.run_id)
        if any(SECRET in row["text"] or SECRET.encode().hex() in row["text"] for row in rows):
            return True
    return bool(await run.rig.value("SELECT count(*) FROM run_salts WHERE run_id = $1", run.run_id))


def hidden(bundle: bytes) -> bool:
    return SECRET.encode() not in bundle


async def test_before_and_after_an_erasure_everything_verifies_and_goes_on(
    tenant: Tenant, note: RawServer, tmp_path: Path
) -> None:
    run = await noted(tenant, PLAIN, {"text": SECRET, "priority": 1}, {"text": SECRET, "priority": 9})
    assert note.requests[0].endswith(b'{"text":"' + SECRET.encode() + b'"}'), "what runs has it in clear"
    assert not any(SECRET.encode() in bytes(row["part_a"]) for row in await run.decisions()), (
        "no record has it in clear"
    )
    before = await exported(tenant, run.run_id)
    report = await checked(tmp_path, before)
    assert report.holds, report.findings
    assert report.withheld == []
    assert not hidden(before)
    seen = next(line["note"] for line in map(orjson.loads, before.splitlines()) if line["type"] == "checkpoint")

    erasure = await erased(tenant, Scope(run_id=run.run_id))
    assert (erasure.runs, erasure.records, erasure.held, erasure.open) == (1, 2, 0, 0)
    after = await exported(tenant, run.run_id, since=int(seen.splitlines()[1]))
    assert hidden(after)
    report = await checked(tmp_path, after, since=seen)
    assert report.holds, report.findings
    assert report.trust.since == int(seen.splitlines()[1]), "the tree goes on from what was seen before"
    assert report.withheld == [], "what does not ask for the value comes out the same"
    again = await checked(tmp_path, before)
    assert again.holds, "the bundle of before holds as it did"


async def test_what_reads_an_erased_value_is_named_and_fails_nothing(
    tenant: Tenant, note: RawServer, tmp_path: Path
) -> None:
    run = await noted(tenant, READS, {"text": SECRET, "priority": 1}, {"text": "somebody else", "priority": 1})
    report = await checked(tmp_path, await exported(tenant, run.run_id))
    assert report.holds, report.findings
    assert report.withheld == []
    await erased(tenant, Scope(user="ada"))
    report = await checked(tmp_path, await exported(tenant, run.run_id))
    assert report.holds, report.findings
    called = {str(row["decision_id"]) for row in await run.decisions() if row["kind"] == "tool.call"}
    assert {(one.decision_id, one.path) for one in report.withheld} == {(each, "args/text") for each in called}


async def test_nothing_of_it_is_left_where_decisions_are(tenant: Tenant, note: RawServer, tmp_path: Path) -> None:
    script = task(call("crm.note", text=SECRET, priority=1), call("crm.note", text=SECRET * 3, priority=1), say("done"))
    run = await tenant.start(script, tools=("crm.note",), policy=GATED)
    await consent(run, await pending(run))
    await run.ended()
    await run.settled()
    await logged(tenant.rig, tenant)
    assert await is_left(run)
    await erased(tenant, Scope())
    assert not await is_left(run)
    assert hidden(await exported(tenant))
    report = await checked(tmp_path, await exported(tenant))
    assert report.holds, report.findings


NAME = "Maria Lindgren"
CUSTOMER = "C-2203"
ASKED: tuple[Step, ...] = (
    call("mail.send", to=[SECRET], subject=f"For {NAME}", body=f"Dear {NAME}", in_reply_to=f"<1.{SECRET}>"),
    call("mail.send", to=["else@elsewhere.example"], subject=f"Of {NAME}", body=SECRET),  # refused
    call("payments.refund", order_id="A-1003", amount_usd_cents=3_490, reason=f"{NAME} complained"),
    call("payments.refund", order_id="A-1003", amount_usd_cents=99_900, reason=f"{SECRET} wants more"),  # refused
    call("account.delete", customer=CUSTOMER),  # permitted by nothing
    call("mail.send", to=[f"{NAME} <{SECRET}>"], subject="Hello", body=SECRET),  # malformed
    call("mail.read", mail_id=SECRET),  # malformed, and nothing of it is marked
    call("crm.find", who=SECRET),  # no such tool
    call("code.exec", code=f"print({SECRET!r}, {NAME!r})"),
    call("code.exec", code=f"print({SECRET!r})", files=[f"{NAME}.csv"]),  # no such file
)
DESK = """
role ROLE {
  permit llm.call
  permit mail.read, mail.send, payments.refund, code.exec
  forbid mail.send where not args.to all in domain("analytical.example")
  forbid payments.refund where args.amount_usd_cents > 10000
}
"""
DESK_TOOLS = ("mail.send", "mail.read", "payments.refund", "account.delete", "code.exec")


def hashes(text: str) -> set[str]:
    """What somebody would look for who has the text: its plain hash, alone and as arguments are written, with blanks or without."""
    calls = [{"who": text}, {"mail_id": text}]
    written = [json.dumps(call, separators=marks) for call in calls for marks in ((", ", ": "), (",", ":"))]
    return {hashlib.sha256(each.encode()).hexdigest() for each in (text, f'"{text}"', *written)}


async def test_of_the_tools_that_come_along_nobody_has_to_mark_what_is_personal(tenant: Tenant, tmp_path: Path) -> None:
    run = await tenant.start(task(*ASKED, say("done")), tools=DESK_TOOLS, policy=DESK)
    assert await run.ended() == "succeeded", await run.story()
    await run.settled()
    await logged(tenant.rig, tenant)
    before = await exported(tenant, run.run_id)
    report = await checked(tmp_path, before)
    assert report.holds, report.findings
    assert report.withheld == []
    verdicts = report.counts()
    for row in await run.decisions():
        for personal in (SECRET, NAME, CUSTOMER):
            assert personal.encode() not in (row["part_a"] or b""), (row["kind"], personal)
    assert SECRET.encode() in before, "as long as nobody erases it, it stands beside the record"
    decided = [row for row in await run.decisions() if row["kind"] in ("tool.call", "code.exec")]
    assert len(decided) == len(ASKED)

    await erased(tenant, Scope(run_id=run.run_id))
    after = await exported(tenant, run.run_id)
    for personal in (SECRET, NAME, CUSTOMER, "elsewhere.example", "complained"):
        assert personal.encode() not in after, personal
    assert not any(each.encode() in after for each in hashes(SECRET))
    report = await checked(tmp_path, after)
    assert report.holds, report.findings
    assert {name: report.counts()[name] for name in verdicts} == {**verdicts, "allow": report.counts()["allow"]}
    # what asks for the amount is asked again; what asks where a mail went cannot be, and it is said
    actions = {str(row["decision_id"]): json.loads(row["part_a"])["action"] for row in decided}
    sent = {decision_id for decision_id, action in actions.items() if action.get("tool") == "mail.send"}
    assert {one.path for one in report.withheld} == {"args/to/0"}
    assert {one.decision_id for one in report.withheld} < sent
    assert len(report.withheld) == 2


async def test_what_stands_on_legal_hold_or_goes_on_is_left_and_said(rig: Rig, tenant: Tenant, note: RawServer) -> None:
    held = await noted(tenant, PLAIN, {"text": SECRET, "priority": 1})
    free = await noted(tenant, PLAIN, {"text": SECRET, "priority": 1})
    going = await tenant.start(
        task(call("crm.note", text=SECRET, priority=1), say("done")), tools=("crm.note",), policy=GATED
    )
    approval = await pending(going)
    async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
        hold, new = await legal_holds.place(connection, tenant.bob, held.run_id, "a dispute")
        assert new
    erasure = await erased(tenant, Scope())
    assert (erasure.runs, erasure.held, erasure.open) == (1, 1, 1)
    assert await is_left(held)
    assert not await is_left(free)
    async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
        with pytest.raises(erasing.LegallyHeld):
            await erasing.ask(connection, tenant.ada, Scope(run_id=held.run_id), "again")
    async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
        await legal_holds.lift(connection, tenant.bob, hold.legal_hold_id, "it is settled")
    await consent(going, approval)
    await going.ended()
    await going.settled()
    erasure = await erased(tenant, Scope())
    assert (erasure.runs, erasure.held, erasure.open) == (2, 0, 0)
    assert not await is_left(held)
    assert not await is_left(going)
    rows = await rig.rows("SELECT reason_codes FROM decisions WHERE tenant_id = $1", tenant.tenant_id)
    said = {code for row in rows for code in row["reason_codes"]}
    assert {"legal_hold.placed", "legal_hold.lifted", "erasure.asked", "erasure.done"} <= said


async def test_what_is_too_old_goes_run_by_run_and_all_is_proved_as_before(
    rig: Rig, tenant: Tenant, note: RawServer, tmp_path: Path
) -> None:
    old = await noted(tenant, PLAIN, {"text": SECRET, "priority": 1})
    held = await noted(tenant, PLAIN, {"text": SECRET, "priority": 1})
    new = await noted(tenant, PLAIN, {"text": SECRET, "priority": 1})
    await numbered(tenant)
    seen = next(
        line["note"]
        for line in map(orjson.loads, (await exported(tenant)).splitlines())
        if line["type"] == "checkpoint"
    )
    old.excuse("nothing is left to hold its history against")
    for run in (old, held):
        for table in ("decisions", "runs"):
            column = "created_at" if table == "decisions" else "ended_at"
            await rig.database.execute(
                f"UPDATE {table} SET {column} = {column} - interval '40 days' WHERE run_id = $1", run.run_id
            )
    rig.points.kill("retention.before_commit")
    async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
        await legal_holds.place(connection, tenant.bob, held.run_id, "a dispute")
        await keeping.put(connection, tenant.ada, 30)

    async def done() -> bool:
        async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
            return (await keeping.read(connection, tenant.tenant_id)).finished_at is not None

    await until(done, what="the end of the pass")
    assert not rig.points.armed("retention.before_commit"), "the first batch died, and was taken up"
    await rig.calm()
    async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
        kept = await keeping.read(connection, tenant.tenant_id)
    assert kept.records > 0
    assert kept.kept > 0
    gone = [row["part_a"] is None for row in await old.decisions() if row["kind"] in ("llm.call", "tool.call")]
    assert gone
    assert all(gone)
    assert not await is_left(old)
    for run in (held, new):
        assert all(row["part_a"] is not None for row in await run.decisions())
        assert await is_left(run)
    bundle = await exported(tenant, since=int(seen.splitlines()[1]))
    assert bundle.count(SECRET.encode()) == 0 or b'"type":"sealed"' in bundle
    report = await checked(tmp_path, bundle, since=seen)
    assert report.holds, report.findings
    report = await checked(tmp_path, await exported(tenant, old.run_id))
    assert report.holds, report.findings
    assert report.deleted == kept.records
