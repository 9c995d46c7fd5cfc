"""Verifying bytes, and what a test says about what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast_verdict.log.note import VerifierKey
from holdfast_verdict.verify.report import Report
from holdfast_verdict.verify.verifying import Request, verify


@dataclass(frozen=True, slots=True)
class Check:
    """Writes bytes into one file and verifies it."""

    file: Path

    def __call__(self, bundle: bytes, *, keys: Sequence[VerifierKey] = (), since: str = "", workers: int = 1) -> Report:
        self.file.write_bytes(bundle)
        report = verify(Request(self.file, tuple(keys), since, workers))
        # sums and comparison line by line say the same of every bundle that any test makes
        summed = verify(Request(self.file, tuple(keys), since, workers, tells=False))
        assert summed.holds == report.holds, said(report)
        if report.holds:
            assert summed.to_json() == report.to_json()
        return report

    def by_sums(self, bundle: bytes) -> bool:
        """Says whether a bundle holds by sums already, so that its lines need not be compared."""
        self.file.write_bytes(bundle)
        report = verify(Request(self.file, tells=False))
        return report.holds and report.bundle is None


def wrong(report: Report) -> list[tuple[str, str]]:
    """Returns code and subject of each finding."""
    return [(finding.code, finding.subject) for finding in report.findings]


def said(report: Report) -> str:
    return "\n".join(f"{finding.code} {finding.subject}: {finding.wrong}" for finding in report.findings)
