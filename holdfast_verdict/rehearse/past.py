"""One past of the runs that are rehearsed, kept from their records one after the other: history, use of limits, labels."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import NamedTuple

from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.facts import Facts
from holdfast_verdict.engine.history import Event, History
from holdfast_verdict.engine.labels import yields_of
from holdfast_verdict.engine.limits import Immeasurable, leg_of
from holdfast_verdict.engine.numbers import Number
from holdfast_verdict.engine.program import Plan, Program
from holdfast_verdict.engine.unknown import Unknown
from holdfast_verdict.engine.watches import CompiledWatch, Key
from holdfast_verdict.rehearse.recorded import Became, Decided
from holdfast_verdict.rehearse.used import Taken, Used

_NONE: frozenset[str] = frozenset()


class _Open(NamedTuple):
    """An action whose outcome comes later; the number keeps those of one moment in their order."""

    at_ms: int
    number: int
    outcome: Event
    became: Became
    taken: tuple[tuple[Used, Taken, str], ...]


class Past:
    """One past.

    Attributes:
        labels: What each run has read under.
    """

    def __init__(self, program: Program) -> None:
        """Begins it.

        Args:
            program: The candidate, which says what is to be kept.
        """
        self._program = program
        self._history = History(program.policy)
        self._keeps_history = bool(program.watches)
        self._used: dict[str, Used | None] = {}
        self._open: list[_Open] = []
        self._number = 0
        self.labels: dict[str, frozenset[str]] = {}

    def to(self, now_ms: int) -> None:
        """Lets time pass: what became of actions until then is known then."""
        while self._open and self._open[0].at_ms <= now_ms:
            told = heappop(self._open)
            if self._keeps_history:
                self._history.add(told.outcome)
            for used, taken, unit in told.taken:
                if told.outcome.event == "failed" and told.became.cost_nano_usd is None:
                    used.correct(taken, 0)  # what came to nothing is given back
                elif unit == "nano_usd" and told.became.cost_nano_usd is not None:
                    used.correct(taken, told.became.cost_nano_usd)

    def add(
        self, decided: Decided, plan: Plan | None, facts: Facts, became: Became | None, *, begun: bool = False
    ) -> None:
        """Takes in that an action was allowed.

        Args:
            decided: The action.
            plan: What the candidate says on it.
            facts: Who acts, and when.
            became: What became of it; `None` if nobody can know, because it was never done.
            begun: Whether it was taken in before, when nobody knew what would come of it.
        """
        if became is not None and became.retried:
            return  # it came to nothing, and is one request with the try that came after it
        action, record = decided.action, decided.record
        at_ms = record.at_ms
        name = f"{record.run_id}/{decided.step}"
        event = Event(action.name, action.args, "requested", at_ms, facts.principal, name, external=action.external)
        if self._keeps_history and not begun:
            self._history.add(event)
        context = Context(action.name, action.external, action.args, facts, self._program)
        if plan is not None and (became is None or not became.unread):
            self._read(record.run_id, decided, plan, context)
        taken = self._take(plan, context, at_ms) if plan is not None and plan.limits and not begun else ()
        if became is not None and became.outcome is not None and (self._keeps_history or taken):
            self._number += 1
            outcome = Event(
                action.name, action.args, became.outcome, became.at_ms, facts.principal, name, external=action.external
            )
            heappush(self._open, _Open(max(became.at_ms, at_ms), self._number, outcome, became, taken))

    def _read(self, run_id: str, decided: Decided, plan: Plan, context: Context) -> None:
        labels = {label for _, names in yields_of(plan, decided.action.yields, context) for label in names}
        known = self.labels.get(run_id, _NONE)
        if not known.issuperset(labels):
            self.labels[run_id] = known | labels

    def _take(self, plan: Plan, context: Context, at_ms: int) -> tuple[tuple[Used, Taken, str], ...]:
        taken = []
        for rule in plan.limits:
            if rule.ask(context)[0] is False:
                continue
            try:
                leg = leg_of(rule, context)
            except Immeasurable:
                self._used[rule.key + str(context.facts.principal.get(_per(rule.rule.limit)) or "")] = None
                continue
            used = self._used.setdefault(leg.key, Used(leg.window))
            if leg.amount is None:
                self._used[leg.key] = None
            elif used is not None:
                taken.append((used, used.take(at_ms, leg.amount), leg.unit))
        return tuple(taken)

    def watch(self, watch: CompiledWatch, key: Key, facts: Facts) -> Number | Unknown | str:
        """Returns what a watch says."""
        return self._history.value(watch, key, facts)

    def used(self, key: str, now_ms: int) -> int | None:
        """Returns what is used of a limit; `None` if it cannot be told."""
        used = self._used.get(key, _UNUSED)
        return None if used is None else used.at(now_ms)


_UNUSED = Used("total")


def _per(limit: object) -> str:
    return str(getattr(limit, "per", ""))
