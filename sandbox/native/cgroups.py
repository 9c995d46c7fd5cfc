"""Limits of a job as a whole: a cgroup of its own, in the old hierarchies (v1) or in the unified one (v2)."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from sandbox.job import Limits

_PERIOD_US: Final = 100_000
_SHARES_NEW: Final = 1_024  # what the kernel gives a new cgroup, v1 and v2
_WEIGHT_NEW: Final = 100
IDLE: Final = 32
"""From so many parts on a job has the processor only where no other job wants it, where the kernel can do that (since Linux 5.15)."""
_PREFIX: Final = "holdfast-"
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Use:
    """What a job used.

    Attributes:
        memory_peak_bytes: Most memory at one time.
        cpu_ns: CPU time.
        memory_kills: How many of its processes were ended for memory.
        pids_refused: How often it was refused a process.
    """

    memory_peak_bytes: int
    cpu_ns: int
    memory_kills: int
    pids_refused: int


class Group(Protocol):
    """A job's cgroup."""

    def add(self, pid: int) -> None:
        """Puts a process into it."""

    def use(self) -> Use:
        """Returns what was used."""

    def cpu_ns(self) -> int:
        """Returns the CPU time that was used."""

    def step_back(self, parts: int) -> None:
        """Lets other jobs have the processor before this one, which keeps one of so many parts of its weight from then on."""

    def narrow(self, pids: int) -> None:
        """Lets it have fewer processes and threads from now on."""

    def remove(self) -> None:
        """Removes it; its processes have ended."""


class Cgroups(Protocol):
    """Where jobs' cgroups are made."""

    def make(self, limits: Limits) -> Group:
        """Makes one with limits."""

    def close(self) -> None:
        """Removes what is left."""


def _write(path: Path, value: object) -> None:
    # not `write_text`, which creates: a missing file must be an error
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def _fields(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}


def _remove(folder: Path) -> None:
    """Removes a cgroup; the kernel may need a moment after its last process was reaped."""
    for _ in range(5_000):  # some seconds on a busy host
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            time.sleep(0.004)
        else:
            return
    folder.rmdir()


@contextlib.contextmanager
def _whole(folders: Set[Path]) -> Iterator[None]:
    """Makes cgroups, for what is done in the context; they do not stay if that fails.

    INVARIANT: their parents are not made, for these were removed with the sandbox, and nobody would remove them again.
    """
    try:
        for folder in folders:
            folder.mkdir()
        yield
    except BaseException:
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _step_back(folder: Path, parts: int, name: str, whole: int) -> None:
    """Gives a cgroup one of so many parts of its weight, or what all others leave over: whoever wakes need not wait for it."""
    idle = folder / "cpu.idle"
    if parts >= IDLE and idle.exists():
        _write(idle, 1)
    else:
        _write(folder / name, max(1, whole // parts))


def _sweep(base: Path) -> None:
    """Removes what sandboxes have left that died; what still has processes cannot be removed and stays."""
    for folder in base.glob(f"{_PREFIX}[0-9]*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and Path(f"/proc/{pid}").exists():
            continue
        with contextlib.suppress(OSError):
            for job in [child for child in folder.iterdir() if child.is_dir()]:
                job.rmdir()
            folder.rmdir()


class _OldGroup:
    """A job's cgroups in the hierarchies of v1."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders
        self._parts = 1

    def add(self, pid: int) -> None:
        """Puts a process into it."""
        for folder in set(self._folders.values()):
            _write(folder / "cgroup.procs", pid)

    def use(self) -> Use:
        """Returns what was used."""
        memory, pids = (self._folders.get(name) for name in ("memory", "pids"))
        assert memory is not None
        assert pids is not None
        return Use(
            int((memory / "memory.max_usage_in_bytes").read_text()),
            self.cpu_ns(),
            _fields(memory / "memory.oom_control").get("oom_kill", 0),
            _fields(pids / "pids.events").get("max", 0),
        )

    def cpu_ns(self) -> int:
        """Returns the CPU time that was used."""
        cpu = self._folders.get("cpuacct")
        return int((cpu / "cpuacct.usage").read_text()) if cpu is not None else 0

    def step_back(self, parts: int) -> None:
        """Lets other jobs have the processor before this one, which keeps one of so many parts of its weight from then on."""
        cpu = self._folders.get("cpu")
        if cpu is not None and parts > self._parts:
            self._parts = parts
            _step_back(cpu, parts, "cpu.shares", _SHARES_NEW)

    def narrow(self, pids: int) -> None:
        """Lets it have fewer processes and threads from now on."""
        _write(self._folders["pids"] / "pids.max", pids)

    def remove(self) -> None:
        """Removes it; its processes have ended."""
        for folder in set(self._folders.values()):
            _remove(folder)


class OldCgroups:
    """Cgroups v1: one hierarchy for each controller."""

    def __init__(self, bases: Mapping[str, Path]) -> None:
        for base in set(bases.values()):
            _sweep(base)
        name = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
        self._folders = {controller: base / name for controller, base in bases.items()}
        for folder in set(self._folders.values()):
            folder.mkdir()
        self._count = itertools.count()

    def make(self, limits: Limits) -> Group:
        """Makes one with limits."""
        name = f"job-{next(self._count)}"
        folders = {controller: folder / name for controller, folder in self._folders.items()}
        with _whole(set(folders.values())):
            self._limit(folders, limits)
        return _OldGroup(folders)

    @staticmethod
    def _limit(folders: Mapping[str, Path], limits: Limits) -> None:
        memory = folders["memory"]
        _write(memory / "memory.limit_in_bytes", limits.memory_bytes)
        if (memory / "memory.memsw.limit_in_bytes").exists():
            _write(memory / "memory.memsw.limit_in_bytes", limits.memory_bytes)
        _write(folders["pids"] / "pids.max", limits.pids)
        if "cpu" in folders:
            _write(folders["cpu"] / "cpu.cfs_period_us", _PERIOD_US)
            _write(folders["cpu"] / "cpu.cfs_quota_us", limits.cpu_percent * _PERIOD_US // 100)

    def close(self) -> None:
        """Removes what is left."""
        for folder in set(self._folders.values()):
            with contextlib.suppress(FileNotFoundError):
                for job in [child for child in folder.iterdir() if child.is_dir()]:
                    _remove(job)
                _remove(folder)


class _UnifiedGroup:
    """A job's cgroup in the unified hierarchy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts = 1

    def add(self, pid: int) -> None:
        """Puts a process into it."""
        _write(self._folder / "cgroup.procs", pid)

    def use(self) -> Use:
        """Returns what was used."""
        peak = self._folder / "memory.peak"  # since Linux 5.19
        return Use(
            int(peak.read_text()) if peak.exists() else 0,
            self.cpu_ns(),
            _fields(self._folder / "memory.events").get("oom_kill", 0),
            _fields(self._folder / "pids.events").get("max", 0),
        )

    def cpu_ns(self) -> int:
        """Returns the CPU time that was used."""
        return _fields(self._folder / "cpu.stat").get("usage_usec", 0) * 1_000

    def step_back(self, parts: int) -> None:
        """Lets other jobs have the processor before this one, which keeps one of so many parts of its weight from then on."""
        if parts > self._parts:
            self._parts = parts
            _step_back(self._folder, parts, "cpu.weight", _WEIGHT_NEW)

    def narrow(self, pids: int) -> None:
        """Lets it have fewer processes and threads from now on."""
        _write(self._folder / "pids.max", pids)

    def remove(self) -> None:
        """Removes it; its processes have ended."""
        _remove(self._folder)


class UnifiedCgroups:
    """Cgroups v2: one hierarchy, in which inner nodes hold no processes, so the sandbox's own process moves into a leaf."""

    def __init__(self, base: Path) -> None:
        _sweep(base)
        host = base / f"{_PREFIX}host"
        if (base / "cgroup.type").exists() and (base / "cgroup.procs").read_text().split():
            host.mkdir(exist_ok=True)
            for pid in (base / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    _write(host / "cgroup.procs", pid)
        _write(base / "cgroup.subtree_control", "+memory +pids +cpu")
        self._folder = base / f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
        self._folder.mkdir()
        _write(self._folder / "cgroup.subtree_control", "+memory +pids +cpu")
        self._count = itertools.count()

    def make(self, limits: Limits) -> Group:
        """Makes one with limits."""
        folder = self._folder / f"job-{next(self._count)}"
        with _whole({folder}):
            _write(folder / "memory.max", limits.memory_bytes)
            if (folder / "memory.swap.max").exists():
                _write(folder / "memory.swap.max", 0)
            _write(folder / "memory.oom.group", 1)
            _write(folder / "pids.max", limits.pids)
            _write(folder / "cpu.max", f"{limits.cpu_percent * _PERIOD_US // 100} {_PERIOD_US}")
        return _UnifiedGroup(folder)

    def close(self) -> None:
        """Removes what is left."""
        with contextlib.suppress(FileNotFoundError):
            for job in [child for child in self._folder.iterdir() if child.is_dir()]:
                _remove(job)
            _remove(self._folder)


def _mounts() -> dict[str, tuple[Path, str]]:
    """Returns where each controller's hierarchy is mounted, and which part of it that shows; v2 by the name `unified`."""
    found: dict[str, tuple[Path, str]] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split()[:3]
        root, point = fields.split()[3:5]
        if kind == "cgroup2":
            found["unified"] = (Path(point), root)
        elif kind == "cgroup":
            found |= {
                name: (Path(point), root) for name in options.split(",") if name in ("memory", "pids", "cpu", "cpuacct")
            }
    return found


def _own() -> dict[str, str]:
    """Returns the path of this process's cgroup in each hierarchy."""
    found: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(",") if controllers else ["unified"], path)
    return found


def bases() -> dict[str, Path]:
    """Returns the folders of this process's own cgroups by controller; v2 by the name `unified`."""
    own = _own()
    found = {}
    for name, (point, root) in _mounts().items():
        path = own.get(name, "/")
        inside = path.removeprefix(root) if root != "/" and path.startswith(root) else path
        folder = point / inside.strip("/")
        found[name] = folder if folder.is_dir() else point
    return found


def open_cgroups() -> Cgroups:
    """Returns where this host lets jobs' cgroups be made.

    Raises:
        OSError: If it lets nowhere.
    """
    found = bases()
    if "memory" in found and "pids" in found:
        return OldCgroups({name: folder for name, folder in found.items() if name != "unified"})
    unified = found.get("unified")
    if unified is not None and {"memory", "pids"} <= set((unified / "cgroup.controllers").read_text().split()):
        return UnifiedCgroups(unified)
    raise OSError(errno.ENOENT, "no hierarchy has the controllers memory and pids", "/sys/fs/cgroup")
