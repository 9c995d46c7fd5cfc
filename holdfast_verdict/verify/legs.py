"""Legs of decisions and of the journal's entries, for sums: what each decision read of its caps, and how these stood right before it.

No process knows how a cap stood at the beginning of its part of the journal. It does not need to: what is summed up is linear in the
balances, so that each part sums up how they moved since its beginning, and where it began is added once all parts are there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, NamedTuple

from holdfast_verdict.verify.findings import Unsure
from holdfast_verdict.verify.sums import MODULUS

_AMOUNTS: Final = re.compile(r"(?:0|-?[1-9][0-9]{0,18})(?: (?:0|-?[1-9][0-9]{0,18}))*+").fullmatch

_KNOWN_MAX: Final = 10_000
_DECIDED: Final = itemgetter("cap_id", "amount", "limit", "reserved", "committed", "debt", "unit")
_MOVED: Final = itemgetter("cap_id", "reserved", "committed", "debt", "limit")

Weights = tuple[int, int, int]
"""Of what is reserved, committed and debt of a cap."""


class Cap(NamedTuple):
    """What has to be known of a cap before the journal is read: whether its journal is whole, and whether it is of money."""

    is_whole: bool
    is_money: bool


class _Known(NamedTuple):
    cap_id: str
    weights: Weights | None
    is_money: bool


class Moved(NamedTuple):
    """Legs of an entry of the journal, by column."""

    caps: tuple[str, ...]
    reserved: tuple[str, ...]
    committed: tuple[str, ...]
    debt: tuple[str, ...]
    limits: tuple[str | None, ...]

    @classmethod
    def of(cls, legs: Sequence[Mapping[str, Any]]) -> Moved:  # Any: of the form that `lines.MEMBERS` says
        """Reads them."""
        return cls._make(zip(*map(_MOVED, legs), strict=True)) if legs else _UNMOVED

    @property
    def takes(self) -> bool:
        """Whether nothing but what is reserved is moved."""
        return self.committed.count("0") == self.debt.count("0") == len(self.caps)

    def asked(self) -> str:
        """Writes what is asked of the caps by an entry that takes it."""
        return asked_of(self.caps, self.reserved)

    def returned(self) -> str:
        """Writes what was asked of the caps, by an entry that returns it."""
        return asked_of(self.caps, [_negative(amount) for amount in self.reserved])


_UNMOVED: Final = Moved((), (), (), (), ())


class Told(NamedTuple):
    """What a decision says of its caps.

    Attributes:
        fits: Whether every amount fits under its limit (LAW 3).
        asked: What was asked of which cap.
        limits: The limits.
        balances: The balances that it read, weighed.
    """

    fits: bool
    asked: str
    limits: str
    balances: int


@dataclass(slots=True)
class Moves:
    """What happened to a cap in a part of the journal.

    Attributes:
        reserved: By how much what is reserved has changed.
        committed: The same of what is committed.
        debt: The same of debt.
        low_reserved: The lowest that what is reserved was against the beginning, at most 0.
        low_committed: The same of what is committed.
        low_debt: The same of debt.
        touched: The weights of the entries that were compared with what was read, added up.
    """

    reserved: int = 0
    committed: int = 0
    debt: int = 0
    low_reserved: int = 0
    low_committed: int = 0
    low_debt: int = 0
    touched: int = 0


def asked_of(caps: Sequence[str], amounts: Sequence[str]) -> str:
    """Writes what is asked of caps, so that no two ways of asking are written alike: none of the words has a space."""
    return f"{len(caps)} {' '.join(caps)} {' '.join(amounts)}"


def _negative(amount: str) -> str:
    return amount[1:] if amount[0] == "-" else amount if amount == "0" else f"-{amount}"


class Legs:
    """Reads legs.

    Args:
        caps: The caps of the bundle.
        weigh: Turns a text into a number.
    """

    def __init__(self, caps: Mapping[str, Cap], weigh: Callable[[str], int]) -> None:
        self._caps = caps
        self._base = weigh("one decision")
        self.weights: dict[str, Weights] = {
            cap_id: (weigh(f"{cap_id} reserved"), weigh(f"{cap_id} committed"), weigh(f"{cap_id} debt"))
            for cap_id, cap in caps.items()
            if cap.is_whole
        }
        self._known: dict[tuple[str, ...], tuple[_Known, ...]] = {}

    def _of(self, caps: tuple[str, ...]) -> tuple[_Known, ...]:
        """Returns what is known of caps; each is one of the bundle's, and there once."""
        known = self._known.get(caps)
        if known is None:
            if len(set(caps)) != len(caps) or not all(cap_id in self._caps for cap_id in caps):
                raise Unsure
            known = tuple(_Known(cap_id, self.weights.get(cap_id), self._caps[cap_id].is_money) for cap_id in caps)
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[caps] = known
        return known

    def read(self, legs: Sequence[Mapping[str, Any]], *, granted: bool) -> Told:  # Any: looked at before use
        """Reads the legs of a decision; only of one that was granted is said what goes into sums.

        Raises:
            Unsure: They are odd.
        """
        fits, limits, balances = True, [], self._base
        columns = [_DECIDED(leg) for leg in legs]
        if granted:
            caps, amounts = [each[0] for each in columns], [each[1] for each in columns]
            known = self._of(tuple(caps))
            if columns and _AMOUNTS(" ".join(amounts)) is None:
                raise Unsure
        for place, (_, asked, limit, reserved_, committed_, debt_, _) in enumerate(columns):
            reserved, committed = int(reserved_), int(committed_)
            debt = 0 if debt_ == "0" else int(debt_)
            if limit is None:
                limits.append("null")
            else:
                most = int(limit)
                limits.append(str(most))
                used = reserved + committed + debt + int(legs[place].get("carried", 0))
                if most - used < int(asked):
                    fits = False
            if granted and (weights := known[place].weights) is not None:
                balances += weights[0] * reserved + weights[1] * committed
                if debt:
                    balances += weights[2] * debt
        if not granted:
            return Told(fits, "", "", 0)
        return Told(fits, asked_of(caps, amounts), " ".join(limits), balances)

    def stood(self, caps: tuple[str, ...], weight: int, moves: dict[str, Moves]) -> int:
        """Returns how caps stand right before an entry, weighed, against the beginning of the part.

        Args:
            caps: Those that the entry moves.
            weight: The entry's, by which the result is to be multiplied.
            moves: What happened to each cap so far.
        """
        balances = self._base
        for cap_id, weights, _ in self._of(caps):
            if weights is not None:
                moved = moves.get(cap_id)
                if moved is None:
                    moved = moves[cap_id] = Moves()
                balances += weights[0] * moved.reserved + weights[1] * moved.committed
                if moved.debt:
                    balances += weights[2] * moved.debt
                moved.touched += weight
        return balances

    def move(self, moved: Moved, cost: int | None, moves: dict[str, Moves], *, counts: bool) -> None:
        """Takes an entry into what happened to its caps.

        Args:
            moved: The entry's legs.
            cost: For one that settles, what it cost.
            moves: What happened to each cap so far.
            counts: Whether the balances count it.

        Raises:
            Unsure: A cap of money was charged something else than it cost.
        """
        caps, reserved, committed, debt, _ = moved
        for place, (cap_id, weights, is_money) in enumerate(self._of(caps)):
            if cost is not None and is_money and int(committed[place]) + int(debt[place]) != cost:
                raise Unsure
            if not counts or weights is None:
                continue
            own = moves.get(cap_id)
            if own is None:
                own = moves[cap_id] = Moves()
            step = int(reserved[place])
            own.reserved += step
            if step < 0:
                own.low_reserved = min(own.low_reserved, own.reserved)
            if committed[place] != "0":
                own.committed += int(committed[place])
                own.low_committed = min(own.low_committed, own.committed)
            if debt[place] != "0":
                own.debt += int(debt[place])
                own.low_debt = min(own.low_debt, own.debt)


class Balances:
    """The caps' balances, from part to part of the journal.

    Args:
        rows: The lines of the caps.
        legs: What weighs them.
    """

    def __init__(self, rows: Mapping[str, Mapping[str, Any]], legs: Legs) -> None:  # Any: as in `Legs.move`
        self._rows = {cap_id: row for cap_id, row in rows.items() if cap_id in legs.weights}
        self._weights = legs.weights
        self._stand = {cap_id: _columns(row["opening"]) for cap_id, row in self._rows.items()}

    def go_on(self, moves: Mapping[str, Moves]) -> int:
        """Takes in a part, and returns what its sum lacked because it did not know how the caps stood.

        Raises:
            Unsure: A cap is left with less than nothing.
        """
        lacked = 0
        for cap_id, moved in moves.items():
            stand, weights = self._stand[cap_id], self._weights[cap_id]
            lacked += moved.touched * sum(each * weight for each, weight in zip(stand, weights, strict=True))
            lows = (moved.low_reserved, moved.low_committed, moved.low_debt)
            if any(each + low < 0 for each, low in zip(stand, lows, strict=True)):
                raise Unsure
            steps = (moved.reserved, moved.committed, moved.debt)
            self._stand[cap_id] = tuple(each + step for each, step in zip(stand, steps, strict=True))
        return lacked % MODULUS

    def close(self) -> None:
        """Sees that all caps stand as they are said to.

        Raises:
            Unsure: One does not.
        """
        for cap_id, row in self._rows.items():
            if row["closing"] is None or _columns(row["closing"]) != self._stand[cap_id]:
                raise Unsure


def _columns(balances: Mapping[str, str]) -> tuple[int, ...]:
    return int(balances["reserved"]), int(balances["committed"]), int(balances["debt"])
