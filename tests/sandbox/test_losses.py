"""What becomes of jobs where what they run by is lost: a zygote, or the descriptors of the sandbox's own process."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from activities.code_host import CodeHost
from sandbox.backends import KINDS
from sandbox.errors import LayerMissing, SandboxLost
from sandbox.job import Job, Limits, Result
from sandbox.native import host
from sandbox.native.worker import Worker
from sandbox.service import Sandbox, Settings
from tests.sandbox.installed import require

_TAKEN: Final = 14
"""More descriptors than a zygote needs to make a process."""
SLEEPS: Mapping[Literal["python", "shell"], str] = {
    "python": "import time; print(1, flush=True); time.sleep(3)",
    "shell": "echo 1; sleep 600",
}


async def test_a_runtime_that_is_lost_ends_no_job_of_another() -> None:
    code = CodeHost({"process": Settings(idle_min=0)})

    async def begin(sandbox: Sandbox, language: Literal["python", "shell"]) -> asyncio.Task[Result]:
        said = asyncio.Event()
        job = Job(SLEEPS[language], language=language, limits=Limits(wall_ms=600_000))
        task = asyncio.create_task(sandbox.submit(job, on_output=lambda *_: said.set()))
        await asyncio.wait_for(said.wait(), 60)
        return task

    try:
        sandbox = await code.sandbox()
        shell = await begin(sandbox, "shell")
        plain = await begin(sandbox, "python")
        os.kill(sandbox._lanes["shell"].zygote.pid, signal.SIGKILL)
        with pytest.raises(SandboxLost):
            await shell
        await code.forget(sandbox)  # as whoever ran the job does
        assert (await plain).exit_status == 0
        assert await code.sandbox() is sandbox
        assert (await sandbox.submit(Job("echo 2", language="shell"))).stdout == b"2\n"
        os.kill(sandbox.zygote_pid, signal.SIGKILL)
        with pytest.raises(SandboxLost):
            await sandbox.submit(Job("pass"))
        await code.forget(sandbox)
        another = await code.sandbox()
        assert another is not sandbox
        os.kill(another.zygote_pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            while not another.lost:
                await asyncio.sleep(0.01)
        # what is known to be lost is given to no job
        assert (await (await code.sandbox()).submit(Job("print(3)"))).stdout == b"3\n"
    finally:
        await code.close()


async def test_what_is_lost_while_a_process_is_made_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    admit = host.ZygoteProcess._admit

    def dying(zygote: host.ZygoteProcess, worker: Worker) -> None:
        os.kill(zygote.pid, signal.SIGKILL)
        while not zygote.lost:
            time.sleep(0.01)
        admit(zygote, worker)

    async with Sandbox(Settings(idle_min=0)) as sandbox:
        monkeypatch.setattr(host.ZygoteProcess, "_admit", dying)
        with pytest.raises(SandboxLost):
            await sandbox.submit(Job("pass"))


async def test_what_was_lost_just_before_a_process_is_made_is_told_as_that() -> None:
    async with Sandbox(Settings(idle_min=0)) as sandbox:
        zygote = psutil.Process(sandbox.zygote_pid)
        zygote.kill()
        while zygote.status() != psutil.STATUS_ZOMBIE:  # nobody else has a turn here, so nobody has heard of it
            time.sleep(0.01)
        with pytest.raises(SandboxLost):
            await sandbox.submit(Job("pass"))


async def test_jobs_that_wait_for_a_zygote_to_take_their_orders_end_with_the_sandbox() -> None:
    sandbox = Sandbox(Settings(idle_min=0, running_max=900))
    await sandbox.start()
    os.kill(sandbox.zygote_pid, signal.SIGSTOP)
    jobs = [asyncio.create_task(sandbox.submit(Job("pass"))) for _ in range(900)]
    await asyncio.sleep(0.1)
    await sandbox.close()
    async with asyncio.timeout(60):
        ends = await asyncio.gather(*jobs, return_exceptions=True)
    assert {type(end) for end in ends} == {SandboxLost}


@pytest.mark.parametrize("backend", KINDS)
async def test_without_descriptors_for_a_process_there_is_none_and_the_next_one_runs(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(backend)
    receive, lost = socket.recv_fds, list[int]()

    def scarce(link: socket.socket, size: int, most: int) -> tuple[bytes, list[int], int, object]:
        body, fds, flags, address = receive(link, size, most)
        if body.startswith(b'{"made"') and not lost:
            lost.extend(fds[3:])
            fds, flags = fds[:3], flags | socket.MSG_CTRUNC  # what the kernel does where there is room for three
            for fd in lost:
                os.close(fd)
        return body, fds, flags, address

    async with Sandbox(Settings(backend=backend, allow_old=True, idle_min=0, idle_max=0)) as sandbox:
        with monkeypatch.context() as little:
            little.setattr(socket, "recv_fds", scarce)
            async with asyncio.timeout(60):
                with pytest.raises(SandboxLost, match="no descriptors left"):
                    await sandbox.submit(Job("pass"))
        assert len(lost) == 3
        assert not psutil.Process(sandbox.zygote_pid).children(recursive=True)
        assert (await sandbox.submit(Job("print(1)"))).stdout == b"1\n"


async def test_a_zygote_without_descriptors_makes_none_and_keeps_nothing_of_it() -> None:
    async with Sandbox(Settings(idle_min=0, idle_max=0)) as sandbox:
        await sandbox.submit(Job("pass"))
        about = Path(f"/proc/{sandbox.zygote_pid}")

        def held() -> tuple[int, int]:
            return len(list((about / "fd").iterdir())), len((about / "mountinfo").read_text().splitlines())

        before, words = held(), list[str]()
        usual = resource.prlimit(sandbox.zygote_pid, resource.RLIMIT_NOFILE)
        for most in range(before[0] + _TAKEN):
            resource.prlimit(sandbox.zygote_pid, resource.RLIMIT_NOFILE, (most, usual[1]))
            try:
                async with asyncio.timeout(60):
                    await sandbox.submit(Job("pass"))
            except (
                SandboxLost,
                LayerMissing,
            ) as error:  # the latter where it is the process that lacks one, which has its limit
                words.append(error.message)
        resource.prlimit(sandbox.zygote_pid, resource.RLIMIT_NOFILE, usual)
        assert sum("no descriptors left" in each for each in words) > 5, words
        assert (await sandbox.submit(Job("print(1)"))).stdout == b"1\n"
        assert held() == before


async def test_a_process_that_has_ended_while_it_was_ready_gets_no_job() -> None:
    async with Sandbox(Settings(idle_min=1, idle_max=1)) as sandbox:
        assert sandbox._first is not None
        worker = sandbox._first.pool._idle[0]
        os.kill(worker.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            while not worker.ended.done():
                await asyncio.sleep(0.01)
        assert (await sandbox.submit(Job("print(1)"))).stdout == b"1\n"
        assert worker.pidfd == -1, "it was taken apart"


async def test_a_job_that_is_taken_apart_after_its_sandbox_was_closed_is_told_of_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clean, sandbox, said = host._clean, Sandbox(Settings(idle_min=0, idle_max=0)), asyncio.Event()
    await sandbox.start()
    running = asyncio.create_task(
        sandbox.submit(Job(SLEEPS["shell"], language="shell"), on_output=lambda *_: said.set())
    )
    await asyncio.wait_for(said.wait(), 60)

    def late(worker: Worker) -> object:
        while sandbox._lock >= 0:  # which is freed last
            time.sleep(0.01)
        return clean(worker)

    monkeypatch.setattr(host, "_clean", late)
    await sandbox.close()
    with pytest.raises(SandboxLost, match="was closed"):
        await running
