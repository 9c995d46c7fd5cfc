"""PostgreSQL and Redis that stand elsewhere: whether they can be reached, are new enough, and know our roles and schema."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from cli.doctor.finding import Finding, failed, ok, warning

if TYPE_CHECKING:
    import asyncpg

_TIMEOUT_S: Final = 5
_MAJOR_MIN: Final = 15
_UNREADABLE: Final = "an address that cannot be read"
_READ_SCHEMA: Final = "SELECT obj_description(to_regclass('public.alembic_version'), 'pg_class')"


def named() -> Iterator[Finding]:
    """Looks at the servers that `HOLDFAST_POSTGRES` and `HOLDFAST_REDIS` name."""
    if url := os.environ.get("HOLDFAST_POSTGRES"):
        yield from asyncio.run(_collected(postgres(url, "postgresql", "HOLDFAST_POSTGRES", administrator=True)))
    if url := os.environ.get("HOLDFAST_REDIS"):
        yield asyncio.run(redis(url, "redis", "HOLDFAST_REDIS"))


def embedded(postgres_url: str, redis_url: str) -> Iterator[Finding]:
    """Looks at the servers of a stack that runs on this machine."""
    yield from asyncio.run(_collected(postgres(postgres_url, "postgresql", "", administrator=False)))
    yield asyncio.run(redis(redis_url, "valkey", ""))


async def _collected(findings: AsyncIterator[Finding]) -> list[Finding]:
    return [finding async for finding in findings]


def without_password(url: str) -> str:
    """Returns where a URL leads. What might be a secret in it is left out, also where it is malformed."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return _UNREADABLE
    if not parts.netloc or not re.fullmatch(r"(/[\w-]*)?", parts.path):
        return _UNREADABLE
    return f"{parts.scheme}://{parts.hostname or 'localhost'}{port}{parts.path}"


async def postgres(url: str, part: str, variable: str, *, administrator: bool) -> AsyncIterator[Finding]:
    """Looks at a PostgreSQL server.

    Args:
        url: Its URL.
        part: How it is called in the findings.
        variable: Where the URL comes from, if a person has set it.
        administrator: Whether the URL's role has to be able to make roles and databases.
    """
    import asyncpg
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    from holdfast.database.roles import database_of

    where = without_password(url)
    hint = f"check {variable}: address, role and password" if variable else "see its log in the data folder"
    try:
        server = make_url(url).set(drivername="postgresql")
        if administrator:
            server = server.set(database="postgres")
        connection = await asyncpg.connect(server.render_as_string(hide_password=False), timeout=_TIMEOUT_S)
    except (OSError, TimeoutError, ValueError, ArgumentError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        yield failed(part, f"{where} cannot be used: {type(error).__name__}", hint)
        return
    try:
        release = connection.get_server_version()
        if release.major < _MAJOR_MIN:
            yield failed(part, f"{where} is PostgreSQL {release.major}", f"use PostgreSQL {_MAJOR_MIN} or later")
            return
        yield ok(part, f"{await connection.fetchval('SHOW server_version')} at {where}")
        if administrator:
            yield await _rights(connection)
        yield await _roles(connection)
        named_database = database_of(url) if administrator else ""
    finally:
        await connection.close()
    target = server.set(database=named_database) if named_database else server
    yield await _schema(target.render_as_string(hide_password=False))


async def _rights(connection: asyncpg.Connection) -> Finding:
    row = await connection.fetchrow(
        "SELECT current_user AS name, rolsuper OR (rolcreaterole AND rolcreatedb) AS able FROM pg_roles WHERE rolname = current_user"
    )
    if row is not None and row["able"]:
        return ok("database rights", f"{row['name']} can make roles and databases")
    return failed(
        "database rights",
        "the role can make no roles and databases",
        "name a superuser, or a role with CREATEROLE and CREATEDB",
    )


async def _roles(connection: asyncpg.Connection) -> Finding:
    from holdfast.database.roles import LOGIN_ROLES

    there = {row["rolname"] for row in await connection.fetch("SELECT rolname FROM pg_roles")}
    if missing := [role for role in LOGIN_ROLES if role not in there]:
        return warning("database roles", f"not there: {', '.join(missing)}", "nothing: the first start makes them")
    return ok("database roles", f"all {len(LOGIN_ROLES)} are there")


async def _schema(url: str) -> Finding:
    import asyncpg

    from holdfast.database.version import SchemaVersion, newest_known, unfitness

    part, known = "database schema", newest_known()
    try:
        connection = await asyncpg.connect(url, timeout=_TIMEOUT_S)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return warning(
            part, f"the database cannot be looked at: {type(error).__name__}", "nothing, if it is not made yet"
        )
    try:
        found = SchemaVersion.parse(await connection.fetchval(_READ_SCHEMA))
    finally:
        await connection.close()
    if found is None:
        return warning(part, f"none yet; this program needs {known}", "nothing: `holdfast up` migrates it")
    unfit = unfitness(found, known)
    if unfit is None:
        return ok(part, f"{found.version}; this program needs {known}")
    return failed(part, unfit.message, unfit.remedy)


async def redis(url: str, part: str, variable: str) -> Finding:
    """Looks at a Redis or Valkey server."""
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    where = without_password(url)
    hint = f"check {variable}: address and password" if variable else "see its log in the data folder"
    try:
        client = Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
        try:
            info = await client.info("server")
        finally:
            await client.aclose()
    except (RedisError, OSError, ValueError) as error:
        return failed(part, f"{where} cannot be used: {type(error).__name__}", hint)
    name = "Valkey" if "valkey_version" in info else "Redis"
    return ok(
        part, f"{name} {info.get('valkey_version') or info.get('redis_version', 'of an unknown version')} at {where}"
    )
