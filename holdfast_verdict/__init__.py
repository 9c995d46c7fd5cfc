"""What may happen, and can anyone check it? The pure deciding core: no I/O, no clock, no randomness.

The names below are the library's; each is imported when it is first asked for, so that a server that wants hashes alone
loads no parser.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

# the module of tables comes first: importing it binds its name here, and the function of that name has to be the last to do so
import holdfast_verdict.decide  # noqa: F401 (see above)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast_verdict.actions.action import CanonicalAction
    from holdfast_verdict.actions.catalogue import ActionType, Catalogue
    from holdfast_verdict.actions.refused import ActionRefused, CatalogueInvalid
    from holdfast_verdict.canonical import JsonValue
    from holdfast_verdict.engine.deciding import decide_call
    from holdfast_verdict.engine.facts import Facts
    from holdfast_verdict.engine.history import History
    from holdfast_verdict.engine.session import Session
    from holdfast_verdict.engine.verdict import Verdict
    from holdfast_verdict.language.compiler import compile_policy
    from holdfast_verdict.language.formatter import format_policy
    from holdfast_verdict.policy import Policy
    from holdfast_verdict.problems import PolicyRefused, Problem
    from holdfast_verdict.provenance.sources import Sources

_HOMES: Final = {
    "ActionRefused": "holdfast_verdict.actions.refused",
    "ActionType": "holdfast_verdict.actions.catalogue",
    "CanonicalAction": "holdfast_verdict.actions.action",
    "Catalogue": "holdfast_verdict.actions.catalogue",
    "CatalogueInvalid": "holdfast_verdict.actions.refused",
    "Facts": "holdfast_verdict.engine.facts",
    "History": "holdfast_verdict.engine.history",
    "Policy": "holdfast_verdict.policy",
    "PolicyRefused": "holdfast_verdict.problems",
    "Problem": "holdfast_verdict.problems",
    "Session": "holdfast_verdict.engine.session",
    "Sources": "holdfast_verdict.provenance.sources",
    "Verdict": "holdfast_verdict.engine.verdict",
    "compile_policy": "holdfast_verdict.language.compiler",
    "decide_call": "holdfast_verdict.engine.deciding",
    "format_policy": "holdfast_verdict.language.formatter",
}

__all__ = [
    "ActionRefused",
    "ActionType",
    "CanonicalAction",
    "Catalogue",
    "CatalogueInvalid",
    "Facts",
    "History",
    "Policy",
    "PolicyRefused",
    "Problem",
    "Session",
    "Sources",
    "Verdict",
    "compile_policy",
    "decide",
    "decide_call",
    "format_policy",
]


def decide(policy: Policy | Mapping[str, object], action: object, facts: Facts | Mapping[str, JsonValue]) -> Verdict:
    """Decides on an action; see `holdfast_verdict.engine.deciding.decide`. It does not raise."""
    return (_LOADED or _load())[0](policy, action, facts)


_LOADED: list[Callable[..., Verdict]] = []


def _load() -> list[Callable[..., Verdict]]:
    from holdfast_verdict.engine import deciding

    _LOADED.append(deciding.decide)
    return _LOADED


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
