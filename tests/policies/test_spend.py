"""A limit on money is as hard as a cap: fifty callers for the last cent, deaths, and what was reserved and not spent."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from holdfast.actions.form import Action
from tests.ledger.world import Tenant

from .test_limits import ASKING, asks_of, governor, said
from .test_past import call, reserve

CENT = 10_000_000
ASK = 3_000_000
"""What each caller reserves: three fit into the cent, and a third of one is left over."""
FIT = CENT // ASK
RULES = (
    "limit spend <= usd(0.01) per run",
    "limit spend <= usd(0.01) in total per tenant",
    "limit spend <= usd(0.01) per 24h per user",
)
USED = """
    SELECT coalesce(sum(coalesce(cost_nano_usd, max_cost_nano_usd)), 0)::bigint FROM holds
    WHERE tenant_id = $1 AND state NOT IN ('voided', 'expired')
"""


async def used(tenant: Tenant) -> int:
    """Returns what is used of the limit, as a plain sum of the ledger's holds in one snapshot."""
    value: int = await tenant.database.value(USED, tenant.tenant_id)
    return value


@asynccontextmanager
async def watched(tenant: Tenant) -> AsyncIterator[None]:
    """Looks at the sum all the while, and fails if it was over the limit at any time."""
    seen, ended = [0], asyncio.Event()

    async def look() -> None:
        while not ended.is_set():
            seen.append(await used(tenant))

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        ended.set()
        await looking
    assert max(seen) <= CENT


@pytest.mark.parametrize("rule", RULES)
async def test_of_fifty_in_two_processes_exactly_as_many_get_money_as_fits(tenant: Tenant, rule: str) -> None:
    await tenant.cap(unlimited=True)
    asks = await asks_of(tenant, rule)
    async with watched(tenant):
        both = await asyncio.gather(*(governor(tenant, asks[half::2], nano_usd=ASK) for half in (0, 1)))
        codes = sum(await asyncio.gather(*(said(process) for process in both)), Counter[str]())
    assert codes == {"policy.permitted": FIT, "policy.limit": 2 * ASKING - FIT}
    assert await used(tenant) == FIT * ASK
    assert not (await reserve(tenant, *_again(asks), nano_usd=CENT - FIT * ASK + 1)).hold_id
    # the very last of it can be had, to the nano-dollar
    assert (await reserve(tenant, *_again(asks, 1), nano_usd=CENT - FIT * ASK)).verdict == "allow"
    assert await used(tenant) == CENT


def _again(asks: list[tuple[UUID, int]], more: int = 0) -> tuple[UUID, Action, int]:
    """Returns run, action and a step that was not asked for."""
    run, _ = asks[0]
    return run, call("pay", amount=2), 2 * ASKING + 1 + more


@pytest.mark.parametrize("rule", RULES[:2])
async def test_what_was_reserved_and_not_spent_can_be_had_again_whoever_dies(tenant: Tenant, rule: str) -> None:
    await tenant.cap(unlimited=True)
    asks = await asks_of(tenant, rule)
    # of what is allowed some costs a third, some comes to nothing, and some is left open
    becomes = [(ASK // 3, -1, None)[number % 3] for number in range(2 * ASKING)]
    async with watched(tenant):
        dying, living = [
            await governor(tenant, asks[half::2], nano_usd=ASK, becomes=becomes[half::2]) for half in (0, 1)
        ]
        assert dying.stdout is not None
        await dying.stdout.readline()  # it has decided something, and is among reserving and settling
        dying.kill()
        await dying.wait()
        codes = await said(living)
        assert codes.keys() <= {"policy.permitted", "policy.limit"}
        await tenant.database.leave()  # what the dead one had asked for last may still have been on its way
        # what is left is there for whoever asks, all of it and no more, however the dead one left its own
        room = (CENT - await used(tenant)) // ASK
        run, action, step = _again(asks, 10)
        later = [await reserve(tenant, run, action, step + more, nano_usd=ASK) for more in range(room + 2)]
        assert [decision.code for decision in later] == ["policy.permitted"] * room + ["policy.limit"] * 2
    assert CENT - ASK < await used(tenant) <= CENT


@pytest.mark.parametrize("rule", RULES[1:])
async def test_the_difference_is_given_back_once(tenant: Tenant, rule: str) -> None:
    await tenant.cap(unlimited=True)
    asks = await asks_of(tenant, rule)
    (run, action, step) = _again(asks)
    held = [await reserve(tenant, run, action, step + more, nano_usd=ASK) for more in range(FIT)]
    holds = [decision.hold_id for decision in held if decision.hold_id is not None]
    assert len(holds) == FIT
    await tenant.executed(await tenant.hold(holds[0]))
    await tenant.settle(holds[0], "committed", {"nano_usd": 1_000_001})  # 2,999,999 are free: one nano-dollar too few
    assert await used(tenant) == CENT - 1_999_999 - 1_000_000
    async with watched(tenant):
        both = await asyncio.gather(*(governor(tenant, asks[half::2], nano_usd=ASK) for half in (0, 1)))
        codes = sum(await asyncio.gather(*(said(process) for process in both)), Counter[str]())
        assert codes == {"policy.limit": 2 * ASKING}
        await tenant.settle(holds[1], "voided")
        later = [(run_, step_ + 100) for run_, step_ in asks]
        both = await asyncio.gather(*(governor(tenant, later[half::2], nano_usd=ASK) for half in (0, 1)))
        codes = sum(await asyncio.gather(*(said(process) for process in both)), Counter[str]())
    assert codes == {"policy.permitted": 1, "policy.limit": 2 * ASKING - 1}
