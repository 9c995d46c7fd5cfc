"""What the copy of the tests has for a conftest: nothing that was compiled before a change may hide it."""

from __future__ import annotations

from hypothesis import settings

from holdfast_verdict.engine import program

# few examples of each property, always the same: a change has to be found at once
settings.register_profile("mutation", max_examples=15, derandomize=True, deadline=None, database=None)
settings.load_profile("mutation")


def pytest_sessionstart() -> None:
    """Forgets the programs that were compiled while the tests were looked for: what compiles is changed, too."""
    program._PROGRAMS.clear()
    program._KNOWN.clear()
