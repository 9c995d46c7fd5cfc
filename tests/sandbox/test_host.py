"""What the sandbox leaves on its host: nothing, however it ends; and what it does where it is not root."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from bench.leaks import Burden
from sandbox.errors import SandboxLost
from sandbox.job import Job, Limits
from sandbox.native.cgroups import bases, open_cgroups
from sandbox.service import Sandbox, Settings
from tests.sandbox.installed import require
from tests.sandbox.leaving import OWN, ROOT, left_by
from tests.sandbox.ordinary import as_ordinary_account

NOTHING = dict.fromkeys(("processes", "descriptors", "mounts", "cgroups"), 0)


@pytest.mark.timeout(600)
async def test_jobs_leave_nothing_behind() -> None:
    assert await left_by("jobs") == {"more": NOTHING, "groups": []}


@pytest.mark.timeout(600)
async def test_jobs_of_every_kind_leave_nothing_behind_that_the_bench_counts() -> None:
    found = await left_by("every_kind")
    assert found["wrong"] == []
    assert set(found["kinds"]) == {"processes", "descriptors", "mounts", "cgroups", "files", "threads"}


async def test_what_is_left_behind_is_a_wrong_result() -> None:
    assert Burden({"mounts": 2, "files": 0}, 10_000, 1, 1).wrong(100) == [
        "2 mounts were left after 100 jobs",
        "10000 KiB of memory were left after 100 jobs",
    ]


async def test_a_runtime_that_is_being_opened_does_not_outlive_the_sandbox() -> None:
    assert await left_by("closing") == {"more": NOTHING, "groups": [], "errors": [], "words": ["SandboxLost"]}


async def test_a_sandbox_is_closed_to_its_end_also_where_who_closes_it_is_cancelled() -> None:
    assert await left_by("given_up") == {"more": NOTHING, "groups": [], "lock": -1}


async def test_all_of_a_sandbox_is_closed_also_where_a_part_of_it_fails() -> None:
    assert await left_by("failing") == {"more": NOTHING, "groups": [], "lock": -1, "said": errno.EMFILE}


async def test_a_sandbox_that_is_started_while_it_is_closed_is_another() -> None:
    sandbox = Sandbox(Settings(idle_min=1, idle_max=1))
    await sandbox.start()
    closing = asyncio.create_task(sandbox.close())
    for _ in range(3):
        await asyncio.sleep(0)
    lost = sandbox.lost
    await sandbox.start()
    try:
        await closing
        assert (lost, sandbox.lost) == (True, False)
        assert (await sandbox.submit(Job("print(1)"))).stdout == b"1\n"
        assert sandbox._lock >= 0
    finally:
        await sandbox.close()


def test_a_cgroup_is_not_made_by_halves_nor_after_all_were_removed() -> None:
    cgroups = open_cgroups()

    def mine() -> set[Path]:
        return {path for base in bases().values() for path in base.glob(f"{OWN}/job-*")}

    try:
        before = mine()
        with pytest.raises(OSError, match="Invalid argument"):
            cgroups.make(replace(Limits(), pids=-5))
        assert mine() == before
    finally:
        cgroups.close()
    with pytest.raises(FileNotFoundError):
        cgroups.make(Limits())
    assert mine() == before


def _cpu_groups() -> list[Path]:
    paths = [base for name, base in bases().items() if name in ("cpu", "unified")]
    return [group for base in paths for group in base.glob(f"{OWN}/job-*")]


def _standing(group: Path) -> str:
    """Says how far a job has stepped back, by what the kernel says."""
    idle, shares, weight = (group / name for name in ("cpu.idle", "cpu.shares", "cpu.weight"))
    if idle.exists() and idle.read_text().strip() == "1":
        return "idle"
    stands = shares.read_text().strip() if shares.exists() else weight.read_text().strip()
    return "idle" if stands in ("32", "3") and not idle.exists() else stands


COMPUTES = """
import time
print(1, flush=True)
while time.process_time() < began + {seconds}: pass
time.sleep(600)
"""


@pytest.mark.parametrize(("seconds", "stands"), [(0.06, ("128", "12")), (0.2, ("idle",)), (60, ("idle",))])
async def test_a_job_that_has_computed_for_long_steps_back_behind_its_neighbours(
    seconds: float, stands: tuple[str, ...]
) -> None:
    async def until(wanted: tuple[str, ...]) -> None:
        while not any(_standing(group) in wanted for group in _cpu_groups()):
            await asyncio.sleep(0.02)

    async with Sandbox(Settings(idle_min=0, idle_max=0)) as own:
        code = "import time\nbegan = time.process_time()\n" + COMPUTES.format(seconds=seconds)
        job = Job(code, limits=Limits(wall_ms=600_000, cpu_s=600))
        said = asyncio.Event()
        task = asyncio.create_task(own.submit(job, on_output=lambda *_: said.set()))
        await asyncio.wait_for(said.wait(), 60)
        async with asyncio.timeout(60):
            await until(stands)
        if seconds < 0.1:
            await asyncio.sleep(0.5)
            assert any(_standing(group) in stands for group in _cpu_groups()), "it sleeps, and steps back no further"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_session_that_has_stepped_back_computes_on_in_its_next_cell() -> None:
    assert await left_by("session") == {"statuses": [0, 0], "errors": []}


async def test_a_job_after_many_is_as_the_first() -> None:
    async with Sandbox(Settings(idle_min=1)) as sandbox:
        code = "import os, sys; print(os.listdir('/job/work'), os.listdir('/job/tmp'), sorted(sys.modules) == 0, os.getpid())"
        first = await sandbox.submit(Job(code))
        await sandbox.submit(
            Job("import json; json.loads = None; open('/job/tmp/x', 'w'); import builtins; builtins.print = None")
        )
        assert (await sandbox.submit(Job(code))).stdout == first.stdout
        assert (await sandbox.submit(Job("import json; print(json.loads('1'))"))).stdout == b"1\n"


KEEPER = """
import asyncio, sys
from sandbox.job import Job, Limits
from sandbox.service import Sandbox, Settings

async def main():
    async with Sandbox(Settings(idle_min=2)) as sandbox:
        job = Job("print('here', flush=True)\\nimport os, time\\nos.fork()\\ntime.sleep(600)", limits=Limits(wall_ms=600_000))
        await sandbox.submit(job, on_output=lambda *_: print(sandbox.zygote_pid, flush=True))

asyncio.run(main())
"""


async def test_when_the_worker_is_killed_its_jobs_die_with_it() -> None:
    keeper = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KEEPER, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert keeper.stdout is not None
    zygote = int(await asyncio.wait_for(keeper.stdout.readline(), 60))
    family: list[psutil.Process] = []
    async with asyncio.timeout(60):
        while len(family) < 4:  # the zygote, one that is ready, the job, and what it forks after its first word
            await asyncio.sleep(0.01)
            family = [psutil.Process(zygote), *psutil.Process(zygote).children(recursive=True)]
    os.kill(keeper.pid, signal.SIGKILL)
    await keeper.wait()
    gone, alive = await asyncio.to_thread(psutil.wait_procs, family, 60)
    assert not alive
    assert len(gone) == len(family)
    # what the dead one could not remove, the next one does
    async with Sandbox(Settings(idle_min=0)):
        assert not any(list(base.glob(f"holdfast-{keeper.pid}-*")) for base in bases().values())


async def test_when_the_zygote_is_killed_jobs_die_and_submitting_says_so() -> None:
    sandbox = Sandbox(Settings(idle_min=1))
    await sandbox.start()
    try:
        said = asyncio.Event()
        job = Job("import time; print(1, flush=True); time.sleep(600)", limits=Limits(wall_ms=600_000))
        running = asyncio.create_task(sandbox.submit(job, on_output=lambda *_: said.set()))
        await asyncio.wait_for(said.wait(), 60)
        family = psutil.Process(sandbox.zygote_pid).children(recursive=True)
        os.kill(sandbox.zygote_pid, signal.SIGKILL)
        with pytest.raises(SandboxLost):
            await asyncio.wait_for(running, 60)
        assert not (await asyncio.to_thread(psutil.wait_procs, family, 60))[1]
        with pytest.raises(SandboxLost):
            await sandbox.submit(Job("pass"))
    finally:
        await sandbox.close()


ORDINARY = """
import asyncio, json, sys
from sandbox.errors import LayerMissing
from sandbox.job import Job
from sandbox.service import Sandbox, Settings

async def answer(request):
    return dict(request.arguments)

async def main():
    said, backend = {}, {"backend": sys.argv[1], "allow_old": True}
    try:
        await Sandbox(Settings(idle_min=0, **backend)).start()
    except LayerMissing as error:
        said["refused"] = [error.layer, error.remedy]
    async with Sandbox(Settings(profile="unprivileged", idle_min=1, **backend)) as sandbox:
        result = await sandbox.submit(Job("import os; open('a', 'w').write('b'); print(os.getuid(), os.getpid(), 1/0)"))
        said["job"] = [result.exit_status, result.raised.kind, [file.name for file in result.files]]
        said["receipt"] = [result.receipt.profile, result.receipt.missing, result.receipt.weaker]
        forbidden = await sandbox.submit(Job("import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)"))
        said["killed"] = forbidden.killed.sentence
        laid = await sandbox.submit(Job("print(open('in').read())", files={"in": b"laid"}))
        said["laid"] = laid.stdout.decode()
        shell = await sandbox.submit(Job("sort in | head -1; cat /etc/shadow || id -u", language="shell", files={"in": b"b\\na\\n"}))
        said["shell"] = [shell.stdout.decode(), shell.receipt.runtime, shell.receipt.backend]
        asking = Job("holdfast-guest tool a n:=1 || exit 9", language="shell")
        asked = await sandbox.submit(asking, act=answer)
        said["asked"] = [asked.exit_status, asked.stdout.decode(), asked.cut_off]
    said["off"] = {}
    for layer in sys.argv[2:]:
        try:
            await Sandbox(Settings(profile="unprivileged", idle_min=0, **backend), off=frozenset({layer})).start()
        except LayerMissing as error:
            said["off"][layer] = str(error.layer)
    print(json.dumps(said))

asyncio.run(main())
"""
UNPRIVILEGED_LAYERS = (
    "net",
    "pid",
    "ipc",
    "uts",
    "root",
    "read_only",
    "disk",
    "rlimits",
    "landlock",
    "capabilities",
    "seccomp",
)


# bubblewrap makes namespaces and a root whether or not it is asked to
BUBBLEWRAP_LAYERS = ("disk", "rlimits", "landlock", "seccomp")


@pytest.mark.parametrize(
    ("backend", "layers"),
    [("native", UNPRIVILEGED_LAYERS), ("bubblewrap", BUBBLEWRAP_LAYERS)],
    ids=["native", "bubblewrap"],
)
def test_an_ordinary_account_gets_a_refusal_or_the_profile_that_it_allowed(
    backend: str, layers: tuple[str, ...]
) -> None:
    require(backend)
    done = as_ordinary_account(ORDINARY, backend, *layers)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["refused"][0] == "own_uid"
    assert "unprivileged" in said["refused"][1]
    assert said["job"] == [1, "ZeroDivisionError", ["a"]]
    assert said["receipt"][:2] == ["unprivileged", ["own_uid", "cgroup"]]
    assert "account of the sandbox itself" in said["receipt"][2][0]
    assert said["killed"] == "It made a system call that no job may make: ptrace."
    assert said["laid"] == "laid\n"
    assert said["shell"] == ["a\n1000\n", "shell", backend]
    assert said["asked"] == [0, '{"n": 1}\n', ""]
    assert said["off"] == {layer: layer for layer in layers}
