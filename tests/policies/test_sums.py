"""Sums of the past: whatever is folded in, a decision is told what a plain recount of everything would tell."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.actions.form import Action
from holdfast.actions.run_facts import RunFacts, RunReader
from holdfast.database.engine import transaction
from holdfast.ids import new_id
from holdfast.policies import sums, unfolded
from holdfast.policies.evaluation import canonical
from holdfast.policies.past import Past, read_past
from holdfast.policies.selectors import Span, selectors_of
from tests.ledger.world import Tenant
from tests.policies.test_past import PERMIT, asked, call, reserve, under

POLICY = (
    PERMIT
    + """
limit pay count <= 1000000 per run
limit pay sum(args.amount) <= 1000000 in total per user
limit pay count <= 1000000 per day per tenant
limit mail count <= 1000000 per month per tenant
limit pay sum(args.amount) <= 1000000 per 1h per tenant
invariant few: at most 1000000 pay within 1h per tenant
invariant little: sum(args.amount) of pay <= 1000000 per run
invariant told: pay requires notify succeeded within 1h with same args.id
forbid mail after close succeeded
"""
)
_INSERT = """
    INSERT INTO holds (tenant_id, hold_id, run_id, step, try, kind, tool, idempotent, digest, action, decision_id, max_cost_nano_usd,
        estimate, lease_ms, expires_at, created_at, state, settled_at, settled_by, outward_at, cost_nano_usd)
    SELECT tenant_id, $2, $3, $4, $5, 'tool.call', $6, false, $7, $8, decision_id, 0, '{}', 1000, now(), now() - $9::interval, $10,
        CASE WHEN $10 IN ('committed', 'voided') THEN now() - $11::interval END, $12, now(), 0
    FROM holds WHERE tenant_id = $1 LIMIT 1
"""

pytestmark = pytest.mark.usefixtures("hour")  # some limits are those of a day


async def _happened(
    tenant: Tenant, run: UUID, step: int, action: Action, *, try_number: int = 1, state: str = "committed",
    ago: timedelta = timedelta(seconds=30), settled_by: str = "person",
) -> None:  # fmt: skip
    """Puts down that something happened some time ago."""
    await tenant.database.execute(
        _INSERT, tenant.tenant_id, new_id(), run, step, try_number, action.tool, action.digest, action.canonical, ago,
        state, ago, settled_by,
    )  # fmt: skip


async def _plain(tenant: Tenant, run_id: UUID, action: Action, monkeypatch: pytest.MonkeyPatch) -> Past:
    """Reads the past as if nothing had ever been folded in."""

    async def nothing(
        connection: AsyncConnection, run: RunFacts, owner: UUID, selectors: list[object], **_: object
    ) -> unfolded.Tail:
        marks = {each.digest: 0 for each in selectors}  # type: ignore[attr-defined]  # they are selectors
        return unfolded.Tail(marks, (), whole=False, locked=True)

    with monkeypatch.context() as patch:
        patch.setattr(unfolded, "read_tail", nothing)
        return (await asked(tenant, run_id, action, 10_000))[1]


async def _run_facts(tenant: Tenant, run_id: UUID) -> RunFacts:
    async with transaction(tenant.database.engine("governor"), tenant.tenant_id) as connection:
        return await RunReader().read(connection, tenant.tenant_id, run_id)


async def _look(tenant: Tenant, run_id: UUID, action: Action) -> Past:
    return (await asked(tenant, run_id, action, 10_000))[1]


async def _folded(tenant: Tenant) -> int:
    return int(
        await tenant.database.value(
            "SELECT count(*) FROM holds WHERE tenant_id = $1 AND history_seq IS NOT NULL", tenant.tenant_id
        )
    )


@pytest.mark.parametrize("seed", range(3))
async def test_sums_say_what_a_recount_says(tenant: Tenant, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    first, second = runs = await under(tenant, POLICY, 2)
    await reserve(tenant, first, call("close"))  # the row from which others are made
    steps = dict.fromkeys(runs, 1)
    for _ in range(12):
        for _ in range(chance.randrange(4, 14)):
            run = chance.choice(runs)
            steps[run] += 1
            tool = chance.choice(("pay", "pay", "notify", "mail", "close"))
            action = call(tool, id=chance.randrange(3), amount=chance.choice((1, 7, -2, 40)))
            # nothing near the end of a window: there a bucket may count longer
            ago = timedelta(minutes=chance.choice((0, 1, 2, 9, 300)))
            tries = chance.choice((1, 1, 2))
            for try_number in range(1, tries + 1):
                state = (
                    "voided"
                    if try_number < tries
                    else chance.choice(("committed", "committed", "voided", "unknown", "held"))
                )
                by = chance.choice(("person", "run"))
                await _happened(
                    tenant, run, steps[run], action, try_number=try_number, state=state, ago=ago, settled_by=by
                )
        if chance.random() < 0.5:
            settle = """UPDATE holds SET state = 'committed', settled_at = now(), settled_by = 'person'
                WHERE tenant_id = $1 AND state = 'unknown'"""
            await tenant.database.execute(settle, tenant.tenant_id)
        for run in runs:
            for action in (call("pay", id=1, amount=1), call("mail"), call("pay", id=2, amount=5)):
                expected = await _plain(tenant, run, action, monkeypatch)
                assert await _look(tenant, run, action) == expected
    assert await _folded(tenant) > 40
    assert second


async def test_many_who_fold_at_once_count_everything_once(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = await under(tenant, POLICY, 4)
    await reserve(tenant, runs[0], call("close"))
    for step in range(2, 40):
        await asyncio.gather(*(_happened(tenant, run, step, call("pay", id=1, amount=3)) for run in runs))
        if step % 6 == 0:
            pay = call("pay", id=1, amount=1)
            told = await asyncio.gather(*(_look(tenant, run, pay) for run in [*runs, *runs]))
            for run, past in zip([*runs, *runs], told, strict=True):
                assert past == await _plain(tenant, run, pay, monkeypatch)
    assert await _folded(tenant) > 100


async def test_a_connection_that_is_killed_while_it_folds_loses_nothing_and_counts_nothing_twice(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_id,) = await under(tenant, POLICY)
    await reserve(tenant, run_id, call("close"))
    for step in range(2, 40):
        await _happened(tenant, run_id, step, call("pay", id=1, amount=3))
    pay, moved = call("pay", id=1, amount=1), sums.fold

    async def killed(connection: AsyncConnection, *arguments: Any) -> None:  # Any: passed on as they are
        await moved(connection, *arguments)
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
        await tenant.database.execute("SELECT pg_terminate_backend($1)", pid)
        await connection.execute(text("SELECT 1"))

    with monkeypatch.context() as patch:
        patch.setattr(sums, "fold", killed)
        with pytest.raises(DBAPIError):
            await _look(tenant, run_id, pay)
    assert await _folded(tenant) == 0
    expected = await _plain(tenant, run_id, pay, monkeypatch)
    assert await _look(tenant, run_id, pay) == expected
    assert await _folded(tenant) > 30
    assert await _look(tenant, run_id, pay) == expected


_ROWS = """
    SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables
    WHERE relname IN ('holds', 'outcomes', 'history_sums')
"""


async def _rows_read(tenant: Tenant, run_id: UUID, action: Action, step: int) -> int:
    async with transaction(tenant.database.engine("governor"), tenant.tenant_id) as connection:
        run = await RunReader().read(connection, tenant.tenant_id, run_id)
        await connection.execute(text("SET LOCAL enable_seqscan = off"))  # a table this small is as well read whole
        before = int(await connection.scalar(text(_ROWS)) or 0)
        past = await read_past(connection, run, canonical(action), step=step, try_number=1, head=None)
        assert past.usage is not None
        return int(await connection.scalar(text(_ROWS)) or 0) - before


@pytest.mark.timeout(900)  # a thousand decisions, one after the other
async def test_a_runs_thousandth_decision_reads_no_more_rows_than_its_tenth(tenant: Tenant) -> None:
    source = (
        PERMIT
        + "limit pay count <= 5000 per run\ninvariant little: sum(args.amount) of pay <= 50000 within 1h per run\n"
    )
    (run_id,) = await under(tenant, source)
    await reserve(tenant, run_id, call("close"))
    read: dict[int, int] = {}
    pay = call("pay", amount=1)
    for step in range(2, 1_002):
        await _happened(tenant, run_id, step, pay, ago=timedelta(0))
        if step % 20 == 0:
            await tenant.database.execute("ANALYZE holds, history_sums, outcomes")  # as autovacuum does
        if step % 4 == 0:
            read[step] = await _rows_read(tenant, run_id, pay, step)
    early, late = (
        max(rows for step, rows in read.items() if step <= 40),
        max(rows for step, rows in read.items() if step > 960),
    )
    assert late <= early, (early, late)
    assert (await _look(tenant, run_id, pay)).usage == {
        f"{_limit_key(await _run_facts(tenant, run_id))}{run_id}": 1_000
    }


def _limit_key(run: RunFacts) -> str:
    (key,) = selectors_of(run.policy.policy).limits
    return key


@pytest.mark.parametrize("window", ["per run", "in total per tenant"])
async def test_more_actions_than_can_be_read_are_counted_right(tenant: Tenant, window: str) -> None:
    count = unfolded.DEEDS_MAX + 500
    source = PERMIT + f"limit pay sum(args.amount) <= {count + 3} {window}\n"
    (run_id,) = await under(tenant, source)
    pay = call("pay", amount=1)
    first = await reserve(tenant, run_id, pay)
    await tenant.database.execute(
        """INSERT INTO holds (tenant_id, hold_id, run_id, step, try, kind, tool, idempotent, digest, action, decision_id,
               max_cost_nano_usd, estimate, lease_ms, expires_at, state, settled_at, settled_by, cost_nano_usd)
           SELECT tenant_id, gen_random_uuid(), run_id, n + 1, 1, kind, tool, idempotent, digest, action, decision_id,
               0, '{}', 1000, now(), 'committed', now(), 'person', 0
           FROM holds, generate_series(1, $2) AS n WHERE hold_id = $1""",
        first.hold_id, count,
    )  # fmt: skip
    verdicts = [(await reserve(tenant, run_id, pay, count + step)).code for step in (2, 3, 4)]
    assert verdicts == ["policy.permitted", "policy.permitted", "policy.limit"]


async def test_another_version_with_the_same_limit_goes_on_with_its_sums(tenant: Tenant) -> None:
    rule = "limit pay count <= {} per day per tenant\n"
    (run_id,) = await under(tenant, PERMIT + rule.format(100))
    await reserve(tenant, run_id, call("close"))
    for step in range(2, 30):
        await _happened(tenant, run_id, step, call("pay"))
    assert (await reserve(tenant, run_id, call("pay"), 50)).verdict == "allow"
    (other,) = await under(tenant, PERMIT + rule.format(29))
    assert (await reserve(tenant, other, call("pay"))).code == "policy.limit"
    selectors = "SELECT count(DISTINCT selector) FROM history_marks WHERE tenant_id = $1"
    assert await tenant.database.value(selectors, tenant.tenant_id) == 1


def test_a_bucket_counts_until_it_has_wholly_left_and_in_favour_only_while_it_is_wholly_in() -> None:
    hour = 3_600_000
    against, in_favour = Span(hour, against=True), Span(hour, against=False)
    begins = against.bucket_ms(100 * hour)
    newest = begins + 50_000
    assert against.holds(begins, newest, newest + hour)
    assert not against.holds(begins, newest, newest + hour + 1)
    assert in_favour.holds(begins, newest, begins + hour)
    assert not in_favour.holds(begins, newest, begins + hour + 1)
