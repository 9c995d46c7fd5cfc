"""What does not hold: each finding names its subject, what is wrong, and what that means."""

from __future__ import annotations

from typing import Final, NamedTuple

MEANINGS: Final = {
    "audit.bundle": "the file is no whole export, so nothing can be said of what is missing in it",
    "audit.line": "somebody changed, removed, added or moved a line after the export was sealed in the log",
    "audit.signature": "the signature is not by a key that you trust, so anybody may have made this log",
    "audit.checkpoint": "nobody vouches for the tree, so whether the records are those of the log is not proved",
    "audit.inclusion": "the record is not at this place of the log that the key has signed",
    "audit.consistency": "the log is not a continuation of the one you saw before: its past was changed",
    "audit.record": "the record is not as it was written when the decision was made",
    "audit.policy_hash": "the policy in the file is not the one that the decision was made by",
    "audit.engine": "no evaluator of this version is known here, so the decision could not be evaluated again",
    "audit.verdict": "the recorded facts and policy do not lead to the recorded verdict",
    "audit.approval": "the action was not covered by a consent that was given for exactly it",
    "audit.release": "the action relied on a release of a label that nobody is known to have given",
    "audit.outcome": "what was allowed and what was executed are not the same",
    "audit.balance": "the amounts that were held and paid do not add up, exceed a limit, or are of another cap than they say",
}
"""Codes of findings, with what each means."""


class Finding(NamedTuple):
    """One thing that does not hold.

    Attributes:
        code: One of `MEANINGS`.
        subject: Whom it is about, such as `decision 0190…`.
        wrong: What is wrong, as a sentence.
        line: Line of the file, from 1; 0 if it is about none.
    """

    code: str
    subject: str
    wrong: str
    line: int = 0

    @property
    def means(self) -> str:
        """What that means."""
        return MEANINGS[self.code]

    def to_json(self) -> dict[str, str | int]:
        """Returns it as JSON."""
        return {"code": self.code, "subject": self.subject, "wrong": self.wrong, "means": self.means, "line": self.line}


class DoesNotHold(Exception):
    """Ends the check of one subject; the finding says why."""

    def __init__(self, code: str, wrong: str) -> None:
        super().__init__(wrong)
        self.code = code
        self.wrong = wrong


class Unsure(Exception):
    """Ends a look that names nothing: something does not hold, or it takes a closer look to tell."""
