"""One-time tokens: an approver's vote that comes with a bare workflow signal."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.approvals.seats import Consenting, gate_from_json, meets
from holdfast.approvals.service import wanted
from holdfast.approvals.voting import Ballot, State, Verdict, Voter, cast, refuse
from holdfast.errors import Conflict, NotFound, NotPermitted
from holdfast.tenancy.principals import Principal

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")

_STATE = text("""
    SELECT CASE WHEN a.withdrawn_at IS NOT NULL THEN 'withdrawn' ELSE coalesce(a.verdict,
        CASE WHEN a.expires_at <= clock_timestamp() OR r.ended_at IS NOT NULL THEN 'expired' ELSE 'pending' END) END AS state,
        a.run_id, a.expires_at, a.binding, a.requester_id, gate_of(a.approver_role) AS gate,
        escalates_at(a.created_at, gate_of(a.approver_role)) <= clock_timestamp() AS escalated,
        ARRAY(SELECT DISTINCT x FROM standing_delegations(a.tenant_id, a.approval_id) d, unnest(d.roles) AS x
              WHERE d.to_user_id = :user_id) AS delegated
    FROM approvals a JOIN runs r ON r.tenant_id = a.tenant_id AND r.run_id = a.run_id
    WHERE a.tenant_id = :tenant_id AND a.approval_id = :approval_id
""")
_INSERT = text("""
    INSERT INTO approval_tokens (tenant_id, token_hash, approval_id, user_id, verdict, expires_at, roles)
    VALUES (:tenant_id, :token_hash, :approval_id, :user_id, :verdict, :expires_at, :roles)
""")
_USE = text("""
    UPDATE approval_tokens t SET used_at = clock_timestamp() FROM users u
    WHERE t.tenant_id = :tenant_id AND t.token_hash = :token_hash AND t.approval_id = :approval_id AND t.used_at IS NULL
      AND t.expires_at > clock_timestamp() AND u.tenant_id = t.tenant_id AND u.user_id = t.user_id
    RETURNING t.user_id, t.verdict, t.roles, u.name AS user_name
""")


async def check_may_vote(
    connection: AsyncConnection, tenant_id: UUID, approval_id: UUID, *, user_id: UUID, name: str, roles: frozenset[str]
) -> datetime:
    """Makes sure that a user could vote now, before something that votes for them is given out.

    Returns:
        Until when.

    Raises:
        NotFound: The tenant has no such approval.
        ApproverRefused: The user may not vote on it.
        ApprovalExpired: It is too late.
        ApprovalDecided: It is decided.
    """
    row = (
        await connection.execute(_STATE, {"tenant_id": tenant_id, "approval_id": approval_id, "user_id": user_id})
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no approval {approval_id}")
    gate = gate_from_json(row.gate)
    words = {"name": name, "wanted": wanted(row.gate), "state": row.state}
    if gate.not_requester and user_id == row.requester_id:
        refuse("requester", approval_id, **words)
    needs = gate.needs if gate.escalate is None or not row.escalated else (*gate.needs, gate.escalate.to)
    if not any(meets(need, Consenting("user", name, (*roles, *row.delegated))) for need in needs):
        refuse("not_eligible", approval_id, **words)
    if row.state == "expired":
        refuse("expired", approval_id, **words)
    if row.state != "pending":
        refuse("decided", approval_id, **words)
    expires_at: datetime = row.expires_at
    return expires_at


def new_secret() -> str:
    """Returns 256 random bits as text; whoever has them is taken for the one they were given to."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode("ascii")


def secret_hash(secret: str) -> bytes | None:
    """Returns the hash under which such a secret is kept, or None if it cannot be one."""
    return hashlib.sha256(secret.encode("ascii")).digest() if _TOKEN.fullmatch(secret) else None


async def issue_token(
    connection: AsyncConnection, principal: Principal, approval_id: UUID, verdict: Verdict
) -> tuple[str, datetime]:
    """Gives an eligible approver a one-time token that votes when it comes with a workflow signal.

    Returns:
        The token, stored nowhere, and until when it is good.

    Raises:
        NotFound: The tenant has no such approval.
        ApproverRefused: The principal may not vote on it.
        ApprovalExpired: It is too late.
        ApprovalDecided: It is decided.
    """
    tenant_id, user_id = principal.tenant_id, principal.user_id
    expires_at = await check_may_vote(
        connection, tenant_id, approval_id, user_id=user_id, name=principal.user, roles=principal.roles
    )
    token = new_secret()
    await connection.execute(
        _INSERT,
        {
            "tenant_id": tenant_id,
            "token_hash": secret_hash(token),
            "approval_id": approval_id,
            "user_id": user_id,
            "verdict": verdict,
            "expires_at": expires_at,
            "roles": sorted(principal.roles),
        },
    )
    return token, expires_at


async def redeem_token(connection: AsyncConnection, tenant_id: UUID, approval_id: UUID, token: str) -> State:
    """Votes by a token, once, and returns where the approval stands then; a wrong token votes nothing.

    Called as the governor, in its transaction. The record is the one that `decide` writes.
    """
    parameters: dict[str, object] = {"tenant_id": tenant_id, "approval_id": approval_id, "user_id": None}
    row = (await connection.execute(_STATE, parameters)).one_or_none()
    if row is None:
        return "unknown"
    state: State = row.state
    token_hash = secret_hash(token)
    if state != "pending" or token_hash is None:
        return state
    used = (await connection.execute(_USE, {**parameters, "token_hash": token_hash})).one_or_none()
    if used is None:  # a wrong one, or the same that came twice, whose vote is counted by now
        return await _state(connection, parameters)
    roles = used.roles
    if roles is None:  # given out when a gate could ask for one role alone, which was looked at then
        roles = [need.name for need in gate_from_json(row.gate).needs]
    subject = {"user": used.user_name, "user_id": str(used.user_id), "token": "one-time"}
    voter = Voter("user", str(used.user_id), used.user_name, used.user_id, tuple(roles), "token", subject)
    try:
        # a token is for what was proposed: once that was edited, it is worth nothing
        decided = await cast(connection, tenant_id, approval_id, voter, Ballot(used.verdict), signalled=True)
    except (Conflict, NotPermitted):
        return await _state(connection, parameters)
    return decided.state


async def state_for_run(
    connection: AsyncConnection, tenant_id: UUID, run_id: UUID, approval_id: UUID, *, token: str = ""
) -> State:
    """Returns where an approval of this run stands; a token, if one came, votes first. `unknown` if it is not its."""
    parameters = {"tenant_id": tenant_id, "approval_id": approval_id, "user_id": None}
    row = (await connection.execute(_STATE, parameters)).one_or_none()
    if row is None or row.run_id != run_id:
        return "unknown"
    return await redeem_token(connection, tenant_id, approval_id, token)


async def _state(connection: AsyncConnection, parameters: dict[str, object]) -> State:
    state: State = (await connection.execute(_STATE, parameters)).one().state
    return state
