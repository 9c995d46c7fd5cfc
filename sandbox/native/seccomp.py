"""The list of system calls that a job may make, as a program for the kernel. Everything that is not named here ends the job.

Three answers: *allowed*; *refused* with an error that ordinary libraries know how to live with; and, for all the rest, the call is
not made, the sandbox is told its number, and it ends the job and says the call's name. A call by the numbers of another
architecture (32-bit, x32) ends the job in the kernel.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Mapping
from typing import Final

from sandbox.native import kernel

_ALLOWED: Final = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 close close_range open openat creat stat fstat lstat
newfstatat statx lseek access faccessat faccessat2
getdents getdents64 getcwd chdir fchdir rename renameat renameat2 mkdir mkdirat rmdir
unlink unlinkat readlink readlinkat truncate ftruncate fallocate fadvise64 fsync fdatasync statfs fstatfs
utime utimes utimensat futimesat umask flock fcntl dup dup2 dup3 pipe pipe2 sendfile
mmap mprotect munmap mremap madvise brk msync membarrier
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack kill tgkill tkill pause alarm
restart_syscall
select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2
timerfd_create timerfd_settime timerfd_gettime
setitimer getitimer timer_create timer_settime timer_gettime timer_getoverrun timer_delete
nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times
sched_yield sched_getaffinity sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min getcpu getpriority
getpid gettid getppid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp getpgid getsid setsid setpgid
getrlimit setrlimit getrusage uname sysinfo getrandom
futex futex_waitv set_robust_list get_robust_list set_tid_address rseq
fork vfork wait4 waitid exit exit_group
sendto recvfrom sendmsg recvmsg shutdown getsockopt getsockname getpeername
"""
_REFUSED: Final[Mapping[int, str]] = {
    errno.EPERM: """
        socket connect bind listen accept accept4 execve execveat memfd_create memfd_secret link linkat symlink symlinkat mknod mknodat
        chown fchown lchown fchownat fchmodat2 setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid
        sethostname setdomainname inotify_init inotify_init1 inotify_add_watch mlock mlock2 munlock mlockall munlockall setpriority
        sched_setaffinity sched_setscheduler sched_setparam sched_setattr ioprio_set sync syncfs signalfd signalfd4 capset
        """,
    errno.ENOSYS: """
        clone3 openat2 pidfd_open copy_file_range splice tee vmsplice sendmmsg recvmmsg shmget shmat shmctl shmdt semget semop
        semctl semtimedop msgget msgsnd msgrcv msgctl mq_open mq_unlink mincore capget get_mempolicy mbind sched_getattr ioprio_get
        process_madvise
        """,
    errno.ENOTSUP: """
        getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr removexattr lremovexattr
        fremovexattr
        """,
}
_STARTING_REFUSED: Final = "io_uring_setup pkey_alloc"  # what Node tries and can do without
_ARCH_SET_FS: Final = 0x1002
_CLONE_BAD: Final = 0x7E028080  # new namespaces of any kind (time's too), and CLONE_PARENT
_PRCTL_ALLOWED: Final = (3, 15, 16, 23, 39, 0x53564D41)  # read dumpable, names, bounding set, no-new-privs; name memory
_IOCTL_ALLOWED: Final = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# whether it is a terminal, its size, bytes to read, non-blocking, close on exec (twice)
_SOCKOPT_ALLOWED: Final = (3, 4, 7, 8, 20, 21)  # type, error, buffers, time-outs
_SET_ID_BITS: Final = 0o6000

_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN, _AND = 0x20, 0x15, 0x25, 0x45, 0x06, 0x54
_ALLOW, _ERRNO, _NOTIFY, _KILL = 0x7FFF0000, 0x00050000, 0x7FC00000, 0x80000000
_ARCHITECTURE: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32: Final = 0x40000000

_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")
_NOTIF_RECV: Final = 0xC0502100


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _load_argument(index: int) -> bytes:
    return _step(_LOAD, _ARGUMENTS_AT + 8 * index)  # the low half; both architectures are little-endian


def _one_of(index: int, values: tuple[int, ...]) -> bytes:
    """Allows if an argument is one of some values, else refuses."""
    steps = [_load_argument(index)]
    for value in values:
        steps += [_step(_EQUAL, value, 0, 1), _step(_RETURN, _ALLOW)]
    return b"".join(steps) + _step(_RETURN, _ERRNO | errno.EPERM)


def _none_of_bits(index: int, bits: int, otherwise: int) -> bytes:
    return b"".join(
        [_load_argument(index), _step(_ANY_BIT, bits, 0, 1), _step(_RETURN, otherwise), _step(_RETURN, _ALLOW)]
    )


def _conditional(forbidden: int, *, starting: bool) -> dict[str, bytes]:
    refuse = _ERRNO | errno.EPERM
    more = (
        {"arch_prctl": _one_of(0, (_ARCH_SET_FS,))} if starting else {}
    )  # how a program that begins finds its thread's data
    return more | {
        "clone": _none_of_bits(0, _CLONE_BAD, forbidden),
        "prctl": _one_of(0, _PRCTL_ALLOWED),
        "ioctl": _one_of(1, _IOCTL_ALLOWED),
        "socketpair": _one_of(0, (1,)),  # AF_UNIX
        "setsockopt": _one_of(2, _SOCKOPT_ALLOWED),
        "prlimit64": _one_of(0, (0,)),  # its own
        "chmod": _none_of_bits(1, _SET_ID_BITS, refuse),
        "fchmod": _none_of_bits(1, _SET_ID_BITS, refuse),
        "fchmodat": _none_of_bits(2, _SET_ID_BITS, refuse),
    }


def program(machine: str, numbers: Mapping[str, int], *, starting: bool = False, listens: bool = True) -> bytes:
    """Returns the filter's instructions: architecture, then conditional calls, then ranges of numbers with one answer each.

    Args:
        machine: The architecture.
        numbers: Its calls.
        starting: Whether programs may be started: those that Landlock names, for the job's folder has none.
        listens: Whether the sandbox is told of forbidden calls. Else the kernel that it is for is not the host's but gVisor's.
    """
    forbidden = _NOTIFY if listens else _KILL
    out = [
        _step(_LOAD, _ARCHITECTURE_AT),
        _step(_EQUAL, _ARCHITECTURE[machine], 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER_AT),
    ]
    if machine == "x86_64":
        out += [_step(_GREATER, _X32 - 1, 0, 1), _step(_RETURN, _KILL)]
    for name, body in _conditional(forbidden, starting=starting).items():
        if name in numbers:
            out += [_step(_EQUAL, numbers[name], 0, len(body) // 8), body]
    answers = {numbers[name]: _ALLOW for name in _ALLOWED.split() if name in numbers}
    for number, names in _REFUSED.items():
        answers |= {numbers[name]: _ERRNO | number for name in names.split() if name in numbers}
    if starting:
        answers |= {numbers[name]: _ERRNO | errno.ENOSYS for name in _STARTING_REFUSED.split() if name in numbers}
        answers[numbers["execve"]] = _ALLOW
    last = max(answers)
    start = 0
    for number in range(1, last + 2):
        if answers.get(number, forbidden) != answers.get(start, forbidden):
            out += [_step(_GREATER, number - 1, 1, 0), _step(_RETURN, answers.get(start, forbidden))]
            start = number
    return b"".join(out) + _step(_RETURN, forbidden)


class Program(ctypes.Structure):
    """A filter as the kernel takes it."""

    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def install(*, starting: bool, listens: bool = True) -> int:
    """Puts the filter on this process for good; returns the descriptor on which forbidden calls are told.

    The caller hands that descriptor out and closes it: who holds it could allow a call. A kernel that cannot tell anybody of a call
    ends whoever makes a forbidden one, and there is no descriptor (-1).

    Args:
        starting: Whether programs may be started.
        listens: Whether the kernel can tell of calls.
    """
    if listens:
        steps = STARTING if starting else PROGRAM
        return kernel.call("seccomp", 1, 8, Program(len(steps) // 8, steps))  # set filter, with a listener
    steps = program(kernel.MACHINE, kernel.NUMBERS, starting=starting, listens=False)
    kernel.call("seccomp", 1, 0, Program(len(steps) // 8, steps))
    return -1


def forbidden_call(listener: int) -> str | None:
    """Returns the name of the call that a process is stopped in, `None` if it is gone. It is never answered: the process ends."""
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _NOTIF_RECV, buffer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EAGAIN, errno.EINTR, errno.EBADF):
            return None
        raise
    number = _NOTIFICATION.unpack(buffer)[3]
    return next((name for name, known in kernel.NUMBERS.items() if known == number), f"number {number}")


PROGRAM: Final = program(kernel.MACHINE, kernel.NUMBERS) if kernel.NUMBERS else b""
"""The filter for this machine, put together once, in the zygote."""
STARTING: Final = program(kernel.MACHINE, kernel.NUMBERS, starting=True) if kernel.NUMBERS else b""
"""The same for a shell or Node: a job's process becomes that program."""


def close_listener(listener: int) -> None:
    """Closes a listener; calls that wait on it fail."""
    os.close(listener)
