"""A quick selection of the overspend matrix, and that its checks see what they are there to see."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest

from bench.matrix import books, engine
from bench.matrix.batch import Batch
from bench.matrix.books import Findings
from bench.matrix.cells import Cell
from bench.matrix.ground import Ground
from bench.matrix.hall import Hall, open_hall
from bench.matrix.measure import report

PLAIN = Cell("50", "2", "given", "rest", "whole", "less", "once", "alive", "quiet")


@pytest.fixture(scope="module")
async def hall() -> AsyncIterator[Hall]:
    async with open_hall() as hall:
        yield hall


@pytest.fixture
async def played(hall: Hall) -> AsyncIterator[Ground]:
    """A cell that was played and found right; what a test does to its rows is undone by removing its tenant's name."""
    batch = Batch(hall, [PLAIN])
    [findings] = (await batch.play()).values()
    assert_right(findings)
    [ground] = batch.grounds
    yield ground
    await hall.superuser.execute(
        "UPDATE tenants SET slug = 'gone-' || tenant_id WHERE tenant_id = $1", ground.tenant_id
    )


def assert_right(findings: Findings) -> None:
    assert not findings.wrong
    assert not findings.overspend_nano_usd
    assert not findings.false_denials
    assert not findings.nonterminal_holds
    assert not findings.journal_mismatches
    assert findings.used_nano_usd >= findings.usable_nano_usd * 0.95 > 0


@pytest.mark.timeout(900)
async def test_every_pair_of_values_and_nothing_is_overspent_or_falsely_refused() -> None:
    cells = engine.quick()
    findings = await engine.play(cells, tell=lambda _: None)
    assert_right(findings)
    assert findings.cells == findings.exceeded == len(cells)
    assert findings.debts
    assert findings.kills
    assert findings.denied_by_outstanding_only


async def look(hall: Hall, ground: Ground) -> Findings:
    async with hall.superuser.acquire() as connection:
        return (await books.check(connection, [ground]))[ground.tenant_id]


TIGHT = "tenant_id = $1 AND unit = 'nano_usd' AND limit_amount < 1000000000000"


async def test_what_no_journal_bears_out_is_seen(hall: Hall, played: Ground) -> None:
    await hall.superuser.execute(f"UPDATE caps SET committed = committed - 1 WHERE {TIGHT}", played.tenant_id)
    findings = await look(hall, played)
    assert findings.journal_mismatches == 1
    assert "its journal at" in findings.wrong[0]


async def test_a_bill_that_nobody_was_charged_is_overspend(hall: Hall, played: Ground) -> None:
    """The same rows, with a provider that billed one nano-dollar more than it said."""
    holds = await hall.superuser.fetch(
        "SELECT hold_id, cost_nano_usd FROM holds WHERE tenant_id = $1", played.tenant_id
    )
    bills = {hold["hold_id"]: hold["cost_nano_usd"] for hold in holds}
    async with hall.superuser.acquire() as connection:
        [right] = (await books.check(connection, [played], bills)).values()
        assert_right(right)
        bills[holds[0]["hold_id"]] += 1
        [wrong] = (await books.check(connection, [played], bills)).values()
    assert wrong.overspend_nano_usd == 1
    assert "and charged" in wrong.wrong[0]


async def test_a_denial_of_what_would_have_fitted_is_seen(hall: Hall, played: Ground) -> None:
    row = await hall.superuser.fetchrow(
        "SELECT decision_id, part_b FROM decisions WHERE tenant_id = $1 AND verdict = 'deny' LIMIT 1", played.tenant_id
    )
    part_b = orjson.loads(row["part_b"])
    for leg in part_b["legs"]:
        leg["amount"] = "0"
    await hall.superuser.execute(
        "UPDATE decisions SET part_b = $2 WHERE decision_id = $1", row["decision_id"], orjson.dumps(part_b)
    )
    findings = await look(hall, played)
    assert findings.false_denials == 1
    assert "a false denial" in findings.wrong[0]


async def test_a_hold_that_nobody_settles_is_seen(hall: Hall, played: Ground) -> None:
    found = await look(hall, played)
    one = Findings(nonterminal_holds=1, wrong=[f"{PLAIN}: hold x is held at the end"])
    found.add(one)
    told = report(found, Findings())
    assert told.figures["nonterminal_holds"].meets is False
    assert told.wrong == [f"{PLAIN}: hold x is held at the end (alone: --cell {PLAIN})"]


async def test_a_cap_that_whole_requests_could_have_used_counts_as_unused(hall: Hall, played: Ground) -> None:
    assert not (await look(hall, played)).false_denials
    async with hall.superuser.acquire() as connection:
        [findings] = (await books.check(connection, [played], None, {played.tenant_id: 1})).values()
    assert findings.used_nano_usd < findings.usable_nano_usd
    assert findings.false_denials == 1
    assert "was not admitted" in findings.wrong[0]
