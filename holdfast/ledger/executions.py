"""What an executor may ask of the ledger, with the lease that it was given: to go outside once, and to store what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.ledger.lanes import Lanes
from holdfast.ledger.types import OutcomeView

_BEGIN = "SELECT ord, remaining_ms FROM begin_outward_all($1::uuid[], $2::bytea[])"
_STORE = "SELECT ord, stored FROM store_outcome_all($1::outcome_member[])"


@dataclass(frozen=True, slots=True)
class _Begin:
    hold_id: UUID
    lease_token: bytes


@dataclass(frozen=True, slots=True)
class _Store:
    hold_id: UUID
    lease_token: bytes
    outcome: OutcomeView


class Executions:
    """The executor's two operations; both may be asked again after a lost answer, and do nothing twice (LAW 9).

    Args:
        engine: As the role `holdfast_executor`, which has no right but on these functions.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._beginning: Lanes[_Begin, int | None] = Lanes(engine, _begin)
        self._storing: Lanes[_Store, bool] = Lanes(engine, _store)

    async def begin(self, hold_id: UUID, lease_token: bytes) -> int | None:
        """Asks, right before the first byte goes outside, whether it still may.

        Returns:
            Milliseconds that the lease lasts, by PostgreSQL's clock; None if it is lost, or a stop is on.
        """
        return await self._beginning.submit(hold_id, _Begin(hold_id, lease_token))

    async def store(self, hold_id: UUID, lease_token: bytes, outcome: OutcomeView) -> bool:
        """Stores an outcome under its hold; says whether it stands there now."""
        return await self._storing.submit(hold_id, _Store(hold_id, lease_token, outcome))


async def _begin(connection: asyncpg.Connection, batch: Sequence[_Begin]) -> Sequence[int | None]:
    rows = await connection.fetch(_BEGIN, [each.hold_id for each in batch], [each.lease_token for each in batch])
    answers = {row["ord"]: row["remaining_ms"] for row in rows}
    return [answers[number] for number in range(1, len(batch) + 1)]


async def _store(connection: asyncpg.Connection, batch: Sequence[_Store]) -> Sequence[bool]:
    members = [
        (
            each.hold_id,
            each.lease_token,
            each.outcome.ok,
            each.outcome.error_code,
            each.outcome.retryable,
            each.outcome.retry_after_ms,
            each.outcome.cost_class,
            each.outcome.provider_request_id,
            each.outcome.simulated,
            each.outcome.result,
        )
        for each in batch
    ]
    answers = {row["ord"]: row["stored"] for row in await connection.fetch(_STORE, members)}
    return [answers[number] for number in range(1, len(batch) + 1)]
