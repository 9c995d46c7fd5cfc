"""What an executor may ask of PostgreSQL, with the lease that it was given.

To go outside once, and to store what came of it; for an agent that consents, to read or vote on the approval that its own action
names; for code that runs, to write down what it asks its run for, and to read the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.database.engine import tenantless
from holdfast.ledger.lanes import Lanes
from holdfast.ledger.types import OutcomeView

_BEGIN = "SELECT ord, remaining_ms FROM begin_outward_all($1::uuid[], $2::bytea[])"
_READ_APPROVAL = text("SELECT read_approval_by_hold(:hold_id, :lease_token)::text")
_VOTE = text("SELECT status, state FROM vote_by_hold(:hold_id, :lease_token)")
_ASK = text(
    "SELECT status, seq FROM ask_by_hold(:hold_id, :lease_token, :number, :kind, :name, :arguments, CAST(:told AS jsonb))"
)
_READ_ANSWER = text("SELECT ok, code, answer FROM answer_by_hold(:hold_id, :lease_token, :number)")
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
        self._engine = engine
        self._beginning: Lanes[_Begin, int | None] = Lanes(engine, _begin)
        self._storing: Lanes[_Store, bool] = Lanes(engine, _store)

    async def begin(self, hold_id: UUID, lease_token: bytes) -> int | None:
        """Asks, right before the first byte goes outside, whether it still may.

        Returns:
            Milliseconds that the lease lasts, by PostgreSQL's clock; None if it is lost, or a stop is on.
        """
        return await self._beginning.submit(hold_id, _Begin(hold_id, lease_token))

    async def read_approval(self, hold_id: UUID, lease_token: bytes) -> str | None:
        """Returns the approval that the hold's action names, as JSON; None if it does not ask for the run's agent."""
        parameters = {"hold_id": hold_id, "lease_token": lease_token}
        async with tenantless(self._engine) as connection:
            found: str | None = await connection.scalar(_READ_APPROVAL, parameters)
        return found

    async def vote(self, hold_id: UUID, lease_token: bytes) -> tuple[str, str]:
        """Votes as the run's agent, on what the hold's action names; the same again is the same vote.

        Returns:
            `cast`, `same` or why it does not count (see `cast_vote` of the schema), and where the approval stands.
        """
        parameters = {"hold_id": hold_id, "lease_token": lease_token}
        async with tenantless(self._engine) as connection:
            row = (await connection.execute(_VOTE, parameters)).one()
        return row.status, row.state

    async def ask(
        self, hold_id: UUID, lease_token: bytes, number: int, kind: str, name: str, arguments: bytes, told: str
    ) -> tuple[str, int]:
        """Writes down what running code asks its run for; the same again is the same request.

        Returns:
            `asked`, `conflict` if something else was asked under that number, or `lease_lost`; and the event that says it, or 0.
        """
        parameters = {"hold_id": hold_id, "lease_token": lease_token, "number": number, "kind": kind, "name": name}
        async with tenantless(self._engine) as connection:
            row = (await connection.execute(_ASK, {**parameters, "arguments": arguments, "told": told})).one()
        return row.status, row.seq

    async def read_answer(self, hold_id: UUID, lease_token: bytes, number: int) -> tuple[bool, str, str] | None:
        """Returns what running code is told: whether it was done, the code of why not, and the words; None if there is no answer."""
        parameters = {"hold_id": hold_id, "lease_token": lease_token, "number": number}
        async with tenantless(self._engine) as connection:
            row = (await connection.execute(_READ_ANSWER, parameters)).one_or_none()
        return None if row is None else (row.ok, row.code, row.answer.decode())

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
