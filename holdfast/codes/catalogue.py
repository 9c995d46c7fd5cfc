"""All codes together, found by name, and by what was nearly one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from holdfast.codes import arguments, audit, decisions, isolation, providers, records, requests, runs, stack, tools
from holdfast.codes.entry import Code

GROUPS: Final[Mapping[str, tuple[Code, ...]]] = MappingProxyType(
    {
        "requests": requests.CODES,
        "decisions": decisions.CODES,
        "arguments": arguments.CODES,
        "runs": runs.CODES,
        "providers": providers.CODES,
        "tools": tools.CODES,
        "records": records.CODES,
        "stack": stack.CODES,
        "isolation": isolation.CODES,
        "audit": audit.CODES,
    }
)
"""The codes by the module that lists them."""

CATALOGUE: Final[Mapping[str, Code]] = MappingProxyType(
    {code.code: code for codes in GROUPS.values() for code in codes}
)
"""Every stable code by its name."""

_NEAREST_MAX: Final = 3
_LIKENESS_MIN: Final = 0.6


def nearest(name: str) -> list[str]:
    """Returns the codes that a misspelt name may have meant, the likeliest first."""
    name = name.strip().lower()
    found = difflib.get_close_matches(name, CATALOGUE, _NEAREST_MAX, _LIKENESS_MIN)
    parts = [code for code in CATALOGUE if name and name in code.split(".") and code not in found]
    return [*found, *parts][:_NEAREST_MAX]
