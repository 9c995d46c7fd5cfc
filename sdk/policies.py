"""The tenant's policy: versions, what is active, and what is asked of one before it is switched on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeVar

from sdk.transport import Transport
from sdk.types import read_answer

ItemT = TypeVar("ItemT")
_REHEARSALS: Final = "/v1/policies/rehearsals"
ListOf = Callable[[type[Any], str, Mapping[str, object], int | None], list[Any]]  # Any: the kind says of what


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A version of the tenant's policy; it never changes.

    Attributes:
        policy_hash: SHA-256 of what it compiles to, hex; decision records cite it.
        origin: Written by a person, made of the roles' tables, or the starter of a new tenant.
        active: Whether new runs are decided by it.
        shadow: Whether it is looked at beside the active one.
    """

    policy_id: str
    version: int
    policy_hash: str
    engine_version: str
    origin: Literal["written", "tables", "starter"]
    note: str
    put_by: str
    put_at: datetime
    active: bool
    shadow: bool


@dataclass(frozen=True, slots=True)
class PolicyText(PolicyVersion):
    """A version with its text, its cases (TOML, may be empty) and what it compiles to."""

    source: str
    cases: str
    compiled: dict[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True)
class PolicyActivation:
    """One act of putting a version to use, or of ending that.

    Attributes:
        version: None where the shadow was ended.
    """

    seq: int
    use: Literal["active", "shadow"]
    action: Literal["activate", "roll_back", "shadow", "end_shadow"]
    policy_id: str | None
    version: int | None
    activated_by: str
    activated_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """How a candidate compares with what decided.

    Attributes:
        decisions: On how many decisions it was asked.
        different: On how many it would have decided otherwise.
        since: When it was asked first; None if it never was.
        differences: What would have been otherwise, most frequent first.
    """

    version: int
    decisions: int
    different: int
    since: str | None
    differences: list[dict[str, Any]]  # Any: JSON


@dataclass(frozen=True, slots=True)
class PolicyRehearsal:
    """A candidate asked about recorded decisions.

    Attributes:
        version: Version of the candidate; None for a text that is not stored.
        since: Decisions from then on.
        until: Decisions before then.
        done: Records that were looked at.
        total: How many there are, once that is known.
        result: What was found, once it is done.
        error: Why it failed, if it did.
    """

    rehearsal_id: str
    version: int | None
    policy_hash: str
    since: datetime
    until: datetime
    state: Literal["waiting", "running", "done", "cancelled", "failed"]
    done: int
    total: int | None
    result: dict[str, Any] | None  # Any: JSON
    error: str
    asked_by: str
    created_at: datetime
    ended_at: datetime | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self.state in ("done", "cancelled", "failed")


class Policies:
    """What can be done with a tenant's policy; `Holdfast.policies` has it."""

    def __init__(self, transport: Transport, list_of: ListOf) -> None:
        self._transport = transport
        self._list = list_of

    def push(
        self, source: str, *, cases: str = "", note: str = "", idempotency_key: str | None = None
    ) -> PolicyVersion:
        """Stores a new version; nothing is made active.

        Args:
            source: The policy's text.
            cases: Text of a cases file, TOML; all of them have to come out as they expect.
            note: Why.
            idempotency_key: The same key stores one version.

        Raises:
            HoldfastApiError: It cannot be used, or cases failed: `problems` names all that is wrong.
        """
        body = {"source": source, "cases": cases, "note": note}
        answer = self._transport.request("POST", "/v1/policies", body=body, idempotency_key=idempotency_key)
        return read_answer(PolicyVersion, answer)

    def versions(self, *, count: int | None = None) -> list[PolicyVersion]:
        """Returns the versions, newest first."""
        return self._list(PolicyVersion, "/v1/policies", {}, count)

    def show(self, version: int) -> PolicyText:
        """Returns a version with its text."""
        return read_answer(PolicyText, self._transport.request("GET", f"/v1/policies/{version}"))

    def log(self, *, count: int | None = None) -> list[PolicyActivation]:
        """Returns who made which version active and why, newest first."""
        return self._list(PolicyActivation, "/v1/policies/activations", {}, count)

    def check(self, policy: int | str | None = None) -> dict[str, Any]:  # Any: JSON
        """Returns what a policy can never do: of a version, of a text, or of the active version."""
        return self._asked("check", _named(policy))

    def diff(self, before: int | str | None, after: int | str | None) -> dict[str, Any]:  # Any: JSON
        """Returns requests that a change newly allows, newly denies or newly asks consent for."""
        return self._asked("diff", {"before": _named(before), "after": _named(after)})

    def test(self, policy: int | str | None = None, *, cases: str | None = None) -> dict[str, Any]:  # Any: JSON
        """Plays cases; without any, those that the version was stored with."""
        return self._asked("test", {**_named(policy), "cases": cases})

    def explain(self, request: Mapping[str, Any], policy: int | str | None = None) -> dict[str, Any]:  # Any: JSON
        """Says which rule decides on an action and which nearly did; the request has the keys of a case."""
        return self._asked("explain", {**_named(policy), "request": dict(request)})

    def explain_decision(self, decision_id: str) -> dict[str, Any]:  # Any: JSON
        """Says which rule decided on an action then and which nearly did, on the facts and by the policy that were recorded."""
        return dict(self._transport.request("GET", f"/v1/decisions/{decision_id}/explanation"))

    def activate(self, version: int, *, reason: str = "", idempotency_key: str | None = None) -> PolicyActivation:
        """Makes a version active."""
        return self._used("activate", {"version": version, "reason": reason}, idempotency_key)

    def roll_back(
        self, version: int | None = None, *, reason: str = "", idempotency_key: str | None = None
    ) -> PolicyActivation:
        """Makes the version active again that was active before, or the one that is named."""
        return self._used("roll-back", {"version": version, "reason": reason}, idempotency_key)

    def shadow(self, version: int | None, *, reason: str = "", idempotency_key: str | None = None) -> PolicyActivation:
        """Has a version looked at beside the active one, without acting on it; None ends that."""
        return self._used("shadow", {"version": version, "reason": reason}, idempotency_key)

    def shadow_report(self, version: int | None = None) -> ShadowReport:
        """Returns where the candidate would have decided otherwise; without a version the current one."""
        answer = self._transport.request("GET", "/v1/policies/shadow", query={"version": version})
        return read_answer(ShadowReport, answer)

    def rehearse(
        self,
        policy: int | str,
        *,
        start: datetime,
        end: datetime | None = None,
        idempotency_key: str | None = None,
    ) -> PolicyRehearsal:
        """Asks a candidate about every decision of a time; the answer comes at once, what was found when it is done.

        Args:
            policy: Version of the candidate, or its text.
            start: Decisions from then on.
            end: Decisions before then; without, until now.
            idempotency_key: The same key asks once.

        Raises:
            HoldfastApiError: The candidate cannot be used: `problems` names all that is wrong.
        """
        body = {**_named(policy), "from": start.isoformat(), "to": None if end is None else end.isoformat()}
        answer = self._transport.request("POST", _REHEARSALS, body=body, idempotency_key=idempotency_key)
        return read_answer(PolicyRehearsal, answer)

    def rehearsal(self, rehearsal_id: str) -> PolicyRehearsal:
        """Returns how far a rehearsal is, and what was found."""
        return read_answer(PolicyRehearsal, self._transport.request("GET", f"{_REHEARSALS}/{rehearsal_id}"))

    def rehearsals(self, *, count: int | None = None) -> list[PolicyRehearsal]:
        """Returns rehearsals without what they have found, newest first."""
        return self._list(PolicyRehearsal, _REHEARSALS, {}, count)

    def cancel_rehearsal(self, rehearsal_id: str) -> PolicyRehearsal:
        """Cancels a rehearsal; one that has ended stays as it is."""
        answer = self._transport.request("POST", f"{_REHEARSALS}/{rehearsal_id}/cancel")
        return read_answer(PolicyRehearsal, answer)

    def _used(self, name: str, body: Mapping[str, object], key: str | None) -> PolicyActivation:
        answer = self._transport.request("POST", f"/v1/policies/{name}", body=body, idempotency_key=key)
        return read_answer(PolicyActivation, answer)

    def _asked(self, name: str, body: Mapping[str, object]) -> dict[str, Any]:  # Any: JSON
        answer = self._transport.request("POST", f"/v1/policies/{name}", body=body)
        return dict(answer)


def _named(policy: int | str | None) -> dict[str, object]:
    if policy is None:
        return {}
    return {"version": policy} if isinstance(policy, int) else {"source": policy}
