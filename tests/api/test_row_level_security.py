"""The store enforces tenancy (LAW 5): tried with each process's own database role, past all of our code."""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg
import pytest

from holdfast.database.roles import PROCESS_ROLES

from .test_isolation import things
from .world import Tenant, World

SEEING = [role for role in PROCESS_ROLES if role != "holdfast_executor"]


async def readable(connection: asyncpg.Connection) -> list[str]:
    """Returns the tables that a role may read at all."""
    rows = await connection.fetch(
        "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'public' AND relkind = 'r'"
        " AND relname <> 'alembic_version' AND has_table_privilege(current_user, c.oid, 'SELECT') ORDER BY 1"
    )
    return [row[0] for row in rows]


async def test_every_table_has_forced_row_level_security(world: World) -> None:
    tables = await world.fetch(
        "SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE nspname = 'public' AND relkind = 'r' AND relname <> 'alembic_version'"
    )
    assert len(tables) > 15
    assert [
        table["relname"] for table in tables if not (table["relrowsecurity"] and table["relforcerowsecurity"])
    ] == []
    foreign = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'holdfast_%' AND (rolsuper OR rolbypassrls)"
    assert await world.value(foreign) == 0


@pytest.mark.parametrize("role", [*SEEING, "holdfast_owner"])
async def test_without_a_tenant_nothing_is_seen(tenant: Tenant, postgres_urls: Mapping[str, str], role: str) -> None:
    await things(tenant)
    connection = await asyncpg.connect(postgres_urls[role])
    for bound in (None, "", str(tenant.tenant_id)):
        if bound is not None:
            await connection.execute("SELECT set_config('holdfast.tenant_id', $1, false)", bound)
        tables = await readable(connection)
        assert tables
        seen = {table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in tables}
        if not bound:
            assert set(seen.values()) == {0}, seen
        else:
            assert seen["runs"] == 2
            for table in tables:
                foreign = f"SELECT count(*) FROM {table} WHERE tenant_id <> $1"
                assert await connection.fetchval(foreign, tenant.tenant_id) == 0
    await connection.close()


async def test_nobody_writes_into_another_tenant(
    tenant: Tenant, other: Tenant, postgres_urls: Mapping[str, str]
) -> None:
    connection = await asyncpg.connect(postgres_urls["holdfast_api"])
    await connection.execute("SELECT set_config('holdfast.tenant_id', $1, false)", str(other.tenant_id))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(
            "INSERT INTO users (tenant_id, user_id, name) VALUES ($1, gen_random_uuid(), 'x')", tenant.tenant_id
        )
    changed = await connection.execute("UPDATE api_keys SET revoked_at = now() WHERE tenant_id = $1", tenant.tenant_id)
    assert changed == "UPDATE 0"
    set_limit = "SELECT set_limit($1, 'tenant', 'x', 'nano_usd', 'total', 10, false, NULL, 'x', 'x')"
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="belongs to another tenant"):
        await connection.execute(set_limit, tenant.tenant_id)
    await connection.close()


async def test_the_executor_has_no_table(tenant: Tenant, postgres_urls: Mapping[str, str]) -> None:
    connection = await asyncpg.connect(postgres_urls["holdfast_executor"])
    await connection.execute("SELECT set_config('holdfast.tenant_id', $1, false)", str(tenant.tenant_id))
    assert await readable(connection) == []
    callable_functions = await connection.fetch(
        "SELECT proname FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname = 'public'"
        " AND has_function_privilege(current_user, p.oid, 'EXECUTE') ORDER BY 1"
    )
    assert [row[0] for row in callable_functions] == [
        "answer_by_hold",
        "ask_by_hold",
        "begin_outward",
        "begin_outward_all",
        "end_attempt",
        "read_approval_by_hold",
        "store_outcome",
        "store_outcome_all",
        "take_deliveries",
        "vote_by_hold",
    ]
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.fetch("SELECT * FROM holds")
    await connection.close()


async def test_the_api_cannot_touch_what_is_not_its_own(tenant: Tenant, postgres_urls: Mapping[str, str]) -> None:
    connection = await asyncpg.connect(postgres_urls["holdfast_api"])
    await connection.execute("SELECT set_config('holdfast.tenant_id', $1, false)", str(tenant.tenant_id))
    for statement in (
        "SELECT * FROM vault_entries",
        "UPDATE decisions SET verdict = 'allow'",
        "DELETE FROM journal",
        "UPDATE journal SET reserved_deltas = '{0}'",
        "UPDATE api_keys SET roles = '{owner}'",
        "UPDATE runs SET role_version = 1",
        "UPDATE holds SET max_cost_nano_usd = 0",
        "INSERT INTO outcomes SELECT * FROM outcomes",
        "INSERT INTO approvals SELECT * FROM approvals",
        "INSERT INTO transcript_entries SELECT * FROM transcript_entries",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()
