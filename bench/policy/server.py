"""What the past of a long run costs a decision on the server: its facts are read through PostgreSQL, as `Reserve` reads them."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from bench.ledger.place import MODEL, Server, open_server
from bench.policy import labelled
from bench.report import Figure, Report
from holdfast.actions.run_facts import RunReader
from holdfast.database.engine import create_engine, transaction
from holdfast.ids import new_id
from holdfast.policies import store
from holdfast.policies.past import Past, read_past
from holdfast.runs.definition import AgentDefinition
from holdfast.runs.versions import put_agent
from holdfast.tenancy.service import create_project, create_tenant, create_user
from holdfast_verdict import CanonicalAction, Catalogue, compile_policy
from holdfast_verdict.canonical import JsonValue

SHORT, LONG = 100, 10_000
_READS, _READS_QUICK = 200, 40
_FOLDED_WITHIN: Final = 50
"""Reads after which whatever was settled must have been folded in."""
_SOURCE: Final = """
role payer { permit pay }
limit pay count <= 1000000 per run
limit pay sum(args.amount) <= 1000000000 in total per user
invariant few: at most 1000000 pay within 1h per run
invariant little: sum(args.amount) of pay <= 1000000000 within 24h per tenant
"""
_PARAMETERS: Final[dict[str, JsonValue]] = {
    "type": "object",
    "properties": {"amount": {"type": "integer"}},
    "required": ["amount"],
}
_CATALOGUE: Final = Catalogue.of({"pay": {"parameters": _PARAMETERS}, "web.fetch": {"parameters": _PARAMETERS}})
_RUN: Final = """
    INSERT INTO runs (tenant_id, run_id, project_id, user_id, agent_name, agent_version, role_name, role_version, status, started_at,
                      deadline_at)
    VALUES ($1, $2, $3, $4, 'payer', 1, 'payer', (SELECT max(version) FROM roles WHERE tenant_id = $1 AND name = 'payer'), 'running',
            now(), now() + interval '1 day')
"""
_DECISION: Final = """
    INSERT INTO decisions (tenant_id, decision_id, run_id, kind, verdict, reason_codes, reply, part_a, part_b, record_hash)
    VALUES ($1, $2, $3, 'tool.call', 'allow', '{bench}', '{}', '{}', '{}', sha256('bench'))
"""
_EVENTS: Final = """
    INSERT INTO holds (tenant_id, hold_id, run_id, step, try, kind, tool, idempotent, digest, action, decision_id, max_cost_nano_usd,
        estimate, lease_ms, expires_at, created_at, state, settled_at, settled_by, outward_at, cost_nano_usd)
    SELECT $1, gen_random_uuid(), $2, n, 1, 'tool.call', $7, false, $3, $4, $5, 0, '{}', 1000, now(), now() - interval '10 minutes',
        'committed', now() - interval '9 minutes', 'run', now() - interval '10 minutes', 0
    FROM generate_series(1, $6) AS n
"""


@dataclass(frozen=True, slots=True)
class FilledRun:
    """A run that has done much."""

    tenant_id: UUID
    run_id: UUID
    events: int


async def measure(report: Report, *, quick: bool) -> None:
    """Puts the figures of the server's own path into a report."""
    async with open_server() as server:
        engine = create_engine(server.urls["holdfast_governor"], process="bench-governor", pool_size=2)
        try:
            runs = [await filled(server, events) for events in (SHORT, LONG)]
            for run in runs:
                await _folded(engine, run)
            await server.settle_down()
            short, long = await _times_ms(report, engine, runs, _READS_QUICK if quick else _READS)
            await labelled.measure(report, server, engine, quick=quick)
        finally:
            await engine.dispose()
    report.figures["server_history_1e2_ms"] = Figure(short, "ms")
    report.figures["server_history_1e4_over_1e2"] = Figure(long / short, "×", ("<=", 1.5))
    report.notes.append(
        f"On the server: the run and its past for two limits and two invariants, read in one transaction, after {SHORT:,} and "
        f"{LONG:,} settled actions of the same run; the runs in turn, medians."
    )


async def filled(server: Server, events: int, source: str = _SOURCE, tool: str = "pay") -> FilledRun:
    """Makes a tenant with a run that has done so much, by one tool."""
    tenant_id, run_id, decision_id = new_id(), new_id(), new_id()
    policy = compile_policy(source, _CATALOGUE)
    definition = AgentDefinition.model_validate({"role": "payer", "model": {"wire": "anthropic", "name": MODEL}})
    api = create_engine(server.urls["holdfast_api"], process="bench-api", pool_size=1)
    try:
        async with transaction(api, tenant_id) as connection:
            await create_tenant(connection, tenant_id, slug=f"bench-{tenant_id.hex}", name="Bench")
            project_id = await create_project(connection, tenant_id, "bench")
            user_id = await create_user(connection, tenant_id, "bench")
            version = await store.put(connection, tenant_id, source, policy, put_by="bench")
            await store.activate(connection, tenant_id, version.policy_id, by="bench")
            await put_agent(connection, tenant_id, "payer", definition)
    finally:
        await api.dispose()
    action = _CATALOGUE.action(tool, {"amount": 1})
    await server.superuser.execute(_RUN, tenant_id, run_id, project_id, user_id)
    await server.superuser.execute(_DECISION, tenant_id, decision_id, run_id)
    await server.superuser.execute(
        _EVENTS, tenant_id, run_id, action.digest, action.canonical, decision_id, events, tool, timeout=300
    )
    return FilledRun(tenant_id, run_id, events)


def _action() -> CanonicalAction:
    return _CATALOGUE.action("pay", {"amount": 1})


async def read(engine: AsyncEngine, run: FilledRun, head: bytes | None = None) -> Past:
    """Reads the past of a run's next payment, as the governor does."""
    async with transaction(engine, run.tenant_id) as connection:
        facts = await RunReader().read(connection, run.tenant_id, run.run_id)
        return await read_past(connection, facts, _action(), step=run.events + 1, try_number=1, head=head)


async def _folded(engine: AsyncEngine, run: FilledRun) -> None:
    for _ in range(_FOLDED_WITHIN):
        await read(engine, run)


async def _times_ms(report: Report, engine: AsyncEngine, runs: list[FilledRun], reads: int) -> tuple[float, float]:
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(reads):
        for run, times in zip(runs, taken, strict=True):
            started = time.perf_counter()
            past = await read(engine, run)
            times.append((time.perf_counter() - started) * 1000)
            if past.usage is None or set(past.usage.values()) != {run.events}:
                report.wrong.append(f"{run.events} actions were done, and {past.usage} are told")
                break
    short, long = (statistics.median(times) for times in taken)
    return short, long
