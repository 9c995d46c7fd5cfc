"""What is particular to gVisor: another kernel between a job and the host, and what that kernel cannot do."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from activities.code_host import CodeHost
from sandbox.errors import LayerMissing
from sandbox.frames import Request
from sandbox.job import Because, Job, Limits
from sandbox.layers import Layer
from sandbox.native.watch import Watched
from sandbox.native.worker import Ended
from sandbox.outcome import _why
from sandbox.runsc.host import _is_within
from sandbox.runsc.launcher import UIDS_APART
from sandbox.runtime import installed
from sandbox.service import Sandbox, Settings
from tests.sandbox.installed import require

LIMITS = Limits(wall_ms=60_000)
SETTINGS = Settings(backend="runsc", allow_old=True, limits=LIMITS, idle_min=0, idle_max=0)
FORKS = (
    "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        {}\n        time.sleep(60)\ntime.sleep(60)"
)


@pytest.fixture(scope="module")
async def gvisor() -> AsyncIterator[Sandbox]:
    """A sandbox in which each job has a kernel of gVisor's."""
    require("runsc")
    async with Sandbox(SETTINGS) as started:
        yield started


async def test_a_job_has_another_kernel_than_the_host(gvisor: Sandbox) -> None:
    result = await gvisor.submit(Job("import os\nprint(os.uname().release, os.uname().version)"))
    assert result.stdout.strip()
    assert result.stdout.decode().strip() != f"{os.uname().release} {os.uname().version}"
    assert result.receipt.tier == "kernel"
    assert {"seccomp", "capabilities", "net"} <= set(result.receipt.by_own_kernel)


async def test_what_gvisor_has_not_stands_in_the_receipt(gvisor: Sandbox) -> None:
    assert gvisor.receipt.missing == ("landlock",)
    assert any("gVisor has no Landlock" in words for words in gvisor.receipt.weaker)
    assert not set(gvisor.receipt.by_own_kernel) & set(gvisor.receipt.missing)
    async with Sandbox(Settings(idle_min=0)) as native:
        assert native.receipt.by_own_kernel == ()


async def test_what_gvisor_has_of_its_own_is_hidden(gvisor: Sandbox) -> None:
    code = """
import os
for name in ('/proc', '/sys', '/dev/pts', '/dev/shm', '/dev/net'):
    print(name, os.listdir(name))
for name in sorted(os.listdir('/dev')):
    try:
        os.close(os.open(f'/dev/{name}', os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        continue
    print(name)
for name in ('/', '/etc'):
    try:
        print(os.listdir(name))
    except PermissionError:
        print('no')
"""
    said = (await gvisor.submit(Job(code))).stdout.decode().splitlines()
    assert said[:5] == ["/proc []", "/sys []", "/dev/pts []", "/dev/shm []", "/dev/net []"]
    assert said[-2:] == ["no", "no"]
    assert set(said[5:-2]) - {"net", "pts", "shm"} == {"null", "urandom", "zero"}


async def test_a_fifo_is_not_collected(gvisor: Sandbox) -> None:
    result = await gvisor.submit(Job("import os\nos.mkfifo('f')\nopen('plain', 'w').write('x')"))
    if result.raised is None:  # gVisor lets a job make one, or not
        assert "f" in result.refused
    assert "f" not in {file.name for file in result.files}


@pytest.mark.parametrize(
    ("code", "limits", "because"),
    [
        (FORKS.format("held = b'x' * 200 * 2**20"), LIMITS, Because.MEMORY),
        ("while True: pass", replace(LIMITS, cpu_s=1, wall_ms=150_000), Because.CPU),
        ("open('big', 'wb').write(b'x' * 20 * 2**20)", replace(LIMITS, disk_bytes=2**21), Because.DISK),
    ],
)
async def test_what_ends_a_job_is_said_in_words(gvisor: Sandbox, code: str, limits: Limits, because: Because) -> None:
    result = await gvisor.submit(Job(code, limits=limits))
    assert result.killed is not None, result
    assert result.killed.because == because
    assert because.value in result.killed.sentence.lower() or because == Because.DISK


@pytest.mark.parametrize(
    ("own_kernel", "wall_ms", "because"),
    [(True, 1_200, Because.CPU), (True, 800, Because.SIGNAL), (False, 1_200, Because.SIGNAL)],
)
def test_on_a_busy_host_gvisor_has_counted_more_than_the_host(
    own_kernel: bool, wall_ms: float, because: Because
) -> None:
    watched = Watched(b"", b"", None, Ended(signal.SIGKILL, 0.3, 0), wall_ms)
    killed, _ = _why(Limits(cpu_s=1), watched, None, -signal.SIGKILL, full=False, own_kernel=own_kernel)
    assert killed is not None
    assert killed.because == because


async def test_a_job_starts_no_more_processes_than_it_may(gvisor: Sandbox) -> None:
    result = await gvisor.submit(Job(FORKS.format("pass"), limits=replace(LIMITS, pids=3)))
    assert result.raised is not None, result
    assert result.raised.kind == "BlockingIOError"


async def test_of_a_forbidden_call_gvisor_does_not_say_which(gvisor: Sandbox) -> None:
    result = await gvisor.submit(Job("import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)"))
    assert result.killed is not None
    assert "gVisor does not say" in result.killed.sentence


async def test_an_ended_job_leaves_status_and_exception(gvisor: Sandbox) -> None:
    for status in (0, 7, 200):
        assert (await gvisor.submit(Job(f"raise SystemExit({status})"))).exit_status == status
    result = await gvisor.submit(Job("import os; os.abort()"))
    assert result.killed is not None
    assert result.killed.detail == "SIGABRT"


async def test_nothing_of_a_job_is_root_on_the_host(gvisor: Sandbox) -> None:
    said = asyncio.Event()
    job = Job("import time\nprint(1, flush=True)\ntime.sleep(600)", limits=Limits(wall_ms=600_000))
    running = asyncio.create_task(gvisor.submit(job, on_output=lambda *_: said.set()))
    await asyncio.wait_for(said.wait(), 60)
    family = psutil.Process(gvisor.zygote_pid).children(recursive=True)
    uids = {uid for process in family for uid in process.uids()}
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    own = min(uids)
    assert own > 100_000
    assert {uid % UIDS_APART for uid in uids} == {own % UIDS_APART}, "each is the job's own"


async def test_only_what_is_within_a_jobs_namespace_is_taken_for_it() -> None:
    outside = os.getpid()
    command = ["unshare", "--pid", "--fork", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as inner:
        assert inner.stdout is not None
        inner.stdout.readline()
        [sleeping] = psutil.Process(inner.pid).children()
        try:
            assert _is_within(sleeping.pid, outside)
            assert _is_within(sleeping.pid, sleeping.pid)
            assert not _is_within(outside, sleeping.pid)
            assert not _is_within(2**22 + 1, outside)
        finally:
            sleeping.kill()


@pytest.mark.parametrize(
    "layer",
    [
        *(Layer.RLIMITS, Layer.SECCOMP, Layer.DISK, Layer.READ_ONLY, Layer.CGROUP, Layer.OUTPUT, Layer.WALL_CLOCK),
        *(Layer.SUPERVISOR, Layer.OWN_UID),
    ],
)
async def test_without_a_layer_it_does_not_start(layer: Layer) -> None:
    require("runsc")
    with pytest.raises(LayerMissing) as raised:
        await Sandbox(SETTINGS, off=frozenset({layer})).start()
    assert raised.value.layer == layer


NODE = """
require('holdfast_guest').tool('orders', {of: 'c-1'}).then((answer) => {
    console.log(JSON.stringify(answer));
    console.log(process.getuid());
    require('fs').writeFileSync('out', 'made');
});
"""


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("shell", "holdfast-guest tool orders of=c-1; id -u; cat /proc/version; echo made > out"),
        ("node", NODE),
    ],
)
async def test_programs_run_in_it_and_ask_their_run(
    gvisor: Sandbox, language: Literal["shell", "node"], code: str
) -> None:
    if not installed()[language]:
        pytest.skip("Node is not installed here")

    async def act(request: Request) -> object:
        return {"of": request.arguments["of"]}

    limits = replace(LIMITS, memory_bytes=512 * 2**20)
    result = await gvisor.submit(Job(code, language=language, limits=limits), act=act)
    said = result.stdout.decode().replace(" ", "").splitlines()
    assert said == ['{"of":"c-1"}', "1000"], result.stderr
    assert [file.name for file in result.files] == ["out"]


ASKS_WITH_FLAG = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for flags in (0, 0x800):  # AT_NO_AUTOMOUNT
    print(libc.statx(-100, b'in', flags, 0x7FF, ctypes.create_string_buffer(256)))
"""


async def test_stat_fails_only_where_gvisor_refuses_a_flag_and_what_the_documentation_names_instead_works(
    gvisor: Sandbox,
) -> None:
    files = {"in": b"four"}
    plain, flagged = (await gvisor.submit(Job(ASKS_WITH_FLAG, files=files))).stdout.split()
    assert plain == b"0"
    script = "stat -c %s in || echo refused; ls; echo *; find . -type f -printf '%s %p\\n'; wc -c in; test -f in && find in -ls"
    result = await gvisor.submit(Job(script, language="shell", files=files))
    said = result.stdout.decode().splitlines()
    assert said[0] == ("4" if flagged == b"0" else "refused"), result.stderr
    assert said[1:5] == ["in", "in", "4 ./in", "4 in"]
    assert said[5].split()[-1] == "in"


async def test_a_host_that_is_set_up_for_it_has_the_tier_kernel() -> None:
    require("runsc")
    host = CodeHost({"kernel": SETTINGS})
    try:
        sandbox = await host.sandbox("kernel")
        assert sandbox.receipt.tier == "kernel"
        assert (await sandbox.submit(Job("print(6 * 7)"))).stdout == b"42\n"
    finally:
        await host.close()


KEEPER = """
import asyncio
from sandbox.job import Job, Limits
from sandbox.service import Sandbox, Settings

async def main():
    async with Sandbox(Settings(backend="runsc", allow_old=True, idle_min=0, idle_max=0)) as sandbox:
        job = Job("import os, time\\nos.fork()\\nprint('here', flush=True)\\ntime.sleep(600)", limits=Limits(wall_ms=600_000))
        await sandbox.submit(job, on_output=lambda *_: print(sandbox.zygote_pid, flush=True))

asyncio.run(main())
"""


async def test_when_the_worker_is_killed_gvisor_dies_with_it() -> None:
    require("runsc")
    keeper = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KEEPER, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert keeper.stdout is not None
    launcher = psutil.Process(int(await asyncio.wait_for(keeper.stdout.readline(), 60)))
    family = [launcher, *launcher.children(recursive=True)]
    assert len(family) > 3, "runsc, gVisor's kernel, its file server, and what it runs the job in"
    os.kill(keeper.pid, signal.SIGKILL)
    await keeper.communicate()  # to the end of what it said, so that nothing stays open here
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, 60)
    for process in alive:
        process.kill()
    assert not alive
