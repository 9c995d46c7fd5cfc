"""Everything a decision may depend on beside policy and action. What was not given is `None`, and that is unknown, never "nothing"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from holdfast_verdict.engine.numbers import Number
from holdfast_verdict.engine.unknown import Unknown
from holdfast_verdict.provenance.origin import Origin, join

if TYPE_CHECKING:
    from holdfast_verdict.canonical import JsonValue
    from holdfast_verdict.engine.history import Event, History
    from holdfast_verdict.provenance.sources import Sources

ApproverKind = Literal["user", "agent", "signer"]
ApprovalState = Literal["pending", "approved", "denied", "expired", "consumed", "withdrawn"]


@dataclass(frozen=True, slots=True)
class LocalTime:
    """What the clocks of a zone say.

    Attributes:
        date: Such as `2026-03-02`.
        hour: 0 to 23.
        minute: 0 to 59.
        weekday: 1, Monday, to 7, Sunday.
    """

    date: str
    hour: int
    minute: int
    weekday: int

    @property
    def minute_of_day(self) -> int:
        """The minute since midnight, 0 to 1439."""
        return 60 * self.hour + self.minute


@dataclass(frozen=True, slots=True)
class Release:
    """A recorded release of a label: from then on the run may act as if it did not carry it.

    Attributes:
        label: Which.
        by: Who released it.
        roles: The roles that this person had then.
    """

    label: str
    by: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an action may cost at worst.

    Attributes:
        nano_usd: Money, in nano-dollars.
        tokens: Tokens.
    """

    nano_usd: int | None = None
    tokens: int | None = None

    def of(self, unit: str) -> int | None:
        """Returns the estimate in a unit."""
        return {"nano_usd": self.nano_usd, "tokens": self.tokens}.get(unit)


@dataclass(frozen=True, slots=True)
class Consent:
    """One approver's yes.

    Attributes:
        by: User, agent or signer, by name.
        kind: Which of these.
        roles: For a user, the roles held when consenting.
        at_ms: When.
    """

    by: str
    kind: ApproverKind
    roles: tuple[str, ...]
    at_ms: int


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval that was asked for this action.

    Attributes:
        approval_id: Its id.
        rule_id: The gate that asked.
        binding: What it was asked for, hex; see `gates.approval_binding`.
        state: Where it stands. `approved` alone opens nothing: the consents are counted.
        asked_at_ms: When it was asked for.
        expires_at_ms: From then on it opens nothing any more.
        consents: Who has consented so far.
    """

    approval_id: str
    rule_id: str
    binding: str
    state: ApprovalState
    asked_at_ms: int
    expires_at_ms: int
    consents: tuple[Consent, ...] = ()


@dataclass(frozen=True, slots=True)
class HistoryFacts:
    """What the watches of a policy say for one action at one time.

    Attributes:
        watches: By the watch's id: how often, or how much; whether it happened is 0 or more. UNKNOWN where the past cannot
            tell, and a text names the fact without which it could not be told.
    """

    watches: Mapping[str, Number | Unknown | str]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known when an action is decided.

    Attributes:
        principal: Who acts: tenant, project, user, agent, role, run; `roles` are those of the user.
        now_ms: The time, milliseconds of the epoch.
        zones: What the clocks say in the zones that the policy asks about.
        labels: Labels that the run carries; without, those of `sources`.
        released: Releases that were recorded; none here is none recorded.
        sources: What the run has read; tells where arguments are from.
        origins: Where arguments are from, by path, where that was found out before.
        history: What happened before: kept summaries, what was read from them, or a plain list of events.
        usage: What is used up of limits, by the leg's key. Without, legs are left to the ledger.
        approvals: Approvals asked for exactly this action.
        estimate: What the action may cost at worst.
    """

    principal: Mapping[str, object] = field(default_factory=dict)
    now_ms: int | None = None
    zones: Mapping[str, LocalTime] = field(default_factory=dict)
    labels: Iterable[str] | None = None
    released: tuple[Release, ...] = ()
    sources: Sources | None = None
    origins: Mapping[str, Origin] | None = None
    history: HistoryFacts | History | Sequence[Event | Mapping[str, object]] | None = None
    usage: Mapping[str, int] | None = None
    approvals: tuple[Approval, ...] = ()
    estimate: Estimate | None = None

    def run_labels(self) -> frozenset[str] | None:
        """Returns the run's labels, if they were given in one way or the other."""
        labels = self.labels
        if labels is None:
            return None if self.sources is None else self.sources.labels
        if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
            raise TypeError("labels are a set of texts")
        return frozenset(labels)

    def origin(self, path: str, leaves: Iterable[object]) -> Origin | None:
        """Returns where the leaves at a path of the arguments are from, if that can be told."""
        if self.origins is not None:
            return self.origins.get(path)
        return None if self.sources is None else join(self.sources.origin(leaf) for leaf in leaves)

    def to_json(self) -> dict[str, JsonValue]:
        """Returns the facts as they stand in a record.

        Of sources and kept history a record holds only what a decision has read of them: see `Verdict.facts_read`.
        """
        from holdfast_verdict.engine.recorded import facts_to_json

        return facts_to_json(self)

    @staticmethod
    def from_json(value: Mapping[str, JsonValue]) -> Facts:
        """Reads facts from their recorded form.

        Raises:
            FactsMalformed: A member is unknown or of another form.
        """
        from holdfast_verdict.engine.recorded import facts_from_json

        return facts_from_json(value)
