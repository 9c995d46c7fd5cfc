"""Windows of caps, and who tries to break them: clocks that are put, midnights, races over a rollover, tenants that move."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from holdfast.database.engine import create_engine, transaction
from holdfast.ledger import service
from holdfast.ledger.auditor import audit
from holdfast.ledger.budget import read_applicable_caps
from holdfast.ledger.service import Ledger
from holdfast.tenancy.service import set_time_zone

from .books import check_books
from .world import Database, Record, Tenant, new_tenant

Window = Literal["hour", "day", "month"]

ZONES = (
    "UTC",
    "Europe/Berlin",
    "Europe/Dublin",
    "America/New_York",
    "America/St_Johns",
    "America/Sao_Paulo",
    "America/Havana",  # clocks go back over midnight
    "Asia/Beirut",  # clocks go forward at midnight, which is then not there
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Australia/Lord_Howe",  # half an hour
    "Pacific/Apia",  # went without 30 December 2011
    "Pacific/Chatham",
    "Antarctica/Troll",  # two hours
)
YEARS = (2010, 2026)
HOUR = timedelta(hours=1)


def changes_of(zone: str) -> list[datetime]:
    """Returns about when the clocks of a zone were put, to the hour."""
    there = ZoneInfo(zone)
    found = []
    at = datetime(YEARS[0], 1, 1, tzinfo=UTC)
    while at.year <= YEARS[1]:
        if (at + 24 * HOUR).astimezone(there).utcoffset() != at.astimezone(there).utcoffset():
            found += [
                at + hour * HOUR
                for hour in range(24)
                if (at + (hour + 1) * HOUR).astimezone(there).utcoffset()
                != (at + hour * HOUR).astimezone(there).utcoffset()
            ]
        at += 24 * HOUR
    return found


CHANGES = {zone: changes_of(zone) for zone in ZONES}


@st.composite
def instants(draw: st.DrawFn) -> tuple[str, datetime]:
    """Draws a zone and an instant: around a change of its clocks, around a midnight, or any."""
    zone = draw(st.sampled_from(ZONES))
    near = timedelta(seconds=draw(st.integers(-36 * 3600, 36 * 3600)))
    around_change = draw(st.booleans())
    if CHANGES[zone] and around_change:
        return zone, draw(st.sampled_from(CHANGES[zone])) + near
    day = datetime(*YEARS[:1], 1, 1, tzinfo=UTC) + timedelta(days=draw(st.integers(0, 6_000)))
    return zone, day + draw(st.sampled_from([near, timedelta(0), timedelta(microseconds=-1)]))


def midnight(day: date, zone: str) -> datetime:
    """Returns when a day begins by Python's zones: of a midnight that comes twice the second, of one that is left out the change."""
    there = ZoneInfo(zone)
    first = datetime(day.year, day.month, day.day, tzinfo=there)
    second = first.replace(fold=1)
    left_out = first.astimezone(UTC).astimezone(there).replace(tzinfo=None) != first.replace(tzinfo=None)
    return (first if left_out else second).astimezone(UTC)


def window_of(kind: Window, zone: str, at: datetime) -> tuple[datetime, datetime]:
    """Returns the window that an instant is in, as Python's zones have it."""
    local = at.astimezone(ZoneInfo(zone))
    if kind == "hour":
        start = at - timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
        return start, start + HOUR
    days = [local.date() + timedelta(days=offset) for offset in range(-40, 41)]
    marks = [midnight(day, zone) for day in days if kind == "day" or day.day == 1]
    start = max(mark for mark in marks if mark <= at)
    return start, min(mark for mark in marks if mark > at)


SETTINGS = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    print_blob=True,
    derandomize=True,
    max_examples=300,
)


def _keep(drawn: list[tuple[str, datetime]], one: tuple[str, datetime]) -> None:
    drawn.append(one)


@pytest.mark.parametrize("kind", ["hour", "day", "month"])
async def test_windows_are_those_of_another_calendar(database: Database, kind: Window) -> None:
    """Python's zones are the oracle, a batch of instants at a time."""
    drawn: list[tuple[str, datetime]] = []
    draw = SETTINGS(given(instants())(lambda one: _keep(drawn, one)))
    await asyncio.to_thread(draw)
    assert len({zone for zone, _ in drawn}) == len(ZONES)
    rows = await database.fetch(
        "SELECT window_start($1, at, zone) AS starts, window_end($1, at, zone) AS ends "
        "FROM unnest($2::text[], $3::timestamptz[]) WITH ORDINALITY AS t (zone, at, n) ORDER BY n",
        kind,
        [zone for zone, _ in drawn],
        [at for _, at in drawn],
    )
    lengths = Counter[timedelta]()
    for (zone, at), row in zip(drawn, rows, strict=True):
        assert (row["starts"], row["ends"]) == window_of(kind, zone, at), (zone, at)
        assert row["starts"] <= at < row["ends"]
        lengths[row["ends"] - row["starts"]] += 1
    if kind == "day":
        assert {23 * HOUR, 24 * HOUR, 25 * HOUR} <= set(lengths)
        assert set(lengths) <= {23 * HOUR, 23.5 * HOUR, 24 * HOUR, 24.5 * HOUR, 25 * HOUR, 22 * HOUR, 26 * HOUR}


@pytest.mark.parametrize("zone", ZONES)
async def test_windows_that_follow_each_other_leave_no_gap_and_never_overlap(database: Database, zone: str) -> None:
    for kind in ("hour", "day"):
        for change in CHANGES[zone][-6:] or [datetime(2024, 3, 10, 7, tzinfo=UTC)]:
            rows = await database.fetch(
                "SELECT at, window_start($1, at, $2) AS starts, window_end($1, at, $2) AS ends "
                "FROM generate_series($3::timestamptz, $4, interval '15 minutes') AS at ORDER BY at",
                kind,
                zone,
                change - 50 * HOUR,
                change + 50 * HOUR,
            )
            for before, after in pairwise(rows):
                # as `roll_window` does: what the one before has, the next does not take
                if after["at"] >= before["ends"]:
                    assert max(after["starts"], before["ends"]) == before["ends"], (zone, kind, after["at"])
                else:
                    assert after["ends"] == before["ends"], (zone, kind, after["at"])


@pytest.fixture
async def tenant(database: Database, hour: None) -> Tenant:
    """A tenant where it is about noon, so that no real midnight comes in between."""
    tenant = await new_tenant(database)
    ahead = 12 - datetime.now(UTC).hour
    await database.execute(
        "UPDATE tenants SET time_zone = $2 WHERE tenant_id = $1",
        tenant.tenant_id,
        "Etc/GMT" + (f"{-ahead:+d}" if ahead else ""),
    )
    return tenant


# A cap and its windows -------------------------------------------------------------------------------------------------------


async def cap_of(
    tenant: Tenant, limit: int, *, window: Window = "day", kind: str = "tenant", unlimited: bool = False,
    thresholds: list[int] | None = None,
) -> UUID:  # fmt: skip
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        return await service.set_limit(
            connection,
            tenant.tenant_id,
            tenant.scope(kind),
            "nano_usd",
            limit_amount=limit,
            unlimited=unlimited,
            window=window,
            thresholds=thresholds,
            actor="user:test",
            reason="test",
        )


async def end_windows(tenant: Tenant) -> None:
    """Lets every window that is in force have ended a moment ago, as if time had passed."""
    await tenant.database.execute(
        """WITH mine AS (SELECT cap_id FROM caps WHERE tenant_id = $1 AND newest AND window_kind <> 'total'
               ORDER BY cap_id FOR NO KEY UPDATE)  -- in the one lock order
           UPDATE caps c SET ends_at = clock_timestamp() - interval '1 microsecond' FROM mine
           WHERE c.tenant_id = $1 AND c.cap_id = mine.cap_id AND c.newest""",
        tenant.tenant_id,
    )


async def windows(tenant: Tenant) -> list[Record]:
    return await tenant.database.fetch(
        "SELECT * FROM caps WHERE tenant_id = $1 AND window_kind <> 'total' ORDER BY cap_id", tenant.tenant_id
    )


async def use(tenant: Tenant, amount: int, *, cost: int | None = None) -> tuple[UUID, dict[str, int]]:
    hold = await tenant.held(amounts={"nano_usd": amount})
    await tenant.executed(hold)
    actual = {"nano_usd": amount if cost is None else cost}
    await tenant.settle(hold.hold_id, "committed", actual)
    return hold.hold_id, actual


async def test_what_is_held_before_midnight_stays_with_its_window(tenant: Tenant) -> None:
    await tenant.cap("tenant", 10**6)
    first = await cap_of(tenant, 100)
    late, lost = await tenant.held(amounts={"nano_usd": 60}), await tenant.held(amounts={"nano_usd": 30})
    await end_windows(tenant)
    new = await tenant.held(amounts={"nano_usd": 100})
    old, fresh = await windows(tenant)
    assert (old["cap_id"], old["newest"], fresh["newest"]) == (first, False, True)
    assert (old["reserved"], fresh["reserved"]) == (90, 100)
    await tenant.executed(late)
    # over its hold: 10 fit into the headroom of its own window, the rest is that window's debt
    await tenant.settle(late.hold_id, "committed", {"nano_usd": 95})
    assert await tenant.balances(first) == (30, 70, 25)
    assert await tenant.balances(fresh["cap_id"]) == (100, 0, 0)
    await tenant.settle(lost.hold_id, "voided")
    assert await tenant.balances(first) == (0, 70, 25)
    await tenant.settle(new.hold_id, "voided")
    await check_books(tenant, {late.hold_id: {"nano_usd": 95}})


async def test_what_is_superseded_returns_to_its_window_and_is_taken_from_the_next(tenant: Tenant) -> None:
    await tenant.cap("tenant", 10**6)
    first = await cap_of(tenant, 100)
    run = await tenant.run()
    await tenant.reserve(run, amounts={"nano_usd": 80})
    await end_windows(tenant)
    again = await tenant.reserve(run, argument="other", amounts={"nano_usd": 90})
    assert again.verdict == "allow"
    assert await tenant.balances(first) == (0, 0, 0)
    (_, fresh) = await windows(tenant)
    assert fresh["reserved"] == 90
    await check_books(tenant, {})


async def test_debt_of_a_window_does_not_burden_the_next(tenant: Tenant) -> None:
    await tenant.cap("tenant", 10**6)
    first = await cap_of(tenant, 100)
    one, actual = await use(tenant, 100, cost=170)
    assert await tenant.balances(first) == (0, 100, 70)
    denied = await tenant.reserve(await tenant.run(), amounts={"nano_usd": 1})
    assert (denied.code, denied.message[:26]) == ("budget.cap_exceeded", "the cap on tenant per day ")
    await end_windows(tenant)
    other, others = await use(tenant, 100)
    await cap_of(tenant, 1_000)
    assert await tenant.balances(first) == (0, 100, 70), "a raise is of the window in force"
    await check_books(tenant, {one: actual, other: others})


@pytest.mark.parametrize("processes", [1, 2])
async def test_fifty_over_a_rollover_get_one_new_window_and_its_limit(
    database: Database, tenant: Tenant, processes: int
) -> None:
    """Each of them finds the window ended; also two processes at once, each with connections of its own."""
    await tenant.cap("tenant", 10**6)
    for kind in ("tenant", "project", "role"):
        await cap_of(tenant, 700, kind=kind)
        await cap_of(tenant, 10_000, kind=kind, window="month")
    engines = [create_engine(database.urls["holdfast_governor"], process=f"roll-{n}") for n in range(processes)]
    ledgers = [Ledger(engine) for engine in engines]
    try:
        for _ in range(3):
            before = await windows(tenant)
            await end_windows(tenant)
            asked = [await tenant.reservation(run, amounts={"nano_usd": 100}) for run in await tenant.runs(50)]
            answers, _ = await asyncio.gather(
                asyncio.gather(*(ledgers[n % processes].reserve(one) for n, one in enumerate(asked))),
                cap_of(tenant, 10_000, kind="role", window="month"),  # somebody sets a limit at that moment
            )
            assert Counter(answer.verdict for answer in answers) == {"allow": 7, "deny": 43}
            after = await windows(tenant)
            assert len(after) == len(before) + 6, "one new window for each cap"
            assert sum(window["newest"] for window in after) == 6
    finally:
        for engine in engines:
            await engine.dispose()
    await check_books(tenant, {})


async def test_six_processes_under_windows_that_keep_ending_lose_nothing(database: Database, tenant: Tenant) -> None:
    """Whoever waited for a window that somebody else has ended meanwhile has to wait for the new one, too."""
    # no cap for ever among them: that would let one go after another
    scopes = tuple(scope for scope in tenant.scopes if scope.kind != "tenant")
    engines = [create_engine(database.urls["holdfast_governor"], process=f"six-{n}") for n in range(6)]
    working = True

    async def work(ledger: Ledger) -> None:
        for run in await tenant.runs(40):
            await ledger.reserve(await tenant.reservation(run, amounts={"calls": 1}, scopes=scopes))

    async def keep_ending() -> None:
        while working:
            await end_windows(tenant)
            await asyncio.sleep(0.01)

    for kind in ("user", "role", "project"):
        async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
            await service.set_limit(
                connection, tenant.tenant_id, tenant.scope(kind), "calls", limit_amount=10**6, unlimited=False,
                window="day", actor="user:test", reason="test",
            )  # fmt: skip
    ending = asyncio.create_task(keep_ending())
    try:
        await asyncio.gather(*(work(Ledger(engine)) for engine in engines))
    finally:
        working = False
        await ending
        for engine in engines:
            await engine.dispose()
    used = [window for window in await windows(tenant) if window["unit"] == "calls"]
    assert sum(window["reserved"] for window in used) == 3 * 6 * 40
    assert len(used) > 3 * 3
    await check_books(tenant, {})


async def test_windows_in_the_books_follow_each_other(tenant: Tenant) -> None:
    await tenant.cap("tenant", 10**6)
    await cap_of(tenant, 100, window="hour")
    for _ in range(4):
        await use_nothing(tenant)
        await end_windows(tenant)
    await use_nothing(tenant)
    for before, after in pairwise(await windows(tenant)):
        assert before["ends_at"] == after["starts_at"]
        assert after["starts_at"] < after["ends_at"] <= after["starts_at"] + HOUR


async def use_nothing(tenant: Tenant) -> None:
    hold = await tenant.held(amounts={"nano_usd": 1})
    await tenant.settle(hold.hold_id, "voided")


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago", "Australia/Lord_Howe"])
async def test_a_tenant_that_moves_keeps_its_window_and_has_no_instant_twice(tenant: Tenant, zone: str) -> None:
    await tenant.cap("tenant", 10**6)
    first = await cap_of(tenant, 100)
    one, actual = await use(tenant, 80)
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        await set_time_zone(connection, tenant.tenant_id, zone)
    denied = await tenant.reserve(await tenant.run(), amounts={"nano_usd": 30})
    assert denied.verdict == "deny", "moving gives no second limit for the day"
    assert [window["cap_id"] for window in await windows(tenant)] == [first]
    await end_windows(tenant)
    other, others = await use(tenant, 90)
    old, fresh = await windows(tenant)
    assert fresh["starts_at"] == max(old["ends_at"], fresh["starts_at"])
    now = datetime.now(UTC)
    assert fresh["ends_at"] == window_of("day", zone, now)[1]
    assert fresh["starts_at"] == max(old["ends_at"], window_of("day", zone, now)[0])
    await check_books(tenant, {one: actual, other: others})


async def test_a_limit_changes_for_the_window_in_force_and_those_after_it(tenant: Tenant) -> None:
    await tenant.cap("tenant", 10**6)
    first = await cap_of(tenant, 100)
    held = await tenant.held(amounts={"nano_usd": 60})
    assert await cap_of(tenant, 40) == first
    assert (await tenant.reserve(await tenant.run(), amounts={"nano_usd": 1})).verdict == "deny"
    await end_windows(tenant)
    # the next window has the lowered limit, and none of the ceiling that what was running had
    assert (await tenant.reserve(await tenant.run(), amounts={"nano_usd": 41})).verdict == "deny"
    fits = await tenant.held(amounts={"nano_usd": 40})
    _, fresh = await windows(tenant)
    assert (fresh["limit_amount"], fresh["ceiling"]) == (40, 40)
    second = await cap_of(tenant, 50)
    assert second == fresh["cap_id"]
    assert (await tenant.reserve(await tenant.run(), amounts={"nano_usd": 11})).verdict == "deny"
    await tenant.held(amounts={"nano_usd": 10})
    await end_windows(tenant)
    third = await cap_of(tenant, 5)  # set while the newest has ended: it is the next that gets it
    assert third not in (first, second)
    found = await audit(tenant.database.engine("auditor"))
    slug = await tenant.database.value("SELECT slug FROM tenants WHERE tenant_id = $1", tenant.tenant_id)
    assert [one for one in found.discrepancies if one.tenant == slug] == []
    limits = [(window["limit_amount"], window["reserved"]) for window in await windows(tenant)]
    assert limits == [(40, 60), (50, 50), (5, 0)]
    await tenant.settle(held.hold_id, "voided")
    await tenant.settle(fits.hold_id, "voided")
    await check_books(tenant, {})


async def told(tenant: Tenant) -> list[tuple[UUID, str, int]]:
    rows = await tenant.database.fetch(
        "SELECT data FROM timeline_events WHERE tenant_id = $1 AND type = 'cap.threshold' ORDER BY created_at, seq",
        tenant.tenant_id,
    )
    found = [orjson.loads(row["data"]) for row in rows]
    return [(UUID(one["cap_id"]), one["window"], one["percent"]) for one in found]


async def test_thresholds_are_told_once_a_window(tenant: Tenant) -> None:
    await tenant.cap("tenant", unlimited=True)
    first = await cap_of(tenant, 100, thresholds=[50, 80, 100])
    actual = dict([await use(tenant, 49)])
    assert await told(tenant) == []
    for amount in (1, 5, 1):
        actual |= [await use(tenant, amount)]
    assert await told(tenant) == [(first, "day", 50)]
    actual |= [await use(tenant, 44)]  # over two at once
    assert await told(tenant) == [(first, "day", percent) for percent in (50, 80, 100)]
    await end_windows(tenant)
    actual |= [await use(tenant, 90)]
    (_, fresh) = await windows(tenant)
    second = fresh["cap_id"]
    assert (await told(tenant))[3:] == [(second, "day", 50), (second, "day", 80)]
    await cap_of(tenant, 120)  # 75 %: 50 stays told, and 80 is told again
    actual |= [await use(tenant, 6)]
    assert (await told(tenant))[5:] == [(second, "day", 80)]
    await cap_of(tenant, 100)
    assert len(await told(tenant)) == 6, "who lowers a limit knows it"
    await cap_of(tenant, 1_000)  # 9.6 %
    actual |= [await use(tenant, 404)]
    assert (await told(tenant))[6:] == [(second, "day", 50)]
    await cap_of(tenant, 600)  # 83 %, which nobody was told: the next who uses something is
    actual |= [await use(tenant, 1)]
    assert (await told(tenant))[7:] == [(second, "day", 80)]
    await check_books(tenant, actual)


async def test_fifty_who_settle_at_once_are_told_each_threshold_once(tenant: Tenant) -> None:
    await tenant.cap("tenant", unlimited=True)
    cap = await cap_of(tenant, 50, thresholds=[10, 50, 100])
    holds = [await tenant.held(run, amounts={"nano_usd": 1}) for run in await tenant.runs(50)]
    for hold in holds:
        await tenant.executed(hold)
    await asyncio.gather(*(tenant.settle(hold.hold_id, "committed", {"nano_usd": 1}) for hold in holds))
    assert sorted(await told(tenant)) == [(cap, "day", percent) for percent in (10, 50, 100)]
    await check_books(tenant, {hold.hold_id: {"nano_usd": 1} for hold in holds})


async def test_the_record_names_the_bounds_of_the_window(tenant: Tenant) -> None:
    await tenant.cap("tenant", 10**6)
    await cap_of(tenant, 100)
    decision = await tenant.reserve(await tenant.run())
    part_b = orjson.loads(
        await tenant.database.value("SELECT part_b FROM decisions WHERE decision_id = $1", decision.decision_id)
    )
    total, day = sorted(part_b["legs"], key=lambda leg: "window" in leg)
    assert "window" not in total
    (window,) = await windows(tenant)
    bounds = [int(window[name].timestamp() * 1000) for name in ("starts_at", "ends_at")]
    assert day["window"] == ["day", *bounds]
    assert bounds[0] <= part_b["time_ms"] < bounds[1]


async def test_who_only_looks_sees_an_ended_window_as_unused(tenant: Tenant) -> None:
    """Admission and estimates read without a lock, and begin no window."""
    await tenant.cap("tenant", 10**6)
    await cap_of(tenant, 100)
    await use(tenant, 100)
    await end_windows(tenant)
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        caps = await read_applicable_caps(connection, tenant.tenant_id, tenant.scopes, ["nano_usd"])
    by_window = {cap.window_kind: cap for cap in caps}
    assert (by_window["day"].committed, by_window["total"].committed) == (0, 100)
    assert len(await windows(tenant)) == 1
