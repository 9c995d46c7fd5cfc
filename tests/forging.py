"""What somebody can do who owns the database: writing past what refuses to rewrite records."""

from __future__ import annotations

import asyncpg


async def write_past_triggers(database: asyncpg.Pool, statement: str, *parameters: object) -> None:
    """Executes a statement while no trigger looks."""
    async with database.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(statement, *parameters)
