"""In what a run's history and the log may differ: a stable code for each, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

MEANINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "witness.no_permit": "the workflow's history has an activity that was given no permit",
        "witness.no_allow": "the workflow's history has an activity, and no decision in the log allows it",
        "witness.other_action": "an activity's permit is for another action than the decision that it names",
        "witness.permit_twice": "two activities of one execution of the workflow were given permits for the same hold",
        "witness.not_settled": "an activity's hold is not settled, though its run has ended",
        "witness.contradicted": "the history and the hold say different things of one execution",
        "witness.no_activity": "the log says that an action was executed or its permit redeemed, and the history has no such activity",
        "witness.stray": "the workflow did something that no permit can allow",
        "witness.record_altered": "a decision's record does not hash to its hash",
        "witness.history_missing": "there is no history to hold against the log",
        "witness.history_altered": "the history is not the one whose digest the log has",
    }
)
"""Codes of differences, and what each means."""
