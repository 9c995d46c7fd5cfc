"""The pieces of `bench ledger`, in tiny size: loads do what they say, both ledgers write the same, wrong books are noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

from bench import __main__ as command
from bench.ledger import hot_row
from bench.ledger.books import books_wrong
from bench.ledger.filling import fill
from bench.ledger.load import open_load
from bench.ledger.naive import ROLE, NaiveLedger
from bench.ledger.place import Customer, Server, make_customers, make_runs, open_server
from bench.ledger.plain_inserts import TABLES, PlainInserts
from bench.ledger.process import Side
from bench.ledger.work import Work, read_actor
from bench.report import Report
from holdfast import permits
from holdfast.actions.run_facts import RunReader
from holdfast.database.engine import create_engine
from holdfast.ledger.types import NANO_USD

CALLERS = 4


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    async with open_server() as server:
        yield server


async def settled(server: Server) -> int:
    count: int = await server.superuser.fetchval("SELECT count(*) FROM holds WHERE state = 'committed'")
    return count


async def small_load(server: Server, side: Side, customer: Customer, *, processes: int = 1) -> None:
    """Has each caller make three pairs and one whole way, and settles all."""
    runs = await make_runs(server, [customer], CALLERS * 2)
    async with open_load(server, side, runs, callers=CALLERS, processes=processes, pool_size=2) as load:
        await load.round("reserve", times=3)
        pairs = await load.round("pairs", times=3)
        whole = await load.round("whole", times=1)
        await load.round("settle", times=0)
    assert len(pairs.round.reserve_ms) == len(pairs.round.settle_ms) == 3 * CALLERS
    assert len(whole.round.whole_ms) == CALLERS
    assert pairs.took_s > 0
    assert pairs.commits > 0
    assert pairs.wal_bytes > 0
    assert load.granted == load.settled == 7 * CALLERS
    assert not load.wrong


@pytest.mark.parametrize(("side", "processes"), [("ours", 1), ("ours", 2), ("naive", 1)])
async def test_a_load_leaves_books_that_are_right(server: Server, side: Side, processes: int) -> None:
    before = await settled(server)
    [customer] = await make_customers(server, 1)
    await small_load(server, side, customer, processes=processes)
    assert not await books_wrong(server, before + 7 * CALLERS)


async def rows_of_a_hold(server: Server, customer: Customer) -> dict[str, list[set[str]]]:
    """Returns, for each table, the columns that have a value in each row of the customer's newest hold."""
    hold_id = await server.superuser.fetchval(
        "SELECT hold_id FROM holds WHERE tenant_id = $1 ORDER BY hold_id DESC LIMIT 1", customer.tenant_id
    )
    found = {}
    for table, belongs in TABLES.items():
        rows = await server.superuser.fetch(
            f"SELECT * FROM {table} WHERE tenant_id = $2 AND {belongs}", hold_id, customer.tenant_id
        )
        found[table] = sorted(({key for key, value in row.items() if value is not None} for row in rows), key=str)
    return found


async def test_both_ledgers_write_the_same_rows(server: Server) -> None:
    ours, naive = await make_customers(server, 2)
    await small_load(server, "ours", ours)
    await small_load(server, "naive", naive)
    rows = await rows_of_a_hold(server, ours)
    assert rows == await rows_of_a_hold(server, naive)
    assert all(rows.values())


async def test_the_naive_ledger_never_overspends_and_wrong_books_are_noticed() -> None:
    async with open_server() as server:
        [customer] = await make_customers(server, 1)
        runs = await make_runs(server, [customer], 10)
        engine = create_engine(server.urls[ROLE], process="test")
        governor = create_engine(server.urls["holdfast_governor"], process="test")
        reader, ledger = RunReader(), NaiveLedger(engine)
        actors = [await read_actor(governor, reader, tenant_id, run_id) for tenant_id, run_id in runs]
        work = Work(permits.private_key(bytes(32)), actors[0].facts)
        asked = [work.reservation(actor) for actor in actors]
        await server.superuser.execute(
            "UPDATE caps SET limit_amount = $1, ceiling = $1 WHERE unit = 'nano_usd' AND scope_kind = 'user'",
            3 * asked[0].amounts[NANO_USD] + 1,
        )
        decisions = await asyncio.gather(*(ledger.reserve(one) for one in asked))
        assert sorted(decision.verdict for decision in decisions) == ["allow"] * 3 + ["deny"] * 7
        allowed = next(number for number, decision in enumerate(decisions) if decision.verdict == "allow")
        again = await ledger.reserve(asked[allowed])
        assert replace(again, timeline_seq=0) == replace(decisions[allowed], timeline_seq=0)
        await engine.dispose()
        await governor.dispose()
        await server.superuser.execute("UPDATE caps SET reserved = reserved - 1 WHERE scope_kind = 'user'")
        found = await books_wrong(server, 3)
    assert found[0] == "3 holds were settled; the books have 3, of which 0 are committed"
    assert any(wrong.startswith("cap.balance") for wrong in found)


async def test_old_holds_are_copied_with_all_that_belongs_to_them(server: Server) -> None:
    before = await settled(server)
    [customer] = await make_customers(server, 1)
    await small_load(server, "ours", customer)
    await fill(server, customer, 250)
    assert not await books_wrong(server, before + 7 * CALLERS + 250)
    counts = {
        table: await server.superuser.fetchval(f"SELECT count(*) FROM {table} WHERE tenant_id = $1", customer.tenant_id)
        for table in ("holds", "decisions", "timeline_events")
    }
    holds = 7 * CALLERS + 250
    assert counts == {"holds": holds, "decisions": holds, "timeline_events": 2 * holds}


async def test_plain_inserts_write_what_a_hold_left_behind(server: Server) -> None:
    [customer] = await make_customers(server, 1)
    await small_load(server, "ours", customer)
    rows = await rows_of_a_hold(server, customer)
    plain = await PlainInserts.of(server, customer.tenant_id)
    try:
        assert len(await plain.round_ms(2)) == 2
        written = []
        for _ in range(5):
            before, _ = await server.written()
            assert len(await plain.round_ms(1, commits=2)) == 1
            written.append((await server.written())[0] - before)
        assert min(written) == 2, "what the server does by itself, as analysing a table, comes on top"
    finally:
        await plain.close()
    counts = {table: await server.superuser.fetchval(f"SELECT count(*) FROM bench_plain.{table}") for table in TABLES}
    assert counts == {table: 7 * len(of_one) for table, of_one in rows.items()}


async def test_the_hot_row_is_updated_as_often_as_was_asked(server: Server) -> None:
    await hot_row.make_row(server)
    assert await hot_row.updates_per_s(server, clients=4, updates=40) > 0
    assert await server.superuser.fetchval("SELECT n FROM bench_hot") == 40


def test_options_of_the_ledger_are_refused_elsewhere() -> None:
    app = typer.Typer()
    app.command()(command.main)
    result = CliRunner().invoke(app, ["tools", "--scale", "1e7"])
    assert result.exit_code == 2
    assert "--scale" in result.output


def test_more_old_holds_than_the_disk_takes_are_refused_at_once() -> None:
    app = typer.Typer()
    app.command()(command.main)
    result = CliRunner().invoke(app, ["ledger", "--scale", "1e15"])
    assert result.exit_code == 2
    assert "--scale" in result.stderr


def test_a_wrong_result_fails_and_a_missed_goal_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()
    app.command()(command.main)
    report = Report("ledger")

    async def measure(*, quick: bool, scale: int) -> Report:
        assert (quick, scale) == (True, 10**7)
        return report

    monkeypatch.setitem(vars(command)["_BENCHES"], "ledger", measure)
    assert CliRunner().invoke(app, ["ledger", "--quick", "--scale", "1e7"]).exit_code == 0
    report.wrong.append("overspent")
    assert CliRunner().invoke(app, ["ledger", "--quick", "--scale", "1e7"]).exit_code == 1
