"""A hold that a decision takes the place of is nothing of that decision's past, whatever else happens to it meanwhile."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from holdfast.ledger.types import FactsChanged
from tests.ledger.world import Tenant

from .test_family import start
from .test_limits import HELD, governor, said
from .test_past import PERMIT, asked, call, prepared, reserve, under
from .test_releases import POLICY, read_vault, release

ASK = 3_000_000
LIMITS = [
    "limit pay count <= 1 per run",
    "limit pay count <= 1 per day per user",
    "limit pay count <= 1 in total per tenant",
    "limit pay sum(args.amount) <= 2 per run",
    "limit pay sum(args.amount) <= 2 per 24h per tenant",
    "limit spend <= usd(0.004) per run",
    "limit spend <= usd(0.004) per month per project",
    "invariant few: at most 1 pay per run",
    "invariant few: at most 1 pay within 24h per user",
    "invariant little: sum(args.amount) of pay <= 2 within 1h per run",
]
WIDE = ["limit pay count <= 1 per run", "limit pay count <= 1 per day per user", "invariant few: at most 1 pay per run"]

pytestmark = pytest.mark.usefixtures("hour")  # some limits are those of a day


async def one(tenant: Tenant, rule: str) -> UUID:
    """Makes a run that has paid 1 of what it may, and nothing has come of it so far."""
    await tenant.cap(unlimited=True)
    (run,) = await under(tenant, PERMIT + rule)
    assert (await reserve(tenant, run, call("pay", amount=1), nano_usd=ASK)).verdict == "allow"
    return run


async def hold_of(tenant: Tenant, run: UUID) -> UUID:
    """Returns the one hold of a run."""
    (row,) = await tenant.database.fetch("SELECT hold_id FROM holds WHERE run_id = $1", run)
    hold_id: UUID = row["hold_id"]
    return hold_id


@pytest.mark.parametrize("rule", LIMITS)
async def test_a_step_that_is_decided_anew_with_other_arguments_has_the_room_of_its_old_hold(
    tenant: Tenant, rule: str
) -> None:
    run = await one(tenant, rule)
    old = await hold_of(tenant, run)
    anew = await reserve(tenant, run, call("pay", amount=2), nano_usd=ASK)
    assert (anew.verdict, anew.superseded) == ("allow", old)
    assert (await tenant.hold(old)).state == "voided"
    assert (await reserve(tenant, run, call("pay", amount=2), 2, nano_usd=ASK)).code in (
        "policy.limit",
        "policy.invariant",
    )
    assert await tenant.database.value(HELD, tenant.tenant_id) == 1


@pytest.mark.parametrize("rule", WIDE)
async def test_what_is_executed_between_evaluation_and_decision_keeps_its_place(tenant: Tenant, rule: str) -> None:
    run = await one(tenant, rule)
    old = await hold_of(tenant, run)
    reservation = await prepared(tenant, run, call("pay", amount=2), nano_usd=ASK)
    assert reservation.evaluated.verdict == "allow"
    await tenant.redeem(await tenant.hold(old))
    decision = await tenant.ledger.reserve(reservation)
    assert (decision.verdict, decision.code) == ("deny", "hold.key_conflict")
    assert await tenant.database.value(HELD, tenant.tenant_id) == 1
    assert (await tenant.hold(old)).state == "executing"


@pytest.mark.parametrize("rule", WIDE)
async def test_what_others_put_into_its_place_meanwhile_is_seen(tenant: Tenant, rule: str) -> None:
    run = await one(tenant, rule)
    late = await prepared(tenant, run, call("pay", amount=2), nano_usd=ASK)
    assert (await reserve(tenant, run, call("close"), nano_usd=ASK)).verdict == "allow"
    other = run if "per run" in rule else (await tenant.runs(1))[0]
    assert (await reserve(tenant, other, call("pay", amount=3), 2, nano_usd=ASK)).verdict == "allow"
    with pytest.raises(FactsChanged):
        await tenant.ledger.reserve(late)
    assert not (await asked(tenant, run, call("pay", amount=2), nano_usd=ASK))[0].verdict.allowed


@pytest.mark.parametrize("rule", WIDE)
async def test_whatever_has_begun_counts_for_its_own_step_too(tenant: Tenant, rule: str) -> None:
    run = await one(tenant, rule)
    hold = await tenant.hold(await hold_of(tenant, run))
    await tenant.redeem(hold)
    pay = call("pay", amount=2)
    assert not (await asked(tenant, run, pay, nano_usd=ASK))[0].verdict.allowed
    await tenant.database.execute(
        "UPDATE holds SET state = 'unknown', unknown_at = now() WHERE hold_id = $1", hold.hold_id
    )
    assert not (await asked(tenant, run, pay, nano_usd=ASK))[0].verdict.allowed
    assert (await reserve(tenant, run, pay, nano_usd=ASK)).code == "hold.key_conflict"


@pytest.mark.parametrize("rule", WIDE)
async def test_another_try_and_the_same_step_of_another_run_count(tenant: Tenant, rule: str) -> None:
    run = await one(tenant, rule)
    pay = call("pay", amount=2)
    assert (await reserve(tenant, run, pay, try_number=2, nano_usd=ASK)).verdict == "deny"
    assert (await reserve(tenant, run, pay, 2, nano_usd=ASK)).verdict == "deny"
    if "per run" not in rule:
        (other,) = await tenant.runs(1)
        for each in (other, await start(tenant, run)):
            assert (await reserve(tenant, each, pay, nano_usd=ASK)).verdict == "deny"
    assert await tenant.database.value(HELD, tenant.tenant_id) == 1


@pytest.mark.parametrize("rule", WIDE)
async def test_of_many_that_decide_the_same_step_anew_at_once_one_is_left(tenant: Tenant, rule: str) -> None:
    run = await one(tenant, rule)
    runs = [run] if "per run" in rule else [run, *(await tenant.runs(3))]
    process = await governor(tenant, [(each, step) for step in range(1, 11) for each in runs], nano_usd=ASK)
    assert process.stdout is not None
    await process.stdout.readline()  # it is among its decisions
    asking = [reserve(tenant, run, call("pay", amount=2 + number), nano_usd=ASK) for number in range(8)]
    asking += [reserve(tenant, run, call("pay", amount=2), step, nano_usd=ASK) for step in range(11, 14)]
    await asyncio.gather(said(process), *asking)
    assert await tenant.database.value(HELD, tenant.tenant_id) == 1


@pytest.mark.parametrize("rule", WIDE)
async def test_what_it_takes_the_place_of_may_stand_on_a_cap_that_is_not_its_own(tenant: Tenant, rule: str) -> None:
    """As that of a window which has ended: the ledger has to lock it as well, and decides with it at the second look."""
    await tenant.cap("project", 2 * ASK)
    run = await one(tenant, rule)
    old = await hold_of(tenant, run)
    anew = await prepared(tenant, run, call("pay", amount=2), nano_usd=ASK, scopes=(tenant.scope("tenant"),))
    decision = await tenant.ledger.reserve(anew)
    assert (decision.verdict, decision.superseded) == ("allow", old)


LABELS = (
    "label fetch yields secret\nlabel pay yields nothing\n"
    'forbid pay when run has secret unless secret released by role("dpo")\n'
)


async def test_what_gives_way_has_read_nothing_and_what_has_begun_may_have(tenant: Tenant) -> None:
    (run,) = await under(tenant, PERMIT + LABELS)
    assert (await reserve(tenant, run, call("fetch"))).verdict == "allow"
    old = await hold_of(tenant, run)
    assert not (await asked(tenant, run, call("pay"), 2))[0].verdict.allowed
    assert not (await asked(tenant, run, call("pay"), try_number=2))[0].verdict.allowed
    assert not (await asked(tenant, await start(tenant, run), call("pay")))[0].verdict.allowed
    late = await prepared(tenant, run, call("pay"))
    assert late.evaluated.verdict == "allow"
    await tenant.redeem(await tenant.hold(old))
    assert not (await asked(tenant, run, call("pay")))[0].verdict.allowed
    assert (await tenant.ledger.reserve(late)).code == "hold.key_conflict"


async def test_a_step_is_decided_anew_without_the_labels_of_its_old_hold(tenant: Tenant) -> None:
    (run,) = await under(tenant, PERMIT + LABELS)
    assert (await reserve(tenant, run, call("fetch"))).verdict == "allow"
    old = await hold_of(tenant, run)
    anew = await reserve(tenant, run, call("pay"))
    assert (anew.verdict, anew.superseded) == ("allow", old)
    assert (await reserve(tenant, run, call("fetch"), 2)).verdict == "allow"
    assert (await reserve(tenant, run, call("pay"), 3)).verdict == "deny"


async def test_a_release_speaks_of_all_that_was_read_when_what_was_open_for_it_gives_way(tenant: Tenant) -> None:
    (run,) = await under(tenant, POLICY)
    await read_vault(tenant, run, 1)
    assert (await reserve(tenant, run, call("vault"), 2)).verdict == "allow"
    await release(tenant, run)
    assert not (await asked(tenant, run, call("mail"), 3))[0].verdict.allowed
    assert (await reserve(tenant, run, call("mail"), 2)).verdict == "allow"
    assert (await asked(tenant, run, call("mail"), 3))[0].verdict.allowed
