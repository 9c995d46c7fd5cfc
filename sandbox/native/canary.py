"""The canary: before any job runs, every layer is attacked from inside, and the sandbox refuses to start where an attack succeeds."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from sandbox.job import Limits
from sandbox.native import kernel

LIMITS: Final = Limits(
    wall_ms=20_000,
    cpu_s=10,
    memory_bytes=64 * 2**20,
    pids=16,
    disk_bytes=4 * 2**20,
    disk_files=64,
    output_bytes=65_536,
    open_files=64,
)
FORBIDDEN: Final = "import ctypes\nctypes.CDLL(None).syscall({number}, 0, 0, 0, 0, 0)\nprint('still here')"
FLOOD: Final = "for _ in range(100): print('x' * 1000)"
FORGED: Final = "import holdfast_guest as guest\nguest._token = 'forged'\nguest.emit('canary', 1)"
BOMB: Final = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        held = b"x" * ({memory_bytes} // 2)
        print("held", flush=True)
        time.sleep(60)
time.sleep(60)
"""
"""What together is twice the memory of a job, and less than that in each of its processes."""
FORKS: Final = """
import os, time
for _ in range({pids} + 1):
    if os.fork() == 0:
        time.sleep(60)
"""
SLEEP: Final = "import time; time.sleep(3)"

_IPC_CREAT, _IPC_RMID = 0o1000, 0


@contextmanager
def _shared_memory() -> Iterator[int]:
    """A piece of shared memory that everybody on the host may use; its key."""
    while True:
        key = secrets.randbelow(2**30) + 1
        try:
            number = kernel.call("shmget", key, 4096, _IPC_CREAT | 0o2000 | 0o666)
        except FileExistsError:
            continue
        break
    try:
        yield key
    finally:
        kernel.call("shmctl", number, _IPC_RMID, None)


def _cgroup_path(limited: bool) -> str:
    if limited:
        return "holdfast-"  # part of the path that a job's cgroup has on the host
    paths = [line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return max(paths, key=len) if max(map(len, paths)) > 1 else "no path to be read"


@contextmanager
def laid_out(
    *, pid: int, limited: bool, without_attack: frozenset[str], environment: Iterable[str]
) -> Iterator[Mapping[str, object]]:
    """Lays out what the canary tries to reach, and tells what it needs to know of it. `pid` is of a process that it must not see."""
    with ExitStack() as stack:
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        abstract = f"holdfast-canary-{secrets.token_hex(8)}"
        local = stack.enter_context(socket.socket(socket.AF_UNIX))
        local.bind(f"\0{abstract}")
        local.listen()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-canary-")))
        folder.chmod(0o755)
        secret = folder / "of-the-host"
        secret.write_text("not for jobs", encoding="ascii")
        secret.chmod(0o644)
        yield {
            "port": port.getsockname()[1],
            "abstract": abstract,
            "file": str(secret),
            "shm_key": stack.enter_context(_shared_memory()),
            "pid": pid,
            "nodename": os.uname().nodename,
            "cgroup": _cgroup_path(limited),
            "environment": sorted(environment),
            "without_attack": sorted(without_attack),
            **asdict(LIMITS),
        }


def seed(folder: int) -> None:
    """Lays a file into the canary's folder that only the sandbox's own account may read."""
    fd = os.open("tmp/of-the-host", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    os.close(fd)
