"""A real PostgreSQL with the schema in it, tenants made on demand, and short ways to ask the ledger for something."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from cli.stack.supervisor import Stack
from holdfast.database.engine import create_engine, tenantless, transaction
from holdfast.database.roles import PROCESS_ROLES
from holdfast.ids import new_id
from holdfast.ledger import service
from holdfast.ledger.service import Ledger
from holdfast.ledger.types import (
    ApprovalRequest,
    Decision,
    FactsChanged,
    FactVersions,
    HoldView,
    Redemption,
    Reservation,
    Scope,
    Settlement,
    TryKey,
)
from holdfast_verdict.canonical import JsonValue, canonical_bytes, digest
from holdfast_verdict.decide import Facts, Rule, Verdict
from holdfast_verdict.policy import Gate, Need
from holdfast_verdict.record import part_a

PERMIT = Rule("all", "permit", "tool.call", "*")
APPROVER = Gate((Need(1, "role", "approver"),), 3_600_000)
ALLOWED = Verdict("allow", "policy.permitted", "permitted by rule all", "all", ("permit all matched",))

# rows of asyncpg and of text() carry no types
Record = Any


@dataclass(slots=True)
class Database:
    """PostgreSQL as each of its roles, and as its superuser, who sees everything."""

    urls: Mapping[str, str]
    superuser_url: str
    superuser: asyncpg.Pool
    engines: dict[str, AsyncEngine] = field(default_factory=dict)
    ledgers: dict[str, Ledger] = field(default_factory=dict)

    def engine(self, role: str, *, pool_size: int = 16) -> AsyncEngine:
        """Returns the engine of `governor`, `api`, `broker` and so on."""
        if role not in self.engines:
            self.engines[role] = create_engine(
                self.urls[f"holdfast_{role}"], process=f"test-{role}", pool_size=pool_size
            )
        return self.engines[role]

    def ledger(self, role: str = "governor") -> Ledger:
        """Returns the one ledger of a role, as each process has one."""
        if role not in self.ledgers:
            self.ledgers[role] = Ledger(self.engine(role))
        return self.ledgers[role]

    async def leave(self) -> None:
        """Closes the connections of those who decide, and waits until none of theirs is at work any more.

        One that was killed in the middle of its commit may still end it after its caller was told of its death.
        """
        for role in (roles := ("governor", "broker", "executor")):
            await self.engine(role).dispose()
        names = [f"holdfast-test-{role}" for role in roles]
        async with asyncio.timeout(60):
            while await self.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = ANY($1)", names):
                await asyncio.sleep(0.02)

    async def fetch(self, sql: str, *arguments: object) -> list[Record]:
        return list(await self.superuser.fetch(sql, *arguments))

    async def value(self, sql: str, *arguments: object) -> Record:
        return await self.superuser.fetchval(sql, *arguments)

    async def execute(self, sql: str, *arguments: object) -> None:
        await self.superuser.execute(sql, *arguments)

    async def connect(self, role: str) -> asyncpg.Connection:
        """Opens a connection of a test's own, to be left in the middle of something."""
        return await asyncpg.connect(self.urls[f"holdfast_{role}"])


@asynccontextmanager
async def running_database() -> AsyncIterator[Database]:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    folder.chmod(0o755)
    try:
        async with Stack(folder, ports="free", parts={"postgres", "migrations"}) as stack:
            roles = (*PROCESS_ROLES, "holdfast_owner")
            pool = await asyncpg.create_pool(stack.superuser_url, min_size=1, max_size=4)
            database = Database({role: stack.database_url(role) for role in roles}, stack.superuser_url, pool)
            yield database
            for engine in database.engines.values():
                await engine.dispose()
            await pool.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def until(condition: Callable[[], Awaitable[object]], *, timeout_s: float = 45) -> None:
    """Waits until something is so, looking again and again."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.005)


@dataclass(slots=True)
class Tenant:
    """A tenant with a project, a user, an agent and a role, and the caps that a test sets."""

    database: Database
    tenant_id: UUID
    project_id: UUID
    user_id: UUID

    @property
    def ledger(self) -> Ledger:
        return self.database.ledger()

    @property
    def scopes(self) -> tuple[Scope, ...]:
        return (
            Scope("tenant", str(self.tenant_id)),
            Scope("project", str(self.project_id)),
            Scope("user", str(self.user_id)),
            Scope("role", "worker"),
        )

    def scope(self, kind: str) -> Scope:
        return next(scope for scope in self.scopes if scope.kind == kind)

    async def run(self) -> UUID:
        return (await self.runs(1))[0]

    async def runs(self, count: int) -> list[UUID]:
        ids = [new_id() for _ in range(count)]
        await self.database.execute(
            """INSERT INTO runs (tenant_id, run_id, project_id, user_id, agent_name, agent_version, role_name, role_version, status,
               started_at, deadline_at) SELECT $1, run_id, $3, $4, 'agent', 1, 'worker', 1, 'running', now(), now() + interval '1 day'
               FROM unnest($2::uuid[]) AS run_id""",
            self.tenant_id,
            ids,
            self.project_id,
            self.user_id,
        )
        return ids

    async def cap(
        self,
        kind: str = "tenant",
        limit: int = 0,
        *,
        unit: str = "nano_usd",
        unlimited: bool = False,
        scope_id: str = "",
    ) -> UUID:
        """Sets the limit of a cap, as the API does."""
        scope = Scope(kind, scope_id) if scope_id else self.scope(kind)
        async with transaction(self.database.engine("api"), self.tenant_id) as connection:
            return await service.set_limit(
                connection,
                self.tenant_id,
                scope,
                unit,
                limit_amount=limit,
                unlimited=unlimited,
                actor="test",
                reason="test",
            )

    async def versions(self, run_id: UUID) -> FactVersions:
        row = await self.database.superuser.fetchrow(
            "SELECT history_version, role_version FROM runs WHERE run_id = $1", run_id
        )
        return FactVersions(row[0], row[1])

    async def reservation(
        self,
        run_id: UUID,
        step: int = 1,
        try_number: int = 1,
        *,
        argument: JsonValue = "x",
        amounts: Mapping[str, int] | None = None,
        scopes: tuple[Scope, ...] | None = None,
        evaluated: Verdict = ALLOWED,
        approval: ApprovalRequest | None = None,
        consumes: UUID | None = None,
        hold_ms: int = 600_000,
        lease_ms: int = 60_000,
        message: str = "",
        funded: bool = False,
        idempotent: bool = True,
    ) -> Reservation:
        """Builds what the governor would ask, with the versions as they are now."""
        action: dict[str, JsonValue] = {"kind": "tool.call", "tool": "orders.read", "args": {"value": argument}}
        facts = Facts({"role": "worker"}, (PERMIT,), "00", known=True)
        if message:
            evaluated = Verdict("deny", "policy.test", message)
        return Reservation(
            key=TryKey(self.tenant_id, run_id, step, try_number),
            decision_id=new_id(),
            hold_id=new_id(),
            action=canonical_bytes(action),
            digest=digest(action),
            kind="tool.call",
            tool="orders.read",
            idempotent=idempotent,
            evaluated=evaluated,
            part_a=part_a(
                subject={"run": str(run_id), "step": step, "try": try_number},
                action=action,
                action_digest=digest(action),
                facts=facts,
                verdict=evaluated,
                prices=None,
            ),
            versions=await self.versions(run_id),
            amounts={"nano_usd": 10} if amounts is None else amounts,
            scopes=self.scopes if scopes is None else scopes,
            estimate={},
            lease_ms=lease_ms,
            hold_ms=hold_ms,
            approval=approval,
            consumes_approval_id=consumes,
            funded=funded,
        )

    async def reserve(self, run_id: UUID, step: int = 1, try_number: int = 1, **asked: Record) -> Decision:
        """Reserves the way the governor does: facts anew whenever they have changed."""
        while True:
            try:
                return await self.ledger.reserve(await self.reservation(run_id, step, try_number, **asked))
            except FactsChanged:
                continue

    async def consent(self, request: ApprovalRequest) -> None:
        """Approves what was asked for, as an approver's vote does."""
        await self.database.execute(
            """INSERT INTO approval_votes (tenant_id, approval_id, number, revision, kind, voter, name, roles, verdict,
               via, reason) SELECT tenant_id, approval_id, 1, 0, 'user', 'voter', 'voter', '{approver}', 'approved', 'api', ''
               FROM approvals WHERE approval_id = $1""",
            request.approval_id,
        )
        given = "UPDATE approvals SET verdict = 'approved', decided_at = now() WHERE approval_id = $1"
        await self.database.execute(given, request.approval_id)

    async def held(self, run_id: UUID | None = None, step: int = 1, **asked: Record) -> HoldView:
        """Returns a fresh hold, its caps having room for it."""
        decision = await self.reserve(run_id or await self.run(), step, **asked)
        assert decision.hold_id is not None, decision
        return await self.hold(decision.hold_id)

    async def hold(self, hold_id: UUID) -> HoldView:
        hold = await self.ledger.read_hold(self.tenant_id, hold_id)
        assert hold is not None
        return hold

    async def redeem(self, hold: HoldView) -> Redemption:
        return await self.database.ledger("broker").redeem(self.tenant_id, hold.hold_id, hold.digest)

    async def begin(self, hold_id: UUID, token: bytes) -> int | None:
        """Calls `begin_outward` as the executor."""
        async with tenantless(self.database.engine("executor")) as connection:
            remaining: int | None = await connection.scalar(
                text("SELECT begin_outward(:hold, :token)"), {"hold": hold_id, "token": token}
            )
        return remaining

    async def store(self, hold_id: UUID, token: bytes, *, cost_class: str = "known", result: bytes = b"{}") -> bool:
        """Calls `store_outcome` as the executor."""
        async with tenantless(self.database.engine("executor")) as connection:
            stored: bool = await connection.scalar(
                text("SELECT store_outcome(:hold, :token, true, '', false, NULL, :cost_class, 'req', true, :result)"),
                {"hold": hold_id, "token": token, "cost_class": cost_class, "result": result},
            )
        return stored

    async def executed(self, hold: HoldView, *, cost_class: str = "known") -> bytes:
        """Takes a hold all the way to a stored outcome; returns the fencing token."""
        token = (await self.redeem(hold)).lease_token
        assert await self.begin(hold.hold_id, token) is not None
        assert await self.store(hold.hold_id, token, cost_class=cost_class)
        return token

    async def settle(
        self, hold_id: UUID, to: str, actual: Mapping[str, int] | None = None, *, seen: HoldView | None = None
    ) -> None:
        """Settles a hold as it is seen now (or as it was seen before)."""
        view = seen or await self.hold(hold_id)
        await self.ledger.settle(
            Settlement(
                self.tenant_id,
                hold_id,
                view.state,
                view.outcome is not None,
                view.went_outward,
                to,  # type: ignore[arg-type]  # tests settle to all kinds of states
                actual or {},
                "run",
                "test",
            )
        )

    async def resolve(self, hold_id: UUID, *, happened: bool, cost: int | None = None) -> HoldView:
        async with transaction(self.database.engine("api"), self.tenant_id) as connection:
            return await service.resolve_unknown(
                connection, self.tenant_id, hold_id, happened=happened, cost_nano_usd=cost, actor="test", reason="test"
            )

    async def balances(self, cap_id: UUID) -> tuple[int, int, int]:
        row = await self.database.superuser.fetchrow(
            "SELECT reserved, committed, debt FROM caps WHERE cap_id = $1", cap_id
        )
        return row[0], row[1], row[2]

    async def alarms(self, run_id: UUID) -> list[Record]:
        return await self.database.fetch(
            "SELECT seq, data FROM timeline_events WHERE run_id = $1 AND type = 'decision.alarm'", run_id
        )


async def new_tenant(database: Database) -> Tenant:
    tenant = Tenant(database, new_id(), new_id(), new_id())
    slug = f"t-{hashlib.sha256(tenant.tenant_id.bytes).hexdigest()[:20]}"
    async with database.superuser.acquire() as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO tenants (tenant_id, slug, name) VALUES ($1, $2, 'Test')", tenant.tenant_id, slug
        )
        await connection.execute(
            "INSERT INTO projects (tenant_id, project_id, slug) VALUES ($1, $2, 'main')",
            tenant.tenant_id,
            tenant.project_id,
        )
        await connection.execute(
            "INSERT INTO users (tenant_id, user_id, name) VALUES ($1, $2, 'ann')", tenant.tenant_id, tenant.user_id
        )
        await connection.execute(
            "INSERT INTO agents (tenant_id, name, version, definition) VALUES ($1, 'agent', 1, '{}')", tenant.tenant_id
        )
        await connection.execute(
            "INSERT INTO roles (tenant_id, name, version, rules, policy_hash) VALUES ($1, 'worker', 1, '[]', $2)",
            tenant.tenant_id,
            bytes(32),
        )
    return tenant


def approval_request(tenant: Tenant) -> ApprovalRequest:
    return ApprovalRequest(
        new_id(), bytes(32), "gate", APPROVER, tenant.user_id, datetime.now(UTC) + timedelta(hours=1)
    )
