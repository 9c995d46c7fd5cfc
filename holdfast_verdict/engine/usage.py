"""What is used up of limits, kept in memory: a ledger for tests and simulations, which holds what an allow asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast_verdict.engine.verdict import Leg

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS


def _month_of(now_ms: int) -> int:
    """Returns the month since the year 0 in UTC, by the proleptic Gregorian calendar."""
    days = now_ms // _DAY_MS + 719_468  # days since 0000-03-01, with which leap days come last
    era, day = divmod(days, 146_097)
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    month = (5 * (day - (365 * year + year // 4 - year // 100)) + 2) // 153  # 0 is March
    return (era * 400 + year) * 12 + month + 2


def in_window(at_ms: int, now_ms: int, window: str | int) -> bool:
    """Says whether a time lies in the window that is open now."""
    if isinstance(window, int):
        return now_ms - at_ms <= window
    if window in ("hour", "day"):
        length = _HOUR_MS if window == "hour" else _DAY_MS
        return at_ms // length == now_ms // length
    return window != "month" or _month_of(at_ms) == _month_of(now_ms)


@dataclass(slots=True)
class Usage(Mapping[str, int]):
    """What is used up by the leg's key, at the time it is told.

    Attributes:
        now_ms: The time.
        held: What was held: when, how much, and over which window it counts.
    """

    now_ms: int = 0
    held: dict[str, list[tuple[int, int, str | int]]] = field(default_factory=dict)

    def hold(self, leg: Leg) -> None:
        """Holds what an allowed action takes; it stays held whatever becomes of the action."""
        if leg.amount is not None:
            self.held.setdefault(leg.key, []).append((self.now_ms, leg.amount, leg.window))

    def __getitem__(self, key: str) -> int:
        return sum(amount for at_ms, amount, window in self.held.get(key, ()) if in_window(at_ms, self.now_ms, window))

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)
