"""Steering a run that is admitted: telling it something, having it stand still or go on, and cancelling it with all that it started."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.database.engine import transaction
from holdfast.errors import Conflict, NotFound
from holdfast.ledger.types import Event
from holdfast.tenancy import idempotency
from holdfast.tenancy.idempotency import Claim
from holdfast.tenancy.principals import Principal
from holdfast.timeline import events
from holdfast_verdict.canonical import JsonValue

INPUTS_MAX: Final = 5_000
"""Inputs a run may have; Temporal takes no more than 10,000 signals for a workflow."""

InputMode = Literal["followup", "steer", "pause", "resume"]

_INSERT_INPUT = text("""
    INSERT INTO run_inputs (tenant_id, run_id, seq, mode, content, user_id)
    SELECT :tenant_id, :run_id, coalesce(max(seq), 0) + 1, :mode, :content, :user_id FROM run_inputs
    WHERE tenant_id = :tenant_id AND run_id = :run_id
    RETURNING seq
""")
_LOCK_RUN = text("""
    SELECT ended_at IS NOT NULL AS ended, user_id FROM runs
    WHERE tenant_id = :tenant_id AND run_id = :run_id FOR NO KEY UPDATE
""")
_REQUEST_CANCEL = text("""
    UPDATE runs SET cancel_requested_at = now()
    WHERE tenant_id = :tenant_id AND run_id = :run_id AND cancel_requested_at IS NULL AND ended_at IS NULL
    RETURNING 1
""")
_CHILDREN = text("""
    SELECT run_id FROM runs WHERE tenant_id = :tenant_id AND parent_run_id = :run_id ORDER BY run_id
""")


async def _lock_visible(connection: AsyncConnection, principal: Principal, run_id: UUID) -> bool:
    """Locks a run that the principal may steer, and says whether it has ended."""
    row = (await connection.execute(_LOCK_RUN, {"tenant_id": principal.tenant_id, "run_id": run_id})).one_or_none()
    if row is None or (not principal.sees_all and row.user_id != principal.user_id):
        raise NotFound(f"there is no run {run_id}")
    ended: bool = row.ended
    return ended


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A run that was asked to be cancelled, and the number of the event that says so."""

    run_id: UUID
    seq: int


async def request_cancel(engine: AsyncEngine, principal: Principal, run_id: UUID) -> list[CancelRequested]:
    """Asks a run and all that it started to be cancelled, each once; those that have ended stay as they are.

    Returns:
        Whom it was asked of, the run itself first.

    Raises:
        NotFound: There is no such run for this principal.
    """
    tenant_id = principal.tenant_id
    asked: list[CancelRequested] = []
    async with transaction(engine, tenant_id) as connection:
        await _lock_visible(connection, principal, run_id)
        # INVARIANT: from the top down, each is asked before its children are looked for. Admission of a child locks its parent and
        # looks whether that goes on, so that none comes in behind this; a run that has ended may have open children
        line = deque([run_id])
        while line:
            next_id = line.popleft()
            parameters = {"tenant_id": tenant_id, "run_id": next_id}
            if await connection.scalar(_REQUEST_CANCEL, parameters):
                by: dict[str, JsonValue] = {"by": principal.user}
                told = by if next_id == run_id else {**by, "of_run_id": str(run_id)}
                event = Event("lifecycle", "run.cancel_requested", told)
                asked.append(CancelRequested(next_id, await events.append(connection, tenant_id, next_id, [event])))
            line += (await connection.execute(_CHILDREN, parameters)).scalars()
    return asked


async def add_input(
    engine: AsyncEngine,
    principal: Principal,
    run_id: UUID,
    mode: InputMode,
    content: str,
    claim: Claim | None = None,
) -> tuple[dict[str, JsonValue], int]:
    """Tells a run something, or to stand still or go on.

    Returns:
        The answer with the input's number as `seq`, and the number of the new event (0 if it was told before).

    Raises:
        NotFound: There is no such run for this principal.
        Conflict: The run has ended.
        IdempotencyConflict: The claimed key was used for another request.
    """
    tenant_id = principal.tenant_id
    async with transaction(engine, tenant_id) as connection:
        if claim is not None and (body := await idempotency.claim(connection, claim)) is not None:
            return body, 0
        if await _lock_visible(connection, principal, run_id):
            raise Conflict("the run has ended", remedy="start a new one")
        parameters = {
            "tenant_id": tenant_id,
            "run_id": run_id,
            "mode": mode,
            "content": content,
            "user_id": principal.user_id,
        }
        seq: int = (await connection.execute(_INSERT_INPUT, parameters)).scalar_one()
        if seq > INPUTS_MAX:
            raise Conflict(f"the run has had {INPUTS_MAX} inputs", remedy="start a new one")
        event = Event("lifecycle", "input.received", {"seq": seq, "mode": mode, "by": principal.user})
        newest = await events.append(connection, tenant_id, run_id, [event])
        body = {"run_id": str(run_id), "seq": seq, "mode": mode}
        if claim is not None:
            await idempotency.keep(connection, claim, body)
        return body, newest
