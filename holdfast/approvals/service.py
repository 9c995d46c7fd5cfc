"""Deciding on approvals: by a call of the approver, or by the approver's one-time token that came with a signal.

Either way the record in PostgreSQL is what opens the gate; a signal only wakes the run (ARCHITECTURE, rule 6).
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal
from uuid import UUID

import orjson
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.database.engine import transaction
from holdfast.decisions.record import record_event, subject_of
from holdfast.errors import Conflict, NotFound, NotPermitted, RequestInvalid
from holdfast.ledger.types import Event
from holdfast.policies.store import read_pinned
from holdfast.tenancy.principals import Principal
from holdfast.timeline import events
from holdfast.tools.toolset import BUILTIN
from holdfast.tools.versions import read_version
from holdfast_verdict.canonical import JsonValue, canonical_bytes, digest
from holdfast_verdict.engine.gates import approval_binding

Verdict = Literal["approved", "denied"]
State = Literal["pending", "approved", "denied", "expired", "unknown"]

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_FIND = text("SELECT run_id FROM approvals WHERE tenant_id = :tenant_id AND approval_id = :approval_id")

# Lock order: the run, then the approval.
_LOCK_RUN = text("""
    SELECT ended_at IS NOT NULL AS ended, role_name, role_version, tools FROM runs
    WHERE tenant_id = :tenant_id AND run_id = :run_id FOR NO KEY UPDATE
""")
_LOCK = text("""
    SELECT approval_id, run_id, step, action, edited_action, rule, approver_role, requester_id, binding, expires_at, verdict,
           expires_at <= clock_timestamp() AS expired
    FROM approvals WHERE tenant_id = :tenant_id AND approval_id = :approval_id FOR NO KEY UPDATE
""")
_DECIDE = text("""
    UPDATE approvals SET verdict = :verdict, decided_by = :user_id, decided_at = clock_timestamp(), comment = :comment,
        edited_action = :edited_action, binding = :binding,
        signalled_at = CASE WHEN :signalled THEN clock_timestamp() END
    WHERE tenant_id = :tenant_id AND approval_id = :approval_id AND verdict IS NULL
""")
_BUMP = text("UPDATE runs SET history_version = history_version + 1 WHERE tenant_id = :tenant_id AND run_id = :run_id")
_INSERT_TOKEN = text("""
    INSERT INTO approval_tokens (tenant_id, token_hash, approval_id, user_id, verdict, expires_at)
    VALUES (:tenant_id, :token_hash, :approval_id, :user_id, :verdict, :expires_at)
""")
_USE_TOKEN = text("""
    UPDATE approval_tokens t SET used_at = clock_timestamp() FROM users u
    WHERE t.tenant_id = :tenant_id AND t.token_hash = :token_hash AND t.approval_id = :approval_id AND t.used_at IS NULL
      AND t.expires_at > clock_timestamp() AND u.tenant_id = t.tenant_id AND u.user_id = t.user_id
    RETURNING t.user_id, t.verdict, u.name AS user_name
""")


class ApprovalExpired(Conflict):
    """Nobody consented in time, or the step that asked has changed or ended; the gate stays shut."""

    code = "approval.expired"


class ApprovalDecided(Conflict):
    """Somebody has decided otherwise before."""

    code = "approval.decided"


class ApproverRefused(NotPermitted):
    """Who decides does not have the role that the gate asks for, or has started the run."""

    code = "approval.not_eligible"


@dataclass(frozen=True, slots=True)
class Decided:
    """What came of a call.

    Attributes:
        run_id: The run that waits.
        state: Where the approval stands.
        timeline_seq: Number of the event that was written, 0 if it was decided the same before.
    """

    run_id: UUID
    state: State
    timeline_seq: int


def expires_at_ms(expires_at: datetime) -> int:
    """Returns an expiry as bindings have it: whole milliseconds of the epoch, exactly."""
    return (expires_at - _EPOCH) // timedelta(milliseconds=1)


async def decide(
    engine: AsyncEngine,
    principal: Principal,
    approval_id: UUID,
    verdict: Verdict,
    *,
    comment: str = "",
    edited_arguments: Mapping[str, JsonValue] | None = None,
) -> Decided:
    """Decides on an approval. The same verdict again gets the same answer.

    Args:
        engine: Database as the API.
        principal: Who decides.
        approval_id: The approval.
        verdict: What they decide.
        comment: Why; stands in the record.
        edited_arguments: Arguments to use in place of the proposed ones; the approval is then bound to these.

    Raises:
        NotFound: The tenant has no such approval.
        ApproverRefused: The principal may not decide on it; the attempt is recorded.
        ApprovalExpired: It is too late.
        ApprovalDecided: It was decided otherwise.
        RequestInvalid: The edited arguments are not what the tool takes.
    """
    tenant_id = principal.tenant_id
    try:
        async with transaction(engine, tenant_id) as connection:
            run, approval = await _lock(connection, tenant_id, approval_id)
            _check_eligible(principal, approval)
            edited = await _edited(connection, tenant_id, run, approval, verdict, edited_arguments)
            if approval.verdict is not None:
                return _again(approval, verdict, edited)
            _check_open(run, approval)
            binding = approval.binding
            if edited is not None:
                binding = await _binding_of(connection, tenant_id, run, approval, edited)
            by = _By(principal.user_id, principal.user, subject_of(principal))
            edited_bytes = canonical_bytes(edited) if edited is not None else None
            return await _write(connection, tenant_id, approval, verdict, by, comment, edited_bytes, binding)
    except ApproverRefused as refused:
        async with transaction(engine, tenant_id) as connection:
            await record_event(
                connection,
                tenant_id,
                kind="approval",
                verdict="deny",
                code=refused.code,
                message=refused.message,
                facts={"subject": subject_of(principal), "asked": verdict},
                approval_id=approval_id,
            )
        raise


async def issue_token(
    connection: AsyncConnection, principal: Principal, approval_id: UUID, verdict: Verdict
) -> tuple[str, datetime]:
    """Gives an eligible approver a one-time token that decides when it comes with a workflow signal.

    Returns:
        The token, stored nowhere, and until when it is good.

    Raises:
        NotFound: The tenant has no such approval.
        ApproverRefused: The principal may not decide on it.
        ApprovalExpired: It is too late.
        ApprovalDecided: It is decided.
    """
    run, approval = await _lock(connection, principal.tenant_id, approval_id)
    _check_eligible(principal, approval)
    if approval.verdict is not None:
        raise ApprovalDecided(f"the approval is {approval.verdict} already")
    _check_open(run, approval)
    token = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode("ascii")
    await connection.execute(
        _INSERT_TOKEN,
        {
            "tenant_id": principal.tenant_id,
            "token_hash": _hash(token),
            "approval_id": approval_id,
            "user_id": principal.user_id,
            "verdict": verdict,
            "expires_at": approval.expires_at,
        },
    )
    return token, approval.expires_at


async def redeem_token(connection: AsyncConnection, tenant_id: UUID, approval_id: UUID, token: str) -> State:
    """Decides by a token, once, and returns where the approval stands then; a wrong token decides nothing.

    Called as the governor, in its transaction. The record is the one that `decide` writes.
    """
    try:
        run, approval = await _lock(connection, tenant_id, approval_id)
    except NotFound:
        return "unknown"
    state = _state(run, approval)
    if state != "pending" or not _TOKEN.fullmatch(token):
        return state
    used = (
        await connection.execute(
            _USE_TOKEN, {"tenant_id": tenant_id, "token_hash": _hash(token), "approval_id": approval_id}
        )
    ).one_or_none()
    if used is None:
        return state
    by = _By(used.user_id, used.user_name, {"user": used.user_name, "user_id": str(used.user_id), "token": "one-time"})
    decided = await _write(
        connection, tenant_id, approval, used.verdict, by, "", None, approval.binding, signalled=True
    )
    return decided.state


async def state_for_run(
    connection: AsyncConnection, tenant_id: UUID, run_id: UUID, approval_id: UUID, *, token: str = ""
) -> State:
    """Returns where an approval of this run stands; a token, if one came, decides it first. `unknown` if it is not its."""
    found: UUID | None = await connection.scalar(_FIND, {"tenant_id": tenant_id, "approval_id": approval_id})
    if found != run_id:
        return "unknown"
    return await redeem_token(connection, tenant_id, approval_id, token)


async def _binding_of(
    connection: AsyncConnection, tenant_id: UUID, run: _Row, approval: _Row, edited: Mapping[str, JsonValue]
) -> bytes:
    """Returns what the approval of edited arguments is given for."""
    pinned = await read_pinned(connection, tenant_id, approval.run_id)
    rule = next((rule for rule in pinned.policy.rules if rule.id == approval.rule), None)
    if rule is None or rule.gate is None:
        raise ApprovalExpired("the policy of the run has no such gate any more", remedy="let the step be tried again")
    expiry = expires_at_ms(approval.expires_at)
    return approval_binding(pinned.policy.policy_hash, digest(edited), rule.id, rule.gate, expiry)


@dataclass(frozen=True, slots=True)
class _By:
    """Who decided."""

    user_id: UUID
    name: str
    subject: Mapping[str, JsonValue]


_Row = Row[tuple[object, ...]]


async def _lock(connection: AsyncConnection, tenant_id: UUID, approval_id: UUID) -> tuple[_Row, _Row]:
    parameters = {"tenant_id": tenant_id, "approval_id": approval_id}
    run_id: UUID | None = await connection.scalar(_FIND, parameters)
    if run_id is None:
        raise NotFound(f"there is no approval {approval_id}")
    run = (await connection.execute(_LOCK_RUN, {"tenant_id": tenant_id, "run_id": run_id})).one()
    approval = (await connection.execute(_LOCK, parameters)).one()
    return run, approval


def _state(run: _Row, approval: _Row) -> State:
    if approval.verdict is not None:
        decided: Verdict = approval.verdict
        return decided
    return "expired" if approval.expired or run.ended else "pending"


def _check_eligible(principal: Principal, approval: _Row) -> None:
    """Refuses who may not consent: owner or admin is not enough, and nobody consents to their own run's action."""
    if approval.approver_role not in principal.roles:
        raise ApproverRefused(
            f"this gate asks for the role {approval.approver_role}, and the key has {', '.join(sorted(principal.roles))}"
        )
    if principal.user_id == approval.requester_id:
        raise ApproverRefused("who started the run cannot consent to its actions", remedy="ask another approver")


def _check_open(run: _Row, approval: _Row) -> None:
    if run.ended:
        raise ApprovalExpired("the run has ended")
    if approval.expired:
        raise ApprovalExpired("the approval has expired", remedy="the run asks again when the step is tried again")


async def _edited(
    connection: AsyncConnection,
    tenant_id: UUID,
    run: _Row,
    approval: _Row,
    verdict: Verdict,
    arguments: Mapping[str, JsonValue] | None,
) -> dict[str, JsonValue] | None:
    """Returns the edited action in canonical form, or None if nothing is edited."""
    if arguments is None:
        return None
    if verdict != "approved":
        raise RequestInvalid("edited_arguments: only an approval can edit", remedy="leave them out when you deny")
    action: dict[str, JsonValue] = orjson.loads(approval.action)
    if action.get("kind") != "tool.call":
        raise RequestInvalid(f"edited_arguments: {action.get('kind')} has no arguments that can be edited")
    name = str(action["tool"])
    tool = BUILTIN.get(name) or await read_version(connection, tenant_id, name, run.tools[name])
    normal = tool.validate(arguments)
    return None if normal == action.get("args") else {**action, "args": normal}


def _again(approval: _Row, verdict: Verdict, edited: Mapping[str, JsonValue] | None) -> Decided:
    edited_bytes = canonical_bytes(dict(edited)) if edited is not None else None
    if approval.verdict != verdict or approval.edited_action != edited_bytes:
        how = f"{approval.verdict}, edited" if approval.edited_action else approval.verdict
        raise ApprovalDecided(f"the approval was decided before: {how}")
    return Decided(approval.run_id, verdict, 0)


async def _write(
    connection: AsyncConnection,
    tenant_id: UUID,
    approval: _Row,
    verdict: Verdict,
    by: _By,
    comment: str,
    edited_action: bytes | None,
    binding: bytes,
    *,
    signalled: bool = False,
) -> Decided:
    """Writes the verdict, its record and its event: one transaction (LAW 2)."""
    approval_id: UUID = approval.approval_id
    run_id: UUID = approval.run_id
    await connection.execute(
        _DECIDE,
        {
            "tenant_id": tenant_id,
            "approval_id": approval_id,
            "verdict": verdict,
            "user_id": by.user_id,
            "comment": comment,
            "edited_action": edited_action,
            "binding": binding,
            "signalled": signalled,
        },
    )
    await record_event(
        connection,
        tenant_id,
        kind="approval",
        verdict="allow" if verdict == "approved" else "deny",
        code=f"approval.{verdict}",
        message=f"{by.name} has {verdict} step {approval.step}" + (" with edited arguments" if edited_action else ""),
        facts={
            "subject": dict(by.subject),
            "step": approval.step,
            "rule": approval.rule,
            "approver_role": approval.approver_role,
            "action_digest": hashlib.sha256(edited_action or approval.action).hexdigest(),
            "edited": edited_action is not None,
            "binding": binding.hex(),
            "comment": comment,
        },
        run_id=run_id,
        approval_id=approval_id,
    )
    await connection.execute(_BUMP, {"tenant_id": tenant_id, "run_id": run_id})
    data: dict[str, JsonValue] = {
        "approval_id": str(approval_id),
        "step": approval.step,
        "verdict": verdict,
        "by": by.name,
        "edited": edited_action is not None,
        "comment": comment,
    }
    seq = await events.append(connection, tenant_id, run_id, [Event("approval", "approval.decided", data)])
    return Decided(run_id, verdict, seq)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("ascii")).digest()
