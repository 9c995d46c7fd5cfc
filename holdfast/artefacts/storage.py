"""Object storage: contents by tenant and digest, wherever they are kept, and the errors that it has everywhere."""

from __future__ import annotations

import hashlib
import re
from typing import Final, Protocol
from uuid import UUID

from holdfast.errors import HoldfastError, Unavailable

OBJECT_BYTES_MAX: Final = 64 * 2**20
"""Bytes of one content; more is neither kept nor read."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class ArtefactLost(HoldfastError):
    """A file's content is not in object storage, or is not what its digest says."""

    code = "artefact.lost"
    status = 500


class StorageUnavailable(Unavailable):
    """Object storage does not answer, or broke off in the middle; the same may be asked again."""

    code = "artefact.storage_unavailable"


class StorageRefused(HoldfastError):
    """Object storage answers, and refuses: another key, no such bucket, no right to write."""

    code = "artefact.storage_refused"
    status = 502


class ObjectStorage(Protocol):
    """Where contents are kept. A content is written once and never changed."""

    async def put(self, tenant_id: UUID, content: bytes) -> str:
        """Keeps a content and returns its digest; one that is there is left as it is.

        Raises:
            HoldfastError: It is not kept.
        """

    async def get(self, tenant_id: UUID, sha256: str, size_bytes: int) -> bytes:
        """Returns a content, of which it has made sure that it is the one of that digest.

        Args:
            tenant_id: Whose it is.
            sha256: Its digest, hex.
            size_bytes: Its size; not a byte more is read.

        Raises:
            ArtefactLost: It is not there, or was changed.
        """


def key_of(tenant_id: UUID, sha256: str) -> str:
    """Returns where a content lies, below the folder or the bucket's prefix.

    Raises:
        ArtefactLost: That is no digest.
    """
    # INVARIANT (LAW 5): the tenant is part of the path, and neither part can be anything but what it says
    if not isinstance(tenant_id, UUID) or _DIGEST.fullmatch(sha256) is None:
        raise ArtefactLost(f"{sha256[:80]!r} is no digest")
    return f"{tenant_id}/{sha256[:2]}/{sha256}"


def check(content: bytes, sha256: str, size_bytes: int) -> bytes:
    """Returns the content if it is the one.

    Raises:
        ArtefactLost: It was changed.
    """
    if len(content) != size_bytes or hashlib.sha256(content).hexdigest() != sha256:
        raise ArtefactLost(
            f"the content {sha256[:12]}… in object storage was changed", remedy="restore it from a backup"
        )
    return content


def missing(sha256: str, why: str) -> ArtefactLost:
    """Returns the error of a content that is not there."""
    return ArtefactLost(
        f"the content {sha256[:12]}… is not in object storage: {why}",
        remedy="restore the objects from a backup; every process must reach the same ones",
    )
