"""Tools of the tenant's own: every change is a new version; runs stay with those they were admitted with."""

from __future__ import annotations

from typing import Annotated, Self

from fastapi import APIRouter, Path

from api.authentication import Caller, require_reader
from api.context import Parts
from api.forms import Answer, Cursor, Page, PageSize, Time, page_of, text_cursor
from holdfast.database.engine import transaction
from holdfast.decisions.record import record_change
from holdfast.tenancy.principals import ADMIN, OWNER
from holdfast.tools import versions
from holdfast.tools.definition import NAME_LENGTH_MAX, NAME_PATTERN, ToolForm
from holdfast.tools.versions import ToolVersion

router = APIRouter(prefix="/v1", tags=["tools"])

ToolPath = Annotated[str, Path(pattern=NAME_PATTERN, max_length=NAME_LENGTH_MAX)]


class Tool(Answer):
    """A version of a tool."""

    name: str
    version: int
    created_at: Time
    digest: str
    definition: ToolForm

    @classmethod
    def of(cls, stored: ToolVersion) -> Self:
        """Builds the answer."""
        tool = stored.tool
        return cls(
            name=tool.name,
            version=tool.version,
            created_at=stored.created_at,
            digest=tool.digest,
            definition=tool.form,
        )


@router.put("/tools/{name}", summary="Store a new version of a tool")
async def put_tool(name: ToolPath, body: ToolForm, caller: Caller, parts: Parts) -> Tool:
    """Stores a new version, unless the newest is the same; new runs use it, running ones keep theirs.

    A definition says which credential goes where, and what may be tried again: only owners and admins may put one.
    """
    caller.require(OWNER, ADMIN)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        stored = await versions.put_tool(connection, caller.tenant_id, name, body)
        await record_change(
            connection,
            caller.tenant_id,
            caller,
            "tool.put",
            f"tool {name} is at version {stored.tool.version}",
            {"tool": name, "version": stored.tool.version, "definition": stored.tool.digest},
        )
    return Tool.of(stored)


@router.get("/tools", summary="List tools")
async def list_tools(caller: Caller, parts: Parts, cursor: Cursor = None, size: PageSize = 50) -> Page[Tool]:
    """Lists the newest version of each tool of the tenant's own, by name."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await versions.list_tools(connection, caller.tenant_id, after=text_cursor(cursor), count=size + 1)
    return page_of([Tool.of(one) for one in found], [one.tool.name for one in found], size)


@router.get("/tools/{name}", summary="Look at a tool")
async def get_tool(name: ToolPath, caller: Caller, parts: Parts) -> Tool:
    """Shows the newest version of a tool of the tenant's own."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        return Tool.of(await versions.newest_tool(connection, caller.tenant_id, name))
