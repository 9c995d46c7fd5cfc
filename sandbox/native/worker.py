"""One process that is in its layers, as the sandbox holds it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sandbox.job import Limits
from sandbox.native.cgroups import Group
from sandbox.supervisor import Door

FRAME: Final = struct.Struct("!I")
"""The length before a message between the sandbox and a process."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended."""

    status: int
    cpu_s: float
    rss_kib: int


@dataclass(slots=True, eq=False)
class Worker:
    """One process that is in its layers, for one job."""

    name: str
    slot: int
    limits: Limits
    pid: int = 0
    base_bytes: int = 0
    control: socket.socket | None = None
    stdout: int = -1
    stderr: int = -1
    report: int = -1
    folder: int = -1
    pidfd: int = -1
    listener: int = -1
    inner: int = -1
    door: Door | None = None
    link: socket.socket | None = None
    group: Group | None = None
    admitting: asyncio.Task[None] | None = None
    achieved: dict[str, str] = field(default_factory=dict)
    made: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    ended: asyncio.Future[Ended] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def kill(self) -> None:
        """Ends it, and all that it started, which is in its pid namespace."""
        # where another program started it, that one tells how it ended, and what it used
        pidfd = self.inner if self.inner >= 0 else self.pidfd
        if pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def has_ended(self) -> bool:
        """Says whether it has ended, though nobody may have been told so yet."""
        looking = select.poll()
        for pidfd in (self.pidfd, self.inner):
            if pidfd >= 0:
                looking.register(pidfd, select.POLLIN)
        return bool(looking.poll(0))

    def close(self) -> None:
        """Closes every descriptor; the job's folder goes with the last of them."""
        if self.control is not None:
            self.control.close()
        if self.door is not None:
            self.door.close()
        if self.link is not None:
            self.link.close()
        for name in ("stdout", "stderr", "report", "folder", "pidfd", "listener", "inner"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)


async def readable(fd: int) -> None:
    """Waits until something can be read."""
    loop = asyncio.get_running_loop()
    waiting = asyncio.Event()
    loop.add_reader(fd, waiting.set)
    try:
        await waiting.wait()
    finally:
        loop.remove_reader(fd)


async def send(worker: Worker, message: Mapping[str, object]) -> None:
    """Sends a message to a process."""
    assert worker.control is not None
    body = json.dumps(message).encode()
    try:
        await asyncio.get_running_loop().sock_sendall(worker.control, FRAME.pack(len(body)) + body)
    except (BrokenPipeError, ConnectionResetError):
        return  # it has ended, which is told elsewhere
