"""Servers apart, with Temporal's real server on PostgreSQL: backed up while a run is under way, destroyed, restored into new ones."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.stack.ports import LOOPBACK
from demo.refund_desk.world.servers import World
from sdk import Approval, Holdfast
from tests.cli.desk import AGENT, HELPER, refund
from tests.stack.places import ROOT

from .native import Cluster

pytestmark = pytest.mark.timeout(900)

ENVIRON = {"HOLDFAST_PROVIDERS": "simulated", "HOLDFAST_HEARTBEAT_TIMEOUT_MS": "3000"}
BEFORE_A_RESTORE = ("secrets", "postgres", "roles")
TEMPORAL = ("temporal-schema", "temporal", "migrations")


def secret(cluster: Cluster, process: str, name: str) -> str:
    return cluster.secret(process, name).read_text(encoding="utf-8").strip()


def urls(cluster: Cluster) -> dict[str, str]:
    """What the commands are told in the environment, so that it stands in no list of processes."""
    password = secret(cluster, "temporal", "database_password")
    return {
        "HOLDFAST_POSTGRES": secret(cluster, "roles", "superuser_url"),
        "HOLDFAST_TEMPORAL_POSTGRES": f"postgresql://temporal:{password}@{LOOPBACK}:{cluster.ports[5432]}/temporal",
        "HOLDFAST_TEMPORAL_ADDRESS": cluster.urls.temporal,
    }


async def command(cluster: Cluster, *args: str, code: int = 0) -> Any:
    """Runs a command of `holdfast` with --json and returns what it printed, or what it said when it failed."""
    program = cluster.folder / "bin" / "holdfast"
    process = await asyncio.create_subprocess_exec(
        str(program), *args, "--json", cwd=ROOT, env={**os.environ, **urls(cluster)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    stdout, stderr = await asyncio.wait_for(process.communicate(), 300)
    assert process.returncode == code, stderr.decode()
    return json.loads(stdout) if code == 0 else stderr.decode()


async def until(condition: Callable[[], Awaitable[object]], *, within_s: float = 90.0, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline, f"{what} did not come to be within {within_s:g} s"
        await asyncio.sleep(0.1)


@asynccontextmanager
async def folders() -> AsyncIterator[tuple[Path, Path, Path]]:
    """Three of them, with short paths: a Unix socket lies inside."""
    made = [Path(tempfile.mkdtemp(prefix="hf-")) for _ in range(3)]
    for folder in made:
        folder.chmod(0o755)
    try:
        yield made[0], made[1], made[2]
    finally:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)


def person(cluster: Cluster, keys: Mapping[str, str], who: str) -> Holdfast:
    return Holdfast(cluster.urls.api, keys[who])


def move_in(cluster: Cluster, world: World) -> dict[str, str]:
    """A tenant with one who starts runs and one who consents; returns their keys."""
    first = json.loads((cluster.volume("first-keys") / "keys.json").read_text(encoding="utf-8"))
    with Holdfast(cluster.urls.api, first["operator_key"]) as operator:
        owner_key = operator.create_tenant("desk", "Desk").key.key
    with Holdfast(cluster.urls.api, owner_key) as owner:
        owner.create_user("alice")
        alice_key = owner.create_key("alice", "default", ["approver"]).key
        owner.set_cap("tenant", limit_usd="5", reason="tests")
        owner.put_role("helper", HELPER)
        owner.put_agent("helper", AGENT)
        give_provider(cluster, owner)
        for name, credential in world.credentials().items():
            owner.put_credential(name, credential)
    return {"owner": owner_key, "alice": alice_key}


def give_provider(cluster: Cluster, owner: Holdfast) -> None:
    owner.put_credential(
        "provider.anthropic", {"api_key": "simulated", "base_url": cluster.urls.provider, "simulated": True}
    )


def start(owner: Holdfast, *script: dict[str, Any]) -> str:
    return owner.create_run("helper", f"please\n#!script {json.dumps(list(script))}").run_id


async def restored(cluster: Cluster, archive: Path) -> dict[str, Any]:
    """Restores into servers of which only roles and empty databases are there, then starts everything else."""
    await cluster.prepare()
    master = cluster.volume("secrets-master")
    unpack = ["tar", "-xf", str(archive), "-C", str(master), "--strip-components=1", "secrets"]
    await asyncio.to_thread(subprocess.run, unpack, check=True, umask=0o077)
    for name in BEFORE_A_RESTORE:
        await cluster.start(name)
    loaded = await command(cluster, "restore-servers", str(archive))
    assert loaded["loaded"] is True
    assert "is not empty; a restore never writes over anything" in await command(
        cluster, "restore-servers", str(archive), code=1
    )
    for name in TEMPORAL:
        await cluster.start(name)
    refused = await asyncio.create_subprocess_exec(
        *cluster.argv("broker"), env=cluster.env("broker"), stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(refused.communicate(), 120)
    assert refused.returncode == 2
    assert b"a restore into this database has not finished" in said
    key = master / "keys" / "codec.key"
    other = master / "keys" / "vault.key"
    wrong = await command(cluster, "restore-finish", str(archive), "--codec-key-file", str(other), code=1)
    assert "is not the codec key that this backup was made with" in wrong
    done: dict[str, Any] = await command(cluster, "restore-finish", str(archive), "--codec-key-file", str(key))
    for name in cluster._order():
        if name not in (*BEFORE_A_RESTORE, *TEMPORAL):
            await cluster.start(name)
    return done


async def test_backup_and_restore_of_servers_apart() -> None:
    """Three databases are backed up at one point, restored into new servers, and the interrupted runs finish"""
    async with folders() as (first, second, outside), World(outside / "world") as world:
        archive = outside / "backup.tar"
        async with Cluster(first, environ=ENVIRON, profiles=["simulated"]) as cluster:
            keys = await asyncio.to_thread(move_in, cluster, world)
            with person(cluster, keys, "owner") as owner:
                at_gate = await asyncio.to_thread(start, owner, refund("APART-1"), {"say": "done"})

                async def asked() -> list[Approval]:
                    return await asyncio.to_thread(owner.approvals, state="pending", run_id=at_gate)

                await until(asked, what="the approval")
                async with httpx.AsyncClient(base_url=cluster.urls.provider, trust_env=False) as provider:
                    await provider.post("/control/faults", json=[{"kind": "gate"}])
                    thinking = await asyncio.to_thread(start, owner, refund("APART-2"), {"say": "done"})

                    async def held() -> bool:
                        calls = (await provider.get("/control/calls")).json()["calls"]
                        return any(call["state"] == "waiting" for call in calls)

                    await until(held, what="the model's call")
                made = await command(
                    cluster, "backup", "--to", str(archive), "--secrets", str(cluster.volume("secrets-master"))
                )
            assert made["store"] == "postgresql"
            assert made["secrets"] is True
            assert made["open_runs"] == 2
            for child in cluster.children.values():
                child.kill_now()
        shutil.rmtree(first)
        cluster = Cluster(second, environ=ENVIRON, profiles=["simulated"])
        try:
            done = await restored(cluster, archive)
            assert {run["run_id"]: run["state"] for run in done["runs"]} == {at_gate: "paused", thinking: "paused"}
            with person(cluster, keys, "owner") as owner, person(cluster, keys, "alice") as alice:
                await asyncio.to_thread(give_provider, cluster, owner)

                async def consent(run_id: str) -> None:
                    async def pending() -> list[Approval]:
                        return await asyncio.to_thread(owner.approvals, state="pending", run_id=run_id)

                    await until(pending, what="the approval")
                    await asyncio.to_thread(alice.decide, (await pending())[0].approval_id, "approved")

                for run_id in (at_gate, thinking):
                    await asyncio.to_thread(owner.send_input, run_id, "resume")
                    await consent(run_id)
                    run = await asyncio.to_thread(owner.wait_for_run, run_id, timeout_s=120)
                    assert run.status == "succeeded", run
            orders = [refunded["order_id"] for refunded in world.store.refunds()]
            assert sorted(map(str, orders)) == ["APART-1", "APART-2"]
            auditor = await asyncio.create_subprocess_exec(
                *cluster.argv("auditor"), env=cluster.env("auditor"), stdout=asyncio.subprocess.PIPE
            )
            stdout, _ = await asyncio.wait_for(auditor.communicate(), 120)
            assert auditor.returncode == 0, stdout.decode()
        finally:
            await cluster.stop()
