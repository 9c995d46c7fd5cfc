"""When a month is over, and what becomes of entries that come after it was archived: the books stay right, and can be proved."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest

from holdfast.errors import ConfigurationInvalid, Conflict
from holdfast.ledger import archive as archiving
from holdfast.ledger.archive import Archived, digest_of, following
from holdfast.ledger.archive_proof import prove
from tests.forging import write_past_triggers

from .desk import BEGINS, Desk
from .world import Tenant, new_tenant

_WHEN_OVER = [
    (datetime(2026, 11, 30, 22, tzinfo=UTC), False),
    (datetime(2026, 12, 1, 23, 59, 59, tzinfo=UTC), False),
    (datetime(2026, 12, 2, tzinfo=UTC), True),
    (datetime.fromisoformat("2026-12-02T01:00:00+02:00"), False),
    (datetime.fromisoformat("2026-12-01T20:00:00-05:00"), True),
]


@pytest.mark.parametrize(("now", "over"), _WHEN_OVER)
def test_a_month_is_over_a_day_after_its_end(now: datetime, over: bool) -> None:
    if over:
        archiving.check_over(date(2026, 12, 1), now)
        return
    with pytest.raises(ConfigurationInvalid, match="2026-12 has not begun a day ago"):
        archiving.check_over(date(2026, 12, 1), now)


class _Ahead(datetime):
    """An operator's clock, two months ahead."""

    @classmethod
    def now(cls, tz: object = None) -> _Ahead:
        at = datetime.now(UTC) + timedelta(days=62)
        return cls(at.year, at.month, at.day, tzinfo=UTC)


async def test_whether_a_month_is_over_is_asked_of_postgresql(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.settle_all()
    entries = await desk.database.value("SELECT count(*) FROM journal")
    monkeypatch.setattr(archiving, "datetime", _Ahead)
    now = await desk.database.value("SELECT now()")
    with pytest.raises(ConfigurationInvalid, match="has not begun a day ago: by PostgreSQL's clock it is"):
        await desk.archive(following(now.astimezone(UTC).date()))
    assert await desk.database.value("SELECT count(*) FROM journal") == entries
    assert list(desk.folder.iterdir()) == []
    assert await desk.wrong() == set()


async def _roomy(tenant: Tenant) -> Tenant:
    await tenant.cap("tenant", 10**9)
    for kind, unit in (("user", "nano_usd"), ("project", "tokens"), ("role", "calls"), ("tenant", "slots")):
        await tenant.cap(kind, 10**9, unit=unit)
    return tenant


async def _backdated(desk: Desk, tenant: Tenant, at: datetime, *, settled_at: datetime | None = None) -> UUID:
    """A committed hold as a transaction leaves it that had begun then, and has only just written."""
    hold = await tenant.held(await tenant.run())
    await tenant.executed(hold)
    await tenant.settle(hold.hold_id, "committed", {"nano_usd": 7, "calls": 1, "tokens": 3})
    end, day = settled_at or at, "($2 AT TIME ZONE 'UTC')::date"
    for statement, when in (
        ("UPDATE journal SET created_at = $2 WHERE kind = 'reserve' AND hold_id = $1", at),
        ("UPDATE holds SET created_at = $2 WHERE hold_id = $1", at),
        (f"UPDATE journal SET created_at = $2, day = {day} WHERE kind = 'commit' AND hold_id = $1", end),
        ("UPDATE holds SET settled_at = $2 WHERE hold_id = $1", end),
        (f"UPDATE rollups SET day = {day} WHERE run_id = (SELECT run_id FROM holds WHERE hold_id = $1)", end),
    ):
        await write_past_triggers(desk.database.superuser, statement, hold.hold_id, when)
    return hold.hold_id


@pytest.mark.parametrize("settled_at", [None, BEGINS + timedelta(seconds=1)])
async def test_entries_that_come_after_their_month_was_archived_stay_in_the_journal_and_the_books_are_right(
    desk: Desk, settled_at: datetime | None
) -> None:
    await desk.settle_all()
    done = await desk.archive()
    digests = {one.file: one.sha256 for one in done}
    tenant = await _roomy(desk.books[0].tenant)
    hold = await _backdated(desk, tenant, BEGINS - timedelta(seconds=5), settled_at=settled_at)
    assert await desk.wrong() == set()
    desk.said.clear()
    for _ in range(2):
        assert await desk.archive() == []
        assert {file: digest_of(file) for file in desk.folder.iterdir()} == digests
        assert await desk.wrong() == set()
    [said, _] = desk.said
    assert said == f"{done[-1].month:%Y-%m} was archived before; what came after that stays in the journal"
    assert await desk.database.value("SELECT count(*) FROM journal WHERE hold_id = $1", hold) == 2
    # that one of them is lost is found
    await write_past_triggers(
        desk.database.superuser, "DELETE FROM journal WHERE hold_id = $1 AND kind = 'commit'", hold
    )
    assert "cap.balance" in await desk.wrong()


async def test_months_after_one_that_has_late_entries_can_be_archived(desk: Desk) -> None:
    await desk.settle_all()
    oldest = (await desk.database.value("SELECT min(created_at) FROM journal")).astimezone(UTC).date().replace(day=1)
    [first, second] = await desk.archive(following(following(oldest)))
    tenant = await _roomy(desk.books[0].tenant)
    await _backdated(desk, tenant, datetime(second.month.year, second.month.month, 2, tzinfo=UTC))
    done = await desk.archive()
    assert min(one.month for one in done) == following(second.month)
    assert await desk.database.value("SELECT count(*) FROM journal WHERE created_at < $1", BEGINS) == 2
    assert await desk.wrong() == set()
    assert (digest_of(first.file), digest_of(second.file)) == (first.sha256, second.sha256)


async def test_late_entries_of_a_tenant_that_has_none_in_the_file_do_not_overwrite_it(desk: Desk) -> None:
    await desk.settle_all()
    done = await desk.archive()
    other = await _roomy(await new_tenant(desk.database))
    await _backdated(desk, other, BEGINS - timedelta(seconds=5))
    assert await desk.archive() == []
    assert {one.file: digest_of(one.file) for one in done} == {one.file: one.sha256 for one in done}
    assert await desk.wrong() == set()


async def test_a_month_that_is_archived_late_does_not_say_that_the_newer_ones_are_in_the_journal(desk: Desk) -> None:
    await desk.settle_all()
    tenant = await new_tenant(desk.database)
    await tenant.cap("tenant", 10**9)
    await _backdated(desk, tenant, BEGINS - timedelta(days=7))
    assert len(await desk.archive()) >= 3
    # somebody's clock was far behind
    await _backdated(desk, tenant, BEGINS - timedelta(days=900))
    assert await desk.wrong() == set()
    assert len(await desk.archive()) == 1
    assert await desk.wrong() == set()


async def test_an_archived_entry_that_is_in_the_journal_as_well_is_named(desk: Desk) -> None:
    await desk.settle_all()
    voided = await desk.database.value(
        "SELECT hold_id FROM holds WHERE state = 'voided' AND settled_at < $1 AND cardinality(leg_cap_ids) > 0 LIMIT 1",
        BEGINS,
    )
    await desk.database.execute(f"CREATE TABLE kept AS SELECT * FROM journal WHERE hold_id = '{voided}'")
    await desk.archive()
    # what it reserved it gave back, so no balance shows it; and a late entry may have this time
    await desk.database.execute("INSERT INTO journal SELECT * FROM kept")
    assert await desk.wrong() == {"archive.hold"}
    await write_past_triggers(
        desk.database.superuser, "UPDATE journal SET created_at = $1 WHERE hold_id = $2", BEGINS, voided
    )
    assert await desk.wrong(files=False) == {"leg.journal"}, "it is not as old as its hold"


async def test_a_month_that_is_archived_while_files_are_proved_is_no_discrepancy(desk: Desk) -> None:
    await desk.settle_all()
    oldest = (await desk.database.value("SELECT min(created_at) FROM journal")).astimezone(UTC).date().replace(day=1)
    [first] = await desk.archive(following(oldest))
    done: list[Archived] = []

    def archive_meanwhile(_: str) -> None:
        with ThreadPoolExecutor(1) as thread:
            done.extend(thread.submit(asyncio.run, desk.archive()).result())

    with pytest.raises(Conflict, match="was archived meanwhile"):
        await prove(desk.database.engine("auditor"), [first.file], archive_meanwhile)
    assert len(done) >= 2
    assert await desk.wrong() == set()
