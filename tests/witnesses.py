"""A pytest plugin: how many runs of the tests were held against Temporal's history, and which were not, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

import pytest

_SENT: Final = "holdfast_witnesses"


@dataclass(slots=True)
class Tally:
    """What was held against Temporal's history in this process.

    Attributes:
        runs: How many runs agreed.
        activities: How many activities they have.
        excused: What was not held, and why.
    """

    runs: int = 0
    activities: int = 0
    excused: list[str] = field(default_factory=list)

    def add(self, runs: int, activities: int, excused: list[str]) -> None:
        """Adds what another process held."""
        self.runs += runs
        self.activities += activities
        self.excused += excused


TALLY: Final = Tally()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Sends the counts to the process that shows them, if that is another."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)  # Any: what xdist sends on
    if output is not None:
        output[_SENT] = asdict(TALLY)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # Any: xdist's controller of a process, which has no types
    """Takes the counts of a process that has ended; one that died has none, and its tests have failed."""
    sent = getattr(node, "workeroutput", {}).get(_SENT)
    if sent:
        TALLY.add(**sent)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows the counts."""
    if not TALLY.runs and not TALLY.excused:
        return
    terminalreporter.write_line(
        f"runs held against Temporal's history: {TALLY.runs}, with {TALLY.activities} activities; excused: {len(TALLY.excused)}"
    )
    for line in TALLY.excused:
        terminalreporter.write_line(f"  not held: {line}")
