"""Whatever a job does to its folder, its result is told: what could not be taken of it stands in it with why."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from sandbox.backends import KINDS
from sandbox.job import Job, Limits
from sandbox.native.files import Collector
from sandbox.service import Sandbox, Settings
from tests.sandbox.installed import require
from tests.sandbox.ordinary import as_ordinary_account

LIMITS = Limits(wall_ms=120_000)
MADE = "import os\nos.mkdir('a')\nopen('a/b', 'w').write('1')\nopen('c', 'w').write('1')\n"
CLOSED = {  # by what a job without a uid of its own can do: what is left of its files, and what is said of the others
    "os.chmod('.', 0)": ([], {".": "Permission denied"}),
    "os.chmod('.', 0o300)": ([], {".": "Permission denied"}),
    "os.chmod('/job', 0)": ([], {".": "Permission denied"}),
    "os.chmod('.', 0o400)": ([], {"a": "Permission denied", "c": "Permission denied"}),
    "os.chmod('a', 0)": (["c"], {"a": "Permission denied"}),
    "os.chmod('a', 0o400)": (["c"], {"a/b": "Permission denied"}),
    "os.chmod('c', 0)": (["a/b"], {"c": "Permission denied"}),
    "os.chmod('/job/tmp', 0)": (["a/b", "c"], {}),
}
ORDINARY = """
import asyncio, json, sys
from sandbox.job import Job, Limits
from sandbox.service import Sandbox, Settings

async def main():
    limits, made, *rest = Limits(wall_ms=120_000), *sys.argv[2:]
    settings = Settings(profile="unprivileged", idle_min=0, backend=sys.argv[1], allow_old=True)
    said = []
    async with Sandbox(settings) as sandbox:
        for code in rest:
            result = await sandbox.submit(Job(made + code, limits=limits))
            said.append([result.exit_status, [file.name for file in result.files], dict(result.refused)])
        async with sandbox.session(limits=limits) as session:
            for code in (made + "os.chmod('.', 0)", "os.chmod('/job/work', 0o700)"):
                result = await session.run(code)
                said.append([result.exit_status, [file.name for file in result.files], dict(result.refused)])
    print(json.dumps(said))

asyncio.run(main())
"""


@pytest.mark.parametrize("backend", ["native", "bubblewrap"])
def test_what_a_job_of_an_ordinary_account_closes_is_told(backend: str) -> None:
    require(backend)
    done = as_ordinary_account(ORDINARY, backend, MADE, *CLOSED)
    assert done.returncode == 0, done.stderr
    cells = [[0, [], {".": "Permission denied"}], [0, ["a/b", "c"], {}]]
    assert json.loads(done.stdout) == [[0, *found] for found in CLOSED.values()] + cells


SPECIAL = r"""
import os, socket
made = [
    lambda: os.mkfifo("fifo"), lambda: os.symlink("special", "special"), lambda: os.link("/etc/passwd", "special"),
    lambda: socket.socket(socket.AF_UNIX).bind("special"), lambda: os.mknod("special"),
    lambda: os.rename("/job/work", "/job/other"), lambda: os.rmdir("/job/work"), lambda: os.rename("/job/work", "/job/tmp/x"),
]
for make in made:
    try:
        make()
        print("made")
    except OSError:
        pass
for name in (b"\xff", b"\xff" * 255, b"a\n", b"\xed\xa0\x80", "\u202e".encode()):
    open(name, "w").close()
    os.mkdir(name[:200] + b"d")
    open(name[:200] + b"d/x", "w").close()
with open("sparse", "wb") as file:
    file.truncate(60 << 20)
for n, at in enumerate((-(2**62), 2**62)):
    open(f"t{n}", "w").close()
    os.utime(f"t{n}", (at, at))
for _ in range(100):
    os.mkdir("d")
    os.chdir("d")
for n in range(3_900):
    open(f"{n}", "w").close()
"""


@pytest.mark.parametrize("backend", KINDS)
async def test_whatever_a_job_leaves_in_its_folder_it_has_a_result(backend: str) -> None:
    require(backend)
    async with Sandbox(Settings(idle_min=0, idle_max=0, backend=backend, allow_old=True)) as own:
        result = await own.submit(Job(SPECIAL, limits=Limits(wall_ms=120_000, cpu_s=60)))
    assert (result.exit_status, result.stdout) == (0, b""), result.stderr
    assert [file.name for file in result.files] == ["t0", "t1"]
    assert set(result.refused.values()) == {"its name", "too deep", "output files are too large"}


def test_a_file_that_became_a_folder_while_it_was_looked_at_costs_no_descriptor(tmp_path: Path) -> None:
    """Of a session others may still be at work in the folder."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    at = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        before = psutil.Process().num_fds()
        collector = Collector(LIMITS, {}, None)
        collector._take(at, "folder", "folder", (tmp_path / "file").stat())
        assert psutil.Process().num_fds() == before
    finally:
        os.close(at)
    assert collector.refused == {"folder": "no plain file"}
