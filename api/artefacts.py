"""Artefacts: the files of a run, those it was given and those its code has made."""

from __future__ import annotations

from typing import Self
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import Field

from api.authentication import Caller
from api.context import Parts
from api.forms import Answer, Time
from api.runs import object_storage, read_visible
from holdfast.artefacts import reading
from holdfast.artefacts.reading import Artefact as Row
from holdfast.database.engine import transaction
from holdfast.errors import NotFound

router = APIRouter(prefix="/v1/runs/{run_id}/artefacts", tags=["runs"])


class Artefact(Answer):
    """A file of a run."""

    step: int = Field(description="the step whose code made it; 0: the run was given it")
    try_number: int
    name: str
    size_bytes: int
    sha256: str
    created_at: Time

    @classmethod
    def of(cls, row: Row) -> Self:
        """Builds the answer."""
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class Artefacts(Answer):
    """The files of a run."""

    items: list[Artefact]


@router.get("", summary="List a run's files")
async def list_artefacts(run_id: UUID, caller: Caller, parts: Parts) -> Artefacts:
    """Lists the files of a run in the order in which they came to be."""
    await read_visible(caller, parts, run_id)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        rows = await reading.list_artefacts(connection, caller.tenant_id, run_id)
    return Artefacts(items=[Artefact.of(row) for row in rows])


@router.get(
    "/{step}/{name:path}",
    summary="Download a file of a run",
    response_class=Response,
    responses={200: {"description": "the content", "content": {"application/octet-stream": {}}}},
)
async def get_artefact(run_id: UUID, step: int, name: str, request: Request, caller: Caller, parts: Parts) -> Response:
    """Answers with the content, of which it was made sure that it is the one of the digest. It is never shown as a page."""
    await read_visible(caller, parts, run_id)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        rows = await reading.list_artefacts(connection, caller.tenant_id, run_id)
    found = reading.newest([row for row in rows if row.step == step], name)
    if found is None:
        raise NotFound(f"the run has no file {name!r} of step {step}")
    content = await object_storage(parts, request).get(caller.tenant_id, found.sha256, found.size_bytes)
    file_name = quote(name.rpartition("/")[2])
    return Response(
        content,
        media_type="application/octet-stream",
        headers={
            # what code made is nobody's page: a browser saves it, and runs nothing of it
            "content-disposition": f"attachment; filename*=UTF-8''{file_name}",
            "content-security-policy": "sandbox; default-src 'none'",
            "etag": f'"{found.sha256}"',
        },
    )
