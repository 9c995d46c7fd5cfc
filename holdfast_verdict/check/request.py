"""Requests: an action with all facts that a decision about it may ask for, as plain things that the engine decides and people read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Protocol

from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.check.encode import watch_key
from holdfast_verdict.check.world import PRINCIPAL
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.deciding import decide
from holdfast_verdict.engine.facts import Estimate, Facts, HistoryFacts, LocalTime, Release
from holdfast_verdict.engine.program import program_of
from holdfast_verdict.engine.unknown import Truth
from holdfast_verdict.engine.verdict import Verdict
from holdfast_verdict.engine.words import in_words
from holdfast_verdict.policy import Policy, Watch
from holdfast_verdict.provenance.origin import Origin

NOW_MS: Final = 1_767_614_400_000
"""The time of examples: noon of a Monday, 2026-01-05, UTC."""
WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_USER: Final = Origin(frozenset({"user"}))


class Canonicaliser(Protocol):
    """What brings a call to its canonical form."""

    def action(self, name: str, arguments: Mapping[str, object], /) -> CanonicalAction:
        """Returns the canonical action."""


@dataclass(frozen=True, slots=True)
class Request:
    """An action and what is known when it is decided.

    Attributes:
        action: Its name.
        args: Its arguments.
        principal: Who acts.
        labels: Labels that the run carries.
        released: Labels that were released, with the role of who did.
        origins: Where arguments are from, by path, where that is not the user.
        watches: What history says, by what a watch keeps; what is not listed is 0.
        zones: What clocks say.
        estimate: What it may cost at worst, by unit.
    """

    action: str
    args: Mapping[str, object]
    principal: Mapping[str, object]
    labels: frozenset[str] = frozenset()
    released: tuple[tuple[str, str], ...] = ()
    origins: Mapping[str, Origin] = field(default_factory=dict)
    watches: Mapping[object, int] = field(default_factory=dict)
    zones: Mapping[str, LocalTime] = field(default_factory=dict)
    estimate: Mapping[str, int] = field(default_factory=dict)

    @property
    def role(self) -> str:
        """The role it is decided for."""
        return str(self.principal.get("role", ""))

    def facts(self, policy: Policy) -> Facts:
        """Returns all facts that the policy may ask for."""
        return Facts(
            principal=self.principal,
            now_ms=NOW_MS,
            zones={zone: self.zones.get(zone, _NOON) for zone in policy.zones},
            labels=self.labels,
            released=tuple(Release(label, "releaser", (role,)) for label, role in self.released),
            origins=_Origins(self.origins),
            history=HistoryFacts({watch.id: self.watches.get(watch_key(watch), 0) for watch in policy.watches}),
            estimate=Estimate(self.estimate.get("nano_usd", 0), self.estimate.get("tokens", 0)),
        )

    def verdict(self, policy: Policy, catalogue: Canonicaliser) -> Verdict:
        """Returns what the engine decides.

        Raises:
            ActionRefused: The call has no canonical form.
        """
        return decide(policy, catalogue.action(self.action, self.args), self.facts(policy))

    def answer(self, policy: Policy, catalogue: Canonicaliser, rule_id: str) -> Truth:
        """Returns what the engine says of one rule's condition.

        Raises:
            ActionRefused: The call has no canonical form.
        """
        action = catalogue.action(self.action, self.args)
        program = program_of(policy)
        rule = next(each for each in program.rules if each.rule.id == rule_id)
        context = Context(self.action, external=True, args=action.args, facts=self.facts(policy), program=program)
        return rule.ask(context)[0]

    def to_json(self) -> dict[str, object]:
        """Returns what a reader needs to make the request again; what is as usual is left out."""
        about: dict[str, object] = {
            "action": self.action,
            "args": readable(self.args),
            "role": self.role,
            "principal": {name: self.principal[name] for name in PRINCIPAL if name in self.principal},
        }
        if self.labels:
            about["labels"] = sorted(self.labels)
        if self.released:
            about["released"] = [{"label": label, "role": role} for label, role in self.released]
        if self.origins:
            about["origins"] = {path: origin_words(origin) for path, origin in sorted(self.origins.items())}
        if self.zones:
            about["clocks"] = {
                zone: f"{WEEKDAYS[local.weekday - 1]} {local.date} {local.hour:02d}:{local.minute:02d}"
                for zone, local in sorted(self.zones.items())
            }
        if any(self.estimate.values()):
            about["estimate"] = dict(self.estimate)
        return about

    def history(self, policy: Policy) -> dict[str, int]:
        """Returns what has happened before, in words; what never happened is left out."""
        counted = {watch_words(watch): self.watches.get(watch_key(watch), 0) for watch in policy.watches}
        return {words: count for words, count in counted.items() if count}


_NOON: Final = LocalTime("2026-01-05", 12, 0, 1)


class _Origins(dict[str, Origin]):
    """Origins of arguments; what is not listed is the user's own."""

    def __init__(self, listed: Mapping[str, Origin]) -> None:
        super().__init__(listed)

    def get(self, path: str, default: object = None) -> Origin:
        return super().get(path, _USER)


_SPANS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms"))


def watch_words(watch: Watch) -> str:
    """Writes what a watch looks back at: `notify.customer succeeded within 1h with same args.invoice`."""
    words = f"{' or '.join(watch.actions)} {watch.event}"
    if watch.keep == "sum":
        words = f"sum of {in_words(watch.of)} of {words}"
    if watch.window_ms is not None:
        unit, name = next((unit, name) for unit, name in _SPANS if watch.window_ms % unit == 0)
        words += f" within {watch.window_ms // unit}{name}"
    if watch.same:
        words += f" with same {', '.join(in_words(present) for _, present in watch.same)}"
    return words if watch.scope == "run" else f"{words} per {watch.scope}"


def origin_words(origin: Origin) -> str:
    """Writes where a value is from."""
    sources = [source.rpartition("#")[0] for source in origin.sources]
    words = " and ".join(sorted(origin.kinds)) + (f" {', '.join(sources)}" if sources else "")
    return f"{words} ({', '.join(sorted(origin.labels))})" if origin.labels else words


def readable(value: object) -> object:
    """Returns arguments as JSON that people write: a fraction is a number there, kept as text so that no digit changes."""
    if isinstance(value, Decimal):
        return float(value) if Decimal(repr(float(value))) == value else str(value)
    if isinstance(value, Mapping):
        return {name: readable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [readable(each) for each in value]
    return value
