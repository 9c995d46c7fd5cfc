"""A job's files: inputs laid into its folder before its code is there, outputs taken out after its last process is gone."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from sandbox.errors import JobInvalid
from sandbox.job import Limits, OutputFile

_DEPTH_MAX: Final = 16
_NAME_MAX: Final = 512
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS: Final = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_name(name: str) -> list[str]:
    """Returns the parts of a file's name within the job's folder.

    Raises:
        JobInvalid: If it is no such name.
    """
    parts = name.split("/")
    if len(name.encode("utf-8", "surrogatepass")) > _NAME_MAX or len(parts) > _DEPTH_MAX or not name.isprintable():
        raise JobInvalid(f"the file name {name[:80]!r} is too long or too deep, or has control characters")
    if any(part in ("", ".", "..") for part in parts):
        raise JobInvalid(f"the file name {name!r} is not one within the job's folder")
    return parts


def lay(folder: int, files: Mapping[str, bytes | Path], owner: int | None) -> dict[str, str]:
    """Writes input files into `work`; returns their digests by name.

    Args:
        folder: Descriptor of the job's tmpfs.
        files: The files.
        owner: The uid that they shall belong to, if it is not the writer's own.
    """
    digests = {}
    for name, content in files.items():
        parts = check_name(name)
        data = content if isinstance(content, bytes) else content.read_bytes()
        at = os.open("work", _FOLDER, dir_fd=folder)
        try:
            for part in parts[:-1]:
                at = _enter(at, part, owner)
            _create(at, parts[-1], data, owner)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise JobInvalid(f"the file {name!r} cannot be laid into the job's folder: {error.strerror}") from error
            raise
        finally:
            os.close(at)
        digests[name] = hashlib.sha256(data).hexdigest()
    return digests


def _enter(at: int, part: str, owner: int | None) -> int:
    try:
        os.mkdir(part, 0o700, dir_fd=at)
        if owner is not None:
            os.chown(part, owner, owner, dir_fd=at, follow_symlinks=False)
    except FileExistsError:
        pass  # laid for an earlier file; opening it says if it is no folder
    deeper = os.open(part, _FOLDER, dir_fd=at)
    os.close(at)
    return deeper


def _create(at: int, name: str, data: bytes, owner: int | None) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=at)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        if owner is not None:
            os.fchown(file.fileno(), owner, owner)


def is_full(folder: int) -> bool:
    """Says whether a job's tmpfs has no room left."""
    disk = os.statvfs(folder)
    return disk.f_bavail == 0 or disk.f_favail == 0


class Collector:
    """Takes a job's output files, one after another, within its limits; says of every other why it was left."""

    def __init__(self, limits: Limits, laid: Mapping[str, str], target: Path | None) -> None:
        self.files: list[OutputFile] = []
        self.refused: dict[str, str] = {}
        self._left_bytes = limits.collected_bytes
        self._left_files = limits.collected_files
        self._left_looks = limits.disk_files
        self._laid = laid
        self._target = target

    def collect(self, folder: int) -> None:
        """Looks through `work`. Every process of a job is gone then; those of a session may still be at work there.

        What a job has done to its folder never makes this fail: without a uid of its own it can close it, also to the sandbox.
        """
        try:
            self._walk(os.open("work", _FOLDER, dir_fd=folder), "", 1)
        except OSError as error:
            self._refuse(".", error.strerror or "it cannot be read")

    def _refuse(self, name: str, why: str) -> None:
        if len(self.refused) < 100:  # noqa: PLR2004 (a list for people)
            self.refused[name.encode("unicode_escape", "backslashreplace").decode()[:_NAME_MAX]] = why

    def _walk(self, at: int, prefix: str, depth: int) -> None:
        try:
            for entry in self._entries(at):
                name = f"{prefix}{entry}"
                self._left_looks -= 1
                if self._left_looks < 0:
                    self._refuse(name, "too many files")
                    return
                try:
                    check_name(name)
                    found = os.stat(entry, dir_fd=at, follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        if depth >= _DEPTH_MAX:
                            self._refuse(name, "too deep")
                            continue
                        self._walk(os.open(entry, _FOLDER, dir_fd=at), f"{name}/", depth + 1)
                    else:
                        self._take(at, entry, name, found)
                except JobInvalid:
                    self._refuse(name, "its name")
                except OSError as error:
                    self._refuse(name, error.strerror or "it cannot be read")
        finally:
            os.close(at)

    @staticmethod
    def _entries(at: int) -> Iterator[str]:
        return iter(sorted(os.listdir(at)))

    def _take(self, at: int, entry: str, name: str, found: os.stat_result) -> None:
        kind = next((words for test, words in _KINDS if test(found.st_mode)), "")
        if kind or found.st_nlink != 1:
            self._refuse(name, kind or "a hard link")
            return
        fd = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
        try:
            self._read(fd, name)
        finally:
            os.close(fd)

    def _read(self, fd: int, name: str) -> None:
        opened = os.fstat(fd)
        if not stat.S_ISREG(opened.st_mode) or opened.st_nlink != 1:
            self._refuse(name, "no plain file")
        elif self._left_files <= 0:
            self._refuse(name, "too many output files")
        elif opened.st_size > self._left_bytes:
            self._refuse(name, "output files are too large")
        else:
            with os.fdopen(fd, "rb", closefd=False) as file:
                content = file.read(opened.st_size)
            digest = hashlib.sha256(content).hexdigest()
            if self._laid.get(name) != digest:
                self._left_bytes -= len(content)
                self._left_files -= 1
                self.files.append(OutputFile(name, len(content), digest, self._put(name, content)))

    def _put(self, name: str, content: bytes) -> bytes | Path:
        if self._target is None:
            return content
        path = self._target / name  # its parts were checked: none is empty, `.` or `..`
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content)
        return path
