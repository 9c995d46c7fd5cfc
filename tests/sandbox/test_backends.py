"""Each backend that is here keeps what the native one keeps: the same layers, attacked; the same files, calls and endings."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from activities.code_host import CodeHost
from bench.escape import SUITE, Attempt, attempts, begins, try_attempt
from holdfast.contracts.tiers import BACKENDS, TierUnavailable, by_tier
from sandbox.backends import KINDS, choose
from sandbox.errors import BackendMissing, LayerMissing, SandboxLost
from sandbox.frames import Request
from sandbox.job import Job, Limits
from sandbox.layers import Layer
from sandbox.runtime import installed
from sandbox.service import Sandbox, Settings
from tests.sandbox.installed import require
from tests.sandbox.leaving import left_by

OTHERS = [name for name in KINDS if name != "native"]
LANGUAGES: tuple[Literal["shell", "node"], ...] = ("shell", "node")
LIMITS = Limits(wall_ms=60_000)
NODE = replace(LIMITS, memory_bytes=200 << 20, wall_ms=150_000, cpu_s=60)


@pytest.fixture(scope="module", params=OTHERS)
async def other(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """A sandbox of every backend but the native one."""
    require(request.param)
    settings = Settings(backend=request.param, allow_old=True, limits=LIMITS, idle_min=1, idle_max=1)
    async with Sandbox(settings) as started:
        yield started


@pytest.mark.parametrize("attempt", attempts(SUITE, quick=True), ids=lambda attempt: attempt.name)
async def test_what_succeeds_outside_fails_inside(other: Sandbox, attempt: Attempt) -> None:
    outcome = await try_attempt(attempt, other)
    assert outcome.proved, "it has to succeed outside, or its failure inside proves nothing"
    assert not outcome.escaped


PROGRAMS = [
    attempt
    for language in LANGUAGES
    for attempt in attempts(SUITE, language=language)
    if attempt.language == language and attempt.path.stem in ("tcp_to_the_host", "read_a_file", "parent", "disk")
]


@pytest.mark.parametrize("attempt", PROGRAMS, ids=lambda attempt: attempt.name)
async def test_a_program_that_succeeds_outside_fails_inside(other: Sandbox, attempt: Attempt) -> None:
    if not installed()[attempt.language]:
        pytest.skip("Node is not installed here")
    outcome = await try_attempt(attempt, other)
    assert outcome.proved, "it has to succeed outside, or its failure inside proves nothing"
    assert not outcome.escaped


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_program_that_violates_nothing_ends_as_it_says(
    other: Sandbox, language: Literal["shell", "node"]
) -> None:
    if not installed()[language]:
        pytest.skip("Node is not installed here")
    assert await begins(other, language)


async def test_a_receipt_names_backend_tier_and_version(other: Sandbox) -> None:
    receipt = (await other.submit(Job("pass"))).receipt
    assert receipt.backend in OTHERS
    assert receipt.tier == KINDS[receipt.backend].tier
    assert receipt.version
    assert set(receipt.layers) | set(receipt.missing) == set(Layer)
    old = choose(receipt.backend, allow_old=True).weaker
    assert (old in receipt.weaker) == bool(old)


async def test_files_come_in_and_out_and_nothing_special_does(other: Sandbox) -> None:
    code = (
        "print(open('a/in.txt').read())\nopen('out.txt', 'w').write('made')\nimport os\nos.mkdir('b')\nopen('b/x', 'w')"
    )
    result = await other.submit(Job(code, files={"a/in.txt": b"laid"}))
    assert (result.stdout, result.exit_status) == (b"laid\n", 0), result.stderr
    assert {file.name: file.content for file in result.files} == {"out.txt": b"made", "b/x": b""}


async def test_code_asks_its_run_and_is_told_no(other: Sandbox) -> None:
    heard: list[Request] = []

    async def act(request: Request) -> object:
        heard.append(request)
        return {"n": request.number}

    code = "from holdfast_guest import tool\nprint(tool('orders', of='c-1'), tool('orders', of='c-2'))"
    result = await other.submit(Job(code), act=act)
    assert result.stdout == b"{'n': 1} {'n': 2}\n", result.stderr
    assert [dict(request.arguments) for request in heard] == [{"of": "c-1"}, {"of": "c-2"}]
    assert (await other.submit(Job(code))).raised is not None


@pytest.fixture(scope="module", params=list(KINDS))
async def every(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """A sandbox of every backend."""
    require(request.param)
    settings = Settings(backend=request.param, allow_old=True, limits=LIMITS, idle_min=1, idle_max=1)
    async with Sandbox(settings) as started:
        yield started


BOMB = "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        held = b'1' * (40 << 20)\n        time.sleep(60)\n{}"
FORKS = "import os, time\nfor _ in range(40):\n    if os.fork() == 0: time.sleep(60)"
WORDS: dict[str, tuple[Literal["python", "shell", "node"], str, Limits, str]] = {
    "memory": (
        "python",
        "held = []\nwhile True: held.append(b'1' * (1 << 20))",
        replace(LIMITS, memory_bytes=64 << 20),
        "more memory than it may",
    ),
    "memory of many": (
        "python",
        BOMB.format("os.wait()\nraise SystemExit(1)"),
        replace(LIMITS, memory_bytes=100 << 20),
        "more memory than it may",
    ),
    "memory of Node's": (
        "node",
        "const held = []; while (true) held.push(Buffer.alloc(8 << 20, 'x'));",
        NODE,
        "more memory than it may",
    ),
    "heap of Node's": (
        "node",
        "const held = []; while (true) held.push(new Array(1000).fill({}));",
        NODE,
        "By its own word it was out of memory",
    ),
    "time": ("python", "import time; time.sleep(60)", replace(LIMITS, wall_ms=500), "took longer than it may"),
    "CPU": ("python", "while True: pass", replace(LIMITS, cpu_s=1, wall_ms=150_000), "more CPU time than it may"),
    "CPU of a shell": (
        "shell",
        "while :; do :; done",
        replace(LIMITS, cpu_s=1, wall_ms=150_000),
        "more CPU time than it may",
    ),
    "processes": ("python", FORKS, replace(LIMITS, pids=8), "more processes and threads than it may"),
    "processes of a shell": (
        "shell",
        "for i in 1 2 3 4 5 6 7 8 9; do sleep 60 & done; wait",
        replace(LIMITS, pids=6),
        "more processes and threads than it may",
    ),
    "folder": (
        "python",
        "for i in range(4): open(f'f{i}', 'wb').write(b'1' * (2 << 20))",
        replace(LIMITS, disk_bytes=3 << 20),
        "more to its folder than it may",
    ),
    "folder of a shell": (
        "shell",
        "head -c 8000000 /dev/zero > a",
        replace(LIMITS, disk_bytes=3 << 20),
        "more to its folder than it may",
    ),
    "output": (
        "python",
        "while True: print('x' * 1000)",
        replace(LIMITS, output_bytes=10_000),
        "printed more than it may",
    ),
    "call": ("python", "import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)", LIMITS, "no job may make: ptrace"),
    "call of a shell": ("shell", "exec chroot .", LIMITS, "no job may make: chroot"),
    "signal": ("python", "import ctypes; ctypes.string_at(0)", LIMITS, "ended by the signal SIGSEGV"),
}
OF_GVISOR = {  # what it tells in other words
    "processes": "BlockingIOError",
    "processes of a shell": "Cannot fork",
    "call": "gVisor does not say",
    "call of a shell": "gVisor does not say",
}


@pytest.mark.parametrize("what", WORDS)
async def test_why_a_job_was_ended_is_said_in_words(every: Sandbox, what: str) -> None:
    language, code, limits, words = WORDS[what]
    if language == "node" and not installed()["node"]:
        pytest.skip("Node is not installed here")
    result = await every.submit(Job(code, language=language, limits=limits))
    assert result.exit_status != 0
    if every.receipt.tier == "kernel" and what in OF_GVISOR:
        assert OF_GVISOR[what] in result.why + result.stderr.decode(), result
    else:
        assert words in result.why, result


async def test_an_exception_has_the_line_of_the_code(other: Sandbox) -> None:
    result = await other.submit(Job("x = 1\ny = 0\nprint(x / y)"))
    assert result.raised is not None
    assert (result.raised.kind, result.raised.line, result.exit_status) == ("ZeroDivisionError", 3, 1)


async def test_a_session_keeps_its_state(other: Sandbox) -> None:
    async with other.session(limits=LIMITS) as session:
        await session.run("a = 20")
        assert (await session.run("a + 1")).stdout == b"21\n"


async def test_a_shell_runs_behind_the_same_layers(other: Sandbox) -> None:
    result = await other.submit(Job("sort in | head -1; cat /etc/shadow", language="shell", files={"in": b"b\na\n"}))
    assert result.stdout == b"a\n"
    assert result.receipt.backend == other.receipt.backend


async def test_nothing_stays_of_a_job_that_forked_and_was_ended(other: Sandbox) -> None:
    async with asyncio.timeout(60):  # what the test before has taken is made anew
        while other.idle < 1:
            await asyncio.sleep(0.02)
    before = len(psutil.Process(other.zygote_pid).children(recursive=True))
    code = "import os, time\nprint(1, flush=True)\nfor _ in range(3): os.fork()\ntime.sleep(600)"
    result = await other.submit(Job(code, limits=Limits(wall_ms=1_500)))
    assert result.killed is not None
    async with asyncio.timeout(60):  # the pool makes another one meanwhile
        while len(psutil.Process(other.zygote_pid).children(recursive=True)) > before:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("backend", KINDS)
async def test_jobs_that_are_cancelled_while_they_are_made_leave_nothing_behind(backend: str) -> None:
    require(backend)
    more = dict.fromkeys(("processes", "descriptors", "mounts", "cgroups"), 0)
    assert await left_by("cancelled", backend) == {"more": more, "errors": []}


@pytest.mark.parametrize("backend", OTHERS)
async def test_a_closed_sandbox_leaves_nothing_on_the_host(backend: str) -> None:
    require(backend)
    more = dict.fromkeys(("processes", "descriptors", "mounts", "cgroups"), 0)
    assert await left_by("closed", backend) == {"more": more, "groups": [], "alive": 0}


# what is run first takes the second number, and the third
CONTAINER = ("unshare", "-m", "-p", "-f", "--mount-proc", "sh", "-c", '/bin/true; /bin/true; exec "$@"', "sh")


@pytest.mark.parametrize("backend", KINDS)
async def test_jobs_run_where_a_container_has_few_processes(backend: str) -> None:
    require(backend)
    assert await left_by("contained", backend, within=CONTAINER) == {"pid": 1, "second": False, "said": "21\n"}


@pytest.mark.parametrize("backend", OTHERS)
async def test_jobs_die_with_what_started_them(backend: str) -> None:
    require(backend)
    sandbox = Sandbox(Settings(backend=backend, allow_old=True, idle_min=1, limits=LIMITS))
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
    finally:
        await sandbox.close()


@pytest.mark.parametrize("layer", [Layer.LANDLOCK, Layer.SECCOMP, Layer.RLIMITS, Layer.SUPERVISOR])
async def test_without_a_layer_bubblewrap_is_not_used(layer: Layer) -> None:
    """Those that bubblewrap itself does not give: the canary finds out, as it does natively."""
    require("bubblewrap")
    settings = Settings(backend="bubblewrap", allow_old=True, idle_min=0)
    sandbox = Sandbox(settings, off=frozenset({layer}))
    with pytest.raises(LayerMissing) as raised:
        await sandbox.start()
    assert raised.value.layer == layer


def _program(folder: Path, name: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / name).write_text(f"#!/bin/sh\necho {says}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("backend", "says", "match", "wanted"),
    [
        ("bubblewrap", "bubblewrap 0.11.9", r"bubblewrap 0\.11\.9 is older than 0\.12.*CVE", "0.12"),
        ("runsc", "runsc version 0.0~20221219.0", r"20221219\.0 is older than 20261005\.0.*repairs", "20261005.0"),
        ("runsc", "runsc version release-20260928.1", r"20260928\.1 is older than 20261005\.0", "20261005.0"),
    ],
)
async def test_an_old_one_is_refused_with_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, says: str, match: str, wanted: str
) -> None:
    _program(tmp_path, KINDS[backend].program, f"'{says}'", monkeypatch)
    with pytest.raises(BackendMissing, match=match) as raised:
        await Sandbox(Settings(backend=backend)).start()
    assert f"Install {backend} {wanted} or newer" in raised.value.remedy
    assert f"HOLDFAST_SANDBOX_ALLOW_OLD={backend}" in raised.value.remedy
    assert "An operator has allowed it." in choose(backend, allow_old=True).weaker


@pytest.mark.parametrize(
    ("backend", "says"), [("bubblewrap", "bubblewrap 0.12.0"), ("runsc", "runsc version release-20261012.0")]
)
def test_a_new_one_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, says: str) -> None:
    program = KINDS[backend].program
    _program(tmp_path, program, f"'{says}'", monkeypatch)
    chosen = choose(backend, allow_old=True)
    assert (chosen.program, chosen.version, chosen.weaker) == (str(tmp_path / program), says, "")


async def test_what_is_not_installed_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for allow_old in (False, True):
        with pytest.raises(BackendMissing, match="bwrap is not installed"):
            await Sandbox(Settings(backend="bubblewrap", allow_old=allow_old)).start()
    with pytest.raises(BackendMissing, match="no backend 'docker'"):
        choose("docker")


async def test_a_host_without_a_tier_refuses_it() -> None:
    host = CodeHost({"process": Settings(idle_min=0)})
    try:
        with pytest.raises(TierUnavailable, match="the tier kernel, and only process is set up") as raised:
            await host.sandbox("kernel")
        assert raised.value.remedy.startswith("Install ")
        assert (await host.sandbox("process")).receipt.tier == "process"
    finally:
        await host.close()


@pytest.mark.parametrize("wrong", [["docker"], ["native", "bubblewrap"], ["native", "native"]])
def test_there_is_one_backend_for_a_tier(wrong: list[str]) -> None:
    with pytest.raises(ValueError, match=r"is none of|names two backends"):
        by_tier(wrong)


def test_the_backends_of_settings_are_those_that_there_are() -> None:
    assert {name: kind.tier for name, kind in KINDS.items()} == BACKENDS
