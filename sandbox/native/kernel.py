"""System calls that Python's library does not offer, with errors as `OSError`. Standard library only: the zygote imports it."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import stat
from typing import Final

from sandbox.native.syscalls import numbers

NEW_NAMESPACE: Final = {
    "mount": 0x00020000,
    "cgroup_namespace": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
"""The flags of `clone` and `unshare` by the layer's name."""
CLONE_PIDFD: Final = 0x1000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 0x1, 0x2, 0x4, 0x8, 0x20
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH: Final = 0x2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECUREBITS = 1, 4, 28
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 24, 38, 47

MACHINE: Final = platform.machine()
NUMBERS: Final = numbers(MACHINE) if MACHINE in ("x86_64", "aarch64") else {}

# PyDLL keeps the interpreter's lock, so that nothing else of Python runs between a clone and its bookkeeping
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mmap.restype = ctypes.c_void_p

Argument = int | bytes | None | ctypes.Structure | ctypes.Array[ctypes.c_char]


def _argument(value: Argument) -> object:
    if isinstance(value, int):
        return ctypes.c_long(value)
    if value is None or isinstance(value, bytes):
        return ctypes.c_char_p(value)
    return ctypes.byref(value)


def call(name: str, *arguments: Argument) -> int:
    """Makes a system call by its name.

    Raises:
        OSError: If the kernel refuses; its `filename` is the call's name.
    """
    result = int(_libc.syscall(ctypes.c_long(NUMBERS[name]), *map(_argument, arguments)))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Mounts."""
    filesystem = None if kind is None else kind.encode()
    call("mount", source.encode(), target.encode(), filesystem, flags, data.encode())


def unmount(target: str) -> None:
    """Takes a mount out of sight; it lives as long as something of it is open."""
    call("umount2", target.encode(), MNT_DETACH)


def prctl(option: int, *arguments: int) -> int:
    """Calls prctl, with the arguments that were not given as zero."""
    return call("prctl", option, *arguments, *[0] * (4 - len(arguments)))


def clone(flags: int) -> tuple[int, int]:
    """Forks into new namespaces; returns pid and pidfd in the parent, (0, -1) in the child.

    Python is told as `os.fork` tells it. The caller has one thread, so no lock of the C library can be held.
    """
    pidfd = ctypes.c_int(-1)
    number = ctypes.c_long(NUMBERS["clone"])
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = int(
        _libc.syscall(
            number,
            ctypes.c_ulong(flags | CLONE_PIDFD | signal.SIGCHLD),
            ctypes.c_void_p(None),
            ctypes.byref(pidfd),
            ctypes.c_void_p(None),
            ctypes.c_void_p(None),
        )
    )
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "clone")
    return pid, pidfd.value


def map_shared(fd: int, size: int) -> int:
    """Maps a file and returns the address; unlike `mmap.mmap` it keeps no descriptor."""
    address = _libc.mmap(None, ctypes.c_size_t(size), 3, 1, fd, ctypes.c_long(0))  # read and write, shared
    if address is None or address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "mmap")
    return int(address)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = tuple((f"word_{index}", ctypes.c_uint32) for index in range(6))


def drop_capabilities() -> None:
    """Gives up every capability, for good: all five sets, and what root is by itself."""
    prctl(PR_SET_SECUREBITS, 0xEF)  # every bit with its lock, but for keep-caps, whose lock is enough
    prctl(PR_CAP_AMBIENT, 4)  # clear all
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            break  # the kernel knows no more
    call("capset", _CapHeader(0x20080522, 0), _CapData())


class _LandlockRules(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _LandlockPath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32))


LANDLOCK_EXECUTE, LANDLOCK_WRITE, LANDLOCK_READ, LANDLOCK_LIST = 1, 2, 4, 8
LANDLOCK_PLAIN: Final = LANDLOCK_WRITE | LANDLOCK_READ | LANDLOCK_LIST | 0x10 | 0x20 | 0x80 | 0x100 | 0x2000 | 0x4000
"""What a job may in its own folder: read, write, list, and make and remove plain files and folders; nothing special, no links."""
_LANDLOCK_OF_FILES: Final = LANDLOCK_EXECUTE | LANDLOCK_WRITE | LANDLOCK_READ | 0x4000
_LANDLOCK_FILES_BITS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}


def landlock(paths: dict[str, int]) -> int:
    """Restricts the process to paths with what is allowed beneath each; no TCP, no abstract sockets, no signals out.

    Returns:
        The version of the kernel's Landlock.

    Raises:
        OSError: If the kernel has no Landlock, or refuses.
    """
    version = call("landlock_create_ruleset", None, 0, 1)
    files = (1 << _LANDLOCK_FILES_BITS.get(version, 16)) - 1
    rules = _LandlockRules(files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)  # noqa: PLR2004 (Landlock's versions)
    size = 24 if version >= 6 else 16 if version >= 4 else 8  # noqa: PLR2004 (as above)
    ruleset = call("landlock_create_ruleset", rules, size, 0)
    try:
        for path, allowed in paths.items():
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                some = allowed if stat.S_ISDIR(os.fstat(fd).st_mode) else allowed & _LANDLOCK_OF_FILES
                call("landlock_add_rule", ruleset, 1, _LandlockPath(some & files, fd), 0)
            finally:
                os.close(fd)
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    return version
