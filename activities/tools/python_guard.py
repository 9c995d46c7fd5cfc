"""Stands between an executor and the process in which one call of a Python tool runs, and outlives neither.

The executor starts this file by its path in an isolated interpreter. It divides: the one half becomes the tool's process (see
`python_host.py`), the other waits for whatever comes first (the tool's end, the executor's word or its death, the end of the lease) and
kills the tool's process then, with everything that descends from it, also what has cut itself loose.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

FILE_BYTES_MAX: Final = 256 * 1024 * 1024
OPEN_FILES_MAX: Final = 512

_LINUX: Final = sys.platform == "linux"
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_NANO: Final = 1_000_000_000
_ENDED: Final = signal.SIGTERM
"""The executor's word that the call is over; then it tidies up itself."""
_ORPHANED: Final = signal.SIGHUP
"""The kernel's word that the executor dies. It comes when its first thread is dead: its process may be there yet."""


def _prctl(option: int, value: int) -> None:
    if _LINUX and ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) was refused")


def _die_with(parent_pid: int, death_signal: int) -> None:
    """Has the kernel send this process a signal when its parent dies, even by SIGKILL."""
    _prctl(_PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent_pid:  # it died before that
        os._exit(1)


def _bound(memory_bytes: int) -> None:
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, FILE_BYTES_MAX),
        (resource.RLIMIT_NOFILE, OPEN_FILES_MAX),
    ):
        hard = resource.getrlimit(limit)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bound, bound))


class Deadline:
    """The end of the lease, as the tool's process learns it when it begins."""

    def __init__(self) -> None:
        self._timer = ctypes.c_void_p()
        if _LINUX:
            # one of its own: a tool may set alarms and handle signals as it likes
            event = b"".join(
                (bytes(ctypes.sizeof(ctypes.c_void_p)), int(signal.SIGKILL).to_bytes(4, sys.byteorder), bytes(64))
            )
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.timer_create(time.CLOCK_MONOTONIC, event, ctypes.byref(self._timer)) != 0:
                raise OSError(ctypes.get_errno(), "timer_create was refused")

    def set(self, ends_at: float) -> None:
        """Ends this process at that time of the monotonic clock; at once, if it is over.

        INVARIANT (LAW 1, rule 7): whoever was frozen in between and wakes late runs no further line of the tool: the kernel
        kills before it goes on. The guard notices, and kills what the tool has started.
        """
        if _LINUX:
            spec = (ctypes.c_long * 4)(0, 0, int(ends_at), int(ends_at % 1 * _NANO))
            if ctypes.CDLL(None, use_errno=True).timer_settime(self._timer, 1, spec, None) != 0:  # 1: that very time
                raise OSError(ctypes.get_errno(), "timer_settime was refused")
        if time.monotonic() >= ends_at:
            os._exit(1)


def _become_tool(spec: dict[str, Any], guard_pid: int) -> NoReturn:  # JSON from the executor
    os.setsid()
    _die_with(guard_pid, signal.SIGKILL)
    _bound(spec["memory_bytes"])
    sys.path += [path for path in spec["path"] if path not in sys.path]
    from activities.tools import python_host

    python_host.main(Deadline())


class _End(NamedTuple):
    """How the waiting ended.

    Attributes:
        exit_code: That of the tool's process, or None if that has to be killed.
        orphaned: The executor is dead.
    """

    exit_code: int | None
    orphaned: bool


def _watch(child: int, wakes: int, ends_at: float) -> _End:
    """Waits until it is over."""
    while (left_s := ends_at - time.monotonic()) > 0:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return _End(os.waitstatus_to_exitcode(status) & 0xFF, orphaned=False)
        ready, _, _ = select.select((wakes,), (), (), left_s)
        signals = os.read(wakes, 4096) if ready else b""
        if _ORPHANED in signals or _ENDED in signals:
            return _End(None, orphaned=_ORPHANED in signals)
    return _End(None, orphaned=False)


def _children() -> list[int]:
    """Returns this process's children, those included whose own parents have ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
        except (OSError, IndexError):
            continue  # it has just ended
        if int(parent) == os.getpid():
            found.append(int(stat.parent.name))
    return found


def _kill_adopted() -> None:
    """Kills what the tool has left behind: whose parent ends becomes this process's child, and is next."""
    pause_s = 0.001
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for pid in _children():
            with contextlib.suppress(ProcessLookupError, PermissionError):  # who may not be killed is waited for
                os.kill(pid, signal.SIGKILL)
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.1)


def main() -> int:
    """Divides, and waits for the end."""
    gc.disable()  # imports leave nothing to collect, and take a tenth less time; the tool is run with it
    spec = json.loads(sys.argv[1])
    wakes, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (_ENDED, _ORPHANED, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    _die_with(spec["parent_pid"], _ORPHANED)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    guard_pid = os.getpid()
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        for number in (_ENDED, _ORPHANED, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for end in (wakes, waker):
            os.close(end)
        _become_tool(spec, guard_pid)
    # the executor's channel is the tool's alone, so that it ends when the tool's process does
    nothing = os.open(os.devnull, os.O_RDWR)
    for end in (0, 1, 2):
        os.dup2(nothing, end)
    over = _watch(child, wakes, spec["ends_at"])
    if over.exit_code is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if _LINUX:
        _kill_adopted()
    if over.orphaned or os.getppid() != spec["parent_pid"]:  # nobody else is left to tidy up
        import shutil

        shutil.rmtree(Path.cwd(), ignore_errors=True)
    return over.exit_code or 0


if __name__ == "__main__":
    sys.exit(main())
