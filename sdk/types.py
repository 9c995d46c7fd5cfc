"""What Holdfast answers with. Members that a newer server adds are left out; money is integer nano-dollars."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from sdk.errors import AnswerUnreadable

AnswerT = TypeVar("AnswerT")

RunStatus = Literal[
    "pending", "running", "waiting", "paused", "succeeded", "failed", "cancelled", "timed_out", "terminated"
]
Verdict = Literal["approved", "denied"]
ScopeKind = Literal["tenant", "project", "user", "run", "role", "user_project", "user_role", "project_role"]
Window = str
"""For how long what was used counts: `total`, `hour`, `day`, `month`, or so many hours back from any moment, `1h` to `744h`."""
StopKind = Literal["tenant", "agent", "role", "tool"]
Unit = Literal["nano_usd", "tokens", "calls", "slots"]
Json = dict[str, Any]
"""A JSON object. Any: what stands in it is its reader's to check."""


def read_answer(kind: type[AnswerT], value: object) -> AnswerT:
    """Builds one of this module's dataclasses from a JSON object.

    Raises:
        AnswerUnreadable: A member is missing, or it is no object.
    """
    assert dataclasses.is_dataclass(kind)
    if not isinstance(value, Mapping):
        raise AnswerUnreadable(f"a {kind.__name__} was expected, and {type(value).__name__} came")
    names = [field.name for field in dataclasses.fields(kind)]
    if missing := [name for name in names if name not in value]:
        raise AnswerUnreadable(f"the answer is no {kind.__name__}: it has no {', '.join(missing)}")
    return kind(**{name: _member(name, value[name]) for name in names})


def _member(name: str, value: object) -> object:
    if isinstance(value, str) and (name.endswith("_at") or name == "time"):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            raise AnswerUnreadable(f"`{name}` is no time: {value[:40]!r}") from None
    return value


def to_json(answer: object) -> Json:
    """Returns an answer as JSON, times in RFC 3339."""
    assert dataclasses.is_dataclass(answer)
    assert not isinstance(answer, type)
    return {name: _plain(value) for name, value in dataclasses.asdict(answer).items()}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_plain(member) for member in value]
    return value


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a key stands for."""

    tenant: str
    project: str
    user: str
    roles: list[str]
    key_id: str


@dataclass(frozen=True, slots=True)
class CreatedRun:
    """A run that was admitted."""

    run_id: str
    agent: str
    agent_version: int
    role: str
    role_version: int
    project: str
    user: str
    cap_nano_usd: int
    guaranteed: bool
    parent_run_id: str | None
    decision_id: str
    created_at: datetime
    deadline_at: datetime


@dataclass(frozen=True, slots=True)
class Artefact:
    """A file of a run.

    Attributes:
        step: The step whose code made it; 0: the run was given it.
        try_number: The try of that step.
        name: Its name within the run.
        sha256: Its digest.
    """

    step: int
    try_number: int
    name: str
    size_bytes: int
    sha256: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Difference:
    """Something in which a run's history and the log do not agree; what it is about no id of is empty."""

    code: str
    sentence: str
    activity_id: str
    hold_id: str
    decision_id: str


@dataclass(frozen=True, slots=True)
class CrossCheck:
    """What came of holding a run's history against the log.

    Attributes:
        agrees: Whether both say the same.
        status: Where the run stands.
        source: Whose history was read.
        is_open: Whether the run goes on.
        activities: Activities that the history has.
        allowed: Actions that the log allowed.
        digest: SHA-256 over the history, as the log has it; empty if it has none yet.
        recorded_in: The decision record that has the digest.
        children: Runs that this one started, each with a history of its own.
        differences: Where they do not agree.
        notes: What else is to be known.
    """

    run_id: str
    agrees: bool
    status: str
    source: Literal["temporal", "stored", "none"]
    is_open: bool
    executions: int
    events: int
    activities: int
    allowed: int
    digest: str
    recorded_in: str
    children: list[str]
    differences: list[Difference]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class RunInput:
    """Something a person said to a run."""

    seq: int
    mode: str
    content: str
    user: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SentInput:
    """An input that a run will get."""

    run_id: str
    seq: int
    mode: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it stands.

    Attributes:
        status_code: Why it ended as it did.
        simulated: Whether a simulated provider answered.
        held_nano_usd: Reserved at this moment.
        spent_nano_usd: Committed so far.
    """

    run_id: str
    status: RunStatus
    status_code: str
    status_message: str
    simulated: bool
    project: str
    user: str
    agent: str
    agent_version: int
    role: str
    role_version: int
    parent_run_id: str | None
    guaranteed: bool
    created_at: datetime
    started_at: datetime | None
    cancel_requested_at: datetime | None
    deadline_at: datetime
    ended_at: datetime | None
    newest_event: int
    cap_nano_usd: int | None
    held_nano_usd: int
    spent_nano_usd: int


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run.

    Attributes:
        id: Resume after this one: `seq`, or `seq.n` for what is live only.
        channel: Such as `decision`, `budget`, `answer`.
        type: Such as `decision.made`, `hold.settled`, `answer.delta`.
        data: What it says.
    """

    id: str
    seq: int
    run: str
    time: datetime
    channel: str
    type: str
    data: Json

    @property
    def durable(self) -> bool:
        """Whether it stands in the timeline, or was only ever live."""
        return "." not in self.id


@dataclass(frozen=True, slots=True)
class Hold:
    """The worst case of one try of an action, reserved before it ran.

    Attributes:
        idempotent: Whether the action may be tried again while the outcome is unknown.
        outward_at: When its request began to leave; None: nothing went outside.
    """

    hold_id: str
    run_id: str
    step: int
    try_number: int
    kind: str
    tool: str
    state: Literal["held", "executing", "executed", "committed", "voided", "expired", "unknown"]
    idempotent: bool
    action: Json
    decision_id: str
    max_cost_nano_usd: int
    cost_nano_usd: int | None
    created_at: datetime
    expires_at: datetime
    outward_at: datetime | None
    unknown_at: datetime | None
    settled_at: datetime | None
    settled_by: str


@dataclass(frozen=True, slots=True)
class Cap:
    """A limit and what is used of it in one window, in its unit; reserved + committed + debt never exceeds it by a grant.

    Attributes:
        cap_id: Of this window; any window of a cap stands for the cap.
        starts_at: When the window began, or since when what was taken counts in a rolling one; None: it is for ever.
        ends_at: When it ends, or when a rolling one moves on by an hour; None: never.
        in_force: Whether it is the window in force, else a past one.
        available: What a new hold could take; None if unlimited.
        thresholds: Percentages of the limit that are told once a window.
        thresholds_passed: Those that this window has reached.
        leaves_at: When the oldest hour of which something counts leaves a rolling cap in force; None if nothing counts.
        leaves: How much leaves then.
    """

    cap_id: str
    scope_kind: str
    scope_id: str
    scope_name: str | None
    unit: str
    window: str
    starts_at: datetime | None
    ends_at: datetime | None
    in_force: bool
    unlimited: bool
    limit_amount: int
    reserved: int
    committed: int
    debt: int
    available: int | None
    thresholds: list[int]
    thresholds_passed: list[int]
    leaves_at: datetime | None
    leaves: int | None


@dataclass(frozen=True, slots=True)
class CapChange:
    """A change of a cap's limit, from the journal.

    Attributes:
        made: Whether this made the cap.
        from_amount: The limit before, in the cap's unit; None: there was none.
        to_amount: The limit since; None: there is none.
        debt_paid: Debt that the new limit has made room for.
    """

    change_id: int
    actor: str
    reason: str
    created_at: datetime
    made: bool
    from_amount: int | None
    to_amount: int | None
    debt_paid: int


@dataclass(frozen=True, slots=True)
class Spent:
    """What committed holds came to.

    Attributes:
        group: A value for each dimension that was grouped by; none for a total.
        simulated_nano_usd: The part of the cost that a simulated provider caused: nobody bills it.
    """

    group: dict[str, str]
    holds: int
    calls: int
    tokens: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_nano_usd: int
    simulated_nano_usd: int


@dataclass(frozen=True, slots=True)
class Spend:
    """What was spent, in groups.

    Attributes:
        time_zone: The tenant's: in it a day begins and ends.
        total: Of all groups, also of those that were not asked for.
    """

    group_by: list[str]
    time_zone: str
    total: Spent
    groups: list[Spent]


@dataclass(frozen=True, slots=True)
class CapShare:
    """What a run's first call would take from one cap, in its unit.

    Attributes:
        limit_amount: None if unlimited.
        available: What a new hold could take now; None if unlimited.
        needed: What the call would hold here.
    """

    cap_id: str
    scope_kind: str
    scope_name: str
    unit: str
    window: str
    limit_amount: int | None
    available: int | None
    needed: int
    affords: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run's first call would hold, and whether the run would be admitted now. Nothing was reserved.

    Attributes:
        dearest_model: The target that the amounts are for: the dearest of the model and its fallbacks.
        code: `admission.affordable`, or why it would not be admitted.
        first_call_nano_usd: None if a target has no known price.
        floor_nano_usd: Worst case of a smallest useful call, which admission asks for.
    """

    agent: str
    agent_version: int
    role: str
    role_version: int
    project: str
    user: str
    wire: str
    model: str
    dearest_model: str | None
    admitted: bool
    code: str
    message: str
    input_tokens_bound: int | None
    output_tokens_bound: int | None
    first_call_nano_usd: int | None
    floor_nano_usd: int
    run_cap_nano_usd: int
    run_affords: bool
    caps: list[CapShare]


@dataclass(frozen=True, slots=True)
class Stop:
    """An emergency stop; it is on until it is lifted.

    Attributes:
        scope_name: Name of the agent, role or tool; empty for the tenant.
        actor: Who set it.
        lifted_at: None while it is on.
    """

    stop_id: str
    scope_kind: StopKind
    scope_name: str
    reason: str
    actor: str
    created_at: datetime
    lifted_at: datetime | None
    lifted_by: str
    lift_reason: str


@dataclass(frozen=True, slots=True)
class StandingStop(Stop):
    """A stop that was set.

    Attributes:
        was_on: Whether it was on already: then nothing is changed, and the reason is the one of then.
        outside: Actions of its scope that had gone outside and are not back: no stop calls them back.
    """

    was_on: bool
    outside: int


@dataclass(frozen=True, slots=True)
class Agent:
    """The newest version of an agent."""

    name: str
    version: int
    created_at: datetime
    definition: dict[str, Any]  # Any: JSON as it was put, with all fields


@dataclass(frozen=True, slots=True)
class Role:
    """The newest version of a role: `policy` is what it may do in the language of policies."""

    name: str
    version: int
    created_at: datetime
    policy: str
    cases: str
    policy_hash: str
    max_tokens_default: int | None


@dataclass(frozen=True, slots=True)
class Tool:
    """A version of a tool of the tenant's own; actions that call it cite `digest`."""

    name: str
    version: int
    created_at: datetime
    digest: str
    definition: dict[str, Any]  # Any: JSON as it was put, with all fields


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A new version of an agent or a role."""

    name: str
    version: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CodeMeaning:
    """What a stable code means; `status` is 0 and `verdict` empty where none goes with it."""

    code: str
    cause: str
    remedy: str
    places: list[str]
    status: int
    verdict: Literal["", "allow", "deny", "needs_approval"]


@dataclass(frozen=True, slots=True)
class VaultEntry:
    """A credential by its name; what it says is never read back."""

    name: str
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as it may be shown."""

    key_id: str
    prefix: str
    user: str
    project: str
    roles: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class User:
    """A user."""

    id: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Project:
    """A project; its name is its slug."""

    id: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant."""

    tenant_id: str
    slug: str
    name: str
    time_zone: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AskedTier:
    """The least tier that the tenant asks for (an empty `role`), or one of its roles."""

    role: str
    tier: Literal["process", "kernel"]
    set_by: str
    set_at: datetime


@dataclass(frozen=True, slots=True)
class SandboxTiers:
    """How hard code is isolated: at least by the tier of the deployment, and in none that is not available."""

    deployment: Literal["process", "kernel"]
    available: list[Literal["process", "kernel"]]
    asked: list[AskedTier]


@dataclass(frozen=True, slots=True, repr=False)
class CreatedKey:
    """An API key, shown this once."""

    key_id: str
    prefix: str
    user: str
    project: str
    roles: list[str]
    key: str


@dataclass(frozen=True, slots=True)
class CreatedTenant:
    """A tenant with its owner's first key."""

    tenant_id: str
    slug: str
    key: CreatedKey
