"""What a run has done and read, for rules that ask: history, labels, and where the values of arguments come from.

All of it is read from what the deciding and settling transactions write anyway, holds, outcomes and transcript, so nothing that was
allowed can be missing from it, whatever crashed in between. What nobody can tell is left out, and so is unknown to the engine (LAW 7).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast import transcript
from holdfast.actions.run_facts import RunFacts
from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.actions.kinds import KINDS
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.facts import Facts, HistoryFacts
from holdfast_verdict.engine.history import Event, EventKind, History
from holdfast_verdict.engine.labels import Yields, yields_of
from holdfast_verdict.engine.program import Program, program_of
from holdfast_verdict.provenance.sources import Sources

HOLDS_MAX: Final = 20_000
"""Actions of a run that are looked at; a longer past cannot be told, and is missing."""

_HISTORY: Final = frozenset({"happened", "count<=", "sum<="})
_LABELS: Final = frozenset({"run_has"})
_SOURCES: Final = frozenset({"from", "only_from"})
_OWN: Final = ("run", "sweeper")

# a child run has read what its parents had read: its task is their words
_LINE = """
    WITH RECURSIVE line AS (
        SELECT run_id, parent_run_id FROM runs WHERE tenant_id = :tenant_id AND run_id = :run_id
        UNION
        SELECT r.run_id, r.parent_run_id FROM line JOIN runs r ON r.tenant_id = :tenant_id AND r.run_id = line.parent_run_id
    )
"""
_READ = text(f"""
    {_LINE}
    SELECT h.hold_id, h.run_id, h.step, h.try AS try_, h.kind, h.tool, h.action, h.state, h.created_at, h.settled_at, h.settled_by,
           h.outward_at IS NOT NULL AS went_out, o.hold_id IS NOT NULL AS answered, o.ok
    FROM line JOIN holds h ON h.tenant_id = :tenant_id AND h.run_id = line.run_id
    LEFT JOIN outcomes o ON o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id
    WHERE h.superseded_at IS NULL ORDER BY h.created_at, h.run_id, h.step, h.try LIMIT :count
""")  # noqa: S608 (a constant of this module)
_IS_PART = text("SELECT parent_run_id IS NOT NULL FROM runs WHERE tenant_id = :tenant_id AND run_id = :run_id")

_Hold = Row[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Asks:
    """What the rules that speak of an action ask about the past."""

    history: bool
    labels: bool
    sources: bool


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a run's past; `None` is not known, or not asked for."""

    history: HistoryFacts | None = None
    labels: frozenset[str] | None = None
    sources: Sources | None = None


NOTHING_ASKED: Final = Past()


_KEPT_MAX: Final = 4_096
_asks: OrderedDict[tuple[bytes, str, str, bool], Asks] = OrderedDict()


def _operators(node: object) -> Iterable[str]:
    if isinstance(node, tuple):
        if node and isinstance(node[0], str):
            yield node[0]
        for part in node:
            yield from _operators(part)


def asks_of(run: RunFacts, asked: CanonicalAction) -> Asks:
    """Returns what has to be read for an action; most policies ask nothing, and then nothing is read."""
    program = program_of(run.policy.policy)
    if run.role not in run.policy.policy.roles:
        return Asks(history=False, labels=False, sources=False)
    external = program.is_external(asked.name, declared=asked.external)
    key = (run.policy.policy_hash, run.role, asked.name, external)
    asks = _asks.get(key)
    if asks is None:
        plan = program.plan(run.role, asked.name, external=external)
        rules = (*plan.forbids, *plan.permits, *plan.limits, *plan.gates)
        operators = {operator for rule in rules for operator in _operators(rule.rule.when)}
        asks = _asks[key] = Asks(*(not operators.isdisjoint(some) for some in (_HISTORY, _LABELS, _SOURCES)))
        if len(_asks) > _KEPT_MAX:
            _asks.popitem(last=False)
    return asks


async def read_past(
    connection: AsyncConnection, run: RunFacts, asked: CanonicalAction, *, step: int, head: bytes | None
) -> Past:
    """Reads of a run's past what the policy asks for this action, in the caller's transaction.

    Args:
        connection: The caller's transaction.
        run: The run, read in the same transaction.
        asked: The action.
        step: Its step.
        head: The transcript's entry that proposes it; without, nobody can tell where its values come from.
    """
    asks = asks_of(run, asked)
    if not (asks.history or asks.labels or asks.sources):
        return NOTHING_ASKED
    parameters = {"tenant_id": run.tenant_id, "run_id": run.run_id, "count": HOLDS_MAX + 1}
    holds: Sequence[_Hold] = (await connection.execute(_READ, parameters)).all()
    if len(holds) > HOLDS_MAX:
        return Past()
    yields = _yields(run, holds)
    history = _history(run, asked, holds, step) if asks.history else None
    labels = frozenset(label for each in yields.values() for _, names in each for label in names)
    sources = None
    if asks.sources and head is not None and not await connection.scalar(_IS_PART, parameters):
        sources = await _sources(connection, run, head, yields)
    return Past(history, labels if asks.labels else None, sources)


def _name(hold: _Hold) -> str:
    return str(hold.tool if hold.kind == "tool.call" else hold.kind)


# --- history


def _history(run: RunFacts, asked: CanonicalAction, holds: Iterable[_Hold], step: int) -> HistoryFacts | None:
    """Returns what the watches say that look at the run alone; of the others nobody here can tell."""
    told = History.of(run.policy.policy, _events(run, holds, step), run.principal)
    facts = told.facts(asked, run.principal, int(run.now.timestamp() * 1000))
    watches = {watch.id: watch for watch in run.policy.policy.watches}
    # what a past action's tool said of its boundary is not kept, so whether it was external cannot be told
    known = {
        name: value
        for name, value in facts.watches.items()
        if watches[name].scope == "run" and "external" not in watches[name].actions
    }
    return HistoryFacts(known)


def _events(run: RunFacts, holds: Iterable[_Hold], step: int) -> Iterable[Event]:
    mine = [hold for hold in holds if hold.run_id == run.run_id]
    newest: dict[int, int] = {}
    for hold in mine:
        newest[hold.step] = max(newest.get(hold.step, 0), hold.try_)
    outcomes: list[Event] = []
    for hold in mine:
        is_void = hold.state in ("voided", "expired")
        # a try that came to nothing and the next one of its step are one request
        if is_void and (hold.step == step or hold.try_ < newest[hold.step]):
            continue
        args = orjson.loads(hold.action)["args"]
        event = Event(_name(hold), args, "requested", _ms(hold.created_at), run.principal, str(hold.hold_id))
        yield event
        kind = _outcome(hold)
        if kind is not None:
            at_ms = _ms(hold.settled_at or hold.created_at)
            outcomes.append(Event(event.action, args, kind, at_ms, run.principal, event.action_id))
    yield from outcomes


def _outcome(hold: _Hold) -> EventKind | None:
    """Returns what became of an action; `None` while nobody knows, which stands against it as if it had succeeded."""
    if hold.state in ("voided", "expired"):
        return "failed"
    if hold.state != "committed":
        return "unknown" if hold.state == "unknown" else None
    if not hold.answered:
        return "succeeded" if hold.settled_by not in _OWN else "unknown"  # a person who knows, or the deadline
    if hold.ok:
        return "succeeded"
    return "unknown" if hold.went_out else "failed"


def _ms(at: object) -> int:
    return int(at.timestamp() * 1000)  # type: ignore[attr-defined]  # a column of time


# --- labels


def _yields(run: RunFacts, holds: Iterable[_Hold]) -> dict[str, Yields]:
    """Returns the labels of what was or may be read, by action; those of two calls of one tool are joined."""
    program = program_of(run.policy.policy)
    found: dict[str, dict[str, set[str]]] = {}
    for hold in holds:
        if hold.state in ("voided", "expired") and not hold.answered and not hold.went_out:
            continue
        name = _name(hold)
        fields = found.setdefault(name, {})
        for path, labels in _yields_of(run, program, hold, name):
            fields.setdefault(path, set()).update(labels)
    return {
        name: tuple((path, tuple(sorted(labels))) for path, labels in sorted(fields.items()))
        for name, fields in found.items()
    }


def _yields_of(run: RunFacts, program: Program, hold: _Hold, name: str) -> Yields:
    tool = run.tools.get(name) if hold.kind == "tool.call" else None
    declared: dict[str, tuple[str, ...]] = {} if tool is None else {"": tool.yields}
    if hold.kind == "llm.call":
        declared = {"": ()}  # what a model says carries what it has read, and nothing of its own
    external = bool(KINDS[name].get("external", True)) if name in KINDS else tool is None or tool.external
    external = program.is_external(name, declared=external)
    plan = program.plan(run.role, name, external=external)
    context = Context(name, external, orjson.loads(hold.action)["args"], Facts(principal=run.principal), program)
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
