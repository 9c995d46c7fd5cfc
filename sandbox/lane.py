"""One runtime at work: the zygote that its jobs fork from, the processes that are ready, and the attacks on its layers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

from sandbox.backends import Backend
from sandbox.frames import Request
from sandbox.job import Because, Job, Limits, Result
from sandbox.layers import Layer
from sandbox.native import canary, kernel
from sandbox.native.pool import Pool
from sandbox.runtime import Runtime
from sandbox.supervisor import Act

Submit = Callable[[Job, Act | None], Awaitable[Result]]
"""Runs a job of the canary's in this lane."""
Lack = Callable[[Layer, int, str], None]
"""Called with a layer that is missing, the kernel's error number and what was achieved; raises if it may not be."""
_ATTACK_S: Final = 60.0
_WALL_MS: Final = 80_000
"""Longer than an attack may take: one that was slow did not get through, and is not to be told as a layer that is missing."""


class Lane:
    """Where the jobs of one runtime run.

    Args:
        runtime: What their code runs in.
        zygote: Its zygote, not started.
        slots: The uids that are free, shared with all other lanes.
        limits: What processes are kept ready for.
        idle_min: How many are ready at least.
        idle_max: How many are at most.
    """

    def __init__(
        self, runtime: Runtime, zygote: Backend, slots: deque[int], limits: Limits, idle_min: int, idle_max: int
    ) -> None:
        self.runtime = runtime
        self.zygote = zygote
        self.pool = Pool(zygote, limits, slots, idle_min, idle_max)
        self.running = 0
        self.kept = ExitStack()

    async def start(self, submit: Submit, lack: Lack, skipped: frozenset[Layer], *, limited: bool, slot: int) -> None:
        """Starts the zygote, has the canary attack every layer, and makes processes ready.

        Args:
            submit: Runs a job here.
            lack: Told which layers are missing.
            skipped: Layers that are known to be missing, and may be.
            limited: Whether jobs have cgroups.
            slot: The canary's uid.

        Raises:
            TimeoutError: If the zygote, or an attack, took too long.
        """
        await self.zygote.start()
        await self._attack(lack, skipped, limited=limited, slot=slot)
        await self._attack_from_outside(submit, lack, skipped)
        await self.pool.fill()

    async def _attack(self, lack: Lack, skipped: frozenset[Layer], *, limited: bool, slot: int) -> None:
        """Has a process attack every layer from inside, at the moment when only that layer stands in its way."""
        names = frozenset(layer.value for layer in skipped)
        # not this process: in a container it may be the first, and that number is the canary's own where it looks
        pid = self.zygote.pid
        with canary.laid_out(
            pid=pid, limited=limited, without_attack=names, environment=self.runtime.environment
        ) as facts:
            worker = await self.zygote.make(slot, canary.LIMITS, facts, canary.seed)
            achieved = worker.achieved
            await asyncio.shield(self.zygote.end(worker))
        for layer in Layer:
            if layer in achieved:
                lack(layer, 0, achieved[layer])

    async def _attack_from_outside(self, submit: Submit, lack: Lack, skipped: frozenset[Layer]) -> None:
        """Has jobs try what this side of the sandbox stops: a forbidden call, a flood, and staying.

        They are Python in every lane: a process that is to become a shell stands behind the same layers before.
        """
        keyctl = canary.FORBIDDEN.format(number=kernel.NUMBERS["keyctl"])
        for layer, code, limits, because in (
            (Layer.SECCOMP, keyctl, Limits(wall_ms=_WALL_MS), Because.FORBIDDEN_CALL),
            (Layer.OUTPUT, canary.FLOOD, Limits(wall_ms=_WALL_MS, output_bytes=4_096, cpu_s=2), Because.OUTPUT),
            (Layer.WALL_CLOCK, canary.SLEEP, Limits(wall_ms=50), Because.TIME),
        ):
            if layer in skipped:
                continue
            async with asyncio.timeout(_ATTACK_S):
                result = await submit(Job(code, limits=limits), None)
            if result.killed is None or result.killed.because != because:
                lack(layer, 0, f"a job that should have been stopped ended with {result.exit_status}")
        if Layer.SUPERVISOR not in skipped:
            await self._attack_supervisor(submit, lack)
        if self.zygote.DIES_WHOLE and Layer.CGROUP not in skipped:
            await self._attack_cgroup(submit, lack)

    async def _attack_cgroup(self, submit: Submit, lack: Lack) -> None:
        """Has jobs use more than they may, where no process of the canary's could try that and tell of it."""
        limits = replace(canary.LIMITS, wall_ms=20_000, memory_bytes=48 * 2**20, pids=8)
        async with asyncio.timeout(_ATTACK_S):
            bomb = await submit(Job(canary.BOMB.format(memory_bytes=limits.memory_bytes), limits=limits), None)
        if bomb.killed is None or bomb.killed.because != Because.MEMORY:
            lack(Layer.CGROUP, 0, f"a job that used more memory than it may ended with {bomb.exit_status}")
        async with asyncio.timeout(_ATTACK_S):
            forks = await submit(Job(canary.FORKS.format(pids=limits.pids), limits=limits), None)
        if forks.raised is None or forks.raised.kind != "BlockingIOError":
            lack(Layer.CGROUP, 0, f"a job that started more processes than it may ended with {forks.exit_status}")

    async def _attack_supervisor(self, submit: Submit, lack: Lack) -> None:
        """Has a job ask in the name of another run."""
        asked = []

        async def act(request: Request) -> None:
            asked.append(request)

        async with asyncio.timeout(_ATTACK_S):
            result = await submit(Job(canary.FORGED, limits=Limits(wall_ms=_WALL_MS)), act)
        if asked or not result.cut_off:
            lack(Layer.SUPERVISOR, 0, "a request in the name of another run was taken")

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Says that a job runs here, for as long as the context lasts."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    async def close(self) -> None:
        """Ends every job of it."""
        try:
            await self.pool.close()
        finally:
            try:
                await self.zygote.close()
            finally:
                self.kept.close()
