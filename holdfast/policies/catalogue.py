"""The actions that a tenant's policies may speak of: the built-in kinds, the tools that Holdfast brings along, and its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.errors import RequestInvalid
from holdfast.tools.toolset import BUILTIN, Tool
from holdfast.tools.versions import list_tools
from holdfast_verdict.actions.catalogue import Catalogue
from holdfast_verdict.actions.refused import CatalogueInvalid

_TOOLS_MAX: Final = 10_000


def catalogue_of(own: Iterable[Tool] = ()) -> Catalogue:
    """Returns the catalogue of the tools that Holdfast brings along, and these.

    Raises:
        RequestInvalid: The schema of a tool has no form that policies know.
    """
    tools = {**BUILTIN, **{tool.name: tool for tool in own}}
    try:
        return Catalogue.of({name: _entry(tool) for name, tool in tools.items()}).with_builtin_kinds()
    except CatalogueInvalid as error:
        raise RequestInvalid(
            f"the tool {error.action} cannot be spoken of in policies: {error}",
            remedy="put the tool with another schema",
        ) from None


def _entry(tool: Tool) -> Mapping[str, Any]:  # Any: JSON Schema
    return {
        "parameters": tool.schema(),
        "external": tool.external,
        "yields": list(tool.yields),
        "description": tool.description,
    }


async def read_catalogue(connection: AsyncConnection, tenant_id: UUID) -> Catalogue:
    """Returns the catalogue of a tenant, with the newest version of each tool of its own.

    Raises:
        RequestInvalid: The schema of a tool has no form that policies know.
    """
    own = await list_tools(connection, tenant_id, after="", count=_TOOLS_MAX)
    return catalogue_of(each.tool for each in own)
