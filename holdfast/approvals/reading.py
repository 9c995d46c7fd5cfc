"""Reading approvals: what an approver is shown is what will be executed, to the byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import orjson
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.approvals.seats import Consenting, Seats, VoterKind, gate_from_json, in_words, seat
from holdfast.errors import NotFound, PolicyBroken
from holdfast.policies import store
from holdfast.tenancy.principals import Principal
from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.policy import Gate

State = Literal["pending", "approved", "denied", "expired", "withdrawn"]

_COLUMNS = """
    a.tenant_id, a.approval_id, a.run_id, a.step,
    CASE WHEN a.withdrawn_at IS NOT NULL THEN 'withdrawn' ELSE coalesce(a.verdict,
        CASE WHEN a.expires_at <= now() OR r.ended_at IS NOT NULL THEN 'expired' ELSE 'pending' END) END AS state,
    a.action, a.edited_action, a.revision, a.binding, a.rule, gate_of(a.approver_role) AS gate,
    escalates_at(a.created_at, gate_of(a.approver_role)) AS escalates_at,
    coalesce(escalates_at(a.created_at, gate_of(a.approver_role)) <= coalesce(a.decided_at, now()), false) AS escalated,
    a.max_cost_nano_usd, a.requester_id, q.name AS requester, a.created_at, a.expires_at,
    coalesce(nullif(a.decided_name, ''), d.name) AS decided_by, a.decided_at, a.comment,
    r.agent_name, r.role_name, r.status AS run_status
    FROM approvals a
    JOIN runs r ON r.tenant_id = a.tenant_id AND r.run_id = a.run_id
    JOIN users q ON q.tenant_id = a.tenant_id AND q.user_id = a.requester_id
    LEFT JOIN users d ON d.tenant_id = a.tenant_id AND d.user_id = a.decided_by
"""

# Whoever may have a say sees what it is about; who sees the tenant sees all of it.
_VISIBLE = """
    (CAST(:user_id AS uuid) IS NULL OR a.requester_id = :user_id
     OR EXISTS (SELECT 1 FROM standing_delegations(a.tenant_id, a.approval_id) s WHERE s.to_user_id = :user_id)
     OR EXISTS (SELECT 1 FROM jsonb_array_elements((gate_of(a.approver_role) -> 'needs')
                    || coalesce(gate_of(a.approver_role) #> '{escalate,to}', '[]')) AS n (value)
                WHERE n.value ->> 'kind' = 'role' AND n.value ->> 'name' = ANY (CAST(:roles AS text[]))))
"""

_READ = text(f"SELECT {_COLUMNS} WHERE a.tenant_id = :tenant_id AND a.approval_id = :approval_id AND {_VISIBLE}")

_LIST = text(f"""
    SELECT * FROM (SELECT {_COLUMNS} WHERE a.tenant_id = :tenant_id AND {_VISIBLE}) AS approval
    WHERE (CAST(:before AS uuid) IS NULL OR approval_id < :before)
      AND (CAST(:run_id AS uuid) IS NULL OR run_id = :run_id)
      AND (CAST(:state AS text) IS NULL OR state = :state)
    ORDER BY approval_id DESC LIMIT :count
""")  # noqa: S608 (constant)

_VOTES = text("""
    SELECT v.approval_id, v.number, v.revision, v.kind, v.voter, v.name, v.roles, v.verdict, v.via, v.reason, v.run_id, v.created_at
    FROM approval_votes v WHERE v.tenant_id = :tenant_id AND v.approval_id = ANY (:approval_ids) ORDER BY v.approval_id, v.number
""")
_DELEGATIONS = text("""
    SELECT d.approval_id, d.from_name, d.to_name, d.roles, d.reason, d.created_at FROM unnest(CAST(:approval_ids AS uuid[])) AS x,
        standing_delegations(:tenant_id, x) AS d ORDER BY d.approval_id, d.number
""")


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote, as it was cast. A later one of the same voter takes its place; `withdrawn` takes it back.

    Attributes:
        revision: For which edit of the arguments; 0 is what the agent proposed.
        roles: Of a person: as whom, with what was delegated.
        via: How it came.
        run_id: Of an agent: the run in which it voted.
        counts: Whether it stands for the arguments as they are now.
    """

    number: int
    revision: int
    kind: VoterKind
    name: str
    roles: Sequence[str]
    verdict: Literal["approved", "denied", "withdrawn"]
    via: str
    reason: str
    run_id: UUID | None
    created_at: datetime
    counts: bool


@dataclass(frozen=True, slots=True)
class Delegation:
    """Who votes in whose place."""

    from_name: str
    to_name: str
    roles: Sequence[str]
    reason: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Change:
    """An argument that an edit changed; None where there is none."""

    argument: str
    before: JsonValue
    after: JsonValue


@dataclass(frozen=True, slots=True)
class ApprovalView:
    """An approval as people see it.

    Attributes:
        state: Where it stands.
        action: Exactly what the agent wants to do.
        edited_action: What an approver put in its place, if one did.
        changes: What the edit changed, argument by argument.
        revision: Number of edits.
        binding: What a consent is for: it changes with every edit.
        rule: The gate that asks.
        message: What the gate says, or empty.
        approver_role: Whom it asks, in words; of a gate with one need, the role.
        gate: Whom it asks.
        seats: Its needs, and by whom each is met.
        votes: All that were cast, in order.
        escalates_at: When whom the gate escalates to may stand in.
        requester: Who started the run; may not decide.
        run_status: What waits: whether the run still does.
    """

    approval_id: UUID
    run_id: UUID
    step: int
    state: State
    action: Mapping[str, JsonValue]
    edited_action: Mapping[str, JsonValue] | None
    changes: tuple[Change, ...]
    revision: int
    binding: bytes
    rule: str
    message: str
    approver_role: str
    gate: Gate
    seats: tuple[Seats, ...]
    votes: tuple[Vote, ...]
    delegations: tuple[Delegation, ...]
    escalates_at: datetime | None
    max_cost_nano_usd: int
    requester_id: UUID
    requester: str
    agent: str
    role: str
    run_status: str
    created_at: datetime
    expires_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    comment: str


_Row = Row[tuple[object, ...]]


def _view(row: _Row, votes: Sequence[_Row], delegations: Sequence[_Row], message: str) -> ApprovalView:
    gate = gate_from_json(row.gate)
    newest = {(vote.kind, vote.voter): vote for vote in votes if vote.revision == row.revision}
    standing = [vote for vote in newest.values() if vote.verdict != "withdrawn"]
    consenting = [
        Consenting(vote.kind, vote.name, tuple(vote.roles)) for vote in standing if vote.verdict == "approved"
    ]
    if not votes and row.state == "approved" and row.decided_by is not None:
        # decided by an older program, which knew gates of one role only
        consenting = [Consenting("user", row.decided_by, (gate.needs[0].name,))]
    counting = {vote.number for vote in standing}
    action = orjson.loads(row.action)
    edited = orjson.loads(row.edited_action) if row.edited_action is not None else None
    return ApprovalView(
        approval_id=row.approval_id,
        run_id=row.run_id,
        step=row.step,
        state=row.state,
        action=action,
        edited_action=edited,
        changes=changes_of(action, edited) if edited is not None else (),
        revision=row.revision,
        binding=row.binding,
        rule=row.rule,
        message=message,
        approver_role=in_words(gate.needs),
        gate=gate,
        seats=seat(gate, consenting, escalated=row.escalated),
        votes=tuple(_vote(vote, counts=vote.number in counting) for vote in votes),
        delegations=tuple(
            Delegation(each.from_name, each.to_name, each.roles, each.reason, each.created_at) for each in delegations
        ),
        escalates_at=row.escalates_at,
        max_cost_nano_usd=row.max_cost_nano_usd,
        requester_id=row.requester_id,
        requester=row.requester,
        agent=row.agent_name,
        role=row.role_name,
        run_status=row.run_status,
        created_at=row.created_at,
        expires_at=row.expires_at,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
        comment=row.comment,
    )


def _vote(row: _Row, *, counts: bool) -> Vote:
    return Vote(
        row.number,
        row.revision,
        row.kind,
        row.name,
        row.roles,
        row.verdict,
        row.via,
        row.reason,
        row.run_id,
        row.created_at,
        counts,
    )


def changes_of(before: Mapping[str, JsonValue], after: Mapping[str, JsonValue]) -> tuple[Change, ...]:
    """Returns what differs between two actions, argument by argument."""
    old, new = before.get("args"), after.get("args")
    assert isinstance(old, Mapping)  # a tool call's arguments are an object
    assert isinstance(new, Mapping)
    names = sorted({*old, *new})
    # by their bytes: 1, 1.0 and true are not the same in JSON
    return tuple(
        Change(name, old.get(name), new.get(name))
        for name in names
        if (name in old) != (name in new) or orjson.dumps(old[name]) != orjson.dumps(new[name])
    )


async def _views(connection: AsyncConnection, tenant_id: UUID, rows: Sequence[_Row]) -> list[ApprovalView]:
    parameters = {"tenant_id": tenant_id, "approval_ids": [row.approval_id for row in rows]}
    votes = list(await connection.execute(_VOTES, parameters)) if rows else []
    delegations = list(await connection.execute(_DELEGATIONS, parameters)) if rows else []
    return [
        _view(
            row,
            [vote for vote in votes if vote.approval_id == row.approval_id],
            [each for each in delegations if each.approval_id == row.approval_id],
            await _message(connection, tenant_id, row.run_id, row.rule),
        )
        for row in rows
    ]


async def _message(connection: AsyncConnection, tenant_id: UUID, run_id: UUID, rule_id: str) -> str:
    """Returns what the gate says, of the policy that the run is pinned to."""
    try:
        pinned = await store.read_pinned(connection, tenant_id, run_id)
    except PolicyBroken:
        return ""  # the next decision says so; here it is a sentence beside what is asked
    return next((rule.message for rule in pinned.policy.rules if rule.id == rule_id), "")


def _sees(principal: Principal | None) -> dict[str, object]:
    if principal is None:
        return {"user_id": None, "roles": []}
    return {"user_id": principal.user_id, "roles": sorted(principal.roles)}


async def read_approval(
    connection: AsyncConnection, tenant_id: UUID, approval_id: UUID, *, concerning: Principal | None = None
) -> ApprovalView:
    """Returns one approval.

    Args:
        connection: The transaction.
        tenant_id: The tenant.
        approval_id: The approval.
        concerning: Only if this principal may have a say in it, or started the run.

    Raises:
        NotFound: The tenant has no such approval, or it does not concern the principal.
    """
    parameters = {"tenant_id": tenant_id, "approval_id": approval_id, **_sees(concerning)}
    row = (await connection.execute(_READ, parameters)).one_or_none()
    if row is None:
        raise NotFound(f"there is no approval {approval_id}")
    return (await _views(connection, tenant_id, [row]))[0]


async def list_approvals(
    connection: AsyncConnection,
    tenant_id: UUID,
    *,
    state: State | None,
    run_id: UUID | None,
    before: UUID | None,
    count: int,
    concerning: Principal | None = None,
) -> list[ApprovalView]:
    """Returns approvals, newest first."""
    parameters = {"tenant_id": tenant_id, "state": state, "run_id": run_id, "before": before, "count": count}
    rows = list(await connection.execute(_LIST, {**parameters, **_sees(concerning)}))
    return await _views(connection, tenant_id, rows)
