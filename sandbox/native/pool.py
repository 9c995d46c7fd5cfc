"""Processes that are ready: made ahead of jobs, as many as demand has shown to be of use, each for one job only."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Final

from holdfast.errors import HoldfastError
from sandbox.backends import Backend
from sandbox.errors import raise_first
from sandbox.job import Limits
from sandbox.native.cgroups import Use
from sandbox.native.worker import Worker

_SHRINK_AFTER_S: Final = 10.0


class Pool:
    """Keeps processes ready for jobs with the usual limits, and makes others on the spot."""

    def __init__(self, zygote: Backend, limits: Limits, slots: deque[int], idle_min: int, idle_max: int) -> None:
        self._zygote = zygote
        self._limits = limits
        self._slots = slots
        self._idle: deque[Worker] = deque()
        self._least, self._most = idle_min, idle_max
        self._wanted = idle_min
        self._filling: asyncio.Task[None] | None = None
        self._shrink: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[object]] = set()

    @property
    def idle(self) -> int:
        """How many are ready."""
        return len(self._idle)

    async def take(self, limits: Limits) -> tuple[Worker, bool]:
        """Returns a process for a job with these limits, and whether it was ready."""
        while _fits(limits, self._limits) and self._idle:
            worker = self._idle.popleft()
            if worker.ended.done():  # something of the host's has ended it
                self._end(worker)
                continue
            self._zygote.narrow(worker, limits)
            self._refill()
            return worker, True
        if limits == self._limits and self._most:
            self._wanted = min(self._most, max(1, self._wanted * 2))  # the next burst finds more
            self._later()
        worker = await self._make(limits)
        self._refill()
        return worker, False

    async def _make(self, limits: Limits) -> Worker:
        slot = self._slots.popleft()  # there is one for each job that may run and each process that may be ready
        try:
            return await self._zygote.make(slot, limits)
        except BaseException:
            self._slots.append(slot)
            raise

    async def give_back(self, worker: Worker) -> Use | None:
        """Ends a process, whose job is done, and returns what it used."""
        try:
            return await self._zygote.end(worker)
        finally:
            self._slots.append(worker.slot)

    def _refill(self) -> None:
        if self._filling is None or self._filling.done():
            self._filling = asyncio.create_task(self._fill_quietly())

    async def _fill_quietly(self) -> None:
        with contextlib.suppress(HoldfastError):  # a job that finds none ready makes one, and is told what is wrong
            await self.fill()

    async def fill(self) -> None:
        """Makes processes until as many are ready as are wanted."""
        while len(self._idle) < self._wanted and self._slots:
            self._idle.append(await self._make(self._limits))

    def _end(self, worker: Worker) -> None:
        """Ends a process that gets no job; nobody waits for that."""
        task = asyncio.create_task(self.give_back(worker))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _later(self) -> None:
        if self._shrink is None:
            self._shrink = asyncio.get_running_loop().call_later(_SHRINK_AFTER_S, self._less)

    def _less(self) -> None:
        """Wants fewer after a while; whoever then finds none ready makes that more again."""
        self._shrink = None
        self._wanted = max(self._least, self._wanted // 2)
        while len(self._idle) > max(self._wanted, self._least):
            self._end(self._idle.pop())
        if self._wanted > self._least:
            self._later()

    async def close(self) -> None:
        """Ends those that are ready."""
        if self._shrink is not None:
            self._shrink.cancel()
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.gather(self._filling, return_exceptions=True)
        await asyncio.gather(*self._ending, return_exceptions=True)
        idle = list(self._idle)
        self._idle.clear()
        raise_first(await asyncio.gather(*map(self.give_back, idle), return_exceptions=True))


def _fits(limits: Limits, made_for: Limits) -> bool:
    """Says whether a process that was made for some limits can keep others: what this side counts may differ, the rest only shrinks."""
    if limits.disk_bytes != made_for.disk_bytes or limits.disk_files != made_for.disk_files:
        return False
    same = ("memory_bytes", "cpu_percent")
    return all(getattr(limits, name) == getattr(made_for, name) for name in same) and all(
        getattr(limits, name) <= getattr(made_for, name) for name in ("cpu_s", "pids", "open_files")
    )
