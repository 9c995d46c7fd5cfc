"""What a backup is taken of: an embedded stack, running or not."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from cli.backup.errors import BackupFailed
from cli.backup.temporal_sqlite import TemporalFile
from cli.stack.data_folder import DataFolder
from cli.stack.postgres import EmbeddedPostgres
from cli.stack.secrets import load_or_create
from cli.stack.supervisor import Stack

KEY_FILES = ("permit.key", "permit.pub", "vault.key", "codec.key")
"""Without these what is in PostgreSQL and Temporal cannot be read, or no permit be made."""


@dataclass(frozen=True, slots=True)
class Source:
    """One stack's servers.

    Attributes:
        database_url: PostgreSQL, as a superuser.
        temporal: Temporal's state.
        secrets: The folder of the secrets, if it is here.
        objects: The folder of the contents of runs' files, if they are kept in one here.
    """

    label: str
    database_url: str
    temporal: TemporalState
    secrets: Path | None
    objects: Path | None = None


class TemporalState(Protocol):
    """Temporal's state, wherever it is kept."""

    @property
    def store(self) -> Literal["sqlite", "postgresql"]:
        """Where that is."""

    @property
    def version(self) -> str:
        """Of the server, or of its schema."""

    async def prepare(self) -> None:
        """Does what takes long before everything waits for `open`."""

    async def open(self) -> None:
        """Takes the snapshot."""

    async def copy_to(self, folder: Path, say: Callable[[str], None]) -> None:
        """Writes its members of the archive."""

    async def close(self) -> None:
        """Gives the snapshot up."""


def key_digest(name: str, path: Path) -> str:
    """Returns the digest of a key file; of 32 random bytes it tells nothing."""
    text = path.read_text(encoding="ascii").strip()
    return hashlib.sha256(f"holdfast backup {name} {text}".encode()).hexdigest()


def key_digests(folder: Path) -> dict[str, str]:
    """Returns the digest of each key file that a folder of secrets has, however deep."""
    found = {name: next((path for path in sorted(folder.rglob(name)) if path.is_file()), None) for name in KEY_FILES}
    return {name: key_digest(name, path) for name, path in found.items() if path is not None}


def check_folder(folder: DataFolder, superuser_url: str | None) -> None:
    """Makes sure that there is something to be backed up.

    Raises:
        BackupFailed: There is no stack's data in the folder.
    """
    if not (folder.temporal / "temporal.db").exists() or not folder.secrets.exists():
        raise BackupFailed(
            f"there is no data of a stack in {folder.path}",
            remedy="name its folder with --data-dir, as `holdfast up` has it",
        )
    if superuser_url is None and not (folder.postgres / "data" / "PG_VERSION").exists():
        raise BackupFailed(
            f"{folder.path} has no PostgreSQL of its own", remedy="set HOLDFAST_POSTGRES as it is set for `holdfast up`"
        )


def _running(folder: DataFolder, superuser_url: str | None) -> str:
    """Returns the database's URL of a stack that runs."""
    state = folder.read_state()
    ports = state.get("ports")
    if not state.get("ready") or not isinstance(ports, Mapping):
        raise BackupFailed(f"the stack on {folder.path} is being started or stopped", remedy="wait until it is up")
    if superuser_url is not None:
        return superuser_url
    secrets = load_or_create(folder.secrets, data_exists=True)
    port = int(str(ports["postgres"]))
    return EmbeddedPostgres(folder, port, secrets.database_passwords["postgres"]).superuser_url


@asynccontextmanager
async def opened(folder: DataFolder, superuser_url: str | None, say: Callable[[str], None]) -> AsyncIterator[Source]:
    """Yields the servers of a data folder; PostgreSQL is started for as long as the block runs if the stack does not run.

    Args:
        folder: The data folder.
        superuser_url: A superuser's URL, if PostgreSQL is one of the user's own.
        say: Gets a line about what is done.

    Raises:
        BackupFailed: The stack is being started or stopped.
    """
    temporal = TemporalFile(folder.temporal / "temporal.db")
    if folder.running_pid() is not None:
        yield Source("a running stack", _running(folder, superuser_url), temporal, folder.secrets, folder.objects)
        return
    say("the stack is stopped; starting its PostgreSQL for the backup")
    async with Stack(folder.path, ports="free", parts={"postgres"}, postgres_url=superuser_url) as stack:
        yield Source("a stopped stack", stack.superuser_url, temporal, folder.secrets, folder.objects)
