"""Attacks on a hold's way: permits used twice, leases lost, outcomes forged, settled holds stirred up (LAW 1, LAW 4)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Literal

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from holdfast.database.engine import tenantless, transaction
from holdfast.errors import Conflict, PermitUsed
from holdfast.ids import new_id
from holdfast.ledger.service import settle_in
from holdfast.ledger.types import FactsChanged, HoldView, Redemption, Settlement

from .world import Database, Tenant, new_tenant, until


@pytest.fixture
async def hold(tenant: Tenant) -> HoldView:
    await tenant.cap("tenant", 1_000)
    return await tenant.held()


async def _lease_over(tenant: Tenant, hold: HoldView) -> None:
    await until(
        lambda: tenant.database.value(
            "SELECT lease_expires_at <= clock_timestamp() FROM holds WHERE hold_id = $1", hold.hold_id
        )
    )


async def _short_lease(tenant: Tenant) -> tuple[HoldView, bytes]:
    """A hold that is executing, whose lease is over."""
    hold = await tenant.held(lease_ms=1)
    token = (await tenant.redeem(hold)).lease_token
    await _lease_over(tenant, hold)
    return hold, token


# Redeeming ---------------------------------------------------------------------------------------------------------------


async def test_of_many_who_redeem_a_permit_at_once_exactly_one_may_execute(tenant: Tenant, hold: HoldView) -> None:
    answers = await asyncio.gather(*(tenant.redeem(hold) for _ in range(40)), return_exceptions=True)
    assert sum(isinstance(answer, Redemption) for answer in answers) == 1
    assert all(isinstance(answer, Redemption | PermitUsed) for answer in answers)


async def test_what_is_redeemed_is_exactly_what_was_decided(tenant: Tenant, hold: HoldView) -> None:
    assert (await tenant.redeem(hold)).action == hold.action


async def test_a_permit_for_other_arguments_redeems_nothing(tenant: Tenant, hold: HoldView) -> None:
    for digest in (secrets.token_bytes(32), hold.digest[:-1], b"", hold.digest[:-1] + bytes([hold.digest[-1] ^ 1])):
        with pytest.raises(PermitUsed):
            await tenant.database.ledger("broker").redeem(tenant.tenant_id, hold.hold_id, digest)
    await tenant.redeem(hold)


async def test_another_tenant_redeems_nothing(tenant: Tenant, hold: HoldView) -> None:
    stranger = await new_tenant(tenant.database)
    with pytest.raises(PermitUsed):
        await tenant.database.ledger("broker").redeem(stranger.tenant_id, hold.hold_id, hold.digest)


async def test_an_expired_hold_is_redeemed_by_nobody_even_before_a_sweeper_comes(tenant: Tenant) -> None:
    await tenant.cap("tenant", 1_000)
    hold = await tenant.held(hold_ms=1)
    await until(
        lambda: tenant.database.value(
            "SELECT expires_at <= clock_timestamp() FROM holds WHERE hold_id = $1", hold.hold_id
        )
    )
    with pytest.raises(PermitUsed):
        await tenant.redeem(hold)


@pytest.mark.parametrize("to", ["voided", "expired"])
async def test_a_settled_hold_is_redeemed_by_nobody(tenant: Tenant, hold: HoldView, to: str) -> None:
    await tenant.settle(hold.hold_id, to)
    with pytest.raises(PermitUsed):
        await tenant.redeem(hold)


async def test_redeeming_races_expiring_and_exactly_one_of_them_wins(tenant: Tenant) -> None:
    await tenant.cap("tenant", 1_000_000)
    run = await tenant.run()
    for step in range(15):
        hold = await tenant.held(run, step)
        redeemed, settled = await asyncio.gather(
            tenant.redeem(hold), tenant.settle(hold.hold_id, "expired", seen=hold), return_exceptions=True
        )
        now = await tenant.hold(hold.hold_id)
        if isinstance(redeemed, Redemption):
            assert isinstance(settled, FactsChanged)
            assert now.state == "executing"
        else:
            assert isinstance(redeemed, PermitUsed)
            assert settled is None
            assert now.state == "expired"


# Going outside -----------------------------------------------------------------------------------------------------------


async def test_only_the_holder_of_the_token_goes_outside(tenant: Tenant, hold: HoldView) -> None:
    token = (await tenant.redeem(hold)).lease_token
    for forged in (secrets.token_bytes(32), b"", token[:-1], token + b"\0", bytes(32)):
        assert await tenant.begin(hold.hold_id, forged) is None
    assert await tenant.begin(new_id(), token) is None
    assert not (await tenant.hold(hold.hold_id)).went_outward
    remaining_ms = await tenant.begin(hold.hold_id, token)
    assert remaining_ms is not None
    assert 0 < remaining_ms <= 60_000


async def test_a_token_of_another_hold_opens_nothing(tenant: Tenant, hold: HoldView) -> None:
    other = await tenant.held()
    await tenant.redeem(hold)
    token = (await tenant.redeem(other)).lease_token
    assert await tenant.begin(hold.hold_id, token) is None
    assert not await tenant.store(hold.hold_id, token)


async def test_nobody_goes_outside_without_a_permit_redeemed(tenant: Tenant, hold: HoldView) -> None:
    for token in (None, b"", secrets.token_bytes(32)):
        async with tenantless(tenant.database.engine("executor")) as connection:
            began = await connection.scalar(
                text("SELECT begin_outward(:hold, CAST(:token AS bytea))"), {"hold": hold.hold_id, "token": token}
            )
        assert began is None


async def test_an_executor_that_wakes_after_its_lease_sends_nothing(tenant: Tenant) -> None:
    await tenant.cap("tenant", 1_000)
    hold, token = await _short_lease(tenant)
    assert await tenant.begin(hold.hold_id, token) is None
    assert not (await tenant.hold(hold.hold_id)).went_outward


async def test_asking_again_after_a_lost_answer_does_not_move_the_moment(tenant: Tenant, hold: HoldView) -> None:
    token = (await tenant.redeem(hold)).lease_token
    first = await tenant.begin(hold.hold_id, token)
    began_at = await tenant.database.value("SELECT outward_at FROM holds WHERE hold_id = $1", hold.hold_id)
    again = await tenant.begin(hold.hold_id, token)
    assert first is not None
    assert again is not None
    assert again <= first
    assert await tenant.database.value("SELECT outward_at FROM holds WHERE hold_id = $1", hold.hold_id) == began_at


async def test_a_hold_voided_because_nothing_went_outside_lets_nothing_outside_any_more(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 1_000)
    hold = await tenant.held()
    token = (await tenant.redeem(hold)).lease_token
    await tenant.settle(hold.hold_id, "voided")
    assert await tenant.begin(hold.hold_id, token) is None
    assert not await tenant.store(hold.hold_id, token)
    assert await tenant.balances(cap) == (0, 0, 0)


async def test_going_outside_races_voiding_and_exactly_one_of_them_wins(tenant: Tenant) -> None:
    await tenant.cap("tenant", 1_000_000)
    run = await tenant.run()
    for step in range(15):
        hold = await tenant.held(run, step)
        token = (await tenant.redeem(hold)).lease_token
        seen = await tenant.hold(hold.hold_id)
        began, voided = await asyncio.gather(
            tenant.begin(hold.hold_id, token), tenant.settle(hold.hold_id, "voided", seen=seen), return_exceptions=True
        )
        if began is None:
            assert voided is None
            assert (await tenant.hold(hold.hold_id)).state == "voided"
        else:
            assert isinstance(began, int)
            assert isinstance(voided, FactsChanged)
            assert (await tenant.hold(hold.hold_id)).state == "executing"


# Outcomes ----------------------------------------------------------------------------------------------------------------


async def test_an_outcome_is_stored_once_and_the_same_again_is_no_error(tenant: Tenant, hold: HoldView) -> None:
    token = await tenant.executed(hold)
    assert await tenant.store(hold.hold_id, token)
    assert not await tenant.store(hold.hold_id, token, result=b'{"other":1}')
    assert not await tenant.store(hold.hold_id, token, cost_class="nothing")
    assert not await tenant.store(hold.hold_id, secrets.token_bytes(32))
    outcome = (await tenant.hold(hold.hold_id)).outcome
    assert outcome is not None
    assert (outcome.cost_class, outcome.result) == ("known", b"{}")


async def test_many_who_store_different_outcomes_at_once_store_one(tenant: Tenant, hold: HoldView) -> None:
    token = (await tenant.redeem(hold)).lease_token
    await tenant.begin(hold.hold_id, token)
    answers = await asyncio.gather(*(tenant.store(hold.hold_id, token, result=b'{"n":%d}' % n) for n in range(20)))
    assert answers.count(True) == 1
    outcome = (await tenant.hold(hold.hold_id)).outcome
    assert outcome is not None
    assert outcome.result == b'{"n":%d}' % answers.index(True)


@pytest.mark.parametrize(("to", "actual"), [("committed", {"nano_usd": 4}), ("voided", {})])
async def test_an_outcome_sent_again_after_settling_is_known_and_changes_nothing(
    tenant: Tenant, hold: HoldView, to: str, actual: dict[str, int]
) -> None:
    token = await tenant.executed(hold)
    await tenant.settle(hold.hold_id, to, actual)
    assert await tenant.store(hold.hold_id, token)
    assert not await tenant.store(hold.hold_id, token, result=b"[]")
    assert (await tenant.hold(hold.hold_id)).state == to


async def test_no_outcome_is_stored_for_what_nobody_executes(tenant: Tenant, hold: HoldView) -> None:
    for token in (b"", secrets.token_bytes(32)):
        assert not await tenant.store(hold.hold_id, token)
    assert (await tenant.hold(hold.hold_id)).state == "held"


async def _lost(tenant: Tenant) -> tuple[HoldView, bytes]:
    """A hold whose outcome is unknown, and the lease of who may still know it."""
    hold = await tenant.held()
    token = (await tenant.redeem(hold)).lease_token
    await tenant.begin(hold.hold_id, token)
    await tenant.settle(hold.hold_id, "unknown")
    return hold, token


async def test_a_late_outcome_of_an_unknown_hold_is_kept_and_changes_no_balance(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 1_000)
    hold, token = await _lost(tenant)
    assert await tenant.store(hold.hold_id, token)
    assert await tenant.store(hold.hold_id, token), "the same again, its answer having been lost"
    assert not await tenant.store(hold.hold_id, token, result=b"[]")
    late = await tenant.hold(hold.hold_id)
    assert (late.state, late.outcome is not None) == ("unknown", True)
    assert await tenant.balances(cap) == (10, 0, 0)
    await tenant.settle(hold.hold_id, "committed", {"nano_usd": 7})
    assert await tenant.balances(cap) == (0, 7, 0)


async def test_an_outcome_that_comes_after_an_unknown_hold_was_resolved_changes_nothing(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 1_000)
    hold, token = await _lost(tenant)
    await tenant.resolve(hold.hold_id, happened=True)
    assert not await tenant.store(hold.hold_id, token)
    assert await tenant.balances(cap) == (0, 10, 0)


@pytest.mark.parametrize(("to", "stored"), [("voided", False), ("unknown", True)])
async def test_an_outcome_waits_for_a_settlement_that_is_under_way(
    tenant: Tenant, hold: HoldView, to: Literal["voided", "unknown"], stored: bool
) -> None:
    token = (await tenant.redeem(hold)).lease_token
    if to == "unknown":
        await tenant.begin(hold.hold_id, token)
    settlement = Settlement(tenant.tenant_id, hold.hold_id, "executing", False, to == "unknown", to, {}, "run", "test")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'holdfast_executor' AND wait_event_type = 'Lock'"
    async with transaction(tenant.database.engine("governor"), tenant.tenant_id) as connection:
        await settle_in(connection, settlement)
        storing = asyncio.create_task(tenant.store(hold.hold_id, token))
        await until(lambda: tenant.database.value(waiting))
    assert await storing is stored
    now = await tenant.hold(hold.hold_id)
    assert (now.state, now.outcome is not None) == (to, stored)


async def test_storing_races_becoming_unknown_and_the_outcome_is_never_lost(tenant: Tenant) -> None:
    await tenant.cap("tenant", 1_000_000)
    run = await tenant.run()
    for step in range(15):
        hold = await tenant.held(run, step)
        token = (await tenant.redeem(hold)).lease_token
        await tenant.begin(hold.hold_id, token)
        seen = await tenant.hold(hold.hold_id)
        stored, _ = await asyncio.gather(
            tenant.store(hold.hold_id, token), tenant.settle(hold.hold_id, "unknown", seen=seen), return_exceptions=True
        )
        assert stored is True
        now = await tenant.hold(hold.hold_id)
        assert now.outcome is not None
        assert now.state in ("executed", "unknown")


# Settling ----------------------------------------------------------------------------------------------------------------

Reach = Callable[[Tenant, HoldView], Awaitable[object]]


async def _stay(tenant: Tenant, hold: HoldView) -> None:
    pass


async def _go_outside(tenant: Tenant, hold: HoldView) -> None:
    await tenant.begin(hold.hold_id, (await tenant.redeem(hold)).lease_token)


async def _become_unknown(tenant: Tenant, hold: HoldView) -> None:
    await _go_outside(tenant, hold)
    await tenant.settle(hold.hold_id, "unknown")


async def _commit(tenant: Tenant, hold: HoldView) -> None:
    await tenant.executed(hold)
    await tenant.settle(hold.hold_id, "committed", {"nano_usd": 3})


async def _void(tenant: Tenant, hold: HoldView) -> None:
    await tenant.settle(hold.hold_id, "voided")


async def _expire(tenant: Tenant, hold: HoldView) -> None:
    await tenant.settle(hold.hold_id, "expired")


@pytest.mark.parametrize(
    ("reach", "allowed"),
    [
        (_stay, {"voided", "expired"}),
        (Tenant.redeem, {"voided", "unknown"}),
        (_go_outside, {"unknown"}),
        (Tenant.executed, {"committed", "voided", "unknown"}),
        (_become_unknown, {"committed", "voided"}),
        (_commit, set()),
        (_void, set()),
        (_expire, set()),
    ],
)
async def test_a_hold_goes_only_the_ways_that_the_law_has(tenant: Tenant, reach: Reach, allowed: set[str]) -> None:
    cap = await tenant.cap("tenant", 1_000)
    for to in ("committed", "voided", "expired", "unknown"):
        hold = await tenant.held()
        await reach(tenant, hold)
        before = (await tenant.hold(hold.hold_id), await tenant.balances(cap))
        try:
            await tenant.settle(hold.hold_id, to, {"nano_usd": 1} if to == "committed" else {})
        except Conflict:
            assert to not in allowed
            assert (await tenant.hold(hold.hold_id), await tenant.balances(cap)) == before
        else:
            assert to in allowed
            assert (await tenant.hold(hold.hold_id)).state == to


@pytest.mark.parametrize("to", ["voided", "unknown"])
async def test_nothing_but_committing_costs(tenant: Tenant, hold: HoldView, to: str) -> None:
    await tenant.executed(hold)
    with pytest.raises(Conflict):
        await tenant.settle(hold.hold_id, to, {"nano_usd": 1})


async def test_nothing_comes_to_less_than_nothing(tenant: Tenant, hold: HoldView) -> None:
    await tenant.executed(hold)
    with pytest.raises(Conflict):
        await tenant.settle(hold.hold_id, "committed", {"nano_usd": -1})
    assert (await tenant.hold(hold.hold_id)).state == "executed"


async def test_of_many_who_settle_at_once_one_settles(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 1_000)
    hold = await tenant.held()
    await tenant.executed(hold)
    seen = await tenant.hold(hold.hold_id)
    answers = await asyncio.gather(
        *(tenant.settle(hold.hold_id, "committed", {"nano_usd": n}, seen=seen) for n in range(1, 21)),
        return_exceptions=True,
    )
    assert answers.count(None) == 1
    assert sum(isinstance(answer, FactsChanged) for answer in answers) == 19
    assert await tenant.balances(cap) == (0, answers.index(None) + 1, 0)


async def test_settling_on_what_is_no_longer_so_is_refused(tenant: Tenant, hold: HoldView) -> None:
    token = (await tenant.redeem(hold)).lease_token
    before_outward = await tenant.hold(hold.hold_id)
    await tenant.begin(hold.hold_id, token)
    with pytest.raises(FactsChanged):
        await tenant.settle(hold.hold_id, "voided", seen=before_outward)
    before_outcome = await tenant.hold(hold.hold_id)
    await tenant.settle(hold.hold_id, "unknown")
    unknown = await tenant.hold(hold.hold_id)
    assert await tenant.store(hold.hold_id, token)
    for stale in (hold, before_outcome, unknown):
        with pytest.raises(FactsChanged):
            await tenant.settle(hold.hold_id, "voided", seen=stale)
    with pytest.raises(FactsChanged):
        await tenant.ledger.settle(
            Settlement(tenant.tenant_id, new_id(), "held", False, False, "voided", {}, "run", "no such hold")
        )


async def test_a_database_that_is_told_twice_settles_a_hold_once(tenant: Tenant, database: Database) -> None:
    """Even a program without any check of its own, and with every right: what is settled stays as it was settled."""
    await tenant.cap("tenant", 1_000)
    hold = await tenant.held()
    await tenant.settle(hold.hold_id, "voided")
    for change in (
        "state = 'held', settled_at = NULL",
        "state = 'committed'",
        "cost_nano_usd = 5",
        "leg_amounts = '{0}'",
        "settled_at = now()",
    ):
        with pytest.raises(asyncpg.CheckViolationError, match="is settled as voided"):
            await database.execute(f"UPDATE holds SET {change} WHERE hold_id = $1", hold.hold_id)


async def test_no_process_writes_a_balance_a_hold_or_the_journal_by_itself(tenant: Tenant, database: Database) -> None:
    await tenant.cap("tenant", 1_000)
    await tenant.held()
    statements = (
        "UPDATE caps SET reserved = 0",
        "UPDATE caps SET limit_amount = 2000, ceiling = 2000",
        "DELETE FROM caps",
        "UPDATE holds SET state = 'voided', settled_at = now()",
        "DELETE FROM holds",
        "UPDATE journal SET reason = 'x'",
        "DELETE FROM journal",
        "INSERT INTO journal_sums SELECT tenant_id, cap_id, now(), 0, 0, 0, 0 FROM caps",
        "UPDATE rollups SET cost_nano_usd = 0",
    )
    for role in ("api", "governor", "broker", "executor", "sweeper", "auditor"):
        for statement in statements:
            with pytest.raises(DBAPIError, match="permission denied"):
                async with transaction(database.engine(role), tenant.tenant_id) as connection:
                    await connection.execute(text(statement))


# Resolving ---------------------------------------------------------------------------------------------------------------


async def _unknown(tenant: Tenant) -> HoldView:
    hold = await tenant.held(amounts={"nano_usd": 10, "tokens": 50, "calls": 1, "slots": 1})
    await _become_unknown(tenant, hold)
    return hold


@pytest.mark.parametrize(
    ("happened", "cost", "nano_usd", "tokens", "state"),
    [(True, None, 10, 50, "committed"), (True, 0, 0, 50, "committed"), (True, 4, 4, 50, "committed"),
     (False, None, 0, 0, "voided"), (False, 3, 3, 50, "committed")],
)  # fmt: skip
async def test_a_person_says_what_became_of_an_unknown_hold(
    tenant: Tenant, happened: bool, cost: int | None, nano_usd: int, tokens: int, state: str
) -> None:
    money, counted = await tenant.cap("tenant", 1_000), await tenant.cap("user", 1_000, unit="tokens")
    slots = await tenant.cap("role", 5, unit="slots")
    hold = await _unknown(tenant)
    assert await tenant.balances(slots) == (1, 0, 0)
    resolved = await tenant.resolve(hold.hold_id, happened=happened, cost=cost)
    assert (resolved.state, resolved.cost_nano_usd) == (state, nano_usd)
    assert await tenant.balances(money) == (0, nano_usd, 0)
    assert await tenant.balances(counted) == (0, tokens, 0), "what nobody measured counts as held"
    assert await tenant.balances(slots) == (0, 0, 0)


@pytest.mark.parametrize("happened", [True, False])
async def test_nobodys_word_undoes_an_outcome_that_has_come(tenant: Tenant, happened: bool) -> None:
    cap = await tenant.cap("tenant", 1_000)
    hold, token = await _lost(tenant)
    assert await tenant.store(hold.hold_id, token, cost_class="known")
    with pytest.raises(Conflict, match="has come: it is settled by that"):
        await tenant.resolve(hold.hold_id, happened=happened, cost=0)
    assert await tenant.balances(cap) == (10, 0, 0)
    await tenant.settle(hold.hold_id, "committed", {"nano_usd": 7})
    assert await tenant.balances(cap) == (0, 7, 0)


async def test_an_outcome_that_knows_no_cost_leaves_the_word_to_a_person(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 1_000)
    hold, token = await _lost(tenant)
    assert await tenant.store(hold.hold_id, token, cost_class="unknown")
    await tenant.resolve(hold.hold_id, happened=True, cost=4)
    assert await tenant.balances(cap) == (0, 4, 0)


async def test_only_an_unknown_hold_is_resolved_and_only_once(tenant: Tenant) -> None:
    await tenant.cap("tenant", 1_000)
    for reach in (_stay, Tenant.redeem, _go_outside, Tenant.executed, _commit, _void):
        hold = await tenant.held()
        await reach(tenant, hold)
        with pytest.raises(Conflict):
            await tenant.resolve(hold.hold_id, happened=True)
    hold = await tenant.held()
    await _become_unknown(tenant, hold)
    answers = await asyncio.gather(
        *(tenant.resolve(hold.hold_id, happened=n % 2 == 0) for n in range(10)), return_exceptions=True
    )
    assert sum(isinstance(answer, HoldView) for answer in answers) == 1
    assert sum(isinstance(answer, Conflict) for answer in answers) == 9
