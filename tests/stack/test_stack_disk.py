"""A disk that is full, a folder that may not be written, a lock that was left behind: a sentence, an exit code, and no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from cli.stack.data_folder import DataFolder
from cli.stack.errors import DiskFull
from cli.stack.supervisor import Stack
from cli.terminal import ExitCode
from tests.stack.places import ROOT, clean_environment, until
from tests.stack.test_stack_servers import supervisor

DISK_MB = 400
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of a few hundred megabytes, mounted."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=755", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        folder.rmdir()
        pytest.skip(f"only root can mount a small disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def fill(disk: Path) -> Path:
    """Takes all the space that is left, and returns what has it."""
    disk.mkdir(exist_ok=True)
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(1 << 20))
            except OSError:
                return filler


async def insert_until_refused(connection: asyncpg.Connection) -> int:
    """Inserts row after row until the server cannot keep one, and returns how many it has confirmed."""
    kept = 0
    try:
        while True:
            await connection.execute("INSERT INTO kept VALUES ($1, $2)", kept, os.urandom(50_000).hex())
            kept += 1
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return kept


def up(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", "up", "--data-dir", str(folder), "--port-base", "0", "--servers-only"]
    return subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)


@as_root
def test_a_start_without_space_is_refused_in_a_sentence_and_leaves_no_keys(small_disk: Path) -> None:
    filler = fill(small_disk)
    done = up(small_disk / "data")
    assert done.returncode == ExitCode.FAILED
    assert "Traceback" not in done.stderr
    assert "0 MB are free" in done.stderr.replace("\n", " ") or "no space left" in done.stderr, done.stderr
    assert "make space" in done.stderr
    assert not (small_disk / "data" / "secrets").exists()
    filler.unlink()
    assert DataFolder(small_disk / "data").running_pid() is None


@as_root
async def test_a_disk_that_fills_up_while_it_runs_costs_nothing_that_was_committed(small_disk: Path) -> None:
    """The server refuses what it cannot keep, the supervisor goes on supervising, and with space again all goes on."""
    lines: list[str] = []
    async with Stack(small_disk / "data", ports="free", parts={"postgres", "valkey"}, say=lines.append) as stack:
        connection = await asyncpg.connect(stack.superuser_url)
        await connection.execute("CREATE TABLE kept (number int PRIMARY KEY, text text)")
        filler = fill(small_disk)
        kept = await insert_until_refused(connection)
        connection.terminate()
        fill_again = fill(small_disk.joinpath("again"))
        await stack.kill("valkey", signal.SIGKILL)  # its supervision must not end with a state that cannot be written
        await until(lambda: any("cannot write" in line and "No space left" in line for line in lines), what="the word")
        filler.unlink()
        fill_again.unlink()
        await stack.wait_ready("valkey")
        await stack.wait_ready("postgres")
        connection = await asyncpg.connect(stack.superuser_url)
        # where the server broke off over it, the last one may be committed, and nobody has confirmed it
        assert await connection.fetchval("SELECT count(*) FROM kept WHERE number < $1", kept) == kept
        await connection.execute("INSERT INTO kept VALUES ($1, 'space again')", kept + 1)
        await connection.close()
    fill(small_disk)
    with pytest.raises(DiskFull):
        await Stack(small_disk / "data", ports="free", parts={"postgres", "valkey"}).start()


def test_a_folder_that_may_not_be_written_is_refused_in_a_sentence(open_folder: Path) -> None:
    (open_folder / "data").write_text("a file where a folder should be")
    done = up(open_folder / "data")
    assert done.returncode == ExitCode.FAILED
    assert "Traceback" not in done.stderr
    assert "as data folder" in done.stderr
    assert "--data-dir" in done.stderr


def test_a_lock_that_was_left_behind_locks_nobody_out(open_folder: Path) -> None:
    """Its file names a process that is no more, or another one by now; the kernel has given up the lock itself."""
    (open_folder / "lock").write_text(f"{os.getpid()}\n")
    assert DataFolder(open_folder).running_pid() is None
    with supervisor(open_folder) as process:
        assert process.stdout is not None
        assert any("Holdfast is up." in line for line in process.stdout)
