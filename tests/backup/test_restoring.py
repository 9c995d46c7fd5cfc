"""Restoring: what does not fit is refused before anything is made, and what is interrupted leaves nothing half restored."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy.engine import make_url
from typer.testing import CliRunner, Result

from cli.backup import archive, restore_servers
from cli.backup.errors import BackupFailed, BackupInvalid, RestoreRefused
from cli.backup.restore import check, restore
from cli.backup.take import take
from cli.main import app
from cli.stack.data_folder import DataFolder
from cli.stack.supervisor import BASE_PARTS, Part, Stack
from holdfast.database.version import SchemaVersion
from tests.ledger.world import Database
from tests.stack.places import ROOT, clean_environment, lives, until

SERVERS: frozenset[Part] = frozenset({"postgres", "migrations"})
HOLDFAST = [sys.executable, "-m", "cli.main"]


@dataclass(frozen=True, slots=True)
class Standing:
    """A stack that runs, and a backup of it."""

    folder: Path
    stack: Stack
    backup: Path


@pytest.fixture(scope="package")
async def standing() -> AsyncIterator[Standing]:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-backup-"))
    folder.chmod(0o755)
    try:
        async with Stack(folder / "data", ports="free", parts=BASE_PARTS | {"bootstrap"}, headless=True) as stack:
            await take(stack.folder, folder / "backup.tar", say=print)
            yield Standing(folder, stack, folder / "backup.tar")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def place(standing: Standing) -> Path:
    """An empty folder, whose parents other accounts can enter."""
    folder = standing.folder / uuid4().hex
    folder.mkdir(mode=0o755)
    return folder


def nothing_in(place: Path) -> bool:
    return list(place.iterdir()) == []


async def run(*args: str) -> Result:
    """Runs a command, in a thread, for it has an event loop of its own."""
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return await asyncio.to_thread(CliRunner().invoke, app, list(args), env=environment)


async def answer(*args: str) -> Any:
    done = await run(*args)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


async def value(url: str, sql: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


# The commands ------------------------------------------------------------------------------------------------------------


async def test_from_backup_to_a_stack_that_works_by_commands_alone(standing: Standing, place: Path) -> None:
    data = str(standing.stack.folder.path)
    made = await answer("backup", "--to", str(place), "--data-dir", data, "--json")
    path = Path(made["file"])
    assert path.parent == place
    assert path.stat().st_mode & 0o777 == 0o600
    assert made["source"] == "a running stack"
    assert made["secrets"] is True
    assert [path.name for path in place.iterdir()] == [path.name], "no part of it is left beside it"
    shown = await run("backup", "show", str(path))
    assert "postgres/holdfast.dump" in shown.stdout
    verified = await answer("backup", "verify", str(path), "--json")
    assert verified["ok"] is True
    (place / "other.tar").write_text("nonsense")
    listed = await answer("backup", "list", str(place), "--json")
    assert [Path(one["file"]).name for one in listed] == ["other.tar", path.name]
    assert "error" in listed[0]
    new = place / "new"
    restored = await answer("restore", str(path), "--data-dir", str(new), "--json")
    assert restored["data_dir"] == str(new)
    assert restored["runs"] == []
    assert sorted(one.name for one in place.iterdir()) == [path.name, "new", "other.tar"]
    async with Stack(new, ports="free", parts=BASE_PARTS | {"bootstrap"}, headless=True) as stack:
        assert await value(stack.superuser_url, "SELECT count(*) FROM tenants") == 2
        keys = [folder / "secrets" / "bootstrap.key" for folder in (standing.stack.folder.path, new)]
        assert keys[0].read_bytes() == keys[1].read_bytes(), "the first keys still open it, and no new ones were made"


async def test_what_people_read_says_that_the_archive_is_secret_and_where_it_lies(standing: Standing) -> None:
    data = str(standing.stack.folder.path)
    done = await run("backup", "--data-dir", data)
    assert done.exit_code == 0, done.output
    assert "SECRET: the archive holds all keys." in done.stdout
    assert "It lies in the data folder: copy it to another machine." in done.stdout
    listed = await run("backup", "list", "--data-dir", data)
    assert "with keys" in listed.stdout
    empty = await run("backup", "list", "--data-dir", "/nonexistent")
    assert empty.exit_code == 0
    assert "there are no backups in /nonexistent/backups" in empty.stdout


async def test_a_stopped_stack_is_backed_up_as_well_and_one_that_is_none_is_refused(
    standing: Standing, place: Path
) -> None:
    data = DataFolder(place / "stopped")
    await restore(standing.backup, data, say=print)
    manifest = await take(data, place / "again.tar", say=print)
    assert manifest.source == "a stopped stack"
    assert data.running_pid() is None
    done = await run("backup", "--data-dir", str(place / "nothing"))
    assert done.exit_code == 1
    assert "there is no data of a stack in" in done.stderr
    assert not (place / "nothing").exists()


# What is refused ---------------------------------------------------------------------------------------------------------


async def test_a_damaged_or_newer_backup_restores_nothing(
    standing: Standing, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = standing.backup.read_bytes()
    bad = tmp_path / "bad.tar"
    for content in (
        good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :],
        good[:-1024],
        good[: len(good) // 2],
        b"",
    ):
        bad.write_bytes(content)
        with pytest.raises(BackupInvalid):
            await restore(bad, DataFolder(place / "new"), say=print)
        assert nothing_in(place)
    monkeypatch.setattr("cli.backup.restore.newest_known", lambda: "0000")
    with pytest.raises(BackupInvalid, match=r"which is newer than this version's \(0000\)") as caught:
        await check(standing.backup, print)
    assert "or later" in caught.value.remedy


async def test_a_backup_of_servers_apart_and_one_of_a_stack_are_not_taken_for_each_other(
    standing: Standing, place: Path, tmp_path: Path
) -> None:
    apart = tmp_path / "apart.tar"
    of_a_stack = archive.read_manifest(standing.backup)
    archive.write_archive(apart, tmp_path, of_a_stack.model_copy(update={"store": "postgresql", "members": ()}))
    with pytest.raises(RestoreRefused, match="with Temporal on PostgreSQL") as caught:
        await restore(apart, DataFolder(place / "new"), say=print)
    assert "holdfast restore-servers" in caught.value.remedy
    servers = restore_servers.Servers("postgresql://h/a", "postgresql://h/b", "postgresql://h/c")
    with pytest.raises(RestoreRefused, match="was taken of an embedded stack"):
        await restore_servers.load(standing.backup, servers, say=print)
    assert nothing_in(place)


async def test_what_was_not_restored_is_not_finished(standing: Standing) -> None:
    url, key = standing.stack.superuser_url, standing.stack.secrets.codec_key_file
    more: dict[str, Any] = {"temporal_address": "127.0.0.1:1", "namespace": "x", "resume": False, "say": print}
    with pytest.raises(RestoreRefused, match="no restore into this database waits to be finished"):
        await restore_servers.finish(standing.backup, url, codec_key_file=key, **more)
    with pytest.raises(RestoreRefused, match="is not the codec key that this backup was made with"):
        await restore_servers.finish(standing.backup, url, codec_key_file=standing.stack.secrets.vault_key_file, **more)


@pytest.mark.parametrize("command", ["restore-servers", "restore-finish"])
async def test_a_url_that_is_missing_is_named(standing: Standing, command: str) -> None:
    more = ["--codec-key-file", "x"] if command == "restore-finish" else ["--temporal-postgres", "postgresql://h/b"]
    done = await run(command, str(standing.backup), *more)
    assert done.exit_code == 1
    assert "--postgres is missing" in done.stderr
    assert "set HOLDFAST_POSTGRES" in done.stderr


async def test_without_its_keys_a_backup_is_not_restored(standing: Standing, place: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.tar"
    said = await run("backup", "--to", str(bare), "--data-dir", str(standing.stack.folder.path), "--without-secrets")
    assert "WITHOUT KEYS: this backup cannot be restored without" in said.stdout
    keys = [path.read_text().strip() for path in standing.stack.secrets.folder.glob("*.key")]
    assert not [key for key in keys if key.encode() in bare.read_bytes()]
    with pytest.raises(RestoreRefused, match="taken without the secrets"):
        await restore(bare, DataFolder(place / "new"), say=print)
    others = tmp_path / "others"
    shutil.copytree(standing.stack.secrets.folder, others)
    (others / "vault.key").write_text("00" * 32)
    with pytest.raises(
        RestoreRefused, match=r"not those that this backup was made with \(vault.key missing or other\)"
    ):
        await restore(bare, DataFolder(place / "new"), secrets=others, say=print)
    assert nothing_in(place)
    await restore(bare, DataFolder(place / "new"), secrets=standing.stack.secrets.folder, say=print)
    async with Stack(place / "new", ports="free", parts=SERVERS):
        pass


async def test_it_is_never_restored_over_anything(standing: Standing, place: Path) -> None:
    (place / "full").mkdir()
    (place / "full" / "mine").write_text("mine")
    (place / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(RestoreRefused, match="is there already; a restore never writes over anything"):
            await restore(standing.backup, DataFolder(place / name), say=print)
    assert (place / "full" / "mine").read_text() == "mine"
    assert sorted(path.name for path in place.iterdir()) == ["file", "full"]
    with pytest.raises(BackupFailed, match="is there already"):
        await take(standing.stack.folder, standing.backup, say=print)


# Interrupted -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["staging", "postgres/data", "temporal/temporal.db-wal"])
async def test_killed_in_the_middle_it_leaves_no_folder_and_runs_again(
    standing: Standing, place: Path, moment: str
) -> None:
    new, draft = place / "new", place / ".new.restoring"
    while True:  # what is looked for is there for milliseconds only: whoever missed it looks again
        process = await asyncio.create_subprocess_exec(
            *(*HOLDFAST, "restore", str(standing.backup), "--data-dir", str(new)),
            cwd=ROOT,
            env=clean_environment(),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        while process.returncode is None and not (draft / moment).exists():
            await asyncio.sleep(0.001)
        if process.returncode is None:
            break
        assert process.returncode == 0
        shutil.rmtree(new)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await until(lambda: not any(lives(each.pid) for each in family), what="their end")
    assert not new.exists()
    said: list[str] = []
    await restore(standing.backup, DataFolder(new), say=said.append)
    assert said[0] == f"removing {draft}, which an interrupted restore has left"
    assert [path.name for path in place.iterdir()] == ["new"]


async def test_what_a_killed_backup_has_left_is_removed_by_the_next_one(standing: Standing, place: Path) -> None:
    target = place / "backup.tar"
    living, dead = psutil.Process().ppid(), 2**22 + 1  # Linux gives no process a number as high as that
    for pid in (living, dead):
        (place / f".backup.tar.{pid}.draft").mkdir()
    await take(standing.stack.folder, target, say=print)
    assert sorted(path.name for path in place.iterdir()) == [f".backup.tar.{living}.draft", "backup.tar"]


async def test_two_restores_into_one_folder_do_not_meet(standing: Standing, place: Path) -> None:
    done = await asyncio.gather(
        *(restore(standing.backup, DataFolder(place / "new"), say=print) for _ in range(2)), return_exceptions=True
    )
    refused = [one for one in done if isinstance(one, RestoreRefused)]
    assert len(refused) == 1, done
    assert "another restore into" in refused[0].message
    assert [path.name for path in place.iterdir()] == ["new"]


# A PostgreSQL of one's own ------------------------------------------------------------------------------------------------


async def test_a_database_on_a_server_of_ones_own_comes_back_under_another_name(
    database: Database, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [
        make_url(database.superuser_url).set(database=f"{name}_{uuid4().hex}").render_as_string(hide_password=False)
        for name in ("old", "new")
    ]
    try:
        async with Stack(place / "old", ports="free", parts=BASE_PARTS, headless=True, postgres_url=urls[0]) as stack:
            with pytest.raises(BackupFailed, match="has no PostgreSQL of its own") as caught:
                await take(stack.folder, place / "backup.tar", say=print)
            assert "HOLDFAST_POSTGRES" in caught.value.remedy
            await take(stack.folder, place / "backup.tar", superuser_url=urls[0], say=print)
        with pytest.raises(RestoreRefused, match="there is a database old_"):
            await restore(place / "backup.tar", DataFolder(place / "new"), superuser_url=urls[0], say=print)
        await restore(place / "backup.tar", DataFolder(place / "new"), superuser_url=urls[1], say=print)
        comment = await value(urls[1], "SELECT obj_description('alembic_version'::regclass, 'pg_class')")
        assert SchemaVersion.parse(comment) is not None
        async with Stack(place / "new", ports="free", parts=BASE_PARTS, headless=True, postgres_url=urls[1]):
            pass
        # what fails in the middle leaves no database behind
        monkeypatch.setattr("cli.backup.restore.reconcile", None)
        third = make_url(urls[1]).set(database=f"third_{uuid4().hex}")
        with pytest.raises(TypeError):
            await restore(
                place / "backup.tar",
                DataFolder(place / "third"),
                superuser_url=third.render_as_string(hide_password=False),
                say=print,
            )
        assert not await database.value("SELECT count(*) FROM pg_database WHERE datname = $1", third.database)
        assert not (place / "third").exists()
    finally:
        for url in urls:
            await database.execute(f"DROP DATABASE IF EXISTS {make_url(url).database} WITH (FORCE)")


def test_a_manifest_tells_nothing_of_the_keys(standing: Standing) -> None:
    text = archive.read_manifest(standing.backup).model_dump_json()
    for path in standing.stack.secrets.folder.iterdir():
        assert path.read_text().strip() not in text
