"""The tools of one run: those that Holdfast brings along, and the versions of the tenant's own that the run is pinned to."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from holdfast.tools.code import CODE_TOOL
from holdfast.tools.definition import OwnTool
from holdfast.tools.registry import TOOLS, ToolDefinition

Tool = ToolDefinition | OwnTool
Toolset = Mapping[str, Tool]

BUILTIN: Final[Toolset] = MappingProxyType({**TOOLS, CODE_TOOL.name: CODE_TOOL})
"""What every run has."""


def toolset(own: Iterable[OwnTool]) -> Toolset:
    """Returns the tools of a run; nobody's own takes the name of one that Holdfast brings along."""
    return ChainMap(dict(BUILTIN), {tool.name: tool for tool in own})
