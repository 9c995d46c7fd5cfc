"""What a rehearsal has found: counted, grouped, with examples. Tallies of parts add up to that of the whole, in any order."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.sealing import MARK

if TYPE_CHECKING:
    from holdfast_verdict.rehearse.recorded import Decided

EXAMPLES_MAX: Final = 3
"""Decisions that are named of each group: the earliest."""
GROUPS_MAX: Final = 10_000
"""Groups that are told apart; what would make more is counted as of other actions."""

LISTED_MAX: Final = 500
"""Groups that a report lists: those that concern most decisions."""

VIEWS: Final = ("as_recorded", "as_become")
CHANGES: Final = ("newly_allowed", "newly_refused", "newly_gated")
_CHANGE: Final = {"allow": "newly_allowed", "deny": "newly_refused", "needs_approval": "newly_gated"}
_TEXT_SHOWN: Final = 32


class Answer(NamedTuple):
    """What the candidate says.

    Attributes:
        verdict: Its verdict.
        code: Its reason code.
        rule: The rule that decided, or empty.
        missing: Facts without which that cannot be told.
    """

    verdict: str
    code: str
    rule: str
    missing: tuple[str, ...]


class Example(NamedTuple):
    """A decision, as the example of others alike; the smallest are the earliest."""

    at_ms: int
    decision_id: str
    run_id: str
    step: int
    digest: str
    arguments: str

    def to_json(self) -> dict[str, JsonValue]:
        """Returns its JSON."""
        return self._asdict()


class Group(NamedTuple):
    """Decisions that would change for the same reason.

    Attributes:
        change: What would change, or `untold`.
        role: The role.
        action: The action's name.
        was: Verdict, code and rule that held.
        would: Those of the candidate; for what cannot be told, the facts that are missing.
    """

    change: str
    role: str
    action: str
    was: tuple[str, ...]
    would: tuple[str, ...]


@dataclass(slots=True)
class Count:
    """How many there are of a group.

    Attributes:
        as_recorded: With the facts as they were.
        as_become: With the facts as they would have become.
        unsure: Of these, after an action that would have been allowed and was never done.
        examples: The earliest.
    """

    as_recorded: int = 0
    as_become: int = 0
    unsure: int = 0
    examples: list[Example] = field(default_factory=list)


def shape(value: object) -> str:
    """Returns arguments without what they say: names, and of each value what it is."""
    if isinstance(value, Mapping):
        if value.keys() == {"$number"}:
            return "number"
        if value.keys() == {MARK}:
            return "erased"
        return "{" + ", ".join(f"{_name(name)}: {shape(each)}" for name, each in sorted(value.items())) + "}"
    if isinstance(value, list):
        return f"list of {len(value)}"
    if isinstance(value, str):
        return f"text of {len(value)}"
    return {bool: "true or false", type(None): "nothing"}.get(type(value), "number")


def _name(name: str) -> str:
    return name if len(name) <= _TEXT_SHOWN else name[:_TEXT_SHOWN] + "…"


@dataclass(slots=True)
class Tally:
    """What was found.

    Attributes:
        decisions: How many decisions the candidate was asked about.
        otherwise: How many would only have another reason, in each view.
        untaken: Actions that would have been allowed, were never done, and so have no outcome.
        skipped: Records that no candidate can be asked about, by why.
        groups: What would change.
    """

    decisions: int = 0
    otherwise: list[int] = field(default_factory=lambda: [0, 0])
    untaken: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    groups: dict[Group, Count] = field(default_factory=dict)

    def skip(self, why: str) -> None:
        """Counts a record that no candidate can be asked about."""
        self.skipped[why] = self.skipped.get(why, 0) + 1

    def add(self, decided: Decided, was: Answer, would: Answer, *, unsure: bool) -> None:
        """Adds what the candidate says on a decision in both views."""
        held = decided.was
        for view, answer in enumerate((was, would)):
            if answer.missing:
                change, said = "untold", answer.missing
            elif answer.verdict != held[0]:
                change, said = _CHANGE[answer.verdict], (answer.verdict, answer.code, answer.rule)
            else:
                self.otherwise[view] += (answer.code, answer.rule) != held[1:]
                continue
            group = Group(change, decided.role, decided.action.name, held, said)
            count = self._count(group)
            if view:
                count.as_become += 1
                count.unsure += unsure
            else:
                count.as_recorded += 1
            self._example(count, decided)

    def _count(self, group: Group) -> Count:
        count = self.groups.get(group)
        if count is None:
            if len(self.groups) >= GROUPS_MAX:
                group = group._replace(action="…")
            count = self.groups.setdefault(group, Count())
        return count

    @staticmethod
    def _example(count: Count, decided: Decided) -> None:
        record = decided.record
        kept = count.examples
        if len(kept) == EXAMPLES_MAX and (record.at_ms, record.decision_id) >= kept[-1][:2]:
            return
        if any(each.decision_id == record.decision_id for each in kept):
            return
        digest = decided.action.digest.hex()
        arguments = shape(decided.part_a["action"]["args"])
        kept.append(Example(record.at_ms, record.decision_id, record.run_id, decided.step, digest, arguments))
        kept.sort()
        del kept[EXAMPLES_MAX:]

    def merge(self, other: Tally) -> None:
        """Adds another part's."""
        self.decisions += other.decisions
        self.otherwise = [a + b for a, b in zip(self.otherwise, other.otherwise, strict=True)]
        self.untaken += other.untaken
        for why, number in other.skipped.items():
            self.skipped[why] = self.skipped.get(why, 0) + number
        for group, count in other.groups.items():
            own = self.groups.setdefault(group, Count())
            own.as_recorded += count.as_recorded
            own.as_become += count.as_become
            own.unsure += count.unsure
            own.examples = heapq.nsmallest(EXAMPLES_MAX, {*own.examples, *count.examples})

    @property
    def changed(self) -> bool:
        """Whether anything would change, or cannot be told."""
        return bool(self.groups)

    def to_json(self) -> dict[str, JsonValue]:
        """Returns all of it, what concerns most decisions first."""
        every = sorted(self.groups.items(), key=lambda item: (-max(item[1].as_recorded, item[1].as_become), item[0]))
        ordered = every[:LISTED_MAX]
        return {
            "decisions": self.decisions,
            "totals": {view: self._totals(view) for view in VIEWS},
            "untaken": self.untaken,
            "skipped": dict(sorted(self.skipped.items())),
            "left_off": len(every) - len(ordered),
            "changes": [_change(group, count) for group, count in ordered if group.change != "untold"],
            "untold": [_untold(group, count) for group, count in ordered if group.change == "untold"],
        }

    def _totals(self, view: str) -> JsonValue:
        totals: dict[str, JsonValue] = {
            change: sum(getattr(count, view) for group, count in self.groups.items() if group.change == change)
            for change in (*CHANGES, "untold")
        }
        return {**totals, "other_reason": self.otherwise[VIEWS.index(view)]}


def _counted(count: Count) -> dict[str, JsonValue]:
    return {
        "as_recorded": count.as_recorded,
        "as_become": count.as_become,
        "after_untaken": count.unsure,
        "examples": [each.to_json() for each in count.examples],
    }


def _verdict(told: Iterable[str]) -> JsonValue:
    return dict(zip(("verdict", "code", "rule"), told, strict=True))


def _change(group: Group, count: Count) -> JsonValue:
    return {
        "change": group.change,
        "role": group.role,
        "action": group.action,
        "was": _verdict(group.was),
        "would": _verdict(group.would),
        **_counted(count),
    }


def _untold(group: Group, count: Count) -> JsonValue:
    return {
        "needs": list(group.would),
        "role": group.role,
        "action": group.action,
        "was": _verdict(group.was),
        **_counted(count),
    }
