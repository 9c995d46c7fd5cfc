"""Agents and roles: every change is a new version, and runs stay with the one they were admitted under."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.errors import NotFound, RequestInvalid
from holdfast.policies import of_roles, store
from holdfast.policies.catalogue import read_catalogue
from holdfast.policies.version import NO_POLICY
from holdfast.pricing.headroom import DEFAULT_MAX_TOKENS, USEFUL_MAX_TOKENS_MIN
from holdfast.runs.definition import AgentDefinition
from holdfast.tools.versions import newest_of

OutputDefault = Annotated[
    int | None,
    Field(
        ge=USEFUL_MAX_TOKENS_MIN,
        le=200_000,
        description=f"output bound of a model call whose agent sets none; without one {DEFAULT_MAX_TOKENS}",
    ),
]

# A lock on the name: the next version's number is not there to be locked yet.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 1))")

_INSERT_AGENT = text("""
    INSERT INTO agents (tenant_id, name, version, definition)
    SELECT :tenant_id, :name, coalesce(max(version), 0) + 1, CAST(:definition AS jsonb) FROM agents
    WHERE tenant_id = :tenant_id AND name = :name
    RETURNING version, created_at
""")
_INSERT_ROLE = text("""
    INSERT INTO roles (tenant_id, name, version, rules, source, cases, policy_hash, max_tokens_default)
    SELECT :tenant_id, :name, coalesce(max(version), 0) + 1, '[]', :source, :cases, :policy_hash,
        CAST(:max_tokens_default AS integer)
    FROM roles
    WHERE tenant_id = :tenant_id AND name = :name
    RETURNING version, created_at
""")
_NEWEST_AGENT = text("""
    SELECT name, version, created_at, definition FROM agents
    WHERE tenant_id = :tenant_id AND name = :name ORDER BY version DESC LIMIT 1
""")
_NEWEST_ROLE = text("""
    SELECT name, version, created_at, source, cases, policy_hash, max_tokens_default FROM roles
    WHERE tenant_id = :tenant_id AND name = :name ORDER BY version DESC LIMIT 1
""")
_ROLE_VERSION = text("""
    SELECT name, version, created_at, source, cases, policy_hash, max_tokens_default FROM roles
    WHERE tenant_id = :tenant_id AND name = :name AND version = :version
""")
_LIST_AGENTS = text("""
    SELECT DISTINCT ON (name) name, version, created_at, definition FROM agents
    WHERE tenant_id = :tenant_id AND name > :after ORDER BY name, version DESC LIMIT :count
""")
_LIST_ROLES = text("""
    SELECT DISTINCT ON (name) name, version, created_at, source, cases, policy_hash, max_tokens_default FROM roles
    WHERE tenant_id = :tenant_id AND name > :after ORDER BY name, version DESC LIMIT :count
""")


@dataclass(frozen=True, slots=True)
class AgentVersion:
    """A version of an agent."""

    name: str
    version: int
    created_at: datetime
    definition: AgentDefinition


@dataclass(frozen=True, slots=True)
class RoleVersion:
    """A version of a role: what it may do, and the output bound of its agents' calls that have none.

    Attributes:
        source: What it may do in the language of policies; empty for a name alone.
        cases: What the text was held against, as TOML.
        policy_hash: Hash of what the text compiles to.
    """

    name: str
    version: int
    created_at: datetime
    source: str
    cases: str
    policy_hash: bytes
    max_tokens_default: int | None


def _agent(name: str, version: int, created_at: datetime, definition: object) -> AgentVersion:
    return AgentVersion(name, version, created_at, AgentDefinition.model_validate(definition))


async def put_agent(
    connection: AsyncConnection, tenant_id: UUID, name: str, definition: AgentDefinition
) -> AgentVersion:
    """Stores a new version of an agent.

    Raises:
        RequestInvalid: It names a tool twice or one that does not exist, or a role that the tenant does not have.
    """
    try:
        await newest_of(connection, tenant_id, definition.tools)
    except RequestInvalid as error:
        raise RequestInvalid(f"tools: {error.message}", remedy=error.remedy) from None
    if len(set(definition.tools)) != len(definition.tools):
        raise RequestInvalid("tools: a tool is named twice")
    await _require_role(connection, tenant_id, definition.role)
    await connection.execute(_LOCK, {"name": f"{tenant_id} agent {name}"})
    row = (
        await connection.execute(
            _INSERT_AGENT, {"tenant_id": tenant_id, "name": name, "definition": definition.model_dump_json()}
        )
    ).one()
    return AgentVersion(name, row.version, row.created_at, definition)


async def _require_role(connection: AsyncConnection, tenant_id: UUID, name: str) -> None:
    """Makes sure that there is a role: one that was put, or one that the active policy speaks of, which then is put."""
    try:
        await newest_role(connection, tenant_id, name)
    except NotFound:
        active = await store.active(connection, tenant_id)
        if active is None or name not in active.policy.roles:
            raise RequestInvalid(
                f"role: the tenant has no role {name!r}",
                remedy=f"say in the policy what it may do, or put it: PUT /v1/roles/{name}",
            ) from None
        await put_role(connection, tenant_id, name)


async def put_role(
    connection: AsyncConnection,
    tenant_id: UUID,
    name: str,
    source: str = "",
    *,
    cases: str = "",
    max_tokens_default: int | None = None,
    actor: str = "roles",
) -> RoleVersion:
    """Stores a new version of a role, and makes the tenant's policy mean what its roles now say.

    Args:
        connection: The caller's transaction.
        tenant_id: The tenant.
        name: The role's name.
        source: What it may do in the language of policies; without it the role is a name alone.
        cases: What the text is held against, as TOML.
        max_tokens_default: Output bound of its agents' calls that have none of their own; None for Holdfast's.
        actor: Who puts it.

    Raises:
        Conflict: It says something, and a policy that a person wrote is active: then that decides.
        PolicyInvalid: The text cannot be used, a case failed, or it does not fit to what other roles say.
        RequestInvalid: The text says more than it may, or a rule has the name of another role's.
    """
    hash_ = NO_POLICY.policy_hash
    if source:
        catalogue = await read_catalogue(connection, tenant_id)
        hash_ = (await asyncio.to_thread(of_roles.accepted, name, source, cases, catalogue)).policy_hash
        await of_roles.require_roles_decide(connection, tenant_id, name)
    await connection.execute(_LOCK, {"name": f"{tenant_id} role {name}"})
    row = (
        await connection.execute(
            _INSERT_ROLE,
            {
                "tenant_id": tenant_id,
                "name": name,
                "source": source,
                "cases": cases,
                "policy_hash": hash_,
                "max_tokens_default": max_tokens_default,
            },
        )
    ).one()
    await of_roles.follow(connection, tenant_id, by=actor)
    return RoleVersion(name, row.version, row.created_at, source, cases, hash_, max_tokens_default)


async def newest_agent(connection: AsyncConnection, tenant_id: UUID, name: str) -> AgentVersion:
    """Returns an agent's newest version.

    Raises:
        NotFound: The tenant has no such agent.
    """
    row = (await connection.execute(_NEWEST_AGENT, {"tenant_id": tenant_id, "name": name})).one_or_none()
    if row is None:
        raise NotFound(f"there is no agent {name!r}", remedy=f"put it first: PUT /v1/agents/{name}")
    return _agent(*row)


async def newest_role(connection: AsyncConnection, tenant_id: UUID, name: str) -> RoleVersion:
    """Returns a role's newest version.

    Raises:
        NotFound: The tenant has no such role.
    """
    row = (await connection.execute(_NEWEST_ROLE, {"tenant_id": tenant_id, "name": name})).one_or_none()
    if row is None:
        raise NotFound(f"there is no role {name!r}", remedy=f"put it first: PUT /v1/roles/{name}")
    return RoleVersion(*row)


async def role_version(connection: AsyncConnection, tenant_id: UUID, name: str, version: int) -> RoleVersion:
    """Returns a version of a role that a run is pinned to, so that it exists."""
    row = (await connection.execute(_ROLE_VERSION, {"tenant_id": tenant_id, "name": name, "version": version})).one()
    return RoleVersion(*row)


async def list_agents(connection: AsyncConnection, tenant_id: UUID, *, after: str, count: int) -> list[AgentVersion]:
    """Returns the newest version of each agent whose name comes after `after`."""
    rows = await connection.execute(_LIST_AGENTS, {"tenant_id": tenant_id, "after": after, "count": count})
    return [_agent(*row) for row in rows]


async def list_roles(connection: AsyncConnection, tenant_id: UUID, *, after: str, count: int) -> list[RoleVersion]:
    """Returns the newest version of each role whose name comes after `after`."""
    rows = await connection.execute(_LIST_ROLES, {"tenant_id": tenant_id, "after": after, "count": count})
    return [RoleVersion(*row) for row in rows]
