"""The run's own state: what it is, what people said, where it stands, how it ended."""

from __future__ import annotations

from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities.governor import Governor, log
from holdfast import transcript
from holdfast.approvals.tokens import state_for_run
from holdfast.contracts import names
from holdfast.contracts.gate import ApprovalState, NewHead, VerifyApproval
from holdfast.contracts.run import AdoptInputs, FinishedRun, FinishRun, MarkRun, RunContext
from holdfast.database.engine import transaction
from holdfast.decisions.record import record_event
from holdfast.errors import RunUnknown
from holdfast.failpoint import failpoint
from holdfast.ids import PLATFORM_TENANT_ID
from holdfast.ledger.budget import lock_for_return, return_budget
from holdfast.ledger.types import Event
from holdfast.timeline import events
from holdfast_verdict.canonical import JsonValue, canonical_bytes

_START = text("""
    UPDATE runs SET status = CASE WHEN status = 'pending' THEN 'running' ELSE status END, started_at = coalesce(started_at, now())
    WHERE tenant_id = :tenant_id AND run_id = :run_id AND ended_at IS NULL RETURNING status
""")

_READ_INPUTS = text("""
    SELECT content FROM run_inputs WHERE tenant_id = :tenant_id AND run_id = :run_id AND seq BETWEEN :first AND :last
      AND mode IN ('start', 'followup', 'steer') ORDER BY seq
""")

_MARK = text("""
    UPDATE runs SET status = :status, history_version = history_version + 1
    WHERE tenant_id = :tenant_id AND run_id = :run_id AND ended_at IS NULL AND status <> :status RETURNING run_id
""")

_FINISH = text("""
    UPDATE runs SET status = :status, status_code = :code, ended_at = now(), history_version = history_version + 1,
        -- what its last refusal of that code said, to whoever asks why it ended
        status_message = coalesce((SELECT d.reply ->> 'message' FROM decisions d
            WHERE d.tenant_id = :tenant_id AND d.run_id = :run_id AND d.superseded_at IS NULL AND d.step IS NOT NULL
              AND d.verdict = 'deny' AND d.reason_codes[1] = :code ORDER BY d.step DESC, d.try DESC LIMIT 1), '')
    WHERE tenant_id = :tenant_id AND run_id = :run_id AND ended_at IS NULL RETURNING run_id
""")

_NEWEST_INPUT = text("""
    WITH run AS (SELECT run_id FROM runs WHERE tenant_id = :tenant_id AND run_id = :run_id FOR NO KEY UPDATE)
    SELECT coalesce((SELECT max(seq) FROM run_inputs WHERE tenant_id = :tenant_id AND run_id = :run_id), 0) FROM run
""")


_SPENT = text("""
    SELECT coalesce(sum(cost_nano_usd), 0)::bigint AS spent,
           coalesce(sum(max_cost_nano_usd) FILTER (WHERE settled_at IS NULL), 0)::bigint AS held
    FROM holds WHERE tenant_id = :tenant_id AND run_id = :run_id AND kind <> 'run.budget'
""")


class RunState:
    """The local activities around a run's row."""

    def __init__(self, governor: Governor) -> None:
        self._governor = governor

    @activity.defn(name=names.LOAD_RUN)
    async def load_run(self) -> RunContext:
        """Reads what the run is from its row; a workflow without one is refused and recorded (rule 5)."""
        governor = self._governor
        try:
            run_id = UUID(activity.info().workflow_id)
            tenant_id = await governor.reader.locate(governor.engine, run_id)
        except (ValueError, RunUnknown):
            await self._refuse()
            return RunContext(admitted=False, refusal=RunUnknown.code)
        structlog.contextvars.bind_contextvars(tenant_id=str(tenant_id))
        async with transaction(governor.engine, tenant_id) as connection:
            run = await governor.reader.read(connection, tenant_id, run_id)
            status = await connection.scalar(_START, {"tenant_id": tenant_id, "run_id": run_id})
            seq = 0
            if run.status == "pending" and status == "running":
                seq = await events.append(
                    connection, tenant_id, run_id, [Event("lifecycle", "run.started", {"agent": run.agent_name})]
                )
        if status is None:
            return RunContext(admitted=False, refusal="run.ended")
        await governor.poke(tenant_id, run_id, seq)
        limits = run.agent.limits
        return RunContext(
            admitted=True,
            tenant_id=str(tenant_id),
            tenant=run.tenant,
            project=run.project,
            user=run.user,
            agent=run.agent_name,
            role=run.role,
            llm_timeout_ms=governor.lease_llm_ms,
            tool_timeout_ms=governor.lease_tool_ms,
            code_timeout_ms=governor.lease_code_ms,
            heartbeat_timeout_ms=governor.heartbeat_timeout_ms,
            max_steps=limits.max_steps,
            max_tries=limits.max_tries,
            deadline_ms=int(run.deadline_at.timestamp() * 1000),
            steps_per_execution=limits.steps_per_execution,
            history_events_max=governor.history_events_max,
            inputs=run.inputs,
        )

    async def _refuse(self) -> None:
        workflow_id = activity.info().workflow_id or ""
        log.warning("run.refused", code=RunUnknown.code)
        async with transaction(self._governor.engine, PLATFORM_TENANT_ID) as connection:
            await record_event(
                connection,
                PLATFORM_TENANT_ID,
                kind="run.start",
                verdict="deny",
                code=RunUnknown.code,
                message="a workflow runs that no admitted run stands behind",
                facts={"workflow_id": workflow_id[:200]},
            )

    @activity.defn(name=names.ADOPT_INPUTS)
    async def adopt_inputs(self, request: AdoptInputs) -> NewHead:
        """Appends what people said to the transcript."""
        tenant_id, run_id = await self._governor.whose()
        head = bytes.fromhex(request.head)
        async with transaction(self._governor.engine, tenant_id) as connection:
            rows = await connection.execute(
                _READ_INPUTS,
                {"tenant_id": tenant_id, "run_id": run_id, "first": request.first, "last": request.last},
            )
            for content in list(rows.scalars()):
                entry: dict[str, JsonValue] = {"kind": "user", "text": content}
                head = await transcript.write(connection, tenant_id, run_id, head or None, canonical_bytes(entry))
        return NewHead(head=head.hex())

    @activity.defn(name=names.VERIFY_APPROVAL)
    async def verify_approval(self, request: VerifyApproval) -> ApprovalState:
        """Says whether an approval is decided, by its record; a token that came with the signal decides it first."""
        tenant_id, run_id = await self._governor.whose()
        async with transaction(self._governor.engine, tenant_id) as connection:
            state = await state_for_run(connection, tenant_id, run_id, UUID(request.approval_id), token=request.token)
        return ApprovalState(state=state)

    @activity.defn(name=names.MARK_RUN)
    async def mark_run(self, request: MarkRun) -> None:
        """Records that the run stands still or goes on."""
        tenant_id, run_id = await self._governor.whose()
        async with transaction(self._governor.engine, tenant_id) as connection:
            changed = await connection.scalar(
                _MARK, {"tenant_id": tenant_id, "run_id": run_id, "status": request.status}
            )
            seq = 0
            if changed is not None:
                event = Event("lifecycle", f"run.{request.status}", {"code": request.code})
                seq = await events.append(connection, tenant_id, run_id, [event])
        await self._governor.poke(tenant_id, run_id, seq)

    @activity.defn(name=names.FINISH_RUN)
    async def finish_run(self, request: FinishRun) -> FinishedRun:
        """Ends the run, once, and gives back what its budget did not use."""
        await failpoint("finish.before")
        tenant_id, run_id = await self._governor.whose()
        async with transaction(self._governor.engine, tenant_id) as connection:
            await lock_for_return(connection, tenant_id, run_id)  # lock order: caps before the run
            if request.status == "succeeded":
                # INVARIANT: nothing accepted is lost. Whoever adds an input locks the run's row first.
                newest: int = (
                    await connection.execute(_NEWEST_INPUT, {"tenant_id": tenant_id, "run_id": run_id})
                ).scalar_one()
                if newest > request.inputs:
                    return FinishedRun(ended=False, inputs=newest)
            seq = await end_run(connection, tenant_id, run_id, status=request.status, code=request.code)
        await failpoint("finish.after")
        await self._governor.poke(tenant_id, run_id, seq)
        return FinishedRun(ended=True)


async def end_run(connection: AsyncConnection, tenant_id: UUID, run_id: UUID, *, status: str, code: str) -> int:
    """Ends a run in the caller's transaction; returns the number of its last event, or 0 if it had ended before."""
    await lock_for_return(connection, tenant_id, run_id)  # lock order: caps before the run
    ended = await connection.scalar(_FINISH, {"tenant_id": tenant_id, "run_id": run_id, "status": status, "code": code})
    if ended is None:
        return 0
    await return_budget(connection, tenant_id, run_id)
    row = (await connection.execute(_SPENT, {"tenant_id": tenant_id, "run_id": run_id})).one()
    event = Event(
        "lifecycle",
        "run.ended",
        {"status": status, "code": code, "spent_nano_usd": row.spent, "held_nano_usd": row.held},
    )
    return await events.append(connection, tenant_id, run_id, [event])
