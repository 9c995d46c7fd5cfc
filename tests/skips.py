"""A pytest plugin: skips are counted and shown, and where tests must not be skipped (`CI`) an unexpected one fails the run."""

from __future__ import annotations

import os

import pytest

# What a test may be skipped for: the machine, never a missing part of ours.
ALLOWED = (
    "only root has to find another account",
    "only root can mount a small disk",
    "no user namespace here",
    "cannot be entered by an ordinary user",
    "elsewhere the parent is looked at every half second",
    "the linter's package has no program for this machine",
    "and no apt-get that installs it",
    "the oracle needs Go, which is not on this machine",
    "the S3 server needs Go, which is not on this machine",
)


class SkipCounter:
    """Collects the reasons of skipped tests."""

    def __init__(self) -> None:
        self.allowed: list[str] = []
        self.unexpected: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes a skipped test."""
        if not report.skipped:
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        kept = self.allowed if any(allowed in reason for allowed in ALLOWED) else self.unexpected
        kept.append(f"{report.nodeid}: {reason}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fails the run where something that should have run was skipped."""
        if self.unexpected and os.environ.get("CI"):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Shows the counts."""
        terminalreporter.write_line(
            f"skipped for the machine: {len(self.allowed)}, unexpectedly: {len(self.unexpected)}"
        )
        for line in self.unexpected:
            terminalreporter.write_line(f"  should have run: {line}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Registers the counter."""
    config.pluginmanager.register(SkipCounter(), "holdfast-skips")
