"""Runs a tool of the tenant's own that is one SQL statement in a read-only transaction of the tenant's own database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import asyncpg
from pydantic import SecretStr

from activities.tools.invocation import Credential, ToolInvocation, ToolResult
from holdfast.tools.definition import OwnTool, SqlBinding
from holdfast_verdict.canonical import JsonValue

ANSWER_BYTES_MAX: Final = 150_000
_CONNECT_TIMEOUT_S: Final = 10
ROW_BYTES_MAX: Final = 64 * 1024
_BATCH: Final = 50
# A superuser, or who may become one, passes by row-level security or does what no rollback takes back.
_POWERFUL: Final = """
SELECT EXISTS (
    SELECT 1 FROM pg_roles
    WHERE (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication OR rolname = ANY (ARRAY[
        'pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files', 'pg_signal_backend', 'pg_checkpoint',
        'pg_write_all_data', 'pg_maintain', 'pg_create_subscription']))
    AND (pg_has_role(current_user, oid, 'MEMBER') OR pg_has_role(session_user, oid, 'MEMBER')))
"""
_TENANT: Final = "SELECT current_setting('holdfast.tenant')"
# Casts that keep a value's last digit, and a file's bytes at home.
_SHOWN_AS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "numeric": "{column}::text",
        "numeric[]": "{column}::text[]",
        "bytea": "'(' || octet_length({column}) || ' bytes)'",
        "float4": "{column}::text",
        "float8": "{column}::text",
    }
)
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
                "standard_conforming_strings": "on",  # as the statement was read when its arguments were found
                "timezone": "UTC",
            },
        )
        try:
            if await connection.fetchval(_POWERFUL):
                return ToolResult.nothing(
                    "sql.role_too_powerful", "the database role of this tool may do more than read; give it another one"
                )
            call.outward.assert_live()
            return await _query(connection, binding, call)
        finally:
            await connection.close(timeout=_CONNECT_TIMEOUT_S)
    except asyncpg.PostgresError as error:
        return _failed(error)
    except (asyncpg.InterfaceError, OSError, ValueError) as error:
        return ToolResult.nothing(
            "sql.unavailable", f"the database does not answer ({type(error).__name__})", retryable=True
        )


async def _query(connection: asyncpg.Connection, binding: SqlBinding, call: ToolInvocation) -> ToolResult:
    transaction = connection.transaction(readonly=True)
    await transaction.start()
    try:
        statement = await connection.prepare(binding.statement)
        if len(statement.get_parameters()) != len(binding.arguments):
            return ToolResult.nothing("sql.statement_mismatch", "the statement has other parameters than arguments")
        columns = statement.get_attributes()
        if not columns:  # COMMIT, SET, DO and their like
            return ToolResult.nothing("sql.not_a_query", "the statement returns no rows, so it is not for reading")
        bounded = await connection.prepare(_bounded(binding, columns))
        cursor = await bounded.cursor(*(_text(call.arguments.get(name)) for name in binding.arguments))
        rows: list[str | None] = []
        while batch := await cursor.fetch(_BATCH):
            rows += [row[0] for row in batch]
        # INVARIANT (LAW 5): whatever the statement called, the rows were those of the run's tenant
        if await connection.fetchval(_TENANT) != call.tenant:
            return ToolResult.nothing(
                "sql.tenant_changed", "the statement changed the tenant, so its rows are not shown"
            )
    finally:
        await transaction.rollback()
    return ToolResult.done(_shown(rows, binding.rows_max))


def _bounded(binding: SqlBinding, columns: Sequence[asyncpg.Attribute]) -> str:
    """Returns a statement whose rows are JSON texts made by the server; one that is too long is NULL, and never comes here.

    PostgreSQL has read the inner statement alone before, as exactly one, so it ends where its bracket ends.
    """
    aliases = ", ".join(f"c{number}" for number in range(len(columns)))
    shown = ", ".join(
        f"{_SHOWN_AS.get(column.type.name, '{column}').format(column=f'c{number}')} AS {_quoted(column.name)}"
        for number, column in enumerate(columns)
    )
    return f"""
        SELECT CASE WHEN octet_length(answer) <= {ROW_BYTES_MAX} THEN answer END FROM (
            SELECT row_to_json(shown)::text AS answer FROM (
                SELECT {shown} FROM (
{binding.statement}
                ) AS asked ({aliases})
            ) AS shown LIMIT {binding.rows_max + 1}
        ) AS answers
    """  # noqa: S608 - the statement is the definition's; its arguments are bound


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: JsonValue) -> str | None:
    """Returns an argument as the text that the statement casts; NUL bytes were refused with the arguments."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _shown(rows: Sequence[str | None], rows_max: int) -> str:
    """Returns the rows as JSON, as many as the bounds let through, and says whether there are more."""
    shown: list[str] = []
    size = 0
    for row in rows[:rows_max]:
        size += len((row or "").encode()) + 2
        if row is None or size > ANSWER_BYTES_MAX:
            break
        shown.append(row)
    more = "true" if len(shown) < len(rows) else "false"
    return f'{{"rows": [{", ".join(shown)}], "more": {more}}}'


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
