"""Watching a job from outside: what it prints, what it is forbidden, how long it takes."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import select
import struct
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sandbox.job import Because, Limits
from sandbox.layers import Layer
from sandbox.native import runner, seccomp
from sandbox.native.cgroups import IDLE
from sandbox.native.worker import Ended, Worker

OnOutput = Callable[[str, bytes], None]
"""Called with `stdout` or `stderr` and what was printed."""
_READ: Final = 65_536
_SIZE: Final = struct.Struct("i")
_LOOK_S: Final = 0.02
_LOOK_IDLE_S: Final = 0.1
_BUSY_NS: Final = 5_000_000
_STEPS: Final = ((40_000_000, 8), (100_000_000, IDLE))
"""How much a job computes before it steps back, and to which part of its weight: a short job is done before the first."""
AT_ONCE: Final = 4 * _READ
"""What a job may print at the speed at which this side reads."""
PAUSE_S: Final = 0.01
"""How long this side then waits after each part: who floods sleeps before a full pipe, and its neighbours have this side's time."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen of a job while it ran."""

    stdout: bytes
    stderr: bytes
    killed: tuple[Because, str] | None
    ended: Ended
    wall_ms: float


class Watch:
    """Reads what a job prints, counts it, hears of forbidden calls, and keeps the time."""

    def __init__(
        self,
        worker: Worker,
        limits: Limits,
        on_output: OnOutput | None,
        without: frozenset[Layer],
        has_ended: Callable[[], bool] | None = None,
    ) -> None:
        """Watches nothing yet.

        Args:
            worker: The job's process.
            limits: What the job may use.
            on_output: Called with what it prints.
            without: Layers that are missing.
            has_ended: Says whether what is watched has ended, where it is less than the whole process.
        """
        self._worker = worker
        self._has_ended = has_ended or worker.has_ended
        self._limits = limits
        self._on_output = on_output
        self._without = without
        self._parts: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._left = limits.output_bytes
        self._cut = False
        self._killed: tuple[Because, str] | None = None
        self._began = 0.0
        self._took_ms = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None
        self._steps = list(_STEPS)
        self._used_before = self._used_last = 0
        self._pauses: dict[int, asyncio.TimerHandle] = {}

    @property
    def killed(self) -> bool:
        """Whether it was ended from here."""
        return self._killed is not None

    def begin(self) -> None:
        """Starts watching."""
        loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        loop.add_reader(self._worker.stdout, self._read, "stdout", self._worker.stdout)
        loop.add_reader(self._worker.stderr, self._read, "stderr", self._worker.stderr)
        if self._worker.listener >= 0:
            loop.add_reader(self._worker.listener, self._forbidden)
        if Layer.WALL_CLOCK not in self._without:
            self._timer = loop.call_later(self._limits.wall_ms / 1000, self._run_out)
        if self._worker.group is not None:
            # what it took to make the process is not the job's: gVisor's kernel alone takes more than most jobs
            self._used_before = self._used_last = self._worker.group.cpu_ns()
            self._look = loop.call_later(_LOOK_S, self._look_again)

    def _look_again(self) -> None:
        """Has a job that has computed for long step back behind those that have not: a bomb shall not slow its neighbours."""
        group = self._worker.group
        self._look = None
        if group is None:
            return
        used = group.cpu_ns()
        parts = 0
        while self._steps and used - self._used_before > self._steps[0][0]:
            parts = self._steps.pop(0)[1]
        if parts:
            group.step_back(parts)
        if self._steps:
            # who sleeps is looked at less often: many jobs wait for answers
            busy = used - self._used_last > _BUSY_NS
            self._used_last = used
            self._look = asyncio.get_running_loop().call_later(_LOOK_S if busy else _LOOK_IDLE_S, self._look_again)

    def _run_out(self) -> None:
        """Ends it for its time, if it still runs: where the loop was busy until now, its end may be known to nobody yet."""
        if not self._has_ended():
            self._kill(Because.TIME, "")

    def _kill(self, because: Because, detail: str) -> None:
        if self._killed is None:
            self._killed = (because, detail)
        self._worker.kill()

    def _forbidden(self) -> None:
        told = _told(self._worker.listener)
        if not told & select.POLLIN:
            # to ask all the same would wait, before Linux 6.11 for ever
            if told & select.POLLHUP:  # all are gone that the filter was for
                asyncio.get_running_loop().remove_reader(self._worker.listener)
            return
        try:
            name = seccomp.forbidden_call(self._worker.listener)
        except OSError:
            name = None
        if name is None:
            return  # who made it is gone already; the next one may not be
        self._kill(Because.FORBIDDEN_CALL, name)
        asyncio.get_running_loop().remove_reader(self._worker.listener)

    def _read(self, stream: str, fd: int) -> None:
        try:
            part = os.read(fd, _READ)
        except BlockingIOError:
            return
        if not part:
            asyncio.get_running_loop().remove_reader(fd)
            return
        self._take(stream, part)
        if self._limits.output_bytes - self._left > AT_ONCE:
            loop = asyncio.get_running_loop()
            loop.remove_reader(fd)
            self._pauses[fd] = loop.call_later(PAUSE_S, loop.add_reader, fd, self._read, stream, fd)

    def _take(self, stream: str, part: bytes) -> None:
        if Layer.OUTPUT not in self._without and len(part) > self._left:
            part = part[: self._left]
            self._cut = True
            self._kill(Because.OUTPUT, "")
        self._left -= len(part)
        if part:
            self._parts[stream] += part
            if self._on_output is not None:
                self._on_output(stream, part)

    def finish(self) -> None:
        """Stops watching; takes what is still in the pipes. If that is more than may be printed, the result says so."""
        loop = asyncio.get_running_loop()
        self._took_ms = (time.monotonic() - self._began) * 1000
        if self._timer is not None:
            self._timer.cancel()
        for pause in self._pauses.values():
            pause.cancel()
        if self._look is not None:
            self._look.cancel()
        if self._worker.listener >= 0:
            loop.remove_reader(self._worker.listener)
        pipes = (("stdout", self._worker.stdout), ("stderr", self._worker.stderr))
        for _, fd in pipes:
            loop.remove_reader(fd)
        for stream, fd in pipes:
            self._take_rest(stream, fd)

    def _take_rest(self, stream: str, fd: int) -> None:
        """Takes what lies in a pipe now, and no more: of a cell somebody may write on. What is beyond the limit is nobody's."""
        lies = _lies_in(fd)
        while lies and not self._cut and (part := os.read(fd, min(lies, _READ))):
            lies -= len(part)
            self._take(stream, part)

    def watched(self, ended: Ended) -> Watched:
        """Returns what was seen."""
        return Watched(bytes(self._parts["stdout"]), bytes(self._parts["stderr"]), self._killed, ended, self._took_ms)


def _lies_in(pipe: int) -> int:
    """Returns how many bytes can be read of a pipe now."""
    return int(_SIZE.unpack(fcntl.ioctl(pipe, termios.FIONREAD, bytes(_SIZE.size)))[0])


def _told(listener: int) -> int:
    """Returns what the kernel says of a listener: that a forbidden call can be asked for, or that nobody is left to make one."""
    looking = select.poll()
    looking.register(listener, select.POLLIN)
    return next((events for _, events in looking.poll(0)), 0)


def read_report(worker: Worker) -> dict[str, object]:
    """Returns what a job's process left of the exception it ended with: text from inside, of which nothing is believed but its form."""
    raw = os.pread(worker.report, runner.REPORT_BYTES, 0).partition(b"\0")[0]
    try:
        found = json.loads(raw) if raw else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
