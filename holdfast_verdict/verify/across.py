"""What the checks across records look at: everything that a bundle holds, by what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast_verdict.verify.engine import EnginePolicy
from holdfast_verdict.verify.findings import Finding
from holdfast_verdict.verify.records import Decided

Rows = list[tuple[int, dict[str, Any]]]
"""Lines with their numbers. Any: their members are of the form that `lines.MEMBERS` says."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose lines were read.

    Attributes:
        header: What it is an export of.
        policies: The policies by hash.
        decided: The records.
        by_id: The same by id.
        by_hold: Those that granted a hold, by its id.
        approvals: Lines of approvals.
        holds: Lines of holds.
        caps: Lines of caps.
        journal: Lines of the journal.
        failed: Ids of decisions whose records do not hold by themselves: nothing more is said of them.
    """

    header: Mapping[str, Any]
    policies: Mapping[str, EnginePolicy]
    decided: list[Decided]
    by_id: Mapping[str, Decided]
    by_hold: Mapping[str, Decided]
    approvals: Rows
    holds: Rows
    caps: Rows
    journal: Rows
    failed: frozenset[str]


def at(one: Decided, code: str, wrong: str) -> Finding:
    """Returns a finding about a decision."""
    return Finding(code, f"decision {one.decision_id}", wrong, one.line)
