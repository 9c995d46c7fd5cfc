"""A session: an interpreter that is kept, and runs one cell after another. It belongs to one run, and ends with it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from sandbox.errors import JobInvalid, SessionLost
from sandbox.job import Limits, Result
from sandbox.layers import Layer, Receipt
from sandbox.native.cells import Cell, run_cell
from sandbox.native.cgroups import Use
from sandbox.native.files import Collector, is_full
from sandbox.native.watch import OnOutput, read_report
from sandbox.native.worker import Worker
from sandbox.outcome import outcome
from sandbox.supervisor import Supervisor

_REMEDY: Final = "Begin a new session."


@dataclass(frozen=True, slots=True)
class Ran:
    """A cell that was run.

    Attributes:
        code: Its code.
        digest: Digest of what came of it: status, output, files.
    """

    code: str
    digest: str


@dataclass(frozen=True, slots=True)
class Record:
    """What a session's state came from, by which another process can be brought to the same.

    Attributes:
        inputs: Digests of its input files by name.
        cells: Its cells, in order.
        asked: Whether a cell asked the run for something; to run it again would be to ask again.
    """

    inputs: Mapping[str, str]
    cells: tuple[Ran, ...]
    asked: bool


def _digest(result: Result) -> str:
    files = sorted((file.name, file.sha256) for file in result.files)
    parts = [result.exit_status, result.stdout.hex(), result.stderr.hex(), files]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Session:
    """One interpreter. `Sandbox.session` makes it."""

    def __init__(
        self,
        worker: Worker,
        limits: Limits,
        laid: Mapping[str, str],
        receipt: Receipt,
        supervisor: Supervisor | None,
        without: frozenset[Layer],
    ) -> None:
        self.lost = ""
        self._worker = worker
        self._limits = limits
        self._inputs = laid
        self._known = dict(laid)
        self._receipt = receipt
        self._supervisor = supervisor
        self._without = without
        self._ran: list[Ran] = []
        self._used: Use | None = None
        self._calls = 0
        self._turn = asyncio.Lock()

    @property
    def record(self) -> Record:
        """What its state came from."""
        return Record(self._inputs, tuple(self._ran), self._supervisor is not None and self._supervisor.calls > 0)

    async def run(self, code: str, *, on_output: OnOutput | None = None) -> Result:
        """Runs a cell. What it defines is there for the next one; if it ends with an expression, its value is printed.

        The wall clock, output and output files are limited for each cell, everything else for the session. Output files are those
        that were made or changed since the last cell.

        Raises:
            SessionLost: If the interpreter is gone: ended by an earlier cell, or by a limit.
        """
        if "\0" in code:
            raise JobInvalid("code may have no NUL")
        async with self._turn:
            if self.lost:
                raise SessionLost(f"the session is lost: {self.lost}", remedy=_REMEDY)
            return await self._cell(code, on_output)

    async def _cell(self, code: str, on_output: OnOutput | None) -> Result:
        cell = Cell(code, f"cell {len(self._ran) + 1}")
        self.lost = "a cell was given up while it ran"
        watched, alive = await run_cell(self._worker, cell, self._limits, on_output, self._without)
        collector = Collector(self._limits, self._known, None)
        collector.collect(self._worker.folder)
        use = await asyncio.to_thread(self._use)
        result = outcome(
            self._limits,
            watched,
            use,
            read_report(self._worker),
            collector,
            self._receipt,
            warm=True,
            full=is_full(self._worker.folder),
        )
        result = self._with_calls(result)
        self._known |= {file.name: file.sha256 for file in result.files}
        self._ran.append(Ran(code, _digest(result)))
        self.lost = (
            "" if alive else result.killed.sentence if result.killed is not None else "A cell ended its process."
        )
        return result

    def _with_calls(self, result: Result) -> Result:
        if self._supervisor is None:
            return result
        calls, self._calls = self._supervisor.calls - self._calls, self._supervisor.calls
        return replace(result, calls=calls, cut_off=self._supervisor.cut_off)

    def _use(self) -> Use | None:
        """Returns what was used since the last cell; the peak of memory is that of the session."""
        if self._worker.group is None:
            return None
        before, now = self._used or Use(0, 0, 0, 0), self._worker.group.use()
        self._used = now
        return Use(
            now.memory_peak_bytes,
            now.cpu_ns - before.cpu_ns,
            now.memory_kills - before.memory_kills,
            now.pids_refused - before.pids_refused,
        )

    async def restore(self, record: Record) -> None:
        """Brings a new session to the state of another, by running its cells again, where that is honest.

        It is not where a cell asked the run for something, nor where what comes of a cell is not what came of it then.

        Raises:
            SessionLost: If it cannot be done; the session is not to be used.
        """
        if record.asked:
            raise self._give_up("its cells asked the run for something, and to run them again would be to ask again")
        if record.inputs != self._inputs:
            raise self._give_up("its input files are not the same")
        for number, ran in enumerate(record.cells, start=1):
            result = await self.run(ran.code)
            if self.lost or self._ran[-1].digest != ran.digest:
                raise self._give_up(f"when cell {number} was run again, what came of it was not the same")
            if result.calls:
                raise self._give_up(f"when cell {number} was run again, it asked the run for something")

    def _give_up(self, why: str) -> SessionLost:
        self.lost = why
        return SessionLost(f"the session is lost: {why}", remedy=_REMEDY)
