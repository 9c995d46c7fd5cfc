"""The server's own gate: the governor's activities decide, record, hold and settle on PostgreSQL; each call is a governed one.

A run has a row, a transcript and a pinned policy. A call is proposed in the transcript; `Reserve` reads the run's past and decides in
one transaction with record and hold; the broker's role redeems the hold; the executor's role asks for the last time, executes and
stores the outcome; `Settle` settles. What stands in for the rest of the stack: the suite's environment for the tools' servers, and
this file for the workflow. Approvals are votes, as the API casts them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, cast
from uuid import UUID

import orjson
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from activities.governor import Governor
from activities.reserve import Reserve
from activities.settle import Settle
from bench.agentdojo.gate import Call, Gate
from bench.agentdojo.suite import PRINCIPAL
from bench.ledger.place import MODEL, Server, open_server
from holdfast import transcript
from holdfast.actions.run_facts import RunFacts, RunReader
from holdfast.approvals.voting import Ballot, Voter
from holdfast.approvals.voting import cast as cast_vote
from holdfast.contracts.gate import ActionRef, ReserveReply, ReserveRequest, SettleRequest
from holdfast.database.engine import create_engine, transaction
from holdfast.errors import ConfigurationInvalid, HoldfastError, RequestInvalid
from holdfast.ids import new_id
from holdfast.ledger.executions import Executions
from holdfast.ledger.service import Ledger
from holdfast.ledger.types import OutcomeView
from holdfast.policies import store
from holdfast.runs.definition import AgentDefinition
from holdfast.tenancy.service import create_project, create_tenant, create_user
from holdfast.timeline.stream import Publisher
from holdfast.tools.toolset import Toolset
from holdfast_verdict import ActionRefused, Catalogue
from holdfast_verdict.canonical import JsonValue, canonical_bytes
from holdfast_verdict.sealing import Pattern

if TYPE_CHECKING:
    from agentdojo.functions_runtime import FunctionsRuntime

    from holdfast_verdict.policy import Need, Policy

_ROUNDS_MAX: Final = 12
"""How many gates of one call are opened, one after the other."""
_LEASE_MS: Final = 60_000
_INSERT_RUN: Final = """
    INSERT INTO runs (tenant_id, run_id, project_id, user_id, agent_name, agent_version, role_name, role_version, status, started_at,
                      deadline_at)
    VALUES ($1, $2, $3, $4, $5, 1, $6, 1, 'running', now(), now() + interval '1 day')
"""
_ROLE: Final = "assistant"
_INSERT_AGENT: Final = "INSERT INTO agents (tenant_id, name, version, definition) VALUES ($1, $2, 1, $3::text::jsonb)"
_INSERT_ROLE: Final = """
    INSERT INTO roles (tenant_id, name, version, rules, policy_hash) VALUES ($1, $2, 1, '[]', $3) ON CONFLICT DO NOTHING
"""
_TOLD: Final = "SELECT reply ->> 'message' FROM decisions WHERE decision_id = $1"
_BOOKS: Final = """
    SELECT (SELECT count(*) FROM decisions WHERE tenant_id = $1 AND run_id IS NOT NULL AND kind = 'tool.call') AS decisions,
           count(*) AS holds, count(*) FILTER (WHERE state = 'committed') AS committed
    FROM holds WHERE tenant_id = $1
"""


@dataclass(frozen=True, slots=True)
class DojoTool:
    """A tool of the suite, as the server knows tools; its schema and canonical form are the catalogue's."""

    name: str
    catalogue: Catalogue
    digest: str = ""

    @property
    def external(self) -> bool:
        """Whether its effect leaves the tenant's boundary."""
        return self.catalogue.types[self.name].external

    @property
    def personal(self) -> tuple[Pattern, ...]:
        """The suites' schemas mark nothing as personal."""
        return ()

    @property
    def yields(self) -> tuple[str, ...]:
        """Labels of what it returns."""
        return tuple(self.catalogue.types[self.name].yields.get("", ()))

    def schema(self) -> Mapping[str, Any]:
        """Its arguments."""
        return self.catalogue.types[self.name].parameters

    def is_idempotent(self, arguments: Mapping[str, JsonValue]) -> bool:
        """Nothing is known of what happens if it is called twice."""
        return False

    def validate(self, arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Returns the arguments in canonical form.

        Raises:
            RequestInvalid: They have none.
        """
        try:
            action = self.catalogue.action(self.name, cast("Mapping[str, object]", _read(arguments)))
        except ActionRefused as error:
            raise RequestInvalid(str(error)) from None
        return cast("dict[str, JsonValue]", orjson.loads(action.canonical)["args"])


class _Reader(RunReader):
    """Reads runs as the server does; their tools are the suite's, and their role is any that the policy knows."""

    def __init__(self, tools: Mapping[str, DojoTool], role: str) -> None:
        super().__init__()
        self._role = role
        self._of_suite = tools

    async def read(self, connection: AsyncConnection, tenant_id: UUID, run_id: UUID) -> RunFacts:
        run = await super().read(connection, tenant_id, run_id)
        agent = run.agent.model_copy(update={"tools": tuple(self._of_suite)})
        return replace(run, agent=agent, tools=cast("Toolset", self._of_suite), role=self._role)


@dataclass(frozen=True, slots=True)
class _Governor(Governor):
    """A governor that is asked by one run alone, outside of a workflow."""

    tenant_id: UUID
    run_id: UUID

    async def whose(self) -> tuple[UUID, UUID]:
        return self.tenant_id, self.run_id

    async def poke(self, tenant_id: UUID, run_id: UUID, seq: int) -> None:
        """Nobody follows."""


@dataclass(frozen=True, slots=True)
class Books:
    """What PostgreSQL has of all runs: decisions of calls, holds, and those of them that were settled at their cost."""

    decisions: int
    holds: int
    committed: int


class Place:
    """A tenant whose policy is active, with the parts of the server that its runs meet."""

    def __init__(self, server: Server, policy: Policy, catalogue: Catalogue, role: str) -> None:
        self.policy = policy
        self.tenant_id = new_id()
        self.server = server
        self.engines = {
            name: create_engine(server.urls[f"holdfast_{name}"], process=f"bench-{name}", pool_size=2)
            for name in ("api", "governor", "broker", "executor")
        }
        self.broker, self.executions = Ledger(self.engines["broker"]), Executions(self.engines["executor"])
        self._ledger, self._key = Ledger(self.engines["governor"]), Ed25519PrivateKey.generate()
        self._reader = _Reader({name: DojoTool(name, catalogue) for name in catalogue.types}, role)
        self._publisher = Publisher(Redis())  # never asked: nobody follows
        self._project_id = self._user_id = self.tenant_id
        self._voters: dict[str, UUID] = {}

    @property
    def engine(self) -> AsyncEngine:
        """The database as the governor sees it."""
        return self.engines["governor"]

    async def prepare(self, source: str) -> None:
        """Makes tenant, agent and policy, the way the API does."""
        definition = AgentDefinition.model_validate({"role": _ROLE, "model": {"wire": "anthropic", "name": MODEL}})
        async with transaction(self.engines["api"], self.tenant_id) as connection:
            await create_tenant(connection, self.tenant_id, slug=PRINCIPAL["tenant"], name="Bench")
            self._project_id = await create_project(connection, self.tenant_id, PRINCIPAL["project"])
            self._user_id = await create_user(connection, self.tenant_id, PRINCIPAL["user"])
            version = await store.put(connection, self.tenant_id, source, self.policy, put_by="bench")
            await store.activate(connection, self.tenant_id, version.policy_id, by="bench")
        # put as rows: a policy may call its role what the API would not take for the name of one
        server = self.server.superuser
        await server.execute(_INSERT_AGENT, self.tenant_id, PRINCIPAL["agent"], definition.model_dump_json())
        await server.execute(_INSERT_ROLE, self.tenant_id, _ROLE, self.policy.policy_hash)

    async def begin(self) -> _Governor:
        """Makes a run."""
        run_id = new_id()
        await self.server.superuser.execute(
            _INSERT_RUN, self.tenant_id, run_id, self._project_id, self._user_id, PRINCIPAL["agent"], _ROLE
        )
        return _Governor(
            engine=self.engine,
            ledger=self._ledger,
            reader=self._reader,
            publisher=self._publisher,
            permit_key=self._key,
            heartbeat_timeout_ms=_LEASE_MS,
            lease_llm_ms=_LEASE_MS,
            lease_tool_ms=_LEASE_MS,
            lease_code_ms=_LEASE_MS,
            tenant_id=self.tenant_id,
            run_id=run_id,
        )

    async def consent(self, approval_id: UUID, need: Need) -> None:
        """Has as many as a need names vote for an approval.

        Raises:
            ConfigurationInvalid: It asks for somebody who votes in no such way.
        """
        for number in range(need.count):
            name = need.name if need.kind != "role" else f"{need.name}-{number}"
            async with transaction(self.engines["api"], self.tenant_id) as connection:
                user_id = await self._voter(connection, name) if need.kind == "role" else None
                kind: Literal["user", "signer"] = "user" if need.kind == "role" else "signer"
                roles = (need.name,) if need.kind == "role" else ()
                voter = Voter(kind, str(user_id or name), name, user_id, roles, "api", {"kind": kind, "name": name})
                try:
                    await cast_vote(connection, self.tenant_id, approval_id, voter, Ballot("approved", reason="bench"))
                except HoldfastError as error:
                    raise ConfigurationInvalid(
                        f"the gate asks for {need.kind} {need.name!r}, who cannot vote here: {error.message}",
                        remedy="Replay it with --in-memory.",
                    ) from None

    async def _voter(self, connection: AsyncConnection, name: str) -> UUID:
        if name not in self._voters:
            self._voters[name] = await create_user(connection, self.tenant_id, f"approver-{name}")
        return self._voters[name]

    async def told(self, decision_id: str) -> str:
        """Returns the sentence of a decision."""
        return str(await self.server.superuser.fetchval(_TOLD, UUID(decision_id)) or "")

    async def books(self) -> Books:
        """Counts what stands in the books."""
        row = await self.server.superuser.fetchrow(_BOOKS, self.tenant_id)
        return Books(row["decisions"], row["holds"], row["committed"])


class GovernedGate(Gate):
    """A run on PostgreSQL."""

    def __init__(
        self,
        place: Place,
        governor: _Governor,
        runtime: FunctionsRuntime,
        environment: Any,  # each suite has a type of its own
    ) -> None:
        """Begins the run."""
        super().__init__(runtime, environment)
        self._place, self._governor = place, governor
        self._reserve, self._settle = Reserve(governor), Settle(governor)
        self._head: bytes | None = None
        self._step = 0

    async def says(self, prompt: str) -> None:
        """Takes the user's words."""
        await self._write({"kind": "user", "text": prompt})

    async def decide(self, tool: str, arguments: object, *, approving: bool) -> Call:
        """Decides on a call, and executes it if it is allowed."""
        self._step += 1
        call: dict[str, JsonValue] = {
            "call_id": f"call-{self._step}",
            "tool": tool,
            "arguments": _stored(arguments),
            "raw_arguments": orjson.dumps(arguments, default=str).decode(),
        }
        before = self._head
        proposed = await self._write({"kind": "assistant", "text": "", "tool_calls": [call]})
        reference = ActionRef(kind="tool.call", head=proposed.hex(), assistant=proposed.hex(), label=tool)
        first = reply = await self._reserve.reserve(ReserveRequest(step=self._step, try_number=1, action=reference))
        tries = 1
        while approving and reply.verdict == "needs_approval" and tries <= _ROUNDS_MAX:
            tries += 1
            reply = await self._asked_again(reply, reference, tries)
        why = first.reasons[0]
        decided = Call(tool, arguments, first.verdict, why.code, why.rule, await self._place.told(first.decision_id))
        if reply.verdict != "allow":
            self._head = before  # nobody answered it: what comes next does not follow from it
            return decided
        return await self._executed(decided, reply, reference, tries)

    async def _asked_again(self, reply: ReserveReply, reference: ActionRef, tries: int) -> ReserveReply:
        rule = next(each for each in self._place.policy.rules if each.id == reply.reasons[0].rule)
        assert rule.gate is not None  # only a gate asks
        for need in rule.gate.needs:
            await self._place.consent(UUID(reply.approval_id), need)
        return await self._reserve.reserve(
            ReserveRequest(step=self._step, try_number=tries, action=reference, approval_id=reply.approval_id)
        )

    async def _executed(self, decided: Call, reply: ReserveReply, reference: ActionRef, tries: int) -> Call:
        place, hold_id = self._place, UUID(reply.hold_id)
        hold = await self._governor.ledger.read_hold(place.tenant_id, hold_id)
        assert hold is not None  # an allow has a hold: LAW 2
        redeemed = await place.broker.redeem(place.tenant_id, hold_id, hold.digest)
        if await place.executions.begin(hold_id, redeemed.lease_token) is None:
            raise RuntimeError(f"the lease of hold {hold_id} was lost before it was used")
        # what was decided, and not what was proposed
        done = self.execute(
            decided.tool, cast("dict[str, Any]", _read(orjson.loads(redeemed.action)["args"], fraction=float))
        )
        content = done.answer if isinstance(done.answer, str) else orjson.dumps(done.answer).decode()
        outcome = OutcomeView(
            ok=not done.error,
            error_code="tool.failed" if done.error else "",
            retryable=False,
            retry_after_ms=None,
            cost_class="known",
            provider_request_id="",
            simulated=True,
            result=orjson.dumps({"content": content}),
        )
        if not await place.executions.store(hold_id, redeemed.lease_token, outcome):
            raise RuntimeError(f"the outcome of hold {hold_id} was not stored")
        settled = await self._settle.settle(
            SettleRequest(step=self._step, try_number=tries, hold_id=reply.hold_id, action=reference)
        )
        self._head = bytes.fromhex(settled.head)
        return replace(decided, executed=True, approved=tries > 1, changed=done.changed, error=done.error)

    async def _write(self, entry: dict[str, JsonValue]) -> bytes:
        place, run_id = self._place, self._governor.run_id
        async with transaction(place.engine, place.tenant_id) as connection:
            self._head = await transcript.write(connection, place.tenant_id, run_id, self._head, canonical_bytes(entry))
        return self._head


def _stored(value: object) -> JsonValue:
    """Returns a value as transcripts hold it, which know no fractions."""
    if isinstance(value, float | Decimal):
        return {"$number": str(value)}
    if isinstance(value, Mapping):
        return {str(key): _stored(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_stored(member) for member in value]
    return value if isinstance(value, str | int) or value is None else str(value)


def _read(value: object, fraction: type[Decimal] | type[float] = Decimal) -> object:
    """Returns a stored or canonical value with its fractions as numbers."""
    if isinstance(value, Mapping):
        if value.keys() == {"$number"}:
            return fraction(str(value["$number"]))
        return {key: _read(member, fraction) for key, member in value.items()}
    return [_read(member, fraction) for member in value] if isinstance(value, list) else value


@asynccontextmanager
async def open_place(source: str, policy: Policy, catalogue: Catalogue, role: str) -> AsyncIterator[Place]:
    """Brings up PostgreSQL in a temporary folder, with a tenant whose policy is active."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    async with open_server() as server:
        place = Place(server, policy, catalogue, role)
        try:
            await place.prepare(source)
            yield place
        finally:
            for engine in place.engines.values():
                await engine.dispose()
