"""Temporal's SQLite file, copied while the server writes to it, as it was at one moment."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final, Literal

from cli.backup.errors import BackupFailed, RestoreFailed
from cli.backup.manifest import TEMPORAL_SQLITE
from cli.backup.progress import telling
from cli.stack.temporal_program import SERVER_VERSION

_PAGES: Final = 2_000
_BUSY_S: Final = 10.0


class TemporalFile:
    """A snapshot of the file: taken by `open`, copied by `copy_to`.

    Its journal is a WAL, in which a reader keeps seeing what it began with and holds no writer up.
    """

    store: Final[Literal["sqlite"]] = "sqlite"

    def __init__(self, path: Path) -> None:
        self.version = SERVER_VERSION
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._done = ""

    async def prepare(self) -> None:
        """Nothing takes long here."""

    async def open(self) -> None:
        """Takes the snapshot.

        Raises:
            BackupFailed: The file is not there, or is not Temporal's.
        """
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        try:
            connection = sqlite3.connect(
                f"{self._path.as_uri()}?mode=ro",
                uri=True,
                timeout=_BUSY_S,
                check_same_thread=False,  # one thread at a time has it
                isolation_level=None,
            )
            self._connection = connection
            connection.execute("BEGIN")
            # only a read makes it a snapshot
            connection.execute("SELECT count(*) FROM executions").fetchone()
        except sqlite3.Error as error:
            raise BackupFailed(f"cannot read Temporal's file {self._path}: {error}") from None

    async def copy_to(self, folder: Path, say: Callable[[str], None]) -> None:
        """Copies the snapshot, checks the copy and packs it.

        Raises:
            BackupFailed: The copy is not whole.
        """
        target = folder / TEMPORAL_SQLITE
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with telling(say, "copying Temporal's state", lambda: self._done or "beginning"):
            await asyncio.to_thread(self._copy, target)

    def _copy(self, target: Path) -> None:
        assert self._connection is not None  # open comes first
        plain = target.with_suffix("")
        try:
            with closing(sqlite3.connect(plain)) as copy:
                self._connection.backup(copy, pages=_PAGES, progress=self._note)
                # the copy is one file: what it was told of a WAL goes
                copy.execute("PRAGMA journal_mode = DELETE")
                [[verdict]] = copy.execute("PRAGMA quick_check(1)").fetchall()
        except sqlite3.Error as error:
            raise BackupFailed(f"copying Temporal's state failed: {error}") from None
        if verdict != "ok":
            raise BackupFailed(f"Temporal's file {self._path} is damaged: {verdict}")
        self._done = "packing"
        with plain.open("rb") as raw, gzip.GzipFile(target, "wb", compresslevel=6, mtime=0) as packed:
            shutil.copyfileobj(raw, packed, 1 << 20)
        plain.unlink()

    def _note(self, _: int, left: int, total: int) -> None:
        self._done = f"{total - left} of {total} pages"

    async def close(self) -> None:
        """Gives the snapshot up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def unpack(source: Path, target: Path) -> None:
    """Puts a packed copy where Temporal looks for its file.

    Raises:
        RestoreFailed: It cannot be read back.
    """
    try:
        with gzip.open(source, "rb") as packed, target.open("wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
        target.chmod(0o600)
        with closing(sqlite3.connect(target)) as check:
            [[verdict]] = check.execute("PRAGMA quick_check(1)").fetchall()
    except (OSError, EOFError, sqlite3.Error) as error:
        raise RestoreFailed(f"Temporal's state cannot be read back: {error}") from None
    if verdict != "ok":
        raise RestoreFailed(f"Temporal's state is damaged: {verdict}")
