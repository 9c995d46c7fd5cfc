"""The vault: credentials, sealed with AES-256-GCM under a master key that only the broker holds. Never read back by people."""

from __future__ import annotations

import os
from collections.abc import Mapping
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.errors import ConfigurationInvalid, CredentialMissing
from holdfast_verdict.canonical import JsonValue

_PUT = text("""
    INSERT INTO vault_entries (tenant_id, name, nonce, ciphertext) VALUES (:tenant_id, :name, :nonce, :ciphertext)
    ON CONFLICT (tenant_id, name) DO UPDATE SET nonce = excluded.nonce, ciphertext = excluded.ciphertext, updated_at = now()
""")
_GET = text("SELECT nonce, ciphertext FROM vault_entries WHERE tenant_id = :tenant_id AND name = :name")
_LIST = text("SELECT name, updated_at FROM vault_entries WHERE tenant_id = :tenant_id ORDER BY name")
_DELETE = text("DELETE FROM vault_entries WHERE tenant_id = :tenant_id AND name = :name")


class Vault:
    """Seals and opens credentials. The tenant and the name are authenticated with each, so none can be moved."""

    def __init__(self, master_key: bytes) -> None:
        self._cipher = AESGCM(master_key)

    async def put(
        self, connection: AsyncConnection, tenant_id: UUID, name: str, credential: Mapping[str, JsonValue]
    ) -> None:
        """Stores a credential, replacing the one of that name."""
        nonce = os.urandom(12)
        sealed = self._cipher.encrypt(nonce, orjson.dumps(dict(credential)), _bound_to(tenant_id, name))
        await connection.execute(_PUT, {"tenant_id": tenant_id, "name": name, "nonce": nonce, "ciphertext": sealed})

    async def open(self, connection: AsyncConnection, tenant_id: UUID, name: str) -> dict[str, JsonValue]:
        """Returns a credential.

        Raises:
            CredentialMissing: The tenant has none of that name.
            ConfigurationInvalid: It cannot be opened: the master key is another one, or the row was tampered with.
        """
        row = (await connection.execute(_GET, {"tenant_id": tenant_id, "name": name})).one_or_none()
        if row is None:
            raise CredentialMissing(f"the vault has no entry {name}", remedy=f"holdfast vault put {name}")
        try:
            credential: dict[str, JsonValue] = orjson.loads(
                self._cipher.decrypt(row.nonce, row.ciphertext, _bound_to(tenant_id, name))
            )
        except InvalidTag:
            raise ConfigurationInvalid(
                f"the vault entry {name} does not open", remedy="is this the master key it was sealed with?"
            ) from None
        return credential

    @staticmethod
    async def names(connection: AsyncConnection, tenant_id: UUID) -> list[tuple[str, str]]:
        """Returns name and time of change of each entry."""
        rows = await connection.execute(_LIST, {"tenant_id": tenant_id})
        return [(row.name, row.updated_at.isoformat()) for row in rows]

    @staticmethod
    async def delete(connection: AsyncConnection, tenant_id: UUID, name: str) -> bool:
        """Deletes an entry and says whether there was one."""
        result = await connection.execute(_DELETE, {"tenant_id": tenant_id, "name": name})
        return result.rowcount > 0


def _bound_to(tenant_id: UUID, name: str) -> bytes:
    return b"holdfast vault v1\x00" + tenant_id.bytes + name.encode()
