"""Processes that make calls, all of them on the same tenants at once; each can be killed with -9 at any moment."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final, Literal
from uuid import UUID

from bench.matrix.caller import Caller, End, Engines, Line, Way
from bench.matrix.ground import Ground
from holdfast import logs
from holdfast.database.engine import create_engine
from holdfast.ledger.executions import Executions
from holdfast.ledger.service import Ledger

_POOLS: Final = {"governor": 6, "broker": 4, "executor": 4, "api": 1}


@dataclass(frozen=True, slots=True)
class Play:
    """An order: make these calls of that cell, all at once."""

    ground: Ground
    callers: tuple[Caller, ...]


@dataclass(frozen=True, slots=True)
class News:
    """What a process tells: a victim has come to its place, or a call has ended, or could not be made."""

    kind: Literal["parked", "ended", "broken"]
    tenant_id: UUID
    number: int
    end: End | None = None
    error: str = ""


class _Player:
    """What runs inside a process."""

    def __init__(self, connection: Connection, urls: Mapping[str, str]) -> None:
        self._connection = connection
        engines = {
            role: create_engine(urls[f"holdfast_{role}"], process=f"matrix-{os.getpid()}", pool_size=size)
            for role, size in _POOLS.items()
        }
        self._engines = Engines(
            governor=engines["governor"],
            api=engines["api"],
            ledger=Ledger(engines["governor"]),
            redeeming=Ledger(engines["broker"]),
            executions=Executions(engines["executor"]),
        )
        self._lines: dict[UUID, Line] = {}
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        orders: list[Play | None] = []

        def read() -> None:
            while self._connection.poll():
                try:
                    orders.append(self._connection.recv())
                except EOFError:
                    orders.append(None)
                    break
            told.set()

        loop.add_reader(self._connection.fileno(), read)
        while True:
            await told.wait()
            told.clear()
            while orders:
                order = orders.pop(0)
                if order is None:
                    loop.remove_reader(self._connection.fileno())
                    return
                for caller in order.callers:
                    call = asyncio.create_task(self._make(order.ground, caller))
                    self._calls.add(call)
                    call.add_done_callback(self._calls.discard)

    async def _make(self, ground: Ground, caller: Caller) -> None:
        line = self._lines.setdefault(ground.tenant_id, Line())

        def parked(one: Caller) -> None:
            self._connection.send(News("parked", ground.tenant_id, one.number))

        try:
            end = await Way(self._engines, ground, line, caller, parked).go()
        except Exception as error:  # noqa: BLE001 (whatever it is, it is told, and fails the cell)
            news = News("broken", ground.tenant_id, caller.number, error=f"{type(error).__name__}: {error}"[:500])
        else:
            news = News("ended", ground.tenant_id, caller.number, end)
        self._connection.send(news)


def _main(connection: Connection, urls: Mapping[str, str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    logs.configure("matrix", "error")
    asyncio.run(_Player(connection, urls).run())
    os._exit(0)  # connections and what else is open end with the process: there is nothing to say goodbye to


class Process:
    """One such process, seen from outside. News go into the queue that it is given."""

    def __init__(self, urls: Mapping[str, str], news: asyncio.Queue[News]) -> None:
        context = _context()
        self._ours, theirs = context.Pipe()
        self._process: Any = context.Process(target=_main, args=(theirs, dict(urls)), daemon=True)
        self._process.start()
        theirs.close()
        self._news = news
        asyncio.get_running_loop().add_reader(self._ours.fileno(), self._read)
        self._open = True

    @property
    def pid(self) -> int:
        """Its process id."""
        pid: int = self._process.pid
        return pid

    def play(self, ground: Ground, callers: Sequence[Caller]) -> None:
        """Orders calls."""
        if callers:
            self._ours.send(Play(ground, tuple(callers)))

    def _read(self) -> None:
        while self._open:
            try:
                if not self._ours.poll():
                    return
                self._news.put_nowait(self._ours.recv())
            except (EOFError, OSError):
                self._close()

    def _close(self) -> None:
        if self._open:
            self._open = False
            asyncio.get_running_loop().remove_reader(self._ours.fileno())
            self._ours.close()

    async def kill(self) -> None:
        """Kills it with -9; what it had told by then is in the queue when this returns."""
        os.kill(self.pid, signal.SIGKILL)
        await asyncio.to_thread(self._process.join)
        self._read()
        self._close()

    async def stop(self) -> None:
        """Ends it."""
        if self._open:
            self._ours.send(None)
        await asyncio.to_thread(self._process.join, 10)
        if self._process.is_alive():
            await self.kill()
        self._close()


def _context() -> Any:  # the contexts of multiprocessing have no common type
    """Returns the server that forks processes with everything imported already: one is killed every few seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.matrix.process"])
    return context
