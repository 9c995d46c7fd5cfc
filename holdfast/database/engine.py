"""Engines, and the one way to a transaction: bound to a tenant, committed by its block and by nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

_SET_TENANT = text("SELECT set_config('holdfast.tenant_id', :tenant_id, true)")


def create_engine(url: SecretStr | str, *, process: str, pool_size: int = 10) -> AsyncEngine:
    """Makes an engine for one database role.

    Args:
        url: `postgresql://user:password@host:port/database`.
        process: Shown in PostgreSQL as `application_name`.
        pool_size: Connections kept; as many again may be opened under load, more callers wait.
    """
    plain = url.get_secret_value() if isinstance(url, SecretStr) else url
    return create_async_engine(
        make_url(plain).set(drivername="postgresql+asyncpg"),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=30,
        pool_pre_ping=True,
        connect_args={"timeout": 10, "server_settings": {"application_name": f"holdfast-{process}", "jit": "off"}},
    )


@asynccontextmanager
async def transaction(engine: AsyncEngine, tenant_id: UUID) -> AsyncIterator[AsyncConnection]:
    """Opens a transaction that sees one tenant's rows only (LAW 5); commits if the block ends well, else rolls back."""
    async with engine.begin() as connection:
        await connection.execute(_SET_TENANT, {"tenant_id": str(tenant_id)})
        yield connection


@asynccontextmanager
async def tenantless(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Opens a transaction without a tenant: it sees no row, and can only call the functions made to cross tenants."""
    async with engine.begin() as connection:
        yield connection
