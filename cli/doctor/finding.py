"""What the doctor finds: a part, how it is, what was seen, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from holdfast.errors import HoldfastError


class State(StrEnum):
    """How a part is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's. It never holds a secret."""

    part: str
    state: State
    what: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """Returns it as a JSON object."""
        return {"part": self.part, "state": self.state.value, "what": self.what, "remedy": self.remedy}


def ok(part: str, what: str) -> Finding:
    """A part is as it should be."""
    return Finding(part, State.OK, what)


def warning(part: str, what: str, remedy: str) -> Finding:
    """A part works, or can be gone around, but somebody should know."""
    return Finding(part, State.WARNING, what, remedy)


def failed(part: str, what: str, remedy: str) -> Finding:
    """A part does not work."""
    return Finding(part, State.FAILED, what, remedy)


def of_error(part: str, error: HoldfastError) -> Finding:
    """A part does not work, and says so itself."""
    return failed(part, error.message, error.remedy or f"see `holdfast explain {error.code}`")
