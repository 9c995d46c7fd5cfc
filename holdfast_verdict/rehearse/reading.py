"""History and use of limits as a candidate reads them: what the record says, else what follows from the other records, else nothing.

For the facts as they would have become, what the record says is corrected by what would not, or would as well, have been done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.facts import Facts, HistoryFacts
from holdfast_verdict.engine.numbers import Number
from holdfast_verdict.engine.program import Program
from holdfast_verdict.engine.unknown import UNKNOWN, Unknown
from holdfast_verdict.rehearse.past import Past
from holdfast_verdict.rehearse.recorded import Decided
from holdfast_verdict.rehearse.same import Same

_SPANS_MS: Final = {"hour": 3_600_000, "day": 86_400_000, "month": 31 * 86_400_000}
_Value = Number | Unknown | str
_NO_LABELS: Final[frozenset[str]] = frozenset()


@dataclass(slots=True)
class Pasts:
    """What is known of the past.

    Attributes:
        program: The candidate.
        done: What the runs did.
        would: What they would have done.
        since_ms: From when on every record of the tenant is known; `None` if those of single runs are.
        whole: Runs of which every record is known.
        kin: Runs that another one has started, or that have started one: they carry what the others have read, too.
    """

    program: Program
    done: Past
    would: Past
    since_ms: int | None
    whole: set[str] = field(default_factory=set)
    kin: set[str] = field(default_factory=set)

    def covers(self, run_id: str, per: str, span_ms: int | None, at_ms: int) -> bool:
        """Says whether all is known that was done within a scope and time."""
        if per == "run" and run_id in self.whole:
            return True
        return self.since_ms is not None and span_ms is not None and at_ms - span_ms >= self.since_ms

    def lose(self, run_id: str, at_ms: int) -> None:
        """Takes in that something was done that nobody can read: of its run not all is known, and of all runs only what came later."""
        self.whole.discard(run_id)
        if self.since_ms is not None:
            self.since_ms = max(self.since_ms, at_ms + 1)

    def labels(self, run_id: str, told: frozenset[str] | None, *, become: bool) -> frozenset[str] | None:
        """Returns the labels that a run carries; `told` are those of the record, if they hold for the candidate."""
        whole = run_id in self.whole and run_id not in self.kin
        done = self.done.labels.get(run_id, _NO_LABELS)
        told = done if told is None and whole else told
        if told is None or not become:
            return told
        would = self.would.labels.get(run_id, _NO_LABELS)
        if done <= would:
            return told | (would - done)
        return would | (told - done) if whole else None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a past is asked for.

    Attributes:
        pasts: What is known.
        decided: The decision.
        same: What of the record's facts holds for the candidate.
        become: Whether the past is asked as it would have become.
    """

    pasts: Pasts
    decided: Decided
    same: Same
    become: bool


class Watches(Mapping[str, Number | Unknown | str]):
    """What watches say; each is asked when the candidate asks it."""

    def __init__(self, asked: Asked, facts: Facts, recorded: HistoryFacts | None) -> None:
        self._asked = asked
        self._facts = facts
        self._recorded = {} if recorded is None else recorded.watches

    def __getitem__(self, watch_id: str) -> Number | Unknown | str:
        value = self._value(watch_id)
        if value is None:
            raise KeyError(watch_id)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._asked.pasts.program.watches)

    def __len__(self) -> int:
        return len(self._asked.pasts.program.watches)

    def _value(self, watch_id: str) -> Number | Unknown | str | None:
        asked, pasts = self._asked, self._asked.pasts
        watch = pasts.program.watches.get(watch_id)
        if watch is None:
            return None
        told = self._recorded.get(asked.same.watches.get(watch_id, ""))
        action, record = asked.decided.action, asked.decided.record
        whole = pasts.covers(record.run_id, watch.watch.scope, watch.watch.window_ms, record.at_ms)
        if told is not None and not asked.become:
            return told
        if told is None and not whole:
            return None
        key = watch.present_key(Context(action.name, action.external, asked.decided.args, self._facts, pasts.program))
        if isinstance(key, Unknown):
            return UNKNOWN
        done = pasts.done.watch(watch, key, self._facts)
        if told is None:
            told = done
        if not asked.become:
            return told
        would = pasts.would.watch(watch, key, self._facts)
        return _become(watch.watch.keep, (told, done, would), whole=whole)


def _become(keep: str, values: tuple[_Value, _Value, _Value], *, whole: bool) -> _Value | None:
    """Returns what a watch would have said: what it said, without what would not have been done, and with what would."""
    told, done, would = values
    if done == would:
        return told
    if told == done and whole:
        return would
    if isinstance(told, Unknown | str) or isinstance(done, Unknown | str) or isinstance(would, Unknown | str):
        return None
    if keep == "last":  # what it was told of may have been another time, before the records begin
        return told if told == would or done == 0 else None
    return told - done + would if told >= done else None


class Usage(Mapping[str, int]):
    """What is used of limits, by the leg's key; likewise."""

    def __init__(self, asked: Asked, recorded: Mapping[str, int] | None) -> None:
        self._asked = asked
        self._recorded = {} if recorded is None else recorded

    def __getitem__(self, key: str) -> int:
        value = self._value(key)
        if value is None:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def _value(self, key: str) -> int | None:
        asked, pasts = self._asked, self._asked.pasts
        for rule in pasts.program.rules:
            limit = rule.rule.limit
            if limit is None or not key.startswith(rule.key):
                continue
            record = asked.decided.record
            span = limit.window if isinstance(limit.window, int) else _SPANS_MS.get(limit.window)
            whole = pasts.covers(record.run_id, limit.per, span, record.at_ms)
            theirs = asked.same.limits.get(rule.key)
            told = None if theirs is None else self._recorded.get(theirs + key.removeprefix(rule.key))
            if told is not None and not asked.become:
                return told
            if told is None and not whole:
                return None
            done = pasts.done.used(key, record.at_ms)
            told = done if told is None else told
            if told is None or not asked.become:
                return told
            would = pasts.would.used(key, record.at_ms)
            if done is None or would is None or (told < done and not whole):
                return None
            return max(told - done, 0) + would
        return None
