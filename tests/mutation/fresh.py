"""What the copy of the tests has for a conftest: nothing that was compiled before a change may hide it."""

from __future__ import annotations

from holdfast_verdict.engine import program


def pytest_sessionstart() -> None:
    """Forgets the programs that were compiled while the tests were looked for: what compiles is changed, too."""
    program._PROGRAMS.clear()
    program._KNOWN.clear()
