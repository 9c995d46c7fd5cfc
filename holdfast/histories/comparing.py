"""Holding a run's history against the log: what was executed was allowed and settled, and what the log executed is there. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.contracts import names
from holdfast.histories.witnessed import Activity, Witnessed

_TYPES: Final = {activity: kind for kind, activity in names.EXECUTING_ACTIVITIES.items()}
_OPEN: Final = frozenset({"held", "executing", "executed"})
_REFUSED: Final = "permit.invalid"


@dataclass(frozen=True, slots=True)
class Allowed:
    """An action that a decision allowed, and what became of its hold.

    Attributes:
        decision_id: The decision.
        record_hash: Its record's hash, hex.
        is_whole: Whether the record hashes to it.
        hold_id: The hold that it granted.
        kind: The kind of action.
        step: Its number within the run.
        try_number: The try of that step.
        digest: The action's digest, hex.
        tool: The tool, or empty.
        state: Where the hold stands; empty if there is no such hold.
        was_redeemed: Whether its permit was redeemed.
        went_outward: Whether a request went outside.
        has_outcome: Whether an outcome is recorded.
        was_unknown: Whether nobody knew its outcome, now or for a while.
        lease_runs: Whether an executor may still be at it.
    """

    decision_id: str
    record_hash: str
    is_whole: bool
    hold_id: str
    kind: str
    step: int
    try_number: int
    digest: str
    tool: str
    state: str
    was_redeemed: bool
    went_outward: bool
    has_outcome: bool
    was_unknown: bool
    lease_runs: bool

    @property
    def acted(self) -> bool:
        """Whether the log says that something was executed."""
        return (
            self.went_outward
            or self.has_outcome
            or self.was_unknown
            or self.state in ("executed", "committed", "unknown")
        )

    @property
    def name(self) -> str:
        """How sentences call it."""
        return f"step {self.step}, try {self.try_number} ({self.tool or self.kind})"


@dataclass(frozen=True, slots=True)
class Difference:
    """Something in which the two witnesses do not agree.

    Attributes:
        code: Stable code.
        sentence: What it is.
        activity_id: The activity, if it is about one.
        hold_id: The hold, if it is about one.
        decision_id: The decision, if it is about one.
    """

    code: str
    sentence: str
    activity_id: str = ""
    hold_id: str = ""
    decision_id: str = ""


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of holding the one against the other.

    Attributes:
        differences: Where they do not agree.
        notes: What is still open, or was refused: no difference, and worth to be known.
    """

    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def compare(
    tenant_id: str,
    run_id: str,
    history: Witnessed,
    before: Sequence[Allowed],
    after: Sequence[Allowed],
    *,
    is_open: bool,
) -> Compared:
    """Compares what a history says with what the log says.

    Args:
        tenant_id: The tenant.
        run_id: The run, which is the workflow's id.
        history: What the history says.
        before: What was allowed, read before the history was: all that is executed of it is in the history.
        after: The same, read after the history: all that is in the history was allowed there.
        is_open: Whether the run still goes on.
    """
    by_hold = {one.hold_id: one for one in after}
    differences: list[Difference] = []
    notes: list[str] = []
    for activity in history.activities:
        found = by_hold.get(activity.permit.hold_id) if activity.permit else None
        differences += _permitted(tenant_id, run_id, activity, found)
        if found is not None:
            differences += _settled(activity, found, notes, is_open=is_open)
    differences += _twice(history.activities)
    there = {activity.permit.hold_id for activity in history.activities if activity.permit}
    for one in before:
        if (one.acted or one.was_redeemed) and one.hold_id not in there:
            said = f"the log says that {one.name} was executed ({_state(one)})"
            if not one.acted:
                said = f"the permit of {one.name} was redeemed ({_state(one)})"
            said = f"{said}, and the workflow's history has no such activity"
            differences.append(Difference("witness.no_activity", said, "", one.hold_id, one.decision_id))
    differences += [Difference("witness.stray", f"the workflow {stray}") for stray in history.strays]
    for one in after:
        if not one.is_whole:
            said = f"the record of {one.name} does not hash to its hash: it was altered"
            differences.append(Difference("witness.record_altered", said, "", one.hold_id, one.decision_id))
        if not one.state:
            said = f"{one.name} was allowed with hold {one.hold_id}, and there is no such hold"
            differences.append(Difference("witness.contradicted", said, "", one.hold_id, one.decision_id))
    return Compared(tuple(differences), tuple(notes))


def _permitted(tenant_id: str, run_id: str, activity: Activity, found: Allowed | None) -> Iterator[Difference]:
    """INVARIANT (LAW 1): nothing that may act outside is scheduled without a permit, and no permit without an allow."""
    permit, name = (
        activity.permit,
        f"the activity {activity.activity_id} ({activity.activity_type}), which {_end(activity)},",
    )
    if permit is None:
        yield Difference("witness.no_permit", f"{name} was given no permit", activity.activity_id)
        return
    if activity.activity_type not in _TYPES:
        yield Difference("witness.no_permit", f"{name} is none that a permit can be for", activity.activity_id)
        return
    if found is None:
        said = f"{name} has a permit for hold {permit.hold_id}, and no decision of this run allowed that"
        yield Difference("witness.no_allow", said, activity.activity_id, permit.hold_id)
        return
    told = (tenant_id, run_id, found.step, found.try_number, found.kind, found.digest, found.record_hash)
    says = (
        permit.tenant_id, permit.run_id, permit.step, permit.try_number, permit.kind, permit.digest, permit.record_hash
    )  # fmt: skip
    meant = (f"step-{found.step}-try-{found.try_number}", found.kind)
    if says != told or (activity.activity_id, _TYPES[activity.activity_type]) != meant:
        said = f"{name} has a permit that is not the one of decision {found.decision_id}, which allowed {found.name}"
        yield Difference("witness.other_action", said, activity.activity_id, found.hold_id, found.decision_id)


def _twice(activities: Sequence[Activity]) -> Iterator[Difference]:
    """INVARIANT (LAW 1): a permit is for one execution. An execution of the workflow that was reset may schedule it anew."""
    seen: dict[tuple[str, str], Activity] = {}
    for activity in activities:
        if activity.permit is None:
            continue
        first = seen.setdefault((activity.execution, activity.permit.hold_id), activity)
        if first is not activity:
            said = f"the activities {first.activity_id} and {activity.activity_id} were given permits for one hold"
            yield Difference("witness.permit_twice", said, activity.activity_id, activity.permit.hold_id)


def _settled(activity: Activity, found: Allowed, notes: list[str], *, is_open: bool) -> Iterator[Difference]:
    """INVARIANT (LAW 4): each execution is settled once, or stands as unknown until somebody says what became of it."""
    ids = (activity.activity_id, found.hold_id, found.decision_id)
    if found.state == "unknown":
        notes.append(
            f"{found.name} is still open: nobody knows its outcome, and hold {found.hold_id} stays until somebody does"
        )
    elif found.state in _OPEN:
        if is_open or found.lease_runs:
            notes.append(f"{found.name} is under way: hold {found.hold_id} is {found.state}")
        else:
            stands = f"hold {found.hold_id} is {found.state}: it was never settled"
            said = f"the activity {activity.activity_id} {_end(activity)}, its run has ended, and {stands}"
            yield Difference("witness.not_settled", said, *ids)
            return
    known = found.has_outcome or found.was_unknown
    if activity.end == "completed" and not known and found.state:
        said = f"the activity {activity.activity_id} was completed, and hold {found.hold_id} is {found.state} without an outcome"
        yield Difference("witness.contradicted", said, *ids)
    elif found.acted and (activity.end == "never_started" or (activity.end == "failed" and activity.code == _REFUSED)):
        told = f"the log says that {found.name} was executed ({_state(found)})"
        said = f"the activity {activity.activity_id} {_end(activity)}, and {told}"
        yield Difference("witness.contradicted", said, *ids)
    elif found.state == "committed" and not known:
        said = f"hold {found.hold_id} of {found.name} is committed, and nothing says what came of it"
        yield Difference("witness.contradicted", said, *ids)


def _state(one: Allowed) -> str:
    return f"hold {one.hold_id} is {one.state or 'gone'}"


def _end(activity: Activity) -> str:
    match activity.end:
        case "open":
            return "was scheduled"
        case "never_started":
            return "was never started"
        case "failed":
            return f"failed ({activity.code or 'without a code'})"
        case "timed_out":
            return "timed out"
        case "completed":
            return "was completed"
        case "cancelled":
            return "was cancelled"
