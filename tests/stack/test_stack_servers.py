"""The servers of a stack: data kept over restarts and crashes, one supervisor at a time, no child left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest
from redis.asyncio import Redis
from temporalio.client import Client

from cli.stack.data_folder import DataFolder
from cli.stack.errors import AlreadyRunning, DataFolderInvalid, PortTaken
from cli.stack.ports import Ports
from cli.stack.supervisor import Part, Stack
from cli.stack.temporal import RETENTION
from tests.stack.places import ROOT, clean_environment, family, lives, until

SERVERS: frozenset[Part] = frozenset({"postgres", "valkey", "temporal"})
HOLDFAST = [sys.executable, "-m", "cli.main"]


@asynccontextmanager
async def redis(url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(url)
    try:
        yield client
    finally:
        await client.aclose()


@contextmanager
def supervisor(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`holdfast up` as a process of its own."""
    process = subprocess.Popen(
        [*HOLDFAST, "up", "--data-dir", str(folder), "--port-base", "0", "--headless", "--servers-only", *options],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def is_up(folder: Path) -> bool:
    return DataFolder(folder).running_pid() is not None and DataFolder(folder).read_state().get("ready") is True


def name_of(pid: int) -> str:
    """Returns a process's name; nothing if it has ended, as each of a database's backends does with its connection."""
    try:
        return str(psutil.Process(pid).name())
    except psutil.NoSuchProcess:
        return ""


async def test_data_is_kept_over_restarts_and_crashes(open_folder: Path) -> None:
    lines: list[str] = []
    workflow_id = str(uuid4())
    async with Stack(open_folder, ports="free", parts=SERVERS, say=lines.append, headless=True) as stack:
        connection = await asyncpg.connect(stack.superuser_url)
        await connection.execute("CREATE TABLE kept (value int)")
        await connection.execute("INSERT INTO kept VALUES (42)")
        assert await connection.fetchval("SHOW fsync") == "on"
        await connection.close()
        async with redis(stack.urls.redis) as client:
            await client.set("kept", "42")
            assert (await client.config_get("appendonly"))["appendonly"] == "yes"
        temporal = await Client.connect(stack.urls.temporal, namespace="holdfast")
        await temporal.start_workflow("NobodyRunsThis", id=workflow_id, task_queue="nobody")
        for name in ("postgres", "valkey", "temporal"):
            await stack.kill(name, signal.SIGKILL)
            await stack.wait_ready(name)
        assert sum("was ended by SIGKILL; starting it again" in line for line in lines) == 3
    # the ports are others now, and Valkey's file was written a second after its last write at most
    async with Stack(open_folder, ports="free", parts=SERVERS, headless=True) as stack:
        connection = await asyncpg.connect(stack.superuser_url)
        assert await connection.fetchval("SELECT value FROM kept") == 42
        await connection.close()
        async with redis(stack.urls.redis) as client:
            assert await client.get("kept") == b"42"
        temporal = await Client.connect(stack.urls.temporal, namespace="holdfast")
        assert (await temporal.get_workflow_handle(workflow_id).describe()).workflow_type == "NobodyRunsThis"
        from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest

        answer = await temporal.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace="holdfast"))
        assert answer.config.workflow_execution_retention_ttl.ToTimedelta() == RETENTION


@pytest.mark.timeout(600)
async def test_a_killed_supervisor_leaves_nobody_behind_and_its_data_comes_up_again(open_folder: Path) -> None:
    with supervisor(open_folder) as process:
        await until(lambda: is_up(open_folder), within_s=240, what="the stack")
        pids = family(process.pid)
        programs = {name for pid in pids if (name := name_of(pid))}
        assert "postgres" in programs
        assert any(program.startswith("temporal") for program in programs)  # the cached one has its version in its name
        process.kill()
        await until(lambda: not any(map(lives, pids)), what="the children's end")
    # its pid file is there, as after a power failure; now with the pid of a process that is no PostgreSQL
    pid_file = open_folder / "postgres" / "data" / "postmaster.pid"
    text = pid_file.read_text().splitlines() if pid_file.exists() else ["0", "", "0", "0", "", "", ""]
    pid_file.write_text("\n".join([str(os.getpid()), *text[1:]]) + "\n")
    async with Stack(open_folder, ports="free", parts={"postgres"}) as stack:
        connection = await asyncpg.connect(stack.superuser_url)
        assert await connection.fetchval("SELECT count(*) FROM alembic_version") == 1
        await connection.close()


async def test_processes_of_a_dead_server_are_ended_before_the_next_one_starts(open_folder: Path) -> None:
    async with Stack(open_folder, ports="free", parts={"postgres"}) as stack:
        child = stack.child("postgres")
        postmaster = psutil.Process(child.pid)
        backends = postmaster.children()
        frozen = backends[0]
        frozen.suspend()  # it does not notice that its postmaster dies
        await stack.kill("postgres", signal.SIGKILL)
        await stack.wait_ready("postgres")
        assert not lives(frozen.pid)


async def test_a_second_supervisor_is_refused_with_the_first_ones_pid(open_folder: Path) -> None:
    async with Stack(open_folder, ports="free", parts={"valkey"}):
        with pytest.raises(AlreadyRunning, match=rf"runs on {open_folder} \(process {os.getpid()}\)"):
            await Stack(open_folder, ports="free", parts={"valkey"}).start()
        done = subprocess.run(
            [*HOLDFAST, "up", "--data-dir", str(open_folder)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 4
        assert f"process {os.getpid()}" in done.stderr
        assert "holdfast down" in done.stderr


async def test_a_port_that_is_taken_is_named_with_its_process_before_anything_starts(open_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taker:
        port = taker.getsockname()[1]
        stack = Stack(open_folder, ports=replace(Ports.free(), valkey=port), parts={"valkey"})
        with pytest.raises(PortTaken, match=rf"port {port} \(valkey\) is taken by .*process {os.getpid()}\b"):
            await stack.start()
    assert not (open_folder / "secrets").exists()


async def test_ports_of_parts_that_do_not_run_may_be_taken(open_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taker:
        ports = replace(Ports.free(), provider=taker.getsockname()[1])
        async with Stack(open_folder, ports=ports, parts={"valkey"}):
            pass


async def test_secrets_are_their_owners_only_and_stay_the_same(open_folder: Path) -> None:
    async with Stack(open_folder, ports="free", parts={"valkey"}) as stack:
        folder = stack.secrets.folder
        first = {path.name: path.read_text() for path in folder.iterdir()}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    assert {len(first[name].strip()) for name in ("permit.key", "permit.pub", "vault.key", "codec.key")} == {64}
    command = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert first["valkey.key"].strip() not in command
    async with Stack(open_folder, ports="free", parts={"valkey"}):
        assert {path.name: path.read_text() for path in folder.iterdir()} == first

    (folder / "vault.key").chmod(0o640)
    with pytest.raises(DataFolderInvalid, match=r"vault.key can be read by others \(mode 640\)"):
        await Stack(open_folder, ports="free", parts={"valkey"}).start()
    (folder / "vault.key").chmod(0o600)
    (folder / "vault.key").rename(folder / "away")
    with pytest.raises(DataFolderInvalid, match=r"vault.key is missing"):
        await Stack(open_folder, ports="free", parts={"valkey"}).start()
    folder.rename(open_folder / "away")
    with pytest.raises(DataFolderInvalid, match="written with the keys that lay there"):
        await Stack(open_folder, ports="free", parts={"valkey"}).start()


async def test_urls_take_the_place_of_the_wheels(open_folder: Path, closed_folder: Path) -> None:
    async with Stack(open_folder, ports="free", parts={"postgres", "valkey"}) as servers:
        admin_url = servers.superuser_url.replace("/holdfast?", "/elsewhere?")
        lines: list[str] = []
        async with Stack(
            closed_folder,
            ports="free",
            parts={"postgres", "valkey", "migrations"},
            postgres_url=admin_url,
            redis_url=servers.urls.redis,
            say=lines.append,
        ) as stack:
            assert not [line for line in lines if "is ready" in line]
            assert stack.urls.redis == servers.urls.redis
            connection = await asyncpg.connect(stack.database_url("holdfast_owner"))
            assert await connection.fetchval("SELECT current_database()") == "elsewhere"
            assert await connection.fetchval("SELECT count(*) FROM alembic_version") == 1
            await connection.close()
        password = servers.secrets.database_passwords["postgres"]
        assert not any(password in line for line in lines)
        assert not list((closed_folder / "postgres").iterdir())


async def test_a_socket_path_that_would_be_too_long_goes_elsewhere(open_folder: Path) -> None:
    folder = open_folder / ("deep-" * 10) / ("folder-" * 10)
    async with Stack(folder, ports="free", parts={"postgres"}) as stack:
        connection = await asyncpg.connect(stack.superuser_url)
        (path,) = await connection.fetchrow("SHOW unix_socket_directories")
        await connection.close()
        assert not Path(path.strip('"')).is_relative_to(folder)
    assert not Path(path.strip('"')).exists()


@pytest.mark.timeout(600)
async def test_up_status_and_down_as_commands(open_folder: Path) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*HOLDFAST, *args, "--data-dir", str(open_folder)], cwd=ROOT, capture_output=True, text=True, check=False
        )

    before = run("status", "--json")
    assert (before.returncode, json.loads(before.stdout)["running"]) == (3, False)
    assert run("down").returncode == 3
    with supervisor(open_folder) as process:
        await until(lambda: is_up(open_folder), within_s=240, what="the stack")
        state = json.loads((await asyncio.to_thread(run, "status", "--json")).stdout)
        assert state["running"] is True
        assert {child["name"]: child["state"] for child in state["children"]} == dict.fromkeys(
            ("valkey", "temporal", "postgres"), "ready"
        )
        assert "redis" not in state["urls"]
        pids = family(process.pid)
        stopped = await asyncio.to_thread(run, "down")
        assert stopped.returncode == 0
        assert await asyncio.to_thread(process.wait, 60) == 0
        assert not any(map(lives, pids))
        assert process.stdout is not None
        printed = process.stdout.read()
    assert "Holdfast is up." in printed
    assert "temporal has stopped" in printed


async def test_a_signal_during_start_stops_cleanly(open_folder: Path) -> None:
    with supervisor(open_folder) as process:
        await until(lambda: bool(family(process.pid)), what="the first child")
        pids = family(process.pid)
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, 120) == 0
        assert not any(map(lives, pids))
    assert DataFolder(open_folder).running_pid() is None
