"""What a cell stands on: a tenant of its own whose cap the demand exceeds, runs, and the request that all calls make."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Final
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.matrix.cells import Cell
from bench.matrix.lies import CHEAP_MODEL
from holdfast.database.engine import transaction
from holdfast.ids import new_id
from holdfast.ledger.service import set_limit
from holdfast.ledger.types import CALLS, NANO_USD, TOKENS, Scope, WindowKind
from holdfast.pricing.estimate import Estimate, estimate_llm
from holdfast.pricing.headroom import DEFAULT_MAX_TOKENS
from holdfast.pricing.prices import Price, price_of
from holdfast.providers.model import ModelRequest
from holdfast_verdict import compile_policy
from holdfast_verdict.decide import Rule

MAX_TOKENS: Final = 300
"""What a call asks for where it asks for something."""
RULES: Final = (Rule("think", "permit", "llm.call"),)
"""What the role may do, for callers that ask the ledger themselves: they are their own governors, and need no policy's facts."""
ROLE: Final = "worker"
ROLE_TEXT: Final = 'role worker {\n  permit llm.call as "think"\n}\n'
_HOLDS_IN_CAP: Final = {1: 3, 50: 8, 500: 12}
_DEFAULT_HOLDS_IN_CAP: Final = {1: 2, 50: 4, 500: 6}
_SEQUENCE_MAX: Final = 14
"""Most calls of a cell in which they come one after the other."""
_PLENTY: Final = 10**12
_END_WINDOW: Final = """
    UPDATE caps SET starts_at = clock_timestamp() - interval '1 hour', ends_at = clock_timestamp()
    WHERE tenant_id = $1 AND window_kind = 'hour' AND newest
"""
_TIGHT: Final = ("tenant", "project", "user", "role")


@cache
def price(model: str) -> Price:
    """Returns a model's price, looked up once a process: looking is slow, and all of a cell is to pay the same."""
    return price_of("anthropic", model, datetime.now(UTC))


def request(model: str, max_tokens: int) -> ModelRequest:
    """Returns the one request that all calls make."""
    entries = [{"kind": "user", "text": "say something, as long as you like"}]
    return ModelRequest("anthropic", model, max_tokens, "You are asked by the overspend matrix.", entries, [])  # type: ignore[arg-type]  # JSON


@cache
def estimate(model: str, max_tokens: int) -> Estimate:
    """Returns what such a call may cost at most."""
    return estimate_llm(request(model, max_tokens), price(model))


def limit_nano_usd(cell: Cell) -> int:
    """Returns the cell's cap: so many holds, and where they are to leave a rest, a third of one."""
    if cell.max_tokens == "given":
        hold, count = estimate(CHEAP_MODEL, MAX_TOKENS).max_cost_nano_usd, _HOLDS_IN_CAP[cell.calls]
    else:
        hold, count = estimate(CHEAP_MODEL, DEFAULT_MAX_TOKENS).max_cost_nano_usd, _DEFAULT_HOLDS_IN_CAP[cell.calls]
    return count * hold + (0 if cell.fit == "exact" else hold // 3)


def lowered_nano_usd(cell: Cell) -> int:
    """Returns what the cap is lowered to: in use already, or soon."""
    return limit_nano_usd(cell) * 5 // 8


def window(cell: Cell) -> WindowKind:
    """Returns the window of the cell's tight cap."""
    return "hour" if cell.event == "rollover" else "total"


def demand(cell: Cell) -> int:
    """Returns how many calls are asked for, at most."""
    windows = 2 if cell.event == "rollover" else 1
    return windows * _SEQUENCE_MAX if cell.calls == 1 else cell.calls


def victims(cell: Cell) -> int:
    """Returns how many calls are in the state that the cell names when their process is killed."""
    return 0 if cell.killed == "alive" else {1: 1, 50: 2, 500: 4}[cell.calls]


@dataclass(frozen=True, slots=True)
class Ground:
    """A cell's tenant.

    Attributes:
        tight: The scope whose cap the demand exceeds.
        run_ids: A run for each call, and as many again for those whose process dies.
    """

    cell: Cell
    tenant_id: UUID
    project_id: UUID
    user_id: UUID
    tight: Scope
    run_ids: tuple[UUID, ...]

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The scopes whose caps apply."""
        return (
            Scope("tenant", str(self.tenant_id)),
            Scope("project", str(self.project_id)),
            Scope("user", str(self.user_id)),
            Scope("role", ROLE),
        )


def lay(cell: Cell) -> Ground:
    """Draws up a cell's ground; nothing is stored yet. The scope of its tight cap follows from its name."""
    tenant_id, project_id, user_id = new_id(), new_id(), new_id()
    kind = random.Random(str(cell)).choice(_TIGHT)  # noqa: S311 (a choice that is to be the same again)
    ids = {"tenant": str(tenant_id), "project": str(project_id), "user": str(user_id), "role": ROLE}
    spare = 0 if cell.killed == "alive" else demand(cell)
    runs = tuple(new_id() for _ in range(demand(cell) + spare))
    return Ground(cell, tenant_id, project_id, user_id, Scope(kind, ids[kind]), runs)


async def store(connection: asyncpg.Connection, grounds: Sequence[Ground]) -> None:
    """Stores tenants and runs of many cells at once, as the superuser: making them is not what is tried here."""
    tenants = [ground.tenant_id for ground in grounds]
    projects, users = [ground.project_id for ground in grounds], [ground.user_id for ground in grounds]
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO tenants (tenant_id, slug, name) SELECT t, s, s FROM unnest($1::uuid[], $2::text[]) AS n (t, s)",
            tenants,
            [str(ground.cell) for ground in grounds],
        )
        await connection.execute(
            "INSERT INTO projects (tenant_id, project_id, slug) SELECT t, p, 'main' FROM unnest($1::uuid[], $2::uuid[]) AS n (t, p)",
            tenants,
            projects,
        )
        await connection.execute(
            "INSERT INTO users (tenant_id, user_id, name) SELECT t, u, 'ann' FROM unnest($1::uuid[], $2::uuid[]) AS n (t, u)",
            tenants,
            users,
        )
        await connection.execute(
            "INSERT INTO agents (tenant_id, name, version, definition) SELECT t, 'agent', 1, '{}' FROM unnest($1::uuid[]) AS t",
            tenants,
        )
        await connection.execute(
            """INSERT INTO roles (tenant_id, name, version, source, policy_hash)
               SELECT t, $4, 1, $2, $3 FROM unnest($1::uuid[]) AS t""",
            tenants,
            ROLE_TEXT,
            compile_policy(ROLE_TEXT).policy_hash,
            ROLE,
        )
        await connection.execute(
            """INSERT INTO runs (tenant_id, run_id, project_id, user_id, agent_name, agent_version, role_name, role_version, status,
                   started_at, deadline_at)
               SELECT t, r, p, u, 'agent', 1, $5, 1, 'running', now(), now() + interval '1 day'
               FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[]) AS n (t, r, p, u)""",
            [ground.tenant_id for ground in grounds for _ in ground.run_ids],
            [run_id for ground in grounds for run_id in ground.run_ids],
            [ground.project_id for ground in grounds for _ in ground.run_ids],
            [ground.user_id for ground in grounds for _ in ground.run_ids],
            ROLE,
        )


async def set_caps(engine: AsyncEngine, ground: Ground) -> None:
    """Sets a cell's caps as the API does: the tight one, and three more that have room for everything."""
    tenant = Scope("tenant", str(ground.tenant_id))
    caps = {(ground.tight, NANO_USD): limit_nano_usd(ground.cell), (tenant, TOKENS): _PLENTY, (tenant, CALLS): _PLENTY}
    caps.setdefault((tenant, NANO_USD), _PLENTY)
    async with transaction(engine, ground.tenant_id) as connection:
        for (scope, unit), limit in caps.items():
            await set_limit(
                connection,
                ground.tenant_id,
                scope,
                unit,
                limit_amount=limit,
                unlimited=False,
                actor="bench",
                reason="matrix",
                window=window(ground.cell) if scope == ground.tight and unit == NANO_USD else "total",
            )


async def end_window(connection: asyncpg.Connection, ground: Ground) -> None:
    """Lets the window of a cell's tight cap end now, an hour after its beginning: the clock is moved, not waited for."""
    await connection.execute(_END_WINDOW, ground.tenant_id)


async def lower_cap(engine: AsyncEngine, ground: Ground) -> None:
    """Lowers a cell's tight cap, as the API does."""
    async with transaction(engine, ground.tenant_id) as connection:
        await set_limit(
            connection,
            ground.tenant_id,
            ground.tight,
            NANO_USD,
            limit_amount=lowered_nano_usd(ground.cell),
            unlimited=False,
            actor="bench",
            reason="matrix: lowered while calls are under way",
        )
