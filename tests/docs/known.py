"""Which environment variables there are: those of the settings, and those that the code names."""

from __future__ import annotations

import re
from functools import cache

from docs.generate import SETTINGS

from .pages import ROOT

_ROOMS = ("holdfast", "activities", "workflows", "workers", "api", "cli", "demo", "bench")
_NAME = re.compile(r"[\"'](HOLDFAST_[A-Z_]+|[A-Z]+_API_KEY)[\"']")


@cache
def variables() -> frozenset[str]:
    """Returns the environment variables that something reads."""
    found = {f"HOLDFAST_{name.upper()}" for kind in SETTINGS.values() for name in kind.model_fields}
    for room in _ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            found |= set(_NAME.findall(path.read_text(encoding="utf-8")))
    return frozenset(found)
