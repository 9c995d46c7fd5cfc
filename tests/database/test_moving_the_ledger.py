"""The ledger's books move from schema 0002 to 0003: nothing is lost, nothing changes its meaning, and the ledger goes on from there."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text

from holdfast.database import version
from holdfast.database.engine import transaction
from holdfast.database.migrate import Migrated
from holdfast.database.version import MIGRATIONS, SchemaUnfit, require_schema
from holdfast.ledger.auditor import audit
from tests.ledger.books import check_books
from tests.ledger.world import Database, Record, new_tenant, until

from .old_books import Hold, OldBooks
from .schemas import empty_database, killed_in, migrate_schema

_SUMS = """SELECT cap_id, sum(reserved_delta)::bigint, sum(committed_delta)::bigint, sum(debt_delta)::bigint, count(*)
    FROM {} GROUP BY cap_id ORDER BY cap_id"""
_FACTS = "SELECT cap_id, hold_id, kind, reserved_delta, committed_delta, debt_delta, limit_amount, unlimited, actor, reason, created_at"


@contextmanager
def until_revision(revision: str) -> Iterator[Path]:
    """Yields a folder with the migrations up to one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "versions"
        shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
        for path in folder.iterdir():
            if path.name[:4] > revision:
                path.unlink()
        yield folder


@pytest.fixture
async def old(database: Database) -> AsyncIterator[Database]:
    """A database of schema 0002, with nothing in it."""
    async with empty_database(database) as empty:
        with until_revision("0002") as folder:
            await migrate_schema(empty, folder)
        yield empty


async def _books(old: Database, operations: int = 400, tenants: int = 3) -> list[OldBooks]:
    books = [OldBooks(await new_tenant(old), seed) for seed in range(tenants)]
    for each in books:
        await each.play(operations)
        await each.write()
    return books


def _some(books: OldBooks, state: str) -> Hold:
    return next(h for h in reversed(books.holds) if h.state == state and h.legs and h.kind != "run.budget")


async def test_books_of_every_kind_move_and_add_up(old: Database) -> None:
    books = await _books(old)
    before: list[Record] = await old.fetch(_SUMS.format("journal"))
    facts = await old.fetch(f"{_FACTS} FROM journal ORDER BY entry_id")
    legs = await old.fetch("SELECT * FROM hold_legs ORDER BY hold_id, cap_id")
    holds = await old.fetch("SELECT * FROM holds ORDER BY hold_id")
    assert len({row["created_at"].month for row in facts}) > 3
    assert await migrate_schema(old) == Migrated("0002", version.newest_known())

    assert await old.fetch(_SUMS.format("journal_legs")) == before
    order = "ORDER BY created_at, cap_id, kind, hold_id"
    assert sorted(await old.fetch(f"{_FACTS} FROM journal_legs {order}"), key=repr) == sorted(facts, key=repr)
    assert await old.fetch("SELECT * FROM hold_legs ORDER BY hold_id, cap_id") == legs
    columns = ", ".join(holds[0].keys())
    assert await old.fetch(f"SELECT {columns} FROM holds ORDER BY hold_id") == holds
    assert await old.value("SELECT count(*) FROM journal_rest") == 0, "every month has its partition"
    assert (await audit(old.engine("auditor"))).discrepancies == ()
    for each in books:
        await check_books(each.tenant, each.actual)
        await _check_rollups(each)


async def _check_rollups(books: OldBooks) -> None:
    """The rollups are what the holds came to, and what the journal says they came to."""
    spent: dict[tuple[str, str, str, str], list[int]] = {}
    for hold in books.holds:
        if hold.state == "committed" and hold.kind != "run.budget":
            assert hold.settled_at is not None
            at = spent.setdefault((str(hold.settled_at.date()), str(hold.run_id), hold.kind, hold.model), [0, 0, 0, 0])
            bill = books.actual[hold.hold_id]
            tokens = bill.get("tokens", 0)
            for place, amount in enumerate((1, 1, tokens, bill.get("nano_usd", 0))):
                at[place] += amount
    mine, database = books.tenant.tenant_id, books.tenant.database
    rows = await database.fetch("SELECT * FROM rollups WHERE tenant_id = $1", mine)
    found = {
        (str(row["day"]), str(row["run_id"]), row["kind"], row["model"]):
        [row["holds"], row["calls"], row["tokens"], row["cost_nano_usd"]] for row in rows
    }  # fmt: skip
    assert found == spent
    journal = await database.fetch(
        """SELECT count(*), sum(j.calls)::bigint, sum(j.tokens)::bigint, sum(j.cost_nano_usd)::bigint FROM journal j
           JOIN holds h ON h.hold_id = j.hold_id AND h.kind <> 'run.budget' WHERE j.tenant_id = $1 AND j.kind = 'commit'""",
        mine,
    )
    assert tuple(journal[0]) == tuple(sum(column) for column in zip(*found.values(), strict=True))


async def test_the_ledger_goes_on_from_there(old: Database) -> None:
    for each in await _books(old, 100, tenants=1):
        tenant = each.tenant
        await migrate_schema(old)
        held, executing = _some(each, "held"), _some(each, "executing")
        executed, unknown = _some(each, "executed"), _some(each, "unknown")
        bill = {"nano_usd": 9_999, "tokens": 5, "calls": 1}
        assert await tenant.begin(executing.hold_id, b"of somebody else") is None
        await tenant.settle(executing.hold_id, "voided")
        await tenant.settle(executed.hold_id, "committed", bill)
        resolved = await tenant.resolve(unknown.hold_id, happened=True, cost=7)
        assert (resolved.state, resolved.cost_nano_usd) == ("committed", 7)
        each.actual[executed.hold_id] = bill
        # what nobody measured counts as held
        each.actual[unknown.hold_id] = {
            **{each.caps[cap_id].unit: amount for cap_id, amount in unknown.legs.items()},
            "nano_usd": 7,
        }
        with pytest.raises(asyncpg.CheckViolationError, match="is settled as"):
            await old.execute("UPDATE holds SET state = 'voided' WHERE hold_id = $1", _some(each, "committed").hold_id)
        for cap_id, (kind, scope_id) in each.places.items():
            await tenant.cap(kind, 10**9, unit=each.caps[cap_id].unit, scope_id=scope_id)
        # the same try with other arguments: the old hold is superseded, the new one stands
        again = await tenant.reserve(held.run_id, held.step, argument="something else")
        assert again.verdict == "allow"
        assert again.hold_id != held.hold_id
        assert (await tenant.hold(held.hold_id)).state == "voided"
        await _return_budget(each, next(run_id for run_id in each.budgets if run_id not in each.ended))
        fresh = await tenant.held(amounts={"nano_usd": 10, "tokens": 3, "calls": 1, "slots": 1})
        await tenant.executed(fresh)
        await tenant.settle(fresh.hold_id, "committed", {"nano_usd": 4, "tokens": 3, "calls": 1})
        each.actual[fresh.hold_id] = {"nano_usd": 4, "tokens": 3, "calls": 1}
        assert (await audit(old.engine("auditor"))).discrepancies == ()
        await check_books(tenant, each.actual)


async def _return_budget(books: OldBooks, run_id: UUID) -> None:
    """Ends a run with everything of it, and sees its guaranteed budget settled at what it spent."""
    tenant, budget = books.tenant, books.budgets[run_id]
    for row in await tenant.database.fetch(
        "SELECT hold_id FROM holds WHERE run_id = $1 AND settled_at IS NULL AND kind <> 'run.budget'", run_id
    ):
        hold = await tenant.hold(row["hold_id"])
        if hold.state in ("executed", "unknown"):
            await tenant.settle(hold.hold_id, "committed", {"nano_usd": 3})
            books.actual[hold.hold_id] = {"nano_usd": 3}
        else:
            await tenant.settle(hold.hold_id, "voided")
    await tenant.database.execute("UPDATE runs SET ended_at = now(), status = 'succeeded' WHERE run_id = $1", run_id)
    async with transaction(tenant.database.engine("governor"), tenant.tenant_id) as connection:
        asked = {"tenant_id": tenant.tenant_id, "run_id": run_id}
        await connection.execute(text("SELECT lock_for_return(:tenant_id, :run_id)"), asked)
        assert await connection.scalar(text("SELECT return_budget(:tenant_id, :run_id)"), asked)
    spent = sum((await tenant.balances(books.run_caps[run_id]))[1:])
    settled = await tenant.hold(budget.hold_id)
    assert (settled.state, settled.cost_nano_usd) == ("committed", spent)
    books.actual[budget.hold_id] = {"nano_usd": spent}


async def test_killed_in_the_middle_nothing_has_moved_and_a_second_run_ends_it(old: Database) -> None:
    [each] = await _books(old, 100, tenants=1)
    before = await old.fetch("SELECT * FROM journal ORDER BY entry_id")
    with until_revision("0003") as folder:
        tables = folder / "0003_tables.sql"
        tables.write_text(tables.read_text(encoding="utf-8") + "\nSELECT pg_sleep(60);\n", encoding="utf-8")
        await killed_in(old, folder, "wait_event = 'PgSleep'")
    # the other end notices when it wants to answer; until then it keeps its locks, as a dead machine's would
    await old.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'holdfast-victim'"
    )
    assert await old.value("SELECT version_num FROM alembic_version") == "0002"
    assert await old.fetch("SELECT * FROM journal ORDER BY entry_id") == before
    assert await old.value("SELECT relforcerowsecurity FROM pg_class WHERE oid = 'caps'::regclass")
    await migrate_schema(old)
    assert (await audit(old.engine("auditor"))).discrepancies == ()
    await check_books(each.tenant, each.actual)


async def test_programs_of_before_refuse_to_start_and_those_that_still_run_fail_closed(
    old: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    [each] = await _books(old, 60, tenants=1)
    running = await old.connect("governor")
    tenant, hold = each.tenant.tenant_id, _some(each, "held")
    await running.execute("SELECT set_config('holdfast.tenant_id', $1, false)", str(tenant))
    written = (
        "UPDATE caps SET debt = debt + 1",
        f"UPDATE holds SET state = 'executing' WHERE hold_id = '{hold.hold_id}'",
        f"""INSERT INTO hold_legs (tenant_id, hold_id, cap_id, amount)
            SELECT '{tenant}', '{hold.hold_id}', cap_id, 1 FROM caps ON CONFLICT DO NOTHING""",
        """INSERT INTO journal (tenant_id, cap_id, hold_id, kind, limit_amount, unlimited, actor, reason)
           SELECT tenant_id, cap_id, gen_random_uuid(), 'reserve', 1, false, 'old', 'old' FROM caps""",
    )
    for statement in written:  # as they stood in the programs of that version, and each of them worked
        undone = running.transaction()
        await undone.start()
        await running.execute(statement)
        await undone.rollback()
    await migrate_schema(old)
    monkeypatch.setattr(version, "newest_known", lambda: "0002")
    with pytest.raises(SchemaUnfit, match=r"is \d{4}, which programs made for 0002 cannot work with"):
        await require_schema(old.engine("governor"))
    for statement in written:
        with pytest.raises(
            (
                asyncpg.InsufficientPrivilegeError,
                asyncpg.UndefinedColumnError,
                asyncpg.ObjectNotInPrerequisiteStateError,
            )
        ):
            await running.execute(statement)
    await running.close()
    monkeypatch.undo()
    assert (await audit(old.engine("auditor"))).discrepancies == ()


async def test_who_still_works_holds_it_up_and_it_says_so(old: Database) -> None:
    await _books(old, 20, tenants=1)
    running = await old.connect("governor")
    await running.execute("BEGIN; SELECT count(*) FROM caps")
    said: list[str] = []
    migrating = asyncio.create_task(migrate_schema(old, said=said))
    who = f"PostgreSQL's process {running.get_server_pid()}"

    async def named() -> bool:  # before it, some cleaner of tables may have been in the way
        return any(who in line for line in said)

    await until(named, timeout_s=60)
    await running.close()
    assert (await migrating).after == version.newest_known()
