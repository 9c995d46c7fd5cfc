"""The lease of an execution: the right, for a bounded time, to go outside once and to store the outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar
from uuid import UUID

import asyncpg
import structlog
from sqlalchemy.exc import SQLAlchemyError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from holdfast.errors import HoldConflict, LeaseLost, Unavailable
from holdfast.failpoint import failpoint
from holdfast.ledger.executions import Executions
from holdfast.ledger.types import OutcomeView

_log = structlog.get_logger("executor")

AnswerT = TypeVar("AnswerT")

# A server that is starting or stopping refuses with errors of the driver's own, which SQLAlchemy passes on as they are.
_TRANSIENT = (Unavailable, SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Outward(Protocol):
    """What stands between an execution and the outside."""

    @property
    def remaining_ms(self) -> int:
        """Milliseconds until the lease ends by this process's clock."""

    async def begin(self) -> None:
        """Asks, right before the first byte goes outside, whether it still may. Called once.

        Raises:
            LeaseLost: The lease has run out, or the hold is no longer executing.
        """

    def assert_live(self) -> None:
        """Checks the local clock once more, right before writing.

        Raises:
            LeaseLost: The lease has run out.
        """


class Lease:
    """The lease that came with a redeemed permit.

    Attributes:
        began: Whether the request was allowed to begin.
        released: Whether its bytes were then let out.
        withheld: Whether they were not, because the lease had run out: provably nothing went outside.
    """

    def __init__(self, executions: Executions, hold_id: UUID, token: bytes, lease_ms: int, kind: str = "") -> None:
        self._executions = executions
        self._hold_id = hold_id
        self._token = token
        self._kind = kind
        self._ends_at = time.monotonic() + lease_ms / 1000
        self.began = False
        self.released = False
        self.withheld = False

    @property
    def remaining_ms(self) -> int:
        """Milliseconds until the lease ends by this process's clock."""
        return max(int((self._ends_at - time.monotonic()) * 1000), 0)

    async def begin(self) -> None:
        """See `Outward.begin`."""
        if self.began:
            raise LeaseLost("this execution has gone outside already: one permit, one request")
        await failpoint("execute.before_outward", self._kind)
        # INVARIANT (LAW 1, rule 7): PostgreSQL's clock, the hold's state and the fencing token decide, in one compare-and-set
        remaining_ms = await self._ask(lambda: self._executions.begin(self._hold_id, self._token))
        if remaining_ms is None:
            raise LeaseLost("the lease is lost: nothing is sent", remedy="the run will reserve anew")
        self._ends_at = min(self._ends_at, time.monotonic() + remaining_ms / 1000)
        self.began = True
        await failpoint("execute.after_outward", self._kind)

    def assert_live(self) -> None:
        """See `Outward.assert_live`; a process that was frozen since `begin` notices here."""
        if not self.began or time.monotonic() >= self._ends_at:
            self.withheld = True
            raise LeaseLost("the lease ran out before the request was sent")
        self.released = True

    async def store(self, outcome: OutcomeView) -> None:
        """Stores the outcome under the hold: the execution's last act (rule 3).

        Whoever is cancelled meanwhile stores it all the same, and is cancelled then (LAW 4).

        Raises:
            LeaseLost: The hold was settled by somebody else, or holds another outcome.
        """
        storing = asyncio.create_task(self._store(outcome))
        try:
            await asyncio.shield(storing)
        except asyncio.CancelledError:
            await storing
            raise

    async def read_approval(self) -> str | None:
        """See `holdfast.ledger.executions.Executions.read_approval`."""
        return await self._ask(lambda: self._executions.read_approval(self._hold_id, self._token))

    async def vote(self) -> tuple[str, str]:
        """See `holdfast.ledger.executions.Executions.vote`."""
        return await self._ask(lambda: self._executions.vote(self._hold_id, self._token))

    async def ask(self, number: int, kind: str, name: str, arguments: bytes, told: str) -> int:
        """Writes down what the code that runs under this lease asks for; returns the event that says it, or 0.

        Raises:
            LeaseLost: It runs no longer, by PostgreSQL's clock.
            HoldConflict: Something else was asked under that number.
        """
        status, seq = await self._ask(
            lambda: self._executions.ask(self._hold_id, self._token, number, kind, name, arguments, told)
        )
        if status == "conflict":
            raise HoldConflict(f"request {number} was another one before")
        if status != "asked":
            raise LeaseLost("the lease is lost: the run is not asked")
        return seq

    async def read_answer(self, number: int) -> tuple[bool, str, str] | None:
        """See `holdfast.ledger.executions.Executions.read_answer`."""
        return await self._ask(lambda: self._executions.read_answer(self._hold_id, self._token, number))

    async def _store(self, outcome: OutcomeView) -> None:
        await failpoint("outcome.before", self._kind)
        if not await self._ask(lambda: self._executions.store(self._hold_id, self._token, outcome)):
            raise LeaseLost("the outcome came too late: its hold is settled")
        _log.info(
            "outcome.stored", kind=self._kind, ok=outcome.ok, cost=outcome.cost_class, error_code=outcome.error_code
        )
        await failpoint("outcome.after", self._kind)

    async def _ask(self, operation: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        """Asks one of the executor's two questions, which may be asked again after a lost answer.

        A database that is away for some seconds must not cost an outcome: it tries for as long as the lease lasts.

        Raises:
            Unavailable: It was away for longer.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_TRANSIENT),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            stop=stop_after_delay(max(self.remaining_ms / 1000, 30)),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    return await operation()
        except _TRANSIENT as error:
            raise Unavailable(f"PostgreSQL does not answer ({type(error).__name__})") from error
        raise AssertionError  # AsyncRetrying ends with an answer or an error
