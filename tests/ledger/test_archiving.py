"""Old months leave the journal, and every balance can still be proved; nothing is lost, whenever it is stopped."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from holdfast.errors import ConfigurationInvalid, Conflict
from holdfast.ledger.archive import Archived
from holdfast_verdict.canonical import canonical_bytes
from tests.forging import write_past_triggers
from tests.stack.places import ROOT

from .desk import BEGINS, MONTH, Desk
from .world import until

_STANDING = "SELECT cap_id, reserved, committed, debt, limit_amount FROM caps ORDER BY cap_id"


async def test_months_go_into_files_and_the_books_can_be_proved_without_and_with_them(desk: Desk) -> None:
    await desk.settle_all()
    before = await desk.database.fetch(_STANDING)
    entries = await desk.database.value("SELECT count(*) FROM journal")
    done = await desk.archive()
    assert [one.month for one in done] == sorted(one.month for one in done)
    assert len(done) >= 3
    left = await desk.database.value("SELECT count(*) FROM journal")
    assert left + sum(one.entries for one in done) == entries
    assert await desk.database.value("SELECT count(*) FROM journal WHERE created_at < $1", BEGINS) == 0
    assert await desk.database.fetch(_STANDING) == before
    assert await desk.wrong() == set()
    # the second click does nothing
    assert await desk.archive() == []
    # and the ledger goes on
    tenant = desk.books[0].tenant
    await tenant.cap("tenant", 10**9)
    for kind, unit in (("user", "nano_usd"), ("project", "tokens"), ("role", "calls"), ("tenant", "slots")):
        await tenant.cap(kind, 10**9, unit=unit)
    await tenant.settle((await tenant.held()).hold_id, "voided")
    assert await desk.wrong() == set()


async def test_what_is_wrong_with_sums_or_files_is_named(desk: Desk) -> None:
    await desk.settle_all()
    done = await desk.archive()
    cap = await desk.database.value("SELECT cap_id FROM journal_sums WHERE committed > 0 LIMIT 1")
    await desk.database.execute("UPDATE journal_sums SET committed = committed + 1 WHERE cap_id = $1", cap)
    assert await desk.wrong() == {"cap.balance", "archive.sums"}
    await desk.database.execute("UPDATE journal_sums SET committed = committed - 1 WHERE cap_id = $1", cap)
    hold = await desk.database.value(
        "SELECT hold_id FROM holds WHERE settled_at < $1 AND cardinality(leg_cap_ids) > 0 LIMIT 1",
        BEGINS,
    )
    async with desk.database.superuser.acquire() as connection:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("UPDATE holds SET leg_amounts[1] = leg_amounts[1] + 1 WHERE hold_id = $1", hold)
        assert await desk.wrong() == {"archive.hold"}, "only the files know it"
        await connection.execute("UPDATE holds SET leg_amounts[1] = leg_amounts[1] - 1 WHERE hold_id = $1", hold)
        await connection.execute("SET session_replication_role = DEFAULT")
    file = done[0].file
    whole = file.read_bytes()
    file.write_bytes(whole + whole)  # every line twice: gzip reads members one after another
    assert "archive.file" in await desk.wrong()
    with pytest.raises(Conflict, match="is not as it was"):
        await desk.archive()
    file.unlink()
    with pytest.raises(ConfigurationInvalid, match="is not among those given"):
        await desk.wrong()
    file.write_bytes(whole)
    assert await desk.wrong() == set()


def _written(value: object) -> object:
    """A value of a column as the file writes it: numbers, ids and times are text."""
    if isinstance(value, list):
        return [_written(one) for one in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return value if value is None or isinstance(value, bool | str) else str(value)


def _lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


async def test_a_line_of_a_file_has_every_column_of_the_journal(desk: Desk) -> None:
    """Once the month is dropped, only the file has it: also what a column says that somebody adds later."""
    await desk.settle_all()
    await desk.database.execute("ALTER TABLE journal ADD COLUMN added text NOT NULL DEFAULT 'later'")
    rows = await desk.database.fetch(
        "SELECT * FROM journal WHERE created_at < $1 ORDER BY date_trunc('month', created_at, 'UTC'), tenant_id, entry_id",
        BEGINS,
    )
    done = await desk.archive()
    lines = [line for one in done for line in _lines(one.file)]
    assert {line["v"] for line in lines if "format" in line} == {2}
    entries = [line for line in lines if "format" not in line]
    assert entries == [{name: _written(value) for name, value in row.items()} for row in rows]
    assert {"input_tokens", "cached_tokens", "simulated", "day", "added"} <= set(entries[0])
    assert {entry["added"] for entry in entries} == {"later"}
    assert {str(row["day"])[:7] for row in rows if row["day"]} >= {f"{one.month:%Y-%m}" for one in done[1:]}


_BOOKED = """
    UPDATE rollups r SET {} FROM (SELECT tenant_id, day, run_id, kind, tool, model, simulated FROM rollups ORDER BY day LIMIT 1) o
    WHERE (r.tenant_id, r.day, r.run_id, r.kind, r.tool, r.model, r.simulated)
        = (o.tenant_id, o.day, o.run_id, o.kind, o.tool, o.model, o.simulated)
"""
_SUMS = ("holds", "calls", "tokens", "input_tokens", "cached_tokens", "cost_nano_usd")
_MISBOOKED = (
    *(_BOOKED.format(f"{column} = r.{column} + 1") for column in _SUMS),
    _BOOKED.format("simulated = NOT r.simulated"),
    _BOOKED.format("agent = 'another'"),
    _BOOKED.format("day = r.day - 1000"),
    "DELETE FROM rollups WHERE day = (SELECT min(day) FROM rollups)",
)


async def _misbooked(desk: Desk) -> list[tuple[set[str], set[str]]]:
    """What is found without and with the files of each thing that can be wrong with an archived day's rollups."""
    pool, found = desk.database.superuser, []
    await desk.database.execute("CREATE TABLE saved AS SELECT * FROM rollups")
    for tampering in _MISBOOKED:
        await write_past_triggers(pool, tampering)
        found.append((await desk.wrong(files=False), await desk.wrong()))
        await write_past_triggers(pool, "DELETE FROM rollups")
        await write_past_triggers(pool, "INSERT INTO rollups SELECT * FROM saved")
    assert await desk.wrong() == set()
    return found


async def test_what_is_booked_of_archived_days_is_proved_with_the_files_alone(desk: Desk) -> None:
    await desk.settle_all()
    await desk.archive()
    assert await _misbooked(desk) == [(set(), {"archive.rollup"})] * len(_MISBOOKED)


async def test_files_of_the_form_before_still_prove_all_that_they_have(desk: Desk) -> None:
    """They lack what rollups are made of, so nothing is said of their days; balances and holds are proved as ever."""
    await desk.settle_all()
    *done, newest = await desk.archive()
    for one in done:
        header, *entries = _lines(one.file)
        lacking = ("input_tokens", "cached_tokens", "simulated", "day")
        before = [{name: value for name, value in entry.items() if name not in lacking} for entry in entries]
        await _put(desk, one, {**header, "v": 1}, before)
    assert await desk.wrong() == set()
    assert await _misbooked(desk) == [(set(), set())] * len(_MISBOOKED)
    # the newest month is of the form of now
    booked = "UPDATE rollups SET tokens = tokens + 1 WHERE day = (SELECT min(day) FROM rollups WHERE day >= $1)"
    await write_past_triggers(desk.database.superuser, booked, newest.month + timedelta(days=7))
    assert await desk.wrong() == {"archive.rollup"}
    hold = "(SELECT hold_id FROM holds WHERE settled_at < $1 AND cardinality(leg_cap_ids) > 0 LIMIT 1)"
    await write_past_triggers(
        desk.database.superuser,
        f"UPDATE holds SET leg_amounts[1] = leg_amounts[1] + 1 WHERE hold_id = {hold}",
        datetime(newest.month.year, newest.month.month, 1, tzinfo=UTC),
    )
    assert await desk.wrong() == {"archive.rollup", "archive.hold"}
    # a form that is yet to come is refused
    newest.file.write_bytes(gzip.compress(gzip.decompress(newest.file.read_bytes()).replace(b'"v":2', b'"v":3', 1)))
    with pytest.raises(ConfigurationInvalid, match="no archived month"):
        await desk.wrong()


async def _put(desk: Desk, one: Archived, header: dict[str, object], entries: list[dict[str, object]]) -> None:
    """Puts another file in a month's place, and says that it is the one that was archived."""
    one.file.write_bytes(gzip.compress(b"".join(canonical_bytes(line) + b"\n" for line in (header, *entries))))
    await desk.database.execute(
        "UPDATE journal_archives SET sha256 = $2 WHERE month = $1",
        one.month,
        hashlib.sha256(one.file.read_bytes()).digest(),
    )


async def test_a_month_with_open_holds_stays(desk: Desk) -> None:
    entries = await desk.database.value("SELECT count(*) FROM journal")
    with pytest.raises(Conflict, match="holds that are still open"):
        await desk.archive()
    assert await desk.database.value("SELECT count(*) FROM journal") == entries
    assert list(desk.folder.glob("*.gz")) == []
    assert await desk.wrong() == set()


async def test_killed_before_its_commit_nothing_is_lost_and_a_second_run_ends_it(desk: Desk) -> None:
    await desk.settle_all()
    entries = await desk.database.value("SELECT count(*) FROM journal")
    reader = await asyncpg.connect(desk.database.superuser_url)
    await reader.execute("BEGIN; SELECT count(*) FROM journal")  # it cannot detach the month, with its file written
    process = await _command(desk, "archive", "--before", f"{MONTH:%Y-%m}", "--to", str(desk.folder), role="owner")
    first = desk.folder
    await until(lambda: asyncio.sleep(0.01, list(first.glob("*.gz"))), timeout_s=60)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await reader.execute("COMMIT")
    await reader.close()
    await desk.database.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'holdfast-archive'"
    )
    assert await desk.database.value("SELECT count(*) FROM journal") == entries
    assert await desk.wrong(files=False) == set()
    assert (
        sum(one.entries for one in await desk.archive()) + await desk.database.value("SELECT count(*) FROM journal")
        == entries
    )
    assert await desk.wrong() == set()


async def _command(desk: Desk, *words: str, role: str) -> asyncio.subprocess.Process:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HOLDFAST_")}
    environment[f"HOLDFAST_{role.upper()}_DATABASE_URL"] = desk.database.urls[f"holdfast_{role}"]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.main", "ledger", *words, env=environment, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def test_the_commands_say_what_they_did(desk: Desk) -> None:
    await desk.settle_all()
    process = await _command(
        desk, "archive", "--before", f"{MONTH:%Y-%m}", "--to", str(desk.folder), "--json", role="owner"
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err
    files = [one["file"] for one in json.loads(out)]
    named = [word for file in files for word in ("--archive", file)]
    process = await _command(desk, "verify", "--json", *named, role="auditor")
    out, err = await process.communicate()
    assert (process.returncode, json.loads(out)["ok"]) == (0, True), err
    async with desk.database.superuser.acquire() as connection:
        await connection.execute("UPDATE caps SET reserved = reserved + 1 WHERE unit = 'slots'")
    process = await _command(desk, "verify", role="auditor")
    out, err = await process.communicate()
    assert process.returncode == 1
    assert "cap.balance" in out.decode()
    process = await _command(desk, "verify", *named[:2], role="auditor")
    out, err = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert "is not among those given" in err.decode()


async def test_verifying_waits_for_no_lock_of_those_who_work(desk: Desk) -> None:
    working = await asyncpg.connect(desk.database.superuser_url)
    await working.execute("BEGIN; SELECT 1 FROM caps FOR NO KEY UPDATE; UPDATE holds SET settled_by = settled_by")
    try:
        async with asyncio.timeout(60):
            assert await desk.wrong() == set()
    finally:
        await working.close()


async def test_entries_of_a_month_that_nobody_made_are_seen_and_moved_when_it_is(desk: Desk) -> None:
    await desk.database.execute("ALTER TABLE journal DETACH PARTITION " + (name := f"journal_{MONTH:%Y_%m}"))
    await desk.database.execute(f"INSERT INTO journal_rest SELECT * FROM {name}; DROP TABLE {name}")
    sweeper = await desk.database.connect("sweeper")
    strays = await sweeper.fetch("SELECT * FROM journal_strays()")
    assert [row["month"].date() for row in strays] == [MONTH]
    assert await sweeper.fetchval("SELECT make_journal_partitions($1, 1)", strays[0]["month"]) == 1
    assert await sweeper.fetch("SELECT * FROM journal_strays()") == []
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await sweeper.execute("DROP TABLE " + name)
    await sweeper.close()
    assert await desk.database.value(f"SELECT count(*) FROM {name}") == strays[0]["entries"]
    assert await desk.wrong() == set()
