"""From the clone to the job's first line: a new process walks through the layers, in this order, and says which one stopped it.

1. descriptors, signals, session; 2. identity (asserted); 3. cgroup namespace, host name, folder, environment; 4. limits;
5. the connection to the supervisor; 6. no new privileges, Landlock, capabilities, death with the parent, not dumpable; 7. the filter of
system calls. Only then it says that it is ready; the code comes afterwards, and nothing but standard input, output and error is open
when it runs, and that connection if the job's owner takes requests.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from sandbox.layers import Layer
from sandbox.native import kernel, probes, runner, seccomp
from sandbox.native.root import DOOR, GUEST, MODULES, PROGRAMS, SITE, library_paths, loaders

INNER_ID: Final = 1000
CONTROL: Final = 3
_PROC: Final = 4
_ENVIRONMENT: Final = {"HOME": "/job/work", "TMPDIR": "/job/tmp", "PATH": "/usr/bin", "LANG": "C.UTF-8", "TZ": "UTC"}
_LENGTH: Final = struct.Struct("!I")


class LayerFailed(Exception):
    """A layer could not be entered."""

    def __init__(self, layer: Layer, error: OSError) -> None:
        super().__init__(f"{error.strerror} ({error.filename})")
        self.layer = layer
        self.errno = error.errno or 0


@dataclass(frozen=True, slots=True)
class Ends:
    """A new process's ends of what connects it with the sandbox."""

    control: int
    stdout: int
    stderr: int
    report: int
    proc: int


@contextlib.contextmanager
def _entering(layer: Layer):  # type: ignore[no-untyped-def]  # a generator of nothing: its type says less than its name
    try:
        yield
    except OSError as error:
        raise LayerFailed(layer, error) from error


def set_limits(limits: Mapping[str, int]) -> None:
    """Sets the limits that the kernel keeps for each process: soft and hard, so that they can only go down."""
    for name, value in {
        resource.RLIMIT_CPU: limits["cpu_s"],
        resource.RLIMIT_AS: limits["memory_bytes"] + limits["base_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_FSIZE: limits["disk_bytes"],
        resource.RLIMIT_NPROC: limits["pids"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 64,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
    }.items():
        if resource.getrlimit(name) != (value, value):  # not every kernel lets those be set that are as they should be
            resource.setrlimit(name, (value, value))


def _take_descriptors(ends: Ends, *, canary: bool, without: frozenset[str]) -> int:
    """Puts what is needed at 1 to 4 and closes all else; returns the address of the shared report."""
    address = kernel.map_shared(ends.report, runner.REPORT_BYTES)
    kept = [(ends.stdout, 1), (ends.stderr, 2), (ends.control, CONTROL)]
    if canary:
        kept.append((ends.proc, _PROC))
    moved = [(os.dup(source), target) for source, target in kept]  # out of each other's way first
    for source, target in moved:
        os.dup2(source, target, inheritable=False)
    if Layer.DESCRIPTORS not in without:
        kernel.call("close_range", _PROC + 1 if canary else CONTROL + 1, 0x7FFFFFFF, 0)
    return address


def _become(host_id: int, *, own_namespace: bool) -> None:
    """Switches to the job's uid and asserts it."""
    wanted = INNER_ID if own_namespace else host_id
    if not own_namespace:
        kernel.prctl(
            kernel.PR_SET_SECUREBITS, 4
        )  # the layers that follow need capabilities, which a new uid would lose here
    with contextlib.suppress(
        PermissionError
    ):  # where groups cannot be set there are none to give up but the account's own
        os.setgroups([])
    os.setresgid(wanted, wanted, wanted)
    os.setresuid(wanted, wanted, wanted)
    if os.getresuid() != (wanted,) * 3 or os.getresgid() != (wanted,) * 3:
        raise OSError(1, f"the uid is {os.getresuid()} and should be {wanted}", "setresuid")


def _send(message: Mapping[str, object], fds: tuple[int, ...] = ()) -> None:
    body = json.dumps(message).encode()
    with socket.socket(fileno=os.dup(CONTROL)) as control:
        socket.send_fds(control, [_LENGTH.pack(len(body)) + body], list(fds))


def _read_exactly(size: int) -> bytes:
    parts = []
    while size:
        part = os.read(CONTROL, min(size, 2**16))
        if not part:
            os._exit(0)  # the sandbox has no more use for this process, or is gone
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _receive() -> dict[str, object]:
    """Waits for a message of the sandbox. Without sandbox there is none, and this process ends."""
    found = json.loads(_read_exactly(_LENGTH.unpack(_read_exactly(_LENGTH.size))[0]))
    assert isinstance(found, dict)  # so the sandbox writes it
    return found


def _rules(runtime: Mapping[str, object]) -> dict[str, int]:
    read = kernel.LANDLOCK_READ | kernel.LANDLOCK_LIST
    rules = dict.fromkeys(library_paths(), read)
    if runtime["site"]:
        rules[SITE] = read
    if runtime["programs"]:
        # nothing else can be started: not what a job writes, nor what lies among the libraries
        rules |= {PROGRAMS: read | kernel.LANDLOCK_EXECUTE, **dict.fromkeys(loaders(), read | kernel.LANDLOCK_EXECUTE)}
    if runtime["interpreter"]:
        rules[str(runtime["interpreter"])] = kernel.LANDLOCK_READ | kernel.LANDLOCK_EXECUTE
    rules |= {"/etc": kernel.LANDLOCK_READ, GUEST: read, MODULES: read}
    rules |= {"/job/work": kernel.LANDLOCK_PLAIN, "/job/tmp": kernel.LANDLOCK_PLAIN}
    rules |= {"/dev/null": kernel.LANDLOCK_READ | kernel.LANDLOCK_WRITE}
    return rules | {"/dev/zero": kernel.LANDLOCK_READ, "/dev/urandom": kernel.LANDLOCK_READ}


def _connect() -> int:
    """Connects to the supervisor, which asks the kernel who this is, and takes the door away: nobody comes after."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(DOOR)
        os.unlink(DOOR)  # noqa: PTH108 (every call counts here)
        return link.detach()


def _walk(
    ends: Ends, order: Mapping[str, object], limits: Mapping[str, int], made: dict[str, str]
) -> tuple[int, int, int]:
    """Enters every layer; returns the report's address, the connection to the supervisor and the filter's listener (or -1).

    What the canary achieves goes to `made`.
    """
    without = frozenset(order["without"])  # type: ignore[call-overload]  # a list of names
    facts = order.get("canary")
    canary = isinstance(facts, dict)
    runtime: Mapping[str, object] = order["runtime"]  # type: ignore[assignment]  # a mapping; so the sandbox writes it

    def attacked(attacks: Mapping[Layer, probes.Attack]) -> None:
        if isinstance(facts, dict):
            made.update(probes.attack(attacks, {**facts, "control": CONTROL, "proc": _PROC}))

    with _entering(Layer.DESCRIPTORS):
        address = _take_descriptors(ends, canary=canary, without=without)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    if os.getsid(0) != os.getpid():
        os.setsid()
    _receive()  # it is in its cgroups, and its uid is mapped
    if Layer.OWN_UID not in without or Layer.USER not in without:
        with _entering(Layer.OWN_UID):
            _become(int(str(order["uid"])), own_namespace=Layer.USER not in without)
    if Layer.CGROUP_NAMESPACE not in without:
        with _entering(Layer.CGROUP_NAMESPACE):
            kernel.call("unshare", kernel.NEW_NAMESPACE["cgroup_namespace"])
    if Layer.UTS not in without:
        with _entering(Layer.UTS):
            socket.sethostname("sandbox")
    with _entering(Layer.MOUNT):
        os.chdir("/job/work")
    if Layer.ENVIRONMENT not in without:
        os.environ.clear()
    os.environ.update(_ENVIRONMENT)
    os.environ.update(runtime["environment"])  # type: ignore[call-overload]  # a mapping; so the sandbox writes it
    os.umask(0o077)
    attacked(probes.AFTER_NAMESPACES)
    if Layer.RLIMITS not in without:
        with _entering(Layer.RLIMITS):
            set_limits(limits)
    attacked(probes.AFTER_RLIMITS)
    with _entering(Layer.SUPERVISOR):
        link = _connect()
    return address, link, _lock(without, runtime, attacked, listens=bool(order.get("listens", True)))


def _lock(without: frozenset[str], runtime: Mapping[str, object], attacked, *, listens: bool) -> int:  # type: ignore[no-untyped-def]  # `attacked` of `_walk`, whose type is of its own making
    """The last layers, which nothing can take off again; returns the filter's listener, or -1."""
    if Layer.NO_NEW_PRIVILEGES not in without:
        with _entering(Layer.NO_NEW_PRIVILEGES):
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if Layer.LANDLOCK not in without:
        with _entering(Layer.LANDLOCK):
            kernel.landlock(_rules(runtime))
    if Layer.CAPABILITIES not in without:
        with _entering(Layer.CAPABILITIES):
            kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # after the last change of identity, which would forget it
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    attacked(probes.AFTER_CAPABILITIES)
    if Layer.SECCOMP in without:
        attacked(probes.AT_LAST)
        return -1
    with _entering(Layer.SECCOMP):
        listener = seccomp.install(starting=bool(runtime["programs"]), listens=listens)
    attacked(probes.AT_LAST)
    return listener


def run(ends: Ends, order: Mapping[str, object], limits: Mapping[str, int]) -> NoReturn:
    """Enters the layers, waits for a job, runs it, ends. Never returns."""
    made: dict[str, str] = {}
    try:
        address, link, listener = _walk(ends, order, limits, made)
        runner.rehearse()
        _send({"ready": True, "achieved": made}, () if listener == -1 else (listener,))
        if listener != -1:
            os.close(listener)  # who holds it could allow forbidden calls
    except LayerFailed as error:
        with contextlib.suppress(OSError):
            _send({"failed": error.layer, "errno": error.errno, "what": str(error), "achieved": made})
        os._exit(70)
    except BaseException as error:  # noqa: BLE001 (told to the sandbox, which refuses to go on; nothing may return into the zygote)
        with contextlib.suppress(OSError):
            _send(
                {"failed": Layer.DESCRIPTORS, "errno": 0, "what": f"{type(error).__name__}: {error}", "achieved": made}
            )
        os._exit(70)
    job = _receive()
    narrowed = job.get("limits")
    if isinstance(narrowed, dict):
        set_limits(narrowed)
    if isinstance(order.get("canary"), dict):
        with contextlib.suppress(OSError):
            os.close(_PROC)
    if job.get("kept"):
        runner.keep(job, address, link, _receive, _send)
    os.close(CONTROL)
    if job.get("command"):
        runner.become(job, link)
    runner.execute(job, address, link)
