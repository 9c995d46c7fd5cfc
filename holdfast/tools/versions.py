"""Tools of a tenant's own in versions: every change is a new one, and a run is pinned to those it was admitted with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.errors import NotFound, RequestInvalid
from holdfast.tools.definition import NAME_LENGTH_MAX, NAME_PATTERN, OwnTool, ToolForm
from holdfast.tools.toolset import BUILTIN, Toolset, toolset
from holdfast_verdict.canonical import canonical_bytes

# A lock on the name: the next version's number is not there to be locked yet.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 1))")
_INSERT = text("""
    INSERT INTO tools (tenant_id, name, version, definition, digest)
    SELECT :tenant_id, :name, coalesce(max(version), 0) + 1, CAST(:definition AS jsonb), :digest FROM tools
    WHERE tenant_id = :tenant_id AND name = :name
    RETURNING version, created_at
""")
_NEWEST = text("""
    SELECT name, version, created_at, definition FROM tools
    WHERE tenant_id = :tenant_id AND name = :name ORDER BY version DESC LIMIT 1
""")
_LIST = text("""
    SELECT DISTINCT ON (name) name, version, created_at, definition FROM tools
    WHERE tenant_id = :tenant_id AND name > :after ORDER BY name, version DESC LIMIT :count
""")
_NEWEST_OF = text("""
    SELECT DISTINCT ON (name) name, version, created_at, definition FROM tools
    WHERE tenant_id = :tenant_id AND name = ANY(:names) ORDER BY name, version DESC
""")
_VERSION = text("SELECT definition FROM tools WHERE tenant_id = :tenant_id AND name = :name AND version = :version")
_VERSIONS = text("""
    SELECT t.name, t.version, t.definition
    FROM unnest(CAST(:names AS text[]), CAST(:versions AS integer[])) AS w (name, version)
    JOIN tools t ON t.tenant_id = :tenant_id AND t.name = w.name AND t.version = w.version
""")


@dataclass(frozen=True, slots=True)
class ToolVersion:
    """A version of a tool, and when it was put."""

    tool: OwnTool
    created_at: datetime

    @classmethod
    def of(cls, name: str, version: int, created_at: datetime, definition: object) -> ToolVersion:
        """Reads a row."""
        return cls(OwnTool(name, version, read_form(definition)), created_at)


def read_form(definition: object) -> ToolForm:
    """Reads a definition from its stored form."""
    return ToolForm.model_validate_json(orjson.dumps(definition))


def check_name(name: str) -> None:
    """Checks the name of a tool of one's own.

    Raises:
        RequestInvalid: It is no such name, or Holdfast brings a tool of that name along.
    """
    if name in BUILTIN:
        raise RequestInvalid(f"{name} is a tool that Holdfast brings along", remedy="choose another name")
    if len(name) > NAME_LENGTH_MAX or re.match(NAME_PATTERN, name) is None:
        raise RequestInvalid(
            f"{name[:100]!r} is no name of a tool",
            remedy=f"use two to four words in lower case, joined by dots, {NAME_LENGTH_MAX} characters at most: crm.lookup",
        )


async def put_tool(connection: AsyncConnection, tenant_id: UUID, name: str, form: ToolForm) -> ToolVersion:
    """Stores a new version of a tool, or returns the newest one if that is the same.

    Raises:
        RequestInvalid: The name cannot be one.
    """
    check_name(name)
    await connection.execute(_LOCK, {"name": f"{tenant_id} tool {name}"})
    row = (await connection.execute(_NEWEST, {"tenant_id": tenant_id, "name": name})).one_or_none()
    new = OwnTool(name, 0, form)
    if row is not None and (newest := ToolVersion.of(*row)).tool.digest == new.digest:
        return newest
    stored = (
        await connection.execute(
            _INSERT,
            {
                "tenant_id": tenant_id,
                "name": name,
                "definition": canonical_bytes(form.to_json()).decode(),
                "digest": bytes.fromhex(new.digest),
            },
        )
    ).one()
    return ToolVersion(OwnTool(name, stored.version, form), stored.created_at)


async def newest_tool(connection: AsyncConnection, tenant_id: UUID, name: str) -> ToolVersion:
    """Returns a tool's newest version.

    Raises:
        NotFound: The tenant has no such tool of its own.
    """
    row = (await connection.execute(_NEWEST, {"tenant_id": tenant_id, "name": name})).one_or_none()
    if row is None:
        raise NotFound(f"the tenant has no tool {name!r} of its own", remedy=f"put it first: PUT /v1/tools/{name}")
    return ToolVersion.of(*row)


async def list_tools(connection: AsyncConnection, tenant_id: UUID, *, after: str, count: int) -> list[ToolVersion]:
    """Returns the newest version of each tool of the tenant's own whose name comes after `after`."""
    rows = await connection.execute(_LIST, {"tenant_id": tenant_id, "after": after, "count": count})
    return [ToolVersion.of(*row) for row in rows]


async def newest_of(connection: AsyncConnection, tenant_id: UUID, names: Iterable[str]) -> list[OwnTool]:
    """Returns the newest versions of the tenant's own tools among these names.

    Raises:
        RequestInvalid: A name is neither one of these nor a tool that Holdfast brings along (LAW 7).
    """
    own = sorted({name for name in names if name not in BUILTIN})
    if not own:
        return []
    rows = await connection.execute(_NEWEST_OF, {"tenant_id": tenant_id, "names": own})
    found = {row.name: ToolVersion.of(*row).tool for row in rows}
    if missing := [name for name in own if name not in found]:
        raise RequestInvalid(
            f"there is no tool {missing[0][:100]!r}",
            remedy=f"put it first, or choose from {', '.join([*BUILTIN, *found])}",
        )
    return list(found.values())


async def read_version(connection: AsyncConnection, tenant_id: UUID, name: str, version: int) -> OwnTool:
    """Returns a version that a run is pinned to, so that it exists."""
    definition = await connection.scalar(_VERSION, {"tenant_id": tenant_id, "name": name, "version": version})
    return OwnTool(name, version, read_form(definition))


async def read_toolset(connection: AsyncConnection, tenant_id: UUID, pinned: Mapping[str, int]) -> Toolset:
    """Returns the tools of a run that is pinned to these versions, so that they exist."""
    if not pinned:
        return toolset(())
    parameters = {"tenant_id": tenant_id, "names": list(pinned), "versions": list(pinned.values())}
    rows = (await connection.execute(_VERSIONS, parameters)).all()
    if len(rows) != len(pinned):
        raise NotFound(
            f"of the tools {', '.join(sorted(pinned))} there is one not in the version that a run is pinned to"
        )
    return toolset([OwnTool(row.name, row.version, read_form(row.definition)) for row in rows])


def pins(own: Iterable[OwnTool]) -> Mapping[str, int]:
    """Returns what a run keeps of its tools: the version of each."""
    return {tool.name: tool.version for tool in own}
