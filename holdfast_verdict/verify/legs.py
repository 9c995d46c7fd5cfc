"""Legs of decisions and of the journal's entries, for sums: what each decision read of its caps, and how these stood right before it.

No process knows how a cap stood at the beginning of its part of the journal. It does not need to: what is summed up is linear in the
balances, so that each part sums up how they moved since its beginning, and where it began is added once all parts are there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from operator import add, itemgetter, mul
from typing import Any, Final, NamedTuple, TypeVar

from holdfast_verdict.verify.findings import Unsure
from holdfast_verdict.verify.records import named_in
from holdfast_verdict.verify.sums import MODULUS
from holdfast_verdict.verify.written import Columns, Named, entry_legs, hold_legs

_AMOUNTS: Final = re.compile(r"(?:0|-?[1-9][0-9]{0,18})(?: (?:0|-?[1-9][0-9]{0,18}))*+").fullmatch

_KNOWN_MAX: Final = 10_000
_READ_MAX: Final = 2_000
_DECIDED: Final = itemgetter("cap_id", "amount", "limit", "reserved", "committed", "debt")
_MOVED: Final = itemgetter("cap_id", "reserved", "committed", "debt", "limit")
_NO_LIMIT: Final = "null"
_MONEY: Final = "nano_usd"

_Name = TypeVar("_Name")
_Value = TypeVar("_Value")

Weights = tuple[int, int, int]
"""Of what is reserved, committed and debt of a cap."""


class Cap(NamedTuple):
    """What has to be known of a cap before the journal is read: whether its journal is whole, and what it is of."""

    is_whole: bool
    named: Named


class _Known(NamedTuple):
    cap_id: str
    weights: Weights | None
    is_money: bool


class Step(NamedTuple):
    """What an entry of the journal does to a cap; `weighed` is all of it, weighed."""

    cap: _Known
    reserved: int
    committed: int
    debt: int
    weighed: int


class Moved:
    """Legs of an entry of the journal.

    Args:
        columns: They, by column.
        steps: What they do to each cap.

    Attributes:
        steps: What they do to each cap.
        takes: Whether nothing but what is reserved is moved.
        limits: The limits after it.
    """

    __slots__ = ("_asked", "_columns", "_returned", "limits", "steps", "takes")

    def __init__(self, columns: Columns, steps: tuple[Step, ...]) -> None:
        self._columns = columns
        self._asked = self._returned = ""
        self.steps = steps
        self.takes = columns.committed.count("0") == columns.debt.count("0") == len(columns.caps)
        self.limits = " ".join(columns.limits)

    def asked(self) -> str:
        """Writes what is asked of the caps by an entry that takes it."""
        if not self._asked:
            self._asked = asked_of(self._columns.caps, self._columns.reserved)
        return self._asked

    def returned(self) -> str:
        """Writes what was asked of the caps, by an entry that returns it."""
        if not self._returned:
            amounts = [_negative(amount) for amount in self._columns.reserved]
            self._returned = asked_of(self._columns.caps, amounts)
        return self._returned


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
        weighed: All three, weighed.
        touched: The weights of the entries that were compared with what was read, added up.
    """

    reserved: int = 0
    committed: int = 0
    debt: int = 0
    low_reserved: int = 0
    low_committed: int = 0
    low_debt: int = 0
    weighed: int = 0
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
        self._columns: dict[tuple[str, ...], tuple[tuple[int, ...], ...]] = {}
        self._limits: dict[str, tuple[int | None, ...]] = {}
        self._moved: dict[str, Moved] = {}
        self._asked: dict[str, str] = {}

    def _of(self, caps: tuple[str, ...]) -> tuple[_Known, ...]:
        """Returns what is known of caps; each is one of the bundle's, and there once."""
        known = self._known.get(caps)
        if known is None:
            if len(set(caps)) != len(caps) or not all(cap_id in self._caps for cap_id in caps):
                raise Unsure
            known = tuple(
                _Known(cap_id, self.weights.get(cap_id), self._caps[cap_id].named.unit == _MONEY) for cap_id in caps
            )
            _keep(self._known, caps, known, _KNOWN_MAX)
        return known

    def decided(self, legs: Sequence[Mapping[str, Any]], *, granted: bool) -> Columns:  # Any: looked at before use
        """Reads the legs of a decision that were read as JSON.

        Raises:
            Unsure: They are odd.
        """
        columns = [_DECIDED(leg) for leg in legs]
        caps, amounts = [each[0] for each in columns], [each[1] for each in columns]
        if granted and columns and _AMOUNTS(" ".join(amounts)) is None:
            raise Unsure
        limits = [_NO_LIMIT if each[2] is None else str(int(each[2])) for each in columns]
        carried = [int(leg.get("carried", 0)) for leg in legs]
        reserved, committed, debt = ([each[place] for each in columns] for place in (3, 4, 5))
        return Columns(caps, amounts, limits, reserved, committed, debt, carried, list(map(named_in, legs)))

    def read(self, told: Columns, *, granted: bool) -> Told:
        """Reads the legs of a decision; only of one that was granted is said what goes into sums.

        Raises:
            Unsure: They are of other caps than the bundle's, or one is of something else than it says itself.
        """
        for cap_id, named in zip(told.caps, told.named, strict=True):
            cap = self._caps.get(cap_id)
            if cap is not None and cap.named != named:
                raise Unsure
        limits = " ".join(told.limits)
        reserved, committed = list(map(int, told.reserved)), list(map(int, told.committed))
        debt = None if told.debt.count("0") == len(told.debt) else list(map(int, told.debt))
        used = map(add, reserved, committed)
        for more in (debt, told.carried):
            if more is not None:
                used = map(add, used, more)
        asked = map(add, used, map(int, told.amounts))
        fits = all(starmap(_fits, zip(self._limits_in(limits), asked, strict=True)))
        if not granted:
            return Told(fits, "", "", 0)
        of_reserved, of_committed, of_debt = self._weights_of(tuple(told.caps))
        balances = self._base + sum(map(mul, of_reserved, reserved)) + sum(map(mul, of_committed, committed))
        if debt is not None:
            balances += sum(map(mul, of_debt, debt))
        return Told(fits, asked_of(told.caps, told.amounts), limits, balances)

    def _limits_in(self, written: str) -> tuple[int | None, ...]:
        limits = self._limits.get(written)
        if limits is None:
            limits = tuple(None if each == _NO_LIMIT else int(each) for each in written.split())
            _keep(self._limits, written, limits, _READ_MAX)
        return limits

    def _weights_of(self, caps: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        """Returns the weights of caps by column; of one whose journal is not whole they are nothing."""
        columns = self._columns.get(caps)
        if columns is None:
            columns = tuple(zip(*((each.weights or (0, 0, 0)) for each in self._of(caps)), strict=True)) or ((), (), ())
            _keep(self._columns, caps, columns, _READ_MAX)
        return columns

    def asked(self, legs: str) -> str | None:
        """Reads the legs of a hold as they are written, and writes what it asks; None if they have to be read as JSON."""
        asked = self._asked.get(legs)
        if asked is None:
            columns = hold_legs(legs)
            if columns is None:
                return None
            asked = asked_of(columns.caps, columns.amounts)
            _keep(self._asked, legs, asked, _READ_MAX)
        return asked

    def moved(self, legs: str) -> Moved | None:
        """Reads the legs of an entry of the journal as they are written; None if they have to be read as JSON.

        Raises:
            Unsure: They are of other caps than the bundle's.
        """
        moved = self._moved.get(legs)
        if moved is None:
            columns = entry_legs(legs)
            if columns is None:
                return None
            moved = self._moved_of(columns)
            _keep(self._moved, legs, moved, _READ_MAX)
        return moved

    def moved_by(self, legs: Sequence[Mapping[str, Any]]) -> Moved:  # Any: of the form that `lines.MEMBERS` says
        """Reads the legs of an entry of the journal that were read as JSON.

        Raises:
            Unsure: They are of other caps than the bundle's.
        """
        caps, reserved, committed, debt, limits = zip(*map(_MOVED, legs), strict=True) if legs else ((), (), (), (), ())
        said = [_NO_LIMIT if limit is None else limit for limit in limits]
        return self._moved_of(Columns(caps, (), said, reserved, committed, debt))

    def _moved_of(self, columns: Columns) -> Moved:
        known = self._of(tuple(columns.caps))
        rows = zip(known, map(int, columns.reserved), map(int, columns.committed), map(int, columns.debt), strict=True)
        steps = (
            Step(cap, reserved, committed, debt, sum(map(mul, cap.weights or (), (reserved, committed, debt))))
            for cap, reserved, committed, debt in rows
        )
        return Moved(columns, tuple(steps))

    def stood(self, moved: Moved, weight: int, moves: dict[str, Moves]) -> int:
        """Returns how caps stand right before an entry, weighed, against the beginning of the part.

        Args:
            moved: The entry's legs.
            weight: The entry's, by which the result is to be multiplied.
            moves: What happened to each cap so far.
        """
        balances = self._base
        for step in moved.steps:
            cap_id, weights, _ = step.cap
            if weights is not None:
                own = moves.get(cap_id)
                if own is None:
                    own = moves[cap_id] = Moves()
                balances += own.weighed
                own.touched += weight
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
        for (cap_id, weights, is_money), reserved, committed, debt, weighed in moved.steps:
            if cost is not None and is_money and committed + debt != cost:
                raise Unsure
            if not counts or weights is None:
                continue
            own = moves.get(cap_id)
            if own is None:
                own = moves[cap_id] = Moves()
            own.weighed += weighed
            own.reserved += reserved
            if reserved < 0 and own.reserved < own.low_reserved:
                own.low_reserved = own.reserved
            if committed:
                own.committed += committed
                own.low_committed = min(own.low_committed, own.committed)
            if debt:
                own.debt += debt
                own.low_debt = min(own.low_debt, own.debt)


def _fits(limit: int | None, used: int) -> bool:
    return limit is None or limit >= used


def _keep(kept: dict[_Name, _Value], name: _Name, value: _Value, most: int) -> None:
    """Keeps what was read, but not so much that memory grows with the file."""
    if len(kept) >= most:
        kept.clear()
    kept[name] = value


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
