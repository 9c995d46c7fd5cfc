"""`python -m holdfast.database.roles`: the database's roles, made by an administrator before the first migration.

One for each process, an owner without superuser rights, and a definer of crossing functions; so migrations need no superuser. Where
Temporal keeps its data on the same server, it has a role and two databases that nobody else may enter.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import sys
from collections.abc import Mapping
from typing import Final

import asyncpg
from sqlalchemy.engine import URL, make_url

from holdfast import logs
from holdfast.errors import ConfigurationInvalid, HoldfastError, Unavailable
from holdfast.settings import RolesSettings, load, read_secret_file, warn_of_misspellings

OWNER_ROLE: Final = "holdfast_owner"
DEFINER_ROLE: Final = "holdfast_definer"
PROCESS_ROLES: Final = (
    "holdfast_api",
    "holdfast_governor",
    "holdfast_broker",
    "holdfast_executor",
    "holdfast_sweeper",
    "holdfast_auditor",
)
LOGIN_ROLES: Final = (OWNER_ROLE, *PROCESS_ROLES)
DATABASE: Final = "holdfast"
TEMPORAL_ROLE: Final = "temporal"
TEMPORAL_DATABASES: Final = ("temporal", "temporal_visibility")

_ITERATIONS = 4096  # what PostgreSQL itself uses
_SALT_BYTES = 16
_OLDEST_VERSION = 150_000
_MEMBERSHIP_OPTIONS_VERSION = 160_000
_LOCK_KEY = 0x686F6C64_726F6C65  # "holdrole": one caller at a time
_PLAIN = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"


def scram_verifier(password: str, salt: bytes) -> str:
    """Computes what PostgreSQL stores for a password (RFC 5803); so no statement and no log has the password itself."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (base64.b64encode(b).decode("ascii") for b in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${_ITERATIONS}:{salt_text}${stored_text}:{server_text}"


def database_of(superuser_url: str) -> str:
    """Returns the name of Holdfast's database on a server: the URL's own, unless that is the maintenance database."""
    named = make_url(superuser_url).database
    return DATABASE if named in (None, "", "postgres") else str(named)


def url_for(superuser_url: str, role: str, password: str) -> str:
    """Returns the URL of Holdfast's database on the same server for one role."""
    url = make_url(superuser_url).set(drivername="postgresql", username=role, password=password)
    return url.set(database=database_of(superuser_url)).render_as_string(hide_password=False)


async def _connect(url: URL, database: str) -> asyncpg.Connection:
    plain = url.set(drivername="postgresql", database=database).render_as_string(hide_password=False)
    try:
        return await asyncpg.connect(plain, timeout=10, server_settings={"application_name": "holdfast-roles"})
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        place = url.render_as_string(hide_password=True)
        raise Unavailable(
            f"cannot connect to PostgreSQL at {place}: {error}", remedy="check the address, the role and its password"
        ) from None


async def _ensure_role(connection: asyncpg.Connection, role: str, password: str | None) -> None:
    """Makes one role, or gives an existing one the rights and the password that it should have."""
    exists = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role)
    if not exists:
        await connection.execute(f"CREATE ROLE {role} {_PLAIN} NOLOGIN")
    if password is not None:
        # The verifier is of base64 and fixed characters only; utility statements take no parameters.
        await connection.execute(
            f"ALTER ROLE {role} LOGIN PASSWORD '{scram_verifier(password, secrets.token_bytes(_SALT_BYTES))}'"
        )


async def _ensure_database(connection: asyncpg.Connection, database: str, owner: str = OWNER_ROLE) -> None:
    if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", database):
        return
    quoted = await connection.fetchval("SELECT quote_ident($1)", database)
    await connection.execute(f"CREATE DATABASE {quoted} OWNER {owner} ENCODING 'UTF8' TEMPLATE template0")


async def ensure_roles(superuser_url: str, passwords: Mapping[str, str]) -> None:
    """Makes the database and its roles; what is there already is kept, and its passwords are set to those given.

    Args:
        superuser_url: `postgresql://…` of a superuser, or of a role with CREATEROLE and CREATEDB.
        passwords: A password for each of `LOGIN_ROLES`.

    Raises:
        Unavailable: The server does not answer or refuses the login.
        ConfigurationInvalid: A password is missing, or the server is too old.
    """
    if missing := [role for role in LOGIN_ROLES if not passwords.get(role)]:
        raise ConfigurationInvalid(f"no password for the database role {', '.join(missing)}")
    url = make_url(superuser_url)
    database = database_of(superuser_url)
    connection = await _connect(url, "postgres")
    try:
        version = connection.get_server_version()
        number = version.major * 10_000 + version.minor
        if number < _OLDEST_VERSION:
            raise ConfigurationInvalid(f"PostgreSQL {version.major} is too old", remedy="use PostgreSQL 15 or later")
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK_KEY)
        for role in LOGIN_ROLES:
            await _ensure_role(connection, role, passwords[role])
        await _ensure_role(connection, DEFINER_ROLE, None)
        # SET lets the owner hand functions to the definer; before PostgreSQL 16 every member may.
        options = " WITH SET TRUE, INHERIT TRUE" if number >= _MEMBERSHIP_OPTIONS_VERSION else ""
        await connection.execute(f"GRANT {DEFINER_ROLE} TO {OWNER_ROLE}{options}")
        if not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
            # whoever makes a database for another role has to be a member of that role
            await connection.execute(f"GRANT {OWNER_ROLE} TO CURRENT_USER")
        await _ensure_database(connection, database)
        quoted = await connection.fetchval("SELECT quote_ident($1)", database)
        await connection.execute(f"REVOKE CONNECT, TEMPORARY ON DATABASE {quoted} FROM PUBLIC")
        await connection.execute(f"GRANT CONNECT ON DATABASE {quoted} TO {', '.join(LOGIN_ROLES)}")
    finally:
        await connection.close()


async def ensure_temporal(superuser_url: str, password: str) -> None:
    """Makes Temporal's role and its databases on the same server; no process of Holdfast may enter them.

    Raises:
        Unavailable: The server does not answer or refuses the login.
    """
    connection = await _connect(make_url(superuser_url), "postgres")
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK_KEY)
        await _ensure_role(connection, TEMPORAL_ROLE, password)
        if not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
            await connection.execute(f"GRANT {TEMPORAL_ROLE} TO CURRENT_USER")
        for database in TEMPORAL_DATABASES:
            await _ensure_database(connection, database, TEMPORAL_ROLE)
            await connection.execute(f"REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC")
    finally:
        await connection.close()


def _passwords(settings: RolesSettings) -> dict[str, str]:
    try:
        passwords = json.loads(read_secret_file(settings.role_passwords_file))
    except json.JSONDecodeError as error:
        raise ConfigurationInvalid(f"{settings.role_passwords_file} is not JSON: {error}") from None
    if not isinstance(passwords, dict) or not all(isinstance(password, str) for password in passwords.values()):
        raise ConfigurationInvalid(f"{settings.role_passwords_file} is not a JSON object of passwords by role")
    return passwords


async def _main() -> int:
    settings = load(RolesSettings)
    logs.configure("roles", settings.log_level)
    warn_of_misspellings(RolesSettings)
    passwords, superuser_url = _passwords(settings), settings.superuser_url.get_secret_value()
    await ensure_roles(superuser_url, passwords)
    if TEMPORAL_ROLE in passwords:
        await ensure_temporal(superuser_url, passwords[TEMPORAL_ROLE])
    print("the database's roles are there")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(_main()))
    except HoldfastError as error:
        print(f"error: {error.message}. {error.remedy}", file=sys.stderr)
        sys.exit(2)
