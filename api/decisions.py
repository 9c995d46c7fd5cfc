"""Decisions: every verdict that was given, with the record that its hash is over."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal, Self
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Header, Query
from pydantic import Field, JsonValue
from starlette.responses import Response

from api.authentication import Caller, require_reader
from api.context import Parts
from api.decision_export import MEDIA_TYPES, DecisionExport, format_of
from api.decision_tail import first_place, tail
from api.event_stream import EventStream, check_free
from api.forms import Answer, Cursor, Page, PageSize, Time, page_of, text_cursor
from holdfast.database.engine import transaction
from holdfast.decisions import query, reading
from holdfast.decisions.query import DecisionFilter, Place
from holdfast.decisions.reading import DecisionRecord, DecisionRow
from holdfast.errors import RequestInvalid

if TYPE_CHECKING:
    from holdfast.policies.recorded import ExplainedDecision

router = APIRouter(prefix="/v1/decisions", tags=["decisions"])

VerdictName = Literal["allow", "deny", "needs_approval"]
_Named = Annotated[str | None, Query(max_length=200)]


class Decision(Answer):
    """A decision."""

    decision_id: UUID
    run_id: UUID | None
    step: int | None
    try_number: int | None
    kind: str
    agent: str = Field(description="empty where it was about no agent")
    role: str
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
    part_a: dict[str, JsonValue] | None = Field(
        description="what was evaluated: subject, action, facts, trace, policy hash; null once it was deleted"
    )
    part_b: dict[str, JsonValue] = Field(description="what was decided: verdict, caps and balances")
    part_a_base64: str | None
    part_b_base64: str
    part_a_sha256: str = Field(description="hex; it stays when part A is deleted")
    values: dict[str, JsonValue] | None = Field(
        description="personal values that part A has as salted hashes, by JSON pointer into the arguments; null once they were erased"
    )

    @classmethod
    def of_record(cls, record: DecisionRecord) -> Self:
        """Builds the answer."""
        return cls(
            decision=Decision.of(record.row),
            part_a=None if record.part_a is None else orjson.loads(record.part_a),
            part_b=orjson.loads(record.part_b),
            part_a_base64=None if record.part_a is None else base64.b64encode(record.part_a).decode(),
            part_b_base64=base64.b64encode(record.part_b).decode(),
            part_a_sha256=record.part_a_sha256.hex(),
            values=None if record.values is None else dict(record.values),
        )


class DecisionExplanation(Answer):
    """Why a recorded decision was decided as it was."""

    decision_id: UUID
    decided_at: Time
    policy_version: int = Field(description="the version that decided; 0 if it is none of the tenant's policy")
    policy_hash: str = Field(description="SHA-256 of the policy that decided, hex; empty if none did")
    verdict: VerdictName
    code: str
    message: str
    rule_id: str = Field(description="the rule that decided, or empty")
    nearly: list[str] = Field(description="rules that one condition alone kept from changing the verdict or its reason")
    rules: list[dict[str, JsonValue]] = Field(
        description="every rule that speaks of the action, condition by condition"
    )
    notes: list[str]
    cannot: list[str] = Field(description="what cannot be said, and why")

    @classmethod
    def of(cls, found: ExplainedDecision) -> Self:
        """Builds the answer."""
        return cls(
            decision_id=found.row.decision_id,
            decided_at=found.row.created_at,
            policy_version=found.policy_version,
            policy_hash=found.policy_hash,
            **found.told.to_json(),
        )


def read_filter(  # one parameter for each thing that can be looked for
    run: Annotated[UUID | None, Query(description="only of this run")] = None,
    agent: Annotated[_Named, Query(description="only about this agent")] = None,
    role: Annotated[_Named, Query(description="only about agents of this role")] = None,
    verdict: VerdictName | None = None,
    kind: Annotated[_Named, Query(description="such as `tool.call`, `run.admission`")] = None,
    tool: Annotated[_Named, Query(description="only calls of this tool")] = None,
    rule: Annotated[_Named, Query(description="only those that this rule decided")] = None,
    code: Annotated[_Named, Query(description="with this reason code")] = None,
    since: Annotated[datetime | None, Query(alias="from", description="from then on")] = None,
    until: Annotated[datetime | None, Query(alias="to", description="before then")] = None,
) -> DecisionFilter:
    """Reads what decisions are looked for.

    Raises:
        RequestInvalid: A time has no zone, or the times are the wrong way round.
    """
    if any(time is not None and time.tzinfo is None for time in (since, until)):
        raise RequestInvalid("from, to: the time has no zone", remedy="write it as 2026-03-02T10:00:00Z")
    if since is not None and until is not None and until <= since:
        raise RequestInvalid("`to`: it is not after `from`")
    return DecisionFilter(run, agent, role, verdict, kind, tool, rule, code, since, until)


Wanted = Annotated[DecisionFilter, Depends(read_filter)]


def _place(cursor: str | None) -> Place | None:
    read = text_cursor(cursor)
    return Place.parse(read) if read else None


@router.get(
    "",
    summary="List or export decisions",
    response_model=Page[Decision],
    responses={
        200: {
            "description": "a page, newest first; as JSON Lines, CSV or OCSF all of them, oldest first",
            "content": {media_type: {"schema": {"type": "string"}} for media_type in MEDIA_TYPES.values()},
        }
    },
)
async def list_decisions(
    caller: Caller,
    parts: Parts,
    wanted: Wanted,
    *,
    format_: Annotated[
        Literal["json", "jsonl", "csv", "ocsf"] | None, Query(alias="format", description="default: by `Accept`")
    ] = None,
    accept: Annotated[str, Header(max_length=400)] = "",
    cursor: Cursor = None,
    size: PageSize = 50,
) -> Page[Decision] | Response:
    """Lists decisions of all kinds: actions, admission, approvals, configuration, refused permits. All filters have to be met."""
    require_reader(caller)
    format_wanted = format_of(format_, accept)
    if format_wanted is not None:
        return DecisionExport(parts, caller.tenant_id, wanted, format_wanted)
    place = _place(cursor)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await query.list_decisions(connection, caller.tenant_id, wanted, count=size + 1, place=place)
    return page_of([Decision.of(each.row) for each in found], [each.place.text for each in found], size)


@router.get(
    "/events",
    summary="Follow decisions",
    response_class=Response,
    responses={
        200: {
            "description": "decisions as they come into the log; `data` is one line of the JSON Lines export",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    },
)
async def stream_decisions(
    caller: Caller,
    parts: Parts,
    wanted: Wanted,
    *,
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", max_length=40, description="resume after this event")
    ] = None,
    after: Annotated[str | None, Query(max_length=40, description="the same, for clients without headers")] = None,
) -> Response:
    """Sends decisions that meet all filters, in the log's order, without an end. Ids resume with nothing lost or doubled.

    Without an id it begins with what comes from then on; the id `0` begins with the log's first record.
    """
    require_reader(caller)
    first = await first_place(parts.engine, caller.tenant_id, last_event_id or after)
    check_free(parts)
    return EventStream(parts, tail(parts.engine, caller.tenant_id, wanted, first))


@router.get("/{decision_id}", summary="Look at a decision")
async def get_decision(decision_id: UUID, caller: Caller, parts: Parts) -> DecisionDetail:
    """Shows a decision with the record that anyone can check and evaluate again."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        record = await reading.read_decision(connection, caller.tenant_id, decision_id)
    return DecisionDetail.of_record(record)


@router.get("/{decision_id}/explanation", summary="Explain a recorded decision")
async def explain_recorded_decision(decision_id: UUID, caller: Caller, parts: Parts) -> DecisionExplanation:
    """Says which rule decided and which nearly did, on the facts that were recorded, by the version of the policy that decided then.

    Each rule has its conditions with the values that they read. What cannot be said, such as of facts that were not read or are
    erased, stands under `cannot`.
    """
    from holdfast.policies.recorded import explained  # brings a solver along, which only this needs

    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        return DecisionExplanation.of(await explained(connection, caller.tenant_id, decision_id))
