"""API keys: `hf_<8 characters that are shown>_<32 random bytes>`. Only their SHA-256 is stored."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.database.engine import tenantless
from holdfast.errors import NotAuthenticated, NotFound
from holdfast.ids import new_id
from holdfast.tenancy.principals import Principal, check_roles

UNREADABLE_PREFIX: Final = "unreadable"
"""Stands in records for the prefix of what does not look like a key: what a stranger wrote is not recorded."""

_KEY: Final = re.compile(r"(hf_[a-z2-7]{8})_[A-Za-z0-9_-]{43}")
_REASONS: Final = {
    "revoked": "the API key was revoked",
    "expired": "the API key has expired",
    "unknown": "the API key is not known",
    "malformed": "this is not an API key",
}

_AUTHENTICATE = text("SELECT * FROM authenticate_key(:key_hash)")

_INSERT = text("""
    INSERT INTO api_keys (tenant_id, key_id, user_id, project_id, prefix, key_hash, roles, expires_at)
    VALUES (:tenant_id, :key_id, :user_id, :project_id, :prefix, :key_hash, :roles, now() + CAST(:life AS interval))
""")

_LIST = text("""
    SELECT k.key_id, k.prefix, u.name AS user_name, p.slug AS project, k.roles, k.created_at, k.expires_at, k.revoked_at
    FROM api_keys k
    JOIN users u ON u.tenant_id = k.tenant_id AND u.user_id = k.user_id
    JOIN projects p ON p.tenant_id = k.tenant_id AND p.project_id = k.project_id
    WHERE k.tenant_id = :tenant_id AND k.key_id > :after ORDER BY k.key_id LIMIT :count
""")

_READ = text("""
    SELECT k.key_id, k.prefix, u.name AS user_name, p.slug AS project, k.roles, k.created_at, k.expires_at, k.revoked_at
    FROM api_keys k
    JOIN users u ON u.tenant_id = k.tenant_id AND u.user_id = k.user_id
    JOIN projects p ON p.tenant_id = k.tenant_id AND p.project_id = k.project_id
    WHERE k.tenant_id = :tenant_id AND k.key_id = :key_id
""")

_REVOKE = text("""
    UPDATE api_keys SET revoked_at = now()
    WHERE tenant_id = :tenant_id AND key_id = :key_id AND revoked_at IS NULL RETURNING 1
""")


class KeyRefused(NotAuthenticated):
    """A key is malformed, unknown, expired or revoked.

    Attributes:
        prefix: The part of the key that may be shown.
        reason: `malformed`, `unknown`, `expired` or `revoked`.
    """

    def __init__(self, prefix: str, reason: str) -> None:
        super().__init__(_REASONS[reason], remedy="send `Authorization: Bearer hf_…` with a valid key")
        self.prefix = prefix
        self.reason = reason


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as it may be shown."""

    key_id: UUID
    prefix: str
    user: str
    project: str
    roles: Sequence[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def _hash(key: str) -> bytes:
    # 32 random bytes need no slow hash: there is nothing to guess
    return hashlib.sha256(key.encode("ascii")).digest()


async def authenticate(engine: AsyncEngine, key: str) -> Principal:
    """Returns who a key stands for. Nothing is kept between calls, so a revoked key is refused at once.

    Args:
        engine: Database as a role that may call `authenticate_key`.
        key: The key as it was sent.

    Raises:
        KeyRefused: It is malformed, unknown, expired or revoked.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        raise KeyRefused(UNREADABLE_PREFIX, "malformed")
    async with tenantless(engine) as connection:
        row = (await connection.execute(_AUTHENTICATE, {"key_hash": _hash(key)})).one_or_none()
    if row is None:
        raise KeyRefused(match[1], "unknown")
    if row.state != "valid":
        raise KeyRefused(match[1], row.state)
    return Principal(
        tenant_id=row.tenant_id,
        tenant=row.tenant_slug,
        project_id=row.project_id,
        project=row.project_slug,
        user_id=row.user_id,
        user=row.user_name,
        key_id=row.key_id,
        roles=frozenset(row.roles),
    )


async def create_key(
    connection: AsyncConnection,
    tenant_id: UUID,
    *,
    user_id: UUID,
    project_id: UUID,
    roles: Iterable[str],
    life: timedelta | None = None,
) -> tuple[UUID, str]:
    """Makes a key and returns its id and the key itself, which is stored nowhere.

    Raises:
        RequestInvalid: A role cannot be given.
    """
    names = check_roles(roles, tenant_id=tenant_id)
    prefix = "hf_" + base64.b32encode(secrets.token_bytes(5)).decode("ascii").lower()
    key = f"{prefix}_{base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b'=').decode('ascii')}"
    key_id = new_id()
    await connection.execute(
        _INSERT,
        {
            "tenant_id": tenant_id,
            "key_id": key_id,
            "user_id": user_id,
            "project_id": project_id,
            "prefix": prefix,
            "key_hash": _hash(key),
            "roles": names,
            "life": life,
        },
    )
    return key_id, key


async def list_keys(connection: AsyncConnection, tenant_id: UUID, *, after: UUID, count: int) -> list[KeyView]:
    """Returns keys with ids above `after`, in order of their making; revoked ones too."""
    rows = await connection.execute(_LIST, {"tenant_id": tenant_id, "after": after, "count": count})
    return [KeyView(*row) for row in rows]


async def read_key(connection: AsyncConnection, tenant_id: UUID, key_id: UUID) -> KeyView:
    """Returns one key.

    Raises:
        NotFound: The tenant has no such key.
    """
    row = (await connection.execute(_READ, {"tenant_id": tenant_id, "key_id": key_id})).one_or_none()
    if row is None:
        raise NotFound(f"there is no key {key_id}")
    return KeyView(*row)


async def revoke_key(connection: AsyncConnection, tenant_id: UUID, key_id: UUID) -> bool:
    """Revokes a key at once and says whether it was in force."""
    result = await connection.execute(_REVOKE, {"tenant_id": tenant_id, "key_id": key_id})
    return result.one_or_none() is not None
