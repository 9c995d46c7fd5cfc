"""The sandbox's side of bubblewrap: as that of the zygote, but that a job's first process is a child of the one it started."""

from __future__ import annotations

import os
from pathlib import Path

from sandbox.layers import Layer
from sandbox.native.host import ZygoteProcess
from sandbox.native.worker import Worker
from sandbox.supervisor import Peer, peer_of


class BubblewrapProcess(ZygoteProcess):
    """The launcher of one sandbox."""

    LAUNCHER = "sandbox.bubblewrap.launcher"
    FAILING = Layer.USER

    def _is_job(self, worker: Worker, peer: Peer) -> bool:
        """Says whether who connected is the job's first process: the one that bubblewrap has started, with the job's uid."""
        owner = self._owner(worker)
        return peer.uid == (os.geteuid() if owner is None else owner) and _parent_of(peer.pid) == worker.pid

    def _let_in(self, worker: Worker) -> None:
        """Takes the connection of the job's first process, by which it is known to the host, too."""
        super()._let_in(worker)
        assert worker.link is not None
        peer = peer_of(worker.link)
        try:
            inner = os.pidfd_open(peer.pid)
        except ProcessLookupError:
            return  # it has ended, which is told elsewhere
        if self._is_job(worker, peer):  # asked of what can no longer become another's: it is what the sandbox will kill
            worker.inner = inner
        else:
            os.close(inner)


def _parent_of(pid: int) -> int:
    """Returns the parent of a process; 0 if there is no such process."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends while it is read
        return 0
    return int(said.rpartition(")")[2].split()[1])  # behind its name, which may be anything: its state, then its parent
