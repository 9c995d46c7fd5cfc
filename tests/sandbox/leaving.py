"""Runs jobs in a process of its own, and says what they left: what else a process of tests has open comes and goes meanwhile.

`python -m tests.sandbox.leaving WHAT [BACKEND]` prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import psutil  # type: ignore[import-untyped]  # ships no types

from bench.leaks import burden
from sandbox.job import Job, Limits
from sandbox.layers import Layer
from sandbox.native import kernel
from sandbox.native.cgroups import Group, Use, bases
from sandbox.service import Sandbox, Settings

ROOT = Path(__file__).resolve().parents[2]
_MOMENTS = 60
_CLOSINGS = 10
_CHILD_SUBREAPER = 36  # linux/prctl.h
OWN = f"holdfast-{os.getpid()}-*"

Found = Mapping[str, Any]  # JSON


async def left_by(what: str, *words: str, within: Sequence[str] = ()) -> Found:
    """Has it done in a process that does nothing else, started by a command if one is given; returns what it said."""
    process = await asyncio.create_subprocess_exec(
        *(*within, sys.executable, "-m", "tests.sandbox.leaving", what, *words),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    found: Found = json.loads(said)
    return found


def _on_host() -> Mapping[str, int]:
    """Counts what jobs could leave behind."""
    us = psutil.Process()
    return {
        "processes": len(us.children(recursive=True)),
        "descriptors": us.num_fds(),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "cgroups": sum(len(list(base.glob(f"{OWN}/job-*"))) for base in bases().values()),
    }


def _more(before: Mapping[str, int]) -> Mapping[str, int]:
    after = _on_host()
    return {name: after[name] - before[name] for name in before}


def _reap() -> None:
    """Takes the statuses of what ended after its parent, which came to this process; what still runs is left."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _groups() -> list[str]:
    return [str(path) for base in bases().values() for path in base.glob(OWN)]


async def _settled(sandbox: Sandbox, idle: int) -> None:
    async with asyncio.timeout(60):
        while sandbox.idle < idle:
            await asyncio.sleep(0.01)


def _heard() -> list[str]:
    """Returns a list that gets what the event loop is told of and nobody else is."""
    errors: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(str(context)))
    return errors


async def jobs() -> Found:
    """Many jobs, one after another and at once, each with a process that outlives it."""
    async with Sandbox(Settings(idle_min=1, idle_max=1)) as sandbox:
        code = "import os\nopen('a', 'w').write('1')\nif os.fork() == 0:\n    import time; time.sleep(60)\n"
        await sandbox.submit(Job(code))
        await _settled(sandbox, 1)
        before = _on_host()
        for _ in range(60):
            await sandbox.submit(Job(code))
        await asyncio.gather(*(sandbox.submit(Job(code, limits=Limits(wall_ms=9_000))) for _ in range(10)))
        await _settled(sandbox, 1)
        more = _more(before)
    return {"more": more, "groups": _groups()}


async def cancelled() -> Found:
    """Jobs of a backend that are cancelled while they are made, each at another moment of that."""
    errors = _heard()
    async with Sandbox(Settings(backend=sys.argv[2], allow_old=True, idle_min=0, idle_max=0)) as sandbox:
        began = time.monotonic()
        await sandbox.submit(Job("pass"))
        step_s = (time.monotonic() - began) / _MOMENTS
        before = _on_host()
        for number in range(_MOMENTS):
            task = asyncio.create_task(sandbox.submit(Job("import time; time.sleep(60)")))
            await asyncio.sleep(number * step_s)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        await sandbox.submit(Job("pass"))
        return {"more": _more(before), "errors": errors}


async def session() -> Found:
    """A session that computes for so long that it steps back, twice."""
    errors = _heard()
    code = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    async with Sandbox(Settings(idle_min=0)) as own, own.session() as session:
        statuses = [(await session.run(code)).exit_status for _ in range(2)]
    return {"statuses": statuses, "errors": errors}


async def closed() -> Found:
    """A sandbox that was closed, of a backend; the first of a process opens what stays open."""
    settings = Settings(backend=sys.argv[2], allow_old=True, idle_min=1)
    async with Sandbox(settings):
        pass
    before = _on_host()
    async with Sandbox(settings) as sandbox:
        for _ in range(5):
            await sandbox.submit(Job("print(1)"))
        family = psutil.Process(sandbox.zygote_pid).children(recursive=True)
    alive = (await asyncio.to_thread(psutil.wait_procs, family, 60))[1]
    return {"more": _more(before), "groups": _groups(), "alive": len(alive)}


async def closing() -> Found:
    """Sandboxes that are closed while a runtime is being opened for a job, each at another moment of that."""
    errors, words = _heard(), set[str]()
    async with Sandbox(Settings(idle_min=0)) as first:
        began = time.monotonic()
        await first.submit(Job("true", language="shell"))
        step_s = (time.monotonic() - began) / _CLOSINGS
    before = _on_host()
    for number in range(_CLOSINGS):
        sandbox = Sandbox(Settings(idle_min=0))
        await sandbox.start()
        jobs = [asyncio.create_task(sandbox.submit(Job("true", language="shell"))) for _ in range(2)]
        while not sandbox._opening.locked():
            await asyncio.sleep(0)
        await asyncio.sleep(number * step_s)
        await sandbox.close()
        await asyncio.wait(jobs)
        words |= {type(job.exception()).__name__ for job in jobs}
        assert not sandbox._lanes
    _reap()
    return {"more": _more(before), "groups": _groups(), "errors": errors, "words": sorted(words - {"NoneType"})}


async def _two() -> Sandbox:
    """A sandbox with two runtimes, each with a process that is ready."""
    sandbox = Sandbox(Settings(idle_min=1, idle_max=1))
    await sandbox.start()
    await sandbox.submit(Job("true", language="shell"))
    async with asyncio.timeout(60):
        while not all(lane.pool.idle for lane in sandbox._lanes.values()):
            await asyncio.sleep(0.01)
    return sandbox


async def given_up() -> Found:
    """A sandbox whose closing nobody waits for any more."""
    before = _on_host()
    sandbox = await _two()
    task = asyncio.create_task(sandbox.close())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await sandbox.close()
    _reap()
    return {"more": _more(before), "groups": _groups(), "lock": sandbox._lock}


class _Unreadable:
    """A cgroup that tells nothing, as where a process has no descriptor left."""

    def __init__(self, group: Group) -> None:
        self.remove = group.remove

    def use(self) -> Use:
        raise OSError(errno.EMFILE, "Too many open files")


async def failing() -> Found:
    """A sandbox that fails in closing the process that is ready first."""
    before = _on_host()
    sandbox = await _two()
    worker = next(iter(sandbox._lanes.values())).pool._idle[0]
    assert worker.group is not None
    worker.group = cast("Group", _Unreadable(worker.group))
    try:
        await sandbox.close()
    except OSError as error:
        said = error.errno
    _reap()
    return {"more": _more(before), "groups": _groups(), "lock": sandbox._lock, "said": said}


async def contained() -> Found:
    """A job of a backend, and where it ran: as in a container this process is the first, and there is no second."""
    # no cgroups: the others of this host are those of processes that are not to be seen here, and would be taken for left
    settings = Settings(backend=sys.argv[2], allow_old=True, idle_min=0, allow_missing=frozenset({Layer.CGROUP}))
    async with Sandbox(settings, off=frozenset({Layer.CGROUP})) as sandbox:
        result = await sandbox.submit(Job("print(20 + 1)"))
    return {"pid": os.getpid(), "second": Path("/proc/2").exists(), "said": result.stdout.decode()}


async def every_kind() -> Found:
    """What the bench counts."""
    found = await burden(60, 80)  # so many at once that not all orders fit into the zygote's socket
    return {"wrong": found.wrong(140), "kinds": sorted(found.left)}


_DONE: Mapping[str, Callable[[], Awaitable[Found]]] = {
    each.__name__: each
    for each in (jobs, cancelled, session, closed, closing, given_up, failing, contained, every_kind)
}


if __name__ == "__main__":

    async def main() -> None:
        kernel.prctl(_CHILD_SUBREAPER, 1)  # what is left without its parent is counted, too
        print(json.dumps(await _DONE[sys.argv[1]]()))

    asyncio.run(main())
