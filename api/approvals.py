"""Approvals: what waits for consent, with exactly which arguments, and the decision."""

from __future__ import annotations

from typing import Annotated, Literal, Self, cast
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field, JsonValue

from api.authentication import Caller, require_reader
from api.context import Parts
from api.forms import Answer, Cursor, Form, Page, PageSize, Time, id_cursor, page_of, usd
from api.runs import hear
from holdfast.approvals import reading, service
from holdfast.approvals.reading import ApprovalView
from holdfast.database.engine import transaction
from holdfast.runs import signals
from holdfast_verdict.canonical import JsonValue as Canonical

router = APIRouter(prefix="/v1/approvals", tags=["approvals"])

State = Literal["pending", "approved", "denied", "expired"]


class Approval(Answer):
    """An approval with everything that an approver has to know."""

    approval_id: UUID
    run_id: UUID
    step: int
    state: State
    action: dict[str, JsonValue] = Field(description="exactly what the agent wants to do")
    edited_action: dict[str, JsonValue] | None = Field(description="what an approver put in its place")
    rule: str = Field(description="the gate that asks")
    message: str
    approver_role: str = Field(description="the role that a key needs to decide")
    max_cost_nano_usd: int
    max_cost_usd: str
    requester: str = Field(description="who started the run, and so cannot decide")
    agent: str
    role: str
    created_at: Time
    expires_at: Time
    decided_by: str | None
    decided_at: Time | None
    comment: str

    @classmethod
    def of(cls, view: ApprovalView) -> Self:
        """Builds the answer."""
        fields = {name: getattr(view, name) for name in cls.model_fields if name != "max_cost_usd"}
        return cls(**fields, max_cost_usd=usd(view.max_cost_nano_usd))


class DecideApproval(Form):
    """A decision."""

    verdict: Literal["approved", "denied"]
    comment: str = Field(default="", max_length=2_000, description="stands in the record")
    edited_arguments: dict[str, JsonValue] | None = Field(
        default=None, description="use these arguments instead; the consent is then for exactly these"
    )


class TokenRequest(Form):
    """What the token shall decide."""

    verdict: Literal["approved", "denied"]


class ApprovalToken(Answer):
    """A one-time token, shown this once."""

    token: str = Field(description="send it with the approval's id in the workflow signal `approval`")
    expires_at: Time


@router.get("", summary="List approvals, newest first")
async def list_approvals(
    caller: Caller,
    parts: Parts,
    state: State | None = None,
    run: Annotated[UUID | None, Query(description="only of this run")] = None,
    cursor: Cursor = None,
    size: PageSize = 50,
) -> Page[Approval]:
    """Lists what waits for consent, or what became of it."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        views = await reading.list_approvals(
            connection, caller.tenant_id, state=state, run_id=run, before=id_cursor(cursor), count=size + 1
        )
    return page_of([Approval.of(view) for view in views], [str(view.approval_id) for view in views], size)


@router.get("/{approval_id}", summary="Look at an approval")
async def get_approval(approval_id: UUID, caller: Caller, parts: Parts) -> Approval:
    """Shows what the agent wants to do, with which arguments, at what cost, and until when it can be decided."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        return Approval.of(await reading.read_approval(connection, caller.tenant_id, approval_id))


@router.post("/{approval_id}/decide", summary="Approve, edit or deny")
async def decide_approval(approval_id: UUID, body: DecideApproval, caller: Caller, parts: Parts) -> Approval:
    """Decides, for a key with exactly the role that the gate asks for, which is not the requester's.

    The same decision again gets the same answer; another one, or one that comes too late, is 409.
    """
    decided = await service.decide(
        parts.engine,
        caller,
        approval_id,
        body.verdict,
        comment=body.comment,
        edited_arguments=cast("dict[str, Canonical] | None", body.edited_arguments),
    )
    await parts.publisher.poke(caller.tenant_id, decided.run_id, decided.timeline_seq)
    delivery = signals.deliver_approval(parts.temporal, parts.engine, caller.tenant_id, approval_id)
    await hear(parts, "approval", delivery)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        return Approval.of(await reading.read_approval(connection, caller.tenant_id, approval_id))


@router.post("/{approval_id}/tokens", status_code=201, summary="Get a one-time token for a workflow signal")
async def create_approval_token(approval_id: UUID, body: TokenRequest, caller: Caller, parts: Parts) -> ApprovalToken:
    """Gives an eligible approver a token that decides, once, when it comes to the workflow by a bare signal."""
    async with transaction(parts.engine, caller.tenant_id) as connection:
        token, expires_at = await service.issue_token(connection, caller, approval_id, body.verdict)
    return ApprovalToken(token=token, expires_at=expires_at)
