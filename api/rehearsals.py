"""Rehearsals: what a candidate policy would have decided on what was decided."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self
from uuid import UUID

from fastapi import APIRouter
from pydantic import AwareDatetime, Field, JsonValue, model_validator

from api.authentication import Caller
from api.context import Parts
from api.forms import Answer, Cursor, Form, IdempotencyKey, Page, PageSize, Time, claim_for, id_cursor, page_of
from api.policies import Source, Version
from holdfast.database.engine import transaction
from holdfast.policies import rehearsal, store
from holdfast.policies.catalogue import read_catalogue
from holdfast.tenancy import idempotency
from holdfast.tenancy.principals import ADMIN, AUDITOR, DEVELOPER, OWNER, Principal

router = APIRouter(prefix="/v1/policies/rehearsals", tags=["policies"])

_MAY: Final = (OWNER, ADMIN, DEVELOPER, AUDITOR)


class StartRehearsal(Form):
    """A candidate, and the decisions that it is asked about."""

    version: Version | None = None
    source: Source | None = None
    # not strict, because JSON has no times: they come as text
    since: Annotated[AwareDatetime, Field(alias="from", strict=False, description="decisions from then on")]
    until: Annotated[
        AwareDatetime | None, Field(alias="to", strict=False, description="decisions before then; without, until now")
    ] = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.version is None) == (self.source is None):
            raise ValueError("give `version` or `source`: one of both")
        return self


class PolicyRehearsal(Answer):
    """A rehearsal: how far it is, and what was found once it is done."""

    rehearsal_id: UUID
    version: int | None = Field(description="of the candidate; null for a text that is not stored")
    policy_hash: str = Field(description="SHA-256 of what the candidate compiles to, hex")
    since: Time = Field(description="decisions from then on")
    until: Time = Field(description="decisions before then")
    state: rehearsal.State
    done: int = Field(description="records that were looked at")
    total: int | None = Field(description="how many there are, once that is known")
    result: dict[str, JsonValue] | None = Field(
        description="what was found: `decisions`, `totals`, `changes`, `untold`, `untaken`, `skipped`"
    )
    error: str = Field(description="why it failed, if it did")
    asked_by: str
    created_at: Time
    ended_at: Time | None

    @classmethod
    def of(cls, found: rehearsal.Rehearsal, *, whole: bool = True) -> Self:
        """Builds the answer; in a list without what was found."""
        members: dict[str, Any] = {  # Any: fields of the answer
            name: getattr(found, name) for name in cls.model_fields if name not in ("policy_hash", "result")
        }
        return cls(**members, policy_hash=found.policy_hash.hex(), result=found.result if whole else None)


@router.post("", summary="Rehearse a candidate over recorded decisions", status_code=201)
async def start_rehearsal(
    body: StartRehearsal, caller: Caller, parts: Parts, idempotency_key: IdempotencyKey = None
) -> PolicyRehearsal:
    """Asks a candidate about every decision of a time: on the facts as they were, and as they would have become under it.

    The answer comes at once; what was found comes when it is done. Nothing is decided by it and nothing changes.
    """
    from holdfast.policies.accepting import compiled

    caller.require(*_MAY)
    tenant_id = caller.tenant_id
    async with transaction(parts.engine, tenant_id) as connection:
        if body.version is not None:
            candidate = (await store.find(connection, tenant_id, body.version)).policy
        else:
            catalogue = await read_catalogue(connection, tenant_id)
    if body.source is not None:
        candidate = await asyncio.to_thread(compiled, body.source, catalogue)
    claim = claim_for(
        caller, "POST /v1/policies/rehearsals", idempotency_key, body.model_dump(mode="json", by_alias=True)
    )
    async with transaction(parts.engine, tenant_id) as connection:
        if claim is not None and (kept := await idempotency.claim(connection, claim)) is not None:
            asked = await rehearsal.find(connection, tenant_id, UUID(str(kept["rehearsal_id"])))
        else:
            asked = await rehearsal.ask(
                connection,
                tenant_id,
                candidate,
                version=body.version,
                since=body.since,
                until=body.until or datetime.now(UTC),
                by=caller.actor,
            )
            if claim is not None:
                await idempotency.keep(connection, claim, {"rehearsal_id": str(asked.rehearsal_id)})
    _go_on(parts, caller, asked)
    return PolicyRehearsal.of(asked)


def _go_on(parts: Parts, caller: Principal, asked: rehearsal.Rehearsal) -> None:
    """Sees to it that somebody works at it: whoever did may have ended."""
    if asked.is_free:
        parts.rehearsing.begin(caller.tenant_id, asked.rehearsal_id)


@router.get("", summary="List rehearsals, newest first")
async def list_rehearsals(
    caller: Caller, parts: Parts, cursor: Cursor = None, size: PageSize = 50
) -> Page[PolicyRehearsal]:
    """Lists rehearsals without what they have found."""
    caller.require(*_MAY)
    before = id_cursor(cursor)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await rehearsal.rehearsals(connection, caller.tenant_id, before=before, count=size + 1)
    return page_of(
        [PolicyRehearsal.of(each, whole=False) for each in found], [str(each.rehearsal_id) for each in found], size
    )


@router.get("/{rehearsal_id}", summary="Show a rehearsal")
async def get_rehearsal(rehearsal_id: UUID, caller: Caller, parts: Parts) -> PolicyRehearsal:
    """Shows how far it is, and what was found. One whose process has ended is taken up again."""
    caller.require(*_MAY)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await rehearsal.find(connection, caller.tenant_id, rehearsal_id)
    _go_on(parts, caller, found)
    return PolicyRehearsal.of(found)


@router.post("/{rehearsal_id}/cancel", summary="Cancel a rehearsal")
async def cancel_rehearsal(rehearsal_id: UUID, caller: Caller, parts: Parts) -> PolicyRehearsal:
    """Cancels it; one that has ended stays as it is."""
    caller.require(*_MAY)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        return PolicyRehearsal.of(await rehearsal.cancel(connection, caller.tenant_id, rehearsal_id))
