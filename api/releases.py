"""Releases: somebody takes responsibility for what a run has read under a label."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from api.authentication import Caller
from api.context import Parts
from api.forms import Answer, Form, Page, Time
from holdfast.database.engine import transaction
from holdfast.policies import releases

router = APIRouter(prefix="/v1/runs/{run_id}/releases", tags=["runs"])


class MakeRelease(Form):
    """What is released, and why."""

    label: Annotated[
        str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,62}$", description="as rules name it, such as `secret`")
    ]
    reason: Annotated[str, Field(min_length=1, max_length=2_000, description="stands in the record")]


class Release(Answer):
    """A release. It covers what the run had read under the label when it was made, and nothing that it reads later."""

    release_id: UUID
    run_id: UUID
    label: str
    released_by: str
    roles: list[str] = Field(description="the roles of the key; rules say which of them count")
    reason: str
    decision_id: UUID = Field(description="its record")
    created_at: Time


@router.post("", summary="Release what a run has read under a label", status_code=201)
async def make_release(run_id: UUID, body: MakeRelease, caller: Caller, parts: Parts) -> Release:
    """Lets rules that say `released by role(…)` pass for what the run has read so far. Who started the run cannot."""
    async with transaction(parts.engine, caller.tenant_id) as connection:
        made, seq = await releases.release(connection, caller, run_id, body.label, body.reason)
    await parts.publisher.poke(caller.tenant_id, run_id, seq)
    return Release.model_validate(made)


@router.get("", summary="List a run's releases, newest first")
async def list_releases(run_id: UUID, caller: Caller, parts: Parts) -> Page[Release]:
    """Lists the newest 200 releases of a run."""
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await releases.list_releases(connection, caller, run_id)
    return Page[Release](items=[Release.model_validate(each) for each in found], next_cursor=None)
