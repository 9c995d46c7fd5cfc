"""`holdfast doctor`: it sees what is wrong, says what to do, changes nothing, and shows no secret."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from cli import profile_file
from cli.doctor import folder as doctor_folder
from cli.stack.data_folder import write_atomically

from .desk import Desk

Findings = dict[str, dict[str, str]]


async def examined(desk: Desk, *arguments: str) -> tuple[Result, Findings]:
    done = await desk.bare("doctor", "--json", *arguments)
    answer: dict[str, Any] = json.loads(done.stdout)
    findings = {one["part"]: one for one in answer["findings"]}
    assert answer["ok"] is (done.exit_code == 0)
    assert answer["ok"] is all(one["state"] != "failed" for one in answer["findings"])
    assert all(one["remedy"] for one in answer["findings"] if one["state"] != "ok")
    return done, findings


def secrets_of(desk: Desk) -> Iterator[str]:
    for file in desk.stack.secrets.folder.iterdir():
        text = file.read_text()
        yield from json.loads(text).values() if text.startswith("{") else [text.strip()]
    yield desk.key_file("owner").read_text().strip()


def state_of(path: Path) -> dict[str, tuple[int, int]]:
    return {str(one): (one.lstat().st_mode, one.lstat().st_mtime_ns) for one in path.rglob("*")}


async def test_a_stack_that_runs_well_is_well_in_all_its_parts(desk: Desk) -> None:
    kept = (desk.stack.secrets.folder, profile_file.folder().parent)
    before = [state_of(path) for path in kept]
    names = sorted(one.name for one in desk.data.iterdir())
    where = ("--data-dir", str(desk.data))
    done, found = await examined(desk, *where)
    assert done.exit_code == 0, done.stdout
    assert {"python", "platform", "disk", "database schema", "temporal", "broker", "readiness", "clock"} <= set(found)
    assert {"governors", "model executors", "tool executors", "secrets", "api key", "valkey", "postgresql"} <= set(
        found
    )
    assert not [one for one in found.values() if one["state"] == "failed"]
    text = await desk.bare("doctor", *where)
    assert text.exit_code == 0
    assert "ok       api              answers at" in text.stdout
    assert text.stdout.splitlines()[-1].startswith("nothing failed: ")
    assert [state_of(path) for path in kept] == before
    assert sorted(one.name for one in desk.data.iterdir()) == names
    for secret in secrets_of(desk):
        assert secret not in done.output + text.output


async def test_a_process_that_is_down_is_named_with_its_log(desk: Desk) -> None:
    await desk.stack.stop_child("executor-1")
    try:
        done, found = await examined(desk, "--data-dir", str(desk.data))
    finally:
        await desk.stack.start_child("executor-1")
    assert done.exit_code == 1
    assert found["executor-1"]["state"] == "failed"
    assert "executor-1.log" in found["executor-1"]["remedy"]


async def test_an_api_that_is_down_is_seen(desk: Desk) -> None:
    await desk.stack.stop_child("api")
    try:
        done, found = await examined(desk, "--data-dir", str(desk.data))
    finally:
        await desk.stack.start_child("api")
    assert done.exit_code == 1
    assert "cannot be reached" in found["api"]["what"]
    assert found["temporal"]["state"] == "ok"


async def test_without_a_stack_it_says_how_to_begin_and_makes_nothing(desk: Desk, tmp_path: Path) -> None:
    data = tmp_path / "not" / "there"
    done, found = await examined(desk, "--data-dir", str(data))
    assert done.exit_code == 0, done.stdout
    assert "`holdfast up` makes it" in found["data folder"]["what"]
    assert "`holdfast up` starts one" in found["stack"]["what"]
    assert "secrets" not in found
    assert not data.parent.exists()


async def test_a_folder_that_cannot_be_used_is_said(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done, found = await examined(desk, "--data-dir", str(file))
    assert (done.exit_code, found["data folder"]["state"]) == (1, "failed")


async def test_secrets_that_are_lost_read_by_others_or_damaged_are_said(desk: Desk, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    shutil.copytree(desk.stack.secrets.folder, data / "secrets")
    (data / "secrets").chmod(0o700)
    where = ("--data-dir", str(data))
    assert (await examined(desk, *where))[1]["secrets"]["state"] == "ok"
    (data / "secrets" / "vault.key").chmod(0o640)
    found = (await examined(desk, *where))[1]["secrets"]
    assert (found["state"], "chmod" in found["remedy"]) == ("failed", True)
    (data / "secrets" / "vault.key").chmod(0o600)
    write_atomically(data / "secrets" / "codec.key", "not hex")
    assert "codec.key" in (await examined(desk, *where))[1]["secrets"]["what"]
    (data / "secrets" / "codec.key").unlink()
    assert "is missing" in (await examined(desk, *where))[1]["secrets"]["what"]
    shutil.rmtree(data / "secrets")
    (data / "stack.json").write_text("{}")
    found = (await examined(desk, *where))[1]["secrets"]
    assert (found["state"], "backup" in found["remedy"]) == ("failed", True)


async def test_a_first_key_that_others_can_read_is_said(desk: Desk, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    shutil.copytree(desk.stack.secrets.folder, data / "secrets")
    (data / "secrets" / "bootstrap.key").chmod(0o644)
    assert (await examined(desk, "--data-dir", str(data)))[1]["first API key"]["state"] == "failed"


@pytest.mark.parametrize(("free_mib", "state"), [(100, "failed"), (1_000, "warning"), (5_000, "ok")])
def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_mib: int, state: str) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free_mib * 1024 * 1024)
    # a disk cannot be filled here without harm to others
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert doctor_folder._room(tmp_path).state == state


async def test_a_port_that_is_taken_is_named_with_who_has_it(desk: Desk, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8082))
            taken.listen()
            mine = True
        except OSError:  # somebody else's already, which is as good
            mine = False
        found = (await examined(desk, "--data-dir", str(tmp_path)))[1]["port 8082"]
    assert found["state"] == "warning"
    assert "--port-base 0" in found["remedy"]
    assert not mine or f"process {os.getpid()}" in found["what"]


async def test_no_temporal_no_go_no_internet_says_clearly_what_to_do(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOLDFAST_TEMPORAL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    done, found = await examined(desk, "--data-dir", str(tmp_path / "data"))
    assert done.exit_code == 1
    program = found["temporal program"]
    assert program["what"] == "not here; temporal.download cannot be reached, and Go is not installed"
    for words in ("HOLDFAST_TEMPORAL", "internet", "install Go", str(tmp_path / "cache")):
        assert words in program["remedy"]
    assert not (tmp_path / "cache").exists()
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\n")
    go.chmod(0o755)
    assert "builds" in (await examined(desk, "--data-dir", str(tmp_path / "data")))[1]["temporal program"]["remedy"]
    monkeypatch.setenv("HOLDFAST_TEMPORAL", str(go))
    done, found = await examined(desk, "--data-dir", str(tmp_path / "data"))
    assert (done.exit_code, "not a Temporal program" in found["temporal program"]["what"]) == (1, True)


async def test_servers_of_ones_own_are_asked_and_their_passwords_never_shown(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--data-dir", str(tmp_path))
    monkeypatch.setenv("HOLDFAST_POSTGRES", desk.stack.superuser_url)
    monkeypatch.setenv("HOLDFAST_REDIS", desk.stack.urls.redis)
    done, found = await examined(desk, *where)
    assert done.exit_code == 0, done.stdout
    for part in ("postgresql", "database rights", "database roles", "database schema", "redis"):
        assert found[part]["state"] == "ok", found[part]
    for secret in secrets_of(desk):
        assert secret not in done.output
    ports = desk.stack.ports
    monkeypatch.setenv("HOLDFAST_POSTGRES", f"postgresql://holdfast_api:s3cr3t@127.0.0.1:{ports.postgres}/holdfast")
    monkeypatch.setenv("HOLDFAST_REDIS", f"redis://:s3cr3t@127.0.0.1:{ports.valkey}/0")
    done, found = await examined(desk, *where)
    assert (found["postgresql"]["state"], found["redis"]["state"], done.exit_code) == ("failed", "failed", 1)
    assert "HOLDFAST_POSTGRES" in found["postgresql"]["remedy"]
    assert "s3cr3t" not in done.output
    monkeypatch.setenv("HOLDFAST_POSTGRES", "postgresql://u:s3cr3t@127.0.0.1:port/x")
    monkeypatch.setenv("HOLDFAST_REDIS", "s3cr3t")
    done, found = await examined(desk, *where)
    assert (found["postgresql"]["state"], found["redis"]["state"]) == ("failed", "failed")
    assert "s3cr3t" not in done.output
    monkeypatch.setenv("HOLDFAST_POSTGRES", desk.stack.database_url("holdfast_api"))
    done, found = await examined(desk, *where)
    assert found["database rights"]["state"] == "failed"


async def test_a_server_elsewhere_is_asked_as_a_client_sees_it(desk: Desk, tmp_path: Path) -> None:
    key = ("--key-file", str(desk.key_file("owner")))
    done, found = await examined(desk, "--url", desk.stack.urls.api, *key)
    assert done.exit_code == 0, done.stdout
    assert "data folder" not in found
    assert "stands for desk" in found["api key"]["what"]
    wrong = tmp_path / "key"
    write_atomically(wrong, "hf_abcdefgh_" + "x" * 43)
    done, found = await examined(desk, "--url", desk.stack.urls.api, "--key-file", str(wrong))
    assert (done.exit_code, "auth.not_authenticated" in found["api key"]["what"]) == (1, True)
    for url, words in (("http://127.0.0.1:9", "cannot be reached"), (desk.stack.urls.provider, "not as Holdfast does")):
        done, found = await examined(desk, "--url", url, *key)
        assert (done.exit_code, words in found["api"]["what"]) == (1, True), found["api"]
    done, found = await examined(desk, "--url", "nonsense", *key)
    assert (done.exit_code, "is no address" in found["profiles"]["what"]) == (1, True)


async def test_a_clock_that_differs_and_a_part_that_is_away_are_said(desk: Desk) -> None:
    states = {"ready": False, "postgresql": "unavailable", "temporal": "ok", "redis": "ok"}
    answers = {"/healthz": (200, {"status": "ok"}), "/readyz": (503, states)}
    refusal = (401, {"code": "auth.not_authenticated", "detail": "no", "request_id": "r"})
    late = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        status, value = answers.get(path, refusal)
        body = json.dumps(value)
        head = f"HTTP/1.1 {status} X\r\ndate: {late}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        done, found = await examined(desk, "--url", url, "--key-file", str(desk.key_file("owner")))
    assert done.exit_code == 1
    assert (found["clock"]["state"], found["readiness"]["state"]) == ("warning", "failed")
    assert "postgresql" in found["readiness"]["what"]


async def test_broken_profiles_are_said_and_nothing_is_guessed(desk: Desk) -> None:
    profile_file.make_folder()
    write_atomically(profile_file.path(), "[profiles.a]\nurl = 5\n")
    done, found = await examined(desk)
    assert (done.exit_code, "line 1" in found["profiles"]["what"]) == (1, True)
    assert "stack" not in found
