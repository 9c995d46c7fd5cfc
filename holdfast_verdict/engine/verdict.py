"""What was decided, why, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from holdfast_verdict.canonical import JsonValue

if TYPE_CHECKING:
    from holdfast_verdict.policy import Gate, Need

Outcome = Literal["matched", "no", "unknown"]


class Looked(NamedTuple):
    """A rule that was looked at.

    Attributes:
        effect: What the rule does when it matches.
        rule_id: Its name.
        outcome: What came of it. An unknown forbid, limit or gate counts as matched, an unknown permit does not.
        condition: The condition that failed, or that could not be told; empty for a rule that matched.
        missing: Facts that were not given, without which it could not be told.
    """

    effect: str
    rule_id: str
    outcome: Outcome
    condition: str = ""
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = f"{self.effect} {self.rule_id} {self.outcome}"
        if self.condition:
            words += f": {self.condition}"
        return f"{words} (not given: {', '.join(self.missing)})" if self.missing else words


class Leg(NamedTuple):
    """What a limit asks the ledger to hold.

    Attributes:
        rule_id: The limit.
        key: Names the total that is limited: the same key, the same total.
        unit: Of amount and ceiling.
        amount: What this action takes; `None` where only the ledger knows, because no estimate was given.
        ceiling: What the total may not exceed.
        window: Over which time: the run, for ever, a window of the calendar, or milliseconds.
        per: Whose total it is.
        scope: The name of that tenant, run, …; `None` if it was not given, and the ledger has to know.
    """

    rule_id: str
    key: str
    unit: str
    amount: int | None
    ceiling: int
    window: str | int
    per: str
    scope: str | None

    def to_json(self) -> dict[str, JsonValue]:
        """Returns its JSON."""
        return self._asdict()


@dataclass(frozen=True, slots=True)
class GateAsk:
    """A gate that is still shut.

    Attributes:
        rule_id: The gate's rule.
        gate: What it needs in all, until when, and who may not consent.
        waiting: What is still missing of it.
        message: The author's sentence, or empty.
    """

    rule_id: str
    gate: Gate
    waiting: tuple[Need, ...]
    message: str = ""

    def to_json(self) -> dict[str, JsonValue]:
        """Returns its JSON."""
        return {
            "rule_id": self.rule_id,
            "gate": self.gate.to_json(),  # type: ignore[dict-item]  # plain JSON, typed more widely there
            "waiting": [need.to_json() for need in self.waiting],  # type: ignore[misc]  # the same
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided.

    Attributes:
        verdict: The third value asks for consent first.
        code: Stable reason code; `policy.permitted` for an allow.
        message: A sentence that a person or a model can act on.
        rule_id: The rule that decided, or empty.
        trace: Every rule that was looked at, with what came of it.
        gates: For `needs_approval`, the gates that are still shut.
        legs: What the ledger must hold before an allowed action runs; one that cannot be held is a deny.
        approvals: Ids of the approvals that an allow uses up.
        yields: Labels that the output will carry, by the path of its field; empty for the whole output.
        labels_after: What the run will carry once the action has succeeded.
        read: What was read of the facts, as it was then; see `facts_read`.
    """

    verdict: Literal["allow", "deny", "needs_approval"]
    code: str
    message: str
    rule_id: str = ""
    trace: tuple[Looked, ...] = ()
    gates: tuple[GateAsk, ...] = ()
    legs: tuple[Leg, ...] = ()
    approvals: tuple[str, ...] = ()
    yields: tuple[tuple[str, tuple[str, ...]], ...] = ()
    labels_after: frozenset[str] = frozenset()
    read: Mapping[tuple[str, str], object] = field(default_factory=dict, repr=False, compare=False)

    @property
    def allowed(self) -> bool:
        """Whether it is an allow."""
        return self.verdict == "allow"

    @property
    def facts_read(self) -> dict[str, JsonValue]:
        """The facts that were read, in their recorded form: `Facts.from_json` of it gives the same verdict and trace (LAW 8)."""
        from holdfast_verdict.engine.recorded import read_to_json

        return read_to_json(self.read)

    def trace_json(self) -> list[JsonValue]:
        """Returns the trace as it stands in a record."""
        return [
            [looked.effect, looked.rule_id, looked.outcome, looked.condition, list(looked.missing)]
            for looked in self.trace
        ]

    def to_json(self) -> dict[str, JsonValue]:
        """Returns the verdict as it stands in a record."""
        return {
            "verdict": self.verdict,
            "code": self.code,
            "message": self.message,
            "rule_id": self.rule_id,
            "trace": self.trace_json(),
            "gates": [ask.to_json() for ask in self.gates],
            "legs": [leg.to_json() for leg in self.legs],
            "approvals": list(self.approvals),
            "yields": [[path, list(labels)] for path, labels in self.yields],
            "labels_after": sorted(self.labels_after),
        }
