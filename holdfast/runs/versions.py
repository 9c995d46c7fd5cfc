"""Agents and roles: every change is a new version, and runs stay with the one they were admitted under."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal, Self, cast
from uuid import UUID

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.errors import NotFound, RequestInvalid
from holdfast.policies import of_roles, store
from holdfast.policies.catalogue import read_catalogue
from holdfast.policies.tables import policy_text
from holdfast.pricing.headroom import DEFAULT_MAX_TOKENS, USEFUL_MAX_TOKENS_MIN
from holdfast.runs.definition import AgentDefinition
from holdfast.tools.versions import newest_of
from holdfast_verdict.canonical import JsonValue as Canonical
from holdfast_verdict.canonical import NotCanonical, canonical_bytes
from holdfast_verdict.decide import Condition, Effect, Operator, Rule, policy_hash, rule_from_json, rule_to_json

RULES_MAX: Final = 500

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
    SELECT :tenant_id, :name, coalesce(max(version), 0) + 1, CAST(:rules AS jsonb), :source, :cases, :policy_hash,
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
    SELECT name, version, created_at, rules, policy_hash, max_tokens_default, source, cases FROM roles
    WHERE tenant_id = :tenant_id AND name = :name ORDER BY version DESC LIMIT 1
""")
_ROLE_VERSION = text("""
    SELECT name, version, created_at, rules, policy_hash, max_tokens_default, source, cases FROM roles
    WHERE tenant_id = :tenant_id AND name = :name AND version = :version
""")
_LIST_AGENTS = text("""
    SELECT DISTINCT ON (name) name, version, created_at, definition FROM agents
    WHERE tenant_id = :tenant_id AND name > :after ORDER BY name, version DESC LIMIT :count
""")
_LIST_ROLES = text("""
    SELECT DISTINCT ON (name) name, version, created_at, rules, policy_hash, max_tokens_default, source, cases FROM roles
    WHERE tenant_id = :tenant_id AND name > :after ORDER BY name, version DESC LIMIT :count
""")


def _has_canonical_form(value: JsonValue) -> JsonValue:
    try:
        canonical_bytes(value)
    except NotCanonical as error:
        raise ValueError(f"has no canonical form: {error}") from None
    return value


class ConditionForm(BaseModel):
    """A condition as it is sent: compares a field of the action with a value or with another field."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    path: str = Field(pattern=r"^(args|principal)(\.[A-Za-z0-9_-]{1,64}){1,16}$", description="such as `args.to`")
    operator: Operator
    value: Annotated[JsonValue, AfterValidator(_has_canonical_form)] = None
    other_path: str = Field(
        default="", pattern=r"^$|^(args|principal)(\.[A-Za-z0-9_-]{1,64}){1,16}$", description="compare with this field"
    )

    @model_validator(mode="after")
    def _can_be_compared(self) -> Self:
        if self.other_path and self.value is not None:
            raise ValueError("give `value` or `other_path`, not both")
        if self.operator in ("in", "not_in", "all_in_domains", "any_outside_domains"):
            if not self.other_path and not isinstance(self.value, list):
                raise ValueError(f"`{self.operator}` compares with a list")
        elif self.operator in ("<=", ">") and not self.other_path and type(self.value) is not int:
            raise ValueError(f"`{self.operator}` compares whole numbers")
        if self.operator.endswith("domains") and isinstance(self.value, list):
            for domain in self.value:
                if not isinstance(domain, str) or domain != domain.lower() or not domain:
                    raise ValueError(f"{domain!r} is no domain in lower case, so it would never match")
        return self


class RuleForm(BaseModel):
    """A rule as it is sent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    rule_id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$", description="name that decisions cite")
    effect: Effect
    kind: Literal["llm.call", "tool.call", "code.exec"] = Field(description="kind of action it speaks of")
    tool: str = Field(default="", max_length=100, description="for `tool.call`: the tool, or `*` for all")
    conditions: tuple[ConditionForm, ...] = Field(default=(), max_length=50, strict=False)  # JSON has no tuples
    code: str = Field(default="", pattern=r"^$|^[a-z][a-z0-9_.-]{0,99}$", description="reason code that a forbid gives")
    message: str = Field(default="", max_length=1_000, description="a sentence for people and models")
    approver_role: str = Field(default="approver", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    expires_s: int = Field(default=86_400, ge=1, le=31_536_000)

    @model_validator(mode="after")
    def _speaks_of_something(self) -> Self:
        if self.kind == "tool.call" and not self.tool:
            raise ValueError("a rule about `tool.call` names a tool, or `*` for all")
        if self.kind != "tool.call" and self.tool:
            raise ValueError(f"a rule about `{self.kind}` names no tool")
        return self

    def to_rule(self) -> Rule:
        """Returns the rule that the engine evaluates."""
        return Rule(
            rule_id=self.rule_id,
            effect=self.effect,
            kind=self.kind,
            tool=self.tool,
            conditions=tuple(
                Condition(c.path, c.operator, cast("Canonical", c.value), c.other_path) for c in self.conditions
            ),
            code=self.code,
            message=self.message,
            approver_role=self.approver_role,
            expires_s=self.expires_s,
        )


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
        rules: Its table, if it was put as one.
        policy_hash: Hash of what its text compiles to, or of its table.
        source: Its text, if it was put as one.
        cases: What the text was held against, as TOML.
    """

    name: str
    version: int
    created_at: datetime
    rules: tuple[Rule, ...]
    policy_hash: bytes
    max_tokens_default: int | None = None
    source: str = ""
    cases: str = ""

    @property
    def policy_text(self) -> str:
        """What the role may do in the language of policies, however it was put."""
        return self.source or (policy_text({self.name: self.rules}) if self.rules else "")


def _agent(name: str, version: int, created_at: datetime, definition: object) -> AgentVersion:
    return AgentVersion(name, version, created_at, AgentDefinition.model_validate(definition))


def _role(
    name: str,
    version: int,
    created_at: datetime,
    rules: list[dict[str, Canonical]],
    hash_: bytes,
    max_tokens_default: int | None,
    source: str,
    cases: str,
) -> RoleVersion:
    read = tuple(rule_from_json(rule) for rule in rules)
    return RoleVersion(name, version, created_at, read, hash_, max_tokens_default, source, cases)


async def put_agent(
    connection: AsyncConnection, tenant_id: UUID, name: str, definition: AgentDefinition
) -> AgentVersion:
    """Stores a new version of an agent.

    Raises:
        RequestInvalid: It names a tool twice or one that does not exist, or a role that the tenant does not have.
    """
    await _check_tools(connection, tenant_id, "tools", definition.tools)
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
        await put_role(connection, tenant_id, name, ())


async def _check_tools(connection: AsyncConnection, tenant_id: UUID, where: str, names: Sequence[str]) -> None:
    try:
        await newest_of(connection, tenant_id, names)
    except RequestInvalid as error:
        raise RequestInvalid(f"{where}: {error.message}", remedy=error.remedy) from None


async def put_role(
    connection: AsyncConnection,
    tenant_id: UUID,
    name: str,
    rules: tuple[Rule, ...] = (),
    *,
    source: str = "",
    cases: str = "",
    max_tokens_default: int | None = None,
    actor: str = "roles",
) -> RoleVersion:
    """Stores a new version of a role, and makes the tenant's policy mean what its roles now say.

    Args:
        connection: The caller's transaction.
        tenant_id: The tenant.
        name: The role's name.
        rules: What it may do as a table of rules.
        source: What it may do in the language of policies, in place of a table.
        cases: What the text is held against, as TOML.
        max_tokens_default: Output bound of its agents' calls that have none of their own; None for Holdfast's.
        actor: Who puts it.

    Raises:
        Conflict: It says something, and a policy that a person wrote is active: then that decides.
        PolicyInvalid: The text cannot be used, a case failed, or it does not fit to what other roles say.
        RequestInvalid: Two rules have the same id, a rule names a tool that does not exist, or the text says more than it may.
    """
    hash_ = policy_hash(rules)
    if source:
        catalogue = await read_catalogue(connection, tenant_id)
        hash_ = (await asyncio.to_thread(of_roles.accepted, name, source, cases, catalogue)).policy_hash
    ids = [rule.rule_id for rule in rules]
    if doubled := [rule_id for rule_id in ids if ids.count(rule_id) > 1]:
        raise RequestInvalid(f"rules: two rules are called {doubled[0]!r}", remedy="give each rule an id of its own")
    await _check_tools(connection, tenant_id, "rules", [rule.tool for rule in rules if rule.tool not in ("", "*")])
    if rules or source:
        await of_roles.require_roles_decide(connection, tenant_id, name)
    await connection.execute(_LOCK, {"name": f"{tenant_id} role {name}"})
    row = (
        await connection.execute(
            _INSERT_ROLE,
            {
                "tenant_id": tenant_id,
                "name": name,
                "rules": orjson.dumps([rule_to_json(rule) for rule in rules]).decode(),
                "source": source,
                "cases": cases,
                "policy_hash": hash_,
                "max_tokens_default": max_tokens_default,
            },
        )
    ).one()
    await of_roles.follow(connection, tenant_id, by=actor)
    return RoleVersion(name, row.version, row.created_at, rules, hash_, max_tokens_default, source, cases)


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
    return _role(*row)


async def role_version(connection: AsyncConnection, tenant_id: UUID, name: str, version: int) -> RoleVersion:
    """Returns a version of a role that a run is pinned to, so that it exists."""
    row = (await connection.execute(_ROLE_VERSION, {"tenant_id": tenant_id, "name": name, "version": version})).one()
    return _role(*row)


async def list_agents(connection: AsyncConnection, tenant_id: UUID, *, after: str, count: int) -> list[AgentVersion]:
    """Returns the newest version of each agent whose name comes after `after`."""
    rows = await connection.execute(_LIST_AGENTS, {"tenant_id": tenant_id, "after": after, "count": count})
    return [_agent(*row) for row in rows]


async def list_roles(connection: AsyncConnection, tenant_id: UUID, *, after: str, count: int) -> list[RoleVersion]:
    """Returns the newest version of each role whose name comes after `after`."""
    rows = await connection.execute(_LIST_ROLES, {"tenant_id": tenant_id, "after": after, "count": count})
    return [_role(*row) for row in rows]
