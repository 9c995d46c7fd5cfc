"""Tools of a tenant's own under the gate: what was decided on is what runs, whatever is put or told meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.broker import BrokerClient, RedeemReply
from activities.execution import Execution
from demo.refund_desk.world.orders import create_orders
from holdfast.database.engine import transaction
from holdfast.errors import PermitInvalid
from holdfast.ids import new_id
from holdfast.permits import Permit
from holdfast.settings import read_key_file
from holdfast.tools import openapi, sql
from holdfast.tools.definition import OwnTool, ToolForm
from holdfast.tools.versions import put_tool
from holdfast.vault import Vault
from holdfast_verdict.canonical import JsonValue, canonical_bytes, digest
from tests.tools.raw_server import RawServer, raw_server

from .harness import Rig, Run, Tenant, call, say, task

QUERY = {
    "description": "Finds an order.",
    "credential": "tool.shop",
    "statement": "SELECT order_id, amount_usd_cents FROM shop.orders WHERE order_id = :order_id",
    "parameters": {"order_id": {"type": "text", "max_length": 20}},
}
FIND: ToolForm = sql.forms({"source": "sql", "queries": {"shop.find": QUERY}}, Path())["shop.find"]


def note_form(folder: Path, version: str) -> ToolForm:
    """`crm.note`, whose path names its version."""
    body = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}
    paths = {
        f"/{version}/notes": {
            "post": {
                "operationId": "note",
                "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            }
        }
    }
    (folder / "crm.json").write_text(json.dumps({"openapi": "3.1.0", "paths": paths}), encoding="utf-8")
    file = {"source": "openapi", "document": "crm.json", "credential": "tool.crm", "prefix": "crm"}
    return openapi.forms({**file, "operations": {"note": {}}}, folder)["crm.note"]


async def put(tenant: Tenant, name: str, form: ToolForm) -> OwnTool:
    async with transaction(tenant.rig.engine("api"), tenant.tenant_id) as connection:
        return (await put_tool(connection, tenant.tenant_id, name, form)).tool


async def store(tenant: Tenant, name: str, entry: dict[str, Any]) -> None:
    vault = Vault(read_key_file(tenant.rig.stack.secrets.vault_key_file))
    async with transaction(tenant.rig.engine("broker"), tenant.tenant_id) as connection:
        await vault.put(connection, tenant.tenant_id, name, entry)


async def definitions(run: Run, tool: str) -> list[str]:
    """The digests that the decisions on a tool's calls cite."""
    return [json.loads(hold["action"])["definition"] for hold in await run.holds(tool=tool)]


@pytest.fixture
async def crm(tenant: Tenant) -> AsyncIterator[RawServer]:
    async with raw_server() as server:
        auth = {"kind": "bearer", "token": "hush-hush"}
        url = f"http://127.0.0.1:{server.port}"
        await store(tenant, "tool.crm", {"base_url": url, "auth": auth, "allow_private": True})
        yield server


async def test_a_run_calls_a_service_and_a_database_as_its_decisions_say(
    tenant: Tenant, crm: RawServer, tmp_path: Path
) -> None:
    dsn = await create_orders(tenant.rig.stack.superuser_url, "pw")
    await store(tenant, "tool.shop", {"dsn": dsn})
    note = await put(tenant, "crm.note", note_form(tmp_path, "v1"))
    find = await put(tenant, "shop.find", FIND)
    script = task(call("shop.find", order_id="A-1003"), call("crm.note", text="it broke"), say("done"))
    run = await tenant.start(script, tools=("crm.note", "shop.find"))
    assert await run.ended() == "succeeded", await run.story()
    assert await run.states(kind="tool.call") == ["committed", "committed"]
    assert await definitions(run, "crm.note") == [note.digest]
    assert await definitions(run, "shop.find") == [find.digest]
    records = [bytes(one["part_a"]).decode() for one in await run.decisions() if one["kind"] == "tool.call"]
    assert [note.digest in record or find.digest in record for record in records] == [True, True]
    [request] = crm.requests
    assert request.startswith(b"POST /v1/notes HTTP/1.1")
    assert request.endswith(b'{"text":"it broke"}')
    # the tenant's slug is not the shop's: row-level security shows it nothing (LAW 5)
    results = [event["data"] for event in await run.events("tool.result")]
    assert '"rows": []' in json.dumps(results[0]).replace("\\", "")
    assert "hush-hush" not in json.dumps([await run.transcript(), results])


async def test_a_new_version_changes_nothing_for_a_run_that_is_paused(
    tenant: Tenant, crm: RawServer, tmp_path: Path
) -> None:
    old = await put(tenant, "crm.note", note_form(tmp_path, "v1"))
    asked, release = asyncio.Event(), asyncio.Event()

    async def wait(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()

    crm.answer = wait
    script = task(call("crm.note", text="one"), call("crm.note", text="two"), say("done"))
    run = await tenant.start(script, tools=("crm.note",))
    await asyncio.wait_for(asked.wait(), 60)
    await run.tell("pause")
    release.set()
    await run.until_status("paused")
    new = await put(tenant, "crm.note", note_form(tmp_path, "v2"))
    assert (old.version, new.version) == (1, 2)
    await run.tell("resume")
    assert await run.ended() == "succeeded", await run.story()
    assert await definitions(run, "crm.note") == [old.digest, old.digest]
    later = await tenant.start(task(call("crm.note", text="three"), say("done")), tools=("crm.note",))
    assert await later.ended() == "succeeded"
    assert await definitions(later, "crm.note") == [new.digest]
    paths = [request.partition(b" HTTP")[0] for request in crm.requests]
    assert paths == [b"POST /v1/notes", b"POST /v1/notes", b"POST /v2/notes"]


async def redeemed(engine: AsyncEngine, action: dict[str, JsonValue], form: ToolForm | None) -> Execution:
    """Redeems a permit for `action` at a broker that answers with this definition."""
    permit = Permit(
        tenant_id=str(new_id()),
        run_id=str(new_id()),
        step=1,
        try_number=1,
        kind="tool.call",
        digest=digest(action).hex(),
        hold_id=str(new_id()),
        max_cost_nano_usd=0,
        expires_at_ms=0,
        record_hash="",
    )
    reply = RedeemReply(
        action=canonical_bytes(action).decode(),
        lease_token="",
        lease_ms=1_000,
        tenant="acme",
        idempotency_key="k",
        credential={"token": "hush-hush"},
        tool=form,
    )
    body = reply.model_dump_json().encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    async with raw_server(answer=head.encode() + body) as liar:
        client = BrokerClient(f"http://127.0.0.1:{liar.port}", engine)
        try:
            return await client.redeem("token", permit, workflow_id=permit.run_id, activity_type="x")
        finally:
            await client.close()


async def test_a_definition_that_was_tampered_with_on_the_way_is_refused(rig: Rig, tmp_path: Path) -> None:
    engine = rig.engine("executor")
    decided, other = note_form(tmp_path, "v1"), note_form(tmp_path, "v2")
    cited = OwnTool("crm.note", 1, decided).digest
    action: dict[str, JsonValue] = {"kind": "tool.call", "tool": "crm.note", "args": {"text": "x"}, "definition": cited}
    execution = await redeemed(engine, action, decided)
    assert execution.tool == OwnTool("crm.note", 0, decided)
    altered = [
        other,
        decided.model_copy(update={"idempotent": True}),
        decided.model_copy(update={"credential": "tool.other"}),
        decided.model_copy(update={"timeout_ms": 1_000}),
    ]
    for form in altered:
        with pytest.raises(PermitInvalid, match="is not the one the permit was given for"):
            await redeemed(engine, action, form)
    with pytest.raises(PermitInvalid, match="did not come with the permit"):
        await redeemed(engine, action, None)
    # a builtin's name does not help: its actions cite no definition
    with pytest.raises(PermitInvalid):
        await redeemed(engine, {**action, "tool": "mail.send"}, None)
