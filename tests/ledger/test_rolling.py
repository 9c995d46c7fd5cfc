"""Rolling windows, and who tries to break them: hours that pass, late settlements, overbilling, races over the turn of an hour."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import orjson
import pytest

from holdfast.database.engine import transaction
from holdfast.ledger.budget import read_applicable_caps

from .books import check_books
from .rolling import audited, balances, buckets, carried, limit, pass_hours, record
from .world import Tenant

HOUR_MS: Final = 3_600_000
pytestmark = pytest.mark.usefixtures("hour")


async def use(tenant: Tenant, amount: int, *, cost: int | None = None) -> tuple[UUID, dict[str, int]]:
    hold = await tenant.held(amounts={"nano_usd": amount})
    await tenant.executed(hold)
    actual = {"nano_usd": amount if cost is None else cost}
    await tenant.settle(hold.hold_id, "committed", actual)
    return hold.hold_id, actual


async def refused(tenant: Tenant, amount: int) -> str:
    decision = await tenant.reserve(await tenant.run(), amounts={"nano_usd": amount})
    assert (decision.verdict, decision.code) == ("deny", "budget.cap_exceeded")
    return decision.message


@pytest.fixture
async def capped(tenant: Tenant) -> Tenant:
    """A tenant that may use 100 in any three hours."""
    await limit(tenant, 100)
    return tenant


# One after another ---------------------------------------------------------------------------------------------------------


async def test_a_bucket_counts_until_it_has_wholly_left(capped: Tenant) -> None:
    one, first = await use(capped, 60)
    await pass_hours(capped, 1)
    two, second = await use(capped, 40)
    for hours in (1, 1):  # the first bucket ended two hours ago, then three: the last of it may be three hours old
        message = await refused(capped, 1)
        assert message == "the cap on tenant per 3h has $0.0000 left of $0.0000001, and this may take $0.000000001"
        await pass_hours(capped, hours)
    await refused(capped, 1)
    await pass_hours(capped, 1)
    three, third = await use(capped, 60)
    await refused(capped, 1)
    assert await carried(capped) == (0, 40, 0)
    await pass_hours(capped, 30)
    four, fourth = await use(capped, 100)
    assert await carried(capped) == (0, 0, 0)
    await check_books(capped, {one: first, two: second, three: third, four: fourth})
    assert await audited(capped) == []


async def test_what_an_older_bucket_settles_is_carried_on(capped: Tenant) -> None:
    less, more, lost = [await capped.held(amounts={"nano_usd": amount}) for amount in (50, 20, 20)]
    await pass_hours(capped, 1)
    new = await capped.held(amounts={"nano_usd": 10})
    await refused(capped, 1)
    assert await carried(capped) == (90, 0, 0)
    await capped.executed(less)
    await capped.settle(less.hold_id, "committed", {"nano_usd": 5})
    assert await carried(capped) == (40, 5, 0)
    again = await capped.held(amounts={"nano_usd": 45})
    await refused(capped, 1)
    await capped.settle(lost.hold_id, "voided")
    await capped.executed(more)
    # 20 were held, 20 are free since the void, and 7 fit nowhere
    await capped.settle(more.hold_id, "committed", {"nano_usd": 47})
    assert await carried(capped) == (0, 45, 7)
    assert await balances(capped) == [(0, 45, 7), (55, 0, 0)]
    await refused(capped, 1)
    for hold in (new, again):
        await capped.settle(hold.hold_id, "voided")
    await check_books(capped, {less.hold_id: {"nano_usd": 5}, more.hold_id: {"nano_usd": 47}})
    assert await audited(capped) == []


async def test_debt_counts_as_long_as_its_bucket_and_leaves_with_it(capped: Tenant) -> None:
    one, first = await use(capped, 100, cost=170)
    assert await balances(capped) == [(0, 100, 70)]
    await pass_hours(capped, 3)
    await refused(capped, 1)
    assert await carried(capped) == (0, 100, 70)
    await pass_hours(capped, 1)
    two, second = await use(capped, 100)
    assert await balances(capped) == [(0, 100, 70), (0, 0, 0), (0, 100, 0)]
    await check_books(capped, {one: first, two: second})
    assert await audited(capped) == []


async def test_what_is_settled_after_its_bucket_has_left_moves_that_bucket_alone(capped: Tenant) -> None:
    late = await capped.held(amounts={"nano_usd": 60})
    await capped.executed(late)
    await pass_hours(capped, 4)
    new = await capped.held(amounts={"nano_usd": 100})
    assert await carried(capped) == (0, 0, 0)
    await capped.settle(late.hold_id, "committed", {"nano_usd": 130})
    # as of any window that has ended: what fits under its own limit, and debt beyond
    assert await balances(capped) == [(0, 100, 30), (100, 0, 0)]
    assert await carried(capped) == (0, 0, 0)
    await capped.settle(new.hold_id, "voided")
    await check_books(capped, {late.hold_id: {"nano_usd": 130}})
    assert await audited(capped) == []


async def test_hours_that_have_left_are_not_in_the_way_of_a_late_bill_though_nobody_has_reserved_since(
    tenant: Tenant,
) -> None:
    await limit(tenant, 100, thresholds=[100])
    one, first = await use(tenant, 90)
    await pass_hours(tenant, 1)
    late = await tenant.held(amounts={"nano_usd": 10})
    await tenant.executed(late)
    await pass_hours(tenant, 3)
    await tenant.settle(late.hold_id, "committed", {"nano_usd": 15})
    assert await balances(tenant) == [(0, 90, 0), (0, 15, 0), (0, 0, 0)]
    assert await carried(tenant) == (0, 15, 0)
    told = "SELECT count(*) FROM timeline_events WHERE tenant_id = $1 AND type = 'cap.threshold'"
    assert await tenant.database.value(told, tenant.tenant_id) == 0
    await check_books(tenant, {one: first, late.hold_id: {"nano_usd": 15}})
    assert await audited(tenant) == []


async def test_a_limit_is_that_of_all_buckets_that_count_and_a_raise_pays_their_debt(capped: Tenant) -> None:
    actual = dict([await use(capped, 50, cost=150)])  # 50 fit, 50 more are free, 50 are debt
    await pass_hours(capped, 1)
    await capped.reserve(await capped.run(), amounts={"nano_usd": 1})
    assert (await balances(capped), await carried(capped)) == ([(0, 100, 50), (0, 0, 0)], (0, 100, 50))
    await limit(capped, 130)
    assert (await balances(capped), await carried(capped)) == ([(0, 130, 20), (0, 0, 0)], (0, 130, 20))
    await limit(capped, 10)
    await refused(capped, 1)
    assert [row["ceiling"] for row in await buckets(capped)] == [130, 130]
    assert await audited(capped) == []
    await limit(capped, 0, unlimited=True)
    assert (await balances(capped), await carried(capped)) == ([(0, 150, 0), (0, 0, 0)], (0, 150, 0))
    hold = await capped.held(amounts={"nano_usd": 1_000})
    await limit(capped, 200)
    assert {row["limit_amount"] for row in await buckets(capped)} == {200}
    await refused(capped, 1)
    await capped.settle(hold.hold_id, "voided")
    actual |= [await use(capped, 50)]
    await refused(capped, 1)
    await check_books(capped, actual)
    assert await audited(capped) == []


async def test_what_is_superseded_returns_to_the_bucket_it_was_taken_from(capped: Tenant) -> None:
    run = await capped.run()
    await capped.reserve(run, amounts={"nano_usd": 80})
    await pass_hours(capped, 1)
    await refused(capped, 21)
    again = await capped.reserve(run, argument="other", amounts={"nano_usd": 90})
    assert again.verdict == "allow"
    assert (await balances(capped), await carried(capped)) == ([(0, 0, 0), (90, 0, 0)], (0, 0, 0))
    await check_books(capped, {})
    assert await audited(capped) == []


async def test_the_record_has_what_was_carried_and_the_bounds_of_the_bucket(capped: Tenant) -> None:
    await use(capped, 30)
    held = await capped.held(amounts={"nano_usd": 20})
    await pass_hours(capped, 1)
    decision = await capped.reserve(await capped.run(), amounts={"nano_usd": 5})
    part_b = await record(capped, decision.decision_id)
    (leg,) = part_b["legs"]
    newest = (await buckets(capped))[-1]
    bounds = [int(newest[name].timestamp() * 1000) for name in ("starts_at", "ends_at")]
    assert (leg["carried"], leg["reserved"], leg["window"]) == ("50", "0", ["3h", *bounds])
    assert bounds[1] - bounds[0] == HOUR_MS
    assert bounds[0] <= part_b["time_ms"] < bounds[1]
    denied = await capped.reserve(await capped.run(), amounts={"nano_usd": 60})
    assert denied.retryable, "what is held alone stands in the way, be it in an older bucket"
    await capped.settle(held.hold_id, "voided")
    assert not (await capped.reserve(await capped.run(), amounts={"nano_usd": 71})).retryable


async def told(tenant: Tenant) -> list[tuple[int, str]]:
    rows = await tenant.database.fetch(
        "SELECT data FROM timeline_events WHERE tenant_id = $1 AND type = 'cap.threshold' ORDER BY created_at, seq",
        tenant.tenant_id,
    )
    return [(one["percent"], one["used"]) for one in (orjson.loads(row["data"]) for row in rows)]


async def test_a_threshold_is_told_again_only_after_use_has_fallen_below_it(tenant: Tenant) -> None:
    await limit(tenant, 100, thresholds=[50, 90])
    await use(tenant, 50)
    await pass_hours(tenant, 1)
    await use(tenant, 5)
    late = await tenant.held(amounts={"nano_usd": 35})
    assert await told(tenant) == [(50, "50")], "what is still reached after an hour was told"
    await pass_hours(tenant, 1)
    await use(tenant, 1)
    await tenant.executed(late)
    await tenant.settle(late.hold_id, "committed", {"nano_usd": 35})  # in an older bucket: it counts all the same
    assert await told(tenant) == [(50, "50"), (90, "91")]
    await pass_hours(tenant, 2)  # the 50 have left: 41
    await use(tenant, 8)
    assert len(await told(tenant)) == 2
    await use(tenant, 1)
    assert (await told(tenant))[2:] == [(50, "50")]


async def test_who_only_looks_sees_what_counts_in_this_hour(capped: Tenant) -> None:
    await use(capped, 30)
    await pass_hours(capped, 1)
    await capped.held(amounts={"nano_usd": 20})

    async def seen() -> tuple[int, int, int]:
        async with transaction(capped.database.engine("api"), capped.tenant_id) as connection:
            (cap,) = await read_applicable_caps(connection, capped.tenant_id, capped.scopes, ["nano_usd"])
        return cap.reserved, cap.committed, cap.ceiling

    assert await seen() == (20, 30, 100)
    for expected in ((20, 30, 100), (20, 30, 100), (20, 0, 100), (0, 0, 100)):
        await pass_hours(capped, 1)
        assert await seen() == expected
    assert len(await buckets(capped)) == 2, "looking begins no bucket"
