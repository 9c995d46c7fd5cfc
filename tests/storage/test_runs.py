"""Runs whose files lie in S3: only the broker has its key, and what it signs is for one caller's or one execution's own contents."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx
import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from activities.broker import BrokerClient
from holdfast import permits
from holdfast.artefacts import signed
from holdfast.artefacts.signed import BrokerSigner, SignedStorage
from holdfast.artefacts.storage import ArtefactLost, StorageRefused
from holdfast.contracts import names
from holdfast.database.engine import transaction
from holdfast.settings import read_key_file
from holdfast.tenancy import keys
from tests.api.world import problem, running_api, settings_for
from tests.run.captured import permit_of
from tests.run.harness import PERMIT_ALL, Rig, Run, Tenant, call, say, task
from tests.run.rigs import running_rig

from .s3_server import SECRET, S3Server

pytestmark = pytest.mark.timeout(600)  # servers are started, and the first time one is built

RULES: Final = (*PERMIT_ALL, 'permit code.exec as "compute"')
CSV: Final = b"order,cents\nA-1,1250\nA-2,300\n"
CODE: Final = """
import csv
total = sum(int(row['cents']) for row in csv.DictReader(open('orders.csv')))
open('report.txt', 'w').write(f'total {total}')
"""


@dataclass
class Desk:
    """A stack whose object storage is S3, and its API."""

    rig: Rig
    api_url: str
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    async def client(self, tenant: Tenant, *roles: str) -> httpx.AsyncClient:
        async with transaction(self.rig.engine("api"), tenant.tenant_id) as connection:
            _, key = await keys.create_key(
                connection,
                tenant.tenant_id,
                user_id=tenant.ada.user_id,
                project_id=tenant.ada.project_id,
                roles=roles or ("owner",),
            )
        headers = {"authorization": f"Bearer {key}"}
        self.clients.append(httpx.AsyncClient(base_url=self.api_url, headers=headers, timeout=60, trust_env=False))
        return self.clients[-1]

    async def start(self, tenant: Tenant, client: httpx.AsyncClient, **files: bytes) -> Run:
        """Starts a run that adds up `orders.csv`, as a client does."""
        admitted = await tenant.admit("not started", rules=RULES, tools=("code.exec",))
        agent = await self.rig.value("SELECT agent_name FROM runs WHERE run_id = $1", admitted.run_id)
        await admitted.cancel()
        body: dict[str, Any] = {
            "agent": agent,
            "input": task(call("code.exec", code=CODE, files=["orders.csv"], timeout_ms=30_000), say("done")),
            "files": {name.replace("__", "."): base64.b64encode(each).decode() for name, each in files.items()},
        }
        answer = await client.post("/v1/runs", json=body)
        assert answer.status_code == 201, answer.text
        run = Run(tenant, UUID(answer.json()["run_id"]))
        tenant.runs.append(run)
        return run


@pytest.fixture(scope="session")
async def desk(s3: S3Server) -> AsyncIterator[Desk]:
    patch = pytest.MonkeyPatch()
    for name, value in s3.environment().items():
        patch.setenv(name, value)
    try:
        async with running_rig() as rig:
            settings = settings_for(rig.stack, objects_folder=None, broker_url=rig.stack.urls.broker)
            async with running_api(settings) as api:
                desk = Desk(rig, api.url)
                yield desk
                for client in desk.clients:
                    await client.aclose()
    finally:
        patch.undo()


@pytest.fixture
async def tenant(desk: Desk) -> Tenant:
    return await desk.rig.tenant()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def path_of(s3: S3Server, tenant: Tenant, content: bytes) -> Path:
    return s3.bucket / "of/runs" / str(tenant.tenant_id) / digest(content)[:2] / digest(content)


async def test_files_go_to_s3_and_come_from_there_and_only_the_broker_has_the_key(
    s3: S3Server, desk: Desk, tenant: Tenant
) -> None:
    client = await desk.client(tenant)
    run = await desk.start(tenant, client, orders__csv=CSV)
    assert await run.ended() == "succeeded", await run.story()
    items = (await client.get(f"/v1/runs/{run.run_id}/artefacts")).json()["items"]
    assert [(item["step"] > 0, item["name"]) for item in items] == [(False, "orders.csv"), (True, "report.txt")]
    for item, content in zip(items, (CSV, b"total 1550"), strict=True):
        answer = await client.get(f"/v1/runs/{run.run_id}/artefacts/{item['step']}/{item['name']}")
        assert answer.content == content, answer.text
        assert path_of(s3, tenant, content).read_bytes() == content
    assert not desk.rig.stack.folder.objects.exists()
    holding = {}
    for name in desk.rig.stack.names:
        holding[name] = SECRET in psutil.Process(desk.rig.stack.child(name).pid).environ().values()
    assert {name for name, holds in holding.items() if holds} == {"governor"}, (
        holding
    )  # which is the broker as well here
    path_of(s3, tenant, b"total 1550").write_bytes(b"total 9999")
    address = f"/v1/runs/{run.run_id}/artefacts/{items[1]['step']}/report.txt"
    problem(await client.get(address), 500, "artefact.lost")
    path_of(s3, tenant, b"total 1550").unlink()
    problem(await client.get(address), 500, "artefact.lost")


async def test_code_whose_file_is_lost_is_not_run(s3: S3Server, desk: Desk, tenant: Tenant) -> None:
    client = await desk.client(tenant)
    desk.rig.points.park("redeem.before:code.exec")
    run = await desk.start(tenant, client, orders__csv=CSV)
    await desk.rig.points.until_parked("redeem.before:code.exec")
    path_of(s3, tenant, CSV).write_bytes(CSV.replace(b"300", b"999"))
    desk.rig.points.release("redeem.before:code.exec")
    assert await run.ended() == "succeeded", await run.story()
    [told] = [entry for entry in await run.transcript() if entry["kind"] == "tool_result"]
    assert "was changed" in told["content"]
    [hold] = await run.holds("code.exec")
    assert (hold["state"], hold["cost_nano_usd"]) in {("voided", 0), ("committed", 0)}


async def test_an_execution_reads_what_was_decided_and_writes_under_its_lease_alone(
    s3: S3Server, desk: Desk, tenant: Tenant
) -> None:
    client, rig = await desk.client(tenant), desk.rig
    rig.points.park("redeem.before:code.exec")
    run = await desk.start(tenant, client, orders__csv=CSV, other__csv=b"other")
    await rig.points.until_parked("redeem.before:code.exec")
    # this test takes the executor's place: it has the permit, which stands in the history, and no key of S3
    token = await permit_of(rig, run, "step-2-try-1")
    key = permits.public_key(read_key_file(rig.stack.secrets.permit_public_key_file))
    permit = permits.verify(token, key, now_ms=0)
    broker = BrokerClient(rig.stack.urls.broker, rig.engine("executor"))
    execution = await broker.redeem(
        token, permit, workflow_id=str(run.run_id), activity_type=names.EXECUTING_ACTIVITIES["code.exec"]
    )
    objects = execution.objects
    assert objects is not None
    assert await objects.get(tenant.tenant_id, digest(CSV), len(CSV)) == CSV
    with pytest.raises(StorageRefused, match="names no such file"):
        await objects.get(tenant.tenant_id, digest(b"other"), 5)
    made = os.urandom(1_000)
    await objects.put(tenant.tenant_id, made)
    assert path_of(s3, tenant, made).read_bytes() == made
    fields = {"tenant_id": permit.tenant_id, "hold_id": permit.hold_id}
    other = await rig.tenant()
    async with httpx.AsyncClient(base_url=rig.stack.urls.broker, trust_env=False) as http, signed.connect() as s3_way:

        def as_of(**changes: str) -> SignedStorage:
            asked = {**fields, "lease_token": base64.b64encode(os.urandom(32)).decode(), **changes}
            return SignedStorage(BrokerSigner(http, "/executions/objects", fields=asked), s3_way)

        for wrong in (as_of(), as_of(lease_token="!"), as_of(lease_token=""), as_of(tenant_id=str(other.tenant_id))):
            with pytest.raises(StorageRefused):
                await wrong.get(tenant.tenant_id, digest(CSV), len(CSV))
            with pytest.raises(StorageRefused):
                await wrong.put(tenant.tenant_id, os.urandom(10))
        # settled: the same lease opens nothing any more
        await rig.database.execute(
            "UPDATE holds SET lease_expires_at = clock_timestamp() WHERE hold_id = $1", UUID(permit.hold_id)
        )
        with pytest.raises(StorageRefused, match="lease is lost"):
            await objects.get(tenant.tenant_id, digest(CSV), len(CSV))
        with pytest.raises(StorageRefused, match="lease is lost"):
            await objects.put(tenant.tenant_id, os.urandom(10))
    await broker.close()
    await run.cancel()
    rig.points.release("redeem.before:code.exec")
    await run.ended()


async def test_a_caller_reaches_the_contents_of_its_own_tenant_alone(s3: S3Server, desk: Desk, tenant: Tenant) -> None:
    other = await desk.rig.tenant()
    client = await desk.client(tenant)
    await desk.start(tenant, client, orders__csv=CSV)
    async with (
        httpx.AsyncClient(base_url=desk.rig.stack.urls.broker, trust_env=False) as broker,
        signed.connect() as way,
        await desk.client(other) as stranger,
    ):

        def as_caller(authorization: str) -> SignedStorage:
            return SignedStorage(BrokerSigner(broker, "/objects", headers={"authorization": authorization}), way)

        own = as_caller(client.headers["authorization"])
        assert await own.get(tenant.tenant_id, digest(CSV), len(CSV)) == CSV
        # whatever tenant it names, the broker goes by the key
        theirs = as_caller(stranger.headers["authorization"])
        with pytest.raises(ArtefactLost):
            await theirs.get(tenant.tenant_id, digest(CSV), len(CSV))
        await theirs.put(tenant.tenant_id, b"mine, they say")
        assert not path_of(s3, tenant, b"mine, they say").exists()
        assert path_of(s3, other, b"mine, they say").exists()
        for nobody in ("", "Bearer hf_nobody", "Basic x"):
            with pytest.raises(StorageRefused):
                await as_caller(nobody).get(tenant.tenant_id, digest(CSV), len(CSV))
        for body in (
            {"method": "DELETE", "sha256": digest(CSV), "size_bytes": 1},
            {"method": "GET", "sha256": "../" + digest(CSV)[3:], "size_bytes": 1},
            {"method": "GET", "sha256": digest(CSV), "size_bytes": 2**40},
            {"method": "GET", "sha256": digest(CSV), "size_bytes": 1, "tenant_id": str(other.tenant_id)},
        ):
            answer = await broker.post("/objects", json=body, headers=dict(client.headers))
            assert answer.status_code == 422, answer.text


async def test_storage_that_is_away_or_not_set_is_said_to_the_client(desk: Desk, tenant: Tenant) -> None:
    client = await desk.client(tenant)
    await desk.start(tenant, client, orders__csv=CSV)  # makes an agent
    agent = await desk.rig.value("SELECT agent_name FROM runs WHERE tenant_id = $1 LIMIT 1", tenant.tenant_id)
    body = {"agent": agent, "input": "x", "files": {"a.csv": base64.b64encode(os.urandom(9)).decode()}}
    before = await desk.rig.value("SELECT count(*) FROM runs WHERE tenant_id = $1", tenant.tenant_id)
    patch = pytest.MonkeyPatch()
    patch.setattr(signed, "_PATIENCE_S", 0.3)
    try:
        async with running_api(
            settings_for(desk.rig.stack, objects_folder=None, broker_url="http://127.0.0.1:9")
        ) as alone:
            answer = await client.post(f"{alone.url}/v1/runs", json=body)
        problem(answer, 503, "artefact.storage_unavailable")
    finally:
        patch.undo()
    assert await desk.rig.value("SELECT count(*) FROM runs WHERE tenant_id = $1", tenant.tenant_id) == before
