"""`python -m bench.ledger.process`: a process that calls a ledger, many callers at a time. Reads jobs as lines, answers each with one.

The first line says which ledger, where, and with which runs; every other one asks for a round, and gets what it took.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, Literal
from uuid import UUID

import orjson
import uvloop
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.ledger.naive import ROLE, NaiveExecutions, NaiveLedger
from bench.ledger.sampling import Sampler
from bench.ledger.work import Actor, AnyExecutions, AnyLedger, Work, decided, read_actor
from holdfast import permits
from holdfast.actions.run_facts import RunReader
from holdfast.database.engine import create_engine
from holdfast.ledger.executions import Executions
from holdfast.ledger.service import Ledger
from holdfast.ledger.types import Decision, FactsChanged, OutcomeView, Reservation
from workers.process import spare_collector

Side = Literal["ours", "naive"]
What = Literal["reserve", "settle", "pairs", "whole"]

_READ_AT_A_TIME: Final = 8
_OUTCOME: Final = OutcomeView(
    ok=True,
    error_code="",
    retryable=False,
    retry_after_ms=None,
    cost_class="known",
    provider_request_id="bench",
    simulated=True,
    result=b"{}",
)


@dataclass(frozen=True, slots=True)
class Job:
    """Which ledger to call, where, and with which runs.

    Attributes:
        side: Which ledger.
        urls: The database's URL for each role.
        pool_size: Connections of the ledger's engine.
        workers: For each caller its runs: tenant and id of each.
        sample: Whether to note where the processor's time goes.
    """

    side: Side
    urls: Mapping[str, str]
    pool_size: int
    workers: Sequence[Sequence[tuple[str, str]]]
    sample: bool = False


@dataclass(slots=True)
class Round:
    """What a round took; times of calls in milliseconds.

    Attributes:
        began_s: Monotonic time of its beginning, the same clock in all processes.
        ended_s: And of its end.
        cpu_s: Processor time of this process.
        reserve_ms: Each reserve: evaluated, recorded, held, signed.
        settle_ms: Each settlement.
        whole_ms: Each whole way of an action, from reserve to settlement.
        facts_changed: How often a reserve had to judge anew.
        wrong: What must not be.
    """

    began_s: float = 0.0
    ended_s: float = 0.0
    cpu_s: float = 0.0
    reserve_ms: list[float] = field(default_factory=list)
    settle_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)
    facts_changed: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Worker:
    """One caller: its runs take turns, and what it holds is settled oldest first."""

    actors: deque[Actor]
    held: list[tuple[UUID, UUID, int]] = field(default_factory=list)
    executed: deque[tuple[UUID, UUID, int]] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The processes' parts: who decides, who redeems, who executes."""

    work: Work
    ledger: AnyLedger
    broker: AnyLedger
    executions: AnyExecutions
    reader: RunReader
    governor: AsyncEngine


class _Rounds:
    def __init__(self, parts: _Parts, workers: Sequence[_Worker]) -> None:
        self._parts = parts
        self._workers = workers

    async def run(self, what: What, *, workers: int, times: int) -> Round:
        """Has so many workers do something so many times each, all at once."""
        done = Round()
        chosen = self._workers[:workers]
        for worker in self._workers:  # between rounds, what was held is executed
            worker.executed.extend(worker.held)
            worker.held.clear()
        one: Mapping[What, Callable[[_Worker, Round], Awaitable[None]]] = {
            "reserve": self._reserve_one,
            "settle": self._settle_one,
            "pairs": self._pair,
            "whole": self._whole,
        }

        async def work(worker: _Worker) -> None:
            count = len(worker.executed) if what == "settle" else times
            for _ in range(count):
                await one[what](worker, done)

        used = resource.getrusage(resource.RUSAGE_SELF)
        done.began_s = time.monotonic()
        await asyncio.gather(*(work(worker) for worker in chosen))
        done.ended_s = time.monotonic()
        now = resource.getrusage(resource.RUSAGE_SELF)
        done.cpu_s = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        return done

    async def _reserve(self, actor: Actor, done: Round) -> tuple[Reservation, Decision]:
        parts = self._parts
        began = time.perf_counter()
        while True:
            reservation = parts.work.reservation(actor)
            try:
                decision = await parts.ledger.reserve(reservation)
            except FactsChanged:
                done.facts_changed += 1
                facts = actor.facts
                actor.versions = (
                    await read_actor(parts.governor, parts.reader, facts.tenant_id, facts.run_id)
                ).versions
                continue
            break
        if decision.verdict != "allow":
            raise RuntimeError(f"a reserve was answered {decision.verdict} {decision.code}: {decision.message}")
        permit = parts.work.permit(reservation, decision)
        done.reserve_ms.append((time.perf_counter() - began) * 1000)
        if not permit or decision.hold_id != reservation.hold_id:
            done.wrong.append(f"hold {reservation.hold_id} was answered as {decision.hold_id}")
        decided(actor, reservation)
        return reservation, decision

    async def _settle(self, tenant_id: UUID, hold_id: UUID, step: int, done: Round) -> None:
        began = time.perf_counter()
        await self._parts.ledger.settle(self._parts.work.settlement(tenant_id, hold_id, step))
        done.settle_ms.append((time.perf_counter() - began) * 1000)

    async def _reserve_one(self, worker: _Worker, done: Round) -> None:
        actor = worker.actors[0]
        worker.actors.rotate(-1)
        reservation, _ = await self._reserve(actor, done)
        worker.held.append((reservation.key.tenant_id, reservation.hold_id, reservation.key.step))

    async def _settle_one(self, worker: _Worker, done: Round) -> None:
        await self._settle(*worker.executed.popleft(), done)

    async def _pair(self, worker: _Worker, done: Round) -> None:
        await self._reserve_one(worker, done)
        await self._settle_one(worker, done)

    async def _whole(self, worker: _Worker, done: Round) -> None:
        parts = self._parts
        actor = worker.actors[0]
        worker.actors.rotate(-1)
        began = time.perf_counter()
        reservation, _ = await self._reserve(actor, done)
        tenant_id, hold_id = reservation.key.tenant_id, reservation.hold_id
        redemption = await parts.broker.redeem(tenant_id, hold_id, reservation.digest)
        if await parts.executions.begin(hold_id, redemption.lease_token) is None:
            done.wrong.append(f"hold {hold_id} lost its lease")
        if not await parts.executions.store(hold_id, redemption.lease_token, _OUTCOME):
            done.wrong.append(f"hold {hold_id} did not take its outcome")
        await self._settle(tenant_id, hold_id, reservation.key.step, done)
        done.whole_ms.append((time.perf_counter() - began) * 1000)


async def _prepare(job: Job) -> tuple[_Parts, list[_Worker]]:
    governor = create_engine(job.urls["holdfast_governor"], process="bench-governor", pool_size=job.pool_size)
    deciding, redeeming = governor, create_engine(job.urls["holdfast_broker"], process="bench-broker")
    if job.side == "naive":
        deciding = redeeming = create_engine(job.urls[ROLE], process="bench-naive", pool_size=job.pool_size)
    executor = create_engine(job.urls["holdfast_executor"], process="bench-executor")
    reader, turns = RunReader(), asyncio.Semaphore(_READ_AT_A_TIME)

    async def read(tenant_id: str, run_id: str) -> Actor:
        async with turns:
            return await read_actor(governor, reader, UUID(tenant_id), UUID(run_id))

    workers = [
        _Worker(deque(await asyncio.gather(*(read(tenant, run) for tenant, run in runs)))) for runs in job.workers
    ]
    ledger_of: Callable[[AsyncEngine], AnyLedger] = NaiveLedger if job.side == "naive" else Ledger
    executions: AnyExecutions = NaiveExecutions(executor) if job.side == "naive" else Executions(executor)
    key = permits.private_key(os.urandom(32))
    work = Work(key, workers[0].actors[0].facts)
    return _Parts(work, ledger_of(deciding), ledger_of(redeeming), executions, reader, governor), workers


async def _main() -> None:
    loop = asyncio.get_running_loop()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that nothing else gets between the answers

    async def line() -> bytes:
        return await loop.run_in_executor(None, sys.stdin.buffer.readline)

    def answer(value: object) -> None:
        answers.write(orjson.dumps(value) + b"\n")
        answers.flush()

    spare_collector()  # as every worker does
    job = Job(**orjson.loads(await line()))
    parts, workers = await _prepare(job)
    rounds = _Rounds(parts, workers)
    answer({"ready": True})
    sampler = Sampler(on=job.sample)
    while asked := await line():
        request = orjson.loads(asked)
        with sampler:
            done = await rounds.run(request["what"], workers=request["workers"], times=request["times"])
        answer({"round": asdict(done), "samples": sampler.lines()})


if __name__ == "__main__":
    uvloop.run(_main())
