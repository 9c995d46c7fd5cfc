"""Generated histories of rolling caps: one caller at a time against a simple ledger of hours, then many at once, with deaths."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from holdfast.errors import Conflict, PermitUsed, Unavailable
from holdfast.ledger.types import SETTLED_STATES, FactsChanged

from .books import check_books
from .rolling import audited, buckets, limit, pass_hours, record
from .world import Database, Tenant, new_tenant

HOUR_MS = 3_600_000
WINDOWS = {"tenant": 3, "user": 1}

SETTINGS = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    print_blob=True,
    derandomize=True,
)


@dataclass(slots=True)
class Hour:
    """What was taken in an hour, and the limit that it was last under."""

    limit: int | None
    reserved: int = 0
    committed: int = 0
    debt: int = 0

    def used(self) -> int:
        return self.reserved + self.committed + self.debt


@dataclass(slots=True)
class Rolling:
    """A rolling cap as anybody would keep it: a page for each hour."""

    hours: int
    limit: int | None = 0
    pages: dict[int, Hour] = field(default_factory=dict)

    def turn(self, hour: int) -> None:
        assert hour >= max(self.pages, default=hour)
        self.pages.setdefault(hour, Hour(self.limit))

    def counting(self) -> list[Hour]:
        newest = max(self.pages)
        return [page for hour, page in sorted(self.pages.items()) if hour >= newest - self.hours]

    def free(self, pages: Sequence[Hour], cap: int | None) -> int | None:
        return None if cap is None else cap - sum(page.used() for page in pages)

    def fits(self, amount: int) -> bool:
        free = self.free(self.counting(), self.limit)
        return free is None or free >= amount

    def set_limit(self, cap: int | None) -> None:
        self.limit = cap
        for page in self.counting():
            page.limit = cap
        for page in self.counting():
            taken = sum(one.reserved + one.committed for one in self.counting())
            paid = page.debt if cap is None else min(page.debt, max(cap - taken, 0))
            page.debt -= paid
            page.committed += paid

    def settle(self, hour: int, held: int, actual: int) -> None:
        page = self.pages[hour]
        page.reserved -= held
        page.committed += min(held, actual)
        over = max(actual - held, 0)
        together = self.counting()
        free = self.free(together, self.limit) if page in together else self.free([page], page.limit)
        fits = over if free is None else min(over, max(free, 0))
        page.committed += fits
        page.debt += over - fits


@dataclass(slots=True)
class Hold:
    """A hold that was granted: when, in which hour, and what of it counts now."""

    hold_id: UUID
    run_id: UUID
    at_ms: int
    hour: int
    amount: int
    counts: int
    state: str = "held"


class Alone:
    """Carries a history out on both ledgers, and compares every answer and every balance."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.passed = 0
        self.caps = {kind: Rolling(hours) for kind, hours in WINDOWS.items()}
        self.holds: list[Hold] = []
        self.actual: dict[UUID, dict[str, int]] = {}
        self.arguments = 0
        self.settling_since = datetime.min.replace(tzinfo=UTC)

    async def carry_out(self, name: str, number: int, amount: int) -> None:
        open_holds = [hold for hold in self.holds if hold.state not in SETTLED_STATES]
        if name == "pass":
            self.passed += number % 6
            await pass_hours(self.tenant, number % 6)
        elif name == "limit":
            kind = ("tenant", "user")[number % 2]
            cap = None if number % 9 == 0 else amount * 2
            await limit(self.tenant, cap or 0, window=f"{WINDOWS[kind]}h", kind=kind, unlimited=cap is None)
            self.caps[kind].limit = cap  # for the hour that this may have begun
            self.caps[kind].turn(await self.newest(kind))
            self.caps[kind].set_limit(cap)
        elif name == "reserve":
            await self.reserve(await self.tenant.run(), amount)
        elif open_holds:
            hold = open_holds[number % len(open_holds)]
            if name == "other arguments" and hold.state == "held":
                self.settled(hold, "voided", 0)
                await self.reserve(hold.run_id, amount)
            elif name == "settle":
                await self.settle(hold, "commit" if number % 4 else "void", amount)
        await self.compare()

    async def newest(self, kind: str) -> int:
        """The hour of the newest bucket, counted from where no time has been passed."""
        (row,) = [row for row in await buckets(self.tenant) if row["newest"] and row["scope_kind"] == kind]
        return int(row["starts_at"].timestamp()) // 3600 + self.passed

    async def reserve(self, run_id: UUID, amount: int) -> None:
        self.arguments += 1
        decision = await self.tenant.reserve(run_id, argument=self.arguments, amounts={"nano_usd": amount})
        part_b = await record(self.tenant, decision.decision_id)
        for leg in part_b["legs"]:
            name, starts, ends = leg["window"]
            assert (name, ends - starts) == (f"{WINDOWS[leg['scope'][0]]}h", HOUR_MS)
            assert starts <= part_b["time_ms"] < ends, "it was taken in an hour that was not"
        at_ms = part_b["time_ms"] + self.passed * HOUR_MS
        for cap in self.caps.values():
            cap.turn(at_ms // HOUR_MS)
        fits = all(cap.fits(amount) for cap in self.caps.values())
        assert decision.verdict == ("allow" if fits else "deny")
        self.check_law(at_ms, amount, granted=fits)
        if decision.hold_id is not None:
            self.holds.append(Hold(decision.hold_id, run_id, at_ms, at_ms // HOUR_MS, amount, amount))
            for cap in self.caps.values():
                cap.pages[at_ms // HOUR_MS].reserved += amount

    def check_law(self, at_ms: int, amount: int, *, granted: bool) -> None:
        """LAW 3 to the millisecond, without any bucket; and a denial is one that a bucket which has not wholly left explains."""
        explained = False
        for cap in self.caps.values():
            if cap.limit is None:
                continue
            exact = sum(hold.counts for hold in self.holds if hold.at_ms > at_ms - cap.hours * HOUR_MS)
            assert not granted or exact + amount <= cap.limit
            since_ms = (at_ms // HOUR_MS - cap.hours) * HOUR_MS
            explained |= sum(hold.counts for hold in self.holds if hold.at_ms >= since_ms) + amount > cap.limit
        assert granted or explained, "a false denial"

    async def settle(self, hold: Hold, how: str, cost: int) -> None:
        self.settling_since = await self.tenant.database.value("SELECT clock_timestamp()")
        if how == "void" and hold.state == "held":
            await self.tenant.settle(hold.hold_id, "voided")
            await self.turn()
            self.settled(hold, "voided", 0)
            return
        await self.tenant.executed(await self.tenant.hold(hold.hold_id))
        await self.tenant.settle(hold.hold_id, "committed", {"nano_usd": cost})
        await self.turn()
        self.settled(hold, "committed", cost)
        self.actual[hold.hold_id] = {"nano_usd": cost}

    async def turn(self) -> None:
        """Turns the pages as far as a settlement has: to the hour that it is."""
        for kind, cap in self.caps.items():
            cap.turn(await self.newest(kind))
        ended = [row for row in await buckets(self.tenant) if row["newest"] and row["ends_at"] <= self.settling_since]
        assert not ended, "what was settled was judged by hours that were over"

    def settled(self, hold: Hold, state: str, cost: int) -> None:
        hold.state, hold.counts = state, cost
        for cap in self.caps.values():
            cap.settle(hold.hour, hold.amount, cost)

    async def compare(self) -> None:
        rows = await buckets(self.tenant)
        for kind, cap in self.caps.items():
            mine = [row for row in rows if row["scope_kind"] == kind]
            stored = {
                int(row["starts_at"].timestamp()) // 3600 + self.passed: (
                    row["reserved"],
                    row["committed"],
                    row["debt"],
                )
                for row in mine
            }
            assert stored == {hour: (one.reserved, one.committed, one.debt) for hour, one in cap.pages.items()}
            older = cap.counting()[:-1]
            newest = mine[-1]
            assert [newest[f"carried_{name}"] for name in ("reserved", "committed", "debt")] == [
                sum(getattr(one, name) for one in older) for name in ("reserved", "committed", "debt")
            ]


histories = st.lists(
    st.tuples(
        st.sampled_from(["reserve"] * 5 + ["settle"] * 5 + ["pass"] * 3 + ["limit", "other arguments"]),
        st.integers(0, 999),
        st.integers(0, 60),
    ),
    min_size=15,
    max_size=40,
)


@settings(SETTINGS, max_examples=20)
@given(first=st.integers(30, 120), history=histories)
async def test_every_answer_and_balance_of_a_history_is_that_of_a_ledger_with_a_page_an_hour(
    database: Database, first: int, history: list[tuple[str, int, int]]
) -> None:
    alone = Alone(await new_tenant(database))
    for number in (0, 1):
        await limit(alone.tenant, first, window=("3h", "1h")[number], kind=("tenant", "user")[number])
    for kind, cap in alone.caps.items():
        cap.limit = first
        cap.turn(await alone.newest(kind))
    for operation in history:
        await alone.carry_out(*operation)
    await check_books(alone.tenant, alone.actual)
    assert await audited(alone.tenant) == []


# Many at once ------------------------------------------------------------------------------------------------------------

racing = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["reserve"] * 6 + ["go on"] * 9 + ["other arguments", "expire", "pass", "pass", "limit", "kill"]
            ),
            st.integers(0, 9_999),
        ),
        min_size=6,
        max_size=14,
    ),
    min_size=5,
    max_size=8,
)


def cost_of(hold_id: UUID) -> dict[str, int]:
    """What a hold comes to, whoever settles it: less or more than it held."""
    return {"nano_usd": hold_id.int % 60}


class Crowd:
    """Many who take from the same rolling caps and settle, while hours pass and connections die."""

    def __init__(self, tenant: Tenant, runs: list[UUID]) -> None:
        self.tenant, self.runs = tenant, runs
        self.holds: list[UUID] = []
        self.tokens: dict[UUID, bytes] = {}

    async def work(self, plan: list[tuple[str, int]]) -> None:
        for name, number in plan:
            try:
                await self.do(name, number)
            except (FactsChanged, PermitUsed, Conflict):
                continue  # somebody else was first
            except (DBAPIError, Unavailable, asyncpg.PostgresError, OSError) as error:
                state = getattr(getattr(error, "orig", error), "sqlstate", None)
                if not isinstance(error, Unavailable) and state not in (None, "57P01", "08003", "08006"):
                    raise  # never a deadlock, never a constraint

    async def do(self, name: str, number: int) -> None:
        tenant = self.tenant
        if name in ("reserve", "other arguments"):
            step = number % 4 if name == "other arguments" else number
            decision = await tenant.reserve(
                self.runs[number % len(self.runs)], step, argument=number, amounts={"nano_usd": 5 + number % 30}
            )
            if decision.hold_id is not None:
                self.holds.append(decision.hold_id)
        elif name == "pass":
            await pass_hours(tenant, 1 + number % 2)
        elif name == "limit":
            await limit(tenant, number % 250, window="3h", unlimited=number % 11 == 0)
        elif name == "kill":
            await tenant.database.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state <> 'idle'
                   AND application_name IN ('holdfast-test-governor', 'holdfast-test-broker', 'holdfast-test-executor')
                   ORDER BY md5(pid::text || $1) LIMIT 1""",
                str(number),
            )
        elif self.holds:
            await self.move(self.holds[number % len(self.holds)], expire=name == "expire")

    async def move(self, hold_id: UUID, *, expire: bool) -> None:
        tenant = self.tenant
        hold = await tenant.hold(hold_id)
        if hold.state == "held" and expire:
            await tenant.settle(hold_id, "expired", seen=hold)
        elif hold.state == "held":
            self.tokens[hold_id] = (await tenant.redeem(hold)).lease_token
        elif hold.state == "executing" and hold_id in self.tokens:
            await tenant.begin(hold_id, self.tokens[hold_id])
            await tenant.store(hold_id, self.tokens[hold_id])
        elif hold.state == "executed":
            await tenant.settle(hold_id, "committed", cost_of(hold_id), seen=hold)

    async def finish(self) -> None:
        for hold_id in self.holds:
            while (hold := await self.tenant.hold(hold_id)).state not in SETTLED_STATES:
                if hold.state == "held":
                    await self.tenant.settle(hold_id, "expired")
                elif hold.state == "executing":
                    await self.tenant.settle(hold_id, "unknown" if hold.went_outward else "voided")
                else:
                    await self.tenant.settle(hold_id, "committed", cost_of(hold_id))


@settings(SETTINGS, max_examples=10)
@given(plans=racing, first=st.integers(30, 200))
async def test_whatever_many_do_while_hours_pass_the_books_are_right(
    database: Database, plans: list[list[tuple[str, int]]], first: int
) -> None:
    tenant = await new_tenant(database)
    crowd = Crowd(tenant, await tenant.runs(4))
    await limit(tenant, first, window="3h")
    await limit(tenant, first, window="1h", kind="user")
    await tenant.cap("role", 10**6)
    await asyncio.gather(*(crowd.work(plan) for plan in plans))
    await database.leave()  # whoever comes next gets no connection that was killed here
    rows = await database.fetch("SELECT hold_id FROM holds WHERE tenant_id = $1", tenant.tenant_id)
    crowd.holds = [row["hold_id"] for row in rows]
    actual = {hold_id: cost_of(hold_id) for hold_id in crowd.holds}
    await check_books(tenant, actual)
    assert await audited(tenant) == []
    await crowd.finish()
    await check_books(tenant, actual)
    assert await audited(tenant) == []
