"""The database's roles: each process its own, nobody but the administrator a superuser."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from cli.stack.supervisor import Stack
from holdfast.database.roles import DEFINER_ROLE, LOGIN_ROLES, OWNER_ROLE, ensure_roles, url_for
from holdfast.errors import ConfigurationInvalid, Unavailable


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack() -> AsyncIterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    async with Stack(folder, ports="free", parts={"postgres"}, postgres_url="") as started:
        yield started
    shutil.rmtree(folder)


async def test_every_role_logs_in_with_its_own_password_only(stack: Stack) -> None:
    passwords = stack.secrets.database_passwords
    for role in LOGIN_ROLES:
        connection = await asyncpg.connect(stack.database_url(role))
        row = await connection.fetchrow("SELECT * FROM pg_roles WHERE rolname = current_user")
        assert row["rolname"] == role
        for right in ("rolsuper", "rolcreatedb", "rolcreaterole", "rolreplication", "rolbypassrls"):
            assert row[right] is False
        await connection.close()
        other = passwords[LOGIN_ROLES[(LOGIN_ROLES.index(role) + 1) % len(LOGIN_ROLES)]]
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(stack.database_url(role).replace(passwords[role], other))


async def test_the_superuser_comes_through_the_socket_with_its_password_only(stack: Stack) -> None:
    right = stack.secrets.database_passwords["postgres"]
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="rejects connection"):
        await asyncpg.connect(host="127.0.0.1", port=stack.ports.postgres, user="postgres", password=right)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(stack.superuser_url.replace(right, "wrong"))
    await (await asyncpg.connect(stack.superuser_url)).close()


async def test_the_owner_hands_functions_to_the_definer(stack: Stack) -> None:
    owner = await asyncpg.connect(stack.database_url(OWNER_ROLE))
    await owner.execute("GRANT CREATE ON SCHEMA public TO holdfast_definer")
    await owner.execute("CREATE FUNCTION handed() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'")
    await owner.execute(f"ALTER FUNCTION handed() OWNER TO {DEFINER_ROLE}")
    assert await owner.fetchval("SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'handed'") == DEFINER_ROLE
    await owner.close()


@pytest.mark.parametrize("role", LOGIN_ROLES[1:])
async def test_a_process_makes_nothing_and_becomes_nobody_else(stack: Stack, role: str) -> None:
    connection = await asyncpg.connect(stack.database_url(role))
    for statement in (
        "CREATE TABLE public.mine (a int)",
        "CREATE TEMPORARY TABLE mine (a int)",
        "CREATE SCHEMA mine",
        f"SET ROLE {OWNER_ROLE}",
        f"SET ROLE {DEFINER_ROLE}",
        "SET session_replication_role = replica",
        "ALTER SYSTEM SET fsync = off",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('postgresql.conf')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


async def test_it_can_be_done_again_with_other_passwords_and_writes_none_of_them_down(stack: Stack) -> None:
    passwords = {role: f"changed-{role}" for role in LOGIN_ROLES}
    await ensure_roles(stack.superuser_url, passwords)
    await ensure_roles(stack.superuser_url, passwords)
    server = f"postgresql://127.0.0.1:{stack.ports.postgres}/"
    for role in LOGIN_ROLES:
        await (await asyncpg.connect(url_for(server, role, passwords[role]))).close()
    await ensure_roles(stack.superuser_url, stack.secrets.database_passwords)
    admin = await asyncpg.connect(stack.superuser_url)
    await admin.execute("ALTER SYSTEM SET log_statement = 'all'")
    await admin.execute("SELECT pg_reload_conf()")
    await ensure_roles(stack.superuser_url, passwords)
    await ensure_roles(stack.superuser_url, stack.secrets.database_passwords)
    await admin.execute("ALTER SYSTEM RESET ALL")
    await admin.execute("SELECT pg_reload_conf()")
    await admin.close()
    log = (stack.folder.logs / "postgres.log").read_text()
    assert "ALTER ROLE" in log
    for secret in (*passwords.values(), *stack.secrets.database_passwords.values()):
        assert secret not in log


async def test_an_administrator_without_superuser_rights_is_enough(stack: Stack) -> None:
    admin = await asyncpg.connect(stack.superuser_url)
    await admin.execute("CREATE ROLE dba LOGIN CREATEROLE CREATEDB PASSWORD 'dba'")
    await admin.execute(f"GRANT {', '.join((*LOGIN_ROLES, DEFINER_ROLE))} TO dba WITH ADMIN TRUE")
    await admin.close()
    await ensure_roles(
        f"postgresql://dba:dba@127.0.0.1:{stack.ports.postgres}/second", stack.secrets.database_passwords
    )
    url = stack.database_url(OWNER_ROLE).removesuffix("/holdfast") + "/second"
    owner = await asyncpg.connect(url)
    await owner.execute("CREATE TABLE mine (a int)")
    await owner.close()


async def test_what_is_wrong_is_told_without_the_password(stack: Stack) -> None:
    with pytest.raises(ConfigurationInvalid, match="no password for the database role holdfast_owner"):
        await ensure_roles(stack.superuser_url, {})
    with pytest.raises(Unavailable, match="cannot connect to PostgreSQL at") as caught:
        await ensure_roles("postgresql://postgres:hush@127.0.0.1:1/postgres", stack.secrets.database_passwords)
    assert "hush" not in caught.value.message
