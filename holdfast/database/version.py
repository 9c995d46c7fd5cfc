"""Which version the schema has, and whether a program may work with it: each process asks before it does anything.

Version and reach stand in a comment of alembic's table, written in the transaction of each migration. A comment, because every
role may read it, the executor's too, which has no right on any table.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.database.engine import DatabaseAway, tenantless
from holdfast.errors import ConfigurationInvalid, HoldfastError

MIGRATIONS: Final = Path(__file__).parent / "migrations" / "versions"

_FORM: Final = re.compile(r"holdfast schema (\d{4}), works with programs from (\d{4})( \(a restore is not finished\))?")
_READ = text("SELECT obj_description(to_regclass('public.alembic_version'), 'pg_class')")
_LOOK_S: Final = 0.5
_AWAY: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.TooManyConnectionsError,
    DatabaseAway,
)

_log = structlog.get_logger("schema")


class SchemaUnfit(HoldfastError):
    """The schema is older than this program needs, newer than it can work with, or half restored; it refuses to start."""

    code = "schema.unfit"


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """What the database says of its schema.

    Attributes:
        version: The newest migration that was applied.
        oldest_program: The oldest version whose programs still work with it.
        restoring: Whether a restore into it has begun and not ended.
    """

    version: str
    oldest_program: str
    restoring: bool = False

    @property
    def comment(self) -> str:
        """The comment that says so."""
        unfinished = " (a restore is not finished)" if self.restoring else ""
        return f"holdfast schema {self.version}, works with programs from {self.oldest_program}{unfinished}"

    @classmethod
    def parse(cls, comment: str | None) -> SchemaVersion | None:
        """Reads a comment; `None` if it is none of ours."""
        found = _FORM.fullmatch(comment or "")
        return None if found is None else cls(found[1], found[2], found[3] is not None)


def newest_known() -> str:
    """Returns the version that this program was made for: its newest migration."""
    return max(path.name[:4] for path in MIGRATIONS.glob("[0-9]*.py"))


def unfitness(found: SchemaVersion | None, known: str) -> SchemaUnfit | None:
    """Says why a program that was made for one version may not work with a schema; `None` if it may."""
    migrate = "run `python -m holdfast.database.migrate` of this version first"
    if found is None:
        return SchemaUnfit(f"the database has no schema of a known version; this program needs {known}", remedy=migrate)
    if found.restoring:
        return SchemaUnfit("a restore into this database has not finished", remedy="finish it, or restore anew")
    if found.version < known:
        return SchemaUnfit(f"the database's schema is {found.version}; this program needs {known}", remedy=migrate)
    if found.oldest_program > known:
        return SchemaUnfit(
            f"the database's schema is {found.version}, which programs made for {known} cannot work with",
            remedy="start a newer version of Holdfast",
        )
    return None


async def read_version(engine: AsyncEngine) -> SchemaVersion | None:
    """Returns what the database says of its schema; `None` if there is none yet."""
    async with tenantless(engine) as connection:
        return SchemaVersion.parse(await connection.scalar(_READ))


async def require_schema(engine: AsyncEngine, *, wait_s: float = 60.0) -> None:
    """Makes sure that this program may work with the schema; waits for a database that is still starting.

    Raises:
        SchemaUnfit: It may not.
        DatabaseAway: PostgreSQL did not answer in time.
        ConfigurationInvalid: PostgreSQL refuses the role.
    """
    known, deadline = newest_known(), time.monotonic() + wait_s
    while True:
        try:
            found = await read_version(engine)
        except asyncpg.InvalidAuthorizationSpecificationError as error:
            raise ConfigurationInvalid(f"PostgreSQL refuses the login: {error}") from None
        except _AWAY as error:
            if time.monotonic() >= deadline:
                raise DatabaseAway(f"PostgreSQL does not answer ({type(error).__name__})") from error
            await asyncio.sleep(_LOOK_S)
            continue
        if (unfit := unfitness(found, known)) is not None:
            raise unfit
        assert found is not None  # that would be unfit
        if found.version != known:
            _log.info("schema.newer", schema=found.version, program=known)
        return
