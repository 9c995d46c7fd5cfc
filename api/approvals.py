"""Approvals: what waits for consent, with exactly which arguments, and the votes on it."""

from __future__ import annotations

from typing import Annotated, Literal, Self, cast
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field, JsonValue

from api.authentication import Caller
from api.context import Context, Parts
from api.forms import Answer, Cursor, Form, Page, PageSize, Time, id_cursor, page_of, usd
from api.runs import hear
from holdfast.approvals import links, reading, service, tokens
from holdfast.approvals.reading import ApprovalView
from holdfast.approvals.voting import Decided
from holdfast.database.engine import transaction
from holdfast.runs import signals
from holdfast.tenancy.principals import Principal
from holdfast_verdict.canonical import JsonValue as Canonical

router = APIRouter(prefix="/v1/approvals", tags=["approvals"])

State = Literal["pending", "approved", "denied", "expired", "withdrawn"]
Binding = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-f]{64}$",
        description="the `binding` that the approval was shown with; needed once it was edited",
    ),
]
Comment = Annotated[str, Field(max_length=2_000, description="stands in the record")]

_DAY_S = 86_400


class Need(Answer):
    """A need of a gate, and by whom it is met."""

    count: int
    kind: Literal["role", "agent", "signer"]
    name: str = Field(description="which role, agent or signer")
    met_by: list[str] = Field(description="who has consented; each counts for one need")
    missing: int = Field(description="how many are still missing")


class Escalation(Answer):
    """Who may stand in when nobody has answered in time."""

    at: Time
    count: int
    kind: Literal["role", "agent", "signer"]
    name: str


class Vote(Answer):
    """A vote. A later one of the same voter takes its place; `withdrawn` takes it back."""

    revision: int = Field(description="for which edit of the arguments; 0 is what the agent proposed")
    kind: Literal["user", "agent", "signer"]
    name: str
    roles: list[str] = Field(description="of a person: as whom")
    verdict: Literal["approved", "denied", "withdrawn"]
    via: str = Field(description="api, token, link, run or signature")
    reason: str
    run_id: UUID | None = Field(description="of an agent: the run in which it voted")
    created_at: Time
    counts: bool = Field(description="whether it stands for the arguments as they are now")


class Delegation(Answer):
    """Who votes in whose place."""

    from_name: str
    to_name: str
    reason: str
    created_at: Time


class Change(Answer):
    """An argument that an edit changed."""

    argument: str
    before: JsonValue
    after: JsonValue


class Approval(Answer):
    """An approval with everything that an approver has to know."""

    approval_id: UUID
    run_id: UUID
    step: int
    state: State
    action: dict[str, JsonValue] = Field(description="exactly what the agent wants to do")
    edited_action: dict[str, JsonValue] | None = Field(description="what an approver put in its place")
    changes: list[Change] = Field(description="what the edit changed, argument by argument")
    revision: int = Field(description="number of edits")
    binding: str = Field(description="what a consent is for, in hex; every edit changes it")
    rule: str = Field(description="the gate that asks")
    message: str
    approver_role: str = Field(description="whom it asks, in words; of a gate with one need, the role")
    needs: list[Need]
    not_requester: bool = Field(description="whether who started the run may not consent")
    escalation: Escalation | None
    votes: list[Vote]
    delegations: list[Delegation]
    max_cost_nano_usd: int
    max_cost_usd: str
    requester: str = Field(description="who started the run, and so cannot decide")
    agent: str
    role: str
    run_status: str = Field(description="of the run that waits for it")
    created_at: Time
    expires_at: Time
    decided_by: str | None
    decided_at: Time | None
    comment: str

    @classmethod
    def of(cls, view: ApprovalView) -> Self:
        """Builds the answer."""
        built = {"max_cost_usd", "binding", "needs", "not_requester", "escalation"}
        fields = {name: getattr(view, name) for name in cls.model_fields if name not in built}
        later = view.gate.escalate.to if view.gate.escalate is not None else None
        return cls.model_validate(
            {
                **fields,
                "max_cost_usd": usd(view.max_cost_nano_usd),
                "binding": view.binding.hex(),
                "needs": [
                    {
                        "count": seats.need.count,
                        "kind": seats.need.kind,
                        "name": seats.need.name,
                        "met_by": list(seats.met_by),
                        "missing": seats.missing,
                    }
                    for seats in view.seats
                ],
                "not_requester": view.gate.not_requester,
                "escalation": None
                if later is None
                else {"at": view.escalates_at, "count": later.count, "kind": later.kind, "name": later.name},
            },
            from_attributes=True,
        )


class DecideApproval(Form):
    """A vote."""

    verdict: Literal["approved", "denied"]
    comment: Comment = ""
    edited_arguments: dict[str, JsonValue] | None = Field(
        default=None, description="use these arguments instead; the consent is then for exactly these"
    )
    binding: Binding | None = None


class DelegateApproval(Form):
    """Who shall vote in the caller's place."""

    to: str = Field(min_length=1, max_length=200, description="name of a user")
    comment: Comment = ""


class WithdrawApproval(Form):
    """Why something is taken back."""

    comment: Comment = ""


class Withdrawn(Answer):
    """What was taken back."""

    withdrawn: Literal["vote", "delegation", "request"]
    approval: Approval


class TokenRequest(Form):
    """What the token shall decide."""

    verdict: Literal["approved", "denied"]


class ApprovalToken(Answer):
    """A one-time token, shown this once."""

    token: str = Field(description="send it with the approval's id in the workflow signal `approval`")
    expires_at: Time


class LinkRequest(Form):
    """Whom the link is for."""

    user: str | None = Field(
        default=None, min_length=1, max_length=200, description="name of the approver; the caller's own if it is null"
    )
    expires_in_s: int = Field(default=_DAY_S, ge=60, le=30 * _DAY_S, description="never after the approval itself")


class ApprovalLink(Answer):
    """A one-time link, shown this once."""

    path: str = Field(description="GET shows what would be approved and changes nothing, POST decides, once")
    page: str = Field(
        description="the same as a page for people, to be sent to the approver: it decides by one of two buttons"
    )
    user: str = Field(description="in whose name it decides")
    expires_at: Time


def concerning(caller: Principal) -> Principal | None:
    """Returns the caller if it sees only the approvals in which it may have a say, else None."""
    return None if caller.sees_all else caller


async def tell(parts: Context, tenant_id: UUID, approval_id: UUID, decided: Decided) -> None:
    """Lets followers see what was written and, if it is decided, the run go on."""
    await parts.publisher.poke(tenant_id, decided.run_id, decided.timeline_seq)
    if decided.state != "pending":
        await hear(parts, "approval", signals.deliver_approval(parts.temporal, parts.engine, tenant_id, approval_id))


async def _shown(parts: Context, caller: Principal, approval_id: UUID) -> Approval:
    async with transaction(parts.engine, caller.tenant_id) as connection:
        view = await reading.read_approval(connection, caller.tenant_id, approval_id, concerning=concerning(caller))
        return Approval.of(view)


@router.get("", summary="List approvals, newest first")
async def list_approvals(
    caller: Caller,
    parts: Parts,
    state: State | None = None,
    run: Annotated[UUID | None, Query(description="only of this run")] = None,
    cursor: Cursor = None,
    size: PageSize = 50,
) -> Page[Approval]:
    """Lists what waits for consent, or what became of it.

    A key that does not see the whole tenant sees what concerns it: where a role of its own is asked, what was delegated to its
    user, and what its user's runs ask for.
    """
    async with transaction(parts.engine, caller.tenant_id) as connection:
        views = await reading.list_approvals(
            connection,
            caller.tenant_id,
            state=state,
            run_id=run,
            before=id_cursor(cursor),
            count=size + 1,
            concerning=concerning(caller),
        )
    return page_of([Approval.of(view) for view in views], [str(view.approval_id) for view in views], size)


@router.get("/{approval_id}", summary="Look at an approval")
async def get_approval(approval_id: UUID, caller: Caller, parts: Parts) -> Approval:
    """Shows what the agent wants to do, with which arguments, at what cost, until when, and which needs are met by whom."""
    return await _shown(parts, caller, approval_id)


@router.post("/{approval_id}/decide", summary="Approve, edit or deny")
async def decide_approval(approval_id: UUID, body: DecideApproval, caller: Caller, parts: Parts) -> Approval:
    """Votes, for a key with a role that the gate asks for, which is not the requester's.

    The approval is decided when every need is met, each by somebody else; one denial denies it. With edited arguments it is asked
    anew: votes that were cast before do not count for them. The same vote again gets the same answer; another one, or one that
    comes too late, is 409.
    """
    decided = await service.decide(
        parts.engine,
        caller,
        approval_id,
        body.verdict,
        comment=body.comment,
        edited_arguments=cast("dict[str, Canonical] | None", body.edited_arguments),
        seen=bytes.fromhex(body.binding) if body.binding is not None else None,
    )
    await tell(parts, caller.tenant_id, approval_id, decided)
    return await _shown(parts, caller, approval_id)


@router.post("/{approval_id}/delegate", summary="Let somebody else vote")
async def delegate_approval(approval_id: UUID, body: DelegateApproval, caller: Caller, parts: Parts) -> Approval:
    """Names another user who votes in the caller's place, on this approval alone; never who started the run.

    The caller's own vote is gone with it, until the delegation is withdrawn.
    """
    decided = await service.delegate(parts.engine, caller, approval_id, body.to, comment=body.comment)
    await tell(parts, caller.tenant_id, approval_id, decided)
    return await _shown(parts, caller, approval_id)


@router.post("/{approval_id}/withdraw", summary="Take back a vote, a delegation or the request")
async def withdraw_approval(approval_id: UUID, body: WithdrawApproval, caller: Caller, parts: Parts) -> Withdrawn:
    """Takes back what is the caller's, as long as the approval is not decided.

    For who started the run that is the request itself: the action is then denied. For others it is their vote, or else their
    delegation, unless it was used.
    """
    what, decided = await service.withdraw(parts.engine, caller, approval_id, comment=body.comment)
    await tell(parts, caller.tenant_id, approval_id, decided)
    return Withdrawn(withdrawn="request" if what == "same" else what, approval=await _shown(parts, caller, approval_id))


@router.post("/{approval_id}/tokens", status_code=201, summary="Get a one-time token for a workflow signal")
async def create_approval_token(approval_id: UUID, body: TokenRequest, caller: Caller, parts: Parts) -> ApprovalToken:
    """Gives an eligible approver a token that votes, once, when it comes to the workflow by a bare signal."""
    async with transaction(parts.engine, caller.tenant_id) as connection:
        token, expires_at = await tokens.issue_token(connection, caller, approval_id, body.verdict)
    return ApprovalToken(token=token, expires_at=expires_at)


@router.post("/{approval_id}/links", status_code=201, summary="Get a one-time link")
async def create_approval_link(approval_id: UUID, body: LinkRequest, caller: Caller, parts: Parts) -> ApprovalLink:
    """Makes a link by which a named approver decides, once, without a key: for the caller, or by an owner or admin for others.

    Whoever has the link is taken for that approver: send it only to where nobody else reads.
    """
    secret, user, expires_at = await links.create_link(
        parts.engine, caller, approval_id, user=body.user, life_s=body.expires_in_s
    )
    return ApprovalLink(
        path=f"/v1/approval-links/{secret}", page=f"/approve/{secret}", user=user, expires_at=expires_at
    )
