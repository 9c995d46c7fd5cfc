"""Agents and roles: every PUT is a new version; runs stay with the one they were admitted under."""

from __future__ import annotations

from typing import Self

from fastapi import APIRouter
from pydantic import Field, model_validator

from api.authentication import Caller, require_reader
from api.context import Parts
from api.forms import Answer, Cursor, Form, NamePath, Page, PageSize, Time, page_of, text_cursor
from holdfast.database.engine import transaction
from holdfast.decisions.record import record_change
from holdfast.policies.tables import RoleTableRefused
from holdfast.policies.version import SOURCE_LENGTH_MAX
from holdfast.runs import versions
from holdfast.runs.definition import AgentDefinition
from holdfast.runs.versions import AgentVersion, OutputDefault, RoleVersion
from holdfast.tenancy.principals import ADMIN, DEVELOPER, OWNER

router = APIRouter(prefix="/v1", tags=["agents"])


class Agent(Answer):
    """The newest version of an agent."""

    name: str
    version: int
    created_at: Time
    definition: AgentDefinition


class PutRole(Form):
    """What a role may do, as the text of a policy: `role NAME { … }`. What nothing permits is denied."""

    policy: str = Field(
        default="",
        max_length=SOURCE_LENGTH_MAX,
        description="text in the language of policies that speaks of this role alone",
    )
    cases: str = Field(
        default="", max_length=SOURCE_LENGTH_MAX, description="cases that the text has to decide as they say, as TOML"
    )
    max_tokens_default: OutputDefault = None

    @model_validator(mode="before")
    @classmethod
    def _has_no_table(cls, body: object) -> object:
        if isinstance(body, dict) and "rules" in body:
            raise RoleTableRefused(
                "rules: a role's rules are not taken as a table; they are said in the language of policies, under `policy`",
                remedy='send {"policy": "role NAME { permit llm.call  permit mail.list }"}; '
                "`holdfast policy translate FILE` says a table as such a text",
            )
        return body

    @model_validator(mode="after")
    def _has_cases_of_a_text(self) -> Self:
        if self.cases and not self.policy:
            raise ValueError("`cases` belong to a `policy`")
        return self


class Role(Answer):
    """The newest version of a role."""

    name: str
    version: int
    created_at: Time
    policy: str = Field(description="what it may do, in the language of policies; empty for a name alone")
    cases: str = Field(description="what the text was held against, as TOML")
    policy_hash: str = Field(description="SHA-256 of what the text compiles to by itself, hex")
    max_tokens_default: int | None = Field(description="output bound of a model call whose agent sets none")

    @classmethod
    def of(cls, role: RoleVersion) -> Self:
        """Builds the answer."""
        return cls(
            name=role.name,
            version=role.version,
            created_at=role.created_at,
            policy=role.source,
            cases=role.cases,
            policy_hash=role.policy_hash.hex(),
            max_tokens_default=role.max_tokens_default,
        )


@router.put("/agents/{name}", summary="Store a new version of an agent")
async def put_agent(name: NamePath, body: AgentDefinition, caller: Caller, parts: Parts) -> Agent:
    """Stores a new version; new runs use it, running ones keep theirs. Its role must exist."""
    caller.require(OWNER, ADMIN, DEVELOPER)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        stored = await versions.put_agent(connection, caller.tenant_id, name, body)
        await record_change(
            connection,
            caller.tenant_id,
            caller,
            "agent.put",
            f"agent {name} is at version {stored.version}",
            {"agent": name, "version": stored.version, "role": body.role, "tools": list(body.tools)},
        )
    return Agent.model_validate(stored)


@router.get("/agents", summary="List agents")
async def list_agents(caller: Caller, parts: Parts, cursor: Cursor = None, size: PageSize = 50) -> Page[Agent]:
    """Lists the newest version of each agent, by name."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found: list[AgentVersion] = await versions.list_agents(
            connection, caller.tenant_id, after=text_cursor(cursor), count=size + 1
        )
    return page_of([Agent.model_validate(agent) for agent in found], [agent.name for agent in found], size)


@router.get("/agents/{name}", summary="Look at an agent")
async def get_agent(name: NamePath, caller: Caller, parts: Parts) -> Agent:
    """Shows the newest version of an agent."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        return Agent.model_validate(await versions.newest_agent(connection, caller.tenant_id, name))


@router.put("/roles/{name}", summary="Store a new version of a role")
async def put_role(name: NamePath, body: PutRole, caller: Caller, parts: Parts) -> Role:
    """Stores a new version, and makes the tenant's policy anew of what all roles say; runs admitted from now on are decided by that.

    While a policy that a person wrote is active, it decides: a role that says something is refused then, and one that does not is
    stored.
    """
    caller.require(OWNER, ADMIN)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        stored = await versions.put_role(
            connection,
            caller.tenant_id,
            name,
            body.policy,
            cases=body.cases,
            max_tokens_default=body.max_tokens_default,
            actor=caller.actor,
        )
        await record_change(
            connection,
            caller.tenant_id,
            caller,
            "role.put",
            f"role {name} is at version {stored.version}",
            {
                "role": name,
                "version": stored.version,
                "policy_hash": stored.policy_hash.hex(),
                "max_tokens_default": stored.max_tokens_default,
            },
        )
    return Role.of(stored)


@router.get("/roles", summary="List roles")
async def list_roles(caller: Caller, parts: Parts, cursor: Cursor = None, size: PageSize = 50) -> Page[Role]:
    """Lists the newest version of each role, by name."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await versions.list_roles(connection, caller.tenant_id, after=text_cursor(cursor), count=size + 1)
    return page_of([Role.of(role) for role in found], [role.name for role in found], size)


@router.get("/roles/{name}", summary="Look at a role")
async def get_role(name: NamePath, caller: Caller, parts: Parts) -> Role:
    """Shows the newest version of a role."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        return Role.of(await versions.newest_role(connection, caller.tenant_id, name))
