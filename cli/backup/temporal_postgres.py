"""Temporal's two databases on PostgreSQL: snapshots, dumps, and the way back into empty ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import asyncpg
from sqlalchemy.engine import make_url

from cli.backup import postgres_tools
from cli.backup.errors import BackupFailed
from cli.backup.manifest import TEMPORAL_MAIN, TEMPORAL_VISIBILITY

_SUFFIX: Final = "_visibility"


def visibility_url(main: str) -> str:
    """Returns where the second database is unless somebody says otherwise: beside the first, under the usual name."""
    url = make_url(main)
    return url.set(database=f"{url.database}{_SUFFIX}").render_as_string(hide_password=False)


class TemporalDatabases:
    """Snapshots of both databases; that of the histories first, for what the other one lacks is written again from there.

    Args:
        main: URL of the one with the histories, as the role that owns it.
        visibility: URL of the one for searching.
    """

    store: Final[Literal["postgresql"]] = "postgresql"

    def __init__(self, main: str, visibility: str) -> None:
        self._urls = {TEMPORAL_MAIN: main, TEMPORAL_VISIBILITY: visibility}
        self._connections: dict[str, asyncpg.Connection] = {}
        self._snapshots: dict[str, str] = {}
        self.version = ""

    async def prepare(self) -> None:
        """Connects, before anything has to wait for it.

        Raises:
            BackupFailed: It cannot, or what is there is not Temporal's.
        """
        for name, url in self._urls.items():
            try:
                connection = await asyncpg.connect(
                    url, timeout=10, server_settings={"application_name": "holdfast-backup"}
                )
                self._connections[name] = connection
                version = await connection.fetchval("SELECT curr_version FROM schema_version")
            except (OSError, TimeoutError, asyncpg.PostgresError) as error:
                raise BackupFailed(
                    f"cannot read Temporal's database {make_url(url).database}: {error}",
                    remedy="give the URLs of both databases, as the role that owns them",
                ) from None
            self.version = self.version or f"schema {version}"

    async def open(self) -> None:
        """Takes both snapshots."""
        for name, connection in self._connections.items():
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self._snapshots[name] = await connection.fetchval("SELECT pg_export_snapshot()")

    async def copy_to(self, folder: Path, say: Callable[[str], None]) -> None:
        """Dumps both."""
        for name, url in self._urls.items():
            await postgres_tools.dump(
                url,
                folder / name,
                snapshot=self._snapshots[name],
                server_major=self._connections[name].get_server_version().major,
                say=say,
            )

    async def close(self) -> None:
        """Gives the snapshots up."""
        for connection in self._connections.values():
            await connection.close()
