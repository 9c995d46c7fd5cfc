"""Who may do what in the database, asked of PostgreSQL's own catalogue and then tried (LAW 1, LAW 5)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from holdfast.database.engine import tenantless, transaction
from holdfast.database.roles import DEFINER_ROLE, OWNER_ROLE, PROCESS_ROLES
from holdfast.ids import new_id
from holdfast_verdict.decide import Verdict
from tests.ledger.world import Database, Tenant, approval_request, new_tenant

PROCESSES = [role.removeprefix("holdfast_") for role in PROCESS_ROLES]
CROSSING = {
    "begin_outward": {"executor"},
    "store_outcome": {"executor"},
    "authenticate_key": {"api", "broker"},
    "locate_run": {"governor"},
    "list_tenants": {"api", "sweeper", "auditor"},
    "due_holds": {"sweeper"},
    "unsigned_deliveries": {"sweeper"},
    "unsigned_webhooks": {"sweeper"},
    "forget_deliveries": {"sweeper"},
    "take_deliveries": {"executor"},
    "end_attempt": {"executor"},
    "queue_webhooks": set(),
    "due_starts": {"sweeper"},
    "lock_history": {"governor"},
    "raise_history": {"governor"},
    "number_history": {"governor"},
    "due_signals": {"sweeper"},
    "open_runs": {"sweeper"},
    "undigested_runs": {"sweeper"},
    "ledger_reserve": {"governor"},
    "ledger_settle": {"api", "governor", "sweeper"},
    "ledger_redeem": {"broker"},
    "begin_outward_all": {"executor"},
    "store_outcome_all": {"executor"},
    "lock_for_budget": {"api"},
    "take_budget": {"api"},
    "lock_for_return": {"api", "governor", "sweeper"},
    "return_budget": {"api", "governor", "sweeper"},
    "set_limit": {"api"},
    "due_returns": {"sweeper"},
    "due_logs": {"sweeper"},
    "vote_on_approval": {"api", "governor"},
    "withdraw_vote": {"api"},
    "withdraw_approval": {"api"},
    "delegate_approval": {"api"},
    "locate_approval": {"api"},
    "locate_link": {"api"},
    "due_escalations": {"sweeper"},
    "escalate_approval": {"sweeper"},
    "vote_by_hold": {"executor"},
    "read_approval_by_hold": {"executor"},
    "ask_by_hold": {"executor"},
    "answer_by_hold": {"executor"},
    "refuse_unmet": set(),
    "salt_run": set(),
    "erase_batch": {"sweeper"},
    "retention_batch": {"sweeper"},
    "due_erasures": {"sweeper"},
    "due_retention": {"sweeper"},
}
OWNERS = {"make_journal_partitions": {"sweeper"}, "journal_strays": {"sweeper"}}
"""Functions with the owner's rights: they make tables, and see what waits to be moved into one."""
INNER = {"active_stop", "amount_text", "bare_action", "carried_over", "carriers_of", "cast_vote", "close_approval", "consents_meet",
         "decision_facets", "delete_parts", "erase_run", "escalates_at",
         "gate_met", "gate_of", "leg_head", "lock_approval", "lock_caps", "lock_carriers", "lock_retention", "may_settle", "meets_need",
         "new_id", "new_salt", "newest_buckets", "on_legal_hold", "reached_threshold", "related_runs", "require_tenants", "right_bytes",
         "roll_window", "run_is_over", "running_code",
         "standing_delegations",
         "standing_votes", "supersede_decisions", "take_approval", "tell_approval", "window_end", "window_start",
         "write_entries"}  # fmt: skip
"""Functions that only the definer's own functions call, with its rights."""
PURE = {"window_start": {"api"}, "window_end": {"api"}, "reached_threshold": {"api"},
        "decision_facets": {"api", "sweeper", "auditor"}, "lock_retention": {"api"}, "on_legal_hold": {"api"},
        **{name: {"api", "governor", "sweeper"} for name in ("gate_of", "escalates_at", "standing_delegations")}}  # fmt: skip
"""Inner functions that others may call as well, with no rights but their own: they look at nothing else."""
VIEWS = ("hold_legs", "journal_legs")
_RELATIONS = """SELECT c.oid, c.relname, c.relrowsecurity, c.relforcerowsecurity, c.relkind::text,
        EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND a.attnotnull) AS scoped
    FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    AND NOT c.relispartition"""


async def _tables(database: Database) -> list[str]:
    rows = await database.fetch(f"{_RELATIONS} AND c.relname <> 'alembic_version'")
    return sorted(row["relname"] for row in rows)


async def _fill(tenant: Tenant) -> None:
    """Puts a row into every table."""
    await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    hold = await tenant.held(run)
    await tenant.executed(hold)
    request = approval_request(tenant)
    await tenant.reserve(run, 2, evaluated=Verdict("needs_approval", "x", "x"), approval=request)
    mine, user = tenant.tenant_id, tenant.user_id
    project, approval = tenant.project_id, request.approval_id
    for statement, arguments in (
        ("INSERT INTO api_keys VALUES ($1, $2, $3, $4, 'hf', sha256($5), '{owner}')", (new_id(), user, project, mine.bytes)),
        ("INSERT INTO run_inputs VALUES ($1, $2, 1, 'start', 'hello', $3)", (run, user)),
        ("INSERT INTO run_files VALUES ($1, $2, 'orders.csv', 1, sha256('x'))", (run,)),
        ("INSERT INTO transcript_entries VALUES ($1, $2, sha256('x'), NULL, 1, 'x')", (run,)),
        ("INSERT INTO approval_tokens VALUES ($1, sha256($2), $3, $4, 'approved', now(), now())", (mine.bytes, approval, user)),
        ("INSERT INTO vault_entries VALUES ($1, 'tool.mail', substr(sha256('x'), 1, 12), 'x')", ()),
        ("INSERT INTO tools VALUES ($1, 'crm.lookup', 1, '{}', sha256('x'))", ()),
        ("INSERT INTO policies VALUES ($1, $2, 1, '', '{}', sha256('{}'), 'x', 'written', '', '', 'x')", (policy := new_id(),)),
        ("INSERT INTO policy_activations VALUES ($1, 1, 'active', 'activate', $2, 'x')", (policy,)),
        ("INSERT INTO shadow_verdicts VALUES ($1, $2, $3, $4, 1, 1, 'x', 'x', $3, 'x', 'x', 'x', 'x', 'x', 'x')", (mine, policy, run)),
        ("INSERT INTO policy_rehearsals SELECT $1, $2, 1, '', sha256('x'), now(), now(), 'waiting', 0, 0, 0, $2, now(), NULL, '', 'x'",
         (new_id(),)),
        ("INSERT INTO sandbox_tiers VALUES ($1, '', 'kernel', 'x')", ()),
        ("INSERT INTO history_heads VALUES ($1, 1)", ()),
        ("INSERT INTO history_folds VALUES ($1, 1)", ()),
        ("INSERT INTO history_marks VALUES ($1, sha256('x'), $2, 1)", (run,)),
        ("INSERT INTO history_sums VALUES ($1, sha256('x'), 'x', 'x', 0, 0, 1, 0)", ()),
        ("INSERT INTO code_requests VALUES ($1, $2, 1, $3, 1, 'tool', 'mail.send', '{}')", (hold.hold_id, run)),
        ("INSERT INTO decision_counts VALUES ($1, 'allow', 'cap.set', 1)", ()),
        ("INSERT INTO counted_decisions VALUES ($1, 1)", ()),
        ("INSERT INTO audit_counts VALUES ($1, 'cross_check', 'agrees', 1)", ()),
        ("INSERT INTO run_histories VALUES ($1, $2, 0, 'x')", (run,)),
        ("INSERT INTO stops VALUES ($1, $2, 'tool', 'mail.send', 'x', 'x')", (new_id(),)),
        ("INSERT INTO webhooks VALUES ($1, $2, 'https://x.example', '{run.ended}', '', 'x')", (hook := new_id(),)),
        ("INSERT INTO webhook_deliveries VALUES ($1, $2, $3, 'run.ended')", (new_id(), hook)),
        ("INSERT INTO rollups VALUES ($1, now(), $2, 'tool.call', '', '', $3, $4, 'a', 'r')", (run, project, user)),
        ("INSERT INTO journal_sums SELECT tenant_id, cap_id, now(), 0, 0, 0, 0, 0, 0, false FROM caps WHERE tenant_id = $1", ()),
        ("INSERT INTO journal_archives VALUES ($1, now(), now(), 0, sha256('x'))", ()),
        ("INSERT INTO logs VALUES ($1, 'log.example', 1)", ()),
        ("INSERT INTO log_tiles VALUES ($1, 0, 0, sha256('x'))", ()),
        ("UPDATE decisions SET leaf_index = 0 WHERE tenant_id = $1 AND run_id = $2 AND step = 1", (run,)),
        ("INSERT INTO log_checkpoints VALUES ($1, 1, sha256('x'), 'x')", ()),
        ("INSERT INTO log_keys VALUES ($1, sha256('x'), 1)", ()),
        ("INSERT INTO log_witnesses VALUES ($1, 'w', 'x')", ()),
        ("INSERT INTO log_cosignatures VALUES ($1, 1, 'w', 'x')", ()),
        ("INSERT INTO approval_votes VALUES ($1, $2, 1, 0, 'user', 'x', 'x', NULL, NULL, '{}', 'approved', 'api', '')", (approval,)),
        ("INSERT INTO approval_delegations VALUES ($1, $2, 1, $3, 'x', $3, 'x', '{}', '')", (approval, user)),
        ("INSERT INTO approval_links VALUES ($1, sha256($2), $3, $4, now(), now())", (mine.bytes, approval, user)),
        ("INSERT INTO retention_settings (tenant_id, set_by) VALUES ($1, 'x')", ()),
        ("INSERT INTO legal_holds VALUES ($1, $2, NULL, 'x', 'x')", (new_id(),)),
        ("INSERT INTO erasures VALUES ($1, $2, NULL, NULL, 'x', 'x')", (new_id(),)),
        ("INSERT INTO signers VALUES ($1, $2, 'x', sha256('x'), '', 'x')", (new_id(),)),
        ("INSERT INTO releases VALUES ($1, $2, $3, 'secret', 'x', '{}', 'x', $2, '{}')", (new_id(), run)),
        ("INSERT INTO idempotency_keys VALUES ($1, 'runs', 'k', sha256('x'), 200, '{}')", ()),
    ):  # fmt: skip
        await tenant.database.execute(statement, mine, *arguments)


@pytest.fixture
async def two(database: Database) -> tuple[Tenant, Tenant]:
    """Two tenants with rows in every table there is."""
    tenants = (await new_tenant(database), await new_tenant(database))
    for tenant in tenants:
        await _fill(tenant)
        for table in await _tables(database):
            count = await database.value(f"SELECT count(*) FROM {table} WHERE tenant_id = $1", tenant.tenant_id)
            assert count, f"this test has to put a row into {table}"
    return tenants


# What the catalogue says -------------------------------------------------------------------------------------------------


async def test_every_table_is_scoped_by_tenant_with_row_level_security_forced(database: Database) -> None:
    rows = await database.fetch(_RELATIONS)
    assert len(rows) > 20
    for row in rows:
        if row["relname"] in VIEWS:
            options = await database.value("SELECT reloptions FROM pg_class WHERE oid = $1", row["oid"])
            assert options == ["security_invoker=true"], f"{row['relname']}: it would look past row-level security"
        elif row["relname"] != "alembic_version":
            assert row["relkind"] in ("r", "p"), f"{row['relname']}: a view would look past row-level security"
            assert row["scoped"], row["relname"]
            assert row["relrowsecurity"], row["relname"]
            assert row["relforcerowsecurity"], row["relname"]


async def test_a_partition_is_nobodys_but_its_tables(database: Database) -> None:
    rows = await database.fetch(
        """SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class
           WHERE relnamespace = 'public'::regnamespace AND relispartition AND relkind = 'r'"""
    )
    assert len(rows) >= 4
    for row in rows:
        assert row["relrowsecurity"]
        assert row["relforcerowsecurity"]
        for process in (*PROCESSES, DEFINER_ROLE):
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE"):
                assert not await _may(database, process, row["relname"], right), (process, right, row["relname"])


async def test_every_key_and_reference_is_scoped_by_tenant(database: Database) -> None:
    """Else one tenant's id could collide with, or point at, another's row."""
    rows = await database.fetch(
        """SELECT conrelid::regclass::text AS table_name, conname, contype::text, pg_get_constraintdef(oid) AS definition
           FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'u', 'f')"""
    )
    global_ids = {
        "tenants_slug_key",
        "runs_run_id_key",
        "holds_hold_id_key",
        "approvals_approval_id_key",
        "api_keys_key_hash_key",
    }
    for row in rows:
        if row["table_name"] != "alembic_version" and row["conname"] not in global_ids:
            assert "(tenant_id" in row["definition"], dict(row)


async def test_policies_let_a_tenant_see_itself_and_the_definer_what_its_functions_read(database: Database) -> None:
    rows = await database.fetch(
        "SELECT tablename, policyname, roles::text[], cmd, qual, with_check, permissive FROM pg_policies"
    )
    for table in sorted({*await _tables(database)} - {*VIEWS}):
        mine = {row["policyname"]: row for row in rows if row["tablename"] == table}
        assert set(mine) <= {"tenant_only", "definer_all"}
        only = mine["tenant_only"]
        assert (only["roles"], only["cmd"]) == (["public"], "ALL")
        assert only["qual"] == only["with_check"] == "(tenant_id = current_tenant())"
        if "definer_all" in mine:
            assert mine["definer_all"]["roles"] == [DEFINER_ROLE]
            assert "CURRENT_USER" in mine["definer_all"]["qual"]


async def test_no_role_can_go_past_row_level_security(database: Database) -> None:
    rows = await database.fetch("SELECT * FROM pg_roles WHERE rolname LIKE 'holdfast%'")
    assert {row["rolname"] for row in rows} == {OWNER_ROLE, DEFINER_ROLE, *PROCESS_ROLES}
    for row in rows:
        assert not any(
            row[power] for power in ("rolsuper", "rolbypassrls", "rolcreaterole", "rolcreatedb", "rolreplication")
        )
        assert row["rolcanlogin"] == (row["rolname"] != DEFINER_ROLE)
    members = await database.fetch(
        """SELECT r.rolname AS role, m.rolname AS member FROM pg_auth_members am JOIN pg_roles r ON r.oid = am.roleid
           JOIN pg_roles m ON m.oid = am.member WHERE m.rolname LIKE 'holdfast%'"""
    )
    assert [tuple(row) for row in members] == [(DEFINER_ROLE, OWNER_ROLE)]


async def test_functions_are_nobodys_but_those_they_were_made_for(database: Database) -> None:
    rows = await database.fetch(
        """SELECT p.oid, p.proname, p.prosecdef, p.proconfig, o.rolname AS owner, p.proacl IS NULL
                OR EXISTS (SELECT 1 FROM aclexplode(p.proacl) a WHERE a.grantee = 0) AS everybody
           FROM pg_proc p JOIN pg_roles o ON o.oid = p.proowner WHERE p.pronamespace = 'public'::regnamespace"""
    )
    triggers = {  # and what migrations alone call
        "pin_policy",
        "refuse_overspend",
        "refuse_redeciding",
        "refuse_resettling",
        "refuse_unit",
        "require_carried",
        "refuse_renumbering",
        "refuse_rollback",
        "refuse_rewriting",
        "refuse_rewriting_record",
        "refuse_fork",
        "keep_facets",
        "refuse_refaceting",
        "fill_facets",
        "fill_run_salts",
    }
    assert {row["proname"] for row in rows} == {*CROSSING, *OWNERS, *INNER, *triggers, "current_tenant"}
    for row in rows:
        name = row["proname"]
        assert not row["everybody"], name
        assert row["prosecdef"] == (name in CROSSING or name in OWNERS)
        assert row["owner"] == (DEFINER_ROLE if name in CROSSING else OWNER_ROLE)
        if name in CROSSING or name in OWNERS or name in INNER:
            if name not in INNER:
                assert row["proconfig"][0] == "search_path=public, pg_temp"
            callers = {
                process
                for process in PROCESSES
                if await database.value(
                    "SELECT has_function_privilege($1, $2::oid, 'EXECUTE')", f"holdfast_{process}", row["oid"]
                )
            }
            assert callers == {**CROSSING, **OWNERS, **PURE}.get(name, set()), name


async def _may(database: Database, process: str, table: str, right: str) -> bool:
    """Whether a process has a right on a table, or on any of its columns."""
    role = process if process.startswith("holdfast") else f"holdfast_{process}"
    if await database.value("SELECT has_table_privilege($1, $2, $3)", role, table, right):
        return True
    if right in ("DELETE", "TRUNCATE", "TRIGGER"):
        return False
    return bool(await database.value("SELECT has_any_column_privilege($1, $2, $3)", role, table, right))


async def _columns(database: Database, process: str, table: str) -> set[str]:
    rows = await database.fetch(
        """SELECT attname FROM pg_attribute WHERE attrelid = $2::text::regclass AND attnum > 0
           AND has_column_privilege($1, attrelid, attnum, 'UPDATE')""",
        f"holdfast_{process}",
        table,
    )
    return {row["attname"] for row in rows}


async def test_the_executor_has_no_right_on_any_table(database: Database) -> None:
    for table in [*await _tables(database), "alembic_version"]:
        for right in ("SELECT", "INSERT", "UPDATE", "REFERENCES", "DELETE", "TRUNCATE", "TRIGGER"):
            assert not await _may(database, "executor", table, right), (table, right)


async def test_only_the_broker_sees_the_vault(database: Database) -> None:
    for process in (*PROCESSES, DEFINER_ROLE):
        for right in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            assert await _may(database, process, "vault_entries", right) == (process == "broker"), (process, right)


async def test_what_is_written_stays_written(database: Database) -> None:
    """Journal, outcomes, timeline, transcript, legs: appended to, never changed.

    Nothing is deleted but vault entries, salts and old deliveries of webhooks.
    """
    for process in (*PROCESSES, DEFINER_ROLE):
        for table in await _tables(database):
            assert not await _may(database, process, table, "TRUNCATE")
            assert not await _may(database, process, table, "TRIGGER")
            deletes = {("broker", "vault_entries"), (DEFINER_ROLE, "run_salts"), (DEFINER_ROLE, "webhook_deliveries")}
            assert await _may(database, process, table, "DELETE") == ((process, table) in deletes)
        for table in (
            "journal",
            "outcomes",
            "timeline_events",
            "transcript_entries",
            "roles",
            "agents",
            "users",
        ):
            assert not await _may(database, process, table, "UPDATE"), (process, table)


async def test_outcomes_come_from_the_executors_function_alone(database: Database) -> None:
    for process in PROCESSES:
        assert not await _may(database, process, "outcomes", "INSERT"), process


async def test_no_process_writes_holds_caps_journal_or_rollups_but_by_the_ledgers_functions(database: Database) -> None:
    for process in PROCESSES:
        for table in ("holds", "caps", "journal", "journal_sums", "rollups"):
            for right in ("INSERT", "UPDATE", "DELETE"):
                assert not await _may(database, process, table, right), (process, table, right)
    assert await _columns(database, "definer", "holds") == {
        "state",
        "cost_nano_usd",
        "lease_hash",
        "lease_expires_at",
        "outward_at",
        "unknown_at",
        "settled_at",
        "settled_by",
        "superseded_at",
        "history_seq",
        "action",  # without its personal values, once these were erased
    }
    # part A goes as a whole, or not at all: a trigger sees to it
    assert await _columns(database, "definer", "decisions") == {"superseded_at", "reply", "part_a", "part_a_sha256"}


async def test_a_record_is_never_rewritten(database: Database) -> None:
    may = {process: await _columns(database, process, "decisions") for process in PROCESSES}
    assert may == {
        **{process: set() for process in PROCESSES},
        # its number, and what it is found by, which is no part of it; both once, for triggers refuse a second time
        "sweeper": {"leaf_index", "facet_agent", "facet_role", "facet_tool", "facet_rule", "facet_code"},
    }


@pytest.mark.parametrize(
    "change",
    [
        "part_a = part_b",
        "part_a = NULL, part_a_sha256 = sha256(part_b)",
        "part_a = NULL",
        "part_a_sha256 = sha256(part_a)",
        "part_a = NULL, part_a_sha256 = sha256(part_a)",
    ],
)
async def test_part_a_goes_as_a_whole_once_it_is_in_the_log_or_not_at_all(database: Database, change: str) -> None:
    tenant = await new_tenant(database)
    await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    await tenant.held(run)
    own = (tenant.tenant_id, run)
    update = f"UPDATE decisions SET {change} WHERE tenant_id = $1 AND run_id = $2"
    with pytest.raises(asyncpg.CheckViolationError):
        await database.execute(update, *own)
    await database.execute("UPDATE decisions SET leaf_index = 0 WHERE tenant_id = $1 AND run_id = $2", *own)
    if change == "part_a = NULL, part_a_sha256 = sha256(part_a)":
        await database.execute(update, *own)
        change = "part_a_sha256 = sha256(part_b)"
        update = f"UPDATE decisions SET {change} WHERE tenant_id = $1 AND run_id = $2"
    with pytest.raises(asyncpg.CheckViolationError):
        await database.execute(update, *own)


async def test_no_process_makes_anything_of_its_own(database: Database) -> None:
    for process in (*PROCESSES, "definer"):
        role = f"holdfast_{process}"
        assert not await database.value("SELECT has_schema_privilege($1, 'public', 'CREATE')", role)
        assert not await database.value("SELECT has_database_privilege($1, current_database(), 'CREATE')", role)
        assert not await database.value("SELECT has_database_privilege($1, current_database(), 'TEMPORARY')", role)
    assert not await database.value("SELECT has_schema_privilege('public', 'public', 'USAGE')")


# Tried -------------------------------------------------------------------------------------------------------------------


async def test_nobody_sees_another_tenants_rows(database: Database, two: tuple[Tenant, Tenant]) -> None:
    one, other = two
    for process in [*PROCESSES, "owner"]:
        for table in await _tables(database):
            if not await _may(database, process, table, "SELECT"):
                continue
            column = await database.value(
                """SELECT attname FROM pg_attribute WHERE attrelid = $2::text::regclass AND attname = 'tenant_id'
                   AND has_column_privilege($1, attrelid, attnum, 'SELECT')""",
                f"holdfast_{process}",
                table,
            )
            assert column == "tenant_id"
            query = text(f"SELECT DISTINCT tenant_id FROM {table}")
            async with transaction(database.engine(process), one.tenant_id) as connection:
                assert set((await connection.execute(query)).scalars()) == {one.tenant_id}, (process, table)
                foreign = text(f"SELECT count(*) FROM {table} WHERE tenant_id = :other")
                assert await connection.scalar(foreign, {"other": other.tenant_id}) == 0
            async with tenantless(database.engine(process)) as connection:
                assert list((await connection.execute(query)).scalars()) == [], (process, table)


async def test_nobody_writes_another_tenants_rows(database: Database, two: tuple[Tenant, Tenant]) -> None:
    one, other = two
    for process in [*PROCESSES, "owner"]:
        for table in sorted({*await _tables(database)} - {*VIEWS}):
            role = f"holdfast_{process}"
            columns = [
                row["attname"]
                for row in await database.fetch(
                    """SELECT attname FROM pg_attribute WHERE attrelid = $2::text::regclass AND attnum > 0 AND NOT attisdropped
                       AND has_column_privilege($1, attrelid, attnum, 'UPDATE')""",
                    role,
                    table,
                )
            ]
            if columns:
                async with transaction(database.engine(process), one.tenant_id) as connection:
                    touch = text(f'UPDATE {table} SET "{columns[-1]}" = "{columns[-1]}" WHERE tenant_id = :other')
                    assert (await connection.execute(touch, {"other": other.tenant_id})).rowcount == 0
            if await _may(database, process, table, "DELETE"):
                async with transaction(database.engine(process), one.tenant_id) as connection:
                    gone = await connection.execute(
                        text(f"DELETE FROM {table} WHERE tenant_id = :other"), {"other": other.tenant_id}
                    )
                    assert gone.rowcount == 0


@pytest.mark.parametrize(
    ("process", "statement"),
    [
        ("api", "INSERT INTO projects (tenant_id, project_id, slug) VALUES (:other, :id, 'mine-now')"),
        ("api", """INSERT INTO stops (tenant_id, stop_id, scope_kind, scope_name, reason, actor)
                   VALUES (:other, :id, 'tool', 'x', 'x', 'x')"""),
        ("governor", """INSERT INTO timeline_events (tenant_id, run_id, seq, event_id, channel, type, data)
                        SELECT :other, run_id, 99, :id, 'x', 'x', '{}' FROM runs LIMIT 1"""),
        ("broker", "INSERT INTO vault_entries VALUES (:other, 'tool.http', substr(sha256('x'), 1, 12), 'x')"),
        ("governor", "UPDATE runs SET tenant_id = :other WHERE tenant_id <> :other OR run_id <> :id"),
    ],
)  # fmt: skip
async def test_no_row_is_given_to_another_tenant(
    database: Database, two: tuple[Tenant, Tenant], process: str, statement: str
) -> None:
    one, other = two
    with pytest.raises(DBAPIError, match="row-level security"):
        async with transaction(database.engine(process), one.tenant_id) as connection:
            await connection.execute(text(statement), {"other": other.tenant_id, "id": new_id()})


@pytest.fixture
async def executor(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await database.connect("executor")
    yield connection
    await connection.close()


async def test_an_executor_that_was_taken_over_gets_nothing(
    database: Database, two: tuple[Tenant, Tenant], executor: asyncpg.Connection
) -> None:
    refused = (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedFunctionError)
    await executor.execute("SELECT set_config('holdfast.tenant_id', $1, false)", str(two[0].tenant_id))
    for table in [*sorted({*await _tables(database)} - {*VIEWS}), "alembic_version"]:
        for statement in (f"SELECT 1 FROM {table}", f"DELETE FROM {table}", f"INSERT INTO {table} DEFAULT VALUES"):
            with pytest.raises(refused):
                await executor.execute(statement)
    calls = [
        "authenticate_key('x')", f"locate_run('{new_id()}')", "list_tenants()", "due_holds(9, '0')", "due_starts(9)",
        "due_signals(9)", f"open_runs(9, '{new_id()}')", "undigested_runs(9)", "current_tenant()", "refuse_overspend()",
    ]  # fmt: skip
    for call in calls:
        with pytest.raises((*refused, asyncpg.FeatureNotSupportedError)):
            await executor.execute(f"SELECT {call}")
    for statement in (
        "SET ROLE holdfast_definer",
        "SET ROLE holdfast_governor",
        "SET SESSION AUTHORIZATION holdfast_owner",
        "CREATE TABLE public.mine (x int)",
        "CREATE TEMP TABLE mine (x int)",
        "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER FUNCTION begin_outward OWNER TO holdfast_executor",
        "CREATE SCHEMA mine",
        "COPY (SELECT 1) TO PROGRAM 'id'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'holdfast_governor'",
        "ALTER ROLE holdfast_executor BYPASSRLS",
    ):
        with pytest.raises((*refused, asyncpg.PostgresError)):
            await executor.execute(statement)
    seen = await executor.fetch("SELECT * FROM pg_stat_activity WHERE query LIKE '%holds%' AND usename <> current_user")
    assert seen == [], "nor what others ask"


async def test_a_function_of_the_definer_calls_no_function_of_its_callers(
    database: Database, executor: asyncpg.Connection
) -> None:
    """A caller's search path must not put a function or table of his own in the definer's way."""
    hold = await (await _funded(database)).held()
    await executor.execute("SET search_path = pg_temp, public")
    assert await executor.fetchval("SELECT public.begin_outward($1, 'x')", hold.hold_id) is None


@pytest.mark.parametrize("call", ["erase_batch($1, (SELECT x.erasure_id FROM own x), 10)", "retention_batch($1, 10)"])
async def test_nothing_is_taken_from_another_tenant_than_the_transactions(
    database: Database, two: tuple[Tenant, Tenant], call: str
) -> None:
    mine, other = (tenant.tenant_id for tenant in two)
    erasure = await database.value("SELECT erasure_id FROM erasures WHERE tenant_id = $1", other)
    connection = await database.connect("sweeper")
    statement = f"WITH own AS (SELECT '{erasure}'::uuid AS erasure_id) SELECT * FROM {call}"
    try:
        await connection.execute("SELECT set_config('holdfast.tenant_id', $1, false)", str(mine))
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="another tenant"):
            await connection.fetch(statement, other)
        await connection.execute("SELECT set_config('holdfast.tenant_id', $1, false)", str(other))
        await connection.fetch(statement, other)
    finally:
        await connection.close()


async def _funded(database: Database) -> Tenant:
    tenant = await new_tenant(database)
    await tenant.cap("tenant", 1_000)
    return tenant


async def test_the_tenant_setting_must_be_an_id(database: Database) -> None:
    connection = await database.connect("api")
    try:
        assert await connection.fetch("SELECT * FROM projects") == []
        await connection.execute("SELECT set_config('holdfast.tenant_id', '', false)")
        assert await connection.fetch("SELECT * FROM projects") == []
        await connection.execute("SELECT set_config('holdfast.tenant_id', 'x'' OR true --', false)")
        with pytest.raises(asyncpg.InvalidTextRepresentationError):
            await connection.fetch("SELECT * FROM projects")
    finally:
        await connection.close()
