"""The log file of a child: written by the child itself, bounded and read by the supervisor."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Final

_BYTES_MAX: Final = 32 * 1024 * 1024
_TAIL_BYTES: Final = 16 * 1024


class LogFile:
    """A child's stdout and stderr. Nothing passes through the supervisor, so a slow one never holds a child up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rest = b""
        self._events: set[str] = set()

    def open(self) -> IO[bytes]:
        """Opens it for a child; every write goes to the end."""
        return os.fdopen(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab", buffering=0)

    def begin(self) -> None:
        """Forgets what earlier starts have logged."""
        self.bound()
        self._offset = self.path.stat().st_size if self.path.exists() else 0
        self._rest = b""
        self._events.clear()

    def bound(self) -> None:
        """Keeps one older file beside it once it has grown too large."""
        if not self.path.exists() or self.path.stat().st_size <= _BYTES_MAX:
            return
        older = self.path.with_suffix(".log.1")
        with self.path.open("rb") as source, os.fdopen(os.open(older, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as target:
            target.truncate()
            while block := source.read(1 << 20):
                target.write(block)
        os.truncate(self.path, 0)  # the child keeps the same open file, whose next write goes to the new end
        self._offset = 0

    def has_event(self, name: str) -> bool:
        """Says whether the child has logged a JSON line with this `event` since it was started."""
        if not self.path.exists():
            return False
        with self.path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read()
        self._offset += len(fresh)
        *lines, self._rest = (self._rest + fresh).split(b"\n")
        for line in lines:
            if not line.startswith(b"{"):
                continue
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(event := record.get("event"), str):
                self._events.add(event)
        return name in self._events

    def tail(self, count: int) -> list[str]:
        """Returns its last lines."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()[-count:]
