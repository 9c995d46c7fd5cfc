"""What happened before, kept as summaries: by watch, by whose history it is, and by what past and present must have in common.

An action is *requested* when it is allowed, before it runs; so actions that are decided side by side see one another. Later it has
*succeeded* or *failed*, or nobody knows. Until then, and where nobody knows, it counts against later actions and not in their favour.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Final, Literal, get_args

from holdfast_verdict.canonical import NotCanonical, digest
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.facts import Facts, HistoryFacts
from holdfast_verdict.engine.form import read_action
from holdfast_verdict.engine.numbers import Number
from holdfast_verdict.engine.program import Program, program_of, speaks_of
from holdfast_verdict.engine.series import Last, Total
from holdfast_verdict.engine.unknown import UNKNOWN, Unknown
from holdfast_verdict.engine.watches import CompiledWatch, Key
from holdfast_verdict.policy import Policy, Watch

EventKind = Literal["requested", "succeeded", "failed", "unknown"]
EVENT_KINDS: Final = get_args(EventKind)


class _Any(Enum):
    """Stands for a key that could not be told: it may be any."""

    ANY = "any"


_ANY: Final = _Any.ANY
_Place = tuple[str | None, Key | _Any]


class EventMalformed(ValueError):  # an error of whoever tells history, who is not the agent
    """An event says something that no event can say."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        action: Name of the action.
        args: Its arguments, in canonical form.
        event: What happened: it was requested (and allowed), and later it succeeded or failed, or nobody knows.
        at_ms: When.
        principal: Who acted; where it is left out, who is asked about.
        action_id: Names the action, so that its outcome is told apart from that of another one alike; may be left out.
        external: Whether the action leaves the tenant's boundary.
    """

    action: str
    args: Mapping[str, object]
    event: EventKind
    at_ms: int
    principal: Mapping[str, object] | None = None
    action_id: str = ""
    external: bool = True

    @staticmethod
    def of(value: object) -> Event:
        """Reads an event from a plain mapping.

        Raises:
            EventMalformed: A member is missing, unknown or of another type.
        """
        if isinstance(value, Event):
            event = value
        elif isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            try:
                event = Event(**value)
            except TypeError as error:
                raise EventMalformed(f"an event has {', '.join(each.name for each in fields(Event))}") from error
        else:
            raise EventMalformed(f"a {type(value).__name__} is no event")
        if (
            not isinstance(event.action, str)
            or not isinstance(event.args, Mapping)
            or event.event not in EVENT_KINDS
            or type(event.at_ms) is not int
        ):
            raise EventMalformed(f"an event has a name, arguments, one of {', '.join(EVENT_KINDS)}, and a time in ms")
        return event


@dataclass(slots=True)
class _Summary:
    """What is kept under one watch, scope and key.

    Attributes:
        last: For `happened`.
        total: For counts and sums.
        untold: How often the amount of a sum could not be told.
        open: What was requested and has no outcome yet: it may have succeeded.
        open_untold: How many of these have an amount that cannot be told.
        open_count: How many these are.
    """

    last: Last
    total: Total
    untold: Total
    open: Number = 0
    open_untold: int = 0
    open_count: int = 0

    def add(self, at_ms: int, amount: Number | Unknown) -> None:
        self.last.add(at_ms)
        if isinstance(amount, Unknown):
            self.untold.add(at_ms, 1)
        else:
            self.total.add(at_ms, amount)

    def begin(self, amount: Number | Unknown, sign: int) -> None:
        """Takes an action without outcome in (1), or out again (-1)."""
        self.open_count += sign
        if isinstance(amount, Unknown):
            self.open_untold += sign
        else:
            self.open += sign * amount

    def value(self, keep: str, since_ms: int | None, *, with_open: bool) -> Number | Unknown:
        if keep == "last":
            return max(self.last.happened(since_ms), int(with_open and self.open_count > 0))
        untold = self.untold.since(since_ms)
        if untold != 0 or (with_open and self.open_untold):
            return UNKNOWN
        total = self.total.since(since_ms)
        return total if isinstance(total, Unknown) or not with_open else total + self.open


@dataclass(frozen=True, slots=True)
class _Touch:
    """What one action counts for under one watch."""

    watch: CompiledWatch
    place: _Place
    amount: Number | Unknown


@dataclass(slots=True)
class _Kept:
    """All that is kept under one watch.

    Attributes:
        watch: The watch.
        summaries: By scope and key.
        scoped: Whether an event said whose it is.
    """

    watch: Watch
    summaries: dict[_Place, _Summary] = field(default_factory=dict)
    scoped: bool = False


class History:
    """Kept history: grows with the number of different keys and with what is in the windows, and is asked at one price."""

    def __init__(self, policy: Policy, *, principal: Mapping[str, object] | None = None) -> None:
        """Begins an empty history.

        Args:
            policy: Whose watches are kept.
            principal: Who acts in events that do not say so.
        """
        self._program: Program = program_of(policy)
        self._principal = principal
        self._kept = {watch_id: _Kept(watch.watch) for watch_id, watch in self._program.watches.items()}
        self._open: dict[str, deque[tuple[_Touch, ...]]] = {}
        self._watches_of: dict[tuple[str, bool], tuple[CompiledWatch, ...]] = {}

    @staticmethod
    def of(policy: Policy, events: Iterable[object], principal: Mapping[str, object] | None = None) -> History:
        """Builds a history from a list of events."""
        history = History(policy, principal=principal)
        for event in events:
            history.add(event)
        return history

    def add(self, event: Event | Mapping[str, object] | object) -> None:
        """Takes an event in.

        An outcome of an action of which no request was told counts as request and outcome in one.

        Raises:
            EventMalformed: It is no event; nothing was taken in.
        """
        told = Event.of(event)
        name = told.action_id or _name(told)
        waiting = self._open.get(name)
        if told.event == "requested":
            if waiting and told.action_id:
                return  # told twice
            self._open.setdefault(name, deque()).append(self._request(told))
            return
        touches = waiting.popleft() if waiting else self._request(told)
        if not self._open.get(name):
            self._open.pop(name, None)
        for touch in touches:
            summary = self._summary(touch)
            summary.begin(touch.amount, -1)
            if told.event == "succeeded" or (told.event == "unknown" and touch.watch.watch.doubt):
                summary.add(told.at_ms, touch.amount)

    def _request(self, told: Event) -> tuple[_Touch, ...]:
        """Counts a request where requests count, and returns where its outcome will count."""
        later = []
        for touch in self._touches(told):
            summary = self._summary(touch)
            if touch.watch.watch.event == "requested":
                summary.add(told.at_ms, touch.amount)
            else:
                summary.begin(touch.amount, 1)
                later.append(touch)
        return tuple(later)

    def _touches(self, told: Event) -> list[_Touch]:
        principal = told.principal if told.principal is not None else self._principal or {}
        context = Context(told.action, told.external, told.args, Facts(principal=principal))
        touches = []
        for watch in self._watching(told.action, external=told.external):
            if not watch.counts(context):
                continue
            key = watch.past_key(context)
            if isinstance(key, Unknown) and not watch.watch.doubt:
                continue
            scope = _scope(watch, principal)
            self._kept[watch.watch.id].scoped |= scope is not None
            place = (scope, _ANY if isinstance(key, Unknown) else key)
            touches.append(_Touch(watch, place, watch.amount(context)))
        return touches

    def _watching(self, name: str, *, external: bool) -> tuple[CompiledWatch, ...]:
        external = self._program.is_external(name, declared=external)
        watches = self._watches_of.get((name, external))
        if watches is None:
            watches = tuple(
                watch
                for watch in self._program.watches.values()
                if speaks_of(watch.watch.actions, name, external=external)
            )
            self._watches_of[name, external] = watches
        return watches

    def _summary(self, touch: _Touch) -> _Summary:
        summaries = self._kept[touch.watch.watch.id].summaries
        summary = summaries.get(touch.place)
        if summary is None:
            window_ms = touch.watch.watch.window_ms
            summary = summaries[touch.place] = _Summary(Last(), Total(window_ms), Total(window_ms))
        return summary

    def value(self, watch: CompiledWatch, key: Key, facts: Facts) -> Number | Unknown | str:
        """Returns what a watch says, for an action with that key.

        Returns:
            How often, or how much; UNKNOWN if the past cannot tell; a text that names the fact without which it cannot be told.
        """
        kept = self._kept.get(watch.watch.id)
        if kept is None or (kept.watch is not watch.watch and kept.watch != watch.watch):
            return f"history.{watch.watch.id}"
        scope = _scope(watch, facts.principal)
        if scope is None and kept.scoped:
            return f"principal.{watch.watch.scope}"
        since_ms = None
        if watch.watch.window_ms is not None:
            if type(facts.now_ms) is not int:
                return "now_ms"
            since_ms = facts.now_ms - watch.watch.window_ms
        return _together(kept, watch, _places(watch, scope, key), since_ms)

    def facts(self, action: object, principal: Mapping[str, object], now_ms: int) -> HistoryFacts:
        """Returns what all watches say for an action, as facts that stay what they are.

        Args:
            action: As `decide` takes it.
            principal: Who acts.
            now_ms: The time.

        Raises:
            Malformed: The action has no form that can be decided.
        """
        read = read_action(action)
        facts = Facts(principal=principal, now_ms=now_ms, history=self)
        context = Context(read.name, read.external, read.args, facts, self._program)
        for watch_id in self._program.watches:
            context.watch(watch_id)
        return HistoryFacts({name: value for (_, name), value in context.read.items()})  # type: ignore[misc]  # only of watches


def _name(told: Event) -> str:
    try:
        return f"{told.action} {digest(dict(told.args)).hex()}"
    except NotCanonical as error:
        raise EventMalformed(f"the arguments of an event have no canonical form: {error}") from None


def _scope(watch: CompiledWatch, principal: Mapping[str, object]) -> str | None:
    scope = principal.get(watch.watch.scope)
    return scope if isinstance(scope, str) else None


def _places(watch: CompiledWatch, scope: str | None, key: Key) -> list[_Place]:
    """Returns where to look: with doubt also where it was not told whose, or with which values, something happened."""
    if not watch.watch.doubt:
        return [(scope, key)]
    places: list[_Place] = [(scope, key), (scope, _ANY)]
    return places if scope is None else [*places, (None, key), (None, _ANY)]


def _together(kept: _Kept, watch: CompiledWatch, places: list[_Place], since_ms: int | None) -> Number | Unknown:
    with_open = watch.watch.doubt and watch.watch.event == "succeeded"
    together: Number = 0
    for place in places:
        summary = kept.summaries.get(place)
        if summary is not None:
            value = summary.value(watch.watch.keep, since_ms, with_open=with_open)
            if isinstance(value, Unknown):
                return UNKNOWN
            together += value
    return together
