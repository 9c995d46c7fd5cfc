"""The matrix through Temporal: governed runs of real processes, which are killed, with a provider that lies over loopback."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from bench.matrix import books, lies
from bench.matrix.books import Findings
from bench.matrix.brain import MARK
from bench.matrix.cells import DIMENSIONS, Cell
from bench.matrix.covering import complete
from bench.matrix.covering import cover as covering
from bench.matrix.ground import MAX_TOKENS, ROLE, ROLE_TEXT, Ground, end_window, lay, window
from bench.matrix.theatre import Theatre, open_theatre
from holdfast.database.engine import transaction
from holdfast.errors import BudgetInsufficient
from holdfast.ids import new_id
from holdfast.ledger.auditor import audit
from holdfast.ledger.service import set_limit
from holdfast.ledger.types import NANO_USD, Scope, WindowKind
from holdfast.pricing.headroom import DEFAULT_MAX_TOKENS, Headroom
from holdfast.pricing.prices import price_of
from holdfast.providers.model import Usage
from holdfast.runs.definition import AgentDefinition, AgentLimits, ModelRoute, ModelTarget
from holdfast.runs.economics import first_calls, smallest_useful_call_nano_usd
from holdfast.runs.service import RunRequest, admit
from holdfast.runs.start import start_run
from holdfast.runs.versions import put_agent, put_role
from holdfast.tenancy.principals import Principal
from holdfast.tenancy.service import create_project, create_tenant, create_user

CELLS: Final = 100
SEED: Final = 7
CALLS: Final = {"1": 1, "50": 10, "500": 50}
"""How many runs are under way at once: 500 of them would take this machine minutes for one cell."""
_HOLDS_IN_CAP: Final = {1: 2, 10: 4, 50: 6}
_DEARER_HOLDS: Final = 4
_LATE_MAX: Final = 24
_PLENTY: Final = 10**13
_COSTS: Final = {"500": 8.0, "50": 2.0}
_TOLD_MAX: Final = 5
_PATIENCE_S: Final = 300.0
_STANDING_S: Final = 30.0
_LOOK_S: Final = 0.1
_PLACES: Final = {"before": "redeem.before:llm.call", "after": "outcome.after:llm.call"}
_DURING: Final = {True: "execute.in_stream:llm.call", False: "execute.after_outward:llm.call"}
_STATES: Final = {"before": ("held",), "during": ("executing",), "after": ("executed",)}

_STANDING: Final = "SELECT DISTINCT tenant_id FROM holds WHERE tenant_id = ANY($1) AND state = ANY($2)"
_HOLDING: Final = "SELECT count(*) FROM holds WHERE tenant_id = $1"
_UNENDED: Final = "SELECT count(*) FROM runs WHERE run_id = ANY($1) AND ended_at IS NULL"
_STATUS: Final = "SELECT status, status_code FROM runs WHERE run_id = $1"
_OPEN: Final = "SELECT count(*) FROM holds WHERE tenant_id = ANY($1) AND settled_at IS NULL"
_CALLED: Final = """
    SELECT h.hold_id, h.tenant_id, h.run_id, h.step, h.action, h.max_cost_nano_usd, o.provider_request_id FROM holds h
    LEFT JOIN outcomes o ON o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id
    WHERE h.tenant_id = ANY($1) AND h.outward_at IS NOT NULL ORDER BY h.run_id, h.step, h.try
"""


def cover() -> list[Cell]:
    """Returns about a hundred cells in which every pair of values occurs, and of triples as many as fit."""
    pairs = covering(DIMENSIONS, seed=SEED, costs=_COSTS)
    cheap = {**DIMENSIONS, "concurrent": ("1", "50")}
    return [Cell(*row) for row in complete(cheap, pairs, 3, seed=SEED, costs=_COSTS, count_max=CELLS)]


def quick() -> list[Cell]:
    """Returns a few cells, some with an executor that is killed in the middle of its streams, some without."""
    return [
        Cell("1", "1", "absent", "rest", "whole", "four", "retry", "alive", "rollover"),
        Cell("1", "1", "given", "exact", "whole", "equal", "once", "during", "quiet"),
        Cell("50", "1", "given", "rest", "middle", "nousage", "retry", "during", "lowered"),
    ]


@dataclass(slots=True)
class _Stage:
    """One cell while it is played."""

    ground: Ground
    principal: Principal
    limit_nano_usd: int
    runs: list[UUID] = field(default_factory=list)
    spared: bool = False
    turned_away: bool = False

    @property
    def cell(self) -> Cell:
        return self.ground.cell

    @property
    def calls(self) -> int:
        return CALLS[self.cell.concurrent]


def _content(cell: Cell, run: UUID) -> str:
    """Returns a run's input, as long for every run of the cell: what the provider is to answer, and which run this is."""
    max_tokens = MAX_TOKENS if cell.max_tokens == "given" else DEFAULT_MAX_TOKENS
    return f"say something\nrun {run}\n{MARK}{lies.answer_bytes(cell.provider, max_tokens):06d}"


def _faults(cell: Cell, run: UUID) -> list[dict[str, object]]:
    """Returns how the provider is to treat the run's calls, in order."""
    found: list[dict[str, object]] = []
    match = str(run)
    for attempt in lies.attempts(cell):
        if attempt.kind == "refused":
            found.append({"kind": "status", "status": 429, "match": match})
        elif attempt.kind == "lie":
            found.append({**lie(cell), "match": match})
    return found


def lie(cell: Cell) -> dict[str, object]:
    """Returns the fault that makes the simulated provider lie as the cell says."""
    cut = {} if cell.stream == "whole" else {"cut": cell.stream}
    if cell.provider == "four":
        return {"kind": "usage_factor", "factor": 4, "of": "max_tokens", **cut}
    if cell.provider == "nousage":
        return {"kind": "no_usage", **cut}
    if cell.provider == "error":
        return {"kind": "error_after_billing", **cut}
    return {"kind": "slow", "ms": 0, **cut}


def _definition(cell: Cell) -> AgentDefinition:
    dearer = (ModelTarget(wire="anthropic", name=lies.DEAR_MODEL),) if cell.again == "fallback" else ()
    return AgentDefinition(
        role=ROLE,
        instructions="You are asked by the overspend matrix.",
        model=ModelRoute(wire="anthropic", name=lies.CHEAP_MODEL, fallbacks=dearer),
        max_tokens=MAX_TOKENS if cell.max_tokens == "given" else None,
        limits=AgentLimits(max_tries=1 if cell.again == "once" else 3, run_cap_nano_usd=10**12),
    )


def _place(cell: Cell) -> str:
    """Returns where calls stand when their executor is killed."""
    if cell.killed != "during":
        return _PLACES[cell.killed]
    first = lies.attempts(cell)[0]
    streams = first.kind == "lie" and cell.stream != "start" and (cell.provider, cell.stream) != ("error", "whole")
    return _DURING[streams]


def _groups(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Yields cells that can be played together: as many processes, killed at one place."""
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in sorted(cells, key=lambda cell: cell.process_count):
        groups[(cell.processes, "" if cell.killed == "alive" else _place(cell))].append(cell)
    yield from groups.values()


async def play(cells: Sequence[Cell], tell: Callable[[str], None]) -> Findings:
    """Plays cells through Temporal, and checks their books and then all books.

    Args:
        cells: Which.
        tell: Gets a line of progress now and then.
    """
    total, started = Findings(), time.monotonic()
    async with open_theatre() as theatre:
        for group in _groups(cells):
            await theatre.staff(group[0].process_count)
            findings = await _Group(theatre, group).play()
            for wrong in findings.wrong[:_TOLD_MAX]:
                tell(f"wrong: {wrong}")
            total.add(findings)
            took = time.monotonic() - started
            tell(f"{total.cells} of {len(cells)} cells, {took:.0f} s, {theatre.kills} kills, {len(total.wrong)} wrong")
        total.kills = theatre.kills
        for one in (await audit(theatre.engines["holdfast_auditor"])).discrepancies:
            total.journal_mismatches += 1
            total.wrong.append(f"{one.tenant}: the auditor: {one.check}: {one.subject_id}: {one.message}")
    return total


class _Group:
    """Cells that are played together."""

    def __init__(self, theatre: Theatre, cells: Sequence[Cell]) -> None:
        self._theatre = theatre
        self._cells = cells
        self._api = theatre.engines["holdfast_api"]
        self._deadline = time.monotonic() + _PATIENCE_S

    async def play(self) -> Findings:
        stages = await asyncio.gather(*(self._build(cell) for cell in self._cells))
        theatre, place = self._theatre, _place(self._cells[0]) if self._cells[0].killed != "alive" else ""
        await asyncio.gather(*(self._admit(stage, stage.calls) for stage in stages))
        if place:
            theatre.park(place)
        await asyncio.gather(*(self._start(stage, stage.runs) for stage in stages))
        events = [asyncio.create_task(self._change(stage)) for stage in stages if stage.cell.event != "quiet"]
        if place:
            await self._stand(stages, place)
            await theatre.kill_executors()
        await self._end(stages)
        await asyncio.gather(*events)
        await asyncio.gather(*(self._late(stage) for stage in stages))
        return await self._check(stages)

    async def _build(self, cell: Cell) -> _Stage:
        """Makes a cell's tenant, as an administrator does: people, role, agent, credential and caps."""
        theatre, ground = self._theatre, lay(cell)
        tenant_id, slug = ground.tenant_id, str(cell)
        async with transaction(self._api, tenant_id) as connection:
            await create_tenant(connection, tenant_id, slug=slug, name=slug)
            project_id = await create_project(connection, tenant_id, "main")
            user_id = await create_user(connection, tenant_id, "ann")
            await put_role(connection, tenant_id, ROLE, ROLE_TEXT)
            await put_agent(connection, tenant_id, "agent", _definition(cell))
            ids = {"tenant": str(tenant_id), "project": str(project_id), "user": str(user_id), "role": ROLE}
            tight = Scope(ground.tight.kind, ids[ground.tight.kind])
            limit = self._limit(cell)
            caps = {tight: limit}
            caps.setdefault(Scope("tenant", str(tenant_id)), _PLENTY)
            for scope, amount in caps.items():
                kind: WindowKind = window(cell) if scope == tight else "total"
                await self._set_limit(connection, tenant_id, scope, amount, kind)
        credential = {"api_key": "sk-simulated", "base_url": theatre.stack.urls.provider, "simulated": True}
        async with transaction(theatre.engines["holdfast_broker"], tenant_id) as connection:
            await theatre.vault.put(connection, tenant_id, "provider.anthropic", credential)  # type: ignore[arg-type]  # plain JSON
        principal = Principal(tenant_id, slug, project_id, "main", user_id, "ann", new_id(), frozenset({"developer"}))
        return _Stage(replace(ground, project_id=project_id, user_id=user_id, tight=tight), principal, limit)

    def _limit(self, cell: Cell) -> int:
        """Returns the cell's cap: so many holds of its first model, or those and a third of one.

        With a fallback it is more, for a run is admitted only where a call of its dearest model could be afforded.
        """
        max_tokens = MAX_TOKENS if cell.max_tokens == "given" else DEFAULT_MAX_TOKENS
        content = _content(cell, UUID(int=0))
        first = first_calls(_definition(cell), {}, content, datetime.now(UTC), Headroom(), max_tokens)[0]
        hold = first.max_cost_nano_usd
        count = _HOLDS_IN_CAP[CALLS[cell.concurrent]] + (_DEARER_HOLDS if cell.again == "fallback" else 0)
        return count * hold + (0 if cell.fit == "exact" else hold // 3)

    def _floor_nano_usd(self, cell: Cell) -> int:
        """Returns what a run has to be able to afford to be admitted."""
        content = _content(cell, UUID(int=0))
        return smallest_useful_call_nano_usd(_definition(cell), {}, content, datetime.now(UTC), Headroom())

    async def _set_limit(
        self, connection: AsyncConnection, tenant_id: UUID, scope: Scope, amount: int, kind: WindowKind = "total"
    ) -> None:
        await set_limit(
            connection,
            tenant_id,
            scope,
            NANO_USD,
            limit_amount=amount,
            unlimited=False,
            actor="bench",
            reason="matrix",
            window=kind,
        )

    async def _admit(self, stage: _Stage, count: int) -> bool:
        """Admits runs, as the API does; says whether all of them were admitted."""
        for _ in range(count):
            marker = new_id()
            await self._theatre.lie(_faults(stage.cell, marker))
            try:
                admitted = await admit(self._api, stage.principal, RunRequest("agent", _content(stage.cell, marker)))
            except BudgetInsufficient:
                stage.turned_away = True
                return False
            stage.runs.append(admitted.run_id)
        return True

    async def _start(self, stage: _Stage, runs: Sequence[UUID]) -> None:
        tenant_id = stage.ground.tenant_id
        for run_id in runs:
            await start_run(self._theatre.client, self._api, tenant_id, run_id)

    async def _change(self, stage: _Stage) -> None:
        """Lowers the cap, or ends its window, once the first hold stands on it."""

        async def holding() -> bool:
            return bool(await self._theatre.superuser.fetchval(_HOLDING, stage.ground.tenant_id))

        await self._until(holding)
        if stage.cell.event == "rollover":
            async with self._theatre.superuser.acquire() as connection:
                await end_window(connection, stage.ground)
            return
        tenant_id = stage.ground.tenant_id
        async with transaction(self._api, tenant_id) as connection:
            await self._set_limit(connection, tenant_id, stage.ground.tight, stage.limit_nano_usd * 5 // 8)

    async def _stand(self, stages: Sequence[_Stage], place: str) -> None:
        """Waits until in every cell a call stands at the place; notes those in which none came there in time."""
        tenants = [stage.ground.tenant_id for stage in stages]
        states = list(_STATES[stages[0].cell.killed])
        give_up = time.monotonic() + _STANDING_S
        while True:
            found = {row["tenant_id"] for row in await self._theatre.superuser.fetch(_STANDING, tenants, states)}
            if len(found) == len(tenants) and self._theatre.parked(place) >= len(tenants):
                return
            if time.monotonic() > give_up:
                for stage in stages:
                    stage.spared = stage.ground.tenant_id not in found
                return
            await asyncio.sleep(_LOOK_S)

    async def _end(self, stages: Sequence[_Stage]) -> None:
        """Waits until every run has ended and every hold is settled."""
        runs = [run for stage in stages for run in stage.runs]
        tenants = [stage.ground.tenant_id for stage in stages]

        async def over() -> bool:
            return not await self._theatre.superuser.fetchval(_UNENDED, runs) and not (
                await self._theatre.superuser.fetchval(_OPEN, tenants)
            )

        await self._until(over)

    async def _late(self, stage: _Stage) -> None:
        """Lets more runs come, one after the other, until one is refused for good: so the demand exceeds the cap."""
        for _ in range(_LATE_MAX):
            if not await self._admit(stage, 1):
                return
            await self._start(stage, stage.runs[-1:])
            await self._end([replace(stage, runs=stage.runs[-1:])])
            row = await self._theatre.superuser.fetchrow(_STATUS, stage.runs[-1])
            if row["status_code"] == "budget.cap_exceeded":
                return

    async def _until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        while not await condition() and time.monotonic() < self._deadline:  # noqa: ASYNC110 (what it waits for is a table)
            await asyncio.sleep(_LOOK_S)

    async def _check(self, stages: Sequence[_Stage]) -> Findings:
        total = Findings()
        grounds = [stage.ground for stage in stages]
        tenants = [ground.tenant_id for ground in grounds]
        async with self._theatre.superuser.acquire() as connection:
            bills = _bills(await connection.fetch(_CALLED, tenants), await self._theatre.calls())
            refused = {
                stage.ground.tenant_id: self._floor_nano_usd(stage.cell) for stage in stages if stage.turned_away
            }
            checked = await books.check(connection, grounds, bills, refused)
            for stage in stages:
                findings = checked[stage.ground.tenant_id]
                if left := await connection.fetchval(_UNENDED, stage.runs):
                    findings.wrong.append(f"{left} runs did not end within {_PATIENCE_S:g} s")
                findings.spared = stage.spared
                findings.wrong = [f"{stage.cell}: {one}" for one in findings.wrong]
                total.add(findings)
        return total


def _bills(called: Sequence[Any], calls: Sequence[Any]) -> dict[UUID, int]:  # rows, and JSON
    """Finds the bill of each hold that went outside, in the provider's journal.

    By the id of the request where the hold's outcome has it; what is left of a run's calls, in their order.
    """
    by_id = {f"req_sim_{call['order']:06d}": call for call in calls}
    by_key: dict[str, list[Any]] = defaultdict(list)
    for call in calls:
        by_key[call["idempotency_key"]].append(call)
    found: dict[UUID, int] = {}
    rest: list[Any] = []
    for hold in called:
        call = by_id.get(hold["provider_request_id"] or "")
        if call is None:
            rest.append(hold)
            continue
        found[hold["hold_id"]] = _billed(call)
        by_key[call["idempotency_key"]].remove(call)
    for hold in rest:
        waiting = by_key[f"{hold['tenant_id']}:{hold['run_id']}:{hold['step']}"]
        if waiting:
            found[hold["hold_id"]] = _billed(waiting.pop(0))
    for key, left in by_key.items():
        for call in left:
            if call["billed"] and any(key.startswith(str(hold["tenant_id"])) for hold in called):
                raise AssertionError(f"the provider billed {call} and no hold went outside for it")
    return found


def _billed(call: Any) -> int:  # JSON
    if not call["billed"]:
        return 0
    return price_of("anthropic", call["model"], datetime.now(UTC)).cost_nano_usd(Usage(**call["usage"]))
