"""Verifying bytes, and what a test says about what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from holdfast_verdict.log.note import VerifierKey
from holdfast_verdict.verify import verifying
from holdfast_verdict.verify.report import Report
from holdfast_verdict.verify.verifying import Request, verify

EVERY = 3
"""Of so many bundles one is also verified as one that is too large for memory."""


@dataclass(frozen=True, slots=True)
class Check:
    """Writes bytes into one file and verifies it."""

    file: Path
    calls: list[int] = field(default_factory=list)

    def spilled(self, *, keys: Sequence[VerifierKey] = (), since: str = "", workers: int = 1) -> Report:
        """Verifies it as what is too large to be held in memory, line by line."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(verifying, "_HELD_BYTES", 0)
            patch.setattr(verifying._Verification, "_summed", lambda *_: None)
            return verify(Request(self.file, tuple(keys), since, workers))

    def __call__(self, bundle: bytes, *, keys: Sequence[VerifierKey] = (), since: str = "", workers: int = 1) -> Report:
        self.file.write_bytes(bundle)
        report = verify(Request(self.file, tuple(keys), since, workers))
        # sums and comparison line by line say the same of every bundle that any test makes
        summed = verify(Request(self.file, tuple(keys), since, workers, tells=False))
        assert summed.holds == report.holds, said(report)
        self.calls.append(len(bundle))
        if not (len(self.calls) - 1) % EVERY:
            assert apart(self.spilled(keys=keys, since=since, workers=workers)) == apart(report)
        if report.holds:
            assert summed.to_json() == report.to_json()
        return report

    def by_sums(self, bundle: bytes) -> bool:
        """Says whether a bundle holds by sums already, so that its lines need not be compared."""
        self.file.write_bytes(bundle)
        report = verify(Request(self.file, tells=False))
        return report.holds and report.bundle is None


def apart(report: Report) -> object:
    """What a report says, without the order of its findings."""
    told = report.to_json()
    return {**told, "findings": sorted(map(str, report.findings))}


def wrong(report: Report) -> list[tuple[str, str]]:
    """Returns code and subject of each finding."""
    return [(finding.code, finding.subject) for finding in report.findings]


def said(report: Report) -> str:
    return "\n".join(f"{finding.code} {finding.subject}: {finding.wrong}" for finding in report.findings)
