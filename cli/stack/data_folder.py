"""The data folder: where everything of one stack lies, and the lock that lets only one supervisor use it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import platformdirs

from cli.stack.errors import AlreadyRunning, DataFolderInvalid, DiskFull

if TYPE_CHECKING:
    from pydantic import JsonValue


_FREE_BYTES_MIN: Final = 128 * 1024 * 1024
"""PostgreSQL's first cluster takes half of it, and what a start writes into one that exists is less."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def default_path() -> Path:
    """Returns the folder that is used when none is named."""
    return Path("/var/lib/holdfast") if os.geteuid() == 0 else Path(platformdirs.user_data_dir("holdfast"))


def write_atomically(path: Path, content: str, mode: int = 0o600) -> None:
    """Writes a file that readers see whole or not at all, also after a crash."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


@dataclass(slots=True)
class DataFolder:
    """One stack's folder. Its lock is held by an open file, so the kernel gives it up however the supervisor ends."""

    path: Path
    _lock: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.path = self.path.expanduser().absolute()

    @property
    def postgres(self) -> Path:
        """PostgreSQL's own folder, the only one that may belong to another account."""
        return self.path / "postgres"

    @property
    def valkey(self) -> Path:
        """Valkey's append-only file."""
        return self.path / "valkey"

    @property
    def temporal(self) -> Path:
        """Temporal's SQLite file."""
        return self.path / "temporal"

    @property
    def secrets(self) -> Path:
        """Keys and passwords, 0700."""
        return self.path / "secrets"

    @property
    def logs(self) -> Path:
        """One log file for each child."""
        return self.path / "logs"

    @property
    def objects(self) -> Path:
        """The contents of runs' files."""
        return self.path / "objects"

    @property
    def backups(self) -> Path:
        """Where backups go for which no other place is named."""
        return self.path / "backups"

    @property
    def state_file(self) -> Path:
        """What `status` and `down` read."""
        return self.path / "stack.json"

    @property
    def lock_file(self) -> Path:
        """Locked, and names the supervisor's process id, while a stack runs."""
        return self.path / "lock"

    def create(self) -> None:
        """Makes the folder and those inside it.

        Root's folder can be entered by others, as PostgreSQL then runs under another account; what it holds cannot.

        Raises:
            DataFolderInvalid: It cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o755 if os.geteuid() == 0 else 0o700)
            for folder in (self.postgres, self.valkey, self.temporal, self.logs):
                folder.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise DataFolderInvalid(
                f"cannot use {self.path} as data folder: {error.strerror} ({error.filename})",
                remedy="choose another with --data-dir",
            ) from None

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Says in a sentence what keeps the block from writing into the folder.

        Raises:
            DiskFull: There is no space left.
            DataFolderInvalid: It may not be written.
        """
        try:
            yield
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            if error.errno in _FULL:
                raise DiskFull(
                    f"there is no space left where {self.path} lies{where}",
                    remedy="make space, or choose another --data-dir",
                ) from None
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise DataFolderInvalid(
                    f"cannot use {self.path} as data folder: {error.strerror}{where}",
                    remedy="run it as the user to whom the folder belongs, or choose another --data-dir",
                ) from None
            raise

    def check_space(self) -> None:
        """Looks before anything is written whether there is enough space for a start.

        Raises:
            DiskFull: There is not.
        """
        free = shutil.disk_usage(self.path).free
        if free < _FREE_BYTES_MIN:
            raise DiskFull(
                f"only {free // 2**20} MB are free where {self.path} lies; a start needs {_FREE_BYTES_MIN // 2**20} MB",
                remedy="make space, or choose another --data-dir",
            )

    def lock(self) -> None:
        """Takes the lock for the life of this process.

        Raises:
            AlreadyRunning: Another supervisor has it.
        """
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise AlreadyRunning(
                f"Holdfast already runs on {self.path} (process {self.running_pid() or 'unknown'})",
                remedy=f"stop it with `holdfast down --data-dir {self.path}`, or choose another --data-dir",
            ) from None
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except OSError:
            os.close(descriptor)  # which gives the lock up
            raise
        self._lock = descriptor

    def unlock(self) -> None:
        """Gives the lock up."""
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def running_pid(self) -> int | None:
        """Returns the process id of the supervisor that holds the lock, if one does."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.read(descriptor, 32).decode("ascii", "replace").strip()
            return int(text) if text.isdecimal() else None
        finally:
            os.close(descriptor)
        return None

    def write_state(self, state: dict[str, JsonValue]) -> None:
        """Stores what `status` shows."""
        write_atomically(self.state_file, json.dumps(state, indent=2) + "\n", mode=0o644)

    def read_state(self) -> dict[str, JsonValue]:
        """Reads what the last supervisor stored; empty if there was none yet."""
        try:
            state = json.loads(self.state_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise DataFolderInvalid(f"{self.state_file} is damaged: {error}", remedy="remove it") from None
        if not isinstance(state, dict):
            raise DataFolderInvalid(f"{self.state_file} is damaged: no object", remedy="remove it")
        return state
