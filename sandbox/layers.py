"""The layers of isolation by name, what each keeps away, and what a result says of them. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Layer(StrEnum):
    """One layer."""

    USER = "user"
    NET = "net"
    PID = "pid"
    MOUNT = "mount"
    IPC = "ipc"
    UTS = "uts"
    CGROUP_NAMESPACE = "cgroup_namespace"
    OWN_UID = "own_uid"
    ROOT = "root"
    READ_ONLY = "read_only"
    DISK = "disk"
    CGROUP = "cgroup"
    RLIMITS = "rlimits"
    DESCRIPTORS = "descriptors"
    ENVIRONMENT = "environment"
    NO_NEW_PRIVILEGES = "no_new_privileges"
    LANDLOCK = "landlock"
    CAPABILITIES = "capabilities"
    SECCOMP = "seccomp"
    SUPERVISOR = "supervisor"
    WALL_CLOCK = "wall_clock"
    OUTPUT = "output"


_USERNS: Final = (
    "Let this account make user namespaces (`sysctl kernel.unprivileged_userns_clone=1`, "
    "`sysctl user.max_user_namespaces=10000`; on Ubuntu an AppArmor profile with `userns,` for this Python), and in a "
    "container run with a seccomp profile that lets `clone`, `unshare`, `mount` and `pivot_root` through."
)
REMEDY: Final[Mapping[Layer, str]] = MappingProxyType(
    {
        **dict.fromkeys(
            (Layer.USER, Layer.NET, Layer.PID, Layer.MOUNT, Layer.IPC, Layer.UTS, Layer.CGROUP_NAMESPACE), _USERNS
        ),
        Layer.OWN_UID: "Run the sandbox as root (CAP_SETUID, CAP_SETGID, CAP_CHOWN, CAP_SYS_ADMIN), or allow the profile "
        "`unprivileged`.",
        Layer.ROOT: _USERNS,
        Layer.READ_ONLY: _USERNS,
        Layer.DISK: "Let the sandbox mount a tmpfs with a size.",
        Layer.CGROUP: "Give the service a cgroup of its own with memory and pids (systemd: `Delegate=yes`), or run as root; or allow "
        "the profile `unprivileged`.",
        Layer.RLIMITS: "Report it: no kernel without these limits is known.",
        Layer.DESCRIPTORS: "Report it: a descriptor of the sandbox was left open in a job.",
        Layer.ENVIRONMENT: "Report it: a variable of the sandbox was left in a job.",
        Layer.NO_NEW_PRIVILEGES: "Use Linux 5.13 or newer.",
        Layer.LANDLOCK: "Use a kernel with Landlock (5.13 or newer, `lsm=landlock,…` on its command line).",
        Layer.CAPABILITIES: "Report it: capabilities can always be dropped.",
        Layer.SECCOMP: "Use a kernel with seccomp filters and user notification (5.0 or newer) on x86-64 or aarch64.",
        Layer.SUPERVISOR: "Run the sandbox where it sees its jobs by their own pids and uids (in the host's pid namespace, or as the "
        "parent of both).",
        Layer.WALL_CLOCK: "Report it: the sandbox itself ends jobs.",
        Layer.OUTPUT: "Report it: the sandbox itself counts output.",
    }
)
"""What to do where a layer is missing."""

WEAKER: Final[Mapping[Layer, str]] = MappingProxyType(
    {
        Layer.OWN_UID: "Jobs run under the account of the sandbox itself: what breaks out of the other layers is that account, and a "
        "peer's uid does not tell one job from another.",
        Layer.CGROUP: "Memory and processes are limited for each process (rlimits), not for a job as a whole.",
    }
)
"""What is weaker without those layers that the profile `unprivileged` may lack."""

ALL: Final = frozenset(Layer)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Which layers a job ran in.

    Attributes:
        backend: What isolated it.
        profile: `full`, or `unprivileged` where an operator allowed that.
        layers: The layers that held when they were attacked at start, and that this job entered.
        missing: The layers it ran without.
        weaker: What that means, in sentences.
        runtime: What its code ran in.
        tier: What kind of thing isolates: `process`, where the host's kernel does, or `kernel`, where one of its own does.
        version: What the backend's program says of itself; empty for the native one, which is Holdfast itself.
        by_own_kernel: Those of the layers that a kernel of the job's own keeps, and not the host's.
    """

    backend: str
    profile: str
    layers: tuple[str, ...]
    missing: tuple[str, ...]
    weaker: tuple[str, ...]
    runtime: str = "plain"
    tier: str = "process"
    version: str = ""
    by_own_kernel: tuple[str, ...] = ()
