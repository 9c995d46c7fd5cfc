"""answer_code: what came of a call that running code has asked for → what the code is told, and the timeline."""

from __future__ import annotations

from uuid import UUID

from temporalio import activity

from activities.governor import Governor, log
from holdfast.actions import code_request
from holdfast.actions.settling import words_of
from holdfast.contracts import names
from holdfast.contracts.gate import AnswerCode
from holdfast.database.engine import transaction
from holdfast.decisions.sentence import sentence_of
from holdfast.ledger.repository import read_hold
from holdfast.ledger.types import Event
from holdfast.timeline import events


class CodeAnswers:
    """The local activity that answers running code."""

    def __init__(self, governor: Governor) -> None:
        self._governor = governor

    @activity.defn(name=names.ANSWER_CODE)
    async def answer_code(self, request: AnswerCode) -> None:
        """Writes the answer down, once; whoever runs the code fetches it with the lease of its own hold."""
        tenant_id, run_id = await self._governor.whose()
        hold_id, number, seq = UUID(request.call.hold_id), request.call.number, 0
        async with transaction(self._governor.engine, tenant_id) as connection:
            asked = await code_request.read(connection, tenant_id, run_id, hold_id, number, past=True)
            if asked is None:
                return  # nobody asked, so nobody is told
            ok, content = False, request.code
            if request.decision_id:
                content = await sentence_of(connection, tenant_id, UUID(request.decision_id))
            elif request.called_hold_id:
                called = await read_hold(connection, tenant_id, UUID(request.called_hold_id))
                if called is not None and called.key.run_id == run_id:
                    ok, content = not request.code, words_of(called) or request.code
            if await code_request.answer(
                connection, tenant_id, run_id, hold_id, number, ok=ok, code=request.code, content=content
            ):
                told = Event(
                    "code",
                    "code.called",
                    {
                        "step": asked.step,
                        "try": asked.try_number,
                        "request": number,
                        "tool": asked.tool,
                        "called_step": request.called_step,
                        "ok": ok,
                        "code": request.code,
                    },
                )
                seq = await events.append(connection, tenant_id, run_id, [told])
        log.info("code.answered", ok=ok, code=request.code)
        await self._governor.poke(tenant_id, run_id, seq)
