"""What a run, and its tenant, have done and read, for rules that ask: history, use of limits, labels, and where values come from.

All of it comes from what the deciding and settling transactions write anyway, holds, outcomes and transcript, so nothing that was
allowed can be missing from it, whatever crashed in between. What is settled for good is read as sums (`sums`), the rest one by one
(`unfolded`). What nobody can tell is left out, and so is unknown to the engine (LAW 7).

What a decision takes the place of, because it was allowed for the same try and nobody has begun it, is no part of its past: the ledger
frees it in the transaction that decides. Should it be executed before that, the ledger refuses (`hold.key_conflict`).

Of a run, decisions see one another by the run's `history_version`. Of a tenant, by the version of its history: whoever counts what
other runs did, or is counted by them, compares and raises it in the deciding transaction.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.actions.run_facts import RunFacts
from holdfast.ledger.types import TryKey
from holdfast.policies import readings, sums, unfolded
from holdfast.policies.deeds import Deed, events_of
from holdfast.policies.family import read_family
from holdfast.policies.heard import Heard, read_sources
from holdfast.policies.releases import released
from holdfast.policies.selectors import ANY_KEY, Selector, WatchSelector, selectors_of
from holdfast.policies.sums import EVERYBODYS, FOLD_AT, Place, Sum
from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.facts import Facts, HistoryFacts, Release
from holdfast_verdict.engine.history import History
from holdfast_verdict.engine.numbers import Number, whole
from holdfast_verdict.engine.program import CompiledRule, Plan, program_of, speaks_of
from holdfast_verdict.engine.unknown import UNKNOWN, Unknown
from holdfast_verdict.engine.usage import in_window
from holdfast_verdict.engine.watches import CompiledWatch
from holdfast_verdict.policy import Policy
from holdfast_verdict.provenance.sources import Sources

_KEPT_MAX: Final = 4_096
_LOOKS_MAX: Final = 4
"""How often sums are read anew that others have moved meanwhile, before they are locked."""
_BUILD_MAX: Final = 20
"""Steps at most of building sums in one decision, where too much was never folded in."""
_CLOCKS_MS: Final = 600_000
"""How far the clock that made an id may be from PostgreSQL's."""
_SPANS_MS: Final = {"hour": 3_600_000, "day": 86_400_000, "month": 31 * 86_400_000}
_HISTORY: Final = frozenset({"happened", "count<=", "sum<="})
_SOURCES: Final = frozenset({"from", "only_from"})

_HEAD = text("SELECT version FROM history_heads WHERE tenant_id = :tenant_id")


@dataclass(frozen=True, slots=True)
class Asks:
    """What the rules that speak of an action ask about the past.

    Attributes:
        own: Watches of the run's own history that are asked, by id.
        wide: Watches of the history of more than the run that are asked, by id.
        counted: Whether the action counts for decisions of other runs.
        labels: Whether the run's labels are asked.
        releases: Whether it is asked who has released a label.
        sources: Whether it is asked where values come from.
        limits: The limits that speak of it.
    """

    own: frozenset[str]
    wide: frozenset[str]
    counted: bool
    labels: bool
    releases: bool
    sources: bool
    limits: tuple[CompiledRule, ...]

    @property
    def wide_limits(self) -> tuple[CompiledRule, ...]:
        """The limits on more than the run."""
        return tuple(rule for rule in self.limits if rule.rule.limit is not None and rule.rule.limit.per != "run")

    @property
    def own_limits(self) -> tuple[CompiledRule, ...]:
        """The limits on the run."""
        return tuple(rule for rule in self.limits if rule.rule.limit is not None and rule.rule.limit.per == "run")

    @property
    def anything(self) -> bool:
        """Whether anything is asked."""
        return bool(
            self.own or self.wide or self.counted or self.labels or self.releases or self.sources or self.limits
        )


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a run's past; `None` is not known, or not asked for.

    Attributes:
        history: What the watches say.
        labels: The labels of what the run and the others of its family have read.
        releases: Releases of everything that they have read under their label.
        sources: What they were told and have read.
        usage: What is used of limits, by the leg's key.
        head: Version of the tenant's history, if it has a part in the decision.
    """

    history: HistoryFacts | None = None
    labels: frozenset[str] | None = None
    releases: tuple[Release, ...] = ()
    sources: Sources | None = None
    usage: dict[str, int] | None = None
    head: int | None = None


NOTHING_ASKED: Final = Past()

_asks: OrderedDict[tuple[bytes, str, str, bool], Asks] = OrderedDict()


def _nodes(node: object) -> Iterable[tuple[object, ...]]:
    if isinstance(node, tuple):
        if node and isinstance(node[0], str):
            yield node
        for part in node:
            yield from _nodes(part)


def asks_of(run: RunFacts, asked: CanonicalAction) -> Asks:
    """Returns what has to be read for an action; most policies ask nothing, and then nothing is read."""
    policy = run.policy.policy
    program = program_of(policy)
    external = program.is_external(asked.name, declared=asked.external)
    key = (run.policy.policy_hash, run.role, asked.name, external)
    asks = _asks.get(key)
    if asks is None:
        plan = program.plan(run.role, asked.name, external=external) if run.role in policy.roles else None
        asks = _asks[key] = _asks_of(policy, plan, asked.name, external=external)
        if len(_asks) > _KEPT_MAX:
            _asks.popitem(last=False)
    return asks


def _asks_of(policy: Policy, plan: Plan | None, name: str, *, external: bool) -> Asks:
    if plan is None:
        return Asks(frozenset(), frozenset(), False, False, False, False, ())
    rules = (*plan.forbids, *plan.permits, *plan.limits, *plan.gates)
    nodes = [node for rule in rules for node in _nodes(rule.rule.when)]
    operators = {node[0] for node in nodes}
    scopes = {watch.id: watch.scope for watch in policy.watches}
    watches = {str(node[1]) for node in nodes if node[0] in _HISTORY}
    wide = frozenset(each for each in watches if scopes[each] != "run")
    counted = any(
        watch.scope != "run" and speaks_of(watch.actions, name, external=external) for watch in policy.watches
    )
    return Asks(
        own=frozenset(watches - wide),
        wide=wide,
        counted=counted,
        labels="run_has" in operators,
        releases="released" in operators,
        sources=not operators.isdisjoint(_SOURCES),
        limits=plan.limits,
    )


async def read_past(
    connection: AsyncConnection,
    run: RunFacts,
    asked: CanonicalAction,
    *,
    step: int,
    try_number: int,
    head: bytes | None,
) -> Past:
    """Reads of the past what the policy asks for this action, in the caller's transaction.

    Args:
        connection: The caller's transaction.
        run: The run, read in the same transaction.
        asked: The action.
        step: Its step.
        try_number: The try of that step.
        head: The transcript's entry that proposes it; without, nobody can tell where its values come from.
    """
    asks = asks_of(run, asked)
    if not asks.anything:
        await _keep_up(connection, run, step)
        return NOTHING_ASKED
    parameters = {"tenant_id": run.tenant_id, "run_id": run.run_id}
    version = None
    if asks.wide or asks.counted or asks.wide_limits:
        # before what it is the version of: what comes in between is seen twice rather than not at all
        version = await connection.scalar(_HEAD, parameters) or 0
    key = TryKey(run.tenant_id, run.run_id, step, try_number)
    own = await _own(connection, run, asked, asks, key) if asks.own or asks.own_limits else _Known()
    wide = await _wide(connection, run, asked, asks, key) if asks.wide or asks.wide_limits else _Known()
    if asks.counted and not (asks.wide or asks.wide_limits):
        await _keep_up(connection, run, step)
    asks_read = asks.labels or asks.sources or asks.releases
    read = await _read(connection, run, asks, key, head) if asks_read else NOTHING_ASKED
    return Past(
        HistoryFacts({**own.watches, **wide.watches}) if asks.own or asks.wide else None,
        read.labels,
        read.releases,
        read.sources,
        {**own.usage, **wide.usage} if asks.limits else None,
        version,
    )


async def _read(connection: AsyncConnection, run: RunFacts, asks: Asks, key: TryKey, head: bytes | None) -> Past:
    """Reads what the run and the others of its family have read; of what is too much nothing is known (LAW 7)."""
    family = await read_family(connection, run)
    found = None if family is None else await readings.read_family_readings(connection, run, family, key)
    if family is None or found is None:
        return NOTHING_ASKED
    yields = readings.yields_by_name(run, found.all)
    labels = frozenset(label for each in yields.values() for _, names in each for label in names)
    return Past(
        labels=labels if asks.labels else None,
        releases=await released(connection, run, found, key) if asks.releases else (),
        sources=await read_sources(connection, run, family, head, Heard(yields, labels))
        if asks.sources and head
        else None,
    )


# --- history and limits


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of one history, the run's or the tenant's; what cannot be told is not in it.

    Attributes:
        watches: What watches say, by id.
        usage: What is used of limits, by the leg's key.
    """

    watches: dict[str, Number | Unknown | str] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)


async def _keep_up(connection: AsyncConnection, run: RunFacts, step: int) -> None:
    """Folds in now and then what was settled, also where nothing is asked, so that nobody finds much who asks."""
    if (step + run.run_id.int) % FOLD_AT:
        return
    selectors = selectors_of(run.policy.policy)
    for owner, wanted in ((run.run_id, selectors.of(is_wide=False)), (EVERYBODYS, selectors.of(is_wide=True))):
        if wanted:
            await unfolded.read_tail(connection, run, owner, wanted)


async def _own(connection: AsyncConnection, run: RunFacts, asked: CanonicalAction, asks: Asks, key: TryKey) -> _Known:
    """Reads what the run itself did."""

    async def everything() -> list[Deed] | None:
        return await unfolded.read_run(connection, run)

    return await _known(connection, run, asked, _Question(run.run_id, asks.own, asks.own_limits, key), everything)


async def _wide(connection: AsyncConnection, run: RunFacts, asked: CanonicalAction, asks: Asks, key: TryKey) -> _Known:
    """Reads what the tenant did."""

    async def everything() -> list[Deed] | None:
        return await _of_tenant(connection, run, asks)

    return await _known(connection, run, asked, _Question(EVERYBODYS, asks.wide, asks.wide_limits, key), everything)


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of one history: whose it is, which watches and limits, at which step and try."""

    owner: UUID
    watches: frozenset[str]
    limits: tuple[CompiledRule, ...]
    key: TryKey


async def _known(
    connection: AsyncConnection,
    run: RunFacts,
    asked: CanonicalAction,
    question: _Question,
    everything: Callable[[], Awaitable[list[Deed] | None]],
) -> _Known:
    policy, now_ms = run.policy.policy, int(run.now.timestamp() * 1000)
    selectors = selectors_of(policy).of(is_wide=question.owner == EVERYBODYS)
    if not selectors:
        return _Known()  # only watches that nobody can answer
    places = _places(run, asked, question)
    for look in range(_LOOKS_MAX + 1):
        tail = await unfolded.read_tail(connection, run, question.owner, selectors)
        if not tail.whole:
            deeds = await everything()
            if deeds is not None:
                none = dict.fromkeys(tail.marks, -1)
                tail = unfolded.Tail(none, tuple(deeds), whole=True, locked=True)
                return _answer(run, asked, question, tail, {})
        if not tail.whole or look == _LOOKS_MAX:
            # bounded, and kept: whoever asks next goes on from there
            tail = await unfolded.read_tail(connection, run, question.owner, selectors, steps=_BUILD_MAX, wait=True)
        if not tail.whole:
            break
        found = await sums.read(connection, run.tenant_id, places, now_ms)
        if not await unfolded.have_moved(connection, run, question.owner, selectors, tail):
            return _answer(run, asked, question, tail, found)
    return _Known()  # nothing can be told, so nothing is: LAW 7


def _present_key(run: RunFacts, asked: CanonicalAction, watch: CompiledWatch) -> bytes | Unknown:
    return watch.present_key(Context(asked.name, asked.external, asked.value["args"], Facts(principal=run.principal)))  # type: ignore[arg-type]  # args are an object


def _places(run: RunFacts, asked: CanonicalAction, question: _Question) -> list[Place]:
    selectors, found = selectors_of(run.policy.policy), []
    for watch_id in sorted(question.watches & selectors.watches.keys()):
        selector = selectors.watches[watch_id]
        watch = selector.watch.watch
        key, scope = _present_key(run, asked, selector.watch), run.principal.get(watch.scope)
        if not isinstance(key, Unknown) and isinstance(scope, str):
            keys = (key, ANY_KEY) if watch.doubt else (key,)
            found += [Place(selector, scope, each) for each in keys]
    for compiled in question.limits:
        limit = compiled.rule.limit
        assert limit is not None  # it is one
        scope = run.principal.get(limit.per)
        if isinstance(scope, str):
            found.append(Place(selectors.limits[compiled.key], scope, b""))
    return list({(each.selector.digest, each.key): each for each in found}.values())


_Sums = Mapping[tuple[bytes, bytes], Sum]


def _answer(run: RunFacts, asked: CanonicalAction, question: _Question, tail: unfolded.Tail, found: _Sums) -> _Known:
    policy, known = run.policy.policy, _Known()
    selectors = selectors_of(policy)
    deeds = tuple(deed for deed in tail.deeds if not deed.gives_way_to(question.key))
    tail = replace(tail, deeds=deeds)
    histories: dict[int, History] = {}
    for watch_id in question.watches & selectors.watches.keys():
        selector = selectors.watches[watch_id]
        key = _present_key(run, asked, selector.watch)
        if isinstance(key, Unknown):
            continue
        mark = tail.marks[selector.digest]
        if mark not in histories:
            events = events_of(tail.behind(selector), run, question.key.step)
            histories[mark] = History.of(policy, events, run.principal)
        known.watches[watch_id] = _value(run, selector, key, histories[mark], found)
    for compiled in question.limits:
        scope, used = _used(run, compiled, tail, found)
        if scope is not None and used is not None:
            known.usage[compiled.key + scope] = used
    return known


def _value(
    run: RunFacts, selector: WatchSelector, key: bytes, history: History, found: _Sums
) -> Number | Unknown | str:
    """Returns what a watch says: of what is not folded in, and of the sums."""
    now_ms = int(run.now.timestamp() * 1000)
    value = history.value(selector.watch, key, Facts(principal=run.principal, now_ms=now_ms))
    if isinstance(value, str | Unknown):
        return value
    for each in (key, ANY_KEY):
        kept = found.get((selector.digest, each))
        if kept is None:
            continue
        if selector.watch.watch.keep == "last":
            window_ms = selector.watch.watch.window_ms
            is_in = kept.until_ms is not None and (window_ms is None or now_ms - kept.until_ms <= window_ms)
            value = max(value, int(is_in))
        elif kept.untold:
            return UNKNOWN
        else:
            value = whole(value + kept.total)
    return value


def _used(run: RunFacts, compiled: CompiledRule, tail: unfolded.Tail, found: _Sums) -> tuple[str | None, int | None]:
    """Returns whose limit it is, and what is used of it; `None` if that cannot be told."""
    limit, now_ms = compiled.rule.limit, int(run.now.timestamp() * 1000)
    assert limit is not None  # it is one
    scope = run.principal.get(limit.per)
    if not isinstance(scope, str):
        return None, None
    selector: Selector = selectors_of(run.policy.policy).limits[compiled.key]
    kept = found.get((selector.digest, b""), Sum())
    if kept.untold:
        return scope, None
    used = math.ceil(kept.total)
    for deed in tail.behind(selector):
        touch = selector.touch(deed, run.tenant)
        if touch is None or touch.scope != scope or not in_window(touch.at_ms, now_ms, limit.window):
            continue
        if touch.amount is None:
            return scope, None
        used += math.ceil(touch.amount)
    return scope, used


def _floor(since_ms: int | None) -> UUID:
    """Returns the smallest id that something made since a time may have."""
    return UUID(int=0 if since_ms is None else max(since_ms - _CLOCKS_MS, 0) << 80)


async def _of_tenant(connection: AsyncConnection, run: RunFacts, asks: Asks) -> list[Deed] | None:
    """Reads what the tenant did, as far back and of such actions as is asked; `None` if it is too much."""
    spans: list[int | None] = []
    patterns: set[str] = set()
    for watch in run.policy.policy.watches:
        if watch.id in asks.wide:
            spans.append(watch.window_ms)
            patterns.update(watch.actions)
    for compiled in asks.wide_limits:
        limit = compiled.rule.limit
        assert limit is not None  # it is one
        spans.append(limit.window if isinstance(limit.window, int) else _SPANS_MS.get(limit.window))
        patterns.update(compiled.rule.actions)
    known = [span for span in spans if span is not None]
    since_ms = int(run.now.timestamp() * 1000) - max(known) if len(known) == len(spans) else None
    are_names = all("*" not in each and each not in ("external", "tools") for each in patterns)
    names = sorted(patterns) if are_names else None
    return await unfolded.read_tenant(connection, run, _floor(since_ms), names)
