"""External systems that consent by a signature: registered with a public key, and heard without any other credential."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.approvals.errors import SignatureRefused
from holdfast.approvals.service import read_row, wanted
from holdfast.approvals.voting import Ballot, Decided, Verdict, Voter, cast
from holdfast.database.engine import tenantless, transaction
from holdfast.decisions.record import record_change
from holdfast.errors import Conflict, NotFound, RequestInvalid
from holdfast.ids import new_id
from holdfast.tenancy.principals import Principal
from holdfast_verdict.canonical import JsonValue

FRESH_S: Final = 300
"""So far from PostgreSQL's time a signature may be dated."""

_COLUMNS = "signer_id, name, public_key, description, actor, created_at, revoked_at"
_INSERT = text(f"""
    INSERT INTO signers (tenant_id, signer_id, name, public_key, description, actor)
    VALUES (:tenant_id, :signer_id, :name, :public_key, :description, :actor) RETURNING {_COLUMNS}
""")  # noqa: S608 (a constant of this module)
_LIST = text(f"SELECT {_COLUMNS} FROM signers WHERE tenant_id = :tenant_id ORDER BY signer_id DESC LIMIT 200")  # noqa: S608 (as above)
_REVOKE = text("""
    UPDATE signers SET revoked_at = clock_timestamp()
    WHERE tenant_id = :tenant_id AND name = :name AND revoked_at IS NULL RETURNING signer_id
""")
_KEY = text(
    "SELECT public_key FROM signers WHERE tenant_id = :tenant_id AND name = :name AND revoked_at IS NULL FOR SHARE"
)
_NOW_S = text("SELECT CAST(floor(extract(epoch FROM clock_timestamp())) AS bigint)")
_LOCATE = text("SELECT locate_approval(:approval_id)")

_log = structlog.get_logger("approvals")


@dataclass(frozen=True, slots=True)
class Signer:
    """An external system that may consent.

    Attributes:
        public_key: Ed25519, raw, in base64.
        actor: Who registered it.
    """

    signer_id: UUID
    name: str
    public_key: str
    description: str
    actor: str
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Signed:
    """A consent as a signer sends it.

    Attributes:
        signer: Its name.
        binding: What it consents to: the binding that the approval shows.
        signed_s: When, seconds of the epoch.
        signature: Ed25519 over `signed_message`.
    """

    signer: str
    verdict: Verdict
    binding: bytes
    reason: str
    signed_s: int
    signature: bytes


def signed_message(approval_id: UUID, signed: Signed) -> bytes:
    """Returns what is signed: seven lines, each with a purpose, so that a signature is good for nothing else."""
    return "\n".join(
        (
            "holdfast approval v1",
            str(approval_id),
            signed.binding.hex(),
            signed.verdict,
            signed.signer,
            str(signed.signed_s),
            hashlib.sha256(signed.reason.encode()).hexdigest(),
        )
    ).encode()


def public_key_bytes(text_form: str) -> bytes:
    """Reads a public key: 32 raw bytes in base64.

    Raises:
        RequestInvalid: It is none.
    """
    try:
        key = base64.b64decode(text_form, validate=True)
        Ed25519PublicKey.from_public_bytes(key)
    except (binascii.Error, ValueError):
        raise RequestInvalid(
            "public_key: this is no Ed25519 public key", remedy="send its 32 raw bytes in base64"
        ) from None
    return key


async def add_signer(
    connection: AsyncConnection, principal: Principal, name: str, public_key: bytes, description: str
) -> Signer:
    """Registers a signer.

    Raises:
        Conflict: There is one of this name, and it is not revoked.
    """
    parameters = {
        "tenant_id": principal.tenant_id,
        "signer_id": new_id(),
        "name": name,
        "public_key": public_key,
        "description": description,
        "actor": principal.actor,
    }
    try:
        row = (await connection.execute(_INSERT, parameters)).one()
    except IntegrityError:
        raise Conflict(f"there is a signer {name} already", remedy="revoke it first to give it another key") from None
    change: dict[str, JsonValue] = {"name": name, "public_key": public_key.hex()}
    await record_change(
        connection, principal.tenant_id, principal, "signer.added", f"the signer {name} may consent", change
    )
    return _signer(row)


async def list_signers(connection: AsyncConnection, tenant_id: UUID) -> list[Signer]:
    """Returns the newest 200 signers, revoked ones too."""
    return [_signer(row) for row in await connection.execute(_LIST, {"tenant_id": tenant_id})]


async def revoke_signer(connection: AsyncConnection, principal: Principal, name: str) -> None:
    """Revokes a signer at once: what it signed and was not counted yet is worth nothing.

    Raises:
        NotFound: There is none of this name in force.
    """
    if await connection.scalar(_REVOKE, {"tenant_id": principal.tenant_id, "name": name}) is None:
        raise NotFound(f"there is no signer {name}")
    message = f"the signer {name} may consent no more"
    await record_change(connection, principal.tenant_id, principal, "signer.revoked", message, {"name": name})


async def vote_by_signature(engine: AsyncEngine, approval_id: UUID, signed: Signed) -> tuple[UUID, Decided]:
    """Counts a signer's vote. Whatever is wrong with it, the answer is the same, for who asks has shown nothing yet.

    Returns:
        The tenant, and what came of the vote.

    Raises:
        SignatureRefused: It is not a fresh signature, over this approval, of a signer in force.
        ApproverRefused: The gate does not ask for this signer.
        ApprovalExpired: It is too late.
        Conflict: It was decided otherwise, edited since, or the signature was counted before.
    """
    async with tenantless(engine) as connection:
        tenant_id: UUID | None = await connection.scalar(_LOCATE, {"approval_id": approval_id})
    if tenant_id is None:
        raise _refused(signed, "no such approval")
    message = signed_message(approval_id, signed)
    async with transaction(engine, tenant_id) as connection:
        key: bytes | None = await connection.scalar(_KEY, {"tenant_id": tenant_id, "name": signed.signer})
        if key is None:
            raise _refused(signed, "no such signer")
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signed.signature, message)
        except InvalidSignature:
            raise _refused(signed, "wrong signature") from None
        now_s: int = (await connection.execute(_NOW_S)).scalar_one()
        if abs(now_s - signed.signed_s) > FRESH_S:
            raise _refused(signed, "not fresh")
        approval = await read_row(connection, tenant_id, approval_id)
        subject: dict[str, JsonValue] = {"signer": signed.signer, "public_key": key.hex(), "signed_s": signed.signed_s}
        voter = Voter("signer", signed.signer, signed.signer, None, (), "signature", subject)
        # INVARIANT: what was signed counts once, also when it was taken back since: its hash is kept with the vote
        ballot = Ballot(signed.verdict, signed.reason, signed.binding, hashlib.sha256(message).digest())
        decided = await cast(connection, tenant_id, approval_id, voter, ballot, wanted=wanted(approval.gate))
        return tenant_id, decided


def _refused(signed: Signed, why: str) -> SignatureRefused:
    _log.warning("approval.signature_refused", signer=signed.signer, why=why)
    return SignatureRefused(
        "this is no fresh signature of a registered signer over this approval",
        remedy=f"sign the seven lines that the reference describes, within {FRESH_S} s of now, with the registered key",
    )


def _signer(row: object) -> Signer:
    fields = {name: getattr(row, name) for name in Signer.__slots__}
    return Signer(**{**fields, "public_key": base64.b64encode(fields["public_key"]).decode()})
