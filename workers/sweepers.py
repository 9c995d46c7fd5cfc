"""The sweepers: they settle what no run will, and drain the outboxes. One works at a time, elected by an advisory lock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Row, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.run_state import end_run
from holdfast.approvals import escalation
from holdfast.database.engine import AWAY, tenantless, transaction
from holdfast.errors import Unavailable
from holdfast.histories import storing
from holdfast.ids import PLATFORM_TENANT_ID
from holdfast.ledger.budget import return_budget
from holdfast.runs import signals
from holdfast.runs.start import RPC_TIMEOUT, start_run
from holdfast.settings import GovernorSettings
from holdfast.timeline.stream import Publisher
from workers.eraser import Eraser
from workers.hold_sweeper import HoldSweeper
from workers.journal_tender import JournalTender
from workers.webhook_signer import WebhookSigner

log = structlog.get_logger("sweepers")

LOCK_KEY: Final = 0x737765657073
"""Whoever holds this advisory lock sweeps; the number spells "sweeps"."""
_BATCH_MAX = 100
_LOOK_AT_RUNS_EVERY = 5


_TRY_LOCK = text("SELECT pg_try_advisory_lock(:key)")
_DUE_RETURNS = text("SELECT * FROM due_returns(:count)")
_DUE_STARTS = text("SELECT * FROM due_starts(:count)")
_DUE_SIGNALS = text("SELECT * FROM due_signals(:count)")
_OPEN_RUNS = text("SELECT * FROM open_runs(:count, :after)")
_UNDIGESTED = text("SELECT * FROM undigested_runs(:count)")

_ENDED_AS = {
    WorkflowExecutionStatus.TERMINATED: ("terminated", "workflow.terminated"),
    WorkflowExecutionStatus.TIMED_OUT: ("timed_out", "workflow.timed_out"),
    WorkflowExecutionStatus.CANCELED: ("cancelled", "run.cancelled"),
    WorkflowExecutionStatus.FAILED: ("failed", "workflow.failed"),
    WorkflowExecutionStatus.COMPLETED: ("failed", "workflow.ended"),
}


def _ids_of(row: Row[Any]) -> dict[str, str]:  # rows of text() carry no types
    """Returns the ids that every line about this row names."""
    found = row._mapping
    return {name: str(found[name]) for name in ("tenant_id", "run_id") if name in found}


class Sweepers:
    """All sweepers of one process."""

    def __init__(
        self,
        engine: AsyncEngine,
        client: Client,
        publisher: Publisher,
        settings: GovernorSettings,
        webhook_key: Ed25519PrivateKey,
    ) -> None:
        self._engine = engine
        self._signer = WebhookSigner(engine, webhook_key)
        self._holds = HoldSweeper(engine, client, publisher, timedelta(milliseconds=settings.unknown_deadline_ms))
        self._tender = JournalTender(engine)
        self._eraser = Eraser(engine)
        self._client = client
        self._publisher = publisher
        self._interval_s = settings.sweep_interval_ms / 1000
        self._stopping = asyncio.Event()
        self._after = PLATFORM_TENANT_ID

    def stop(self) -> None:
        """Lets the sweep that is under way end, and no other begin."""
        self._stopping.set()

    async def run(self) -> None:
        """Sweeps until stopped; while another process is the elected one, or PostgreSQL is away, it waits."""
        while not self._stopping.is_set():
            try:
                async with self._engine.connect() as connection:
                    if await connection.scalar(_TRY_LOCK, {"key": LOCK_KEY}):
                        await connection.commit()
                        await self._sweep_while_elected(connection)
            except AWAY as error:
                log.warning("sweepers.database_away", error=type(error).__name__)
            await self._pause()

    async def _sweep_while_elected(self, lock: AsyncConnection) -> None:
        log.info("sweepers.elected")
        rounds = 0
        try:
            while not self._stopping.is_set():
                await lock.execute(text("SELECT 1"))  # the lock lives as long as this connection
                await lock.commit()
                await self._sweep(look_at_runs=rounds % _LOOK_AT_RUNS_EVERY == 0)
                rounds += 1
                await self._pause()
        finally:
            # closed, not returned to the pool: that is what gives the lock back, also when the connection is broken
            await lock.invalidate()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._interval_s):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _sweep(self, *, look_at_runs: bool) -> None:
        await self._tender.tend()
        await self._holds.sweep()
        await self._signer.sign_due()
        await self._each(self._return_budget, _DUE_RETURNS, count=_BATCH_MAX)
        await self._each(self._start, _DUE_STARTS, count=_BATCH_MAX)
        await self._each(self._escalate, escalation.DUE, count=_BATCH_MAX)
        await self._each(self._signal, _DUE_SIGNALS, count=_BATCH_MAX)
        if look_at_runs:
            seen = await self._each(self._look_at_run, _OPEN_RUNS, count=_BATCH_MAX, after=self._after)
            self._after = seen[-1].run_id if len(seen) == _BATCH_MAX else PLATFORM_TENANT_ID
            await self._each(self._keep_history, _UNDIGESTED, count=_BATCH_MAX)
            await self._signer.forget_old()
        await self._eraser.sweep()

    async def _each(
        self, work: Callable[[Row[Any]], Awaitable[None]], due: Any, **parameters: object
    ) -> list[Row[Any]]:  # rows and statements of text() carry no types
        async with tenantless(self._engine) as connection:
            rows = list(await connection.execute(due, parameters))
        for row in rows:
            try:
                with structlog.contextvars.bound_contextvars(**_ids_of(row)):
                    await work(row)
            except RPCError as error:
                log.warning("sweepers.temporal_away", work=work.__name__, status=error.status.name)
                return rows
            except (Unavailable, OSError):
                raise
            except Exception as error:
                if isinstance(error, DBAPIError) and error.connection_invalidated:
                    raise
                # it stays due, and this line repeats until somebody looks at it
                log.exception("sweepers.failed", work=work.__name__, **_ids_of(row))
        return rows

    async def _return_budget(self, row: Row[Any]) -> None:  # rows of text() carry no types
        """Returns the budget of a run that ended while children of it were open, when the last of them has returned its own."""
        async with transaction(self._engine, row.tenant_id) as connection:
            returned = await return_budget(connection, row.tenant_id, row.run_id)
        log.info("sweepers.budget_returned", returned=returned)

    async def _start(self, row: Row[Any]) -> None:  # rows of text() carry no types
        if await start_run(self._client, self._engine, row.tenant_id, row.run_id):
            log.info("run.started_late")

    async def _escalate(self, row: Row[Any]) -> None:  # rows of text() carry no types
        """Tells that a gate turned to somebody else: those who can stand in, and who waits, learn it from here."""
        async with transaction(self._engine, row.tenant_id) as connection:
            status, seq = await escalation.escalate(connection, row.tenant_id, row.approval_id)
        if seq:
            log.info("approval.escalated", status=status)
            await self._publisher.poke(row.tenant_id, row.run_id, seq)

    async def _signal(self, row: Row[Any]) -> None:  # rows of text() carry no types
        if row.kind == "approval":
            await signals.deliver_approval(self._client, self._engine, row.tenant_id, row.approval_id)
        elif row.kind == "input":
            await signals.deliver_input(self._client, self._engine, row.tenant_id, row.run_id, row.seq)
        else:
            await signals.deliver_cancel(self._client, self._engine, row.tenant_id, row.run_id)

    async def _look_at_run(self, row: Row[Any]) -> None:  # rows of text() carry no types
        """A terminated workflow executes no code: its run is ended here, and its holds are due then (rule 4)."""
        try:
            described = await self._client.get_workflow_handle(str(row.run_id)).describe(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            log.warning("run.workflow_missing")
            return
        ended_as = _ENDED_AS.get(described.status) if described.status is not None else None
        if ended_as is None:
            return
        status, code = ended_as
        async with transaction(self._engine, row.tenant_id) as connection:
            seq = await end_run(connection, row.tenant_id, row.run_id, status=status, code=code)
        if seq:
            log.warning("run.ended_by_sweeper", status=status, code=code)
            await self._publisher.poke(row.tenant_id, row.run_id, seq)

    async def _keep_history(self, row: Row[Any]) -> None:  # rows of text() carry no types
        """Keeps a closed run's history, and puts its digest into the decision log (rule 8)."""
        started = time.monotonic()
        sealed = await storing.seal(self._client, row.run_id)
        if sealed is None:
            return
        async with transaction(self._engine, row.tenant_id) as connection:
            await storing.store(connection, row.tenant_id, row.run_id, sealed)
        took_ms = int((time.monotonic() - started) * 1000)
        log.info("run.history_kept", events=sealed.events, pieces=len(sealed.pieces), took_ms=took_ms)
