"""`holdfast secrets init`: everything once, each process its own, and never new secrets over old data."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from cli.deployment.secret_files import FILES, FOREIGN, MASTER, Places, make
from cli.main import app
from cli.stack.errors import DataFolderInvalid
from holdfast.database.roles import LOGIN_ROLES
from holdfast.settings import read_key_file, read_secret_file
from tests.stack.places import ROOT, until


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_each_process_has_its_files_and_nobody_else_can_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    done = CliRunner().invoke(app, ["secrets", "init", "--dir", str(folder)])
    assert done.exit_code == 0, done.output
    assert {path.name for path in folder.iterdir()} == {*FILES, MASTER}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for process, files in FILES.items():
        assert {path.name for path in (folder / process).iterdir()} == set(files)
        for path in (folder / process).iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == (0o444 if process in FOREIGN else 0o600)
            assert path.read_text().strip()
        assert stat.S_IMODE((folder / process).stat().st_mode) == (0o755 if process in FOREIGN else 0o700)


def test_the_files_fit_together(tmp_path: Path) -> None:
    make(tmp_path, Places(postgres="db.internal:5433", redis="cache.internal:6380", superuser="db.internal:5433"))
    private = Ed25519PrivateKey.from_private_bytes(read_key_file(tmp_path / "governor/permit_key"))
    public = private.public_key().public_bytes_raw()
    assert read_key_file(tmp_path / "broker/permit_public_key") == public
    assert read_key_file(tmp_path / "executor/permit_public_key") == public
    assert len({read_key_file(tmp_path / f"{who}/codec_key") for who in ("api", "governor", "executor")}) == 1
    assert read_key_file(tmp_path / "broker/vault_key") == read_key_file(tmp_path / "bootstrap/vault_key")
    passwords = json.loads(read_secret_file(tmp_path / "roles/role_passwords.json"))
    assert set(passwords) == {*LOGIN_ROLES, "temporal"}
    assert len(set(passwords.values())) == len(passwords)
    url = read_secret_file(tmp_path / "executor/executor_database_url")
    assert url == f"postgresql://holdfast_executor:{passwords['holdfast_executor']}@db.internal:5433/holdfast"
    password = (tmp_path / "postgres/superuser_password").read_text().strip()
    assert (
        read_secret_file(tmp_path / "roles/superuser_url")
        == f"postgresql://postgres:{password}@db.internal:5433/holdfast"
    )
    redis = (tmp_path / "redis/valkey.conf").read_text().split()
    assert read_secret_file(tmp_path / "api/redis_url") == f"redis://:{redis[1]}@cache.internal:6380/0"


def test_no_process_s_files_hold_a_secret_of_another(tmp_path: Path) -> None:
    make(tmp_path, Places())
    keys = {name: (tmp_path / name).read_text().strip() for name in ("governor/permit_key", "broker/vault_key")}
    passwords = json.loads((tmp_path / "roles/role_passwords.json").read_text())
    for process in ("api", "governor", "broker", "executor", "migrations", "auditor", "postgres", "redis", "temporal"):
        text = "".join(contents(tmp_path / process).values())
        assert (keys["governor/permit_key"] in text) is (process == "governor")
        assert (keys["broker/vault_key"] in text) is (process == "broker")
        found = {role for role, password in passwords.items() if password in text}
        own = {
            "governor": {"holdfast_governor", "holdfast_sweeper"},
            "migrations": {"holdfast_owner"},
            "temporal": {"temporal"},
            "postgres": set(),
            "redis": set(),
        }
        assert found == own.get(process, {f"holdfast_{process}"})


def test_again_nothing_changes_and_what_was_lost_comes_back(tmp_path: Path) -> None:
    assert len(make(tmp_path, Places())) == sum(map(len, FILES.values()))
    before = contents(tmp_path)
    assert make(tmp_path, Places()) == []
    shutil.rmtree(tmp_path / "api")
    (tmp_path / "broker/vault_key").chmod(0o644)
    changed = make(tmp_path, Places())
    assert {path.parent.name for path in changed} == {"api", "broker"}
    assert contents(tmp_path) == before
    moved = make(tmp_path, Places(postgres="elsewhere:5432"))
    assert {path.name for path in moved} == {path.name for path in moved if path.name.endswith("_database_url")}
    assert "@elsewhere:5432/" in (tmp_path / "api/api_database_url").read_text()


def test_a_lost_master_is_not_replaced(tmp_path: Path) -> None:
    make(tmp_path, Places())
    shutil.rmtree(tmp_path / MASTER)
    before = contents(tmp_path)
    with pytest.raises(DataFolderInvalid, match="is missing, but api, governor"):
        make(tmp_path, Places())
    assert contents(tmp_path) == before
    done = CliRunner().invoke(app, ["secrets", "init", "--dir", str(tmp_path)])
    assert done.exit_code == 1
    assert "restore it from a backup" in done.stderr


def waits_for_a_lock(pid: int) -> bool:
    """Whether the kernel knows this process as one that waits for a file's lock."""
    waiting = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines() if "->" in line]
    return any(str(pid) in words for words in waiting)


async def test_a_second_one_waits_for_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    (folder / MASTER).mkdir(parents=True, mode=0o700)
    command = [sys.executable, "-m", "cli.main", "secrets", "init", "--dir", str(folder)]
    with (folder / MASTER / "lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = subprocess.Popen(command, env={"PATH": os.environ["PATH"]}, cwd=ROOT)
        await until(lambda: waits_for_a_lock(second.pid), what="a process that waits for the lock")
        assert [path.name for path in folder.rglob("*")] == [MASTER, "lock"]
    assert await asyncio.to_thread(second.wait, 60) == 0
    assert make(folder, Places()) == []
