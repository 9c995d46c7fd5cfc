"""What a run, and its tenant, have done and read, for rules that ask: history, use of limits, labels, and where values come from.

All of it is read from what the deciding and settling transactions write anyway, holds, outcomes and transcript, so nothing that was
allowed can be missing from it, whatever crashed in between. What nobody can tell is left out, and so is unknown to the engine (LAW 7).

Of a run, decisions see one another by the run's `history_version`. Of a tenant, by the version of its history: whoever counts what
other runs did, or is counted by them, compares and raises it in the deciding transaction.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast import transcript
from holdfast.actions.run_facts import RunFacts
from holdfast.policies.deeds import Deed, events_of, is_in, used_of
from holdfast.policies.releases import released
from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.actions.kinds import KINDS
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.facts import Facts, HistoryFacts, Release
from holdfast_verdict.engine.history import History
from holdfast_verdict.engine.labels import Yields, yields_of
from holdfast_verdict.engine.program import CompiledRule, Plan, Program, program_of, speaks_of
from holdfast_verdict.policy import Policy
from holdfast_verdict.provenance.sources import Sources

DEEDS_MAX: Final = 20_000
"""Actions that are looked at; a longer past cannot be told, and is missing."""
_KEPT_MAX: Final = 4_096
_CLOCKS_MS: Final = 600_000
"""How far the clock that made an id may be from PostgreSQL's."""
_SPANS_MS: Final = {"hour": 3_600_000, "day": 86_400_000, "month": 31 * 86_400_000}
_HISTORY: Final = frozenset({"happened", "count<=", "sum<="})
_SOURCES: Final = frozenset({"from", "only_from"})

_DEED: Final = """
    h.hold_id, h.run_id, h.step, h.try, h.kind, h.tool, h.action, h.state, h.created_at, h.settled_at, h.settled_by,
    h.outward_at IS NOT NULL, o.hold_id IS NOT NULL, coalesce(o.ok, false), coalesce(h.cost_nano_usd, h.max_cost_nano_usd),
    coalesce((h.estimate ->> 'input_tokens_bound')::bigint + (h.estimate ->> 'output_tokens_bound')::bigint, 0),
    p.slug, u.name, r.agent_name, r.role_name
"""
_JOINED: Final = """
    JOIN runs r ON r.tenant_id = h.tenant_id AND r.run_id = h.run_id
    JOIN projects p ON p.tenant_id = r.tenant_id AND p.project_id = r.project_id
    JOIN users u ON u.tenant_id = r.tenant_id AND u.user_id = r.user_id
    LEFT JOIN outcomes o ON o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id
"""
# a child run has read what its parents had read: its task is their words
_OF_RUN = text(f"""
    WITH RECURSIVE line AS (
        SELECT run_id, parent_run_id FROM runs WHERE tenant_id = :tenant_id AND run_id = :run_id
        UNION
        SELECT r.run_id, r.parent_run_id FROM line JOIN runs r ON r.tenant_id = :tenant_id AND r.run_id = line.parent_run_id
    )
    SELECT {_DEED} FROM line JOIN holds h ON h.tenant_id = :tenant_id AND h.run_id = line.run_id {_JOINED}
    WHERE h.superseded_at IS NULL ORDER BY h.created_at, h.hold_id LIMIT :count
""")  # noqa: S608 (constants of this module)
_OF_TENANT = text(f"""
    SELECT {_DEED} FROM holds h {_JOINED}
    WHERE h.tenant_id = :tenant_id AND h.hold_id >= CAST(:floor AS uuid) AND h.superseded_at IS NULL
      AND (CAST(:names AS text[]) IS NULL OR h.tool = ANY (CAST(:names AS text[])) OR h.kind = ANY (CAST(:names AS text[])))
    ORDER BY h.created_at, h.hold_id LIMIT :count
""")  # noqa: S608 (constants of this module)
_HEAD = text("SELECT version FROM history_heads WHERE tenant_id = :tenant_id")
_IS_PART = text("SELECT parent_run_id IS NOT NULL FROM runs WHERE tenant_id = :tenant_id AND run_id = :run_id")


@dataclass(frozen=True, slots=True)
class Asks:
    """What the rules that speak of an action ask about the past.

    Attributes:
        own: Whether a watch of the run's own history is asked.
        wide: Watches of the history of more than the run that are asked, by id.
        counted: Whether the action counts for decisions of other runs.
        labels: Whether the run's labels are asked.
        releases: Whether it is asked who has released a label.
        sources: Whether it is asked where values come from.
        limits: The limits that speak of it.
    """

    own: bool
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
        labels: The labels of what the run has read.
        releases: Releases of everything that it has read under their label.
        sources: What it was told and has read.
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
        return Asks(False, frozenset(), False, False, False, False, ())
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
        own=bool(watches - wide),
        wide=wide,
        counted=counted,
        labels="run_has" in operators,
        releases="released" in operators,
        sources=not operators.isdisjoint(_SOURCES),
        limits=plan.limits,
    )


async def read_past(
    connection: AsyncConnection, run: RunFacts, asked: CanonicalAction, *, step: int, head: bytes | None
) -> Past:
    """Reads of the past what the policy asks for this action, in the caller's transaction.

    Args:
        connection: The caller's transaction.
        run: The run, read in the same transaction.
        asked: The action.
        step: Its step.
        head: The transcript's entry that proposes it; without, nobody can tell where its values come from.
    """
    asks = asks_of(run, asked)
    if not asks.anything:
        return NOTHING_ASKED
    parameters = {"tenant_id": run.tenant_id, "run_id": run.run_id, "count": DEEDS_MAX + 1}
    version = None
    if asks.wide or asks.counted or asks.wide_limits:
        # before what it is the version of: what comes in between is seen twice rather than not at all
        version = await connection.scalar(_HEAD, parameters) or 0
    mine = [Deed(*row) for row in await connection.execute(_OF_RUN, parameters)]
    others = await _wide(connection, run, asks) if asks.wide or asks.wide_limits else []
    if len(mine) > DEEDS_MAX or len(others) > DEEDS_MAX:
        return Past(head=version)
    yields = _yields(run, mine) if asks.labels or asks.sources else {}
    labels = frozenset(label for each in yields.values() for _, names in each for label in names)
    sources = None
    if asks.sources and head is not None and not await connection.scalar(_IS_PART, parameters):
        sources = await _sources(connection, run, head, yields)
    own = [deed for deed in mine if deed.run_id == run.run_id]
    return Past(
        _history(run, asked, asks, own, others, step) if asks.own or asks.wide else None,
        labels if asks.labels else None,
        await released(connection, run.tenant_id, run.run_id, _readers(run, mine)) if asks.releases else (),
        sources,
        _usage(run, asks, own, others) if asks.limits else None,
        version,
    )


def _floor(since_ms: int | None) -> UUID:
    """Returns the smallest id that something made since a time may have."""
    return UUID(int=0 if since_ms is None else max(since_ms - _CLOCKS_MS, 0) << 80)


async def _wide(connection: AsyncConnection, run: RunFacts, asks: Asks) -> Sequence[Deed]:
    """Reads what the tenant did, as far back and of such actions as is asked."""
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
    rows = await connection.execute(
        _OF_TENANT,
        {
            "tenant_id": run.tenant_id,
            "floor": _floor(since_ms),
            "names": sorted(patterns) if are_names else None,
            "count": DEEDS_MAX + 1,
        },
    )
    return [Deed(*row) for row in rows]


def _history(
    run: RunFacts, asked: CanonicalAction, asks: Asks, own: Sequence[Deed], others: Sequence[Deed], step: int
) -> HistoryFacts:
    policy, now_ms = run.policy.policy, int(run.now.timestamp() * 1000)
    known = {}
    for deeds, is_wide in ((own, False), (others, True)):
        if not (asks.wide if is_wide else asks.own):
            continue
        told = History.of(policy, events_of(deeds, run, step), run.principal).facts(asked, run.principal, now_ms)
        for watch in policy.watches:
            # what a past action's tool said of its boundary is not kept, so whether it was external cannot be told
            if (watch.scope != "run") is is_wide and "external" not in watch.actions and watch.id in told.watches:
                known[watch.id] = told.watches[watch.id]
    # a watch that nothing asks of this action was perhaps not read far enough, so nothing is said of it
    return HistoryFacts({each: value for each, value in known.items() if each in asks.wide or _is_own(policy, each)})


def _is_own(policy: Policy, watch_id: str) -> bool:
    return any(watch.id == watch_id and watch.scope == "run" for watch in policy.watches)


def _usage(run: RunFacts, asks: Asks, own: Sequence[Deed], others: Sequence[Deed]) -> dict[str, int]:
    usage = {}
    program = program_of(run.policy.policy)
    for compiled in asks.limits:
        limit = compiled.rule.limit
        assert limit is not None  # it is one
        scope = run.principal.get(limit.per)
        if not isinstance(scope, str):
            continue
        deeds = own if limit.per == "run" else others
        counted = [deed for deed in deeds if is_in(deed, limit, run)]
        used = used_of(compiled, counted, program, run)
        if used is not None:
            usage[compiled.key + scope] = used
    return usage


# --- labels


def _yields(run: RunFacts, deeds: Iterable[Deed]) -> dict[str, Yields]:
    """Returns the labels of what was or may be read, by action; those of two calls of one tool are joined."""
    program = program_of(run.policy.policy)
    found: dict[str, dict[str, set[str]]] = {}
    for deed in deeds:
        if not _has_read(deed):
            continue
        fields = found.setdefault(deed.name, {})
        for path, labels in _yields_of(run, program, deed):
            fields.setdefault(path, set()).update(labels)
    return {
        name: tuple((path, tuple(sorted(labels))) for path, labels in sorted(fields.items()))
        for name, fields in found.items()
    }


def _readers(run: RunFacts, deeds: Iterable[Deed]) -> dict[str, list[Deed]]:
    """Returns, by label, the actions by which something was or may be read under it."""
    program = program_of(run.policy.policy)
    found: dict[str, list[Deed]] = {}
    for deed in deeds:
        if _has_read(deed):
            for label in {label for _, labels in _yields_of(run, program, deed) for label in labels}:
                found.setdefault(label, []).append(deed)
    return found


def _has_read(deed: Deed) -> bool:
    """Whether something was read, or may be."""
    return not deed.is_void or deed.answered or deed.went_out


def _yields_of(run: RunFacts, program: Program, deed: Deed) -> Yields:
    tool = run.tools.get(deed.name) if deed.kind == "tool.call" else None
    declared: dict[str, tuple[str, ...]] = {} if tool is None else {"": tool.yields}
    if deed.kind == "llm.call":
        declared = {"": ()}  # what a model says carries what it has read, and nothing of its own
    external = tool is None or tool.external
    if deed.name in KINDS:
        external = bool(KINDS[deed.name].get("external", True))
    external = program.is_external(deed.name, declared=external)
    plan = program.plan(run.role, deed.name, external=external)
    context = Context(deed.name, external, deed.args, Facts(principal=run.principal), program)
    return yields_of(plan, declared, context)


# --- sources


async def _sources(
    connection: AsyncConnection, run: RunFacts, head: bytes, yields: dict[str, Yields]
) -> Sources | None:
    """Returns everything that was said before the action was proposed."""
    try:
        contents = await transcript.read(connection, run.tenant_id, run.run_id, head)
    except transcript.TranscriptBroken:
        return None
    sources = Sources()
    for content in contents[:-1]:
        entry = orjson.loads(content)
        match entry.get("kind"):
            case "user":
                sources.user(entry["text"])
            case "assistant":
                sources.model(entry["text"])
            case "tool_result":
                # the answer to a call that was denied is Holdfast's own sentence, and may quote anybody
                fields = dict(yields.get(entry["tool"], (("", ("untrusted",)),)))
                whole = fields.pop("", ())
                sources.tool(entry["tool"], entry["content"], whole, fields)
            case _:
                return None  # who speaks here, nobody knows
    return sources
