"""The sandbox's side of a process that is kept: gives it one cell after another, and watches each."""

from __future__ import annotations

import asyncio
import contextlib
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
    watch = Watch(worker, limits, on_output, without)
    done = asyncio.create_task(_done(worker))
    watch.begin()
    try:
        await send(worker, {"code": cell.code, "name": cell.name})
        either: set[asyncio.Future[int | None] | asyncio.Future[Ended]] = {done, worker.ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        status = done.result() if done.done() else None
        if status is None or watch.killed:
            worker.kill()  # it speaks of its end otherwise than it was told to, or was ended meanwhile
            await asyncio.shield(worker.ended)
    except asyncio.CancelledError:
        worker.kill()
        await asyncio.shield(worker.ended)
        raise
    finally:
        done.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await done
        watch.finish()
    if status is None or watch.killed:
        return watch.watched(await worker.ended), False
    return watch.watched(Ended(status << 8, 0.0, 0)), True


async def _done(worker: Worker) -> int | None:
    """Waits for a process to say that its cell is done: text from inside. Returns the status; nothing if it says something else."""
    head = await _exactly(worker, FRAME.size)
    size = FRAME.unpack(head)[0] if head else 0
    body = await _exactly(worker, size) if 0 < size <= _DONE_MAX else b""
    try:
        found = json.loads(body)
    except ValueError:
        return None
    status = found.get("done") if isinstance(found, dict) else None
    return status if isinstance(status, int) and 0 <= status <= _STATUS_MAX else None


async def _exactly(worker: Worker, size: int) -> bytes:
    assert worker.control is not None
    loop, found = asyncio.get_running_loop(), b""
    while len(found) < size:
        try:
            part = await loop.sock_recv(worker.control, size - len(found))
        except ConnectionResetError:
            return b""
        if not part:
            return b""
        found += part
    return found
