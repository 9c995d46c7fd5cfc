"""What is used of one limit, as time goes on: one total, from which leaves what has left the window."""

from __future__ import annotations

from collections import deque
from typing import Final

from holdfast_verdict.engine.usage import in_window

_EVER: Final = ("run", "total")


class Taken:
    """What one action takes of a limit.

    Attributes:
        at_ms: When.
        amount: How much.
        counts: Whether it is still in the window.
    """

    __slots__ = ("amount", "at_ms", "counts")

    def __init__(self, at_ms: int, amount: int) -> None:
        self.at_ms = at_ms
        self.amount = amount
        self.counts = True


class Used:
    """The total of one limit and scope.

    Attributes:
        window: Over which time.
    """

    __slots__ = ("_taken", "_total", "window")

    def __init__(self, window: str | int) -> None:
        self.window = window
        self._taken: deque[Taken] = deque()
        self._total = 0

    def take(self, at_ms: int, amount: int) -> Taken:
        """Takes an amount; times never go back."""
        taken = Taken(at_ms, amount)
        self._total += amount
        if self.window not in _EVER:
            self._taken.append(taken)
        return taken

    def correct(self, taken: Taken, amount: int) -> None:
        """Corrects an amount that was taken, once it is known what it was really."""
        if taken.counts:
            self._total += amount - taken.amount
        taken.amount = amount

    def at(self, now_ms: int) -> int:
        """Returns what is used at a time."""
        while self._taken and not in_window(self._taken[0].at_ms, now_ms, self.window):
            left = self._taken.popleft()
            left.counts = False
            self._total -= left.amount
        return self._total
