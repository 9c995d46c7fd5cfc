"""What is set aside for a run is no action: limits, watches and sums count what the run does, and that once."""

from __future__ import annotations

from uuid import UUID

import pytest

from holdfast.database.engine import transaction
from holdfast.ids import new_id
from holdfast.ledger import budget
from holdfast.policies import deeds, selectors, sums, unfolded
from tests.ledger.world import Tenant

from .test_family import start
from .test_past import PERMIT, asked, call, reserve, under

CENT = 10_000_000
ASK = 3_000_000
MONEY = [
    "limit spend <= usd(0.01) per run",
    "limit spend <= usd(0.01) per day per user",
    "limit spend <= usd(0.01) in total per tenant",
    "limit spend of tools <= usd(0.01) per 24h per user",
]
COUNTS = [
    ("limit tools count <= 1 per run", "policy.limit"),
    ("limit tools count <= 1 per day per user", "policy.limit"),
    ("limit * count <= 1 in total per tenant", "policy.limit"),
    ("limit external count <= 1 per run", "policy.limit"),
    ("limit tools sum(args.amount) <= 1 per run", "policy.limit"),
    ("invariant few: at most 1 tools per run", "policy.invariant"),
    ("invariant few: at most 1 tools within 24h per user", "policy.invariant"),
]
NUMBERED = """
    SELECT count(*) FILTER (WHERE history_seq IS NOT NULL), count(*) FROM holds WHERE tenant_id = $1 AND kind = 'run.budget'
"""

pytestmark = pytest.mark.usefixtures("hour")  # some limits are those of a day


async def fund(tenant: Tenant, run: UUID, nano_usd: int = CENT) -> None:
    """Sets a budget aside for a run, as its admission does."""
    await tenant.cap("run", nano_usd, scope_id=str(run))
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        caps = await budget.lock_for_budget(connection, tenant.tenant_id, [tenant.scope("tenant")])
        await budget.admit_budget(
            connection, tenant.tenant_id, run, caps, nano_usd, decision_id=new_id(), life_ms=86_400_000
        )


async def end(tenant: Tenant, run: UUID) -> None:
    """Ends a run, which returns its budget."""
    await tenant.database.execute("UPDATE runs SET ended_at = now(), status = 'succeeded' WHERE run_id = $1", run)
    async with transaction(tenant.database.engine("governor"), tenant.tenant_id) as connection:
        assert await budget.return_budget(connection, tenant.tenant_id, run)


async def pay(tenant: Tenant, run: UUID, step: int = 1) -> UUID:
    """Pays what was asked for, to its end."""
    decision = await reserve(tenant, run, call("pay", amount=1), step, nano_usd=ASK, funded=True)
    assert decision.hold_id is not None, decision
    await tenant.executed(await tenant.hold(decision.hold_id))
    await tenant.settle(decision.hold_id, "committed", {"nano_usd": ASK})
    return decision.hold_id


async def codes_of(tenant: Tenant, run: UUID, count: int, first: int = 1, *, nano_usd: int = ASK) -> list[str]:
    """Returns what comes of so many calls, one after the other."""
    return [
        (await reserve(tenant, run, call("pay", amount=1), first + more, nano_usd=nano_usd, funded=True)).code
        for more in range(count)
    ]


@pytest.mark.parametrize("rule", MONEY)
async def test_a_budget_leaves_all_of_a_limit_on_money_to_what_is_done_with_it(tenant: Tenant, rule: str) -> None:
    await tenant.cap(unlimited=True)
    (run,) = await under(tenant, PERMIT + rule)
    await fund(tenant, run)
    assert await codes_of(tenant, run, 4) == ["policy.permitted"] * 3 + ["policy.limit"]


@pytest.mark.parametrize(("rule", "code"), COUNTS)
async def test_a_budget_is_no_call_of_a_tool(tenant: Tenant, rule: str, code: str) -> None:
    await tenant.cap(unlimited=True)
    (run,) = await under(tenant, PERMIT + rule)
    await fund(tenant, run)
    assert await codes_of(tenant, run, 2) == ["policy.permitted", code]


async def test_a_budget_is_nothing_that_was_done_before(tenant: Tenant) -> None:
    await tenant.cap(unlimited=True)
    (run,) = await under(tenant, PERMIT + "forbid pay after tools succeeded\n")
    await fund(tenant, run)
    assert await codes_of(tenant, run, 2) == ["policy.permitted", "policy.invariant"]


@pytest.mark.parametrize(
    "rule", ["limit spend <= usd(0.01) per day per user", "limit tools count <= 3 per day per user"]
)
async def test_the_budgets_of_children_count_neither_while_they_stand_nor_when_they_have_returned(
    tenant: Tenant, rule: str
) -> None:
    await tenant.cap(unlimited=True)
    (parent,) = await under(tenant, PERMIT + rule)
    children = [await start(tenant, parent) for _ in range(3 * sums.FOLD_AT)]
    for run in (parent, *children):
        await fund(tenant, run)
    await pay(tenant, children[0])
    assert (await asked(tenant, parent, call("pay"), nano_usd=2 * ASK))[0].verdict.allowed
    for run in children:
        await end(tenant, run)
    # their sums are folded in as they are read, with what children have done, and without what was set aside for it
    assert await codes_of(tenant, parent, 3) == ["policy.permitted"] * 2 + ["policy.limit"]
    numbered, budgets = (await tenant.database.fetch(NUMBERED, tenant.tenant_id))[0]
    assert (numbered, budgets) == (len(children), len(children) + 1), "returned budgets are looked at for ever"


@pytest.mark.parametrize("rule", ["limit spend <= usd(0.01) per run", "limit tools count <= 3 per run"])
async def test_what_was_spent_counts_once_when_the_budget_has_returned(tenant: Tenant, rule: str) -> None:
    await tenant.cap(unlimited=True)
    (run,) = await under(tenant, PERMIT + rule)
    await fund(tenant, run)
    for step in (1, 2):
        await pay(tenant, run, step)
    await end(tenant, run)
    _, past = await asked(tenant, run, call("pay"), 3)
    assert past.usage is not None
    assert list(past.usage.values()) == [2 * ASK if "spend" in rule else 2]


@pytest.mark.parametrize("rule", ["limit tools count <= 1 per run", "limit run* count <= 1 in total per tenant"])
async def test_what_is_read_one_by_one_has_no_budgets_either(
    tenant: Tenant, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfolded, "TAIL_MAX", 0)
    await tenant.cap(unlimited=True)
    (run, *others) = await under(tenant, PERMIT + rule, 3)
    for each in (run, *others):
        await fund(tenant, each)
    for each in others:
        await end(tenant, each)
    action = call("runs.list" if "run*" in rule else "pay")
    first = await reserve(tenant, run, action, nano_usd=ASK, funded=True)
    assert (first.verdict, (await asked(tenant, run, action, 2))[0].verdict.code) == ("allow", "policy.limit")


async def test_sums_in_which_budgets_were_counted_are_made_anew_and_no_others(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tenant.cap(unlimited=True)
    rule = "limit {} count <= 100 in total per tenant\n"
    (run, *others) = await under(tenant, PERMIT + rule.format("tools") + rule.format("pay"), 2 * sums.FOLD_AT)
    marks = "SELECT count(*) FROM history_marks WHERE tenant_id = $1"

    async def used() -> list[int]:
        _, past = await asked(tenant, run, call("pay"))
        assert past.usage is not None
        return list(past.usage.values())

    with monkeypatch.context() as before:
        before.setattr(deeds.Deed, "is_budget", False)
        before.setattr(selectors, "_FORM_OF_BUDGETS", selectors._FORM)
        selectors._selectors.clear()
        await fund(tenant, run)
        await pay(tenant, run)
        for each in others:
            await fund(tenant, each)
            await end(tenant, each)
        assert await used() == [1 + len(others), 1]
        assert await tenant.database.value(marks, tenant.tenant_id) == 2
    selectors._selectors.clear()
    assert await used() == [1, 1]
    assert await tenant.database.value(marks, tenant.tenant_id) == 3
    await pay(tenant, run, 2)
    assert await used() == [2, 2]
