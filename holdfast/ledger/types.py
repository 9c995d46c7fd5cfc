"""What goes into the ledger and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.policy import Gate

HoldState = Literal["held", "executing", "executed", "committed", "voided", "expired", "unknown"]
SETTLED_STATES = frozenset({"committed", "voided", "expired"})

WindowKind = str
"""A name of a window: `total`, `hour`, `day`, `month`, or a rolling one, `24h`; see `holdfast.ledger.windows`."""

NANO_USD = "nano_usd"
CALLS = "calls"
TOKENS = "tokens"
SLOTS = "slots"
INPUT_TOKENS = "input_tokens"
"""Of the tokens that a settlement says: what went in. No cap counts it; the rollups do."""
CACHED_TOKENS = "cached_tokens"
"""Of what went in: what the provider read from its cache."""


@dataclass(frozen=True, slots=True)
class TryKey:
    """Names a try of a step of a run; the ledger answers the same key with the same answer (LAW 9)."""

    tenant_id: UUID
    run_id: UUID
    step: int
    try_number: int


@dataclass(frozen=True, slots=True)
class Scope:
    """What a cap limits: `("tenant", id)`, `("run", id)`, `("role", name)` and so on."""

    kind: str
    scope_id: str


@dataclass(frozen=True, slots=True)
class Event:
    """An event for the run's timeline, written in the transaction of what it tells."""

    channel: str
    type: str
    data: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class FactVersions:
    """Versions of what the evaluator read. If one has changed under lock, the ledger does not decide."""

    history: int
    role: int


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """The approval to be asked when the verdict is `needs_approval`.

    Attributes:
        binding: What the consents are for: policy, exact arguments, gate, expiry.
        rule_id: The gate's rule.
        gate: Whose consent is needed, and who is asked when nobody answers.
        requester_id: Who started the run.
        expires_at: From then on it opens nothing.
    """

    approval_id: UUID
    binding: bytes
    rule_id: str
    gate: Gate
    requester_id: UUID
    expires_at: datetime


class Evaluated(Protocol):
    """What the ledger takes of a verdict, whichever engine said it."""

    @property
    def verdict(self) -> Literal["allow", "deny", "needs_approval"]:
        """What was decided."""

    @property
    def code(self) -> str:
        """Why."""

    @property
    def message(self) -> str:
        """The same in a sentence."""

    @property
    def rule_id(self) -> str:
        """The rule that decided, or empty."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Asks for a decision and, if everything allows it, a hold.

    Attributes:
        key: The try.
        decision_id: Id of the decision, if this call makes one.
        hold_id: Id of the hold, if this call makes one.
        action: Canonical bytes of exactly what may execute.
        digest: SHA-256 of `action`.
        kind: Kind of action.
        tool: Tool, or empty.
        idempotent: Whether it may be tried again when its outcome is unknown.
        evaluated: What the evaluator said.
        part_a: Part A of the decision record.
        versions: Versions of the facts that were read.
        amounts: Worst case by unit; money under `nano_usd`.
        scopes: Scopes whose caps apply.
        estimate: Prices and bounds the cost is settled with.
        lease_ms: For how long the one who redeems may execute.
        hold_ms: Until when a hold that nobody redeemed is expired; outlasts the action's hard deadline.
        approval: For `needs_approval`: what to ask.
        consumes_approval_id: For an `allow` that an approval made possible: the approval, used up by it.
        funded: Whether the run's money was held at admission: then only the run's own money cap counts.
        history_head: Version of the tenant's history, where the verdict read what other runs did, or may be read by theirs.
    """

    key: TryKey
    decision_id: UUID
    hold_id: UUID
    action: bytes
    digest: bytes
    kind: str
    tool: str
    idempotent: bool
    evaluated: Evaluated
    part_a: bytes
    versions: FactVersions
    amounts: Mapping[str, int]
    scopes: tuple[Scope, ...]
    estimate: Mapping[str, JsonValue]
    lease_ms: int
    hold_ms: int
    approval: ApprovalRequest | None = None
    consumes_approval_id: UUID | None = None
    funded: bool = False
    history_head: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about a try.

    Attributes:
        verdict: `replayed` = this key was decided and executed before; settle works from what is recorded.
        superseded: The hold that this decision took the place of.
        record_hash: Hash of the decision record, the permit's inclusion promise.
        retryable: Outstanding holds alone stood in the way.
        timeline_seq: Number of the run's newest event.
    """

    verdict: Literal["allow", "deny", "needs_approval", "replayed"]
    decision_id: UUID
    record_hash: bytes
    code: str
    message: str
    rule_id: str = ""
    hold_id: UUID | None = None
    hold_expires_at: datetime | None = None
    max_cost_nano_usd: int = 0
    lease_ms: int = 0
    approval_id: UUID | None = None
    approval_expires_at: datetime | None = None
    retryable: bool = False
    superseded: UUID | None = None
    timeline_seq: int = 0


@dataclass(frozen=True, slots=True)
class Redemption:
    """What the one who redeems a permit gets.

    Attributes:
        lease_token: Fencing token: whoever holds it, and nobody else, may go outside and store the outcome.
        lease_ms: For how long.
        action: Canonical bytes of what to execute.
    """

    lease_token: bytes
    lease_ms: int
    action: bytes


@dataclass(frozen=True, slots=True)
class HoldView:
    """A hold as it stands, with its outcome if there is one."""

    key: TryKey
    hold_id: UUID
    decision_id: UUID
    kind: str
    tool: str
    idempotent: bool
    state: HoldState
    digest: bytes
    action: bytes
    max_cost_nano_usd: int
    cost_nano_usd: int | None
    estimate: Mapping[str, JsonValue]
    went_outward: bool
    settled_by: str
    outcome: OutcomeView | None


@dataclass(frozen=True, slots=True)
class OutcomeView:
    """What an executor stored about an execution."""

    ok: bool
    error_code: str
    retryable: bool
    retry_after_ms: int | None
    cost_class: Literal["known", "nothing", "partial", "unknown"]
    provider_request_id: str
    simulated: bool
    result: bytes


@dataclass(frozen=True, slots=True)
class TranscriptEntry:
    """A transcript entry to be written in the settling transaction."""

    parent_id: bytes | None
    content: bytes


@dataclass(frozen=True, slots=True)
class Settlement:
    """Asks to move a hold to its next state.

    Attributes:
        tenant_id: The tenant.
        hold_id: The hold.
        seen_state: State that the caller based its judgement on; another one under lock means judge again.
        seen_outcome: Whether the caller saw an outcome.
        seen_outward: Whether the caller saw that the outward request had begun.
        to: The next state.
        actual: What it really cost by unit, tokens with their parts; empty for `voided`, `expired` and `unknown`.
        actor: Who settles: `run`, `sweeper`, or a user.
        reason: Why, for the journal.
        events: For the timeline.
        entries: For the transcript.
        returns_budget: Whether this may be the last open hold of a run that has ended, whose budget returns then.
    """

    tenant_id: UUID
    hold_id: UUID
    seen_state: HoldState
    seen_outcome: bool
    seen_outward: bool
    to: Literal["committed", "voided", "expired", "unknown"]
    actual: Mapping[str, int]
    actor: str
    reason: str
    events: tuple[Event, ...] = ()
    entries: tuple[TranscriptEntry, ...] = field(default=())
    returns_budget: bool = False


@dataclass(frozen=True, slots=True)
class CapView:
    """A cap with its balances in one window."""

    cap_id: UUID
    scope: Scope
    unit: str
    window_kind: WindowKind
    unlimited: bool
    limit_amount: int
    ceiling: int
    reserved: int
    committed: int
    debt: int


class FactsChanged(Exception):
    """What the caller had read is no longer so: read again, judge again. Not an error that a user sees."""
