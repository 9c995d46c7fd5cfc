"""A whole stack with a world around it, and short ways to start runs in it, talk to them, and look at what became of them."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final, Literal, cast
from uuid import UUID

import asyncpg
import httpx
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowHandle, WorkflowHistory
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from cli.stack.supervisor import Stack
from demo.refund_desk.world.faults import Fault, Kind, Target
from demo.refund_desk.world.servers import World
from demo.refund_desk.world.smtp_server import stored_mails
from holdfast.contracts import names
from holdfast.contracts.run import StartRun
from holdfast.database.engine import create_engine, transaction
from holdfast.histories import fetching
from holdfast.histories.cross_check import CrossCheck, cross_check
from holdfast.ids import new_id
from holdfast.ledger.auditor import audit
from holdfast.ledger.service import resolve_unknown, set_limit
from holdfast.ledger.types import NANO_USD, Scope
from holdfast.policies import store
from holdfast.policies.tables import name_text
from holdfast.runs import service as runs
from holdfast.runs import signals, steering
from holdfast.runs.definition import AgentDefinition, AgentLimits, ModelRoute, ModelTarget
from holdfast.runs.service import RunRequest
from holdfast.runs.start import start_run
from holdfast.runs.steering import InputMode
from holdfast.runs.versions import put_agent
from holdfast.settings import read_key_file
from holdfast.tenancy.principals import Principal
from holdfast.tenancy.service import create_project, create_tenant, create_user
from holdfast.vault import Vault
from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.language.compiler import compile_policy

from .points import Points
from .witness import Witness

# rows of asyncpg, and JSON from outside, carry no types
Record = Any

PACKAGES: Final = "packages"
_OLD_ENOUGH: Final = "interval '1 second'"
"""So long a sweeper leaves to whoever wrote something to tell Temporal of it as well."""
TASK_TIMEOUT: Final = timedelta(seconds=5)
"""How soon Temporal notices that a governor died in the middle of a workflow task."""

PERMIT_ALL: Final = ('permit llm.call as "think"', 'permit tools, http.request as "act"')
TOOLS: Final = ("mail.list", "mail.send", "payments.refund")

Step = Mapping[str, JsonValue]


def call(tool: str, **arguments: JsonValue) -> Step:
    """A step of a script: the model proposes one call."""
    return {"tool": tool, "arguments": arguments}


def calls(*each: Step) -> Step:
    """A step of a script: the model proposes several calls at once."""
    return {"tools": [dict(one) for one in each]}


def mail(subject: str, to: str = "jo@customer.example") -> Step:
    """The model proposes a mail."""
    return call("mail.send", to=[to], subject=subject, body="Dear customer, we have refunded your order.")


def refund(order_id: str, amount_usd_cents: int = 1_250) -> Step:
    """The model proposes a refund."""
    return call("payments.refund", order_id=order_id, amount_usd_cents=amount_usd_cents, reason="it arrived broken")


def say(text: str) -> Step:
    """The model has nothing left to do."""
    return {"say": text}


def task(*script: Step, words: str = "please do this") -> str:
    """The first input of a run, with the script that the simulated model plays."""
    return f"{words}\n#!script {json.dumps([dict(step) for step in script])}"


async def until(condition: Callable[[], Awaitable[object]], *, within_s: float = 60.0, what: str = "it") -> None:
    """Waits until something is so, looking again and again."""
    deadline = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline, f"{what} did not come to pass within {within_s:g} s"
        await asyncio.sleep(0.03)


@dataclass(slots=True)
class Rig:
    """The stack, its world, and everything that a test looks through."""

    stack: Stack
    world: World
    points: Points
    database: asyncpg.Pool
    client: Client
    provider: httpx.AsyncClient
    engines: dict[str, AsyncEngine] = field(default_factory=dict)
    restarts: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    witness: Witness = field(default_factory=Witness)

    def engine(self, role: str) -> AsyncEngine:
        """The database as a role such as `api` sees it."""
        if role not in self.engines:
            self.engines[role] = create_engine(self.stack.database_url(f"holdfast_{role}"), process=f"test-{role}")
        return self.engines[role]

    async def rows(self, sql: str, *arguments: object) -> list[Record]:
        """Asks the database as its superuser, whom no policy hinders."""
        return list(await self.database.fetch(sql, *arguments))

    async def value(self, sql: str, *arguments: object) -> Record:
        return await self.database.fetchval(sql, *arguments)

    async def refusals(self) -> int:
        """How many times the broker has refused a permit."""
        return cast(int, await self.value("SELECT count(*) FROM decisions WHERE kind = 'permit' AND verdict = 'deny'"))

    # The outside ----------------------------------------------------------------------------------------------------

    def fault(self, target: Target, kind: Kind, *, times: int = 1) -> None:
        """Lets the next requests to mail or payments go wrong."""
        self.world.faults.add(target, Fault(kind), times)

    async def until_held(self, count: int = 1) -> None:
        """Waits until mail or payments hold so many answers back."""

        async def held() -> bool:
            return self.world.faults.held >= count

        await until(held, what=f"{count} held answers")

    def mails(self, subject: str) -> list[EmailMessage]:
        """The mails with that subject that exist in the world."""
        return [one for one in stored_mails(self.world.sent) if one["Subject"] == subject]

    def refunds(self, order_id: str) -> list[dict[str, JsonValue]]:
        """The refunds of that order that exist in the world."""
        return [one for one in self.world.store.refunds() if one["order_id"] == order_id]

    async def think_badly(self, *faults: Mapping[str, JsonValue]) -> None:
        """Lets the next calls of the model go wrong, in order."""
        answer = await self.provider.post("/control/faults", json=[dict(fault) for fault in faults])
        assert answer.status_code == 200, answer.text

    async def model_calls(self) -> list[Record]:
        """What the provider has received since it was reset."""
        return cast("list[Record]", (await self.provider.get("/control/calls")).json()["calls"])

    async def until_thinking(self, count: int = 1, *, state: str = "waiting") -> None:
        """Waits until so many calls of the model stand still at a gate."""

        async def waiting() -> bool:
            return len([one for one in await self.model_calls() if one["state"] == state]) >= count

        await until(waiting, what=f"{count} {state} calls of the model")

    async def until_received(self, count: int) -> None:
        """Waits until the model was called so many times."""

        async def received() -> bool:
            return len(await self.model_calls()) >= count

        await until(received, what=f"{count} calls of the model")

    async def let_think(self) -> None:
        """Lets the model's calls go on that stand still."""
        await self.provider.post("/control/release")

    # Processes ------------------------------------------------------------------------------------------------------

    def pid(self, name: str) -> int:
        pid = self.stack.child(name).pid
        assert pid is not None
        return pid

    async def kill(self, name: str) -> None:
        """Kills a process with -9 and starts it again in the background, without its supervisor's growing delay."""
        await self.stack.kill(name, signal.SIGKILL, restart=False)
        self.restart(name)

    def restart(self, name: str) -> None:
        """Starts a process that is down, in the background."""
        self.restarts[name] = asyncio.create_task(self.stack.start_child(name))

    async def until_dead(self, name: str, pid: int) -> None:
        """Waits until a process has killed itself, and starts it again in the background."""

        async def dead() -> bool:
            return self.stack.child(name).pid != pid

        await until(dead, what=f"the death of {name}")
        await self.stack.stop_child(name)
        self.restart(name)

    async def all_up(self) -> None:
        """Waits until every process is up again."""
        for engine in self.engines.values():
            await engine.dispose()  # connections of the test's own may be of a PostgreSQL that is gone
        for restart in self.restarts.values():
            await restart
        self.restarts.clear()
        for name in self.stack.names:
            await self.stack.wait_ready(name)

    @property
    def packages(self) -> Path:
        """Where executors find packages of tools, beside what is installed."""
        return self.stack.folder.path.parent / PACKAGES

    def log(self, name: str) -> str:
        return (self.stack.folder.logs / f"{name}.log").read_text()

    async def calm(self) -> None:
        """Takes back everything that a test may have set, and waits until all is up."""
        self.points.clear()
        self.world.faults.clear()
        self.world.faults.release()
        await self.all_up()
        await self.provider.post("/control/reset")

    @asynccontextmanager
    async def nothing_swept(self) -> AsyncIterator[None]:
        """Lets no sweeper start a run, or deliver what was said to one, that Temporal was not told of while the block runs."""
        written = {
            name: await self.value("SELECT pg_get_functiondef($1::text::regproc)", name)
            for name in ("due_starts", "due_signals")
        }
        for text in written.values():
            assert _OLD_ENOUGH in text
            await self.database.execute(text.replace(_OLD_ENOUGH, "interval '1 day'"))
        try:
            yield
        finally:
            for text in written.values():
                await self.database.execute(text)

    # The books ------------------------------------------------------------------------------------------------------

    async def audit(self) -> None:
        """The books of all tenants are right."""
        found = (await audit(self.engine("auditor"))).discrepancies
        assert not found, "\n".join(f"{one.tenant}: {one.check}: {one.subject_id}: {one.message}" for one in found)

    async def cross_check(self) -> None:
        """Log and Temporal's histories say the same of every run that there is, but of those that were excused."""
        await self.witness.hold_all(self.database, self.engine("api"), self.client)

    async def tenant(self) -> Tenant:
        """Makes a tenant with people, money and credentials."""
        tenant_id = new_id()
        slug = f"t-{secrets.token_hex(6)}"
        async with transaction(self.engine("api"), tenant_id) as connection:
            await create_tenant(connection, tenant_id, slug=slug, name="Test")
            project_id = await create_project(connection, tenant_id, "desk")
            user_ids = {name: await create_user(connection, tenant_id, name) for name in ("ada", "bob")}
            await set_limit(
                connection,
                tenant_id,
                Scope("tenant", str(tenant_id)),
                NANO_USD,
                limit_amount=100_000_000_000,
                unlimited=False,
                actor="test",
                reason="test",
            )
        vault = Vault(read_key_file(self.stack.secrets.vault_key_file))
        provider: dict[str, JsonValue] = {"api_key": "sk-simulated-0123456789", "simulated": True}
        entries = self.world.credentials() | {
            "provider.anthropic": {**provider, "base_url": self.stack.urls.provider},
            "provider.openai": {**provider, "base_url": f"{self.stack.urls.provider}/v1"},
        }
        async with transaction(self.engine("broker"), tenant_id) as connection:
            for name, entry in entries.items():
                await vault.put(connection, tenant_id, name, entry)
        ada, bob = (
            Principal(tenant_id, slug, project_id, "desk", user_ids[name], name, new_id(), frozenset({role}))
            for name, role in (("ada", "developer"), ("bob", "approver"))
        )
        return Tenant(self, tenant_id, slug, ada, bob)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant: `ada` starts runs, `bob` approves."""

    rig: Rig
    tenant_id: UUID
    slug: str
    ada: Principal
    bob: Principal
    runs: list[Run] = field(default_factory=list)

    async def limit(
        self, amount: int, unit: str = NANO_USD, *, scope: Scope | None = None, window: str = "total"
    ) -> None:
        """Sets the limit of a cap, as the API does: of the tenant's own, if nothing else is said."""
        async with transaction(self.rig.engine("api"), self.tenant_id) as connection:
            await set_limit(
                connection,
                self.tenant_id,
                scope or Scope("tenant", str(self.tenant_id)),
                unit,
                limit_amount=amount,
                unlimited=False,
                window=window,
                actor="test",
                reason="test",
            )

    async def admit(
        self,
        content: str,
        *,
        rules: Sequence[str] = PERMIT_ALL,
        tools: Sequence[str] = TOOLS,
        wire: Literal["anthropic", "openai"] = "anthropic",
        guaranteed: bool = False,
        deadline_s: int = 3_600,
        max_tokens: int | None = 500,
        fallbacks: Sequence[ModelTarget] = (),
        role_default: int | None = None,
        policy: str = "",
        agent: str = "",
        by: Principal | None = None,
        **limits: int,
    ) -> Run:
        """Admits a run; Temporal is not told yet. A policy's text says `ROLE` for the run's role."""
        name = agent or f"agent-{secrets.token_hex(6)}"
        model = {"anthropic": "claude-sonnet-4-5", "openai": "gpt-4o-mini"}[wire]
        definition = AgentDefinition(
            role=name,
            instructions="You are the refund desk.",
            model=ModelRoute(wire=wire, name=model, fallbacks=tuple(fallbacks)),
            max_tokens=max_tokens,
            tools=tuple(tools),
            limits=AgentLimits(**limits),
        )
        said = f"role {name_text(name)} {{\n" + "".join(f"  {rule}\n" for rule in rules) + "}\n"
        await self.rig.database.execute(
            """INSERT INTO roles (tenant_id, name, version, source, policy_hash, max_tokens_default)
               VALUES ($1, $2, 1, $3, $4, $5)""",
            self.tenant_id,
            name,
            said,
            compile_policy(said).policy_hash,
            role_default,
        )
        async with transaction(self.rig.engine("api"), self.tenant_id) as connection:
            await put_agent(connection, self.tenant_id, name, definition)
            if policy:
                text_ = policy.replace("ROLE", name)
                put = await store.put(connection, self.tenant_id, text_, compile_policy(text_), put_by="test")
                await store.activate(connection, self.tenant_id, put.policy_id, by="test")
        request = RunRequest(agent=name, content=content, guaranteed=guaranteed, deadline_s=deadline_s)
        admitted = await runs.admit(self.rig.engine("api"), by or self.ada, request)
        run = Run(self, admitted.run_id)
        self.runs.append(run)
        return run

    async def start(self, content: str, *, task_timeout: timedelta = TASK_TIMEOUT, **admission: Any) -> Run:
        """Admits a run and starts it."""
        run = await self.admit(content, **admission)
        await run.start(task_timeout)
        return run


@dataclass(frozen=True, slots=True)
class Run:
    """One run."""

    tenant: Tenant
    run_id: UUID

    def excuse(self, reason: str) -> None:
        """Lets the run be when all runs are held against Temporal's history, for a reason that is shown."""
        self.rig.witness.excuse(self.run_id, reason)

    def excuse_no_more(self) -> None:
        self.rig.witness.excused.pop(self.run_id)

    async def cross_check(self) -> CrossCheck:
        """Holds its history against the log."""
        return await cross_check(self.rig.engine("api"), self.rig.client, self.tenant.tenant_id, self.run_id)

    @property
    def rig(self) -> Rig:
        return self.tenant.rig

    @property
    def handle(self) -> WorkflowHandle[Any, Any]:
        return self.rig.client.get_workflow_handle(str(self.run_id))

    async def start(self, task_timeout: timedelta = TASK_TIMEOUT) -> None:
        """Starts the workflow as `start_run` does, with a bound on workflow tasks that suits a test."""
        with suppress(WorkflowAlreadyStartedError):  # a sweeper was faster
            await self.rig.client.start_workflow(
                names.AGENT_RUN,
                StartRun(),
                id=str(self.run_id),
                task_queue=names.GOVERNOR_QUEUE,
                task_timeout=task_timeout,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            )
        await start_run(self.rig.client, self.rig.engine("api"), self.tenant.tenant_id, self.run_id)  # marks its row

    async def tell(self, mode: InputMode, content: str = "", *, deliver: bool = True) -> int:
        """Tells the run something; without `deliver` its row waits for the sweeper."""
        engine, tenant = self.rig.engine("api"), self.tenant
        body, _ = await steering.add_input(engine, tenant.ada, self.run_id, mode, content)
        seq = cast(int, body["seq"])
        if deliver:
            await signals.deliver_input(self.rig.client, engine, tenant.tenant_id, self.run_id, seq)
        return seq

    async def cancel(self, *, deliver: bool = True) -> None:
        engine, tenant = self.rig.engine("api"), self.tenant
        await steering.request_cancel(engine, tenant.ada, self.run_id)
        if deliver:
            await signals.deliver_cancel(self.rig.client, engine, tenant.tenant_id, self.run_id)

    async def resolve(self, hold_id: UUID, *, happened: bool) -> None:
        """A person looks outside and says what became of it."""
        tenant = self.tenant
        async with transaction(self.rig.engine("api"), tenant.tenant_id) as connection:
            await resolve_unknown(
                connection,
                tenant.tenant_id,
                hold_id,
                happened=happened,
                cost_nano_usd=None,
                actor=tenant.bob.actor,
                reason="looked into the outbox",
            )
        await signals.deliver_resolution(self.rig.client, self.run_id, hold_id)

    async def row(self) -> Record:
        return (await self.rig.rows("SELECT * FROM runs WHERE run_id = $1", self.run_id))[0]

    async def status(self) -> str:
        return cast(str, await self.rig.value("SELECT status FROM runs WHERE run_id = $1", self.run_id))

    async def until_status(self, *statuses: str, within_s: float = 60.0) -> str:
        async def reached() -> bool:
            return await self.status() in statuses

        await until(reached, within_s=within_s, what=f"{' or '.join(statuses)} of run {self.run_id}")
        return await self.status()

    async def ended(self, *, within_s: float = 90.0) -> str:
        """Waits until run and workflow have ended, and returns how, such as `failed run.max_steps`."""

        async def over() -> bool:
            row = await self.row()
            if row["ended_at"] is None:
                return False
            newest = await fetching.newest(self.rig.client, str(self.run_id))
            return newest is None or not newest.is_open

        try:
            await until(over, within_s=within_s, what=f"the end of run {self.run_id}")
        except AssertionError as late:
            raise AssertionError(f"{late}\n{await self.story()}") from None
        row = await self.row()
        return f"{row['status']} {row['status_code']}".strip()

    async def holds(self, kind: str = "", tool: str = "") -> list[Record]:
        """The run's holds, in order of their making."""
        return await self.rig.rows(
            """SELECT h.*, o.cost_class, o.ok, o.error_code FROM holds h LEFT JOIN outcomes o USING (hold_id)
               WHERE h.run_id = $1 AND h.kind <> 'run.budget' AND ($2 = '' OR kind = $2) AND ($3 = '' OR tool = $3)
               ORDER BY h.step, h.try, h.created_at""",
            self.run_id,
            kind,
            tool,
        )

    async def states(self, kind: str = "", tool: str = "") -> list[str]:
        """The states of its holds; `superseded` for those that another took the place of."""
        return ["superseded" if hold["superseded_at"] else hold["state"] for hold in await self.holds(kind, tool)]

    async def until_hold(self, state: str, *, tool: str = "", within_s: float = 60.0) -> UUID:
        """Waits until one of the run's holds is in that state."""

        async def there() -> bool:
            return state in await self.states(tool=tool)

        try:
            await until(there, within_s=within_s, what=f"a hold that is {state}")
        except AssertionError as late:
            raise AssertionError(f"{late}\n{await self.story()}") from None
        return next(cast(UUID, hold["hold_id"]) for hold in await self.holds(tool=tool) if hold["state"] == state)

    async def decisions(self) -> list[Record]:
        return await self.rig.rows("SELECT * FROM decisions WHERE run_id = $1 ORDER BY decision_id", self.run_id)

    async def codes(self) -> list[str]:
        """The reason codes of its decisions, in order."""
        return [code for decision in await self.decisions() for code in decision["reason_codes"]]

    async def events(self, type_: str = "") -> list[Record]:
        """Its timeline."""
        rows = await self.rig.rows(
            "SELECT seq, type, data FROM timeline_events WHERE run_id = $1 AND ($2 = '' OR type = $2) ORDER BY seq",
            self.run_id,
            type_,
        )
        return [{"seq": row["seq"], "type": row["type"], "data": json.loads(row["data"])} for row in rows]

    async def transcript(self) -> list[Record]:
        """Every transcript entry that was ever written, by depth."""
        rows = await self.rig.rows(
            "SELECT content FROM transcript_entries WHERE run_id = $1 ORDER BY depth, created_at", self.run_id
        )
        return [json.loads(row["content"]) for row in rows]

    async def history(self) -> WorkflowHistory:
        return await self.handle.fetch_history()

    async def story(self) -> str:
        """Everything that helps to understand why a test fails."""
        lines = [f"run {self.run_id}: {await self.status()}"]
        lines += [
            f"  {event['seq']} {event['type']} {json.dumps(event['data'])[:220]}" for event in await self.events()
        ]
        for hold in await self.holds():
            lines.append(
                f"  hold {hold['step']}.{hold['try']} {hold['tool'] or hold['kind']} {hold['state']} by {hold['settled_by'] or '-'}"
                f" outward={hold['outward_at'] is not None} outcome={hold['cost_class']} {hold['error_code'] or ''}"
            )
        for name in ("governor", "executor-1"):
            lines += [f"  {name}: {line[:600]}" for line in self.rig.log(name).splitlines()[-12:]]
        return "\n".join(lines)

    async def settled(self) -> None:
        """Every hold is settled once; one that stays unknown belongs to a step that could be tried again safely."""

        async def all_settled() -> bool:
            return not set(await self.states()) & {"held", "executing", "executed"}

        await until(all_settled, within_s=60.0, what=f"the settling of every hold of run {self.run_id}")
        for hold in await self.holds():
            assert hold["state"] != "unknown" or hold["idempotent"], await self.story()
