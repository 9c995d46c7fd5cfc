"""The canary's attacks: each tries what one layer forbids, at the moment when no later layer would forbid it as well.

An attack returns nothing if it failed, as it must; else what it achieved. `OSError` numbers that mean something else than the layer
at work count as achieved, too: what is not understood does not hold (LAW 7).
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Final

from sandbox.layers import Layer
from sandbox.native import kernel, seccomp

Facts = Mapping[str, object]
"""What the host has laid out for the canary: a listener's port, a file's path, the key of shared memory, a pid, its name, limits."""
Attack = Callable[[Facts], str]


def _fails_with(numbers: set[int], attempt: Callable[[], object], achieved: str) -> str:
    try:
        attempt()
    except OSError as error:
        if error.errno in numbers:
            return ""
        return f"{achieved}: refused for another reason ({errno.errorcode.get(error.errno or 0, error.errno)})"
    return achieved


def _in_child(attempt: Callable[[], int]) -> int:
    """Runs an attack in a process of its own; returns its wait status."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = attempt()
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def _user(facts: Facts) -> str:
    # where root is not mapped, there is none to become; in a kernel of its own there is, and who has no capability is not let
    refused = {errno.EPERM} if facts.get("own_kernel") else {errno.EINVAL}
    return _fails_with(refused, lambda: kernel.call("setresuid", 0, -1, -1), "it could become root")


def _net(facts: Facts) -> str:
    refused = {errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.ECONNREFUSED, errno.EHOSTUNREACH}
    with socket.socket(socket.AF_INET) as inet:
        inet.settimeout(0.5)
        reached = _fails_with(
            refused, lambda: inet.connect(("127.0.0.1", facts["port"])), "it reached a port of the host"
        )
    with socket.socket(socket.AF_UNIX) as local:
        return reached or _fails_with(
            {errno.ECONNREFUSED},
            lambda: local.connect(f"\0{facts['abstract']}"),
            "it reached an abstract socket of the host",
        )


def _pid(facts: Facts) -> str:
    if os.getpid() != 1:
        return f"it is process {os.getpid()}, not 1"
    return _fails_with({errno.ESRCH}, lambda: os.kill(int(str(facts["pid"])), 0), "it saw a process of the host")


def _mount(_: Facts) -> str:
    try:
        seen = sorted(os.listdir("/job"))  # noqa: PTH208 (pathlib is slower)
    except OSError as error:
        return f"its folder is not its own (errno {error.errno})"
    return "" if seen == ["tmp", "work"] else "it saw another folder than its own"


def _ipc(facts: Facts) -> str:
    return _fails_with(
        {errno.ENOENT},
        lambda: kernel.call("shmget", int(str(facts["shm_key"])), 0, 0),
        "it found shared memory of the host",
    )


def _uts(facts: Facts) -> str:
    return "it read the host's name" if os.uname().nodename == facts["nodename"] else ""


def _cgroup_namespace(facts: Facts) -> str:
    try:
        fd = os.open("self/cgroup", os.O_RDONLY, dir_fd=int(str(facts["proc"])))
    except FileNotFoundError:
        if facts.get("own_kernel"):
            return ""  # there is no /proc, which is one of that kernel anyway
        raise
    try:
        lines = os.read(fd, 65_536).decode().splitlines()
    finally:
        os.close(fd)
    secret = str(facts["cgroup"])
    return f"it read its cgroup's path ({secret})" if any(secret in line for line in lines) else ""


def _own_uid(_: Facts) -> str:
    attempt = "/job/tmp/of-the-host"  # laid there by the sandbox, readable for its own account alone
    return _fails_with({errno.EACCES}, lambda: os.close(os.open(attempt, os.O_RDONLY)), "its uid is the sandbox's own")


def _root(facts: Facts) -> str:
    path = str(facts["file"])
    return _fails_with({errno.ENOENT}, lambda: os.close(os.open(path, os.O_RDONLY)), "it opened a file of the host")


def _read_only(_: Facts) -> str:
    return _fails_with({errno.EROFS}, lambda: os.mkdir("/escape"), "it could write outside its folder")  # noqa: PTH102 (the call itself)


def _disk(facts: Facts) -> str:
    limit, block, written = int(str(facts["disk_bytes"])), b"\0" * 2**20, 0
    fd = os.open("/job/tmp/fill", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        while written <= limit:
            written += os.write(fd, block)
    except OSError as error:
        return "" if error.errno == errno.ENOSPC else f"writing failed for another reason (errno {error.errno})"
    finally:
        os.close(fd)
        os.unlink("/job/tmp/fill")  # noqa: PTH108 (every call counts here)
    return "it wrote more than its folder may hold"


def _cgroup(facts: Facts) -> str:
    def bomb() -> int:
        with mmap.mmap(-1, int(str(facts["memory_bytes"])) + 16 * 2**20) as memory:
            for offset in range(0, len(memory), mmap.PAGESIZE):
                memory[offset] = 1
        return 0

    if os.WTERMSIG(_in_child(bomb)) != signal.SIGKILL:
        return "it used more memory than it may"
    limit, children = int(str(facts["pids"])), []
    try:
        for _ in range(limit + 1):
            pid = os.fork()
            if pid == 0:
                signal.pause()
            children.append(pid)
    except OSError as error:
        return "" if error.errno == errno.EAGAIN else f"forking failed for another reason (errno {error.errno})"
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return "it started more processes than it may"


def _rlimits(facts: Facts) -> str:
    opened: list[int] = []
    try:
        opened.extend(os.dup(0) for _ in range(int(str(facts["open_files"])) + 1))
    except OSError as error:
        if error.errno != errno.EMFILE:
            return f"opening failed for another reason (errno {error.errno})"
    else:
        return "it opened more files than it may"
    finally:
        for fd in range(3, 3 + int(str(facts["open_files"])) + 2):
            if fd not in (3, 4):
                _close(fd)
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    return "" if hard == 0 else "it could dump its memory"


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        return


def _descriptors(facts: Facts) -> str:
    known = {0, 1, 2, *(int(str(fd)) for fd in (facts["control"], facts["proc"]))}
    return next((f"descriptor {fd} was left open" for fd in range(1024) if fd not in known and _is_open(fd)), "")


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _environment(facts: Facts) -> str:
    foreign = set(os.environ) - {"HOME", "TMPDIR", "PATH", "LANG", "TZ", "LC_CTYPE", *facts["environment"]}  # type: ignore[misc]  # a list of names
    return f"it has the variables {', '.join(sorted(foreign))}" if foreign else ""


def _no_new_privileges(_: Facts) -> str:
    def install() -> int:
        try:
            kernel.call("seccomp", 1, 0, seccomp.Program(1, b"\x06\x00\x00\x00\x00\x00\xff\x7f"))  # allow all
        except OSError:
            return 1
        return 0

    # the kernel takes a filter of a process without capabilities only if it can never gain any
    return "" if _in_child(install) == 0 else "a program that it starts could gain privileges"


def _landlock(_: Facts) -> str:
    made = _fails_with({errno.EACCES}, lambda: os.mkfifo("/job/work/fifo"), "it made a FIFO")
    listed = _fails_with({errno.EACCES}, lambda: os.listdir("/"), "it listed what it has no business with")  # noqa: PTH208 (the call)
    return made or listed


def _capabilities(_: Facts) -> str:
    named = _fails_with({errno.EPERM}, lambda: socket.sethostname("escape"), "it changed the name of its host")
    return named or _fails_with(
        {errno.EPERM}, lambda: kernel.mount("x", "/job/tmp", "tmpfs", 0), "it could mount something"
    )


def _seccomp(_: Facts) -> str:
    socket_made = _fails_with({errno.EPERM}, lambda: socket.socket(socket.AF_INET).close(), "it made a network socket")
    return socket_made or _fails_with(
        {errno.EPERM}, lambda: os.close(kernel.call("memfd_create", b"x", 0)), "it made a file in memory"
    )


AFTER_NAMESPACES: Final[Mapping[Layer, Attack]] = {
    Layer.DESCRIPTORS: _descriptors,
    Layer.ENVIRONMENT: _environment,
    Layer.USER: _user,
    Layer.PID: _pid,
    Layer.NET: _net,
    Layer.IPC: _ipc,
    Layer.UTS: _uts,
    Layer.CGROUP_NAMESPACE: _cgroup_namespace,
    Layer.MOUNT: _mount,
    Layer.OWN_UID: _own_uid,
    Layer.ROOT: _root,
    Layer.READ_ONLY: _read_only,
    Layer.DISK: _disk,
    Layer.CGROUP: _cgroup,
}
AFTER_RLIMITS: Final[Mapping[Layer, Attack]] = {Layer.RLIMITS: _rlimits}
AFTER_CAPABILITIES: Final[Mapping[Layer, Attack]] = {
    Layer.NO_NEW_PRIVILEGES: _no_new_privileges,
    Layer.LANDLOCK: _landlock,
    Layer.CAPABILITIES: _capabilities,
}
AT_LAST: Final[Mapping[Layer, Attack]] = {Layer.SECCOMP: _seccomp}


def attack(attacks: Mapping[Layer, Attack], facts: Facts) -> dict[str, str]:
    """Makes the attacks; returns what those achieved that achieved anything."""
    found: dict[str, str] = {}
    known = facts["without_attack"]
    assert isinstance(known, list)  # so the sandbox writes it
    for layer, attempt in attacks.items():
        if layer in known:
            continue
        try:
            achieved = attempt(facts)
        except Exception as error:  # noqa: BLE001 (whatever an attack trips over, it was not the layer: told, and the layer counts as missing)
            achieved = f"the attack failed by itself: {type(error).__name__}: {error}"
        if achieved:
            found[layer] = achieved
    sys.stdout.flush()
    return found
