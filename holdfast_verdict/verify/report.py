"""What came of a verification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.verify.across import Bundle
from holdfast_verdict.verify.findings import Finding
from holdfast_verdict.verify.records import Withheld
from holdfast_verdict.verify.trust import Trust


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a verification.

    Attributes:
        header: The bundle's header; empty if it could not be read.
        trust: Whom it is believed.
        findings: What does not hold; nothing else is `holds`.
        bundle: What the bundle holds, for the story; None if it could not be read, or is too large to be told.
        lines: How many lines it has.
        totals: How many decisions there are, by what they were on, verdict and code.
        withheld: Records that could not be evaluated again, because the policy asks for a value that was erased.
        deleted: How many records there are of which only the hash and what was decided is left.
    """

    header: Mapping[str, Any]  # Any: its members are of the form that `lines.MEMBERS` says
    trust: Trust
    findings: tuple[Finding, ...]
    bundle: Bundle | None
    lines: int
    totals: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    withheld: Sequence[Withheld] = ()
    deleted: int = 0

    @property
    def is_read(self) -> bool:
        """Whether it is an audit bundle that could be read."""
        return bool(self.header)

    @property
    def records(self) -> int:
        """How many decisions there are."""
        return sum(self.totals.values())

    @property
    def holds(self) -> bool:
        """Whether all of it holds."""
        return not self.findings

    def counts(self) -> dict[str, int]:
        """Returns how many records there are of each verdict."""
        counted: Counter[str] = Counter()
        for (_, verdict, _), count in self.totals.items():
            counted[verdict] += count
        return dict(counted)

    def to_json(self) -> dict[str, JsonValue]:
        """Returns it as JSON, without the story."""
        checkpoint = self.trust.checkpoint
        return {
            "holds": self.holds,
            "findings": [finding.to_json() for finding in self.findings],
            "tenant_id": self.header.get("tenant_id"),
            "tenant": self.header.get("tenant"),
            "scope": self.header.get("scope"),
            "read_at_ms": self.header.get("read_at_ms"),
            "lines": self.lines,
            "records": self.records,
            "verdicts": self.counts(),
            "not_evaluated": [{"decision_id": one.decision_id, "path": one.path} for one in self.withheld],
            "deleted": self.deleted,
            "key": self.trust.key,
            "key_source": self.trust.source,
            "witnesses": list(self.trust.witnesses),
            "origin": None if checkpoint is None else checkpoint.origin,
            "size": None if checkpoint is None else checkpoint.size,
            "root": None if checkpoint is None else checkpoint.root.hex(),
            "since": self.trust.since,
        }
