"""Where the ledger is measured: a PostgreSQL of its own with the schema in it, customers with caps, and runs for every worker."""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg
import psutil  # type: ignore[import-untyped]  # ships no types
from sqlalchemy.engine import make_url

from bench.ledger import naive
from cli.stack.supervisor import Stack
from holdfast.database.engine import create_engine, transaction
from holdfast.database.roles import PROCESS_ROLES
from holdfast.ids import new_id
from holdfast.ledger import auditor
from holdfast.ledger.service import set_limit
from holdfast.ledger.types import CALLS, NANO_USD, Scope
from holdfast.runs.definition import AgentDefinition
from holdfast.runs.versions import put_agent, put_role
from holdfast.tenancy.service import create_project, create_tenant, create_user

MODEL: Final = "claude-haiku-4-5"
KIND: Final = "llm.call"
LIMIT_NANO_USD: Final = 10**17
LIMIT_CALLS: Final = 10**12
ROLE: Final = """\
role reader {
  forbid mail.send as "no-sending"
  forbid llm.call where args.max_tokens > 32000 as "large-answers"
  permit llm.call as "think"
  permit mail.list as "mail"
}
"""
_AT_A_TIME: Final = 8

_INSERT_RUNS: Final = """
    INSERT INTO runs (tenant_id, run_id, project_id, user_id, agent_name, agent_version, role_name, role_version, status, started_at,
                      deadline_at)
    SELECT $1, run_id, $3, $4, 'reader', 1, 'reader', 1, 'running', now(), now() + interval '1 day' FROM unnest($2::uuid[]) AS run_id
"""

# What redeem, outward request and outcome do to holds, for all that are held: nobody waits for it, so one statement does.
_EXECUTE_HELD: Final = """
    WITH executed AS (
        UPDATE holds SET state = 'executed', lease_hash = sha256('bench'), lease_expires_at = expires_at, outward_at = now()
        WHERE state = 'held' AND settled_at IS NULL AND kind = $1 RETURNING tenant_id, hold_id, run_id
    )
    INSERT INTO outcomes (tenant_id, hold_id, run_id, ok, cost_class, provider_request_id, simulated, result)
    SELECT tenant_id, hold_id, run_id, true, 'known', 'bench', true, '{}' FROM executed
"""
_DURABLE: Final = ("fsync", "synchronous_commit", "full_page_writes")


@dataclass(frozen=True, slots=True)
class Server:
    """A running PostgreSQL: as each role, and as its superuser, who sees everything."""

    urls: Mapping[str, str]
    superuser_url: str
    superuser: asyncpg.Pool
    postmaster: psutil.Process

    async def execute_held(self) -> None:
        """Takes every hold that is held to a stored outcome, so that it can be settled at a cost."""
        await self.superuser.execute(_EXECUTE_HELD, KIND, timeout=600)

    async def audit(self) -> auditor.Audit:
        """Has the auditor look at the books."""
        engine = create_engine(self.urls["holdfast_auditor"], process="bench-auditor", pool_size=1)
        try:
            return await auditor.audit(engine)
        finally:
            await engine.dispose()

    async def written(self) -> tuple[int, int]:
        """Returns how many transactions have written something so far, and how many bytes of log."""
        row = await self.superuser.fetchrow(
            "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
        )
        return row[0], int(row[1])

    async def settle_down(self) -> None:
        """Does now what the server would else do in the middle of a measurement."""
        await self.superuser.execute("VACUUM ANALYZE", timeout=3_600)
        await self.superuser.execute("CHECKPOINT", timeout=600)

    def cpu_s(self) -> float:
        """Returns the processor time that the server's living processes have used, with those that its postmaster has seen end."""
        times = self.postmaster.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for process in self.postmaster.children():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return float(total)


@asynccontextmanager
async def open_server() -> AsyncIterator[Server]:
    """Brings up PostgreSQL with the schema, in a temporary folder, and takes it down again.

    Raises:
        RuntimeError: Its commits do not wait for the disk.
    """
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as name:
        os.chmod(name, 0o755)  # noqa: S103, PTH101 (PostgreSQL runs under another account when root calls this)
        async with (
            Stack(Path(name) / "data", ports="free", parts={"postgres", "migrations"}) as stack,
            asyncpg.create_pool(stack.superuser_url, min_size=1, max_size=4) as pool,
        ):
            for setting in _DURABLE:
                value = await pool.fetchval("SELECT current_setting($1)", setting)
                if value != "on":
                    raise RuntimeError(f"{setting} is {value}: figures of such a server are worth nothing")
            urls = {role: stack.database_url(role) for role in PROCESS_ROLES}
            urls[naive.ROLE] = await _make_naive_role(stack, pool)
            backend = psutil.Process(await pool.fetchval("SELECT pg_backend_pid()"))
            yield Server(urls, stack.superuser_url, pool, backend.parent())


async def _make_naive_role(stack: Stack, pool: asyncpg.Pool) -> str:
    password = secrets.token_hex(16)
    await pool.execute(f"CREATE ROLE {naive.ROLE} LOGIN NOBYPASSRLS PASSWORD '{password}'")
    await pool.execute(naive.GRANTS)
    url = make_url(stack.database_url("holdfast_governor")).set(username=naive.ROLE, password=password)
    return url.render_as_string(hide_password=False)


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant with a project, a user, an agent, a role, and caps on all of them: five legs a hold."""

    tenant_id: UUID
    project_id: UUID
    user_id: UUID

    @property
    def caps(self) -> tuple[tuple[Scope, str, int], ...]:
        """Scope, unit and limit of each cap."""
        tenant = Scope("tenant", str(self.tenant_id))
        return (
            (tenant, NANO_USD, LIMIT_NANO_USD),
            (tenant, CALLS, LIMIT_CALLS),
            (Scope("project", str(self.project_id)), NANO_USD, LIMIT_NANO_USD),
            (Scope("user", str(self.user_id)), NANO_USD, LIMIT_NANO_USD),
            (Scope("role", "reader"), NANO_USD, LIMIT_NANO_USD),
        )


async def make_customers(server: Server, count: int) -> list[Customer]:
    """Makes customers the way the API does."""
    engine = create_engine(server.urls["holdfast_api"], process="bench-api", pool_size=_AT_A_TIME)
    definition = AgentDefinition.model_validate(
        {
            "role": "reader",
            "instructions": "You read the inbox.",
            "model": {"wire": "anthropic", "name": MODEL},
            "max_tokens": 1_000,
            "tools": ["mail.list"],
            "limits": {"run_cap_nano_usd": 10**12},
        }
    )
    turns = asyncio.Semaphore(_AT_A_TIME)

    async def make() -> Customer:
        tenant_id = new_id()
        async with turns, transaction(engine, tenant_id) as connection:
            await create_tenant(connection, tenant_id, slug=f"bench-{os.getpid()}-{tenant_id.hex}", name="Bench")
            project_id = await create_project(connection, tenant_id, "bench")
            user_id = await create_user(connection, tenant_id, "bench")
            await put_role(connection, tenant_id, "reader", ROLE)
            await put_agent(connection, tenant_id, "reader", definition)
            customer = Customer(tenant_id, project_id, user_id)
            for scope, unit, limit in customer.caps:
                await set_limit(
                    connection,
                    tenant_id,
                    scope,
                    unit,
                    limit_amount=limit,
                    unlimited=False,
                    actor="bench",
                    reason="bench",
                )
        return customer

    try:
        return list(await asyncio.gather(*(make() for _ in range(count))))
    finally:
        await engine.dispose()


async def make_runs(server: Server, customers: Sequence[Customer], count: int) -> list[tuple[UUID, UUID]]:
    """Makes running runs, spread evenly over customers, and returns tenant and run of each, customers taking turns."""
    made: list[list[tuple[UUID, UUID]]] = []
    for customer in customers:
        ids = [new_id() for _ in range(-(-count // len(customers)))]
        await server.superuser.execute(
            _INSERT_RUNS, customer.tenant_id, ids, customer.project_id, customer.user_id, timeout=60
        )
        made.append([(customer.tenant_id, run_id) for run_id in ids])
    return [run for turn in zip(*made, strict=True) for run in turn][:count]
