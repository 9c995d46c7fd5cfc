"""Group commit: what comes while a batch is under way is the next batch. One statement, one transaction, one wait for the disk.

There is no timer: an operation that finds its lane idle goes at once, alone. One batch is under way in a lane at a time, so batches are
as large as the load makes them; of many that wait, a part goes. A tenant always takes the same lane; a batch may carry many tenants.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar
from uuid import UUID

import asyncpg
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.database.engine import LOST, DatabaseAway, throw_away
from holdfast.errors import LedgerBusy, Unavailable

_log = structlog.get_logger("ledger")

BATCH_MAX: Final = 256
QUEUE_MAX: Final = 10_000
"""What waits in one lane at most; whoever comes then is told so, and nothing of theirs is kept."""
LANES: Final = 2
_TRIES_MAX: Final = 3
_PARTS: Final = 3
_PART_MIN: Final = 64
"""Of fewer than these, all go at once: a batch costs as much as some twenty members before it does anything for one of them."""
_AGAIN: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
# SQLAlchemy only connects here: its errors are of servers that start or stop, and of a pool that has no connection left
_NOT_NOW: Final = (TimeoutError, SQLAlchemyError, asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError)

MemberT = TypeVar("MemberT")
AnswerT = TypeVar("AnswerT")


@dataclass(slots=True)
class Figures:
    """What a lane has done, for benchmarks and metrics."""

    members: int = 0
    batches: int = 0
    alone: int = 0


@dataclass(slots=True)
class _Lane(Generic[MemberT, AnswerT]):
    waiting: deque[tuple[MemberT, asyncio.Future[AnswerT]]] = field(default_factory=deque)
    worker: asyncio.Task[None] | None = None


class Lanes(Generic[MemberT, AnswerT]):
    """Coalesces calls of one operation.

    Args:
        engine: Its connections carry the batches; a batch has one for as long as it is under way.
        send: Does a batch in one transaction of its own, and returns an answer for each member, in order.
        lanes: How many batches may be under way at once.
        batch_max: Members of a batch at most.
        queue_max: Members that may wait in one lane.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        send: Callable[[asyncpg.Connection, Sequence[MemberT]], Awaitable[Sequence[AnswerT]]],
        *,
        lanes: int = LANES,
        batch_max: int = BATCH_MAX,
        queue_max: int = QUEUE_MAX,
    ) -> None:
        self._engine = engine
        self._send = send
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._lanes: list[_Lane[MemberT, AnswerT]] = [_Lane() for _ in range(lanes)]
        self.figures = Figures()

    async def submit(self, key: UUID, member: MemberT) -> AnswerT:
        """Returns the answer to one member, once its batch is committed; the same key takes the same lane.

        Whoever is cancelled while waiting in the queue is taken out of it; a batch that is under way goes on.

        Raises:
            LedgerBusy: Too many wait already.
            DatabaseAway: PostgreSQL is away, or went away in the middle: what became of the member is not known.
            asyncpg.PostgresError: PostgreSQL refuses this very member, or it has no form on the wire.
        """
        lane = self._lanes[key.int % len(self._lanes)]
        if len(lane.waiting) >= self._queue_max:
            raise LedgerBusy(
                f"{self._queue_max} operations wait for the ledger already", remedy="try again in some seconds"
            )
        future: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        lane.waiting.append((member, future))
        if lane.worker is None:
            lane.worker = asyncio.create_task(self._work(lane))
        return await future

    async def _work(self, lane: _Lane[MemberT, AnswerT]) -> None:
        batch: list[tuple[MemberT, asyncio.Future[AnswerT]]] = []
        try:
            while lane.waiting:
                batch = []
                # not all at once: while PostgreSQL does one part, this process answers the one before and prepares the next
                size = min(max(len(lane.waiting) // _PARTS, _PART_MIN), self._batch_max)
                while lane.waiting and len(batch) < size:
                    member, future = lane.waiting.popleft()
                    if not future.done():  # cancelled meanwhile: nobody wants it any more
                        batch.append((member, future))
                if batch:
                    await self._commit(batch)
        finally:
            lane.worker = None
            # only if this very task was cancelled, with its process: nobody is left waiting for ever
            for _, future in (*batch, *lane.waiting):
                future.cancel()
            lane.waiting.clear()

    async def _commit(self, batch: Sequence[tuple[MemberT, asyncio.Future[AnswerT]]]) -> None:
        """Does a batch; if it is refused, here or by PostgreSQL, each member on its own, so that a bad one harms nobody else."""
        try:
            answers = await self._ask([member for member, _ in batch])
        except Unavailable as error:
            _fail(batch, error)  # it is not the members' fault, and would be so for each of them
        except Exception as error:  # noqa: BLE001 (whoever waits is told, whatever it was)
            if len(batch) == 1:
                _fail(batch, error)
                return
            _log.warning("ledger.batch_refused", error=type(error).__name__, members=len(batch))
            for one in batch:
                self.figures.alone += 1
                await self._commit([one])
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def alone(self, member: MemberT) -> AnswerT:
        """Does one member in a batch of its own, beside the lanes; raises what `submit` raises."""
        self.figures.alone += 1
        return (await self._ask([member]))[0]

    async def _ask(self, members: Sequence[MemberT]) -> Sequence[AnswerT]:
        """Does a batch. Every operation may be asked again with the same members: it does nothing twice (LAW 9)."""
        tries = 0
        while True:
            tries += 1
            try:
                answers = await self._ask_once(members)
            except (*_AGAIN, DatabaseAway):
                # locks of windows that had just begun were taken in two orders; or a connection had died in the pool
                if tries == _TRIES_MAX:
                    raise
                continue
            self.figures.members += len(members)
            self.figures.batches += 1
            return answers

    async def _ask_once(self, members: Sequence[MemberT]) -> Sequence[AnswerT]:
        try:
            async with self._engine.connect() as connection:
                raw: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
                try:
                    return await self._send(raw, members)
                except BaseException as error:
                    if isinstance(error, LOST) or not isinstance(error, asyncpg.PostgresError):
                        # its state is not known: nobody else gets it, and PostgreSQL rolls back what it left open
                        await throw_away(connection, raw)
                    raise
        except (*LOST, *_NOT_NOW) as error:
            raise DatabaseAway(f"PostgreSQL does not answer ({type(error).__name__})") from error


def _fail(batch: Sequence[tuple[MemberT, asyncio.Future[AnswerT]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
