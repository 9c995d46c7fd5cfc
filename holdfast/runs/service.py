"""Admitting runs, or refusing them with a record: one transaction, with an outbox row for what Temporal has to hear."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.artefacts.reading import give
from holdfast.contracts.tiers import PROCESS, Tier
from holdfast.database.engine import transaction
from holdfast.decisions.record import record_event, subject_of
from holdfast.errors import BudgetInsufficient, Conflict, NotFound, PriceUnknown, RequestInvalid, StopActive
from holdfast.ids import new_id
from holdfast.ledger import budget
from holdfast.ledger.scopes import scope_of_run, scopes_above
from holdfast.ledger.service import set_limit
from holdfast.ledger.stops import stop_on_run
from holdfast.ledger.types import CALLS, NANO_USD, CapView, Event, Scope
from holdfast.money import format_usd
from holdfast.pricing.estimate import Estimate
from holdfast.pricing.headroom import DEFAULT_MAX_TOKENS, UNITS
from holdfast.runs.economics import CapShare, Economics, dearest, first_calls, headroom_before, judge, shares
from holdfast.runs.versions import AgentVersion, RoleVersion, newest_agent, newest_role, role_version
from holdfast.tenancy import idempotency
from holdfast.tenancy.idempotency import Claim
from holdfast.tenancy.principals import ADMIN, OWNER, Principal
from holdfast.tenancy.service import find_project
from holdfast.tenancy.tiers import tier_of_run
from holdfast.timeline import events
from holdfast.tools.definition import OwnTool
from holdfast.tools.toolset import toolset
from holdfast.tools.versions import newest_of, pins
from holdfast_verdict.canonical import JsonValue

_NOW = text("SELECT now()")
_INSERT_RUN = text("""
    INSERT INTO runs (tenant_id, run_id, project_id, user_id, agent_name, agent_version, role_name, role_version, tools,
                      user_roles, parent_run_id, follows_latest, sandbox_tier, deadline_at)
    VALUES (:tenant_id, :run_id, :project_id, :user_id, :agent_name, :agent_version, :role_name, :role_version,
            CAST(:tools AS jsonb), :user_roles, :parent_run_id, :follows_latest, :sandbox_tier,
            least(now() + CAST(:deadline_s AS bigint) * interval '1 second',
                  (SELECT p.deadline_at FROM runs p WHERE p.tenant_id = :tenant_id AND p.run_id = :parent_run_id)))
    RETURNING created_at, deadline_at, policy_id, follows_latest
""")
# The first input starts the run: the workflow asks for it by itself, so there is nothing to signal.
_INSERT_START = text("""
    INSERT INTO run_inputs (tenant_id, run_id, seq, mode, content, user_id, signalled_at)
    VALUES (:tenant_id, :run_id, 1, 'start', :content, :user_id, now())
""")
_READ_PARENT = text("""
    SELECT r.run_id, r.user_id, r.project_id, p.slug AS project, r.role_name, r.role_version, r.budget_hold_id IS NOT NULL AS funded
    FROM runs r JOIN projects p ON p.tenant_id = r.tenant_id AND p.project_id = r.project_id
    WHERE r.tenant_id = :tenant_id AND r.run_id = :run_id
""")
_LOCK_PARENT = text("""
    SELECT ended_at IS NULL AND cancel_requested_at IS NULL AND deadline_at > clock_timestamp() FROM runs
    WHERE tenant_id = :tenant_id AND run_id = :run_id FOR NO KEY UPDATE
""")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What is asked of admission.

    Attributes:
        agent: Name of the agent; its newest version runs.
        content: The first input.
        project: Slug of the project, or None for the key's own.
        cap_nano_usd: The run's own money cap, or None for the agent's.
        guaranteed: Whether that much is to be held for the run at once.
        deadline_s: When it is timed out at the latest, or None for the agent's bound.
        parent_run_id: The run that this is a part of: it gives the whole cap at once, as for a guaranteed budget.
        follows_latest: Whether each action is decided by the policy that is active then; a child run is decided as its parent is.
        files: Files that the run is given, by name.
        least_tier: The tier that code of all runs of this deployment gets at least.
    """

    agent: str
    content: str
    project: str | None = None
    cap_nano_usd: int | None = None
    guaranteed: bool = False
    deadline_s: int | None = None
    parent_run_id: UUID | None = None
    follows_latest: bool = False
    files: Mapping[str, bytes] = field(default_factory=dict)
    least_tier: Tier = PROCESS

    @property
    def words(self) -> str:
        """The first input as the model reads it: what files there are stands before it."""
        if not self.files:
            return self.content
        named = ", ".join(f"{name} ({len(content)} bytes)" for name, content in self.files.items())
        return f"Files of this run, which code.exec is given by name: {named}\n\n{self.content}"

    @property
    def holds_budget(self) -> bool:
        """Whether the whole cap is held at admission."""
        return self.guaranteed or self.parent_run_id is not None


@dataclass(frozen=True, slots=True)
class Admitted:
    """The answer to an admitted run.

    Attributes:
        run_id: The run.
        body: What the caller is told; the same for the same idempotency key.
        replayed: Whether it was admitted by an earlier request.
        timeline_seq: Number of its newest event, if this call admitted it.
    """

    run_id: UUID
    body: dict[str, JsonValue]
    replayed: bool
    timeline_seq: int


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """What a run would be admitted with, and what its first call would hold. Nothing is reserved by asking.

    Attributes:
        economics: Whether it would be admitted now, and why not.
        first_call: The worst case of its first call, on its dearest target; None if one of them has no known price.
        shares: What that call would take from each cap above the run.
        scope_names: Names of these caps' scopes, as people use them.
    """

    agent: AgentVersion
    role: RoleVersion
    project: str
    cap_nano_usd: int
    economics: Economics
    first_call: Estimate | None
    shares: Sequence[CapShare]
    scope_names: Mapping[Scope, str]


@dataclass(frozen=True, slots=True)
class _Parent:
    """The run that gives a child its budget. None of this ever changes; whether it goes on is looked at under lock."""

    run_id: UUID
    user_id: UUID
    project_id: UUID
    project: str
    role_name: str
    role_version: int
    funded: bool


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Everything that admission judges."""

    request: RunRequest
    agent: AgentVersion
    tools: Sequence[OwnTool]
    role: RoleVersion
    project_id: UUID
    project: str
    cap_nano_usd: int
    deadline_s: int
    parent: _Parent | None

    @property
    def parent_funded(self) -> bool:
        """Whether the parent holds a budget of its own, so that the caps above have given all of it already."""
        return self.parent is not None and self.parent.funded


async def admit(engine: AsyncEngine, principal: Principal, request: RunRequest, claim: Claim | None = None) -> Admitted:
    """Admits a run, or refuses it with a record: one transaction (LAW 2).

    Raises:
        BudgetInsufficient: Nothing useful could be afforded, or there is no money cap on the tenant.
        PriceUnknown: The agent's model has no known price.
        StopActive: An emergency stop is on the tenant, the agent or its role.
        NotFound: There is no such agent or project.
        RequestInvalid: The request asks for more than the agent's limits, or than the parent run may give.
        Conflict: The parent run takes no more children.
        IdempotencyConflict: The claimed key was used for another request.
    """
    tenant_id = principal.tenant_id
    async with transaction(engine, tenant_id) as connection:
        if claim is not None and (body := await idempotency.claim(connection, claim)) is not None:
            return Admitted(UUID(str(body["run_id"])), body, replayed=True, timeline_seq=0)
        prepared = await _prepare(connection, principal, request)
        run_id, decision_id = new_id(), new_id()
        caps = await _caps(connection, principal, prepared)
        if prepared.parent is not None:
            await _lock_parent(connection, tenant_id, prepared.parent)  # lock order: caps before runs
        at: datetime = (await connection.execute(_NOW)).scalar_one()
        # in a thread: a long input may have to be counted, and others are served meanwhile
        economics = await asyncio.to_thread(
            judge,
            prepared.agent.definition,
            toolset(prepared.tools),
            request.words,
            at,
            caps,
            prepared.cap_nano_usd,
            guaranteed=request.holds_budget,
            funded=prepared.parent_funded,
        )
        stop = await stop_on_run(connection, principal.tenant_id, prepared.agent.name, prepared.role.name)
        economics = _unless_stopped(economics, stop)
        if economics.affordable:
            admitted = await _admit(connection, principal, prepared, economics, caps, run_id, decision_id)
            if claim is not None:
                await idempotency.keep(connection, claim, admitted.body)
            return admitted
        await _record(connection, principal, prepared, economics, decision_id)
    if economics.code == PriceUnknown.code:
        raise PriceUnknown(economics.message)
    if economics.code == StopActive.code:
        raise StopActive(economics.message, remedy="start it when the stop is lifted: `holdfast stops` names it")
    raise BudgetInsufficient(economics.message, remedy="raise the cap, or ask for less")


async def estimate(engine: AsyncEngine, principal: Principal, request: RunRequest) -> RunEstimate:
    """Says what a run's first call would hold, and whether the run would be admitted now. It writes and locks nothing.

    Raises:
        NotFound: There is no such agent or project.
        RequestInvalid: The request asks for more than the agent's limits.
    """
    tenant_id = principal.tenant_id
    async with transaction(engine, tenant_id) as connection:
        prepared = await _prepare(connection, principal, request)
        scopes = _scopes(principal, prepared)
        caps = await budget.read_applicable_caps(connection, tenant_id, scopes, UNITS)
        stop = await stop_on_run(connection, tenant_id, prepared.agent.name, prepared.role.name)
        at: datetime = (await connection.execute(_NOW)).scalar_one()
    definition, tools = prepared.agent.definition, toolset(prepared.tools)
    money = [cap for cap in caps if cap.unit == NANO_USD]
    guaranteed, cap_nano_usd = request.guaranteed, prepared.cap_nano_usd
    economics = await asyncio.to_thread(
        judge, definition, tools, request.words, at, money, cap_nano_usd, guaranteed=guaranteed
    )
    economics = _unless_stopped(economics, stop)
    left = headroom_before(caps, cap_nano_usd)
    try:
        calls = await asyncio.to_thread(
            first_calls,
            definition,
            tools,
            request.words,
            at,
            left,
            definition.max_tokens,
            default=prepared.role.max_tokens_default or DEFAULT_MAX_TOKENS,
        )
    except PriceUnknown:
        calls = []
    project, user, role = prepared.project, principal.user, prepared.role.name
    names = (principal.tenant, project, user, role, f"{user}/{project}", f"{user}/{role}", f"{project}/{role}")
    return RunEstimate(
        agent=prepared.agent,
        role=prepared.role,
        project=prepared.project,
        cap_nano_usd=cap_nano_usd,
        economics=economics,
        first_call=dearest(calls) if calls else None,
        shares=shares(caps, calls) if calls else [],
        scope_names=dict(zip(scopes, names, strict=True)),
    )


async def _prepare(connection: AsyncConnection, principal: Principal, request: RunRequest) -> _Prepared:
    tenant_id = principal.tenant_id
    agent = await newest_agent(connection, tenant_id, request.agent)
    parent = await _read_parent(connection, principal, request.parent_run_id) if request.parent_run_id else None
    role = await _role(connection, tenant_id, agent, parent)
    tools = await newest_of(connection, tenant_id, agent.definition.tools)
    project_id, project = principal.project_id, principal.project
    if request.project is not None and request.project != project:
        principal.require(OWNER, ADMIN)
        project_id, project = await find_project(connection, tenant_id, request.project), request.project
    if parent is not None and project_id != parent.project_id:
        raise RequestInvalid(
            f"parent_run_id: that run is in project {parent.project}, and a child run is in its parent's",
            remedy="use a key of that project, or name the project",
        )
    limits = agent.definition.limits
    cap_nano_usd = limits.run_cap_nano_usd if request.cap_nano_usd is None else request.cap_nano_usd
    if cap_nano_usd > limits.run_cap_nano_usd:
        raise RequestInvalid(
            f"cap_usd: agent {agent.name} allows a run {format_usd(limits.run_cap_nano_usd)} at most",
            remedy="ask for less, or raise limits.run_cap_nano_usd of the agent",
        )
    deadline_s = limits.deadline_s if request.deadline_s is None else request.deadline_s
    if deadline_s > limits.deadline_s:
        raise RequestInvalid(f"deadline_s: agent {agent.name} allows a run {limits.deadline_s} s at most")
    return _Prepared(request, agent, tools, role, project_id, project, cap_nano_usd, deadline_s, parent)


async def _read_parent(connection: AsyncConnection, principal: Principal, run_id: UUID) -> _Parent:
    row = (await connection.execute(_READ_PARENT, {"tenant_id": principal.tenant_id, "run_id": run_id})).one_or_none()
    if row is None or (not principal.sees_all and row.user_id != principal.user_id):
        raise NotFound(f"there is no run {run_id}")
    if row.user_id != principal.user_id:
        raise RequestInvalid(
            "parent_run_id: that run is another user's, and a child run is of its parent's user",
            remedy="use a key of that user",
        )
    return _Parent(*row)


async def _role(
    connection: AsyncConnection, tenant_id: UUID, agent: AgentVersion, parent: _Parent | None
) -> RoleVersion:
    """Returns the role that a run is admitted with: the newest, or for a child the very version of its parent's."""
    if parent is None:
        return await newest_role(connection, tenant_id, agent.definition.role)
    if agent.definition.role != parent.role_name:
        # permissions can only shrink, and of two different roles nothing says yet which one may more
        raise RequestInvalid(
            f"agent: a child run has its parent's role, which is {parent.role_name}, and {agent.name} has "
            f"{agent.definition.role}",
            remedy="name an agent of that role, or start it without a parent",
        )
    return await role_version(connection, tenant_id, parent.role_name, parent.role_version)


async def _lock_parent(connection: AsyncConnection, tenant_id: UUID, parent: _Parent) -> None:
    goes_on: bool = (
        await connection.execute(_LOCK_PARENT, {"tenant_id": tenant_id, "run_id": parent.run_id})
    ).scalar_one()
    if not goes_on:
        raise Conflict(
            f"run {parent.run_id} has ended or is about to, and has no more children", remedy="start a run of its own"
        )


def _unless_stopped(economics: Economics, stop: str | None) -> Economics:
    """Refuses what could be afforded, but could do nothing: its first call would be denied."""
    return (
        economics
        if stop is None
        else replace(economics, code=StopActive.code, message=f"an emergency stop is on: {stop}")
    )


def _scopes(principal: Principal, prepared: _Prepared) -> tuple[Scope, ...]:
    """Returns the scopes above a run whose caps apply to it; the same as its actions', without its own."""
    return scopes_above(principal.tenant_id, prepared.project_id, principal.user_id, prepared.role.name)


async def _caps(connection: AsyncConnection, principal: Principal, prepared: _Prepared) -> list[CapView]:
    """Returns the money caps that have to give what the run needs: locked only if something will be taken from them."""
    scopes, parent = _scopes(principal, prepared), prepared.parent
    if parent is not None:
        # the budget of a child is a part of its parent's cap; what a funded parent has, the caps above have given already
        scopes = (*(() if parent.funded else scopes), scope_of_run(parent.run_id))
    if prepared.request.holds_budget:
        return await budget.lock_for_budget(connection, principal.tenant_id, scopes)
    return await budget.read_applicable_caps(connection, principal.tenant_id, scopes, [NANO_USD])


async def _insert_run(
    connection: AsyncConnection, principal: Principal, prepared: _Prepared, run_id: UUID
) -> Row[Any]:  # rows of text() carry no types
    tenant_id, request = principal.tenant_id, prepared.request
    tier = await tier_of_run(connection, tenant_id, prepared.role.name, request.parent_run_id, request.least_tier)
    values = {
        "tenant_id": tenant_id,
        "run_id": run_id,
        "project_id": prepared.project_id,
        "user_id": principal.user_id,
        "agent_name": prepared.agent.name,
        "agent_version": prepared.agent.version,
        "role_name": prepared.role.name,
        "role_version": prepared.role.version,
        "tools": orjson.dumps(pins(prepared.tools)).decode(),
        "user_roles": sorted(principal.roles),
        "deadline_s": prepared.deadline_s,
        "parent_run_id": request.parent_run_id,
        "follows_latest": request.follows_latest,
        "sandbox_tier": tier,
    }
    return (await connection.execute(_INSERT_RUN, values)).one()


async def _admit(
    connection: AsyncConnection,
    principal: Principal,
    prepared: _Prepared,
    economics: Economics,
    caps: list[CapView],
    run_id: UUID,
    decision_id: UUID,
) -> Admitted:
    """Writes everything that an admitted run consists of."""
    tenant_id, request = principal.tenant_id, prepared.request
    row = await _insert_run(connection, principal, prepared, run_id)
    calls = prepared.agent.definition.limits.run_calls
    for unit, amount in ((NANO_USD, prepared.cap_nano_usd), (CALLS, calls)):
        await set_limit(
            connection,
            tenant_id,
            scope_of_run(run_id),
            unit,
            limit_amount=amount,
            unlimited=False,
            actor=principal.actor,
            reason="admission",
        )
    await connection.execute(
        _INSERT_START,
        {"tenant_id": tenant_id, "run_id": run_id, "content": request.words, "user_id": principal.user_id},
    )
    await give(connection, tenant_id, run_id, request.files)
    hold_id: UUID | None = None
    if request.holds_budget:
        hold_id = await budget.admit_budget(
            connection,
            tenant_id,
            run_id,
            caps,
            prepared.cap_nano_usd,
            decision_id=decision_id,
            life_ms=prepared.deadline_s * 1000,
        )
    await _record(connection, principal, prepared, economics, decision_id, run_id, hold_id)
    body: dict[str, JsonValue] = {
        "run_id": str(run_id),
        "agent": prepared.agent.name,
        "agent_version": prepared.agent.version,
        "role": prepared.role.name,
        "role_version": prepared.role.version,
        "project": prepared.project,
        "user": principal.user,
        "cap_nano_usd": prepared.cap_nano_usd,
        "guaranteed": request.holds_budget,
        "parent_run_id": str(request.parent_run_id) if request.parent_run_id else None,
        "policy_id": str(row.policy_id) if row.policy_id and not row.follows_latest else None,
        "follows_latest": row.follows_latest,
        "decision_id": str(decision_id),
        "created_at": row.created_at.isoformat(),
        "deadline_at": row.deadline_at.isoformat(),
    }
    seq = await events.append(connection, tenant_id, run_id, [Event("lifecycle", "run.created", body)])
    return Admitted(run_id, body, replayed=False, timeline_seq=seq)


async def _record(
    connection: AsyncConnection,
    principal: Principal,
    prepared: _Prepared,
    economics: Economics,
    decision_id: UUID,
    run_id: UUID | None = None,
    hold_id: UUID | None = None,
) -> None:
    facts: dict[str, JsonValue] = {
        "subject": subject_of(principal),
        "agent": prepared.agent.name,
        "agent_version": prepared.agent.version,
        "tools": {tool.name: tool.digest for tool in prepared.tools},
        "role": prepared.role.name,
        "role_version": prepared.role.version,
        "project": prepared.project,
        "input_digest": hashlib.sha256(prepared.request.content.encode()).hexdigest(),
        "cap_nano_usd": str(prepared.cap_nano_usd),
        "floor_nano_usd": str(economics.floor_nano_usd),
        "guaranteed": prepared.request.holds_budget,
        "parent_run_id": str(prepared.parent.run_id) if prepared.parent else None,
        "deadline_s": prepared.deadline_s,
    }
    await record_event(
        connection,
        principal.tenant_id,
        kind="run.admission",
        verdict="allow" if economics.affordable else "deny",
        code=economics.code,
        message=economics.message,
        facts=facts,
        run_id=run_id,
        hold_id=hold_id,
        decision_id=decision_id,
    )
