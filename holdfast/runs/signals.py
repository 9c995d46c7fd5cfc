"""Delivering to a run's workflow what its rows say: inputs, cancellation, approvals, resolutions.

The rows are outboxes: API and sweeper call these alike, and a workflow takes the same signal twice without harm.
"""

from __future__ import annotations

from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from holdfast.contracts import names
from holdfast.contracts.run import ApprovalSignal, InputSignal, Message, ResolutionSignal
from holdfast.database.engine import transaction
from holdfast.runs.start import RPC_TIMEOUT

_log = structlog.get_logger(__name__)

_READ_INPUT = text("""
    SELECT i.mode FROM run_inputs i JOIN runs r ON r.tenant_id = i.tenant_id AND r.run_id = i.run_id
    WHERE i.tenant_id = :tenant_id AND i.run_id = :run_id AND i.seq = :seq AND i.signalled_at IS NULL AND r.started_at IS NOT NULL
""")
_MARK_INPUT = text("""
    UPDATE run_inputs SET signalled_at = now()
    WHERE tenant_id = :tenant_id AND run_id = :run_id AND seq = :seq AND signalled_at IS NULL
""")
_READ_APPROVAL = text("""
    SELECT run_id FROM approvals
    WHERE tenant_id = :tenant_id AND approval_id = :approval_id AND decided_at IS NOT NULL AND signalled_at IS NULL
""")
_MARK_APPROVAL = text("""
    UPDATE approvals SET signalled_at = now()
    WHERE tenant_id = :tenant_id AND approval_id = :approval_id AND signalled_at IS NULL
""")
_READ_CANCEL = text("""
    SELECT 1 FROM runs WHERE tenant_id = :tenant_id AND run_id = :run_id AND cancel_requested_at IS NOT NULL
      AND cancel_signalled_at IS NULL AND started_at IS NOT NULL
""")
_MARK_CANCEL = text("""
    UPDATE runs SET cancel_signalled_at = now()
    WHERE tenant_id = :tenant_id AND run_id = :run_id AND cancel_signalled_at IS NULL
""")


async def deliver_input(client: Client, engine: AsyncEngine, tenant_id: UUID, run_id: UUID, seq: int) -> None:
    """Signals one input, unless that has happened or the workflow is not started yet.

    Raises:
        RPCError: Temporal does not answer; the input stays in the outbox.
    """
    parameters = {"tenant_id": tenant_id, "run_id": run_id, "seq": seq}
    async with transaction(engine, tenant_id) as connection:
        mode = await connection.scalar(_READ_INPUT, parameters)
    if mode is None:
        return
    await _signal(client, run_id, names.SIGNAL_INPUT, InputSignal(seq=seq, mode=mode))
    async with transaction(engine, tenant_id) as connection:
        await connection.execute(_MARK_INPUT, parameters)


async def deliver_approval(client: Client, engine: AsyncEngine, tenant_id: UUID, approval_id: UUID) -> None:
    """Signals that an approval is decided, unless that has happened.

    Raises:
        RPCError: Temporal does not answer; the approval stays in the outbox.
    """
    parameters = {"tenant_id": tenant_id, "approval_id": approval_id}
    async with transaction(engine, tenant_id) as connection:
        run_id: UUID | None = await connection.scalar(_READ_APPROVAL, parameters)
    if run_id is None:
        return
    await _signal(client, run_id, names.SIGNAL_APPROVAL, ApprovalSignal(approval_id=str(approval_id)))
    async with transaction(engine, tenant_id) as connection:
        await connection.execute(_MARK_APPROVAL, parameters)


async def deliver_cancel(client: Client, engine: AsyncEngine, tenant_id: UUID, run_id: UUID) -> None:
    """Cancels the workflow of a run whose cancellation was asked for, unless that has happened or it is not started yet.

    Raises:
        RPCError: Temporal does not answer; the request stays in the outbox.
    """
    parameters = {"tenant_id": tenant_id, "run_id": run_id}
    async with transaction(engine, tenant_id) as connection:
        wanted = await connection.scalar(_READ_CANCEL, parameters)
    if wanted is None:
        return
    try:
        await client.get_workflow_handle(str(run_id)).cancel(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        _pass_if_gone(error, run_id)
    async with transaction(engine, tenant_id) as connection:
        await connection.execute(_MARK_CANCEL, parameters)


async def deliver_resolution(client: Client, run_id: UUID, hold_id: UUID) -> None:
    """Wakes a run that waits for a hold to be resolved. The hold's row says what became of it.

    Raises:
        RPCError: Temporal does not answer.
    """
    await _signal(client, run_id, names.SIGNAL_RESOLUTION, ResolutionSignal(hold_id=str(hold_id)))


async def _signal(client: Client, run_id: UUID, name: str, message: Message) -> None:
    try:
        await client.get_workflow_handle(str(run_id)).signal(name, message, rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        _pass_if_gone(error, run_id)


def _pass_if_gone(error: RPCError, run_id: UUID) -> None:
    """A workflow that has ended needs no signal any more; anything else is the caller's to try again."""
    if error.status != RPCStatusCode.NOT_FOUND:
        raise error
    _log.info("run.signal_too_late", run_id=str(run_id))
