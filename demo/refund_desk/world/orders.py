"""Sets up the shop's order database on a PostgreSQL server."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Final
from urllib.parse import quote

import asyncpg
from sqlalchemy.engine import make_url

from holdfast.database.roles import scram_verifier

DATABASE: Final = "shop"
READER: Final = "shop_reader"

_SQL = Path(__file__).with_name("orders.sql")
_CUSTOMER = re.compile(r"^\s+\('(?P<tenant>[a-z]+)',\s*'[A-Z]-\d+', '(C-\d+)', '([^']+)',\s*'([^']+)'", re.MULTILINE)
_LOCK_KEY = 0x73686F70  # "shop": one caller at a time
_SALT_BYTES = 16
_DEFAULT_PORT = 5432


async def create_orders(superuser_url: str, reader_password: str) -> str:
    """Creates the database, its reader and the orders, or brings them back to what they should be.

    A database of its own, because the shop is no part of Holdfast: its reader may not even connect to ours.

    Args:
        superuser_url: Of any database on the server; a Unix socket is fine.
        reader_password: Password of the role `shop_reader`.

    Returns:
        The reader's URL, over TCP.
    """
    dsn = make_url(superuser_url).set(drivername="postgresql")
    administrator = await asyncpg.connect(dsn.render_as_string(hide_password=False))
    try:
        # An advisory lock is a database's own, so every caller takes it in the one that it was given.
        await administrator.execute("SELECT pg_advisory_lock($1)", _LOCK_KEY)
        await _create_reader(administrator, reader_password)
        if not await administrator.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
            await administrator.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0 ENCODING 'UTF8'")
        await administrator.execute(f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC")
        await administrator.execute(f"GRANT CONNECT ON DATABASE {DATABASE} TO {READER}")
        shop = await asyncpg.connect(dsn.set(database=DATABASE).render_as_string(hide_password=False))
        try:
            async with shop.transaction():
                await shop.execute(_SQL.read_text(encoding="utf-8"))
        finally:
            await shop.close()
    finally:
        await administrator.close()
    host, port = _tcp_address(superuser_url)
    return f"postgresql://{READER}:{quote(reader_password, safe='')}@{host}:{port}/{DATABASE}"


def customers(tenant: str) -> frozenset[str]:
    """Returns what tells who a tenant's customers are: their numbers, names and addresses."""
    found = _CUSTOMER.finditer(_SQL.read_text(encoding="utf-8"))
    return frozenset(text for one in found if one["tenant"] == tenant for text in one.groups()[1:])


async def _create_reader(administrator: asyncpg.Connection, password: str) -> None:
    if not await administrator.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", READER):
        await administrator.execute(f"CREATE ROLE {READER}")
    verifier = scram_verifier(password, secrets.token_bytes(_SALT_BYTES))
    await administrator.execute(
        f"ALTER ROLE {READER} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
        f" CONNECTION LIMIT 20 PASSWORD '{verifier}'"
    )
    await administrator.execute(f"ALTER ROLE {READER} SET default_transaction_read_only = on")


def _tcp_address(url_text: str) -> tuple[str, int]:
    url = make_url(url_text)
    host, port = url.query.get("host", url.host or "127.0.0.1"), url.query.get("port", url.port or _DEFAULT_PORT)
    if not isinstance(host, str) or host.startswith("/"):
        host = "127.0.0.1"
    return host, int(str(port))
