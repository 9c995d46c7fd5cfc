"""Which environment variables there are: those of the settings, of compose.yaml, and those that the code names."""

from __future__ import annotations

import re
from functools import cache

from holdfast.settings import PROCESSES
from holdfast.settings import variables as variables_of
from tests.deployment.composition import defaults

from .pages import ROOT

_ROOMS = ("holdfast", "sandbox", "activities", "workflows", "workers", "api", "cli", "demo", "bench")
_NAME = re.compile(r"[\"'](HOLDFAST_[A-Z_]+|[A-Z]+_API_KEY)[\"']")


@cache
def variables() -> frozenset[str]:
    """Returns the environment variables that something reads."""
    found = {"HOLDFAST_OBJECTS_SECRET_FILE"}  # of deploy/compose.s3.yaml
    found |= {name for kind in PROCESSES.values() for name in variables_of(kind)} | set(defaults())
    for room in _ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            found |= set(_NAME.findall(path.read_text(encoding="utf-8")))
    return frozenset(found)
