"""The contents of runs' files in a backup: packed after the point, unpacked each by its digest, and compared with what the rows name.

A content lies in the folder before a row names it, and is never changed nor removed. So whatever the rows of the point name is
there when it is packed afterwards; what came since is packed as well, and nothing points at it.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.artefacts.reading import files_of
from holdfast.artefacts.storage import key_of

_NAME: Final = re.compile(r"(?P<tenant>[0-9a-f-]{36})/(?P<shelf>[0-9a-f]{2})/(?P<sha256>[0-9a-f]{64})")
_CHUNK: Final = 1 << 20
_GIVEN: Final = text("SELECT tenant_id, run_id, name, size_bytes, encode(sha256, 'hex') AS sha256 FROM run_files")
_MADE: Final = text("""
    SELECT h.tenant_id, h.run_id, o.result FROM holds h JOIN outcomes o ON o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id
    WHERE h.kind = 'code.exec' AND h.state IN ('executed', 'committed')
""")


def pack(folder: Path, target: Path, *, progress: Callable[[int], None] = lambda _: None) -> int:
    """Packs all contents of a folder into one plain tar; returns how many. What is half written has another name, and stays out."""
    count = size = 0
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(folder.glob("*/*/*")):
            name = str(path.relative_to(folder))
            if _NAME.fullmatch(name) is None or not path.is_file() or path.is_symlink():
                continue
            with path.open("rb") as file:
                info = tarfile.TarInfo(name)
                info.size, info.mode = os.fstat(file.fileno()).st_size, 0o600
                tar.addfile(info, file)
            count, size = count + 1, size + info.size
            progress(size)
    target.chmod(0o600)
    return count


def unpack(source: Path, folder: Path) -> None:
    """Unpacks contents into a folder: plain files by their digests, and no other; one that was changed is left out."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tarfile.open(source, "r:") as tar:
        for entry in tar:
            match = _NAME.fullmatch(entry.name)
            if match is None or not entry.isfile() or match["shelf"] != match["sha256"][:2]:
                continue
            content = tar.extractfile(entry)
            assert content is not None  # it is a file
            _write(content, folder / entry.name, match["sha256"])


def _write(content: IO[bytes], path: Path, sha256: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part, digest = path.with_suffix(".part"), hashlib.sha256()
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() == sha256:
        part.rename(path)
    else:
        part.unlink()


async def lost(engine: AsyncEngine, folder: Path) -> tuple[int, list[str]]:
    """Compares what the rows name with what lies in the folder.

    Returns:
        How many files the rows name, and those whose content is not there: `run/name`.
    """
    named, missing = 0, []
    async for tenant_id, run_id, name, size_bytes, sha256 in _named(engine):
        named += 1
        path = folder / key_of(tenant_id, sha256)
        if not path.is_file() or path.stat().st_size != size_bytes:
            missing.append(f"{run_id}/{name}")
    return named, missing


async def _named(engine: AsyncEngine) -> AsyncIterator[tuple[UUID, UUID, str, object, str]]:
    """Yields what runs were given and what their code has made; the engine's role sees the rows of all tenants."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")  # cursors live in a transaction
        async for row in await connection.stream(_GIVEN):
            yield row.tenant_id, row.run_id, row.name, row.size_bytes, row.sha256
        async for row in await connection.stream(_MADE):
            for file in files_of(row.result):
                yield row.tenant_id, row.run_id, str(file["name"]), file["size_bytes"], str(file["sha256"])
