"""Object storage: a folder, in it one for each tenant, in that each content under its own digest.

A content is written once and never changed. What nothing points at any more, such as after a crash between writing a file and
storing the outcome that names it, lies there and harms nobody.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Final
from uuid import UUID

from holdfast.errors import HoldfastError

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class ArtefactLost(HoldfastError):
    """A file's content is not in object storage, or is not what its digest says."""

    code = "artefact.lost"
    status = 500


class ObjectFolder:
    """Keeps contents by tenant and digest.

    Args:
        folder: Where; made when the first content is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, tenant_id: UUID, sha256: str) -> Path:
        # INVARIANT (LAW 5): the tenant is part of the path, and neither part can be anything but what it says
        if not isinstance(tenant_id, UUID) or _DIGEST.fullmatch(sha256) is None:
            raise ArtefactLost(f"{sha256[:80]!r} is no digest")
        return self._folder / str(tenant_id) / sha256[:2] / sha256

    def put(self, tenant_id: UUID, content: bytes) -> str:
        """Keeps a content and returns its digest; one that is there is left as it is."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._path(tenant_id, sha256)
        if path.exists():
            return sha256
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        return sha256

    def get(self, tenant_id: UUID, sha256: str) -> bytes:
        """Returns a content, of which it has made sure that it is the one of that digest.

        Raises:
            ArtefactLost: It is not there, or was changed.
        """
        try:
            content = self._path(tenant_id, sha256).read_bytes()
        except OSError as error:
            raise ArtefactLost(
                f"the content {sha256[:12]}… is not in object storage: {error.strerror}",
                remedy="restore the objects folder from a backup; every process must name the same one",
            ) from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ArtefactLost(
                f"the content {sha256[:12]}… in object storage was changed", remedy="restore it from a backup"
            )
        return content
