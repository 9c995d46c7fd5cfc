"""Books as programs of schema 0002 left them, written by plain SQL: every state of a hold, every kind of cap, over months."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import orjson

from holdfast.ids import new_id
from holdfast_verdict.canonical import canonical_bytes
from tests.ledger.books import Cap
from tests.ledger.world import Record, Tenant

DAYS: Final = 100
_ENTRY: Final = """INSERT INTO journal (tenant_id, cap_id, hold_id, kind, reserved_delta, committed_delta, debt_delta, limit_amount,
    unlimited, actor, reason, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'old', $10, $11)"""
_LEGS_OF_ACTIONS: Final = (
    ("tenant", "nano_usd"), ("user", "nano_usd"), ("project", "tokens"), ("role", "calls"), ("tenant", "slots"),
)  # fmt: skip
_KINDS: Final = {"committed": "commit", "voided": "void", "expired": "expire"}


@dataclass(slots=True)
class Hold:
    """A hold of the old ledger, with what became of it so far."""

    hold_id: UUID
    run_id: UUID
    step: int
    kind: str
    tool: str
    model: str
    legs: dict[UUID, int]
    created_at: datetime
    decision_id: UUID
    state: str = "held"
    cost: int | None = None
    settled_at: datetime | None = None
    superseded: bool = False

    @property
    def action(self) -> bytes:
        return canonical_bytes({"kind": self.kind, "tool": self.tool, "args": {"value": str(self.hold_id)}})

    @property
    def estimate(self) -> str:
        return orjson.dumps({"prices_used": {"model": self.model}} if self.model else {}).decode()


@dataclass(slots=True)
class OldBooks:
    """One tenant's books, played by dice."""

    tenant: Tenant
    seed: int
    caps: dict[UUID, Cap] = field(default_factory=dict)
    places: dict[UUID, tuple[str, str]] = field(default_factory=dict)
    holds: list[Hold] = field(default_factory=list)
    actual: dict[UUID, dict[str, int]] = field(default_factory=dict)
    runs: list[UUID] = field(default_factory=list)
    budgets: dict[UUID, Hold] = field(default_factory=dict)
    run_caps: dict[UUID, UUID] = field(default_factory=dict)
    ended: set[UUID] = field(default_factory=set)
    entries: list[tuple[Record, ...]] = field(default_factory=list)
    decisions: list[tuple[Record, ...]] = field(default_factory=list)
    now: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(days=DAYS))
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    async def play(self, operations: int) -> None:
        """Does that many operations, spread over the days; at the end something is in every state."""
        self.runs = await self.tenant.runs(12)
        for kind, unit in _LEGS_OF_ACTIONS:
            self.make_cap(kind, self.tenant.scope(kind).scope_id, unit, 5_000)
        for run_id in self.runs[:3]:
            self.take_budget(run_id)
        pause = timedelta(days=DAYS) / operations
        for _ in range(operations):
            self.now += pause
            self.dice.choice([self.reserve, self.reserve, self.move, self.move, self.move, self.change_limit])()
        self.end_a_run(self.runs[0])
        self.make_sure_of_every_state()

    def make_cap(self, kind: str, scope_id: str, unit: str, limit: int) -> UUID:
        cap_id = new_id()
        self.caps[cap_id], self.places[cap_id] = Cap(unit), (kind, scope_id)
        self.set_limit(cap_id, limit, unlimited=False)
        return cap_id

    def _enter(
        self, cap_id: UUID, hold_id: UUID | None, kind: str, before: tuple[int, int, int], reason: str = "test"
    ) -> None:
        cap = self.caps[cap_id]
        deltas = tuple(b - a for a, b in zip(before, (cap.reserved, cap.committed, cap.debt), strict=True))
        self.entries.append(
            (self.tenant.tenant_id, cap_id, hold_id, kind, *deltas, cap.limit, cap.unlimited, reason, self.now)
        )
        cap.remember()

    def set_limit(self, cap_id: UUID, limit: int, *, unlimited: bool) -> None:
        cap = self.caps[cap_id]
        before = (cap.reserved, cap.committed, cap.debt)
        cap.set_limit(limit, unlimited)
        self._enter(cap_id, None, "limit", before)

    def change_limit(self) -> None:
        cap_id = self.dice.choice([cap_id for cap_id in self.caps if self.places[cap_id][0] != "run"])
        used = sum(self.caps[cap_id].now()[1:])
        self.set_limit(cap_id, max(used + self.dice.randint(-300, 3_000), 0), unlimited=self.dice.random() < 0.05)

    def take_budget(self, run_id: UUID) -> None:
        """A guaranteed budget: a hold on the caps above, and a cap of the run's own."""
        hold = self._reserved(run_id, 0, "run.budget", "", {self._cap("tenant", "nano_usd"): 1_000})
        assert hold is not None
        self.budgets[run_id] = hold
        self.run_caps[run_id] = self.make_cap("run", str(run_id), "nano_usd", 1_000)

    def _cap(self, kind: str, unit: str) -> UUID:
        return next(c for c, place in self.places.items() if place[0] == kind and self.caps[c].unit == unit)

    def reserve(self) -> None:
        run_id = self.dice.choice([run_id for run_id in self.runs if run_id not in self.ended])
        amounts = {"nano_usd": self.dice.randint(0, 200), "tokens": self.dice.randint(0, 90), "calls": 1, "slots": 1}
        if self.dice.random() < 0.05:
            legs = {}  # what costs nothing, where no cap counts calls
        elif run_id in self.budgets:
            legs = {self.run_caps[run_id]: amounts["nano_usd"]}
        else:
            chosen = [self._cap(kind, unit) for kind, unit in _LEGS_OF_ACTIONS]
            legs = {cap_id: amounts[self.caps[cap_id].unit] for cap_id in chosen}
        step = 1 + max((hold.step for hold in self.holds if hold.run_id == run_id), default=0)
        kind, tool = self.dice.choice([("llm.call", ""), ("tool.call", "orders.read")])
        self._reserved(run_id, step, kind, tool, legs)

    def _reserved(self, run_id: UUID, step: int, kind: str, tool: str, legs: dict[UUID, int]) -> Hold | None:
        short = any(not self.caps[c].unlimited and self.caps[c].free() < amount for c, amount in legs.items())
        hold = Hold(new_id(), run_id, step, kind, tool, "sim-1" if kind == "llm.call" else "", legs, self.now, new_id())
        self._decide(hold, short=short)
        if short:
            return None
        for cap_id, amount in legs.items():
            cap = self.caps[cap_id]
            before = (cap.reserved, cap.committed, cap.debt)
            cap.reserve(amount)
            self._enter(cap_id, hold.hold_id, "reserve", before)
        self.holds.append(hold)
        return hold

    def _decide(self, hold: Hold, *, short: bool) -> None:
        stood = [
            {
                "cap_id": str(cap_id),
                "amount": str(amount),
                "limit": None if self.caps[cap_id].unlimited else str(self.caps[cap_id].limit),
                **{name: str(getattr(self.caps[cap_id], name)) for name in ("reserved", "committed", "debt")},
            }
            for cap_id, amount in hold.legs.items()
        ]
        a, b = canonical_bytes({"v": 1}), orjson.dumps({"legs": stood}, option=orjson.OPT_SORT_KEYS)
        record_hash = hashlib.sha256(b"\0" + hashlib.sha256(a).digest() + hashlib.sha256(b).digest()).digest()
        self.decisions.append(
            (self.tenant.tenant_id, hold.decision_id, hold.run_id, *((None, None) if short else (hold.step, 1)), hold.kind,
             hashlib.sha256(hold.action).digest(), "deny" if short else "allow",
             ["budget.cap_exceeded" if short else "policy.permitted"], None if short else hold.hold_id, a, b, record_hash,
             hold.created_at)
        )  # fmt: skip

    def move(self) -> None:
        """Moves some open hold one state on, as programs did."""
        open_holds = [hold for hold in self.holds if hold.settled_at is None and hold.kind != "run.budget"]
        if not open_holds:
            return
        hold = self.dice.choice(open_holds)
        if hold.state == "held":
            hold.state = self.dice.choice(["executing", "executing", "executing", "voided", "expired", "superseded"])
        elif hold.state == "executing":
            hold.state = self.dice.choice(["executed", "executed", "executed", "unknown", "voided"])
        else:
            hold.state = self.dice.choice(["committed", "committed", "committed", "voided"])
        if hold.state == "superseded":
            hold.state, hold.superseded = "voided", True
        if hold.state in _KINDS:
            self.settle(hold, self._bill(hold))

    def _bill(self, hold: Hold) -> dict[str, int]:
        over = self.dice.choice([0.5, 1, 1, 4])  # the provider takes less, the same, or far more
        held = {self.caps[cap_id].unit: amount for cap_id, amount in hold.legs.items()}
        bill = {unit: int(amount * over) for unit, amount in held.items() if unit in ("nano_usd", "tokens")}
        return {**bill, "calls": 1}

    def settle(self, hold: Hold, bill: dict[str, int]) -> None:
        hold.settled_at, hold.cost = self.now, 0
        if hold.state == "committed":
            self.actual[hold.hold_id] = bill
            hold.cost = bill.get("nano_usd", 0)
        for cap_id, held in hold.legs.items():
            cap = self.caps[cap_id]
            before = (cap.reserved, cap.committed, cap.debt)
            counts = hold.state == "committed" and cap.unit != "slots"
            cap.settle(held, bill.get(cap.unit, 0) if counts else 0)
            self._enter(cap_id, hold.hold_id, _KINDS[hold.state], before)

    def end_a_run(self, run_id: UUID) -> None:
        """Everything of the run is settled, and its budget returned at what it spent."""
        for hold in self.holds:
            if hold.run_id == run_id and hold.settled_at is None and hold.kind != "run.budget":
                hold.state = "voided"
                self.settle(hold, {})
        self.ended.add(run_id)
        cap = self.caps[self.run_caps[run_id]]
        budget = self.budgets[run_id]
        budget.state = "committed"
        self.settle(budget, {"nano_usd": cap.committed + cap.debt})

    def make_sure_of_every_state(self) -> None:
        for cap_id, (kind, _) in self.places.items():
            if kind != "run":
                self.set_limit(cap_id, sum(self.caps[cap_id].now()[1:]) + 5_000, unlimited=False)
        for state in ("held", "executing", "executed", "unknown", "committed", "voided", "expired"):
            before = len(self.holds)
            while len(self.holds) == before or not self.holds[-1].legs:
                self.reserve()
            hold = self.holds[-1]
            hold.state = state
            if state in _KINDS:
                # a bill of far more than there is: debt, on whatever caps it was held
                bill = {"nano_usd": 9_000, "tokens": 90, "calls": 1}
                counted = {self.caps[cap_id].unit for cap_id in hold.legs} | {"calls"}
                self.settle(hold, {unit: amount for unit, amount in bill.items() if unit in counted})
        tenants = self._cap("tenant", "nano_usd")
        self.set_limit(tenants, max(self.caps[tenants].committed - 100, 0), unlimited=False)

    async def write(self) -> None:
        """Puts all of it into the database, as its superuser."""
        mine = self.tenant.tenant_id
        async with self.tenant.database.superuser.acquire() as connection, connection.transaction():
            await connection.execute(
                "UPDATE runs SET ended_at = now(), status = 'succeeded' WHERE run_id = ANY($1::uuid[])",
                list(self.ended),
            )
            for run_id, hold in self.budgets.items():
                await connection.execute("UPDATE runs SET budget_hold_id = $2 WHERE run_id = $1", run_id, hold.hold_id)
            await connection.executemany(
                """INSERT INTO caps (tenant_id, cap_id, scope_kind, scope_id, unit, unlimited, limit_amount, ceiling, reserved,
                   committed, debt) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)""",
                [
                    (mine, cap_id, *self.places[cap_id], cap.unit, cap.unlimited, cap.limit,
                     max(cap.limit, cap.reserved + cap.committed), cap.reserved, cap.committed, cap.debt)
                    for cap_id, cap in self.caps.items()
                ],
            )  # fmt: skip
            await connection.executemany(
                """INSERT INTO holds (tenant_id, hold_id, run_id, step, try, kind, tool, idempotent, digest, action, decision_id, state,
                   max_cost_nano_usd, cost_nano_usd, estimate, lease_ms, created_at, expires_at, lease_hash, lease_expires_at,
                   outward_at, unknown_at, settled_at, settled_by, superseded_at)
                   VALUES ($1, $2, $3, $4, 1, $5, $6, true, sha256($7), $7, $8, $9, 9999, $10, $11, 60000, $12::timestamptz,
                   now() + interval '1 hour', CASE WHEN $9 NOT IN ('held', 'expired') THEN $13::bytea END,
                   now() + interval '1 hour', CASE WHEN $9 IN ('executed', 'committed', 'unknown') THEN $12::timestamptz END,
                   CASE WHEN $9 = 'unknown' THEN $12::timestamptz END, $14::timestamptz, 'old',
                   CASE WHEN $15 THEN $14::timestamptz END)""",
                [
                    (mine, hold.hold_id, hold.run_id, hold.step, hold.kind, hold.tool, hold.action, hold.decision_id, hold.state,
                     hold.cost, hold.estimate, hold.created_at, bytes(32), hold.settled_at, hold.superseded)
                    for hold in self.holds
                ],
            )  # fmt: skip
            await connection.executemany(
                "INSERT INTO hold_legs (tenant_id, hold_id, cap_id, amount) VALUES ($1, $2, $3, $4)",
                [(mine, hold.hold_id, *leg) for hold in self.holds for leg in hold.legs.items()],
            )
            await connection.executemany(
                "INSERT INTO outcomes (tenant_id, hold_id, run_id, ok, cost_class, result) VALUES ($1, $2, $3, true, 'known', '')",
                [(mine, hold.hold_id, hold.run_id) for hold in self.holds if hold.state in ("executed", "committed")],
            )
            await connection.executemany(
                """INSERT INTO decisions (tenant_id, decision_id, run_id, step, try, kind, digest, verdict, reason_codes, hold_id,
                   part_a, part_b, record_hash, created_at, reply) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
                   '{"code": "policy.permitted", "message": "", "rule_id": "all", "retryable": false, "approval_expires_at": null}')""",
                self.decisions,
            )
            superseded = [hold.decision_id for hold in self.holds if hold.superseded]
            await connection.execute(
                "UPDATE decisions SET superseded_at = now() WHERE decision_id = ANY($1::uuid[])", superseded
            )
            await connection.executemany(_ENTRY, self.entries)
