"""A running API with real parts behind it, tenants made on demand, and short ways to say what a test needs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import httpx
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from api.app import create_app
from api.context import Context
from api.server import ApiServer
from cli.stack.supervisor import Stack
from holdfast.actions.build import tool_action
from holdfast.actions.run_facts import RunReader
from holdfast.database.engine import create_engine, transaction
from holdfast.ids import PLATFORM_TENANT_ID, new_id
from holdfast.ledger.service import Ledger
from holdfast.ledger.types import ApprovalRequest, Decision, Event, FactVersions, Reservation, Scope, TryKey
from holdfast.policies.evaluation import evaluate
from holdfast.runs.start import start_run
from holdfast.settings import ApiSettings
from holdfast.tenancy import keys, service
from holdfast.timeline import events
from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.engine.gates import approval_binding
from holdfast_verdict.policy import Gate
from holdfast_verdict.record import policy_part_a

LOOSE: Final = """\
  permit llm.call as "think"
  permit tools, http.request as "tools"
"""
GATED: Final = f"""{LOOSE}\
  gate "big-refund": payments.refund needs 1 of role("approver"), expires 1d
"""


def role(statements: str, name: str = "helper") -> dict[str, Any]:
    """Returns what is put to give a role a text of these statements."""
    return {"policy": f"role {name} {{\n{statements}}}\n"}


AGENT: dict[str, Any] = {
    "role": "helper",
    "instructions": "You help.",
    "model": {"wire": "anthropic", "name": "claude-sonnet-4-5"},
    "max_tokens": 1024,
    "tools": ["mail.list", "payments.refund"],
}
REFUND: dict[str, JsonValue] = {"order_id": "A-1003", "amount_usd_cents": 1250, "reason": "broken"}

# what JSON answers and rows of text() hold has no types
Json = Any


async def until(condition: Callable[[], Awaitable[object]], *, timeout_s: float = 60) -> None:
    """Waits until something is so, looking again and again."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.01)


@dataclass(slots=True)
class RunningApi:
    """The API on a free port, in this process."""

    settings: ApiSettings
    server: ApiServer
    serving: asyncio.Task[None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def parts(self) -> Context:
        config_app: Json = self.server.config.app
        parts: Context = config_app.state.context
        return parts

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    async def stop(self) -> None:
        self.server.should_exit = True
        await self.serving


async def start_api(settings: ApiSettings, *, grace_ms: int = 10_000) -> RunningApi:
    server = ApiServer(create_app(settings), "127.0.0.1", 0, shutdown_grace_ms=grace_ms, handle_signals=False)
    running = RunningApi(settings, server, asyncio.create_task(server.serve()))

    async def started() -> bool:
        assert not running.serving.done(), "the API did not start"
        return server.started

    await until(started)
    return running


@asynccontextmanager
async def running_api(settings: ApiSettings) -> AsyncIterator[RunningApi]:
    running = await start_api(settings)
    try:
        yield running
    finally:
        await running.stop()


def settings_for(stack: Stack, **changes: Any) -> ApiSettings:
    fields: dict[str, Any] = {
        "temporal_address": stack.urls.temporal,
        "redis_url": stack.urls.redis,
        "codec_key_file": stack.secrets.codec_key_file,
        "api_database_url": stack.database_url("holdfast_api"),
        "broker_url": "http://127.0.0.1:9",
        "objects_folder": stack.folder.objects,
        "temporal_ui_url": "http://127.0.0.1:8233",
    }
    return ApiSettings(**{**fields, **changes})


@dataclass(slots=True)
class World:
    """Everything behind the API, as each of its roles."""

    stack: Stack
    temporal: Client
    api: RunningApi
    superuser: asyncpg.Pool
    engines: dict[str, AsyncEngine] = field(default_factory=dict)

    def engine(self, role: str) -> AsyncEngine:
        if role not in self.engines:
            self.engines[role] = create_engine(self.stack.database_url(f"holdfast_{role}"), process=f"test-{role}")
        return self.engines[role]

    async def forget_connections(self) -> None:
        """Lets go of the test's own connections, which end with the server: whoever comes next opens others."""
        for engine in self.engines.values():
            await engine.dispose()
        await self.superuser.expire_connections()

    async def fetch(self, sql: str, *arguments: object) -> list[Json]:
        return list(await self.superuser.fetch(sql, *arguments))

    async def value(self, sql: str, *arguments: object) -> Json:
        return await self.superuser.fetchval(sql, *arguments)

    async def execute(self, sql: str, *arguments: object) -> None:
        await self.superuser.execute(sql, *arguments)

    async def heard(self, run_id: str) -> list[str]:
        heard: list[str] = await self.temporal.get_workflow_handle(run_id).query("heard")
        return heard

    async def operator_key(self) -> str:
        async with transaction(self.engine("api"), PLATFORM_TENANT_ID) as connection:
            name = f"op-{new_id()}"
            project_id = await service.create_project(connection, PLATFORM_TENANT_ID, name)
            user_id = await service.create_user(connection, PLATFORM_TENANT_ID, name)
            _, key = await keys.create_key(
                connection, PLATFORM_TENANT_ID, user_id=user_id, project_id=project_id, roles=["operator"]
            )
        return key

    async def tenant(self, *, cap_usd: str | None = "5") -> Tenant:
        """Makes a tenant with an owner, an agent `desk`, its role, and a money cap."""
        tenant_id = new_id()
        slug = f"t-{tenant_id.hex[-12:]}"
        async with transaction(self.engine("api"), tenant_id) as connection:
            await service.create_tenant(connection, tenant_id, slug=slug, name=slug)
            project_id = await service.create_project(connection, tenant_id, "default")
            tenant = Tenant(self, tenant_id, slug, project_id)
        tenant.owner = await tenant.as_user("owner", "owner", "admin", "approver")
        if cap_usd is not None:
            await tenant.set_cap(cap_usd)
        (await tenant.owner.put("/v1/roles/helper", json=role(GATED))).raise_for_status()
        (await tenant.owner.put("/v1/agents/desk", json=AGENT)).raise_for_status()
        return tenant


@dataclass(slots=True)
class Tenant:
    """One tenant; `owner` is a client with the owner's key."""

    world: World
    tenant_id: UUID
    slug: str
    project_id: UUID
    owner: httpx.AsyncClient = field(init=False)
    keys: dict[str, str] = field(default_factory=dict)
    _clients: list[httpx.AsyncClient] = field(default_factory=list)

    async def as_user(self, user: str, *roles: str, life: timedelta | None = None) -> httpx.AsyncClient:
        """Returns a client with a new key of a user, who is made if need be."""
        async with transaction(self.world.engine("api"), self.tenant_id) as connection:
            known = {
                view.name: view.id for view in await service.list_users(connection, self.tenant_id, after="", count=100)
            }
            user_id = known.get(user) or await service.create_user(connection, self.tenant_id, user)
            _, key = await keys.create_key(
                connection, self.tenant_id, user_id=user_id, project_id=self.project_id, roles=roles, life=life
            )
        self.keys[user] = key
        client = self.world.api.client(key)
        self._clients.append(client)
        return client

    async def set_cap(self, limit_usd: str, **scope: str) -> None:
        body = {"scope": scope or {"kind": "tenant"}, "limit_usd": limit_usd, "reason": "test"}
        (await self.owner.put("/v1/caps", json=body)).raise_for_status()

    async def run(self, **body: Any) -> str:
        """Admits a run and returns its id."""
        answer = await self.owner.post("/v1/runs", json={"agent": "desk", "input": "hello", **body})
        assert answer.status_code == 201, answer.text
        run_id: str = answer.json()["run_id"]
        return run_id

    async def append(self, run_id: str, *types: str, poke: bool = True, channel: str = "lifecycle") -> int:
        """Appends events to a run's timeline as the governor does."""
        async with transaction(self.world.engine("governor"), self.tenant_id) as connection:
            seq = await events.append(
                connection, self.tenant_id, UUID(run_id), [Event(channel, type_, {"n": type_}) for type_ in types]
            )
        if poke:
            await self.world.api.parts.publisher.poke(self.tenant_id, UUID(run_id), seq)
        return seq

    async def end(self, run_id: str, *, poke: bool = True) -> int:
        """Ends a run as the governor does: the row and its last event in one transaction."""
        async with transaction(self.world.engine("governor"), self.tenant_id) as connection:
            ending = text("UPDATE runs SET status = 'succeeded', ended_at = now() WHERE run_id = :run_id")
            await connection.execute(ending, {"run_id": UUID(run_id)})
            ended = Event("lifecycle", "run.ended", {"n": "run.ended"})
            seq = await events.append(connection, self.tenant_id, UUID(run_id), [ended])
        if poke:
            await self.world.api.parts.publisher.poke(self.tenant_id, UUID(run_id), seq)
        return seq

    async def reserve(
        self,
        run_id: str,
        *,
        step: int = 1,
        tool: str = "payments.refund",
        args: Mapping[str, JsonValue] = REFUND,
        nano_usd: int = 0,
        approval_s: float = 600,
        asks: Gate | None = None,
    ) -> Decision:
        """Asks the ledger for a decision on a tool call, as the governor does."""
        async with transaction(self.world.engine("governor"), self.tenant_id) as connection:
            run = await RunReader().read(connection, self.tenant_id, UUID(run_id))
            user_id = await self.world.value("SELECT user_id FROM runs WHERE run_id = $1", UUID(run_id))
        evaluation = evaluate(run, tool_action(run.agent, run.tools, tool, dict(args)))
        action, verdict = evaluation.action, evaluation.verdict
        request = None
        if verdict.gates:
            expires_at = run.now.replace(microsecond=0) + timedelta(seconds=approval_s)
            (ask,) = verdict.gates
            expiry = int(expires_at.timestamp() * 1000)
            gate = asks or ask.gate
            binding = approval_binding(evaluation.policy_hash, action.digest, ask.rule_id, gate, expiry)
            request = ApprovalRequest(new_id(), binding, ask.rule_id, gate, user_id, expires_at)
        scopes = (Scope("tenant", str(self.tenant_id)), Scope("run", run_id))
        reservation = Reservation(
            key=TryKey(self.tenant_id, UUID(run_id), step, 1),
            decision_id=new_id(),
            hold_id=new_id(),
            action=action.canonical,
            digest=action.digest,
            kind="tool.call",
            tool=tool,
            idempotent=False,
            evaluated=verdict,
            part_a=policy_part_a(
                subject={"run_id": run_id, "step": step, "try": 1, "agent": run.agent_name, "role": run.role},
                action=action,
                policy_hash=evaluation.policy_hash,
                verdict=verdict,
                refusal=None,
                prices={},
            ),
            versions=FactVersions(run.versions.history, run.versions.role),
            amounts={"nano_usd": nano_usd, "calls": 1},
            scopes=scopes,
            estimate={},
            lease_ms=60_000,
            hold_ms=600_000,
            approval=request,
            funded=run.funded,
        )
        return await Ledger(self.world.engine("governor")).reserve(reservation)

    async def unknown_hold(self, run_id: str, *, nano_usd: int = 1_000) -> str:
        """Makes a hold whose outcome is unknown."""
        decision = await self.reserve(run_id, tool="mail.list", args={}, nano_usd=nano_usd)
        await self.world.execute(
            "UPDATE holds SET state = 'unknown', unknown_at = now(), outward_at = now() WHERE hold_id = $1",
            decision.hold_id,
        )
        return str(decision.hold_id)

    async def start(self, run_id: str, role: str = "sweeper") -> bool:
        return await start_run(self.world.temporal, self.world.engine(role), self.tenant_id, UUID(run_id))

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()


def problem(answer: httpx.Response, status: int, code: str) -> Json:
    """Checks that an answer is a problem of that kind, in the documented form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["code"]) == (status, code), body
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["detail"]
    assert body["remedy"]
    assert "Traceback" not in answer.text
    return body
