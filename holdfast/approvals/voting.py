"""Casting a vote: PostgreSQL decides whether it counts and what it decides; the record is written with it (LAW 2)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.approvals.errors import (
    ApprovalChanged,
    ApprovalDecided,
    ApprovalExpired,
    ApproverRefused,
    NothingToWithdraw,
    SignatureReplayed,
    VoteStands,
)
from holdfast.decisions.record import record_event
from holdfast.errors import Conflict, NotFound
from holdfast_verdict.canonical import JsonValue

Verdict = Literal["approved", "denied"]
State = Literal["pending", "approved", "denied", "expired", "withdrawn", "unknown"]
Via = Literal["api", "token", "link", "signature"]

_CAST = text("""
    SELECT * FROM vote_on_approval(:tenant_id, :approval_id, :seen, :kind, :voter, :name, :user_id, CAST(:roles AS text[]), :via,
        :verdict, :reason, :evidence, :edits, :edited, :binding, :signalled)
""")

_REFUSALS: Mapping[str, tuple[type[Conflict | ApproverRefused], str, str]] = {
    "requester": (
        ApproverRefused,
        "who started the run cannot consent to its actions",
        "ask another approver",
    ),
    "own_action": (ApproverRefused, "no agent consents to what it, or a run of its own family, asks for", ""),
    "not_eligible": (ApproverRefused, "this gate asks for {wanted}, and {name} is none of them", ""),
    "delegated": (
        ApproverRefused,
        "{name} has delegated this vote, and has it no more",
        "take the delegation back first, as long as it was not used",
    ),
    "decided": (ApprovalDecided, "the approval was decided before: {state}", ""),
    "ended": (ApprovalExpired, "the run has ended", ""),
    "expired": (ApprovalExpired, "the approval has expired", "the run asks again when the step is tried again"),
    "changed": (
        ApprovalChanged,
        "the arguments were edited, and this vote does not say that it is for them as they are now",
        "look at the approval again and send the `binding` that it shows",
    ),
    "voted": (VoteStands, "{name} has voted, and the vote stands", "withdraw it first"),
    "used": (VoteStands, "the one it was delegated to has voted", "let that vote be withdrawn first"),
    "nothing": (NothingToWithdraw, "there is no vote or delegation of {name}'s to take back", ""),
    "replayed": (SignatureReplayed, "this signature was counted before", "sign anew, with the time of now"),
    "not_requester": (ApproverRefused, "only {requester}, who started the run, can withdraw the request", ""),
    "to_requester": (ApproverRefused, "a vote cannot be delegated to who started the run", "name somebody else"),
    "links_for_others": (ApproverRefused, "who started the run makes no links for those who consent to it", ""),
    "to_self": (ApproverRefused, "a vote cannot be delegated to oneself", "name somebody else"),
}


@dataclass(frozen=True, slots=True)
class Voter:
    """Who votes.

    Attributes:
        kind: A person, or an external system that signs.
        voter: What there is one vote for: the user's id, or the signer's name.
        name: For people and records.
        user_id: Of a person.
        roles: Of a person: those of the key.
        via: How the vote came.
        subject: As records name them.
    """

    kind: Literal["user", "signer"]
    voter: str
    name: str
    user_id: UUID | None
    roles: tuple[str, ...]
    via: Via
    subject: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Edit:
    """Arguments that an approver puts in place of the proposed ones.

    Attributes:
        action: Canonical bytes of the whole action; None if they are the proposed ones.
        binding: What the approval is bound to with them.
    """

    action: bytes | None
    binding: bytes


@dataclass(frozen=True, slots=True)
class Ballot:
    """What is voted.

    Attributes:
        seen: The binding that the voter was shown; without it only what was never edited is voted on.
        evidence: SHA-256 of what was signed, if it was.
    """

    verdict: Verdict
    reason: str = ""
    seen: bytes | None = None
    evidence: bytes | None = None
    edit: Edit | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """What came of a call.

    Attributes:
        run_id: The run that waits.
        state: Where the approval stands; `pending` if others have to consent as well.
        timeline_seq: Number of the event that was written, 0 if it was so before.
    """

    run_id: UUID
    state: State
    timeline_seq: int


def refuse(status: str, approval_id: UUID, **words: str) -> NoReturn:
    """Raises what a status of the schema's functions means.

    Raises:
        NotFound: The tenant has no such approval.
        ApproverRefused: Who calls may not.
        ApprovalExpired: It is too late.
        Conflict: It was decided, changed or voted on before.
    """
    if status == "unknown":
        raise NotFound(f"there is no approval {approval_id}")
    error, message, remedy = _REFUSALS[status]
    raise error(message.format_map(words), remedy=remedy)


async def cast(
    connection: AsyncConnection,
    tenant_id: UUID,
    approval_id: UUID,
    voter: Voter,
    ballot: Ballot,
    *,
    wanted: str = "others",
    signalled: bool = False,
) -> Decided:
    """Votes, in the caller's transaction. The same vote again gets the same answer.

    Args:
        connection: The transaction.
        tenant_id: The tenant.
        approval_id: The approval.
        voter: Who votes.
        ballot: What.
        wanted: Whom the gate asks, in words.
        signalled: Whether the run needs no signal, for it asks right now.

    Raises:
        NotFound: The tenant has no such approval.
        ApproverRefused: The voter may not vote.
        ApprovalExpired: It is too late.
        Conflict: It was decided otherwise, edited since, or voted on by the same one.
    """
    row = await _ask(connection, tenant_id, approval_id, voter, ballot, signalled=signalled)
    if row.status not in ("cast", "same"):
        refuse(row.status, approval_id, name=voter.name, state=row.state, wanted=wanted)
    if row.status == "cast":
        await _record(connection, tenant_id, approval_id, voter, ballot, row)
    return Decided(row.run_id, row.state, row.seq)


async def _ask(
    connection: AsyncConnection, tenant_id: UUID, approval_id: UUID, voter: Voter, ballot: Ballot, *, signalled: bool
) -> Row[tuple[object, ...]]:
    edit = ballot.edit
    return (
        await connection.execute(
            _CAST,
            {
                "tenant_id": tenant_id,
                "approval_id": approval_id,
                "seen": ballot.seen,
                "kind": voter.kind,
                "voter": voter.voter,
                "name": voter.name,
                "user_id": voter.user_id,
                "roles": list(voter.roles),
                "via": voter.via,
                "verdict": ballot.verdict,
                "reason": ballot.reason,
                "evidence": ballot.evidence,
                "edits": edit is not None,
                "edited": edit.action if edit is not None else None,
                "binding": edit.binding if edit is not None else None,
                "signalled": signalled,
            },
        )
    ).one()


async def _record(
    connection: AsyncConnection,
    tenant_id: UUID,
    approval_id: UUID,
    voter: Voter,
    ballot: Ballot,
    row: Row[tuple[object, ...]],
) -> None:
    edited = row.revision > 0
    await record_event(
        connection,
        tenant_id,
        kind="approval",
        verdict="allow" if ballot.verdict == "approved" else "deny",
        code="approval.voted" if row.state == "pending" else f"approval.{ballot.verdict}",
        message=f"{voter.name} has {ballot.verdict} step {row.step}" + (" with edited arguments" if edited else ""),
        facts={
            "subject": dict(voter.subject),
            "voter": voter.kind,
            "as": list(row.roles),
            "via": voter.via,
            "state": row.state,
            "step": row.step,
            "rule": row.rule,
            "action_digest": hashlib.sha256(row.action).hexdigest(),
            "edited": edited,
            "revision": row.revision,
            "binding": row.binding.hex(),
            "comment": ballot.reason,
            "evidence": ballot.evidence.hex() if ballot.evidence is not None else None,
        },
        run_id=row.run_id,
        approval_id=approval_id,
    )
