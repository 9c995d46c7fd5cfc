"""Approvals: what waits for consent, and the calls with which people decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sdk.calls import Calls
from sdk.types import Json, Verdict, read_answer


@dataclass(frozen=True, slots=True)
class Approval:
    """Something that waits for consent, or did.

    Attributes:
        action: Exactly what the agent wants to do.
        edited_action: What an approver put in its place.
        changes: What the edit changed: `argument`, `before`, `after`.
        revision: Number of edits.
        binding: What a consent is for; every edit changes it.
        rule: The gate that asks.
        approver_role: Whom it asks, in words; of a gate with one need, the role.
        needs: `count`, `kind`, `name`, `met_by`, `missing` of each.
        escalation: Who may stand in, and from when on.
        votes: All that were cast, in order.
        requester: Who started the run, and so cannot decide.
        run_status: Of the run that waits for it.
    """

    approval_id: str
    run_id: str
    step: int
    state: Literal["pending", "approved", "denied", "expired", "withdrawn"]
    action: Json
    edited_action: Json | None
    changes: list[Json]
    revision: int
    binding: str
    rule: str
    message: str
    approver_role: str
    needs: list[Json]
    not_requester: bool
    escalation: Json | None
    votes: list[Json]
    delegations: list[Json]
    max_cost_nano_usd: int
    requester: str
    agent: str
    role: str
    run_status: str
    created_at: datetime
    expires_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    comment: str


@dataclass(frozen=True, slots=True)
class ApprovalToken:
    """A one-time token that decides when it reaches the workflow by a signal."""

    token: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ApprovalLink:
    """A one-time link that decides in the name of one approver.

    Attributes:
        path: GET shows what it would decide on, POST decides.
        page: The same as a page for people.
        user: In whose name.
    """

    path: str
    page: str
    user: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Signer:
    """An external system that gates can ask for; its public key is Ed25519, raw, in base64."""

    signer_id: str
    name: str
    public_key: str
    description: str
    actor: str
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Release:
    """A release of what a run had read under a label when it was made; rules say which of the roles count."""

    release_id: str
    run_id: str
    label: str
    released_by: str
    roles: list[str]
    reason: str
    decision_id: str
    created_at: datetime


class ApprovalCalls(Calls):
    """What the client can do with approvals, and with releases of labels."""

    def approvals(
        self, *, state: str | None = None, run_id: str | None = None, count: int | None = None
    ) -> list[Approval]:
        """Returns approvals, newest first; `state="pending"` are those that wait."""
        return self._list(Approval, "/v1/approvals", {"state": state, "run": run_id}, count)

    def approval(self, approval_id: str) -> Approval:
        """Returns an approval."""
        return read_answer(Approval, self._transport.request("GET", f"/v1/approvals/{approval_id}"))

    def decide(
        self,
        approval_id: str,
        verdict: Verdict,
        *,
        comment: str = "",
        edited_arguments: Mapping[str, Any] | None = None,  # Any: arguments of a tool are JSON
        binding: str | None = None,
    ) -> Approval:
        """Consents or refuses; with edited arguments the consent is for exactly these. Deciding the same again is no error.

        Args:
            approval_id: The approval.
            verdict: What the caller says.
            comment: Stands in the record.
            edited_arguments: Arguments to use instead.
            binding: The `binding` that the caller was shown; needed once somebody has edited the arguments.
        """
        body = {"verdict": verdict, "comment": comment, "edited_arguments": edited_arguments, "binding": binding}
        return read_answer(Approval, self._transport.request("POST", f"/v1/approvals/{approval_id}/decide", body=body))

    def delegate(self, approval_id: str, to: str, *, comment: str = "") -> Approval:
        """Lets another user vote in the caller's place, on this approval alone."""
        body = {"to": to, "comment": comment}
        answer = self._transport.request("POST", f"/v1/approvals/{approval_id}/delegate", body=body)
        return read_answer(Approval, answer)

    def withdraw(self, approval_id: str, *, comment: str = "") -> tuple[str, Approval]:
        """Takes back the caller's vote or delegation; for who started the run, the request itself.

        Returns:
            `vote`, `delegation` or `request`, and the approval.
        """
        body = {"comment": comment}
        answer = self._transport.request("POST", f"/v1/approvals/{approval_id}/withdraw", body=body, repeatable=False)
        return str(answer["withdrawn"]), read_answer(Approval, answer["approval"])

    def create_approval_token(self, approval_id: str, verdict: Verdict) -> ApprovalToken:
        """Returns a one-time token that decides when it reaches the run's workflow by the signal `approval`."""
        answer = self._transport.request(
            "POST", f"/v1/approvals/{approval_id}/tokens", body={"verdict": verdict}, repeatable=False
        )
        return read_answer(ApprovalToken, answer)

    def create_approval_link(
        self, approval_id: str, *, user: str | None = None, expires_in_s: int = 86_400
    ) -> ApprovalLink:
        """Returns a one-time link by which an approver decides without a key: the caller, or for an owner or admin another user."""
        body = {"user": user, "expires_in_s": expires_in_s}
        answer = self._transport.request("POST", f"/v1/approvals/{approval_id}/links", body=body, repeatable=False)
        return read_answer(ApprovalLink, answer)

    def add_signer(self, name: str, public_key: str, *, description: str = "") -> Signer:
        """Registers an external system that consents by its signature."""
        body = {"name": name, "public_key": public_key, "description": description}
        return read_answer(Signer, self._transport.request("POST", "/v1/signers", body=body, repeatable=False))

    def signers(self) -> list[Signer]:
        """Returns the newest signers, revoked ones too."""
        return self._list(Signer, "/v1/signers", {}, 200)

    def revoke_signer(self, name: str) -> None:
        """Revokes a signer at once."""
        self._transport.request("DELETE", f"/v1/signers/{name}")

    def release(self, run_id: str, label: str, *, reason: str) -> Release:
        """Releases what a run has read so far under a label, for rules that say `released by role(…)`."""
        path, body = f"/v1/runs/{run_id}/releases", {"label": label, "reason": reason}
        return read_answer(Release, self._transport.request("POST", path, body=body, repeatable=False))

    def releases(self, run_id: str) -> list[Release]:
        """Returns the newest releases of a run."""
        return self._list(Release, f"/v1/runs/{run_id}/releases", {}, 200)
