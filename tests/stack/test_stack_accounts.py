"""PostgreSQL refuses root: which account it gets instead, and that an ordinary user needs none of this."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from cli.stack.supervisor import Stack
from cli.stack.temporal_program import TemporalProgram
from tests.stack.become_nobody import closed_ancestors
from tests.stack.places import ROOT, clean_environment

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to find another account")
BECOME_NOBODY = str(Path(__file__).with_name("become_nobody.py"))

# Runs as an ordinary user: everything from initdb to a restart, with the real servers.
ORDINARY = """
import asyncio, os, sys
from pathlib import Path
from cli.stack.supervisor import Stack

async def main(folder):
    async with Stack(folder, ports="free", parts={"postgres", "valkey", "temporal"}, headless=True) as stack:
        await stack.kill("postgres")
        await stack.wait_ready("postgres")

assert os.geteuid() == os.getuid() == int(sys.argv[2])
asyncio.run(main(Path(sys.argv[1]) / "data"))
async def again(folder):
    async with Stack(folder, ports="free", parts={"postgres", "valkey"}):
        print("twice up as", os.geteuid(), oct(folder.stat().st_mode & 0o777))
asyncio.run(again(Path(sys.argv[1]) / "data"))
"""

# Runs as root of a user namespace that may make no other: its root cannot become anybody else.
REFUSED = """
import sys
from pathlib import Path
from cli.stack.account import choose_account
from cli.stack.errors import AccountRefused
from cli.stack.postgres import binaries
Path("/proc/sys/user/max_user_namespaces").write_text("0")
try:
    print(choose_account(binaries() / "postgres", Path(sys.argv[1])))
except AccountRefused as error:
    print(error.message, error.remedy)
"""


@as_root
async def test_root_runs_it_as_another_account_where_that_can_enter(open_folder: Path) -> None:
    async with Stack(open_folder, ports="free", parts={"postgres"}) as stack:
        process = psutil.Process(stack.child("postgres").pid)
        names = {entry.pw_name for entry in pwd.getpwall()}
        assert process.username() == ("postgres" if "postgres" in names else "nobody")
        assert process.gids().real != 0
        assert Path(f"/proc/{process.pid}/status").read_text().split("Groups:\t")[1].splitlines()[0].strip() == ""


@as_root
async def test_root_runs_it_in_a_user_namespace_where_no_other_account_can_enter(closed_folder: Path) -> None:
    own = Path("/proc/self/ns/user").readlink()
    for _ in range(2):
        async with Stack(closed_folder, ports="free", parts={"postgres"}) as stack:
            process = psutil.Process(stack.child("postgres").pid)
            assert Path(f"/proc/{process.pid}/ns/user").readlink() != own
            assert Path(f"/proc/{process.pid}/uid_map").read_text().split() == ["65534", "0", "1"]
            assert (closed_folder / "postgres" / "data").stat().st_uid == 0


@as_root
async def test_a_cluster_moves_from_one_account_to_the_other(open_folder: Path) -> None:
    for mode in (0o755, 0o700, 0o755):
        open_folder.chmod(mode)
        async with Stack(open_folder, ports="free", parts={"postgres"}):
            owner = (open_folder / "postgres" / "data" / "PG_VERSION").stat().st_uid
            assert (owner == 0) is (mode == 0o700)


@as_root
def test_where_no_account_works_it_says_what_to_do(closed_folder: Path) -> None:
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", REFUSED, str(closed_folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip(f"no user namespace here: {done.stderr.strip()}")
    assert "PostgreSQL refuses to run as root, and no other account can run it here" in done.stdout, done.stderr
    assert "choose a --data-dir" in done.stdout


@pytest.fixture
def nobodys_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    yield folder
    shutil.rmtree(folder)


def test_an_ordinary_user_runs_everything(nobodys_folder: Path) -> None:
    root = os.geteuid() == 0
    uid = pwd.getpwnam("nobody").pw_uid if root else os.geteuid()
    if root and closed_ancestors(ROOT / "cli"):
        pytest.skip(f"{ROOT} cannot be entered by an ordinary user")
    env = {**clean_environment(), "HOME": str(nobodys_folder), "PYTHONDONTWRITEBYTECODE": "1"}
    program = Path(env.get("HOLDFAST_TEMPORAL") or TemporalProgram().cached)
    if root and closed_ancestors(program):
        program = Path(shutil.copy(program, nobodys_folder / "temporal"))
        program.chmod(0o755)
    env["HOLDFAST_TEMPORAL"] = str(program)
    command = [sys.executable, "-c", ORDINARY, str(nobodys_folder), str(uid)]
    done = subprocess.run(
        [sys.executable, BECOME_NOBODY, *command] if root else command,
        cwd=nobodys_folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["twice", "up", "as", str(uid), "0o700"]
