"""What is true of a run, read from its row and from the versions of agent and role that it is pinned to (rule 5)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.contracts.tiers import PROCESS, Tier, strictest
from holdfast.database.engine import tenantless
from holdfast.errors import RunUnknown
from holdfast.ledger.scopes import scope_of_run, scopes_above
from holdfast.ledger.types import FactVersions, Scope
from holdfast.policies.store import read_pinned
from holdfast.runs.definition import AgentDefinition
from holdfast.tools.definition import OwnTool
from holdfast.tools.toolset import Toolset, toolset
from holdfast.tools.versions import read_version
from holdfast_verdict.engine.program import program_of
from holdfast_verdict.policy import Policy

_KEPT_MAX = 2_048

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")

_LOCATE = text("SELECT locate_run(:run_id)")

_READ = text("""
    SELECT r.run_id, r.tenant_id, t.slug AS tenant, r.project_id, p.slug AS project, r.user_id, u.name AS user_name,
           r.agent_name, r.agent_version, r.role_name, r.role_version, r.user_roles, r.status, r.tools, r.ended_at, r.deadline_at,
           r.history_version, r.timeline_seq, r.budget_hold_id, r.sandbox_tier, clock_timestamp() AS now,
           (SELECT count(*) FROM run_inputs i WHERE i.tenant_id = r.tenant_id AND i.run_id = r.run_id) AS inputs, x.salt,
           r.parent_run_id IS NULL AND NOT EXISTS (
               SELECT FROM runs c WHERE c.tenant_id = r.tenant_id AND c.parent_run_id = r.run_id) AS is_alone
    FROM runs r
    LEFT JOIN run_salts x ON x.tenant_id = r.tenant_id AND x.run_id = r.run_id
    JOIN tenants t ON t.tenant_id = r.tenant_id
    JOIN projects p ON p.tenant_id = r.tenant_id AND p.project_id = r.project_id
    JOIN users u ON u.tenant_id = r.tenant_id AND u.user_id = r.user_id
    WHERE r.tenant_id = :tenant_id AND r.run_id = :run_id
""")

_READ_AGENT = text("SELECT definition FROM agents WHERE tenant_id = :tenant_id AND name = :name AND version = :version")
_READ_ROLE = text(
    "SELECT max_tokens_default FROM roles WHERE tenant_id = :tenant_id AND name = :name AND version = :version"
)


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """What a run is decided by.

    Attributes:
        policy: The policy.
        policy_hash: Its hash.
        policy_id: Id of its version.
        max_tokens_default: What a call may write whose agent sets no bound, by the run's version of its role.
        shadow_id: The candidate that is asked beside it, if there is one.
        shadow: What that compiles to.
    """

    policy: Policy
    policy_hash: bytes
    policy_id: UUID
    max_tokens_default: int | None
    shadow_id: UUID | None = None
    shadow: Policy | None = None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run as decisions see it.

    `now` is PostgreSQL's time of reading (rule 7), the salt is gone once it was erased, and a run is alone that no run has started and
    that has started none.
    """

    run_id: UUID
    tenant_id: UUID
    tenant: str
    project_id: UUID
    project: str
    user_id: UUID
    user: str
    agent_name: str
    role: str
    user_roles: tuple[str, ...] | None
    status: str
    ended: bool
    deadline_at: datetime
    now: datetime
    versions: FactVersions
    timeline_seq: int
    funded: bool
    inputs: int
    agent: AgentDefinition
    tools: Toolset
    policy: RunPolicy
    is_alone: bool
    sandbox_tier: Tier = PROCESS
    salt: bytes | None = None

    @property
    def principal(self) -> dict[str, object]:
        """Who acts, by name, as rules see it; with the roles of the key that started the run, where they were kept."""
        roles: dict[str, object] = {} if self.user_roles is None else {"roles": list(self.user_roles)}
        return {
            **roles,
            "tenant": self.tenant,
            "project": self.project,
            "user": self.user,
            "agent": self.agent_name,
            "role": self.role,
            "run": str(self.run_id),
        }

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The scopes whose caps apply to this run's actions."""
        above = scopes_above(self.tenant_id, self.project_id, self.user_id, self.role)
        return (*above, scope_of_run(self.run_id))


def _keep(kept: OrderedDict[KeyT, ValueT], key: KeyT, value: ValueT) -> None:
    kept[key] = value
    if len(kept) > _KEPT_MAX:
        kept.popitem(last=False)


class RunReader:
    """Reads runs. A run's tenant and versions of agents, tools and roles never change, so they are kept."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[UUID, UUID] = OrderedDict()
        self._agents: OrderedDict[tuple[UUID, str, int], AgentDefinition] = OrderedDict()
        self._tools: OrderedDict[tuple[UUID, str, int], OwnTool] = OrderedDict()
        self._bounds: OrderedDict[tuple[UUID, str, int], int | None] = OrderedDict()

    async def locate(self, engine: AsyncEngine, run_id: UUID) -> UUID:
        """Returns the tenant of a run.

        Raises:
            RunUnknown: No run of that id was ever admitted.
        """
        if run_id not in self._tenants:
            async with tenantless(engine) as connection:
                tenant_id: UUID | None = await connection.scalar(_LOCATE, {"run_id": run_id})
            if tenant_id is None:
                raise RunUnknown(f"no admitted run has the id {run_id}", remedy="start runs through the API")
            _keep(self._tenants, run_id, tenant_id)
        return self._tenants[run_id]

    async def read(self, connection: AsyncConnection, tenant_id: UUID, run_id: UUID) -> RunFacts:
        """Reads a run in the caller's transaction.

        Raises:
            RunUnknown: The tenant has no such run.
        """
        row = (await connection.execute(_READ, {"tenant_id": tenant_id, "run_id": run_id})).one_or_none()
        if row is None:
            raise RunUnknown(f"there is no run {run_id}")
        return RunFacts(
            run_id=row.run_id,
            tenant_id=row.tenant_id,
            tenant=row.tenant,
            project_id=row.project_id,
            project=row.project,
            user_id=row.user_id,
            user=row.user_name,
            agent_name=row.agent_name,
            role=row.role_name,
            user_roles=None if row.user_roles is None else tuple(row.user_roles),
            status=row.status,
            ended=row.ended_at is not None,
            deadline_at=row.deadline_at,
            now=row.now,
            versions=FactVersions(row.history_version, row.role_version),
            timeline_seq=row.timeline_seq,
            funded=row.budget_hold_id is not None,
            inputs=row.inputs,
            agent=await self.agent(connection, tenant_id, row.agent_name, row.agent_version),
            tools=await self.tools(connection, tenant_id, row.tools),
            policy=await self._policy(connection, tenant_id, run_id, row.role_name, row.role_version),
            is_alone=row.is_alone,
            sandbox_tier=strictest(row.sandbox_tier),
            salt=row.salt,
        )

    async def agent(self, connection: AsyncConnection, tenant_id: UUID, name: str, version: int) -> AgentDefinition:
        """Returns one version of an agent."""
        key = (tenant_id, name, version)
        if key not in self._agents:
            definition = await connection.scalar(
                _READ_AGENT, {"tenant_id": tenant_id, "name": name, "version": version}
            )
            _keep(self._agents, key, AgentDefinition.model_validate(definition))
        return self._agents[key]

    async def tools(self, connection: AsyncConnection, tenant_id: UUID, pins: Mapping[str, int]) -> Toolset:
        """Returns the tools of a run that is pinned to these versions."""
        own = []
        for name, version in pins.items():
            key = (tenant_id, name, version)
            if key not in self._tools:
                _keep(self._tools, key, await read_version(connection, tenant_id, name, version))
            own.append(self._tools[key])
        return toolset(own)

    async def _policy(
        self, connection: AsyncConnection, tenant_id: UUID, run_id: UUID, name: str, version: int
    ) -> RunPolicy:
        key = (tenant_id, name, version)
        if key not in self._bounds:
            row = (
                await connection.execute(_READ_ROLE, {"tenant_id": tenant_id, "name": name, "version": version})
            ).one()
            _keep(self._bounds, key, row.max_tokens_default)
        pinned = await read_pinned(connection, tenant_id, run_id)
        return RunPolicy(
            policy=pinned.policy,
            policy_hash=program_of(pinned.policy).policy_hash,
            policy_id=pinned.policy_id,
            max_tokens_default=self._bounds[key],
            shadow_id=pinned.shadow_id,
            shadow=pinned.shadow,
        )
