"""Decisions: every verdict that was given, with the record that its hash is over."""

from __future__ import annotations

import base64
from typing import Annotated, Literal, Self
from uuid import UUID

import orjson
from fastapi import APIRouter, Query
from pydantic import Field, JsonValue

from api.authentication import Caller, require_reader
from api.context import Parts
from api.forms import Answer, Cursor, Page, PageSize, Time, id_cursor, page_of
from holdfast.database.engine import transaction
from holdfast.decisions import reading
from holdfast.decisions.reading import DecisionRecord, DecisionRow

router = APIRouter(prefix="/v1/decisions", tags=["decisions"])

VerdictName = Literal["allow", "deny", "needs_approval"]


class Decision(Answer):
    """A decision."""

    decision_id: UUID
    run_id: UUID | None
    step: int | None
    try_number: int | None
    kind: str
    tool: str = Field(description="for `tool.call`: which")
    verdict: VerdictName
    reason_codes: list[str]
    message: str
    rule_id: str
    hold_id: UUID | None
    approval_id: UUID | None
    created_at: Time
    superseded_at: Time | None
    leaf_index: int | None = Field(description="its number in the tenant's log, once it has one")
    record_hash: str = Field(description="SHA-256(0x00 || SHA-256(A) || SHA-256(B)), hex")

    @classmethod
    def of(cls, row: DecisionRow) -> Self:
        """Builds the answer."""
        fields = {name: getattr(row, name) for name in cls.model_fields if name != "record_hash"}
        return cls(**fields, record_hash=row.record_hash.hex())


class DecisionDetail(Answer):
    """A decision with both parts of its record: to read, and byte for byte as they were hashed."""

    decision: Decision
    part_a: dict[str, JsonValue] = Field(description="what was evaluated: subject, action, facts, trace, policy hash")
    part_b: dict[str, JsonValue] = Field(description="what was decided: verdict, caps and balances")
    part_a_base64: str
    part_b_base64: str

    @classmethod
    def of_record(cls, record: DecisionRecord) -> Self:
        """Builds the answer."""
        return cls(
            decision=Decision.of(record.row),
            part_a=orjson.loads(record.part_a),
            part_b=orjson.loads(record.part_b),
            part_a_base64=base64.b64encode(record.part_a).decode(),
            part_b_base64=base64.b64encode(record.part_b).decode(),
        )


@router.get("", summary="List decisions, newest first")
async def list_decisions(
    caller: Caller,
    parts: Parts,
    run: Annotated[UUID | None, Query(description="only of this run")] = None,
    verdict: VerdictName | None = None,
    kind: Annotated[str | None, Query(max_length=100, description="such as `tool.call`, `run.admission`")] = None,
    code: Annotated[str | None, Query(max_length=100, description="with this reason code")] = None,
    cursor: Cursor = None,
    size: PageSize = 50,
) -> Page[Decision]:
    """Lists decisions of all kinds: actions, admission, approvals, configuration, refused permits."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        rows = await reading.list_decisions(
            connection,
            caller.tenant_id,
            before=id_cursor(cursor),
            count=size + 1,
            run_id=run,
            verdict=verdict,
            kind=kind,
            code=code,
        )
    return page_of([Decision.of(row) for row in rows], [str(row.decision_id) for row in rows], size)


@router.get("/{decision_id}", summary="Look at a decision")
async def get_decision(decision_id: UUID, caller: Caller, parts: Parts) -> DecisionDetail:
    """Shows a decision with the record that anyone can check and evaluate again."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        record = await reading.read_decision(connection, caller.tenant_id, decision_id)
    return DecisionDetail.of_record(record)
