"""Object storage in a folder, in it one for each tenant, in that each content under its own digest.

What nothing points at any more, such as after a crash between writing a file and storing the outcome that names it, lies there
and harms nobody.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from pathlib import Path
from uuid import UUID

from holdfast.artefacts import storage
from holdfast.artefacts.storage import StorageRefused


class ObjectFolder:
    """Keeps contents by tenant and digest.

    Args:
        folder: Where; made when the first content is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, tenant_id: UUID, content: bytes) -> str:
        """See `ObjectStorage.put`."""
        return await asyncio.to_thread(self._put, tenant_id, content)

    async def get(self, tenant_id: UUID, sha256: str, size_bytes: int) -> bytes:
        """See `ObjectStorage.get`."""
        return await asyncio.to_thread(self._get, tenant_id, sha256, size_bytes)

    def _put(self, tenant_id: UUID, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._folder / storage.key_of(tenant_id, sha256)
        try:
            _write(self._folder, path, content)
        except OSError as error:
            raise StorageRefused(
                f"a content cannot be kept: {error.strerror}", remedy="make room, or give the process its folder"
            ) from None
        return sha256

    def _get(self, tenant_id: UUID, sha256: str, size_bytes: int) -> bytes:
        try:
            with (self._folder / storage.key_of(tenant_id, sha256)).open("rb") as file:
                content = file.read(size_bytes + 1)
        except OSError as error:
            raise storage.missing(sha256, error.strerror or type(error).__name__) from None
        return storage.check(content, sha256, size_bytes)


def _write(folder: Path, path: Path, content: bytes) -> None:
    """Writes a content once; whoever finds a file there finds all of it."""
    if path.exists():
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
