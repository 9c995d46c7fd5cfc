"""What a candidate asks, and what it would have to know that a record does not hold.

INVARIANT (LAW 7): a fact that nobody has recorded is never guessed. Where a verdict hangs on one, the answer is its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain, combinations
from typing import Final

from holdfast_verdict.engine.facts import Facts, Release
from holdfast_verdict.engine.verdict import Verdict
from holdfast_verdict.policy import Policy

_PLACES: Final = ("user", "model", "tool")
_RELEASES_MAX: Final = 4
_RELEASED: Final = ("released", "")


@dataclass(frozen=True, slots=True)
class Asks:
    """What a candidate asks at all.

    Attributes:
        labels: Whether it asks for a run's labels.
        labelled: Whether it asks for labels of values.
        releases: Which releases by whom it asks for.
        wide: Whether it asks for what more than one run did or used.
        watches: What the past actions of its watches are, in words.
        keeps: Whether a rehearsal has to keep the past for it.
    """

    labels: bool
    labelled: bool
    releases: tuple[tuple[str, str], ...]
    wide: bool
    watches: dict[str, str]
    keeps: bool


def asks_of(policy: Policy) -> Asks:
    """Returns what a candidate asks."""
    nodes: list[tuple[object, ...]] = []
    for rule in policy.rules:
        _gather(rule.when, nodes)
    limits = [rule.limit for rule in policy.rules if rule.limit is not None]
    labels = any(node[0] == "run_has" for node in nodes)
    return Asks(
        labels=labels,
        labelled=any(node[0] == "from" and isinstance(node[-1], str) and node[-1] not in _PLACES for node in nodes),
        releases=tuple(sorted({(str(node[1]), str(node[2])) for node in nodes if node[0] == "released"})),
        wide=any(watch.scope != "run" for watch in policy.watches) or any(limit.per != "run" for limit in limits),
        watches={watch.id: f"history of {', '.join(watch.actions)}" for watch in policy.watches},
        keeps=labels or bool(limits) or bool(policy.watches),
    )


def _gather(node: object, into: list[tuple[object, ...]]) -> None:
    if isinstance(node, tuple):
        if node and isinstance(node[0], str):
            into.append(node)
        for part in node:
            _gather(part, into)


def missing(verdict: Verdict, asks: Asks) -> tuple[str, ...]:
    """Returns the facts without which a verdict could not be told; none if it stands whatever they are."""
    looked = {(each.effect, each.rule_id): each for each in verdict.trace}
    if verdict.code == "facts.missing":
        names = verdict.message.rpartition("not given: ")[2].split(", ")
        return tuple(dict.fromkeys(_words(name, asks) for name in names))
    if verdict.verdict == "deny":
        unsure = [each for each in looked.values() if each.rule_id == verdict.rule_id and each.missing]
    else:
        # one gate that is shut for certain is enough
        gates = [looked["gate", ask.rule_id] for ask in verdict.gates]
        unsure = [] if any(not each.missing for each in gates) else gates
    return tuple(dict.fromkeys(_words(name, asks) for each in unsure for name in each.missing))


def _words(name: str, asks: Asks) -> str:
    if name.startswith("history."):
        return asks.watches.get(name.removeprefix("history."), name)
    if name.startswith("usage of "):
        return "use of limit " + name.removeprefix("usage of ").split(" ")[0]
    return name


def hangs_on_release(decide: Callable[[Facts], Verdict], facts: Facts, verdict: Verdict, asks: Asks) -> bool:
    """Says whether a verdict hangs on releases that the record does not hold: it is asked for each that there may have been."""
    if _RELEASED not in verdict.read:
        return False
    if len(asks.releases) > _RELEASES_MAX:
        return True
    every = [Release(label, "?", (role,)) for label, role in asks.releases]
    some = chain.from_iterable(combinations(every, count) for count in range(1, len(every) + 1))
    told = (decide(replace(facts, released=released)) for released in some)
    return any(other.verdict != verdict.verdict for other in told)
