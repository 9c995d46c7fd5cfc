"""The sandbox's side of bubblewrap: as that of the zygote, but that a job's first process is a child of the one it started."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from typing import Final

from sandbox.errors import LayerMissing
from sandbox.layers import Layer
from sandbox.native.host import ZygoteProcess
from sandbox.native.worker import Worker, readable

_INFO_MAX: Final = 4_096


class BubblewrapProcess(ZygoteProcess):
    """The launcher of one sandbox."""

    LAUNCHER = "sandbox.bubblewrap.launcher"
    FAILING = Layer.USER

    _ending: set[asyncio.Task[None]]

    async def start(self) -> None:
        """Starts it, as `ZygoteProcess` does."""
        self._ending = set()
        await super().start()

    def _made(self, worker: Worker, fds: Sequence[int]) -> None:
        (worker.info,) = fds

    def _let_in(self, worker: Worker) -> None:
        """Learns from bubblewrap which process the job's first one is, and takes only that one's connection."""
        try:
            worker.pid = int(json.loads(os.read(worker.info, _INFO_MAX))["child-pid"])
            worker.inner = os.pidfd_open(worker.pid)
        except (OSError, ValueError) as error:
            number = error.errno or 0 if isinstance(error, OSError) else 0
            raise LayerMissing(Layer.PID, number, "a new process ended before it was in its layers") from error
        super()._let_in(worker)

    def _end(self, worker: Worker, ended: Mapping[str, object]) -> None:
        """Says that a job has ended once all of it has: bubblewrap may have been ended before what it started."""
        if worker.inner < 0:
            super()._end(worker, ended)
            return
        task = asyncio.create_task(self._end_with_all(worker, ended))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end_with_all(self, worker: Worker, ended: Mapping[str, object]) -> None:
        await readable(worker.inner)
        super()._end(worker, ended)

    def _fail(self, error: Exception) -> None:
        for task in self._ending:
            task.cancel()
        super()._fail(error)
