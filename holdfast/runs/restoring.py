"""After a restore: what the two restored states do not know of each other, and what nobody can know of the world, is put right.

It runs before any worker does. What it tells Temporal stands in the histories before a workflow takes its next step.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from holdfast.database.engine import tenantless, transaction
from holdfast.ledger.repository import read_hold
from holdfast.ledger.service import settle_in
from holdfast.ledger.types import Event, Settlement
from holdfast.runs import signals
from holdfast.runs.start import RPC_TIMEOUT, start_run
from holdfast.timeline import events

ACTOR: Final = "restore"

_OPEN = text("""
    SELECT r.tenant_id, r.run_id, t.slug AS tenant, r.agent_name AS agent, r.cancel_requested_at IS NOT NULL AS cancelled,
           (SELECT i.mode FROM run_inputs i WHERE i.tenant_id = r.tenant_id AND i.run_id = r.run_id AND i.mode IN ('pause', 'resume')
            ORDER BY i.seq DESC LIMIT 1) IS NOT DISTINCT FROM 'pause' AS paused
    FROM runs r JOIN tenants t ON t.tenant_id = r.tenant_id WHERE r.ended_at IS NULL ORDER BY r.created_at, r.run_id
""")
_OPEN_HOLDS = text("""
    SELECT h.tenant_id, h.hold_id, h.run_id, h.kind, h.tool, h.state, h.step FROM holds h JOIN runs r USING (tenant_id, run_id)
    WHERE h.settled_at IS NULL AND h.kind <> 'run.budget' ORDER BY h.created_at
""")
_WAITING = text("""
    SELECT a.run_id FROM approvals a JOIN runs r USING (tenant_id, run_id)
    WHERE r.ended_at IS NULL AND a.consumed_by IS NULL AND a.verdict IS DISTINCT FROM 'denied'
""")
# INVARIANT (LAW 4): the executor that had this hold worked on after the backup, with the database that was backed up: whether it
# went outside is not known here, so none of them may be voided as if it had not.
_ASSUME_OUTWARD = text("""
    UPDATE holds SET outward_at = clock_timestamp() WHERE state = 'executing' AND outward_at IS NULL
""")
_FORGET_CANCELS = text("""
    UPDATE runs SET cancel_signalled_at = NULL WHERE ended_at IS NULL AND cancel_requested_at IS NOT NULL
""")
_FORGET_INPUTS = text("""
    UPDATE run_inputs i SET signalled_at = NULL FROM runs r
    WHERE r.tenant_id = i.tenant_id AND r.run_id = i.run_id AND r.ended_at IS NULL AND i.mode <> 'start'
""")
_FORGET_APPROVALS = text("""
    UPDATE approvals a SET signalled_at = NULL FROM runs r
    WHERE r.tenant_id = a.tenant_id AND r.run_id = a.run_id AND r.ended_at IS NULL AND a.decided_at IS NOT NULL
""")
_FORGET_START = text("UPDATE runs SET started_at = NULL WHERE tenant_id = :tenant_id AND run_id = :run_id")
_UNSIGNALLED = text("""
    SELECT seq FROM run_inputs WHERE tenant_id = :tenant_id AND run_id = :run_id AND signalled_at IS NULL ORDER BY seq
""")
_TOLD = text("""
    SELECT 1 FROM timeline_events WHERE tenant_id = :tenant_id AND run_id = :run_id AND type = 'run.restored'
      AND data ->> 'taken_at' = :taken_at LIMIT 1
""")
_PAUSE = text("""
    INSERT INTO run_inputs (tenant_id, run_id, seq, mode, content, user_id)
    SELECT r.tenant_id, r.run_id, (SELECT max(seq) + 1 FROM run_inputs WHERE tenant_id = :tenant_id AND run_id = :run_id),
           'pause', '', r.user_id
    FROM runs r WHERE r.tenant_id = :tenant_id AND r.run_id = :run_id
""")


@dataclass(frozen=True, slots=True)
class RestoredRun:
    """A run that was under way when the backup was taken.

    Attributes:
        stood: What it was doing, in words.
        state: What the restore did with it.
    """

    run_id: UUID
    tenant: str
    agent: str
    stood: str
    state: str


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was put right.

    Attributes:
        unknown: Executions that were under way: their outcome is not known here.
        voided: Holds whose permit nobody may use any more.
    """

    runs: tuple[RestoredRun, ...]
    unknown: int
    voided: int


async def reconcile(engine: AsyncEngine, client: Client, *, resume: bool, taken_at: datetime) -> Reconciled:
    """Puts right what two restored states do not know of each other. Done again it changes nothing more.

    Args:
        engine: The restored database, as its superuser: this crosses tenants.
        client: The restored Temporal, with Holdfast's data converter; no worker may run.
        resume: Whether runs go on by themselves. Else they are paused before they do anything.
        taken_at: When the backup was taken.

    Raises:
        RPCError: Temporal does not answer.
    """
    async with tenantless(engine) as connection:
        standing = await _standing(connection)
        unknown = (await connection.execute(_ASSUME_OUTWARD)).rowcount
        for forget in (_FORGET_CANCELS, _FORGET_INPUTS, _FORGET_APPROVALS):
            await connection.execute(forget)
        runs = list(await connection.execute(_OPEN))
        holds = [] if resume else [row for row in await connection.execute(_OPEN_HOLDS) if row.state == "held"]
    for row in holds:
        await _void(engine, row.tenant_id, row.hold_id)
    restored = []
    for run in runs:
        ids = (run.tenant_id, run.run_id)
        state = await _restore_run(engine, client, ids, cancelled=run.cancelled, paused=run.paused, resume=resume)
        data = {"taken_at": taken_at.isoformat(), "state": state}
        async with transaction(engine, run.tenant_id) as connection:
            if not await connection.scalar(
                _TOLD, {"tenant_id": ids[0], "run_id": ids[1], "taken_at": data["taken_at"]}
            ):
                await events.append(connection, *ids, [Event("lifecycle", "run.restored", data)])
        stood = standing.get(run.run_id, "between two steps")
        restored.append(RestoredRun(run.run_id, run.tenant, run.agent, stood, state))
    return Reconciled(tuple(restored), unknown, len(holds))


async def _standing(connection: AsyncConnection) -> dict[UUID, str]:
    """Says of each run that was in the middle of something what that was."""
    found = {row.run_id: "waits for an approval" for row in await connection.execute(_WAITING)}
    words = {
        "held": "was about to execute {}",
        "executing": "was executing {}: its outcome is not known here",
        "executed": "had executed {}",
        "unknown": "waits for a person to say whether {} happened",
    }
    for row in await connection.execute(_OPEN_HOLDS):
        found[row.run_id] = words[row.state].format(f"{row.tool or row.kind} (step {row.step})")
    return found


async def _void(engine: AsyncEngine, tenant_id: UUID, hold_id: UUID) -> None:
    """Takes a hold back whose permit nobody has used before the backup: the run asks anew when it goes on (LAW 1)."""
    async with transaction(engine, tenant_id) as connection:
        hold = await read_hold(connection, tenant_id, hold_id)
        if hold is None or hold.state != "held":
            return
        settlement = Settlement(
            tenant_id=tenant_id,
            hold_id=hold_id,
            seen_state=hold.state,
            seen_outcome=hold.outcome is not None,
            seen_outward=hold.went_outward,
            to="voided",
            actual={},
            actor=ACTOR,
            reason="restored from a backup: its permit is used by nobody",
            returns_budget=True,
        )
        await settle_in(connection, settlement)


async def _restore_run(
    engine: AsyncEngine, client: Client, ids: tuple[UUID, UUID], *, cancelled: bool, paused: bool, resume: bool
) -> str:
    """Makes Temporal know of a run what its rows say; returns what becomes of it."""
    tenant_id, run_id = ids
    parameters = {"tenant_id": tenant_id, "run_id": run_id}
    status = await _workflow_status(client, run_id)
    if status is None:
        async with transaction(engine, tenant_id) as connection:
            await connection.execute(_FORGET_START, parameters)
    elif status != WorkflowExecutionStatus.RUNNING:
        return "ended"  # in Temporal: a sweeper ends the run
    # found running or not: the row may not say yet that it was started
    await start_run(client, engine, tenant_id, run_id)
    if cancelled:
        await signals.deliver_cancel(client, engine, tenant_id, run_id)
        return "cancelled"
    if not resume and not paused:
        async with transaction(engine, tenant_id) as connection:
            await connection.execute(_PAUSE, parameters)
    async with transaction(engine, tenant_id) as connection:
        unsignalled = list((await connection.execute(_UNSIGNALLED, parameters)).scalars())
    for seq in unsignalled:
        await signals.deliver_input(client, engine, tenant_id, run_id, seq)
    return "paused" if paused or not resume else "resumed"


async def _workflow_status(client: Client, run_id: UUID) -> WorkflowExecutionStatus | None:
    try:
        described = await client.get_workflow_handle(str(run_id)).describe(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return None
    return described.status
