"""Backends: what isolates jobs. Each makes processes that wait for a job behind every layer, and is otherwise alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

from holdfast.contracts.tiers import KERNEL, PROCESS, Tier
from sandbox.bubblewrap.host import BubblewrapProcess
from sandbox.errors import BackendMissing
from sandbox.isolators import BUBBLEWRAP, GVISOR, Isolator, look
from sandbox.job import Job, Limits
from sandbox.layers import Layer
from sandbox.native.cgroups import Cgroups, Use
from sandbox.native.host import ZygoteProcess
from sandbox.native.watch import OnOutput, Watched
from sandbox.native.worker import Worker
from sandbox.runsc.host import RunscProcess
from sandbox.supervisor import Supervisor


class Backend(Protocol):
    """What makes the processes of one runtime's jobs."""

    DIES_WHOLE: bool
    without: frozenset[Layer]
    lost: bool

    @property
    def pid(self) -> int:
        """Pid of the process that all jobs come from."""

    async def start(self) -> None:
        """Starts it."""

    async def make(
        self,
        slot: int,
        limits: Limits,
        facts: Mapping[str, object] | None = None,
        seed: Callable[[int], None] | None = None,
    ) -> Worker:
        """Makes a process, and waits until it is in all its layers; with `facts` it is the canary."""

    def narrow(self, worker: Worker, limits: Limits) -> None:
        """Has a process that was made for more be counted by a job's own limits."""

    def message(self, worker: Worker, job: Job, command: Sequence[str] = ()) -> dict[str, object]:
        """Returns what a process is told of its job."""

    async def run(
        self,
        worker: Worker,
        job: Job,
        on_output: OnOutput | None,
        supervisor: Supervisor | None = None,
        command: Sequence[str] = (),
    ) -> Watched:
        """Gives a process its job, and watches it to its end."""

    async def end(self, worker: Worker) -> Use | None:
        """Ends a process, and removes all that was its own."""

    async def close(self) -> None:
        """Ends it, and every process with it."""


class _Make(Protocol):
    def __call__(
        self,
        *,
        program: str,
        python: str,
        privileged: bool,
        without: frozenset[Layer],
        uid_base: int,
        cgroups: Cgroups | None,
        runtime: Mapping[str, object],
    ) -> Backend: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of backend.

    Attributes:
        name: Its name, as settings and receipts have it.
        tier: What it isolates by.
        make: Makes one.
        program: The program that it needs; nothing for the native one.
        least: The oldest version of it that may be used.
        why: What is wrong with older ones.
        lacks: Layers that it has not, with what that means: whoever sets it up has chosen so, and each receipt says so.
        inner: Layers that a kernel of the job's own keeps.
    """

    name: str
    tier: Tier
    make: _Make
    program: str = ""
    least: tuple[int, int] | None = None
    why: str = ""
    lacks: Mapping[Layer, str] = field(default_factory=dict)
    inner: frozenset[Layer] = frozenset()


_NO_LANDLOCK: Final = (
    "gVisor has no Landlock: a job may read all that its root has, which is as small as natively; in its folder it can make FIFOs, "
    "which nobody collects; and a shell or Node may start any program of that root, though none that it wrote."
)
_BY_GVISOR: Final = frozenset(
    {
        *(Layer.USER, Layer.NET, Layer.PID, Layer.MOUNT, Layer.IPC, Layer.UTS, Layer.CGROUP_NAMESPACE),
        *(Layer.RLIMITS, Layer.NO_NEW_PRIVILEGES, Layer.CAPABILITIES, Layer.SECCOMP),
    }
)


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("native", PROCESS, ZygoteProcess),
            Kind(
                "bubblewrap",
                PROCESS,
                BubblewrapProcess,
                "bwrap",
                BUBBLEWRAP,
                "older ones can be led out of their mounts (CVE-2026-87766)",
            ),
            Kind(
                "runsc",
                KERNEL,
                RunscProcess,
                "runsc",
                GVISOR,
                "gVisor repairs no release but its newest ones",
                MappingProxyType({Layer.LANDLOCK: _NO_LANDLOCK}),
                _BY_GVISOR,
            ),
        )
    }
)
"""Every backend by its name."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A backend that can be used here.

    Attributes:
        kind: Which.
        program: Where its program is.
        version: What that says of itself.
        weaker: What is wrong with that version, where an operator has allowed it nevertheless.
    """

    kind: Kind
    program: str = ""
    version: str = ""
    weaker: str = ""


def choose(name: str, *, allow_old: bool = False) -> Chosen:
    """Returns a backend.

    Args:
        name: Which.
        allow_old: Whether an operator allows a version that is too old.

    Raises:
        BackendMissing: There is no such backend, its program is not installed, or it is too old.
    """
    kind = KINDS.get(name)
    if kind is None:
        raise BackendMissing(f"no backend {name[:40]!r} is known", remedy=f"Name one of {', '.join(KINDS)}.")
    if not kind.program:
        return Chosen(kind)
    found = look(kind.program, kind.least)
    if not found.path or not found.version:
        raise BackendMissing(f"the backend {name} cannot be used: {found.words}", remedy=_install(kind))
    if found.usable:
        return Chosen(kind, found.path, found.version)
    if not allow_old:
        allow = f"or allow the version that is here: HOLDFAST_SANDBOX_ALLOW_OLD={name}"
        raise BackendMissing(
            f"the backend {name} cannot be used: {found.words}, and {kind.why}",
            remedy=f"{_install(kind)[:-1]}, {allow}.",
        )
    return Chosen(kind, found.path, found.version, _old(kind, found))


def _install(kind: Kind) -> str:
    wanted = "" if kind.least is None else f" {'.'.join(map(str, kind.least))} or newer"
    return f"Install {kind.name}{wanted}, so that `{kind.program}` is on PATH."


def _old(kind: Kind, found: Isolator) -> str:
    return f"{found.words}: {kind.why}. An operator has allowed it."
