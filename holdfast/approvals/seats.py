"""Who meets which need of a gate. PostgreSQL decides by the same rule (`gate_met`); this says it to people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.policy import Escalation, Gate, Need, NeedKind

VoterKind = Literal["user", "agent", "signer"]
_NEEDED_AS: Mapping[VoterKind, NeedKind] = {"user": "role", "agent": "agent", "signer": "signer"}


@dataclass(frozen=True, slots=True)
class Consenting:
    """One who has consented.

    Attributes:
        kind: Whether a person, an agent or a signer.
        name: Of whom.
        roles: Of a person: as whom, with what was delegated.
    """

    kind: VoterKind
    name: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seats:
    """A need, and by whom it is met.

    Attributes:
        need: Whose consent is needed.
        met_by: Who has given it; each person takes one seat of the whole gate.
        missing: How many are still missing.
    """

    need: Need
    met_by: tuple[str, ...]
    missing: int


def gate_from_json(value: Mapping[str, JsonValue]) -> Gate:
    """Reads a gate as the schema keeps it (`gate_of`)."""
    needs, escalate = value["needs"], value.get("escalate")
    assert isinstance(needs, list | tuple)  # the database's own form
    expires_ms = value.get("expires_ms")
    return Gate(
        tuple(_need(each) for each in needs),
        expires_ms if isinstance(expires_ms, int) else 0,
        value.get("not_requester") is not False,
        _escalation(escalate) if escalate is not None else None,
    )


def _need(value: JsonValue) -> Need:
    assert isinstance(value, Mapping)  # the database's own form
    count, kind, name = value["count"], value["kind"], value["name"]
    assert isinstance(count, int)
    found = next(known for known in _NEEDED_AS.values() if known == kind)
    return Need(count, found, str(name))


def _escalation(value: JsonValue) -> Escalation:
    assert isinstance(value, Mapping)  # the database's own form
    after_ms = value["after_ms"]
    assert isinstance(after_ms, int)
    return Escalation(after_ms, _need(value["to"]))


def meets(need: Need, voter: Consenting) -> bool:
    """Says whether one may take a seat of a need."""
    if _NEEDED_AS[voter.kind] != need.kind:
        return False
    return need.name in voter.roles if need.kind == "role" else need.name == voter.name


def seat(gate: Gate, consenting: Sequence[Consenting], *, escalated: bool) -> tuple[Seats, ...]:
    """Seats those who have consented so that as many seats as can be are taken, each of them on one.

    Args:
        gate: What is needed.
        consenting: Who has consented.
        escalated: Whether whom the gate escalates to may stand in.
    """
    stand_in = gate.escalate.to if escalated and gate.escalate is not None else None
    standing_in = {n for n, voter in enumerate(consenting) if stand_in is not None and meets(stand_in, voter)}
    if stand_in is None or len(standing_in) < stand_in.count:
        standing_in = set()
    seats = [place for place, need in enumerate(gate.needs) for _ in range(need.count)]
    may_take = [
        [n for n, voter in enumerate(consenting) if meets(gate.needs[place], voter) or n in standing_in]
        for place in seats
    ]
    taken: dict[int, int] = {}

    def find(number: int, tried: set[int]) -> bool:
        """Finds one for a seat; who sits elsewhere moves if that is possible (augmenting paths)."""
        for voter in may_take[number]:
            if voter not in tried:
                tried.add(voter)
                if voter not in taken or find(taken[voter], tried):
                    taken[voter] = number
                    return True
        return False

    for number in range(len(seats)):
        find(number, set())
    sitting: list[list[str]] = [[] for _ in gate.needs]
    for voter, number in sorted(taken.items()):
        sitting[seats[number]].append(consenting[voter].name)
    return tuple(
        Seats(need, tuple(names), need.count - len(names)) for need, names in zip(gate.needs, sitting, strict=True)
    )


def in_words(needs: Sequence[Need]) -> str:
    """Names those who have to consent; one of one role is just the role."""
    return " and ".join(need.name if (need.count, need.kind) == (1, "role") else _words(need) for need in needs)


def _words(need: Need) -> str:
    return f"{need.count} of {need.kind} {need.name}"
