"""What a check of policies found: each thing with its rule, line and, where there is one, a request as the example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from holdfast_verdict.check.request import Request

Standing = Literal["proved", "confirmed", "unconfirmed"]
Kind = Literal[
    "rule-never-fires",
    "rule-fires-only-in-doubt",
    "permit-shadowed",
    "action-always-denied",
    "prerequisite-never-permitted",
    "gate-never-asks",
    "limit-lets-nothing-through",
    "limit-never-reached",
    "label-never-given",
    "role-permits-nothing",
    "newly-allowed",
    "newly-denied",
    "newly-gated",
]


@dataclass(frozen=True, slots=True)
class Place:
    """A rule and where it stands.

    Attributes:
        rule_id: Its name.
        line: Its line in the source; 0 if it has none.
    """

    rule_id: str
    line: int = 0

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        return {"rule_id": self.rule_id, "line": self.line}


@dataclass(frozen=True, slots=True)
class Example:
    """A request with what the engine decides on it.

    Attributes:
        request: The request.
        verdicts: What was decided: of one policy, or before and after a change.
        codes: The reason codes that go with them.
        rules: The rules that decided.
        history: What had happened before, by watch.
    """

    request: Request
    verdicts: tuple[str, ...]
    codes: tuple[str, ...]
    rules: tuple[str, ...]
    history: tuple[tuple[str, int], ...] = ()

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        about = self.request.to_json()
        if self.history:
            about["history"] = dict(self.history)
        about["decided"] = [
            {"verdict": verdict, "code": code, "rule_id": rule}
            for verdict, code, rule in zip(self.verdicts, self.codes, self.rules, strict=True)
        ]
        return about


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: What.
        message: In one sentence.
        standing: A proof that there is no request, a request that the engine confirms, or one that it does not confirm: then
            this check and the engine disagree, and the finding may be wrong.
        place: The rule it is about, if it is about one.
        role: The role it is about, if it is about one.
        action: The action it is about, if it is about one.
        others: Other rules that have their part in it.
        example: A request.
        remedy: What to do, or empty.
    """

    kind: Kind
    message: str
    standing: Standing
    place: Place | None = None
    role: str = ""
    action: str = ""
    others: tuple[Place, ...] = ()
    example: Example | None = None
    remedy: str = ""

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        return {
            "kind": self.kind,
            "message": self.message,
            "standing": self.standing,
            "rule_id": self.place.rule_id if self.place else "",
            "line": self.place.line if self.place else 0,
            "role": self.role,
            "action": self.action,
            "others": [other.to_json() for other in self.others],
            "example": self.example and self.example.to_json(),
            "remedy": self.remedy,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found.

    Attributes:
        findings: What was found, in the order of the source.
        undecided: Questions to which neither an example nor a proof was found, in words: about these nothing is claimed.
        questions: How many questions were put to the solver.
    """

    findings: tuple[Finding, ...]
    undecided: tuple[str, ...] = ()
    questions: int = 0

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        return {
            "findings": [finding.to_json() for finding in self.findings],
            "undecided": list(self.undecided),
            "questions": self.questions,
        }
