"""Rehearsing on several cores: the records of one run stay in one process, in their order.

That a run has started another one is told to all of them.

A candidate that looks at what more than one run did needs all records in one order, so it is rehearsed by one process.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from types import TracebackType
from typing import Final, Self

from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.policy import Policy
from holdfast_verdict.rehearse.asking import asks_of
from holdfast_verdict.rehearse.recorded import Recorded, begins_child
from holdfast_verdict.rehearse.rehearsing import Clocks, Rehearser
from holdfast_verdict.rehearse.tally import Tally

_AT_ONCE: Final = 500
_AHEAD: Final = 3


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What is to be rehearsed.

    Attributes:
        candidate: The candidate's compiled form.
        deciders: Those of the policies that decided.
        clocks: What clocks say; a function of a module, as other processes get it.
        since_ms: From when on every record of the tenant is given; `None` if those of single runs are.
        workers: How many processes; 0 = one per core.
        nice: By how much they stand back behind others.
    """

    candidate: JsonValue
    deciders: tuple[JsonValue, ...] = ()
    clocks: Clocks | None = None
    since_ms: int | None = None
    workers: int = 0
    nice: int = 0

    def rehearser(self) -> Rehearser:
        """Returns what rehearses it in one process."""
        policies = [Policy.from_json(form) for form in self.deciders]
        deciders = {policy.policy_hash.hex(): policy for policy in policies}
        candidate = Policy.from_json(self.candidate)
        return Rehearser(candidate, deciders, clocks=self.clocks, since_ms=self.since_ms)


class Lanes:
    """Processes, each with the records of some runs."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        """Begins; one process is this one."""
        workers = rehearsal.workers or len(os.sched_getaffinity(0))
        if asks_of(Policy.from_json(rehearsal.candidate)).wide:
            workers = 1
        self._here = rehearsal.rehearser() if workers == 1 and not rehearsal.nice else None
        self._lanes: list[ProcessPoolExecutor] = []
        if self._here is None:
            context = get_context("forkserver")
            self._lanes = [ProcessPoolExecutor(1, context, _begin, (rehearsal,)) for _ in range(workers)]
        self._waiting: list[list[Recorded]] = [[] for _ in self._lanes]
        self._running: list[deque[Future[None]]] = [deque() for _ in self._lanes]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def take(self, records: Iterable[Recorded]) -> None:
        """Takes records in their order, and waits while the processes are behind.

        Raises:
            BrokenProcessPool: One of them has died.
        """
        if self._here is not None:
            for record in records:
                self._here.take(record)
            return
        for record in records:
            own = zlib.crc32(record.run_id.encode()) % len(self._lanes)
            for lane in range(len(self._lanes)) if begins_child(record) else (own,):
                waiting = self._waiting[lane]
                waiting.append(record)
                if len(waiting) >= _AT_ONCE:
                    self._send(lane)

    def _send(self, lane: int) -> None:
        running = self._running[lane]
        while len(running) >= _AHEAD:
            running.popleft().result()
        running.append(self._lanes[lane].submit(_take, self._waiting[lane]))
        self._waiting[lane] = []

    def finish(self) -> Tally:
        """Returns what was found in all records.

        Raises:
            BrokenProcessPool: One of the processes has died.
        """
        if self._here is not None:
            return self._here.tally
        for lane in range(len(self._lanes)):
            self._send(lane)
        tallies = [each.submit(_tally) for each in self._lanes]
        whole = Tally()
        for running, tally in zip(self._running, tallies, strict=True):
            for each in running:
                each.result()
            whole.merge(tally.result())
        return whole

    def close(self) -> None:
        """Ends the processes; what they have not done is left."""
        for lane in self._lanes:
            lane.shutdown(wait=True, cancel_futures=True)
        self._lanes = []


_WORKER: list[Rehearser] = []


def _begin(rehearsal: Rehearsal) -> None:
    os.nice(rehearsal.nice)
    _WORKER.append(rehearsal.rehearser())


def _take(records: list[Recorded]) -> None:
    for record in records:
        _WORKER[0].take(record)


def _tally() -> Tally:
    return _WORKER[0].tally
