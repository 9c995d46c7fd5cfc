"""Migrating: once, again, several at once, under load, held up, killed; and not at all if any of it fails."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import asyncpg
import pytest

from holdfast.database.engine import create_engine
from holdfast.database.migrate import LOCK_KEY, Bounds, Migrated, SchemaBlocked
from holdfast.database.version import (
    SchemaUnfit,
    SchemaVersion,
    newest_known,
    read_version,
    require_schema,
    unfitness,
)
from tests.ledger.world import Database, new_tenant, until

from .schemas import empty_database, killed_in, migrate_schema
from .synthetic import folder_with

_OBJECTS = """SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace)
    + (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace)"""


@pytest.fixture
async def empty(database: Database) -> AsyncIterator[Database]:
    async with empty_database(database) as empty:
        yield empty


async def test_many_who_migrate_at_once_migrate_once(empty: Database) -> None:
    done = await asyncio.gather(*(migrate_schema(empty) for _ in range(4)))
    newest = newest_known()
    assert sorted(one.before or "" for one in done) == ["", newest, newest, newest]
    assert {one.after for one in done} == {newest}
    made = await empty.value(_OBJECTS)
    assert await migrate_schema(empty) == Migrated(newest, newest)
    assert await empty.value(_OBJECTS) == made
    assert await empty.value("SELECT count(*) FROM tenants WHERE slug = 'platform'") == 1


async def test_one_that_waits_for_another_says_so_and_gives_up_when_it_takes_too_long(empty: Database) -> None:
    holder = await asyncpg.connect(empty.superuser_url)
    await holder.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
    pid = await holder.fetchval("SELECT pg_backend_pid()")
    with pytest.raises(SchemaBlocked, match=f"another process migrates .*process {pid}"):
        await migrate_schema(empty, bounds=Bounds(patience_ms=300))
    said: list[str] = []
    waiting = asyncio.create_task(migrate_schema(empty, said=said))
    await until(_soon(lambda: said))
    assert said == [f"another process migrates (PostgreSQL's process {pid}); waiting for it"]
    assert not waiting.done()
    # it keeps no snapshot open meanwhile, for which the other one might wait in its turn
    open_snapshots = """SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'holdfast-test-migrate' AND state <> 'idle' AND now() - xact_start > interval '1 s'"""
    assert await empty.value(open_snapshots) == 0
    await holder.close()
    assert await waiting


@pytest.mark.parametrize("script", ["0001_initial.sql", "0001_access.sql"])
async def test_a_migration_that_fails_in_the_middle_leaves_nothing(
    empty: Database, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_text = Path.read_text

    def broken(path: Path, encoding: str | None = None, errors: str | None = None) -> str:
        return read_text(path, encoding, errors) + ("\nSELECT 1 / 0;" if path.name == script else "")

    monkeypatch.setattr(Path, "read_text", broken)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate_schema(empty)
    assert await empty.value(_OBJECTS) == 0
    monkeypatch.undo()
    assert await migrate_schema(empty)


def _soon(condition: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def ask() -> object:
        return condition()

    return ask


# On a live database ------------------------------------------------------------------------------------------------------

_ADD = "op.execute('ALTER TABLE holds ADD COLUMN colour text')"
_QUICK = Bounds(lock_timeout_ms=500, patience_ms=120_000)


@dataclass(slots=True)
class _Load:
    """Reservations, one after another, each with how long it took."""

    took_s: list[float] = field(default_factory=list)
    stopping: bool = False

    async def work(self, database: Database) -> None:
        tenant = await new_tenant(database)
        await tenant.cap("tenant", 1_000_000_000)
        while not self.stopping:
            run = await tenant.run()
            for step in range(1, 4):
                began = time.monotonic()
                decision = await tenant.reserve(run, step)
                assert decision.verdict == "allow"
                self.took_s.append(time.monotonic() - began)


@asynccontextmanager
async def _under_load(database: Database, workers: int = 4) -> AsyncIterator[_Load]:
    load = _Load()
    tasks = [asyncio.create_task(load.work(database)) for _ in range(workers)]
    await until(_soon(lambda: len(load.took_s) > 20 or any(task.done() for task in tasks)), timeout_s=60)
    yield load
    load.stopping = True
    await asyncio.gather(*tasks)


async def test_under_load_nothing_fails_and_nobody_waits_longer_than_the_bound(empty: Database) -> None:
    await migrate_schema(empty)
    blocker = await asyncpg.connect(empty.superuser_url)
    index = "online.create_index('holds_colour', 'holds (colour) WHERE colour IS NOT NULL')"
    check = (
        "op.execute('ALTER TABLE holds ADD CONSTRAINT colourful CHECK (colour IS NULL OR length(colour) > 0) NOT VALID')\n"
        "online.validate_constraint('holds', 'colourful')"
    )
    said: list[str] = []
    with folder_with(_ADD, index, check) as (folder, newest):
        async with _under_load(empty) as load:
            # one who reads for long: the migration asks for its lock in vain, and everybody who comes later waits behind it
            await blocker.execute("BEGIN; SELECT count(*) FROM holds")
            migrating = asyncio.create_task(migrate_schema(empty, folder, _QUICK, said))
            await until(_soon(lambda: len(said) >= 2), timeout_s=60)
            before = len(load.took_s)
            await until(_soon(lambda: len(load.took_s) > before + 5), timeout_s=60)  # it goes on between the tries
            await blocker.execute("ROLLBACK")
            assert (await migrating).after == newest
            after = len(load.took_s)
            await until(_soon(lambda: len(load.took_s) > after + 5), timeout_s=60)
    pid = blocker.get_server_pid()
    form = (
        # of those whom it waits behind, others than this one may have been at work just then
        rf"migration \d{{4}} could not get a lock: (.* and )?PostgreSQL's process {pid} \(no name, role postgres\)( and .*)? holds it; "
        r"trying again in [\d.]+ s"
    )
    assert [line for line in said if re.fullmatch(form, line)], said
    await blocker.close()
    # one reservation takes row and table locks one after another; what it waits for the migration is one bound
    assert max(load.took_s) < 0.5 + 30.0, "the bound, and what a busy machine adds"
    assert await empty.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'holds_colour'::regclass")
    assert await empty.value("SELECT convalidated FROM pg_constraint WHERE conname = 'colourful'")


async def test_held_up_for_too_long_it_says_by_whom_and_what_was_works_as_before(empty: Database) -> None:
    made = await migrate_schema(empty)
    blocker = await asyncpg.connect(empty.superuser_url, server_settings={"application_name": "somebody's report"})
    await blocker.execute("BEGIN; SELECT count(*) FROM holds")
    with folder_with(_ADD) as (folder, newest):
        with pytest.raises(SchemaBlocked) as caught:
            await migrate_schema(empty, folder, Bounds(lock_timeout_ms=500, patience_ms=2_500))
        assert f"migration {newest} could not get a lock" in caught.value.message
        assert f"process {blocker.get_server_pid()} (somebody's report, role postgres)" in caught.value.message
        assert f"version {made.after} is in force" in caught.value.message
        assert caught.value.remedy
        assert await empty.value("SELECT version_num FROM alembic_version") == made.after
        await require_schema(empty.engine("governor"))
        async with _under_load(empty, workers=1):
            pass
        await blocker.close()
        assert (await migrate_schema(empty, folder)).after == newest


async def test_killed_in_a_transaction_it_leaves_nothing_and_a_second_run_ends_it(empty: Database) -> None:
    made = await migrate_schema(empty)
    with folder_with(f"{_ADD}\nop.execute('SELECT pg_sleep(20)')") as (folder, _):
        await killed_in(empty, folder, "wait_event = 'PgSleep'")
    # the other end notices when it wants to answer; until then it keeps the migrators' lock, as a dead machine's would
    await empty.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdfast-victim'"
    )
    assert await empty.value("SELECT version_num FROM alembic_version") == made.after
    with folder_with(_ADD) as (folder, newest):
        assert await migrate_schema(empty, folder) == Migrated(made.after, newest)


async def test_killed_while_it_builds_an_index_a_second_run_builds_it_anew(empty: Database) -> None:
    await migrate_schema(empty)
    blocker = await asyncpg.connect(empty.superuser_url)
    await blocker.execute("BEGIN; SELECT count(*) FROM holds; INSERT INTO holds SELECT * FROM holds WHERE false")
    with folder_with("online.create_index('holds_tool', 'holds (tool)')") as (folder, newest):
        await killed_in(empty, folder, "query LIKE 'CREATE INDEX%' AND wait_event_type = 'Lock'")
        # before the blocker goes: else it ends its index by itself, although nobody waits for it any more
        await empty.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'holdfast-victim'"
        )
        await blocker.close()
        invalid = "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass('holds_tool')"
        assert await empty.value(invalid), "the test wants a half-built index to be there"
        assert (await migrate_schema(empty, folder)).after == newest
        assert await empty.value(invalid) is False


async def test_two_migrators_build_one_index_without_waiting_for_each_other_forever(empty: Database) -> None:
    """Building an index waits for everybody's snapshots, also for that of somebody who waits to migrate."""
    await migrate_schema(empty)
    with folder_with("online.create_index('holds_tool', 'holds (tool)')") as (folder, newest):
        done = await asyncio.gather(*(migrate_schema(empty, folder) for _ in range(3)))
    assert [one.after for one in done] == [newest] * 3


# Who may work with which schema ------------------------------------------------------------------------------------------


def test_a_schema_that_is_older_or_too_new_is_refused_with_a_sentence() -> None:
    assert unfitness(SchemaVersion("0007", "0006"), "0007") is None
    assert unfitness(SchemaVersion("0007", "0006"), "0006") is None, "a rolling upgrade: the schema goes first"
    for found, known, sentence in (
        (None, "0007", "no schema of a known version"),
        (SchemaVersion("0006", "0005"), "0007", "is 0006; this program needs 0007"),
        (SchemaVersion("0008", "0007"), "0006", "is 0008, which programs made for 0006 cannot work with"),
        (SchemaVersion("0007", "0006", restoring=True), "0007", "a restore into this database has not finished"),
    ):
        unfit = unfitness(found, known)
        assert unfit is not None
        assert sentence in unfit.message
        assert unfit.remedy


async def test_every_role_can_read_what_the_schema_says(empty: Database) -> None:
    engine = create_engine(empty.urls["holdfast_executor"], process="test-executor", pool_size=1)
    try:
        with pytest.raises(SchemaUnfit, match="no schema"):
            await require_schema(engine)
        await migrate_schema(empty)
        await require_schema(engine)
        version = await read_version(engine)
        assert version is not None
        assert version.version == newest_known()
        await empty.execute("COMMENT ON TABLE alembic_version IS NULL")  # as programs left it that did not say it yet
        with pytest.raises(SchemaUnfit):
            await require_schema(engine)
        await migrate_schema(empty)
        await require_schema(engine)
    finally:
        await engine.dispose()


async def test_programs_of_this_version_work_on_the_next_ones_schema_and_not_on_that_after_it(empty: Database) -> None:
    await migrate_schema(empty)
    with folder_with(_ADD, "op.execute('CREATE TABLE next (a int)')") as (folder, newest):
        first = folder / f"{newest}_next.py"
        second = first.read_text()
        first.unlink()
        await migrate_schema(empty, folder)
        await require_schema(empty.engine("governor"))
        async with _under_load(empty, workers=2):
            pass
        with pytest.raises(SchemaUnfit, match="this program knows"):
            await migrate_schema(empty)  # a migrator of this version knows nothing of it
        first.write_text(second)
        await migrate_schema(empty, folder)
        with pytest.raises(SchemaUnfit, match="cannot work with"):
            await require_schema(empty.engine("governor"))


async def test_a_migration_does_not_finish_a_restore(empty: Database) -> None:
    await migrate_schema(empty)
    standing = await read_version(empty.engine("governor"))
    assert standing is not None
    restoring = replace(standing, restoring=True)
    await empty.execute(f"COMMENT ON TABLE alembic_version IS '{restoring.comment}'")
    with folder_with(_ADD) as (folder, newest):
        for _ in range(2):
            await migrate_schema(empty, folder)
            found = await read_version(empty.engine("governor"))
            assert found == SchemaVersion(newest, standing.version, restoring=True)
