"""A run's steps under each other, each with when it began, how long it took, its verdict and its cost. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

from cli.text import one_line, wrapped
from holdfast.money import format_usd

if TYPE_CHECKING:
    from sdk import Approval, Decision, Hold, Run

_BAR_WIDTH_MAX: Final = 60
_FIXED_WIDTH: Final = 44
"""Columns of a line that are not its bar."""
_ACTION_WIDTH: Final = 16
_INDENT: Final = "         "


@dataclass(frozen=True, slots=True)
class Waterfall:
    """What is drawn.

    Attributes:
        now: Until when something that goes on has taken.
        flags: Options that name the server, for commands that are printed to be copied.
    """

    run: Run
    decisions: Sequence[Decision]
    holds: Mapping[str, Hold]
    approvals: Mapping[str, Approval]
    now: datetime
    width: int
    flags: str

    def lines(self) -> Iterator[str]:
        """Yields the drawing, or a sentence if there is nothing to draw."""
        steps = [one for one in self.decisions if one.step or (one.verdict == "deny" and one.run_id)]
        if not steps:
            yield "nothing was decided yet"
            return
        bar = min(self.width - _FIXED_WIDTH, _BAR_WIDTH_MAX)
        total = duration(self._end - self.run.created_at)
        yield f" step  {'action':<{_ACTION_WIDTH}} {'at':>9} {'took':>8}  0{total:>{bar - 1}}"
        for decision in steps:
            yield from self._step(decision, bar)

    @property
    def _end(self) -> datetime:
        return self.run.ended_at or self.now

    def _step(self, decision: Decision, bar: int) -> Iterator[str]:
        hold = self.holds.get(decision.hold_id or "")
        approval = self.approvals.get(decision.approval_id or "") if decision.verdict == "needs_approval" else None
        began = decision.created_at
        ended = self._ended(decision, hold, approval)
        took = "" if ended is None else duration(ended - began)
        name = one_line(decision.tool or decision.kind)
        # what has no step was refused on its way, such as a permit
        step = f"{decision.step}.{decision.try_number}" if decision.step else ""
        if cell_len(name) > _ACTION_WIDTH:
            yield f"{step:>5}  {name}"
            step, name = "", ""
        at = "+" + duration(began - self.run.created_at)
        drawn = self._bar(began, ended or began, bar, "█" if decision.verdict == "allow" else "░")
        yield f"{step:>5}  {name:<{_ACTION_WIDTH}} {at:>9} {took:>8}  {drawn}".rstrip()
        yield from self._verdict(decision, hold)
        if approval is not None:
            yield from self._approval(approval)

    def _ended(self, decision: Decision, hold: Hold | None, approval: Approval | None) -> datetime | None:
        if hold is not None:
            return hold.settled_at or self._end
        if approval is not None:
            return approval.decided_at or min(approval.expires_at, self._end)
        return decision.created_at if decision.verdict == "deny" else None

    def _bar(self, began: datetime, ended: datetime, width: int, mark: str) -> str:
        whole = max((self._end - self.run.created_at) / timedelta(milliseconds=1), 1.0)
        first = min(int((began - self.run.created_at) / timedelta(milliseconds=1) / whole * width), width - 1)
        last = min(int((ended - self.run.created_at) / timedelta(milliseconds=1) / whole * width), width - 1)
        return " " * max(first, 0) + mark * (max(last, first) - first + 1)

    def _verdict(self, decision: Decision, hold: Hold | None) -> Iterator[str]:
        code = ", ".join(decision.reason_codes)
        if decision.verdict != "allow":
            words = f"{decision.verdict} ({code}) {decision.message}"
            yield from (f"{_INDENT}{line}" for line in wrapped(one_line(words), self.width - len(_INDENT)))
            return
        if hold is None:
            yield f"{_INDENT}allow ({code})"
            return
        yield f"{_INDENT}allow, {hold.state}{self._cost(hold)}"
        if hold.state == "unknown":
            yield f"{_INDENT}holdfast holds resolve {hold.hold_id}{self.flags}"

    def _cost(self, hold: Hold) -> str:
        if not hold.max_cost_nano_usd:
            return ""
        held = format_usd(hold.max_cost_nano_usd)
        if hold.settled_at is None:
            return f", {held} held{self._share(hold.max_cost_nano_usd)}"
        cost = hold.cost_nano_usd or 0
        return f", {format_usd(cost)} of {held}{self._share(cost)}"

    def _share(self, amount_nano_usd: int) -> str:
        """Says how much of the run's cap an amount is, in tenths of a percent."""
        cap = self.run.cap_nano_usd
        if not cap:
            return ""
        tenths = amount_nano_usd * 1_000 // cap
        share = f"{tenths // 10}.{tenths % 10}" if tenths or not amount_nano_usd else "under 0.1"
        return f", {share} % of the cap"

    def _approval(self, approval: Approval) -> Iterator[str]:
        if approval.state != "pending":
            by = f" by {approval.decided_by}" if approval.decided_by else ""
            yield f"{_INDENT}{approval.state}{by}"
            return
        yield f"{_INDENT}holdfast approve {approval.approval_id}{self.flags}"
        yield f"{_INDENT}holdfast deny {approval.approval_id}{self.flags}"


def duration(time: timedelta) -> str:
    """Returns a duration in few characters, such as `12 ms`, `1.25 s`, `4 m 10 s`, `2 h 05 m`, `3 d 04 h`."""
    ms = max(time // timedelta(milliseconds=1), 0)
    minutes, seconds = divmod(ms // 1_000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02d} h"
    if hours:
        return f"{hours} h {minutes:02d} m"
    if minutes:
        return f"{minutes} m {seconds:02d} s"
    return f"{seconds}.{ms % 1_000 // 10:02d} s" if seconds else f"{ms} ms"
