"""What the catalogue says of one code."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal


class Place(StrEnum):
    """Where a code appears."""

    API = "API"
    """In the problem details of an answer, and so in the client's `HoldfastApiError` and on a command's stderr."""
    DECISION = "decision"
    """As the reason code of a decision record."""
    RESULT = "result"
    """As the error code of a tool's or model's outcome, in its events, and in what the model reads of it."""
    RUN = "run"
    """As the `status_code` of a run that has ended or waits."""
    COMMAND = "command"
    """As sentences on stderr of a command or process, and its exit code."""
    CLIENT = "client"
    """As an exception of the Python client."""
    AUDIT = "audit"
    """As the name of a check that the ledger's auditor found broken, or the verifier of bundles."""


@dataclass(frozen=True, slots=True)
class Code:
    """One code.

    Attributes:
        code: The code itself, stable and dotted.
        places: Where it appears.
        cause: What is so when it appears, in a sentence.
        remedy: What to do about it, in a sentence or two.
        status: HTTP status that goes with it, 0 if the API never answers with it.
        verdict: What a decision that has it says, if it says always the same.
    """

    code: str
    places: tuple[Place, ...]
    cause: str
    remedy: str
    status: int = 0
    verdict: Literal["", "allow", "deny", "needs_approval"] = ""


NOTHING: Final = "Nothing: the record says what was done, and by whom."
"""The remedy of codes that report no fault."""


def changed(code: str, cause: str) -> Code:
    """Returns the entry of a change that was made and recorded."""
    return Code(code, (Place.DECISION,), cause, NOTHING, verdict="allow")


def denied(code: str, cause: str, remedy: str) -> Code:
    """Returns the entry of a reason for which an action is denied."""
    return Code(code, (Place.DECISION, Place.RUN), cause, remedy, verdict="deny")


def result(code: str, cause: str, remedy: str) -> Code:
    """Returns the entry of an error code that an executed action ends with."""
    return Code(code, (Place.RESULT,), cause, remedy)
