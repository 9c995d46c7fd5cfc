"""settle: what is recorded of a try → actual cost, transcript, timeline, in one transaction. Tells the workflow what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final
from uuid import UUID

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.governor import Governor, log
from holdfast import transcript
from holdfast.actions.model_call import goes_elsewhere
from holdfast.actions.settling import Answer, answer_of, judge, proposed_call, refusal
from holdfast.contracts import names
from holdfast.contracts.gate import NewHead, SettleReply, SettleRequest, WriteRefusal
from holdfast.database.engine import transaction
from holdfast.decisions.sentence import sentence_of
from holdfast.errors import NotFound
from holdfast.failpoint import failpoint
from holdfast.ledger.repository import read_hold
from holdfast.ledger.types import (
    NANO_USD,
    SETTLED_STATES,
    Event,
    FactsChanged,
    HoldView,
    Settlement,
    TranscriptEntry,
)
from holdfast.transcript.entries import read_one
from holdfast_verdict.canonical import chain

SHOWN_AS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {"llm.call": ("answer", "answer.final"), "tool.call": ("tool", "tool.result"), "code.exec": ("code", "code.result")}
)
"""Channel and type of the event that shows what came of an action."""


class Settle:
    """The local activities that settle a try, and write down for the model what did not happen."""

    def __init__(self, governor: Governor) -> None:
        self._governor = governor

    @activity.defn(name=names.SETTLE)
    async def settle(self, request: SettleRequest) -> SettleReply:
        """Settles a hold, once; asked again, it answers the same (LAW 4)."""
        await failpoint("settle.before", request.action.kind)
        tenant_id, run_id = await self._governor.whose()
        while True:
            hold, call_id = await self._read(tenant_id, run_id, request)
            if hold is None or hold.key.run_id != run_id:
                raise ApplicationError(
                    f"run {run_id} has no hold {request.hold_id}", type=NotFound.code, non_retryable=True
                )
            answer = answer_of(hold, call_id)
            if request.action.code_hold_id:
                answer = replace(
                    answer, content=None
                )  # code asked for it: no transcript entry proposed it, so none answers it
            try:
                state = await self._move(hold, request, answer)
            except FactsChanged:
                continue
            break
        log.info("action.settled", kind=hold.kind, state=state, ok=answer.ok, error_code=answer.error_code)
        await failpoint("settle.after", request.action.kind)
        reply = _reply(hold, request, answer, state)
        if reply.retry_after_ms and hold.kind == "llm.call":
            async with transaction(self._governor.engine, tenant_id) as connection:
                if await goes_elsewhere(connection, tenant_id, hold.decision_id):
                    return reply.model_copy(update={"retry_after_ms": 0})
        return reply

    async def _read(self, tenant_id: UUID, run_id: UUID, request: SettleRequest) -> tuple[HoldView | None, str]:
        """Returns the hold, and under which id the model proposed the call."""
        async with transaction(self._governor.engine, tenant_id) as connection:
            hold = await read_hold(connection, tenant_id, UUID(request.hold_id))
            if request.action.kind == "llm.call" or request.action.code_hold_id:
                return hold, ""
            entry = await read_one(connection, tenant_id, run_id, bytes.fromhex(request.action.assistant))
        return hold, proposed_call(entry, request.action.call_index)[0]

    async def _move(self, hold: HoldView, request: SettleRequest, answer: Answer) -> str:
        """Moves the hold if it has somewhere to go, and returns the state it is in then."""
        key = hold.key
        judgement = judge(hold)
        parent = bytes.fromhex(request.action.head) or None
        if judgement.to is None:
            if answer.content is not None and hold.state in SETTLED_STATES:
                # settled before, perhaps on a path that was thrown away: its answer is written after this head, too
                async with transaction(self._governor.engine, key.tenant_id) as connection:
                    await transcript.write(connection, key.tenant_id, key.run_id, parent, answer.content)
            return hold.state
        events = [_settled_event(hold, judgement.to, judgement.actual.get(NANO_USD, 0), judgement.reason)]
        if answer.shown:
            channel, name = SHOWN_AS[hold.kind]
            events.append(Event(channel, name, {"step": key.step, "try": key.try_number, **answer.shown}))
        entries: tuple[TranscriptEntry, ...] = ()
        if answer.content is not None and judgement.to != "unknown":
            entries = (TranscriptEntry(parent, answer.content),)
        seq = await self._governor.ledger.settle(
            Settlement(
                tenant_id=key.tenant_id,
                hold_id=hold.hold_id,
                seen_state=hold.state,
                seen_outcome=hold.outcome is not None,
                seen_outward=hold.went_outward,
                to=judgement.to,
                actual=judgement.actual,
                actor="run",
                reason=judgement.reason,
                events=tuple(events),
                entries=entries,
            )
        )
        await self._governor.poke(key.tenant_id, key.run_id, seq)
        return judgement.to

    @activity.defn(name=names.WRITE_REFUSAL)
    async def write_refusal(self, request: WriteRefusal) -> NewHead:
        """Writes down, for the model to read, that a proposed call was not made, and why."""
        tenant_id, run_id = await self._governor.whose()
        async with transaction(self._governor.engine, tenant_id) as connection:
            entry = await read_one(connection, tenant_id, run_id, bytes.fromhex(request.assistant))
            call_id, tool = proposed_call(entry, request.call_index)
            sentence = request.code
            if request.decision_id:
                sentence = await sentence_of(connection, tenant_id, UUID(request.decision_id))
            content = refusal(call_id, tool, request.code, sentence)
            head = await transcript.write(connection, tenant_id, run_id, bytes.fromhex(request.head), content)
        return NewHead(head=head.hex())


def _settled_event(hold: HoldView, to: str, cost_nano_usd: int, reason: str) -> Event:
    outcome = hold.outcome
    return Event(
        "budget",
        "hold.settled" if to != "unknown" else "hold.unknown",
        {
            "step": hold.key.step,
            "try": hold.key.try_number,
            "hold_id": str(hold.hold_id),
            "kind": hold.kind,
            "tool": hold.tool,
            "state": to,
            "held_nano_usd": hold.max_cost_nano_usd,
            "cost_nano_usd": cost_nano_usd,
            "reason": reason,
            "ok": outcome is not None and outcome.ok,
            "error_code": "" if outcome is None else outcome.error_code,
            "simulated": outcome is not None and outcome.simulated,
        },
    )


def _reply(hold: HoldView, request: SettleRequest, answer: Answer, state: str) -> SettleReply:
    head = ""
    if answer.content is not None and state in SETTLED_STATES:
        head = chain(bytes.fromhex(request.action.head), answer.content).hex()
    return SettleReply(
        state=state,
        ok=answer.ok,
        error_code=answer.error_code,
        retryable=answer.retryable,
        retry_after_ms=(hold.outcome.retry_after_ms or 0) if hold.outcome else 0,
        asks_person=state == "unknown" and not hold.idempotent,
        head=head,
        assistant=head if hold.kind == "llm.call" else "",
        calls=answer.calls,
    )
