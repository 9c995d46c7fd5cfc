"""A call's way through the ledger, as a run takes it: reserve, redeem, go outside, store the outcome, settle; and again."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Literal
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.lease import Lease
from bench.matrix import ground as grounds
from bench.matrix import lies
from bench.matrix.ground import MAX_TOKENS, ROLE, RULES, Ground
from holdfast.actions.build import llm_action
from holdfast.actions.settling import judge
from holdfast.database.engine import transaction
from holdfast.ids import new_id
from holdfast.ledger.budget import read_applicable_caps
from holdfast.ledger.executions import Executions
from holdfast.ledger.service import Ledger
from holdfast.ledger.types import (
    CALLS,
    NANO_USD,
    TOKENS,
    Decision,
    Event,
    FactsChanged,
    FactVersions,
    OutcomeView,
    Reservation,
    Settlement,
    TryKey,
)
from holdfast.pricing.headroom import UNITS, USEFUL_MAX_TOKENS_MIN, Headroom, fitted, headroom_of
from holdfast.providers.model import ModelOutcome
from holdfast_verdict.canonical import canonical_bytes
from holdfast_verdict.decide import Facts, decide, policy_hash
from holdfast_verdict.record import part_a

End = Literal["served", "failed", "refused", "gave_up"]

LEASE_MS: Final = 120_000
_HEAD: Final = hashlib.sha256(b"the overspend matrix").digest()
_POLICY_HASH: Final = policy_hash(RULES).hex()
_FRESH: Final = FactVersions(0, 1)
"""What a run begins with. Where it is no longer so, the ledger says that the facts have changed, and they are read."""
_ASKS_MAX: Final = 400
_PAUSE_FIRST_S: Final = 0.01
_PAUSE_MAX_S: Final = 0.25
_VERSIONS = text("SELECT history_version, role_version FROM runs WHERE tenant_id = :tenant_id AND run_id = :run_id")


@dataclass(frozen=True, slots=True)
class Engines:
    """The database as each of the roles that a call's way needs, and the ledger as two of them: one of each in a process."""

    governor: AsyncEngine
    api: AsyncEngine
    ledger: Ledger
    redeeming: Ledger
    executions: Executions


@dataclass(frozen=True, slots=True)
class Caller:
    """One call.

    Attributes:
        number: Its number in the cell.
        run_id: Its run.
        victim: Whether it stops at the place that the cell names, to be killed there.
        lowers: Whether it lowers the cap once it has its hold.
    """

    number: int
    run_id: UUID
    victim: bool = False
    lowers: bool = False


@dataclass(slots=True)
class Line:
    """Calls of one process and one cell that wait until others have settled: only the first in line asks again.

    Attributes:
        turn: Who has it asks.
        moved: Set when somebody has settled.
        spent: Whether the last that asked was refused for good. Nobody waits for the turn then: all ask at once.
    """

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    spent: bool = False
    _reading: asyncio.Task[Headroom] | None = None
    _next: asyncio.Task[Headroom] | None = None

    def settled(self) -> None:
        """Lets the first in line ask again."""
        self.moved.set()

    async def headroom(self, read: Callable[[], Awaitable[Headroom]]) -> Headroom:
        """Reads what the caps have left, once for all that ask while an earlier reading is under way: it begins after they asked."""
        if self._next is None:
            self._next = asyncio.create_task(self._read_after(self._reading, read))
        return await asyncio.shield(self._next)

    async def _read_after(
        self, before: asyncio.Task[Headroom] | None, read: Callable[[], Awaitable[Headroom]]
    ) -> Headroom:
        if before is not None:
            await asyncio.wait({before})
        self._reading, self._next = self._next, None
        return await read()

    async def pause(self, asks: int) -> None:
        """Waits until somebody here has settled, or for a growing while: others may be in other processes."""
        try:
            async with asyncio.timeout(min(_PAUSE_FIRST_S * 2**asks, _PAUSE_MAX_S)):
                await self.moved.wait()
        except TimeoutError:
            return
        finally:
            self.moved.clear()


class Way:
    """The way of one call, from its first try to its last.

    Args:
        engines: The database.
        ground: The cell's tenant.
        line: Where to wait.
        caller: The call.
        parked: Told when a victim has come to its place, where it waits for the end of its process.
    """

    def __init__(
        self, engines: Engines, ground: Ground, line: Line, caller: Caller, parked: Callable[[Caller], None]
    ) -> None:
        self._engines = engines
        self._governor = engines.ledger
        self._broker = engines.redeeming
        self._ground = ground
        self._line = line
        self._caller = caller
        self._parked = parked
        self._try_number = 0
        self._versions: FactVersions | None = _FRESH
        self._told_again = False

    async def go(self) -> End:
        """Goes it; returns how it ended."""
        for attempt in lies.attempts(self._ground.cell):
            end = await self._attempt(attempt)
            if end != "failed":
                return end
        return "failed"

    async def _attempt(self, attempt: lies.Attempt) -> End:
        max_tokens, decision = await self._reserve_in_line(attempt)
        if decision.hold_id is None:
            return "gave_up" if decision.retryable else "refused"
        if self._caller.lowers and attempt.kind == "lie":
            await grounds.lower_cap(self._engines.api, self._ground)
        if decision.verdict == "allow":
            await self._execute(attempt, max_tokens, decision.hold_id)
        await self._settle(decision.hold_id)
        self._line.settled()
        hold = await self._governor.read_hold(self._ground.tenant_id, decision.hold_id)
        assert hold is not None  # holds are never deleted
        return "served" if hold.outcome is not None and hold.outcome.ok else "failed"

    # Reserve --------------------------------------------------------------------------------------------------------

    async def _reserve_in_line(self, attempt: lies.Attempt) -> tuple[int, Decision]:
        """Reserves; where outstanding holds alone stand in the way, waits in line, for a bounded number of times.

        Who makes a dead process's call again is told again what that was told, and goes through it without waiting: the hold
        that the others in line wait for may be its own.
        """
        max_tokens, decision = await self._reserve(attempt)
        while self._told_again and not self._is_final(max_tokens, decision):
            max_tokens, decision = await self._reserve(attempt)
        if self._is_final(max_tokens, decision):
            return max_tokens, decision
        for asks in range(_ASKS_MAX):
            async with self._line.turn:
                if not self._line.spent:
                    return await self._ask_in_turn(attempt)
            max_tokens, decision = await self._reserve(attempt)
            self._line.spent = decision.hold_id is None and self._is_final(max_tokens, decision)
            if self._is_final(max_tokens, decision):
                break
            await self._line.pause(asks)
        return max_tokens, decision

    async def _ask_in_turn(self, attempt: lies.Attempt) -> tuple[int, Decision]:
        for asks in range(_ASKS_MAX):
            max_tokens, decision = await self._reserve(attempt)
            if self._is_final(max_tokens, decision):
                self._line.spent = decision.hold_id is None
                break
            if decision.retryable:
                await self._line.pause(asks)
        return max_tokens, decision

    def _is_final(self, max_tokens: int, decision: Decision) -> bool:
        """Whether there is nothing to ask again for: a bound of our own may shrink, and what is outstanding may settle."""
        shrinks = self._ground.cell.max_tokens == "absent" and max_tokens > USEFUL_MAX_TOKENS_MIN
        return decision.hold_id is not None or not (decision.retryable or shrinks)

    async def _reserve(self, attempt: lies.Attempt) -> tuple[int, Decision]:
        self._try_number += 1
        max_tokens = await self._max_tokens(attempt.model)
        while True:
            if self._versions is None:
                self._versions = await self._read_versions()
            reservation = self._reservation(attempt.model, max_tokens, self._versions)
            try:
                decision = await self._governor.reserve(reservation)
            except FactsChanged:
                self._versions = None
                continue
            # what was decided anew has moved the run's history on by one; what was answered again has not
            self._told_again = decision.decision_id != reservation.decision_id
            self._versions = None if self._told_again else FactVersions(self._versions.history + 1, self._versions.role)
            return max_tokens, decision

    async def _read_versions(self) -> FactVersions:
        parameters = {"tenant_id": self._ground.tenant_id, "run_id": self._caller.run_id}
        async with transaction(self._engines.governor, self._ground.tenant_id) as connection:
            row = (await connection.execute(_VERSIONS, parameters)).one()
        return FactVersions(row[0], row[1])

    async def _max_tokens(self, model: str) -> int:
        """Returns what the request gives; without that the default, less where the caps cannot afford it."""
        if self._ground.cell.max_tokens == "given":
            return MAX_TOKENS
        headroom = await self._line.headroom(self._read_headroom)
        return fitted(grounds.request(model, 1), grounds.price(model), headroom, None).output_tokens_bound

    async def _read_headroom(self) -> Headroom:
        tenant_id = self._ground.tenant_id
        async with transaction(self._engines.governor, tenant_id) as connection:
            return headroom_of(await read_applicable_caps(connection, tenant_id, self._ground.scopes, UNITS))

    def _reservation(self, model: str, max_tokens: int, versions: FactVersions) -> Reservation:
        ground, caller = self._ground, self._caller
        worst = grounds.estimate(model, max_tokens)
        action = llm_action(grounds.request(model, max_tokens), _HEAD)
        canonical = canonical_bytes(action)
        digest = hashlib.sha256(canonical).digest()
        principal = {"tenant": str(ground.cell), "project": "main", "user": "ann", "agent": "agent", "role": ROLE}
        facts = Facts(principal, RULES, _POLICY_HASH, known=True)
        verdict = decide(facts, action)
        subject = {
            "tenant_id": str(ground.tenant_id),
            "run_id": str(caller.run_id),
            "step": 1,
            "try": self._try_number,
        }
        estimate = worst.to_json()
        return Reservation(
            key=TryKey(ground.tenant_id, caller.run_id, 1, self._try_number),
            decision_id=new_id(),
            hold_id=new_id(),
            action=canonical,
            digest=digest,
            kind="llm.call",
            tool="",
            idempotent=True,
            evaluated=verdict,
            part_a=part_a(
                subject=subject,  # type: ignore[arg-type]  # plain JSON, typed loosely here
                action=action,
                action_digest=digest,
                facts=facts,
                verdict=verdict,
                prices=estimate,
            ),
            versions=versions,
            amounts={NANO_USD: worst.max_cost_nano_usd, CALLS: 1, TOKENS: worst.max_tokens_total},
            scopes=ground.scopes,
            estimate=estimate,
            lease_ms=LEASE_MS,
            hold_ms=10 * LEASE_MS,
        )

    # Execute and settle ---------------------------------------------------------------------------------------------

    async def _execute(self, attempt: lies.Attempt, max_tokens: int, hold_id: UUID) -> None:
        cell, victim = self._ground.cell, self._caller.victim and attempt.kind == "lie"
        # before execution there are two places: the permit not yet redeemed, and redeemed with nothing sent
        held = random.Random(self._caller.run_id.bytes).random() < 0.5  # noqa: S311, PLR2004 (a coin)
        await self._park_if(victim and cell.killed == "before" and held)
        digest = self._digest(attempt.model, max_tokens)
        redemption = await self._broker.redeem(self._ground.tenant_id, hold_id, digest)
        await self._park_if(victim and cell.killed == "before")
        lease = Lease(self._engines.executions, hold_id, redemption.lease_token, redemption.lease_ms, "llm.call")
        await lease.begin()
        await self._park_if(victim and cell.killed == "during")
        tokens_in = lies.input_tokens(grounds.request(attempt.model, max_tokens))
        await lease.store(_view(lies.outcome(cell, attempt.kind, tokens_in, max_tokens)))
        await self._park_if(victim and cell.killed == "after")

    def _digest(self, model: str, max_tokens: int) -> bytes:
        return hashlib.sha256(canonical_bytes(llm_action(grounds.request(model, max_tokens), _HEAD))).digest()

    async def _park_if(self, here: bool) -> None:
        if here:
            self._parked(self._caller)
            await asyncio.Event().wait()

    async def _settle(self, hold_id: UUID) -> None:
        """Settles as a run does, from what is recorded."""
        tenant_id = self._ground.tenant_id
        while True:
            hold = await self._governor.read_hold(tenant_id, hold_id)
            assert hold is not None  # as above
            judgement = judge(hold)
            if judgement.to is None:
                return
            event = Event("budget", "hold.settled", {"hold_id": str(hold_id), "state": judgement.to})
            settlement = Settlement(
                tenant_id=tenant_id,
                hold_id=hold_id,
                seen_state=hold.state,
                seen_outcome=hold.outcome is not None,
                seen_outward=hold.went_outward,
                to=judgement.to,
                actual=judgement.actual,
                actor="run",
                reason=judgement.reason,
                events=(event,),
            )
            try:
                await self._governor.settle(settlement)
            except FactsChanged:
                continue
            return


def _view(outcome: ModelOutcome) -> OutcomeView:
    return OutcomeView(
        ok=outcome.ok,
        error_code=outcome.error_code or "",
        retryable=outcome.retryable,
        retry_after_ms=outcome.retry_after_ms,
        cost_class=outcome.cost,
        provider_request_id=outcome.provider_request_id or "",
        simulated=outcome.simulated,
        result=orjson.dumps(outcome.to_json()),
    )
