"""What happened under one watch and key, kept so that a question costs the same after any number of events.

A window is closed at both ends: what happened at `t` is within `window_ms` of `now_ms` if `now_ms - t <= window_ms`. What lies in the
future of the asker, as clocks may have it, counts as well. All is exact; nothing is put into buckets.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from holdfast_verdict.engine.numbers import Number
from holdfast_verdict.engine.unknown import UNKNOWN, Unknown

_KEPT_MIN: Final = 64


@dataclass(slots=True)
class Last:
    """The time of the last event."""

    at_ms: int | None = None

    def add(self, at_ms: int) -> None:
        """Takes an event in; also one that is told late."""
        self.at_ms = at_ms if self.at_ms is None else max(self.at_ms, at_ms)

    def happened(self, since_ms: int | None) -> int:
        """Returns 1 if it happened since a time, or ever."""
        return int(self.at_ms is not None and (since_ms is None or self.at_ms >= since_ms))


@dataclass(slots=True)
class Total:
    """The sum of amounts in a window, or of all; for a count each amount is 1.

    Attributes:
        window_ms: How long an event counts; `None` for ever.
        times_ms: When, in order; empty where all count for ever.
        sums: Sum of all amounts up to the event of the same index.
        base: Sum of the amounts that are no longer listed.
        forgotten_ms: Up to when events are no longer listed.
    """

    window_ms: int | None
    times_ms: list[int] = field(default_factory=list)
    sums: list[int | Fraction] = field(default_factory=list)
    base: Number = 0
    forgotten_ms: int | None = None

    def add(self, at_ms: int, amount: Number) -> None:
        """Takes an event in; also one that is told late."""
        if self.window_ms is None:
            self.base += amount
            return
        index = bisect_right(self.times_ms, at_ms)
        before = self.sums[index - 1] if index else self.base
        self.times_ms.insert(index, at_ms)
        self.sums.insert(index, before + amount)
        for later in range(index + 1, len(self.sums)):
            self.sums[later] += amount
        if len(self.times_ms) > _KEPT_MIN:
            self._forget(self.times_ms[-1] - self.window_ms)

    def _forget(self, before_ms: int) -> None:
        """Drops what has left the window, when that is at least half: so each event is moved once on average."""
        left = bisect_left(self.times_ms, before_ms)
        if left * 2 < len(self.times_ms):
            return
        self.base = self.sums[left - 1]
        self.forgotten_ms = self.times_ms[left - 1]
        del self.times_ms[:left]
        del self.sums[:left]

    def since(self, since_ms: int | None) -> Number | Unknown:
        """Returns the sum since a time; UNKNOWN for a time of which events were dropped already."""
        if self.window_ms is None or since_ms is None:
            return self.base if not self.sums else self.sums[-1]
        if self.forgotten_ms is not None and since_ms <= self.forgotten_ms:
            return UNKNOWN
        index = bisect_left(self.times_ms, since_ms)
        everything = self.sums[-1] if self.sums else self.base
        return everything - (self.sums[index - 1] if index else self.base)
