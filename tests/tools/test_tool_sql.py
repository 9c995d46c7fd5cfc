"""SQL tools: arguments are bound, statements only read, and answers are bounded."""

from __future__ import annotations

import json
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from activities.tools.dispatch import run_tool
from activities.tools.invocation import ToolInvocation, ToolResult
from holdfast.errors import LeaseLost, RequestInvalid
from holdfast.tools.definition import OwnTool
from holdfast.tools.sql import ParameterFile, bind, forms
from holdfast_verdict.canonical import JsonValue
from tests.docs.pages import ROOT, fences_of

from .live_lease import LiveLease

HERE = Path(__file__).parent


def tool(statement: str, parameters: dict[str, dict[str, Any]] | None = None, **more: Any) -> OwnTool:
    query = {
        "description": "A query.",
        "credential": "tool.database",
        "statement": statement,
        "parameters": parameters or {},
        **more,
    }
    [(name, form)] = forms({"source": "sql", "queries": {"data.query": query}}, HERE).items()
    return OwnTool(name, 1, form)


def unchecked(statement: str) -> OwnTool:
    """A definition that nobody has looked at: what stands between its statement and the data is the executor alone."""
    made = tool("SELECT 1 AS one")
    binding = made.form.binding.model_copy(update={"statement": statement})
    return OwnTool(made.name, 1, made.form.model_copy(update={"binding": binding}))


async def ask(
    definition: OwnTool,
    dsn: str,
    arguments: dict[str, JsonValue] | None = None,
    *,
    tenant: str = "acme",
    lease: LiveLease | None = None,
) -> ToolResult:
    normal = definition.validate(arguments or {})
    call = ToolInvocation(definition.name, definition, normal, {"dsn": dsn}, tenant, "k", lease or LiveLease())
    return await run_tool(call)


@pytest.fixture(scope="module")
async def writer_dsn(superuser_url: str) -> AsyncIterator[str]:
    """A database of its own, and the role that owns everything in it: what must not be written could be."""
    connection = await asyncpg.connect(superuser_url)
    await connection.execute("CREATE ROLE writer LOGIN PASSWORD 'pw'")
    await connection.execute("CREATE DATABASE own OWNER writer")
    await connection.close()
    url = make_url(superuser_url).set(username="writer", password="pw", database="own")
    dsn = url.render_as_string(hide_password=False)
    connection = await asyncpg.connect(dsn)
    await connection.execute("""
        CREATE SCHEMA shop;
        CREATE TABLE shop.notes (note_id integer PRIMARY KEY, tenant text, body text, price numeric, at timestamptz, raw bytea);
        INSERT INTO shop.notes SELECT n, 'acme', 'note ' || n, n / 4.0, '2026-01-01Z', '\\x00ff' FROM generate_series(1, 300) n;
        CREATE SEQUENCE shop.numbers;
        CREATE FUNCTION shop.sneak() RETURNS integer LANGUAGE sql VOLATILE AS 'DELETE FROM shop.notes RETURNING 1';
        CREATE FUNCTION shop.unlock() RETURNS text LANGUAGE sql VOLATILE AS
            $$ SELECT set_config('transaction_read_only', 'off', false) $$;
        CREATE FUNCTION shop.pose() RETURNS text LANGUAGE sql VOLATILE AS
            $$ SELECT set_config('holdfast.tenant', 'globex', true) $$;
    """)
    await connection.close()
    yield dsn
    connection = await asyncpg.connect(superuser_url)
    await connection.execute("DROP DATABASE own WITH (FORCE)")
    await connection.execute("DROP ROLE writer")
    await connection.close()


async def test_arguments_of_every_type_come_to_the_database_and_back(writer_dsn: str) -> None:
    definition = tool(
        "SELECT :t AS t, :i AS i, :b AS b, :d AS d, :day AS day, :at AS at, :u AS u, :n AS n, ':t' AS literal, 1::text AS c",
        {
            "t": {"type": "text"},
            "i": {"type": "integer"},
            "b": {"type": "boolean"},
            "d": {"type": "decimal"},
            "day": {"type": "date"},
            "at": {"type": "timestamp"},
            "u": {"type": "uuid"},
            "n": {"type": "text", "optional": True},
        },
    )
    result = await ask(
        definition,
        writer_dsn,
        {
            "t": "it's; DROP TABLE shop.notes --",
            "i": -7,
            "b": True,
            "d": "12.50",
            "day": "2026-01-31",
            "at": "2026-01-31T12:00:00Z",
            "u": "0199f3a0-0000-7000-8000-000000000000",
        },
    )
    assert result.ok, result.content
    [row] = json.loads(result.content)["rows"]
    assert row == {
        "t": "it's; DROP TABLE shop.notes --",
        "i": -7,
        "b": True,
        "d": "12.5",
        "day": "2026-01-31",
        "at": "2026-01-31T12:00:00+00:00",
        "u": "0199f3a0-0000-7000-8000-000000000000",
        "n": None,
        "literal": ":t",
        "c": "1",
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200))
async def test_no_text_becomes_part_of_the_statement(writer_dsn: str, text: str) -> None:
    result = await ask(tool("SELECT :x AS x", {"x": {"type": "text"}}), writer_dsn, {"x": text})
    assert json.loads(result.content) == {"rows": [{"x": text}], "more": False}


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO shop.notes (note_id) VALUES (1000) RETURNING note_id",
        "WITH gone AS (DELETE FROM shop.notes RETURNING 1) SELECT count(*) FROM gone",
        "SELECT nextval('shop.numbers')",
        "SELECT shop.sneak()",
        "SELECT set_config('transaction_read_only', 'off', false), shop.sneak()",
        "SELECT set_config('default_transaction_read_only', 'off', false), shop.sneak()",
        "SELECT shop.unlock(), shop.sneak()",
        "SELECT * FROM shop.notes FOR UPDATE",
        "SELECT lo_create(0)",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_terminate_backend(pg_backend_pid())",
        "SELECT 1) AS q; DROP TABLE shop.notes; SELECT (1",
        "SELECT set_config('holdfast.tenant', 'globex', false)",
        "SELECT shop.pose()",
        "COPY shop.notes TO PROGRAM 'true'",
        "TRUNCATE shop.notes",
        "DROP TABLE shop.notes",
        "BEGIN READ WRITE",
        "COMMIT",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "DO $$ BEGIN DELETE FROM shop.notes; END $$",
        "CREATE TEMP TABLE t (a int)",
    ],
)
async def test_a_statement_only_reads_whatever_its_role_may(writer_dsn: str, statement: str) -> None:
    result = await ask(unchecked(statement), writer_dsn)
    assert not result.ok, result.content
    assert result.cost == "nothing"
    connection = await asyncpg.connect(writer_dsn)
    try:
        assert await connection.fetchval("SELECT count(*) FROM shop.notes") == 300
        assert not await connection.fetchval("SELECT is_called FROM shop.numbers")
    finally:
        await connection.close()


async def test_what_listens_hears_nothing_of_a_transaction_that_was_taken_back(writer_dsn: str) -> None:
    heard: list[str] = []
    connection = await asyncpg.connect(writer_dsn)
    try:
        await connection.add_listener("ears", lambda *arguments: heard.append(str(arguments[-1])))
        await ask(tool("SELECT pg_notify('ears', 'secret')"), writer_dsn)
        await connection.fetchval("SELECT 1")
    finally:
        await connection.close()
    assert heard == []


async def test_a_role_that_may_do_more_than_a_transaction_undoes_is_refused(
    superuser_url: str, writer_dsn: str
) -> None:
    result = await ask(tool("SELECT 1 AS one"), superuser_url)
    assert (result.ok, result.error_code) == (False, "sql.role_too_powerful")
    connection = await asyncpg.connect(superuser_url)
    try:
        await connection.execute("GRANT pg_execute_server_program TO writer")
        assert (await ask(tool("SELECT 1 AS one"), writer_dsn)).error_code == "sql.role_too_powerful"
    finally:
        await connection.execute("REVOKE pg_execute_server_program FROM writer")
        await connection.close()
    assert (await ask(tool("SELECT 1 AS one"), writer_dsn)).ok


@pytest.mark.parametrize("right", ["BYPASSRLS", "CREATEROLE", "CREATEDB", "REPLICATION", "SUPERUSER"])
async def test_a_role_that_passes_by_row_level_security_or_may_become_such_a_role_is_refused(
    superuser_url: str, writer_dsn: str, right: str
) -> None:
    connection = await asyncpg.connect(superuser_url)
    try:
        await connection.execute(f"ALTER ROLE writer {right}")
        assert (await ask(tool("SELECT 1 AS one"), writer_dsn)).error_code == "sql.role_too_powerful"
        await connection.execute(f"ALTER ROLE writer NO{right}; CREATE ROLE boss {right}; GRANT boss TO writer")
        assert (await ask(tool("SELECT 1 AS one"), writer_dsn)).error_code == "sql.role_too_powerful"
    finally:
        await connection.execute(f"ALTER ROLE writer NO{right}; DROP ROLE IF EXISTS boss")
        await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT set_config('holdfast.tenant', 'globex', true)",
        "SELECT pg_catalog . SET_CONFIG ('holdfast.tenant', 'globex', true)",
        "SELECT \"set_config\"('a', 'b', true)",
        "SELECT U&\"set\\005Fconfig\"('a', 'b', true)",
        "SELECT /* /* */ */ set_config('a', 'b', true)",
        "SELECT query_to_xml('SELECT 1', true, true, '')",
        "SELECT * FROM dblink('', 'DELETE FROM x') AS t(a int)",
        "SELECT * FROM dblink_exec('', 'DELETE FROM x')",
        "SELECT pg_terminate_backend(1)",
        "SELECT pg_advisory_lock(1)",
        "SELECT lo_import('/etc/passwd')",
        "SELECT * FROM ts_stat('SELECT 1')",
    ],
)
def test_what_a_read_only_transaction_does_not_stop_is_refused_by_name(statement: str) -> None:
    with pytest.raises(RequestInvalid, match="may not use"):
        tool(statement)


async def test_no_function_shows_rows_of_another_tenant(writer_dsn: str) -> None:
    posed = await ask(tool("SELECT shop.pose() AS as_whom, body FROM shop.notes"), writer_dsn)
    assert (posed.error_code, posed.cost, "note" in posed.content) == ("sql.tenant_changed", "nothing", False)


async def test_values_keep_what_they_are(writer_dsn: str) -> None:
    statement = """
        SELECT 12.50 AS n, ARRAY[0.10, 2] AS ns, 9007199254740993 AS big, 0.1::float8 AS f, '{"a": [1, 1.50]}'::jsonb AS j,
               '1 mon 2 days'::interval AS i, 'infinity'::date AS d, NULL AS nil, true AS "b""q", 1 AS x, 2 AS x2 -- :end"""
    result = await ask(tool(statement), writer_dsn)
    assert result.ok, result.content
    [row] = json.loads(result.content, parse_float=str)["rows"]
    assert row == {
        "n": "12.50", "ns": ["0.10", "2"], "big": 9007199254740993, "f": "0.1", "j": {"a": [1, "1.50"]}, "i": "1 mon 2 days",
        "d": "infinity", "nil": None, 'b"q': True, "x": 1, "x2": 2,
    }  # fmt: skip


async def test_a_long_row_stays_at_the_database(writer_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[int] = []

    def shown(rows: list[str | None], _rows_max: int) -> str:
        received.extend(len(row or "") for row in rows)
        return ""

    monkeypatch.setattr("activities.tools.sql_query._shown", shown)
    assert (await ask(tool("SELECT repeat('x', n * 60000) AS x FROM generate_series(1, 3) n"), writer_dsn)).ok
    assert received == [60008, 0, 0]


async def test_the_database_is_told_the_tenant_of_the_run(writer_dsn: str) -> None:
    result = await ask(tool("SELECT current_setting('holdfast.tenant') AS tenant"), writer_dsn, tenant="globex")
    assert json.loads(result.content)["rows"] == [{"tenant": "globex"}]


async def test_answers_are_bounded(writer_dsn: str) -> None:
    some = json.loads((await ask(tool("SELECT * FROM shop.notes ORDER BY 1", rows_max=3), writer_dsn)).content)
    assert (len(some["rows"]), some["more"]) == (3, True)
    assert some["rows"][0]["price"] == "0.25000000000000000000"
    assert some["rows"][0]["raw"] == "(2 bytes)"
    every = json.loads((await ask(tool("SELECT note_id FROM shop.notes", rows_max=300), writer_dsn)).content)
    assert (len(every["rows"]), every["more"]) == (300, False)
    large = await ask(tool("SELECT repeat('x', 50000000) AS x"), writer_dsn)
    assert json.loads(large.content) == {"rows": [], "more": True}
    slow = await ask(tool("SELECT pg_sleep(60)", timeout_ms=200), writer_dsn)
    assert (slow.error_code, slow.retryable, slow.cost) == ("sql.timeout", True, "nothing")


async def test_errors_name_no_value_and_no_password(writer_dsn: str) -> None:
    divided = await ask(tool("SELECT 1 / :i AS x", {"i": {"type": "integer"}}), writer_dsn, {"i": 0})
    assert divided.error_code == "sql.arguments_refused"
    missing = await ask(tool("SELECT secret_value FROM shop.nothing"), writer_dsn)
    assert (missing.error_code, "secret_value" in missing.content) == ("sql.failed", False)
    for dsn in (writer_dsn.replace(":pw@", ":hush@"), "postgresql://u:hush@127.0.0.1:1/y", "hush"):
        away = await ask(tool("SELECT 1 AS one"), dsn)
        assert (away.error_code, away.cost) == ("sql.unavailable", "nothing")
        assert "hush" not in away.content


async def test_without_its_lease_nothing_is_asked(writer_dsn: str) -> None:
    for lease in (LiveLease(lost_before_begin=True), LiveLease(lost_before_writing=True)):
        with pytest.raises(LeaseLost):
            await ask(tool("SELECT 1 AS one"), writer_dsn, lease=lease)


def test_only_names_outside_of_literals_comments_and_casts_are_arguments() -> None:
    x = {"x": ParameterFile(type="text")}
    text = """SELECT ':x', ":x", $$ :x $$, $a$ :x $$ $a$, E'\\' :x', a::x, /* :x /* :x */ */ b -- :x
              FROM t WHERE c = :x AND d[1:2] = :x;"""
    statement, order = bind(text, x)
    assert statement.count("($1::text)::text") == 2
    assert statement.count(":x") == text.count(":x") - 2
    assert order == ["x"]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("SELECT 1; SELECT 2", "exactly one"),
        ("", "exactly one"),
        (";", "exactly one"),
        ("SELECT :y", ":y"),
        ("SELECT 1", "does not use :x"),
        ("SELECT :x, $1", r"\$1"),
        ("SELECT 'open", "cannot be read"),
    ],
)
def test_a_statement_that_does_not_fit_its_parameters_is_refused(statement: str, said: str) -> None:
    with pytest.raises(RequestInvalid, match=said):
        bind(statement, {"x": ParameterFile(type="text")})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"statement": None}, "either statement or file"),
        ({"file": "x.sql"}, "either statement or file"),
        ({"statement": None, "file": "../../../etc/passwd"}, "outside the project"),
        ({"credential": "provider.openai"}, "credential"),
        ({"rows_max": 0}, "rows_max"),
        ({"speed": 1}, "speed"),
        ({"parameters": {"x": {"type": "float"}}}, "parameters.x.type"),
        ({"parameters": {"x": {"type": "date", "max_length": 3}}}, "max_length"),
    ],
)
def test_a_wrong_file_says_where(change: dict[str, Any], said: str) -> None:
    query: dict[str, Any] = {"description": "d", "credential": "tool.x", "statement": "SELECT 1"}
    query = {key: value for key, value in {**query, **change}.items() if value is not None}
    with pytest.raises(RequestInvalid, match=said):
        forms({"source": "sql", "queries": {"data.query": query}}, HERE)


async def test_the_how_to_does_what_it_says(superuser_url: str) -> None:
    page = ROOT / "docs" / "how-to" / "tool-from-sql.md"
    [described] = [tomllib.loads(fence.body) for fence in fences_of(page) if fence.info == "toml sql"]
    [(name, form)] = forms(described, HERE).items()
    connection = await asyncpg.connect(superuser_url)
    try:
        await connection.execute("CREATE DATABASE how_to")
        url = make_url(superuser_url).set(database="how_to")
        owner = await asyncpg.connect(url.render_as_string(hide_password=False))
        await owner.execute("""
            CREATE SCHEMA shop;
            CREATE TABLE shop.orders (tenant text, order_id text, customer_number text, item text, amount numeric,
                                      ordered_on date, delivered_on date);
            INSERT INTO shop.orders VALUES ('acme', 'A-1', 'C-1', 'lamp', 12.50, '2026-02-01', NULL),
                ('acme', 'A-2', 'C-1', 'old', 1, '2025-01-01', NULL), ('globex', 'G-1', 'C-1', 'hush', 1, '2026-02-01', NULL);
        """)
        for fence in fences_of(page):
            if fence.language == "sql":
                await owner.execute(fence.body)
        await owner.close()
        dsn = url.set(username="holdfast_reader", password="…").render_as_string(hide_password=False)
        result = await ask(OwnTool(name, 1, form), dsn, {"customer": "C-1"})
        assert json.loads(result.content) == {
            "rows": [{"order_id": "A-1", "item": "lamp", "amount": "12.50", "ordered_on": "2026-02-01"}],
            "more": False,
        }
    finally:
        await connection.execute("DROP DATABASE how_to WITH (FORCE)")
        await connection.execute("DROP ROLE IF EXISTS holdfast_reader")
        await connection.close()
