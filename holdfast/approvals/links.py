"""One-time links: an approver decides without a key, once, by an address that only the approver has.

A link is 256 random bits, kept as a hash, and bound to one approval and one approver. Looking at it changes nothing, for programs that
read mail follow links. At its use the approver needs a key in force with a role that the gate asks for: who revokes the keys of
somebody revokes the links as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.approvals.errors import ApproverRefused, LinkInvalid
from holdfast.approvals.service import read_row, record_refusal, wanted
from holdfast.approvals.tokens import check_may_vote, new_secret, secret_hash
from holdfast.approvals.voting import Ballot, Decided, Verdict, Voter, cast, refuse
from holdfast.database.engine import tenantless, transaction
from holdfast.decisions.record import record_event, subject_of
from holdfast.errors import NotFound
from holdfast.tenancy.principals import ADMIN, OWNER, Principal
from holdfast_verdict.canonical import JsonValue

_REMEDY: Final = "ask for a new link, or decide with a key"

# What the keys of a user that are in force may vote as.
_USER = text("""
    SELECT u.user_id, u.name, ARRAY(SELECT DISTINCT x FROM api_keys k, unnest(k.roles) AS x
        WHERE k.tenant_id = u.tenant_id AND k.user_id = u.user_id AND k.revoked_at IS NULL
          AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())) AS roles
    FROM users u WHERE u.tenant_id = :tenant_id AND u.name = :name
""")
_INSERT = text("""
    INSERT INTO approval_links (tenant_id, link_hash, approval_id, user_id, expires_at)
    VALUES (:tenant_id, :link_hash, :approval_id, :user_id,
        least(:expires_at, clock_timestamp() + make_interval(secs => :life_s))) RETURNING expires_at
""")
_LOCATE = text("SELECT locate_link(:link_hash)")
_READ = text("""
    SELECT l.approval_id, l.user_id, u.name, l.expires_at FROM approval_links l
    JOIN users u ON u.tenant_id = l.tenant_id AND u.user_id = l.user_id
    WHERE l.tenant_id = :tenant_id AND l.link_hash = :link_hash AND l.used_at IS NULL AND l.expires_at > clock_timestamp()
""")
_LOOK = text("""
    SELECT used_at IS NOT NULL AS used, expires_at <= clock_timestamp() AS expired FROM approval_links
    WHERE tenant_id = :tenant_id AND link_hash = :link_hash
""")
_USE = text("""
    UPDATE approval_links SET used_at = clock_timestamp()
    WHERE tenant_id = :tenant_id AND link_hash = :link_hash AND used_at IS NULL AND expires_at > clock_timestamp() RETURNING 1
""")


@dataclass(frozen=True, slots=True)
class Link:
    """A link that is good.

    Attributes:
        link_hash: Hash of its secret.
        user_id: The approver it was made for.
        roles: As what the approver may vote now.
    """

    tenant_id: UUID
    link_hash: bytes
    approval_id: UUID
    user_id: UUID
    user: str
    expires_at: datetime
    roles: tuple[str, ...]


async def create_link(
    engine: AsyncEngine, principal: Principal, approval_id: UUID, *, user: str | None, life_s: int
) -> tuple[str, str, datetime]:
    """Makes a link for the caller, or, as an owner or admin, for a named approver; the run's requester makes none for others.

    Returns:
        The secret, stored nowhere; the approver's name; and until when it is good, which is never after the approval.

    Raises:
        NotFound: The tenant has no such approval or user.
        NotPermitted: The caller may not make one for somebody else.
        ApproverRefused: The approver may not vote on it; the attempt is recorded.
        ApprovalExpired: It is too late.
        ApprovalDecided: It is decided.
    """
    tenant_id = principal.tenant_id
    try:
        async with transaction(engine, tenant_id) as connection:
            approval = await read_row(connection, tenant_id, approval_id)
            name = user if user is not None else principal.user
            found = (await connection.execute(_USER, {"tenant_id": tenant_id, "name": name})).one_or_none()
            if found is None:
                raise NotFound(f"there is no user {name[:200]}", remedy="`GET /v1/users` lists them")
            if found.user_id != principal.user_id:
                principal.require(OWNER, ADMIN)
                if approval.requester_id == principal.user_id:
                    refuse("links_for_others", approval_id)
            expires_at = await check_may_vote(
                connection, tenant_id, approval_id, user_id=found.user_id, name=found.name, roles=frozenset(found.roles)
            )
            secret = new_secret()
            parameters = {"tenant_id": tenant_id, "link_hash": secret_hash(secret), "approval_id": approval_id}
            until = {"user_id": found.user_id, "expires_at": expires_at, "life_s": life_s}
            good_until: datetime = (await connection.execute(_INSERT, {**parameters, **until})).scalar_one()
            await record_event(
                connection,
                tenant_id,
                kind="approval",
                verdict="allow",
                code="approval.link_created",
                message=f"{principal.user} has made a one-time link for {found.name}",
                facts={"subject": subject_of(principal), "for": str(found.name), "expires_at": good_until.isoformat()},
                run_id=approval.run_id,
                approval_id=approval_id,
            )
            return secret, found.name, good_until
    except ApproverRefused as refused:
        await record_refusal(engine, principal, approval_id, "link", refused)
        raise


async def open_link(engine: AsyncEngine, secret: str) -> Link:
    """Returns what a link is for, and changes nothing.

    Raises:
        LinkInvalid: It is none, was used, is too old, or its approver has no key in force.
    """
    link_hash = secret_hash(secret)
    if link_hash is None:
        raise _invalid()
    async with tenantless(engine) as connection:
        tenant_id: UUID | None = await connection.scalar(_LOCATE, {"link_hash": link_hash})
    if tenant_id is None:
        raise _invalid()
    async with transaction(engine, tenant_id) as connection:
        return await _read(connection, tenant_id, link_hash)


async def look_at(engine: AsyncEngine, secret: str) -> Link | Literal["used", "expired", "unknown", "no_key"]:
    """Returns what a link is for, or why it is good for nothing; whoever has the secret may know. Changes nothing."""
    link_hash = secret_hash(secret)
    if link_hash is None:
        return "unknown"
    async with tenantless(engine) as connection:
        tenant_id: UUID | None = await connection.scalar(_LOCATE, {"link_hash": link_hash})
    if tenant_id is None:
        return "unknown"
    async with transaction(engine, tenant_id) as connection:
        row = (await connection.execute(_LOOK, {"tenant_id": tenant_id, "link_hash": link_hash})).one()
        if row.used or row.expired:
            return "used" if row.used else "expired"
        try:
            return await _read(connection, tenant_id, link_hash)
        except LinkInvalid:
            return "no_key"


async def vote_by_link(engine: AsyncEngine, link: Link, verdict: Verdict, *, seen: bytes, comment: str) -> Decided:
    """Votes as the approver whom the link was made for, and uses the link up; a vote that does not count leaves it.

    Args:
        engine: Database as the API.
        link: The link, as it was opened.
        verdict: What the approver says.
        seen: The binding that the link showed.
        comment: Why.

    Raises:
        LinkInvalid: Somebody was faster.
        ApproverRefused: The approver may not vote any more.
        ApprovalExpired: It is too late.
        Conflict: It was decided otherwise, edited since, or voted on by the same approver.
    """
    tenant_id = link.tenant_id
    async with transaction(engine, tenant_id) as connection:
        standing = await _read(connection, tenant_id, link.link_hash)
        parameters = {"tenant_id": tenant_id, "link_hash": link.link_hash}
        if await connection.scalar(_USE, parameters) is None:
            raise _invalid()
        subject: dict[str, JsonValue] = {"user": link.user, "user_id": str(link.user_id), "link": "one-time"}
        voter = Voter("user", str(link.user_id), link.user, link.user_id, standing.roles, "link", subject)
        approval = await read_row(connection, tenant_id, link.approval_id)
        return await cast(
            connection, tenant_id, link.approval_id, voter, Ballot(verdict, comment, seen), wanted=wanted(approval.gate)
        )


async def _read(connection: AsyncConnection, tenant_id: UUID, link_hash: bytes) -> Link:
    row = (await connection.execute(_READ, {"tenant_id": tenant_id, "link_hash": link_hash})).one_or_none()
    if row is None:
        raise _invalid()
    user = (await connection.execute(_USER, {"tenant_id": tenant_id, "name": row.name})).one()
    if not user.roles:
        raise _invalid()
    return Link(tenant_id, link_hash, row.approval_id, row.user_id, row.name, row.expires_at, tuple(sorted(user.roles)))


def _invalid() -> LinkInvalid:
    return LinkInvalid("this link is not good, or not good any more", remedy=_REMEDY)
