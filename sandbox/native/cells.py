"""The sandbox's side of a process that is kept: gives it one cell after another, and watches each."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Final

from sandbox.job import Limits
from sandbox.layers import Layer
from sandbox.native.watch import OnOutput, Watch, Watched
from sandbox.native.worker import FRAME, Ended, Worker, send

_DONE_MAX: Final = 64
_STATUS_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        code: Python.
        name: What tracebacks call it.
    """

    code: str
    name: str


async def run_cell(
    worker: Worker, cell: Cell, limits: Limits, on_output: OnOutput | None, without: frozenset[Layer]
) -> tuple[Watched, bool]:
    """Runs a cell; returns what was seen of it, and whether the process is there for another one."""
    answer = _Answer(worker)
    watch = Watch(worker, limits, on_output, without, lambda: answer.has_come() or worker.has_ended())
    try:
        answer.begin()
        watch.begin()
        await send(worker, {"code": cell.code, "name": cell.name})
        either: set[asyncio.Future[int | None] | asyncio.Future[Ended]] = {answer.status, worker.ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        status = answer.status.result() if answer.status.done() else None
        if status is None or watch.killed:
            worker.kill()  # it speaks of its end otherwise than it was told to, or was ended meanwhile
            await asyncio.shield(worker.ended)
    except asyncio.CancelledError:
        worker.kill()
        await asyncio.shield(worker.ended)
        raise
    finally:
        answer.end()
        watch.finish()
    if status is None or watch.killed:
        return watch.watched(await worker.ended), False
    return watch.watched(Ended(status << 8, 0.0, 0)), True


class _Answer:
    """What a process says when its cell is done: text from inside, of which nothing is believed but its form."""

    def __init__(self, worker: Worker) -> None:
        assert worker.control is not None
        self._control = worker.control
        self._buffer = bytearray()
        self.status: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        """Starts to listen."""
        asyncio.get_running_loop().add_reader(self._control.fileno(), self._read)

    def end(self) -> None:
        """Listens no longer."""
        asyncio.get_running_loop().remove_reader(self._control.fileno())

    def has_come(self) -> bool:
        """Says whether the whole answer is here, though nobody may have been told so yet. Half of one is no end."""
        if not self.status.done():
            self._read()
        return self.status.done()

    def _read(self) -> None:
        """Takes what has come; the status is nothing if that is something else than an answer."""
        while not self.status.done():
            size = FRAME.unpack_from(self._buffer)[0] if len(self._buffer) >= FRAME.size else 0
            wanted = FRAME.size + size - len(self._buffer)
            if size > _DONE_MAX or wanted == 0:
                self._take(_status(bytes(self._buffer[FRAME.size :])))
                return
            try:
                part = self._control.recv(wanted)
            except BlockingIOError:
                return
            except ConnectionResetError:
                part = b""
            self._buffer += part
            if not part:
                self._take(None)

    def _take(self, status: int | None) -> None:
        self.status.set_result(status)
        self.end()  # what is said beyond would be told again and again


def _status(body: bytes) -> int | None:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    status = found.get("done") if isinstance(found, dict) else None
    return status if isinstance(status, int) and 0 <= status <= _STATUS_MAX else None
