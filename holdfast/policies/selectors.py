"""What of the past counts for one watch or one limit: the same in every version of a policy that says the same of it.

Sums are kept in buckets of time. Calendar windows, and those without an end, have buckets that fit into them, so their sums are exact.
A rolling window has 64 buckets, and one that is partly in it counts whole where it stands against an action, and not at all where it
speaks for it. Whether something happened is exact.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import orjson

from holdfast.ledger.core import RUN_BUDGET
from holdfast.policies.deeds import Deed
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.facts import Facts
from holdfast_verdict.engine.numbers import Number, number_of
from holdfast_verdict.engine.program import CompiledRule, Program, program_of, speaks_of
from holdfast_verdict.engine.unknown import Unknown
from holdfast_verdict.engine.usage import in_window
from holdfast_verdict.engine.watches import CompiledWatch
from holdfast_verdict.policy import Policy

_FORM: Final = 1
"""Raised when sums come to mean something else: then they are built anew."""
_FORM_OF_BUDGETS: Final = 2
"""The same, of what would speak of a run's budget if that were an action: of these alone, sums of form 1 may hold budgets."""
_BUCKETS: Final = 64
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_CALENDAR: Final = {"hour": (_HOUR_MS, _HOUR_MS), "day": (_DAY_MS, _DAY_MS), "month": (_DAY_MS, 31 * _DAY_MS)}
"""Width of a bucket, and how far back a window may reach."""
ANY_KEY: Final = b"\x00"
"""Stands for a key that could not be told: it may be any."""
_KEPT_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Touch:
    """What one action counts for.

    Attributes:
        scope: Whose it is.
        key: Under which key.
        at_ms: When.
        amount: How much; None if nobody can tell.
    """

    scope: str
    key: bytes
    at_ms: int
    amount: Number | None


@dataclass(frozen=True, slots=True)
class Span:
    """The time over which something counts.

    Attributes:
        window: A window of the calendar, a rolling one in milliseconds, or None for ever.
        against: Whether what counts stands against an action.
    """

    window: str | int | None
    against: bool

    @property
    def width_ms(self) -> int | None:
        """Width of a bucket; None if one is enough."""
        if isinstance(self.window, int):
            return max(self.window // _BUCKETS, 1)
        return _CALENDAR[self.window][0] if self.window in _CALENDAR else None

    @property
    def length_ms(self) -> int | None:
        """How far back it may reach."""
        if isinstance(self.window, int):
            return self.window
        return _CALENDAR[self.window][1] if self.window in _CALENDAR else None

    def bucket_ms(self, at_ms: int) -> int:
        """Returns when the bucket of a time begins."""
        return 0 if self.width_ms is None else at_ms // self.width_ms * self.width_ms

    def floor_ms(self, now_ms: int) -> int:
        """Returns the oldest bucket that may count."""
        return 0 if self.length_ms is None else self.bucket_ms(now_ms - self.length_ms)

    def holds(self, bucket_ms: int, until_ms: int, now_ms: int) -> bool:
        """Says whether a bucket counts, whose newest event was at `until_ms`."""
        if isinstance(self.window, int):
            return now_ms - (until_ms if self.against else bucket_ms) <= self.window
        return self.window not in _CALENDAR or in_window(bucket_ms, now_ms, str(self.window))


@dataclass(frozen=True, slots=True)
class WatchSelector:
    """What counts for a watch."""

    watch: CompiledWatch
    digest: bytes
    span: Span

    @property
    def is_wide(self) -> bool:
        """Whether more than the run's own history is asked."""
        return self.watch.watch.scope != "run"

    def touch(self, deed: Deed, tenant: str) -> Touch | None:
        """Returns what a settled action counts for, as `History` takes its request and its outcome."""
        watch = self.watch.watch
        if not speaks_of(watch.actions, deed.name, external=False):
            return None
        at = deed.created_at
        if watch.event == "requested":
            if deed.is_void and deed.retried:
                return None
        elif deed.outcome == "succeeded" or (deed.outcome == "unknown" and watch.doubt):
            at = deed.settled_at or at
        else:
            return None
        principal = deed.principal(tenant)
        context = Context(deed.name, True, deed.args, Facts(principal=principal))
        if not self.watch.counts(context):
            return None
        key, amount = self.watch.past_key(context), self.watch.amount(context)
        if isinstance(key, Unknown):
            if not watch.doubt:
                return None
            key = ANY_KEY
        known = None if isinstance(amount, Unknown) else amount
        return Touch(principal[watch.scope], key, int(at.timestamp() * 1000), known)


@dataclass(frozen=True, slots=True)
class LimitSelector:
    """What counts for a limit."""

    compiled: CompiledRule
    program: Program
    digest: bytes
    span: Span

    @property
    def is_wide(self) -> bool:
        """Whether it is a limit on more than the run."""
        limit = self.compiled.rule.limit
        return limit is not None and limit.per != "run"

    def touch(self, deed: Deed, tenant: str) -> Touch | None:
        """Returns what an action uses; what came to nothing uses nothing, and one of which it is unknown whether it counts does."""
        rule, limit = self.compiled.rule, self.compiled.rule.limit
        assert limit is not None  # it is one
        if deed.is_void or rule.role not in ("*", deed.role, *self.program.policy.roles.get(deed.role, ())):
            return None
        external = "external" in rule.actions  # what its tool said of its boundary is not kept: then it counts
        if not speaks_of(rule.actions, deed.name, external=external):
            return None
        principal = deed.principal(tenant)
        context = Context(deed.name, external, deed.args, Facts(principal=principal), self.program)
        truth, _ = self.compiled.ask(context)
        if truth is False:
            return None
        amount: int | None = 1
        if self.compiled.measured is not None:
            number = number_of(self.compiled.measured(context))
            amount = None if isinstance(number, Unknown) else max(math.ceil(number), 0)
        elif limit.measure != "count":
            amount = deed.cost_nano_usd if limit.unit == "nano_usd" else deed.tokens
        return Touch(principal[limit.per], b"", deed.at_ms, amount)


Selector = WatchSelector | LimitSelector


@dataclass(frozen=True, slots=True)
class Selectors:
    """Everything of the past that counts for a policy.

    Attributes:
        watches: By the watch's id. Whether a past action was external is not kept, so watches that ask it are left out.
        limits: By the key of the limit's rule.
    """

    watches: dict[str, WatchSelector]
    limits: dict[str, LimitSelector]

    def of(self, *, is_wide: bool) -> tuple[Selector, ...]:
        """Returns those of the run's own history, or of more, each once."""
        every: list[Selector] = [*self.watches.values(), *self.limits.values()]
        return tuple({each.digest: each for each in every if each.is_wide is is_wide}.values())


_selectors: OrderedDict[bytes, Selectors] = OrderedDict()


def selectors_of(policy: Policy) -> Selectors:
    """Returns a policy's selectors, which are made once for each hash."""
    program = program_of(policy)
    found = _selectors.get(program.policy_hash)
    if found is None:
        found = _selectors[program.policy_hash] = Selectors(
            {
                each: _of_watch(watch)
                for each, watch in program.watches.items()
                if "external" not in watch.watch.actions
            },
            {rule.key: _of_limit(rule, program) for rule in program.rules if rule.rule.limit is not None},
        )
        while len(_selectors) > _KEPT_MAX:
            _selectors.popitem(last=False)
    return found


def _digest(kind: str, actions: Iterable[str], value: dict[str, object]) -> bytes:
    form = _FORM_OF_BUDGETS if speaks_of(actions, RUN_BUDGET, external=True) else _FORM
    return hashlib.sha256(orjson.dumps([form, kind, value], option=orjson.OPT_SORT_KEYS)).digest()


def _of_watch(watch: CompiledWatch) -> WatchSelector:
    told = watch.watch.to_json()
    del told["id"]
    return WatchSelector(
        watch, _digest("watch", watch.watch.actions, told), Span(watch.watch.window_ms, watch.watch.doubt)
    )


def _of_limit(compiled: CompiledRule, program: Program) -> LimitSelector:
    rule, limit = compiled.rule, compiled.rule.limit
    assert limit is not None  # whoever asks has looked
    told = rule.to_json()
    counted = limit.to_json()
    del counted["ceiling"]
    roles = {name: sorted(above) for name, above in program.policy.roles.items()}
    value = {"role": rule.role, "actions": told["actions"], "when": told["when"], "limit": counted, "roles": roles}
    return LimitSelector(compiled, program, _digest("limit", rule.actions, value), Span(limit.window, against=True))
