"""What jobs that misbehave cost those beside them: the same work alone and beside each, in turns, so that both see the same machine."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Mapping
from typing import Final

from sandbox.job import Job, Limits
from sandbox.service import Sandbox, Settings

_WORK: Final = Job("total = 0\nfor n in range(300_000): total += n * n\nopen('out', 'w').write(str(total))")
_LONG: Final = 600_000
_SAYS: Final = "print('begun', flush=True)\n"
NOISE: Final[Mapping[str, Job]] = {
    "fork_bomb": Job(
        f"{_SAYS}import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        limits=Limits(wall_ms=_LONG, cpu_s=600, pids=32),
    ),
    "memory_bomb": Job(
        f"{_SAYS}import os\nwhile True:\n    if os.fork() == 0:\n        held = []\n"
        "        while True: held.append(bytearray(1 << 20))\n    os.wait()",
        limits=Limits(wall_ms=_LONG, cpu_s=600, memory_bytes=64 << 20),
    ),
    "disk_filler": Job(
        f"{_SAYS}while True:\n    try:\n        open('fill', 'wb').write(bytes(1 << 26))\n    except OSError:\n        pass",
        limits=Limits(wall_ms=_LONG, cpu_s=600, disk_bytes=32 << 20),
    ),
    "log_flooder": Job("while True: print('x' * 1000)", limits=Limits(wall_ms=_LONG, cpu_s=600, output_bytes=64 << 20)),
}


async def _beside(sandbox: Sandbox, job: Job, began: asyncio.Event) -> None:
    """Keeps one such job there, whatever ends it; says when its code runs."""
    while True:
        await sandbox.submit(job, on_output=lambda *_: began.set())


async def _work_ms(sandbox: Sandbox, count: int) -> list[float]:
    times = []
    for _ in range(count):
        began = time.monotonic()
        result = await sandbox.submit(_WORK)
        times.append((time.monotonic() - began) * 1000)
        assert result.exit_status == 0, result
    return times


async def slowdown(rounds: int, count: int) -> dict[str, float]:
    """Returns by how much ordinary jobs take longer beside each kind of noise, from submitting one to its result.

    Args:
        rounds: How often alone and beside take turns.
        count: How many jobs in each turn.
    """
    found = {}
    async with Sandbox(Settings(idle_min=2)) as sandbox:
        await _work_ms(sandbox, 2)
        for name, job in NOISE.items():
            alone, beside = list[float](), list[float]()
            for _ in range(rounds):
                alone += await _work_ms(sandbox, count)
                began = asyncio.Event()
                noise = asyncio.create_task(_beside(sandbox, job, began))
                await began.wait()
                beside += await _work_ms(sandbox, count)
                noise.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await noise
            found[name] = statistics.median(beside) / statistics.median(alone)
    return found
