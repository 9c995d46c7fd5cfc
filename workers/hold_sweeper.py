"""Settling holds that no run will settle: many at once, through the same path as everybody, so that they share its batches."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import timedelta
from typing import Any, Final

import structlog
from sqlalchemy import Row, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError

from holdfast.actions.settling import judge
from holdfast.database.engine import tenantless
from holdfast.errors import Unavailable
from holdfast.ledger.service import Ledger
from holdfast.ledger.types import NANO_USD, Event, FactsChanged, HoldView, Settlement
from holdfast.runs import signals
from holdfast.timeline.stream import Publisher

log = structlog.get_logger("sweepers")

BATCH_MAX: Final = 500
_READS_AT_ONCE: Final = 4
_TOLD_AT_ONCE: Final = 16
_DUE_HOLDS = text("SELECT * FROM due_holds(:count, CAST(:unknown_deadline AS interval))")


class HoldSweeper:
    """Expires, voids, commits and gives up what is due.

    Args:
        engine: Database as the sweeper.
        client: Temporal, to wake runs that wait for an outcome.
        publisher: Announces what was written.
        unknown_deadline: For how long an unknown outcome is waited for.
    """

    def __init__(self, engine: AsyncEngine, client: Client, publisher: Publisher, unknown_deadline: timedelta) -> None:
        self._engine = engine
        self.ledger = Ledger(engine)
        self._client = client
        self._publisher = publisher
        self._unknown_deadline = unknown_deadline
        self._reading = asyncio.Semaphore(_READS_AT_ONCE)
        self._telling = asyncio.Semaphore(_TOLD_AT_ONCE)

    async def sweep(self) -> Counter[str]:
        """Settles all that is due, and says in one line how many went where.

        Returns:
            How many went to each state; `changed` = somebody else was first, `failed` = it stays due.
        """
        began, done = time.monotonic(), Counter[str]()
        while True:
            async with tenantless(self._engine) as connection:
                parameters = {"count": BATCH_MAX, "unknown_deadline": self._unknown_deadline}
                rows = list(await connection.execute(_DUE_HOLDS, parameters))
            # read first, then settled all at once: what waits for the ledger while it works is its next batch
            holds = await asyncio.gather(*(self._read(row) for row in rows))
            work = (self._one(row, hold) for row, hold in zip(rows, holds, strict=True))
            results = await asyncio.gather(*work, return_exceptions=True)
            went = Counter(result for result in results if isinstance(result, str))
            done += went
            if broken := [result for result in results if isinstance(result, BaseException)]:
                self._say(done, began)
                raise broken[0]
            # what fails or is left stays due, and would come first again
            if len(rows) < BATCH_MAX or went.total() == went["failed"] + went["left"]:
                self._say(done, began)
                return done

    def _say(self, done: Counter[str], began: float) -> None:
        if done:
            log.info("holds.swept", **done, took_ms=int((time.monotonic() - began) * 1000))

    async def _read(self, row: Row[Any]) -> HoldView | None:  # rows of text() carry no types
        async with self._reading:
            return await self.ledger.read_hold(row.tenant_id, row.hold_id)

    async def _one(self, row: Row[Any], hold: HoldView | None) -> str:  # rows of text() carry no types
        ids = {"tenant_id": str(row.tenant_id), "run_id": str(row.run_id), "hold_id": str(row.hold_id)}
        try:
            with structlog.contextvars.bound_contextvars(**ids):
                return "left" if hold is None else await self._settle(row, hold)
        except (Unavailable, OSError):
            raise
        except Exception as error:
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            # it stays due, and this line repeats until somebody looks at it
            log.exception("sweepers.failed", work="settle", **ids)
            return "failed"

    async def _settle(self, row: Row[Any], hold: HoldView) -> str:  # rows of text() carry no types
        settlement = _settlement(hold, run_ended=row.run_ended)
        if settlement is None:
            return "left"
        try:
            seq = await self.ledger.settle(settlement)
        except FactsChanged:
            return "changed"  # somebody else moved it; if it is still due, the next sweep sees it
        log.info("hold.swept", state=settlement.to, reason=settlement.reason)
        async with self._telling:
            await self._publisher.poke(row.tenant_id, row.run_id, seq)
            if hold.state == "unknown" and not row.run_ended:
                try:
                    await signals.deliver_resolution(self._client, row.run_id, hold.hold_id)
                except RPCError as error:
                    # best effort: a run that waits for this looks by itself after a while
                    log.warning("sweepers.temporal_away", work="settle", status=error.status.name)
        return settlement.to


def _settlement(hold: HoldView, *, run_ended: bool) -> Settlement | None:
    """Says what a due hold is settled as; None if it stays."""
    # an unknown hold is due for one of two reasons: its outcome came after all, or nobody waits for it any longer
    lost = hold.outcome is None or hold.outcome.cost_class == "unknown"
    judgement = judge(hold, deadline_passed=hold.state == "unknown" and lost)
    if judgement.to is None:
        return None
    expired = hold.state == "held" and not run_ended
    event = Event(
        "budget",
        "hold.unknown" if judgement.to == "unknown" else "hold.settled",
        {
            "step": hold.key.step,
            "try": hold.key.try_number,
            "hold_id": str(hold.hold_id),
            "kind": hold.kind,
            "tool": hold.tool,
            "state": "expired" if expired else judgement.to,
            "held_nano_usd": hold.max_cost_nano_usd,
            "cost_nano_usd": judgement.actual.get(NANO_USD, 0),
            "reason": judgement.reason,
        },
    )
    return Settlement(
        tenant_id=hold.key.tenant_id,
        hold_id=hold.hold_id,
        seen_state=hold.state,
        seen_outcome=hold.outcome is not None,
        seen_outward=hold.went_outward,
        to="expired" if expired else judgement.to,
        actual=judgement.actual,
        actor="sweeper",
        reason=judgement.reason,
        events=(event,),
        returns_budget=True,
    )
