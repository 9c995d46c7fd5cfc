"""Signers: external systems that may consent by a signature."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from api.authentication import Caller, require_reader
from api.context import Parts
from api.forms import Answer, Form, Name, NamePath, Page, Time
from holdfast.approvals import signers
from holdfast.database.engine import transaction
from holdfast.tenancy.principals import ADMIN, OWNER

router = APIRouter(prefix="/v1/signers", tags=["approvals"])


class AddSigner(Form):
    """An external system, and the key that it signs with."""

    name: Name
    public_key: Annotated[str, Field(min_length=1, max_length=100, description="Ed25519: 32 raw bytes in base64")]
    description: Annotated[str, Field(max_length=200, description="for people")] = ""


class Signer(Answer):
    """An external system that gates can ask for."""

    signer_id: UUID
    name: str
    public_key: str
    description: str
    actor: str = Field(description="who registered it")
    created_at: Time
    revoked_at: Time | None


@router.post("", summary="Register a signer", status_code=201)
async def add_signer(body: AddSigner, caller: Caller, parts: Parts) -> Signer:
    """Registers a signer; gates ask for it by its name. A second one of the same name is refused."""
    caller.require(OWNER, ADMIN)
    public_key = signers.public_key_bytes(body.public_key)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        return Signer.model_validate(
            await signers.add_signer(connection, caller, body.name, public_key, body.description)
        )


@router.get("", summary="List signers, newest first")
async def list_signers(caller: Caller, parts: Parts) -> Page[Signer]:
    """Lists the newest 200 signers, revoked ones too."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await signers.list_signers(connection, caller.tenant_id)
    return Page[Signer](items=[Signer.model_validate(each) for each in found], next_cursor=None)


@router.delete("/{name}", summary="Revoke a signer", status_code=204)
async def revoke_signer(name: NamePath, caller: Caller, parts: Parts) -> None:
    """Revokes a signer at once; votes that were counted stay."""
    caller.require(OWNER, ADMIN)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        await signers.revoke_signer(connection, caller, name)
