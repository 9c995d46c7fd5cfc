"""Runs a tool of the tenant's own that is one SQL statement in a read-only transaction of the tenant's own database."""

from __future__ import annotations

import json
from datetime import date, datetime, time
from decimal import Decimal
from typing import Final
from uuid import UUID

import asyncpg
from pydantic import SecretStr

from activities.tools.invocation import Credential, ToolInvocation, ToolResult
from holdfast.tools.definition import OwnTool, SqlBinding
from holdfast_verdict.canonical import JsonValue

ANSWER_BYTES_MAX: Final = 150_000
_CONNECT_TIMEOUT_S: Final = 10
# What these may do is not undone by rolling a transaction back.
_POWERFUL: Final = """
SELECT rolsuper OR EXISTS (
    SELECT 1 FROM unnest(ARRAY['pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files',
                               'pg_signal_backend', 'pg_checkpoint']) AS named
    WHERE EXISTS (SELECT 1 FROM pg_roles WHERE rolname = named) AND pg_has_role(current_user, named, 'MEMBER'))
FROM pg_roles WHERE rolname = current_user
"""
_DATA_EXCEPTION, _NOT_READ_ONLY, _CANCELLED = "22", "25006", "57014"


class SqlCredential(Credential):
    """The vault entry of SQL tools: `dsn` of a role that may only read."""

    dsn: SecretStr


async def run(call: ToolInvocation) -> ToolResult:
    """Runs the statement with its arguments bound, and takes back whatever it might have changed.

    The database is told the tenant of the *run* as `holdfast.tenant`, for its row-level security (LAW 5).
    """
    assert isinstance(call.definition, OwnTool)  # dispatch chose this runner by the binding
    binding = call.definition.form.binding
    assert isinstance(binding, SqlBinding)
    dsn = call.read_credential(SqlCredential).dsn.get_secret_value()
    timeout_ms = call.definition.form.timeout_ms
    await call.outward.begin()
    try:
        connection = await asyncpg.connect(
            dsn,
            timeout=_CONNECT_TIMEOUT_S,
            command_timeout=timeout_ms / 1000 + 1,
            statement_cache_size=0,
            server_settings={
                "application_name": "holdfast",
                "default_transaction_read_only": "on",
                "statement_timeout": str(timeout_ms),
                "holdfast.tenant": call.tenant,
            },
        )
        try:
            if await connection.fetchval(_POWERFUL):
                return ToolResult.nothing(
                    "sql.role_too_powerful", "the database role of this tool may do more than read; give it another one"
                )
            call.outward.assert_live()
            return await _query(connection, binding, call.arguments)
        finally:
            await connection.close(timeout=_CONNECT_TIMEOUT_S)
    except asyncpg.PostgresError as error:
        return _failed(error)
    except (asyncpg.InterfaceError, OSError, ValueError) as error:
        return ToolResult.nothing(
            "sql.unavailable", f"the database does not answer ({type(error).__name__})", retryable=True
        )


async def _query(connection: asyncpg.Connection, binding: SqlBinding, arguments: dict[str, JsonValue]) -> ToolResult:
    transaction = connection.transaction(readonly=True)
    await transaction.start()
    try:
        statement = await connection.prepare(binding.statement)
        if len(statement.get_parameters()) != len(binding.arguments):
            return ToolResult.nothing("sql.statement_mismatch", "the statement has other parameters than arguments")
        if not statement.get_attributes():  # it has no columns: COMMIT, SET, DO and their like
            return ToolResult.nothing("sql.not_a_query", "the statement returns no rows, so it is not for reading")
        cursor = await statement.cursor(*(_text(arguments.get(name)) for name in binding.arguments))
        rows = await cursor.fetch(binding.rows_max + 1)
    finally:
        await transaction.rollback()
    return ToolResult.done(_shown(rows, binding.rows_max))


def _text(value: JsonValue) -> str | None:
    """Returns an argument as the text that the statement casts; NUL bytes were refused with the arguments."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _shown(rows: list[asyncpg.Record], rows_max: int) -> str:
    """Returns the rows as JSON, as many as the bounds let through, and says whether there are more."""
    shown: list[str] = []
    size = 0
    for row in rows[:rows_max]:
        text = json.dumps({name: _json(value) for name, value in row.items()}, ensure_ascii=False)
        size += len(text.encode()) + 2
        if size > ANSWER_BYTES_MAX:
            break
        shown.append(text)
    more = "true" if len(shown) < len(rows) else "false"
    return f'{{"rows": [{", ".join(shown)}], "more": {more}}}'


def _json(value: object) -> JsonValue:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID | float):
        return str(value)
    if isinstance(value, bytes | memoryview):
        return f"({len(value)} bytes)"
    if isinstance(value, list | tuple | set):
        return [_json(member) for member in value]
    return str(value)


def _failed(error: asyncpg.PostgresError) -> ToolResult:
    """Says what went wrong without what stands in the database; nothing was changed in any case."""
    state = error.sqlstate or ""
    if state == _CANCELLED:
        return ToolResult.nothing("sql.timeout", "the query took too long and was ended", retryable=True)
    if state == _NOT_READ_ONLY:
        return ToolResult.nothing("sql.not_read_only", "the statement would change something, and was refused")
    if state.startswith(_DATA_EXCEPTION):
        return ToolResult.nothing("sql.arguments_refused", f"the database refused an argument ({type(error).__name__})")
    unavailable = state.startswith(("08", "53", "57", "28"))
    code = "sql.unavailable" if unavailable else "sql.failed"
    return ToolResult.nothing(code, f"the query failed ({type(error).__name__})", retryable=unavailable)
