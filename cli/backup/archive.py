"""The archive: a tar whose first member is the manifest and whose last seals every byte before it.

It is written beside its place and takes its name when it is whole. Whoever reads it checks all of it first.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from pydantic import ValidationError

from cli.backup.errors import BackupFailed, BackupInvalid
from cli.backup.manifest import FORMAT, FORMAT_VERSION, MANIFEST, SEAL, Manifest, Member

_CHUNK: Final = 1 << 20
_MANIFEST_BYTES_MAX: Final = 1 << 20
_ANOTHER = "take another backup; `holdfast backup verify FILE` says which can be trusted"


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def members_of(folder: Path) -> tuple[Member, ...]:
    """Describes all files below a folder, by name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(
        Member(name=str(path.relative_to(folder)), size=path.stat().st_size, sha256=digest_of(path)) for path in files
    )


def _header(name: str, size: int, manifest: Manifest) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(manifest.created_at.timestamp())
    return info


class _Hashing(io.RawIOBase):
    """Passes everything on to a file, and hashes it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # tarfile writes bytes only
        self.digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()


def write_archive(target: Path, folder: Path, manifest: Manifest) -> None:
    """Writes an archive of a folder's files, as the manifest lists them; it is there whole, or not at all.

    Raises:
        BackupFailed: The disk is full, or there is such a file already.
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            _write(file, folder, manifest)
            file.flush()
            os.fsync(file.fileno())
        _name(draft, target)
    except FileExistsError:
        raise BackupFailed(f"{target} is there already", remedy="name another file with --to") from None
    except OSError as error:
        raise BackupFailed(
            f"cannot write {target}: {error.strerror}", remedy="make room, or name another place with --to"
        ) from None
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _name(draft: Path, target: Path) -> None:
    """Gives a whole file its name; never that of a file which is there."""
    try:
        os.link(draft, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK) or target.exists():
            raise
        draft.rename(target)  # this file system knows no second names


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(file: IO[bytes], folder: Path, manifest: Manifest) -> None:
    hashing = _Hashing(file)
    text = (manifest.model_dump_json(indent=2) + "\n").encode()
    with tarfile.open(fileobj=hashing, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(_header(MANIFEST, len(text), manifest), io.BytesIO(text))
        for member in manifest.members:
            with (folder / member.name).open("rb") as content:
                tar.addfile(_header(member.name, member.size, manifest), content)
        seal = f"{hashing.digest.hexdigest()}\n".encode()
        tar.addfile(_header(SEAL, len(seal), manifest), io.BytesIO(seal))


def _tail(seal: bytes, at: int, manifest: Manifest) -> bytes:
    """Returns what follows the last byte that the seal speaks for: the seal itself, and tar's end."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.offset = at  # the padding at the end depends on where it is
        tar.addfile(_header(SEAL, len(seal), manifest), io.BytesIO(seal))
    return written.getvalue()


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise BackupInvalid(f"cannot read {path}: {error.strerror}") from None


def _damaged(path: Path, how: str) -> BackupInvalid:
    return BackupInvalid(f"{path} is damaged: {how}", remedy=_ANOTHER)


def _raw_manifest(path: Path, tar: tarfile.TarFile) -> dict[str, object]:
    first = tar.next()
    if first is None or first.name != MANIFEST or first.size > _MANIFEST_BYTES_MAX:
        raise BackupInvalid(f"{path} is no backup of Holdfast")
    content = tar.extractfile(first)
    assert content is not None  # it is a plain file
    try:
        raw = json.loads(content.read())
    except ValueError:
        raw = None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise _damaged(path, "its manifest cannot be read")
    return raw


def read_manifest(path: Path) -> Manifest:
    """Reads what a backup says of itself, without checking the rest.

    Raises:
        BackupInvalid: It is no backup, or of a newer version.
    """
    with _opened(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                return _parsed(path, _raw_manifest(path, tar))
        except (tarfile.TarError, EOFError):
            raise BackupInvalid(f"{path} is no backup of Holdfast, or the beginning of it is damaged") from None


def _parsed(path: Path, raw: dict[str, object]) -> Manifest:
    version = raw.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BackupInvalid(
            f"{path} was made by a newer version of Holdfast (form {version}; this one knows {FORMAT_VERSION})",
            remedy="restore it with that version",
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        raise _damaged(path, f"its manifest is not as it should be ({error.error_count()} faults)") from None


def verify(path: Path, *, progress: Callable[[int], None] = lambda _: None) -> Manifest:
    """Reads all of a backup and checks every byte.

    Args:
        path: The archive.
        progress: Gets the number of bytes that were read.

    Raises:
        BackupInvalid: A byte is not as it was written, some are missing, or it is of a newer version.
    """
    with _opened(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                raw = _raw_manifest(path, tar)
                entries = tar.getmembers()
        except (tarfile.TarError, EOFError):
            raise _damaged(path, "it is cut off, or a header in it is not as it was written") from None
        last = entries[-1]
        if last.name != SEAL:
            _parsed(path, raw)  # a newer form may have another end
            raise _damaged(path, "its end is missing")
        file.seek(last.offset_data)
        seal = file.read(last.size)
        if f"{_digest(file, last.offset, progress)}\n".encode() != seal:
            raise _damaged(path, "its content is not what was written")
        manifest = _parsed(path, raw)
        file.seek(last.offset)
        if file.read() != _tail(seal, last.offset, manifest):
            raise _damaged(path, "its end is not what was written")
        _compare(path, file, entries[1:-1], manifest)
    return manifest


def _digest(file: IO[bytes], size: int, progress: Callable[[int], None]) -> str:
    file.seek(0)
    digest, left = hashlib.sha256(), size
    while left and (chunk := file.read(min(_CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
        progress(size - left)
    return digest.hexdigest()


def _compare(path: Path, file: IO[bytes], entries: list[tarfile.TarInfo], manifest: Manifest) -> None:
    """Each member is the one that the manifest lists, under a name that stays inside of a folder."""
    if [(entry.name, entry.size) for entry in entries] != [(each.name, each.size) for each in manifest.members]:
        raise _damaged(path, "it does not hold what its manifest lists")
    for entry, member in zip(entries, manifest.members, strict=True):
        if not entry.isfile() or entry.name.startswith("/") or ".." in Path(entry.name).parts:
            raise _damaged(path, f"{entry.name} is no member of a backup")
        file.seek(entry.offset_data)
        digest, left = hashlib.sha256(), entry.size
        while left and (chunk := file.read(min(_CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
        if digest.hexdigest() != member.sha256:
            raise _damaged(path, f"{entry.name} is not what its manifest lists")


def extract(path: Path, manifest: Manifest, wanted: Callable[[str], bool], folder: Path) -> None:
    """Writes members of a checked backup into a folder, each compared with its digest once more.

    Raises:
        BackupInvalid: The file was changed since it was checked.
        RestoreFailed: The disk is full.
    """
    with _opened(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in manifest.members:
            if not wanted(member.name):
                continue
            target = folder / member.name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            content = tar.extractfile(member.name)
            assert content is not None  # it was checked
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                shutil.copyfileobj(content, out, _CHUNK)
            if digest_of(target) != member.sha256:
                raise _damaged(path, f"{member.name} has changed since it was checked")
