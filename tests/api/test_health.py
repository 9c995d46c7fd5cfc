"""The process: health, readiness, start, stop; and the vault through the broker."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.stack.ports import Ports
from holdfast.actions.run_facts import RunReader
from holdfast.codes.catalogue import CATALOGUE
from holdfast.ledger.service import Ledger
from holdfast.vault import Vault
from workers import broker as brokers

from .sse import collect, events
from .world import RunningApi, Tenant, World, problem, running_api, settings_for, until


async def test_health_and_the_page_at_the_root(world: World) -> None:
    async with world.api.client() as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}

        async def is_ready() -> bool:  # it asks its parts within seconds, which a busy machine may take
            ready = await client.get("/readyz")
            return (ready.status_code, ready.json()["ready"]) == (200, True)

        await until(is_ready)
        page = (await client.get("/")).text
        assert "openapi.json" in page
        assert "http://" not in page
        assert (await client.get("/openapi.json")).status_code == 200


async def test_the_type_of_a_problem_leads_to_what_it_means(world: World) -> None:
    async with world.api.client() as client:
        refused = problem(await client.get("/v1/me"), 401, "auth.not_authenticated")
        meaning = (await client.get(refused["type"])).json()
        assert (meaning["code"], meaning["status"]) == (refused["code"], 401)
        assert meaning["remedy"] == CATALOGUE[refused["code"]].remedy
        missing = problem(await client.get("/problems/budget.cap_exceded"), 404, "resource.not_found")
        assert "budget.cap_exceeded" in missing["remedy"]
        listed = (await client.get("/problems")).json()["codes"]
        assert [one["code"] for one in listed] == sorted(CATALOGUE)


async def test_without_what_it_needs_it_is_alive_but_not_ready(world: World) -> None:
    away = "postgresql://x:y@127.0.0.1:9/z"
    settings = settings_for(world.stack, api_database_url=away, temporal_address="127.0.0.1:9")
    async with running_api(settings) as api, api.client("hf_aaaaaaaa_" + "A" * 43) as client:
        assert (await client.get("/healthz")).status_code == 200
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        unavailable = {"postgresql": "unavailable", "temporal": "unavailable"}
        assert ready.json() == {"ready": False, **unavailable, "redis": "ok"}
        answer = await client.get("/v1/me")
        problem(answer, 503, "service.unavailable")
        assert answer.headers["retry-after"]


async def test_the_process_says_ready_and_stops_with_a_stream_open(tenant: Tenant, world: World) -> None:
    environment = {**os.environ, **world.stack.env_for("api"), "HOLDFAST_API_PORT": str(Ports.free().api)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "api", env=environment, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            while (line := orjson.loads(await process.stderr.readline()))["event"] != "ready":
                pass
        api = RunningApi(world.api.settings, world.api.server, world.api.serving)
        async with api.client(tenant.keys["owner"]) as client:
            client.base_url = line["url"]
            run_id = (await client.post("/v1/runs", json={"agent": "desk", "input": "the secret question"})).json()[
                "run_id"
            ]
            async with client.stream("GET", f"/v1/runs/{run_id}/events") as stream:
                assert stream.status_code == 200
                process.send_signal(signal.SIGTERM)
                try:
                    async for _ in stream.aiter_bytes():
                        pass  # it ends by itself
                except httpx.RemoteProtocolError as error:
                    _, stderr = await asyncio.wait_for(process.communicate(), 60)
                    raise AssertionError(f"the stream was cut off: {stderr.decode()}") from error
        stdout, stderr = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    logged = [orjson.loads(row) for row in stderr.splitlines()]
    requests = [row for row in logged if row["event"] == "request"]
    assert {row["path"] for row in requests} == {"/v1/runs", "/v1/runs/{run_id}/events"}
    assert all(row["tenant"] == tenant.slug and row["request_id"] for row in requests)
    for secret in (tenant.keys["owner"].encode(), b"secret question"):
        assert secret not in stderr + stdout


async def test_wrong_settings_are_said_in_a_sentence(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "api", env={"PATH": "/usr/bin"}, cwd=Path.cwd(), stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert b"HOLDFAST_API_DATABASE_URL" in stderr
    assert b"Traceback" not in stderr


@asynccontextmanager
async def running_broker(world: World) -> AsyncIterator[str]:
    engine = world.engine("broker")
    parts = brokers.Broker(
        engine=engine,
        reader=RunReader(),
        vault=Vault(bytes(32)),
        permit_key=Ed25519PrivateKey.generate().public_key(),
        ledger=Ledger(engine),
    )
    server = brokers.BrokerServer(parts, "127.0.0.1", 0, 1_000)
    serving = asyncio.create_task(server.run())
    yield f"http://{server.address}"
    server.stop()
    await serving


async def test_the_vault_takes_and_never_gives(tenant: Tenant, other: Tenant, world: World) -> None:
    async with (
        running_broker(world) as url,
        running_api(settings_for(world.stack, broker_url=url)) as api,
        api.client(tenant.keys["owner"]) as owner,
        api.client(other.keys["owner"]) as stranger,
    ):
        stored = await owner.put("/v1/vault/provider.openai", json={"api_key": "sk-very-secret", "base_url": None})
        assert stored.status_code == 204, stored.text
        listed = await owner.get("/v1/vault")
        assert [entry["name"] for entry in listed.json()["entries"]] == ["provider.openai"]
        assert "very-secret" not in listed.text
        assert (await stranger.get("/v1/vault")).json() == {"entries": []}
        problem(await stranger.delete("/v1/vault/provider.openai"), 404, "resource.not_found")
        assert (await owner.delete("/v1/vault/provider.openai")).status_code == 204
        problem(await owner.delete("/v1/vault/provider.openai"), 404, "resource.not_found")
        problem(await owner.put("/v1/vault/UPPER", json={"a": 1}), 422, "request.invalid")
        problem(await owner.put("/v1/vault/x", json={}), 422, "request.invalid")
    problem(await tenant.owner.get("/v1/vault"), 503, "service.unavailable")


@asynccontextmanager
async def forwarding(port: int, target: str) -> AsyncIterator[None]:
    """Listens on a port and passes everything on to another address."""
    host, _, target_port = target.rpartition(":")
    pipes: set[asyncio.Task[None]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(host, int(target_port))
        pipes.update((asyncio.create_task(pipe(reader, there_writer)), asyncio.create_task(pipe(there_reader, writer))))

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()
        for task in pipes:
            task.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)


async def test_when_temporal_comes_the_api_finds_it(tenant: Tenant, world: World) -> None:
    port = Ports.free().temporal
    settings = settings_for(world.stack, temporal_address=f"127.0.0.1:{port}")
    async with running_api(settings) as api, api.client(tenant.keys["owner"]) as client:
        assert (await client.get("/readyz")).json()["temporal"] == "unavailable"
        async with forwarding(port, world.stack.urls.temporal):

            async def is_ready() -> bool:
                return (await client.get("/readyz")).status_code == 200

            await until(is_ready)
            run_id = (await client.post("/v1/runs", json={"agent": "desk", "input": "x"})).json()["run_id"]
            assert (await client.get(f"/v1/runs/{run_id}")).json()["started_at"] is not None


async def test_when_postgresql_is_killed_requests_are_refused_and_then_served_again(
    tenant: Tenant, world: World
) -> None:
    run_id = await tenant.run()
    got = []

    async def follow() -> None:
        async for event in events(tenant.owner, run_id):
            got.append(event)

    reading = asyncio.create_task(follow())

    async def has_begun() -> bool:
        return bool(got)

    await until(has_begun)
    await world.stack.kill("postgres", signal.SIGKILL)
    statuses = set()

    async def is_back() -> bool:
        answer = await tenant.owner.get(f"/v1/runs/{run_id}")
        statuses.add(answer.status_code)
        return answer.status_code == 200

    await until(is_back, timeout_s=90)
    assert statuses <= {200, 503}
    await world.stack.wait_ready("postgres")
    await world.forget_connections()
    await tenant.end(run_id)
    await asyncio.wait_for(reading, 60)  # it either never noticed, or was ended in good order for its client to resume
    got += await collect(tenant.owner, run_id, last_id=got[-1]["id"])
    assert [event["type"] for event in got] == ["run.created", "run.ended"]
