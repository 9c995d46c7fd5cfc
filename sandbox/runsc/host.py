"""The sandbox's side of runsc: as that of the zygote, but that a job's kernel is not the host's, and says less of what it refuses."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from sandbox.errors import LayerMissing
from sandbox.job import Limits
from sandbox.layers import Layer
from sandbox.native.host import ZygoteProcess
from sandbox.native.worker import Worker
from sandbox.runsc.launcher import UIDS_APART
from sandbox.supervisor import Peer

_NS_GET_PARENT: Final = 0xB702


_OWN_BYTES: Final = 64 * 2**20
_OWN_PIDS: Final = 192
_PIDS_EACH: Final = 4
"""What a process or thread of a job is on the host at most: those of gVisor's kernel that hold it, and those that it runs in."""


class RunscProcess(ZygoteProcess):
    """The launcher of one sandbox."""

    LAUNCHER = "sandbox.runsc.launcher"
    FAILING = Layer.ROOT
    LISTENS = False
    DIES_WHOLE = True

    async def start(self) -> None:
        """Starts it, as `ZygoteProcess` does.

        Raises:
            LayerMissing: If this account has no uids to give.
        """
        if not self.privileged or Layer.OWN_UID in self.without:
            raise LayerMissing(
                Layer.OWN_UID, 0, "gVisor runs under three uids of each job's own, which only root can give"
            )
        await super().start()

    def _of_group(self, limits: Limits) -> Limits:
        """Returns the limits of a job's cgroup, in which gVisor's own processes are, too. How many a job may start, gVisor counts."""
        pids = _OWN_PIDS + _PIDS_EACH * limits.pids
        return replace(limits, memory_bytes=limits.memory_bytes + _OWN_BYTES, pids=pids)

    def _of_process(self, limits: Limits) -> dict[str, int]:
        """Returns the limits of a job's process, by which gVisor counts how many there are."""
        return asdict(limits)

    def _end(self, worker: Worker, ended: Mapping[str, object]) -> None:
        """Says how a job ended: its CPU time is that of its cgroup, for its processes are none that the launcher could wait for."""
        used_s = 0.0
        if worker.group is not None:
            with contextlib.suppress(OSError):  # that it ended is to be told also where what it used cannot be read
                used_s = worker.group.cpu_ns() / 1e9
        super()._end(worker, {**ended, "cpu_s": used_s})

    def _is_job(self, worker: Worker, peer: Peer) -> bool:
        """Says whether who connected is the job's file server, which connects for it: its uid, in a namespace within the job's own."""
        owner = self._owner(worker)
        return owner is not None and peer.uid == owner + UIDS_APART and _is_within(peer.pid, worker.pid)


def _is_within(pid: int, outer: int) -> bool:
    """Says whether a process is in a pid namespace that was made in another's, or in that one itself."""
    try:
        wanted = Path(f"/proc/{outer}/ns/pid").stat()
        fd = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    while True:
        try:
            if os.path.samestat(os.fstat(fd), wanted):
                return True
            above = fcntl.ioctl(fd, _NS_GET_PARENT)
        except OSError:  # there is none above
            return False
        finally:
            os.close(fd)
        fd = above
