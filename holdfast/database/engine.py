"""Engines, and the one way to a transaction: bound to a tenant, committed by its block and by nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final
from uuid import UUID

import asyncpg
from pydantic import SecretStr
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from holdfast.errors import HoldfastError, Unavailable

LOST: Final = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the connection read its own end while it was idle
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
)
"""What says that a connection has gone, or cannot be had."""


class DatabaseAway(Unavailable):
    """PostgreSQL cannot be reached, or went away in the middle; what was not committed is rolled back."""


# A server that is starting or stopping refuses with errors of the driver's own, which SQLAlchemy passes on as they are.
AWAY: Final = (Unavailable, SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What work that goes round for ever meets while PostgreSQL is away, in a transaction and before one: it waits, and tries again."""


def create_engine(url: SecretStr | str, *, process: str, pool_size: int = 10) -> AsyncEngine:
    """Makes an engine for one database role.

    Args:
        url: `postgresql://user:password@host:port/database`.
        process: Shown in PostgreSQL as `application_name`.
        pool_size: Connections for the usual load; up to twice as many are opened when they are needed, and kept. More callers wait.
    """
    plain = url.get_secret_value() if isinstance(url, SecretStr) else url
    return create_async_engine(
        make_url(plain).set(drivername="postgresql+asyncpg"),
        # all are kept: one that is opened for a peak and closed after it costs the server more than the peak's work
        pool_size=2 * pool_size,
        max_overflow=0,
        pool_timeout=30,
        pool_use_lifo=True,  # few connections stay warm, with their prepared statements, rather than many lukewarm
        hide_parameters=True,  # errors end up in logs, and parameters are prompts and arguments
        isolation_level="AUTOCOMMIT",  # transactions are begun by `transaction` below, and by nothing else
        connect_args={
            "timeout": 10,
            "server_settings": {
                "application_name": f"holdfast-{process}",
                "jit": "off",
                "plan_cache_mode": "force_generic_plan",
            },
        },
    )


@asynccontextmanager
async def transaction(engine: AsyncEngine, tenant_id: UUID) -> AsyncIterator[AsyncConnection]:
    """Opens a transaction that sees one tenant's rows only (LAW 5); commits if the block ends well, else rolls back.

    Args:
        engine: Database of the process.
        tenant_id: The tenant.
    """
    # one round trip for what every transaction begins with; a UUID prints as hex digits and dashes only
    begin = f"BEGIN; SET LOCAL holdfast.tenant_id = '{UUID(str(tenant_id))}'"
    async with engine.connect() as connection:
        raw = await _begin(connection, begin)
        try:
            yield connection
        except asyncpg.InternalClientError as error:
            await throw_away(connection, raw)
            raise DatabaseAway("the connection to PostgreSQL was lost") from error
        except BaseException:
            await _roll_back(connection, raw)
            raise
        try:
            with _translated():
                ended = await raw.execute("COMMIT")
        except BaseException:
            await throw_away(connection, raw)
            raise
        if ended != "COMMIT":  # so PostgreSQL ends a transaction in which a statement had failed
            raise HoldfastError("a statement failed in a transaction whose block went on; all of it was rolled back")


async def _begin(connection: AsyncConnection, statement: str) -> asyncpg.Connection:
    """Begins on a pooled connection; one that died in the pool is replaced, for nothing has been asked of it yet."""
    for last in (False, True):
        raw: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
        try:
            await raw.execute(statement)
        except LOST as error:
            await throw_away(connection, raw)
            if last:
                raise DatabaseAway(f"PostgreSQL does not answer ({type(error).__name__})") from error
        except BaseException:
            # INVARIANT (LAW 5): cancelled here, a transaction may be open, with its tenant: nobody else gets this connection
            await throw_away(connection, raw)
            raise
        else:
            return raw
    raise AssertionError  # the loop returns or raises


async def throw_away(connection: AsyncConnection, raw: asyncpg.Connection) -> None:
    """Ends a connection whose state nobody knows; PostgreSQL rolls back what it left open."""
    raw.terminate()
    await connection.invalidate()


async def _roll_back(connection: AsyncConnection, raw: asyncpg.Connection) -> None:
    """Rolls back; a connection on which even that fails is thrown away, and PostgreSQL rolls back by itself."""
    try:
        await asyncio.shield(raw.execute("ROLLBACK"))
    except (*LOST, asyncpg.PostgresError, asyncio.CancelledError):
        await throw_away(connection, raw)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except LOST as error:
        raise DatabaseAway(f"the connection to PostgreSQL was lost ({type(error).__name__})") from error


@asynccontextmanager
async def tenantless(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Opens a connection without a tenant: it sees no row, and can only call the functions made to cross tenants.

    Each statement is a transaction of its own.
    """
    async with engine.connect() as connection:
        try:
            yield connection
        except asyncpg.InternalClientError as error:
            # SQLAlchemy does not know this one as an end, and would hand the connection to the next
            raw: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
            await throw_away(connection, raw)
            raise DatabaseAway("the connection to PostgreSQL was lost") from error
