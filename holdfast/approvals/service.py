"""What people do with approvals: approve, edit, deny, delegate, withdraw.

Whichever way a vote comes, the record in PostgreSQL is what opens the gate; a signal only wakes the run (ARCHITECTURE, rule 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NoReturn
from uuid import UUID

import orjson
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.approvals.binding import rebind
from holdfast.approvals.errors import ApproverRefused
from holdfast.approvals.seats import gate_from_json, in_words
from holdfast.approvals.voting import Ballot, Decided, Edit, Verdict, Voter, cast, refuse
from holdfast.database.engine import transaction
from holdfast.decisions.record import record_event, subject_of
from holdfast.errors import NotFound, RequestInvalid
from holdfast.tenancy.principals import Principal
from holdfast.tools.toolset import BUILTIN
from holdfast.tools.versions import read_version
from holdfast_verdict.canonical import JsonValue, canonical_bytes
from holdfast_verdict.policy import Gate

Withdrawn = Literal["vote", "delegation", "request", "same"]

_READ = text("""
    SELECT a.run_id, a.step, a.action, a.rule, a.expires_at, gate_of(a.approver_role) AS gate,
           a.requester_id, q.name AS requester, r.tools
    FROM approvals a JOIN runs r ON r.tenant_id = a.tenant_id AND r.run_id = a.run_id
    JOIN users q ON q.tenant_id = a.tenant_id AND q.user_id = a.requester_id
    WHERE a.tenant_id = :tenant_id AND a.approval_id = :approval_id
""")
_FIND_USER = text("SELECT user_id, name FROM users WHERE tenant_id = :tenant_id AND name = :name")
_DELEGATE = text("""
    SELECT * FROM delegate_approval(:tenant_id, :approval_id, :user_id, :name, CAST(:roles AS text[]), :to_user_id, :to_name, :reason)
""")
_WITHDRAW_VOTE = text("SELECT * FROM withdraw_vote(:tenant_id, :approval_id, :user_id, :name, :reason)")
_WITHDRAW_REQUEST = text("SELECT * FROM withdraw_approval(:tenant_id, :approval_id, :user_id, :name, :reason)")

_Row = Row[tuple[object, ...]]


async def decide(
    engine: AsyncEngine,
    principal: Principal,
    approval_id: UUID,
    verdict: Verdict,
    *,
    comment: str = "",
    edited_arguments: Mapping[str, JsonValue] | None = None,
    seen: bytes | None = None,
) -> Decided:
    """Votes on an approval, which decides it if nobody else is needed. The same vote again gets the same answer.

    Args:
        engine: Database as the API.
        principal: Who votes.
        approval_id: The approval.
        verdict: What they say; one denial denies.
        comment: Why; stands in the record.
        edited_arguments: Arguments to use in place of the proposed ones; the approval is then bound to these, and votes that were
            cast before are worth nothing any more.
        seen: The binding that the approval was shown with; needed once it was edited.

    Raises:
        NotFound: The tenant has no such approval.
        ApproverRefused: The principal may not vote on it; the attempt is recorded.
        ApprovalExpired: It is too late.
        Conflict: It was decided otherwise, edited since, or voted on by the same user.
        RequestInvalid: The edited arguments are not what the tool takes.
    """
    tenant_id = principal.tenant_id
    try:
        async with transaction(engine, tenant_id) as connection:
            approval = await read_row(connection, tenant_id, approval_id)
            edit = await _edit(connection, tenant_id, approval, verdict, edited_arguments)
            ballot = Ballot(verdict, comment, seen, edit=edit)
            return await cast(
                connection, tenant_id, approval_id, voter_of(principal), ballot, wanted=wanted(approval.gate)
            )
    except ApproverRefused as refused:
        await record_refusal(engine, principal, approval_id, verdict, refused)
        raise


async def delegate(
    engine: AsyncEngine, principal: Principal, approval_id: UUID, to_user: str, *, comment: str = ""
) -> Decided:
    """Lets another user vote in the principal's place, on this approval alone.

    Raises:
        NotFound: The tenant has no such approval or user.
        ApproverRefused: The principal may not vote, or the other has started the run; the attempt is recorded.
        ApprovalExpired: It is too late.
        Conflict: It is decided, or the principal has voted or delegated already.
    """
    tenant_id = principal.tenant_id
    try:
        async with transaction(engine, tenant_id) as connection:
            approval = await read_row(connection, tenant_id, approval_id)
            to = (await connection.execute(_FIND_USER, {"tenant_id": tenant_id, "name": to_user})).one_or_none()
            if to is None:
                raise NotFound(f"there is no user {to_user[:200]}", remedy="`GET /v1/users` lists them")
            parameters = {**_who(principal, approval_id, comment), "roles": sorted(principal.roles)}
            to_whom = {"to_user_id": to.user_id, "to_name": to.name}
            row = (await connection.execute(_DELEGATE, {**parameters, **to_whom})).one()
            if row.status not in ("delegation", "same"):
                _refuse(row.status, principal, approval_id, approval)
            if row.status == "delegation":
                message = f"{principal.user} lets {to.name} vote on step {approval.step}"
                facts: dict[str, JsonValue] = {"to": str(to.name), "comment": comment}
                await _record(connection, principal, approval_id, approval, "approval.delegated", message, facts)
            return Decided(approval.run_id, "pending", row.seq)
    except ApproverRefused as refused:
        await record_refusal(engine, principal, approval_id, "delegate", refused)
        raise


async def withdraw(
    engine: AsyncEngine, principal: Principal, approval_id: UUID, *, comment: str = ""
) -> tuple[Withdrawn, Decided]:
    """Takes back what is the principal's: as the requester the whole request, else the own vote, else the own delegation.

    Returns:
        What was taken back, and where the approval stands then.

    Raises:
        NotFound: The tenant has no such approval.
        ApprovalExpired: It is too late.
        Conflict: It is decided, or there is nothing to take back.
    """
    tenant_id = principal.tenant_id
    async with transaction(engine, tenant_id) as connection:
        approval = await read_row(connection, tenant_id, approval_id)
        parameters = _who(principal, approval_id, comment)
        row = (await connection.execute(_WITHDRAW_REQUEST, parameters)).one()
        if row.status == "not_requester":
            row = (await connection.execute(_WITHDRAW_VOTE, parameters)).one()
        if row.status not in ("vote", "delegation", "request", "same"):
            _refuse(row.status, principal, approval_id, approval)
        what: Withdrawn = row.status
        if what != "same":
            message = f"{principal.user} has withdrawn the {what} on step {approval.step}"
            await _record(
                connection,
                principal,
                approval_id,
                approval,
                "approval.withdrawn" if what == "request" else "approval.vote_withdrawn",
                message,
                {"withdrawn": what, "comment": comment},
            )
        return what, Decided(approval.run_id, "withdrawn" if what in ("request", "same") else "pending", row.seq)


def voter_of(principal: Principal) -> Voter:
    """Returns a principal as the one who votes."""
    return Voter(
        "user",
        str(principal.user_id),
        principal.user,
        principal.user_id,
        tuple(sorted(principal.roles)),
        "api",
        subject_of(principal),
    )


def wanted(gate: Mapping[str, JsonValue]) -> str:
    """Says whom a gate asks, in words."""
    return _wanted_by(gate_from_json(gate))


def _wanted_by(gate: Gate) -> str:
    later = f", later {in_words((gate.escalate.to,))}" if gate.escalate is not None else ""
    return in_words(gate.needs) + later


async def read_row(connection: AsyncConnection, tenant_id: UUID, approval_id: UUID) -> _Row:
    """Reads what a vote needs to know of an approval, without a lock: the function that votes looks again.

    Raises:
        NotFound: The tenant has no such approval.
    """
    row = (await connection.execute(_READ, {"tenant_id": tenant_id, "approval_id": approval_id})).one_or_none()
    if row is None:
        raise NotFound(f"there is no approval {approval_id}")
    return row


async def record_refusal(
    engine: AsyncEngine, principal: Principal, approval_id: UUID, asked: str, refused: ApproverRefused
) -> None:
    """Records that somebody tried who may not, in a transaction of its own."""
    async with transaction(engine, principal.tenant_id) as connection:
        await record_event(
            connection,
            principal.tenant_id,
            kind="approval",
            verdict="deny",
            code=refused.code,
            message=refused.message,
            facts={"subject": subject_of(principal), "asked": asked},
            approval_id=approval_id,
        )


def _who(principal: Principal, approval_id: UUID, reason: str) -> dict[str, object]:
    return {
        "tenant_id": principal.tenant_id,
        "approval_id": approval_id,
        "user_id": principal.user_id,
        "name": principal.user,
        "reason": reason,
    }


def _refuse(status: str, principal: Principal, approval_id: UUID, approval: _Row) -> NoReturn:
    refuse(
        status,
        approval_id,
        name=principal.user,
        state="see the approval",
        wanted=wanted(approval.gate),
        requester=str(approval.requester),
    )


async def _record(
    connection: AsyncConnection,
    principal: Principal,
    approval_id: UUID,
    approval: _Row,
    code: str,
    message: str,
    facts: Mapping[str, JsonValue],
) -> None:
    await record_event(
        connection,
        principal.tenant_id,
        kind="approval",
        verdict="deny" if code == "approval.withdrawn" else "allow",
        code=code,
        message=message,
        facts={"subject": subject_of(principal), "step": approval.step, "rule": approval.rule, **facts},
        run_id=approval.run_id,
        approval_id=approval_id,
    )


async def _edit(
    connection: AsyncConnection,
    tenant_id: UUID,
    approval: _Row,
    verdict: Verdict,
    arguments: Mapping[str, JsonValue] | None,
) -> Edit | None:
    """Returns the edited action in canonical form and what it is bound to, or None if nothing is edited."""
    if arguments is None:
        return None
    if verdict != "approved":
        raise RequestInvalid("edited_arguments: only an approval can edit", remedy="leave them out when you deny")
    action: dict[str, JsonValue] = orjson.loads(approval.action)
    if action.get("kind") != "tool.call":
        raise RequestInvalid(f"edited_arguments: {action.get('kind')} has no arguments that can be edited")
    name = str(action["tool"])
    tool = BUILTIN.get(name) or await read_version(connection, tenant_id, name, approval.tools[name])
    edited: dict[str, JsonValue] = {**action, "args": tool.validate(arguments)}
    binding = await rebind(
        connection,
        tenant_id,
        approval.run_id,
        rule_id=approval.rule,
        expires_at=approval.expires_at,
        action=edited,
    )
    return Edit(None if edited == action else canonical_bytes(edited), binding)
