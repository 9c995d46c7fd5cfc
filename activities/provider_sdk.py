"""The providers' SDKs, loaded when a call first needs one: each takes a second and tens of megabytes, and most executors use one."""

from __future__ import annotations

import asyncio
import importlib
from types import ModuleType
from typing import Any, Final

from holdfast.providers.model import Wire

# What the SDKs themselves put off until they are used comes along.
_MODULES: Final[dict[Wire, tuple[str, ...]]] = {
    "anthropic": ("anthropic", "anthropic.resources.messages"),
    "openai": ("openai", "openai.resources.chat.completions"),
}
_loaded: dict[Wire, ModuleType] = {}


def _import(wire: Wire) -> ModuleType:
    for name in _MODULES[wire]:
        importlib.import_module(name)
    return importlib.import_module(_MODULES[wire][0])


async def preload(providers: str) -> None:
    """Loads the SDKs of providers, given by their names with commas between; the simulated one speaks Anthropic's wire."""
    names = {"anthropic" if name == "simulated" else name for name in filter(None, providers.split(","))}
    for wire in _MODULES:
        if wire in names:
            await load(wire)


async def load(wire: Wire) -> Any:  # the SDK's module: its names are known to nobody's type checker here
    """Returns the SDK of a wire; the first time it is imported in a thread, so that heartbeats go on meanwhile."""
    if wire not in _loaded:
        _loaded[wire] = await asyncio.to_thread(_import, wire)
    return _loaded[wire]
