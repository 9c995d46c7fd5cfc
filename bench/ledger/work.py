"""What a caller of the ledger does besides calling it, the same for every ledger: evaluate, canonicalise, record, sign, settle."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Final, Protocol
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.ledger.place import KIND, MODEL
from holdfast import permits
from holdfast.actions.form import Action
from holdfast.actions.run_facts import RunFacts, RunReader
from holdfast.database.engine import transaction
from holdfast.ids import new_id
from holdfast.ledger.types import (
    CALLS,
    NANO_USD,
    TOKENS,
    Decision,
    Event,
    FactVersions,
    OutcomeView,
    Redemption,
    Reservation,
    Settlement,
    TryKey,
)
from holdfast.policies.evaluation import evaluate
from holdfast.pricing.estimate import Estimate, estimate_llm
from holdfast.pricing.prices import price_of
from holdfast.providers.model import ModelRequest
from holdfast_verdict import record
from holdfast_verdict.canonical import JsonValue, canonical_bytes
from holdfast_verdict.engine import facts

LEASE_MS: Final = 600_000
HOLD_MS: Final = 86_400_000
_USED_SHARE: Final = (3, 5)  # what a call really costs, of what was held: three fifths
_SYSTEM_DIGEST: Final = hashlib.sha256(b"You read the inbox.").hexdigest()
_TOOLS_DIGEST: Final = hashlib.sha256(b"[]").hexdigest()


class AnyLedger(Protocol):
    """What is measured."""

    async def reserve(self, reservation: Reservation) -> Decision:
        """Decides, and takes the hold."""

    async def redeem(self, tenant_id: UUID, hold_id: UUID, digest: bytes) -> Redemption:
        """Moves a hold to `executing`."""

    async def settle(self, settlement: Settlement) -> int:
        """Settles a hold."""


class AnyExecutions(Protocol):
    """What an executor asks while it executes."""

    async def begin(self, hold_id: UUID, lease_token: bytes) -> int | None:
        """Asks whether it may go outside."""

    async def store(self, hold_id: UUID, lease_token: bytes, outcome: OutcomeView) -> bool:
        """Stores what came of it."""


@dataclass(slots=True)
class Actor:
    """A run whose decisions follow one another, with what is known of it.

    Attributes:
        facts: As read from the database.
        versions: As they are after the last decision.
        step: The last step that was decided.
    """

    facts: RunFacts
    versions: FactVersions
    step: int


async def read_actor(engine: AsyncEngine, reader: RunReader, tenant_id: UUID, run_id: UUID) -> Actor:
    """Reads a run the way a reserve does."""
    async with transaction(engine, tenant_id) as connection:
        facts = await reader.read(connection, tenant_id, run_id)
    return Actor(facts, facts.versions, step=facts.versions.history)  # every decision was a step of its own


class Work:
    """Makes reservations, permits and settlements.

    Args:
        key: Signs permits.
        at: A run: its time of reading is when prices are asked for.
    """

    def __init__(self, key: Ed25519PrivateKey, at: RunFacts) -> None:
        self._key = key
        self._estimate = _estimate(at)
        self._estimate_json = self._estimate.to_json()

    def reservation(self, actor: Actor) -> Reservation:
        """Evaluates the next step of a run and returns what is asked of the ledger; see `activities/reserve.py`."""
        run, step = actor.facts, actor.step + 1
        value: dict[str, JsonValue] = {
            "kind": KIND,
            "args": {
                "wire": "anthropic",
                "model": MODEL,
                "max_tokens": 1_000,
                "system_digest": _SYSTEM_DIGEST,
                "tools_digest": _TOOLS_DIGEST,
                "transcript": hashlib.sha256(b"%d" % step).hexdigest(),
            },
        }
        canonical = canonical_bytes(value)
        digest = hashlib.sha256(canonical).digest()
        action = Action(value, canonical, digest, KIND, "", known=True, malformed="", idempotent=True, yields=())
        worst = facts.Estimate(self._estimate.max_cost_nano_usd, self._estimate.max_tokens_total)
        evaluation = evaluate(run, action, estimate=worst)
        return Reservation(
            key=TryKey(run.tenant_id, run.run_id, step, 1),
            decision_id=new_id(),
            hold_id=new_id(),
            action=canonical,
            digest=digest,
            kind=KIND,
            tool="",
            idempotent=True,
            evaluated=evaluation.verdict,
            part_a=record.policy_part_a(
                subject={
                    "tenant_id": str(run.tenant_id),
                    "project_id": str(run.project_id),
                    "user_id": str(run.user_id),
                    "run_id": str(run.run_id),
                    "step": step,
                    "try": 1,
                    "agent": run.agent_name,
                    "role": run.role,
                },
                action=evaluation.action,
                policy_hash=evaluation.policy_hash,
                verdict=evaluation.verdict,
                refusal=None,
                prices=self._estimate_json,
            ),
            versions=actor.versions,
            amounts=self._amounts(1, 1),
            scopes=run.scopes,
            estimate=self._estimate_json,
            lease_ms=LEASE_MS,
            hold_ms=HOLD_MS,
        )

    def permit(self, reservation: Reservation, decision: Decision) -> str:
        """Signs the permit of an allow."""
        assert decision.hold_id is not None  # an allow has a hold: LAW 2
        assert decision.hold_expires_at is not None
        return permits.sign(
            permits.Permit(
                tenant_id=str(reservation.key.tenant_id),
                run_id=str(reservation.key.run_id),
                step=reservation.key.step,
                try_number=reservation.key.try_number,
                kind=reservation.kind,
                digest=reservation.digest.hex(),
                hold_id=str(decision.hold_id),
                max_cost_nano_usd=decision.max_cost_nano_usd,
                expires_at_ms=int(decision.hold_expires_at.timestamp() * 1000),
                record_hash=decision.record_hash.hex(),
            ),
            self._key,
        )

    def settlement(self, tenant_id: UUID, hold_id: UUID, step: int) -> Settlement:
        """Returns the settlement of an executed hold at less than it holds."""
        actual = self._amounts(*_USED_SHARE)
        event = Event(
            "budget",
            "hold.settled",
            {
                "step": step,
                "try": 1,
                "hold_id": str(hold_id),
                "kind": KIND,
                "tool": "",
                "state": "committed",
                "held_nano_usd": self._estimate.max_cost_nano_usd,
                "cost_nano_usd": actual[NANO_USD],
                "reason": "usage",
                "ok": True,
                "error_code": "",
                "simulated": True,
            },
        )
        return Settlement(
            tenant_id=tenant_id,
            hold_id=hold_id,
            seen_state="executed",
            seen_outcome=True,
            seen_outward=True,
            to="committed",
            actual=actual,
            actor="run",
            reason="usage",
            events=(event,),
        )

    def _amounts(self, numerator: int, denominator: int) -> dict[str, int]:
        worst = self._estimate
        return {
            NANO_USD: worst.max_cost_nano_usd * numerator // denominator,
            CALLS: 1,
            TOKENS: worst.max_tokens_total * numerator // denominator,
        }


def decided(actor: Actor, reservation: Reservation) -> None:
    """Notes that a decision was made: the next one builds on it."""
    actor.step = reservation.key.step
    actor.versions = replace(actor.versions, history=actor.versions.history + 1)


def _estimate(at: RunFacts) -> Estimate:
    entries: list[dict[str, JsonValue]] = [{"kind": "user", "text": "Look at the inbox until you are done."}]
    request = ModelRequest(
        wire="anthropic", model=MODEL, max_tokens=1_000, system="You read the inbox.", entries=entries, tools=[]
    )
    return estimate_llm(request, price_of("anthropic", MODEL, at.now))
