"""Generated histories: one caller at a time against a model that predicts every answer, then many at once, with crashes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Literal
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from holdfast.errors import Conflict, PermitUsed, Unavailable
from holdfast.ledger.auditor import audit
from holdfast.ledger.types import SETTLED_STATES, Decision, FactsChanged

from .books import check_books
from .model import Hold, Model
from .world import Database, Tenant, new_tenant

UNITS = ("nano_usd", "calls", "slots")
KINDS: tuple[Literal["tenant", "project", "user", "role"], ...] = ("tenant", "project", "user", "role")
AMOUNTS = (
    {"nano_usd": 7},
    {"nano_usd": 30, "calls": 1},
    {"calls": 1, "slots": 1},
    {"nano_usd": 12, "slots": 1},
    {"nano_usd": 0},
)

# Nothing is shrunk: it would outlast the test's time limit, and a race does not come again. The blob repeats the example.
SETTINGS = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    print_blob=True,
    derandomize=True,
)

small = st.integers(0, 3)
reserving = st.tuples(st.just("reserve"), small, small, small, small)
using = st.tuples(st.sampled_from(["redeem", "begin", "store"]), st.integers(0, 99), st.booleans(), small)
going_on = st.tuples(st.just("go on"), st.integers(0, 99), st.just(True), small)
settling = st.tuples(
    st.just("settle"),
    st.integers(0, 99),
    st.sampled_from(["committed", "voided", "expired", "unknown"]),
    st.integers(0, 60),
)
resolving = st.tuples(st.just("resolve"), st.integers(0, 99), st.booleans(), st.integers(0, 60))
limiting = st.tuples(
    st.just("limit"),
    st.sampled_from(KINDS),
    st.sampled_from(UNITS),
    st.integers(0, 90),
    st.integers(0, 9).map(lambda n: n == 0),
)
operations = st.one_of(
    reserving, reserving, reserving, going_on, going_on, going_on, using, settling, settling, resolving, limiting
)


class Alone:
    """Carries a history out on both ledgers, and compares each answer."""

    def __init__(self, tenant: Tenant, runs: list[UUID]) -> None:
        self.tenant = tenant
        self.runs = runs
        self.model = Model()
        self.holds: list[tuple[UUID, Hold]] = []
        self.tokens: dict[UUID, bytes] = {}
        self.actual: dict[UUID, dict[str, int]] = {}

    async def carry_out(self, operation: tuple[str, ...]) -> None:
        name, *rest = operation
        if name == "reserve":
            await self.reserve(*rest)  # type: ignore[arg-type]  # drawn with these types
        elif name == "limit":
            kind, unit, limit, unlimited = rest
            self.model.set_limit((kind, unit), limit, unlimited)  # type: ignore[arg-type]  # drawn with these types
            await self.tenant.cap(kind, limit, unit=unit, unlimited=unlimited)  # type: ignore[arg-type]  # as above
        elif self.holds:
            number, *rest = rest
            await getattr(self, name.replace(" ", "_"))(*self.holds[int(number) % len(self.holds)], *rest)

    async def reserve(self, run: int, step: int, argument: int, shape: int) -> None:
        amounts = AMOUNTS[(shape + argument) % len(AMOUNTS)]
        expected = self.model.reserve((run % 2, step % 3, 1), argument % 2, amounts)
        decision = await self.tenant.reserve(self.runs[run % 2], step % 3, argument=argument % 2, amounts=amounts)
        assert (decision.verdict, decision.code) == (expected.verdict, expected.code)
        known = {id(hold): hold_id for hold_id, hold in self.holds}
        if expected.hold is None:
            assert decision.hold_id is None
        elif id(expected.hold) in known:
            assert decision.hold_id == known[id(expected.hold)]
        else:
            assert decision.hold_id is not None
            self.holds.append((decision.hold_id, expected.hold))

    async def go_on(self, hold_id: UUID, hold: Hold, right: bool, variant: int) -> None:
        """Takes the hold one step further on its usual way."""
        if hold.state == "held":
            await self.redeem(hold_id, hold, right, variant)
        elif hold.state == "executing" and not hold.outward:
            await self.begin(hold_id, hold, right, variant)
        elif hold.state == "executing":
            await self.store(hold_id, hold, right, variant)
        else:
            await self.settle(hold_id, hold, "committed", 10 * variant)

    async def redeem(self, hold_id: UUID, hold: Hold, right: bool, variant: int) -> None:
        stored = await self.tenant.hold(hold_id)
        digest = stored.digest if right else secrets.token_bytes(32)
        expected = self.model.redeem(hold, right)
        try:
            redemption = await self.tenant.database.ledger("broker").redeem(self.tenant.tenant_id, hold_id, digest)
        except PermitUsed:
            assert not expected
        else:
            assert expected
            self.tokens[hold_id] = redemption.lease_token

    def token(self, hold_id: UUID, right: bool) -> tuple[bytes, bool]:
        token = self.tokens.get(hold_id) if right else None
        return (token, True) if token else (secrets.token_bytes(32), False)

    async def begin(self, hold_id: UUID, hold: Hold, right: bool, variant: int) -> None:
        token, right = self.token(hold_id, right)
        assert (await self.tenant.begin(hold_id, token) is not None) == self.model.begin(hold, right)

    async def store(self, hold_id: UUID, hold: Hold, right: bool, variant: int) -> None:
        token, right = self.token(hold_id, right)
        result = b'{"n":%d}' % (variant % 2)
        assert await self.tenant.store(hold_id, token, result=result) == self.model.store(hold, right, result)

    async def settle(self, hold_id: UUID, hold: Hold, to: str, cost: int) -> None:
        actual = {"nano_usd": cost, "calls": cost % 3} if to == "committed" else {}
        expected = self.model.settle(hold, to, actual)
        try:
            await self.tenant.settle(hold_id, to, actual)
        except Conflict:
            assert not expected
        else:
            assert expected
            self.actual[hold_id] = actual

    async def resolve(self, hold_id: UUID, hold: Hold, happened: bool, cost: int) -> None:
        expected = self.model.resolve(hold, happened, cost)
        try:
            await self.tenant.resolve(hold_id, happened=happened, cost=cost)
        except Conflict:
            assert not expected
        else:
            assert expected
            units = {unit: amount for (_, unit), amount in hold.legs.items()}
            self.actual[hold_id] = {**units, "nano_usd": cost}


@settings(SETTINGS, max_examples=25)
@given(first=st.integers(0, 90), history=st.lists(operations, min_size=10, max_size=30))
async def test_every_answer_of_a_history_is_the_one_that_the_model_gives(
    database: Database, first: int, history: list[tuple[str, ...]]
) -> None:
    tenant = await new_tenant(database)
    alone = Alone(tenant, await tenant.runs(2))
    await alone.carry_out(("limit", "tenant", "nano_usd", first, False))  # type: ignore[arg-type]  # as drawn
    for operation in history:
        await alone.carry_out(operation)
    for hold_id, hold in alone.holds:
        assert (await tenant.hold(hold_id)).state == hold.state
    assert sum([len(await tenant.alarms(run)) for run in alone.runs]) == alone.model.alarms
    books = await check_books(tenant, alone.actual)
    stored = await database.fetch("SELECT cap_id, scope_kind, unit FROM caps WHERE tenant_id = $1", tenant.tenant_id)
    assert {(row["scope_kind"], row["unit"]): books[row["cap_id"]].now() for row in stored} == {
        name: cap.now() for name, cap in alone.model.caps.items()
    }


# Many at once ------------------------------------------------------------------------------------------------------------

racing = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["reserve"] * 5 + ["go on"] * 8 + ["expire", "lose", "resolve", "limit", "kill", "cancel"]),
            st.integers(0, 9_999),
        ),
        min_size=6,
        max_size=14,
    ),
    min_size=6,
    max_size=9,
)


class Crowd:
    """Many workers over shared runs, keys, caps and holds."""

    def __init__(self, tenant: Tenant, runs: list[UUID]) -> None:
        self.tenant = tenant
        self.runs = runs
        self.holds: list[UUID] = []
        self.tokens: dict[UUID, list[bytes]] = {}
        self.stored: dict[UUID, list[bytes]] = {}
        self.answers: list[Decision] = []

    async def work(self, worker: int, plan: list[tuple[str, int]]) -> None:
        for name, number in plan:
            try:
                await self.do(name, number, worker)
            except (FactsChanged, PermitUsed, Conflict):
                continue  # somebody else was first
            except (DBAPIError, Unavailable, asyncpg.PostgresError, OSError) as error:
                if not _killed(error):
                    raise  # never a deadlock, never a constraint
            except asyncio.CancelledError:
                continue  # what "cancel" did to itself

    async def do(self, name: str, number: int, worker: int) -> None:
        if name == "reserve":
            await self.reserve(number)
        elif name == "cancel":
            task = asyncio.create_task(self.reserve(number))
            await self.tenant.database.value("SELECT 1")
            task.cancel()
            await task
        elif name == "kill":
            await self.tenant.database.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state <> 'idle'
                   AND application_name IN ('holdfast-test-governor', 'holdfast-test-broker', 'holdfast-test-executor')
                   ORDER BY md5(pid::text || $1) LIMIT 1""",
                str(number),
            )
        elif name == "limit":
            kind, unit = KINDS[number % 3], UNITS[number % 2]
            await self.tenant.cap(kind, number % 200, unit=unit, unlimited=number % 11 == 0)
        elif self.holds:
            await self.move(name, self.holds[number % len(self.holds)], worker)

    async def reserve(self, number: int) -> None:
        decision = await self.tenant.reserve(
            self.runs[number % len(self.runs)],
            number // 10 % 3,
            argument=number // 100 % 2,
            amounts=AMOUNTS[number % len(AMOUNTS)],
            scopes=tuple(scope for index, scope in enumerate(self.tenant.scopes) if index == 0 or number >> index & 1),
        )
        self.answers.append(decision)
        if decision.hold_id is not None:
            self.holds.append(decision.hold_id)

    async def move(self, name: str, hold_id: UUID, worker: int) -> None:
        tenant = self.tenant
        hold = await tenant.hold(hold_id)
        if name == "expire":
            await tenant.settle(hold_id, "expired", seen=hold)
        elif name == "lose":
            await tenant.settle(hold_id, "unknown", seen=hold)
        elif name == "resolve":
            await tenant.resolve(hold_id, happened=True, cost=_actual(hold_id)["nano_usd"])
        elif hold.state == "held":
            token = (await tenant.redeem(hold)).lease_token
            self.tokens.setdefault(hold_id, []).append(token)
        elif hold.state == "executing":
            for token in self.tokens.get(hold_id, []):
                await tenant.begin(hold_id, token)
                result = b'{"by":%d}' % worker
                if await tenant.store(hold_id, token, result=result):
                    self.stored.setdefault(hold_id, []).append(result)
        elif hold.state == "executed":
            await tenant.settle(hold_id, "committed", _actual(hold_id), seen=hold)

    async def finish(self) -> None:
        """Takes every hold to its end, as sweepers and people would."""
        rows = await self.tenant.database.fetch("SELECT hold_id FROM holds WHERE tenant_id = $1", self.tenant.tenant_id)
        for (hold_id,) in rows:
            while (hold := await self.tenant.hold(hold_id)).state not in SETTLED_STATES:
                if hold.state == "held":
                    await self.tenant.settle(hold_id, "expired")
                elif hold.state == "executing":
                    await self.tenant.settle(hold_id, "unknown" if hold.went_outward else "voided")
                else:
                    await self.tenant.settle(hold_id, "committed", _actual(hold_id))


def _actual(hold_id: UUID) -> dict[str, int]:
    """What a hold comes to, whoever settles it: less or more than it held."""
    return {"nano_usd": hold_id.int % 45, "calls": 1}


def _killed(error: BaseException) -> bool:
    state = getattr(getattr(error, "orig", error), "sqlstate", None)
    return isinstance(error, Unavailable) or state in (None, "57P01", "08003", "08006")


async def _check_answers(crowd: Crowd) -> None:
    database, mine = crowd.tenant.database, crowd.tenant.tenant_id
    decisions = {
        row["decision_id"]: row for row in await database.fetch("SELECT * FROM decisions WHERE tenant_id = $1", mine)
    }
    holds: Mapping[UUID, asyncpg.Record] = {
        row["hold_id"]: row for row in await database.fetch("SELECT * FROM holds WHERE tenant_id = $1", mine)
    }
    for answer in crowd.answers:
        decision = decisions[answer.decision_id]
        assert decision["record_hash"] == answer.record_hash
        if answer.verdict != "replayed":
            assert decision["verdict"] == answer.verdict
        if answer.hold_id is not None:
            hold = holds[answer.hold_id]
            assert (hold["decision_id"], hold["digest"]) == (answer.decision_id, decision["digest"])
    alarms = [row for row in decisions.values() if row["reason_codes"] == ["hold.key_conflict"]]
    assert sum([len(await crowd.tenant.alarms(run)) for run in crowd.runs]) == len(alarms)
    for hold in holds.values():
        if hold["superseded_at"] is not None:
            assert hold["lease_hash"] is None, "a hold that was redeemed was superseded"
    for hold_id, tokens in crowd.tokens.items():
        assert len(tokens) == 1, f"hold {hold_id} was redeemed twice"
    for hold_id, results in crowd.stored.items():
        outcome = await database.value("SELECT result FROM outcomes WHERE hold_id = $1", hold_id)
        assert set(results) == {outcome}
    for run in crowd.runs:
        numbers = [
            row["seq"]
            for row in await database.fetch("SELECT seq FROM timeline_events WHERE run_id = $1 ORDER BY seq", run)
        ]
        assert numbers == list(range(1, len(numbers) + 1)), "the timeline has a gap"


@settings(SETTINGS, max_examples=10)
@given(plans=racing, limit=st.integers(0, 300))
async def test_whatever_many_do_at_once_and_whoever_dies_the_books_are_right(
    database: Database, plans: list[list[tuple[str, int]]], limit: int
) -> None:
    tenant = await new_tenant(database)
    crowd = Crowd(tenant, await tenant.runs(3))
    await tenant.cap("tenant", limit)
    await tenant.cap("user", 5, unit="slots")
    await asyncio.gather(*(crowd.work(worker, plan) for worker, plan in enumerate(plans)))
    await database.leave()  # whoever comes next gets no connection that was killed here
    committed = await database.fetch("SELECT hold_id FROM holds WHERE tenant_id = $1", tenant.tenant_id)
    await check_books(tenant, {row["hold_id"]: _actual(row["hold_id"]) for row in committed})
    await _check_answers(crowd)
    await crowd.finish()
    for cap in (await check_books(tenant, {row["hold_id"]: _actual(row["hold_id"]) for row in committed})).values():
        assert cap.reserved == 0
    assert (await audit(database.engine("auditor"))).discrepancies == (), (
        "after all that the tests before this one did as well"
    )
