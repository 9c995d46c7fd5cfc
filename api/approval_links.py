"""Consent without a key: by a one-time link, or by the signature of a registered signer."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Response
from pydantic import Field

from api.approvals import Approval, Binding, Comment, tell
from api.context import Context, Parts
from api.forms import Answer, Form, Name, Time
from holdfast.approvals import links, reading, signers
from holdfast.approvals.links import Link
from holdfast.approvals.voting import State
from holdfast.database.engine import transaction
from holdfast.errors import RequestInvalid

router = APIRouter(prefix="/v1", tags=["approvals"])

Secret = Annotated[str, Path(min_length=1, max_length=100, description="the link's secret")]

_PRIVATE = {"referrer-policy": "no-referrer", "x-robots-tag": "noindex"}


class LinkedApproval(Answer):
    """What a link would decide on."""

    user: str = Field(description="in whose name")
    link_expires_at: Time
    how: str
    approval: Approval


class DecideByLink(Form):
    """A vote by a link."""

    verdict: Literal["approved", "denied"]
    binding: Binding
    comment: Comment = ""


class DecideBySignature(Form):
    """A vote by a signer."""

    signer: Name
    verdict: Literal["approved", "denied"]
    binding: Binding
    comment: Comment = ""
    signed_at_s: Annotated[int, Field(ge=0, le=253_402_300_799, description="seconds of the epoch")]
    signature: Annotated[
        str, Field(min_length=88, max_length=88, description="Ed25519 over the seven lines of the reference, in base64")
    ]


class Counted(Answer):
    """A vote that was counted."""

    approval_id: UUID
    state: State = Field(description="`pending` while others have to consent as well")


async def _linked(parts: Context, link: Link) -> LinkedApproval:
    async with transaction(parts.engine, link.tenant_id) as connection:
        view = await reading.read_approval(connection, link.tenant_id, link.approval_id)
    return LinkedApproval(
        user=link.user,
        link_expires_at=link.expires_at,
        how='POST {"verdict": "approved" or "denied", "binding": the binding shown here, "comment": ""} to this address',
        approval=Approval.of(view),
    )


@router.get("/approval-links/{secret}", summary="Look at what a link would decide on")
async def get_approval_link(secret: Secret, parts: Parts, response: Response) -> LinkedApproval:
    """Shows what would be approved, and changes nothing: programs that read mail may follow it as often as they like."""
    response.headers.update(_PRIVATE)
    return await _linked(parts, await links.open_link(parts.engine, secret))


@router.post("/approval-links/{secret}", summary="Decide by a link")
async def decide_by_link(secret: Secret, body: DecideByLink, parts: Parts, response: Response) -> Counted:
    """Votes as the approver whom the link was made for; after that the link is worth nothing."""
    response.headers.update(_PRIVATE)
    link = await links.open_link(parts.engine, secret)
    decided = await links.vote_by_link(
        parts.engine, link, body.verdict, seen=bytes.fromhex(body.binding), comment=body.comment
    )
    await tell(parts, link.tenant_id, link.approval_id, decided)
    return Counted(approval_id=link.approval_id, state=decided.state)


@router.post("/approval-callbacks/{approval}", summary="Decide by a signature")
async def decide_by_signature(approval: UUID, body: DecideBySignature, parts: Parts) -> Counted:
    """Counts the vote of an external system that the tenant has registered as a signer; nothing else proves who it is."""
    try:
        signature = base64.b64decode(body.signature, validate=True)
    except (binascii.Error, ValueError):
        raise RequestInvalid("signature: this is not base64") from None
    signed = signers.Signed(
        body.signer, body.verdict, bytes.fromhex(body.binding), body.comment, body.signed_at_s, signature
    )
    tenant_id, decided = await signers.vote_by_signature(parts.engine, approval, signed)
    await tell(parts, tenant_id, approval, decided)
    return Counted(approval_id=approval, state=decided.state)
