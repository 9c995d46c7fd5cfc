"""Taking old months out of the journal: their entries go into a file, what they add up to stays, so that balances stay provable.

It runs as the schema's owner, by an operator's hand: no process of Holdfast has a right to take anything out of the journal.
A month is one transaction. Its file is whole and on disk before that commits; killed at any moment, nothing is lost, and a
second run ends it.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg

from holdfast.errors import ConfigurationInvalid, Conflict, Unavailable
from holdfast_verdict.canonical import canonical_bytes

FORMAT: Final = "holdfast journal archive"
VERSION: Final = 2
"""Of a line's form: every column of the journal. Version 1 had no `input_tokens`, `cached_tokens`, `simulated` and `day`."""
MARGIN: Final = timedelta(days=1)
"""How long a month has to be over: who began in it may still write."""
_LOCK_TRIES: Final = 60
_LOCK_PAUSE_S: Final = 0.5
_FETCH: Final = 5_000
_MONTH: Final = re.compile(r"journal_(\d{4})_(\d{2})")

_MONTHS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'journal'::regclass ORDER BY 1"
_TENANT = "SELECT set_config('holdfast.tenant_id', $1, true)"
# every column, also one that is added later: after this the file alone has them
_ROWS = "SELECT * FROM {} WHERE tenant_id = $1 ORDER BY entry_id"
_OPEN = """
    SELECT h.hold_id FROM {} j JOIN holds h ON h.tenant_id = j.tenant_id AND h.hold_id = j.hold_id
    WHERE j.tenant_id = $1 AND h.settled_at IS NULL LIMIT 3
"""
_ADD_SUMS = """
    INSERT INTO journal_sums AS old (tenant_id, cap_id, through, entries, reserved, committed, debt, last_entry_id,
        limit_amount, unlimited)
    SELECT j.tenant_id, l.cap_id, $2, count(*), sum(l.reserved), sum(l.committed), sum(l.debt), max(j.entry_id),
        (array_agg(l.limit_amount ORDER BY j.entry_id DESC))[1], (array_agg(l.unlimited ORDER BY j.entry_id DESC))[1]
    FROM {} j, unnest(j.cap_ids, j.reserved_deltas, j.committed_deltas, j.debt_deltas, j.limit_amounts, j.unlimited)
        AS l (cap_id, reserved, committed, debt, limit_amount, unlimited)
    WHERE j.tenant_id = $1 GROUP BY j.tenant_id, l.cap_id
    ON CONFLICT (tenant_id, cap_id) DO UPDATE SET through = greatest(old.through, excluded.through),
        entries = old.entries + excluded.entries, reserved = old.reserved + excluded.reserved,
        committed = old.committed + excluded.committed, debt = old.debt + excluded.debt,
        last_entry_id = greatest(old.last_entry_id, excluded.last_entry_id),
        limit_amount = CASE WHEN excluded.last_entry_id > old.last_entry_id THEN excluded.limit_amount ELSE old.limit_amount END,
        unlimited = CASE WHEN excluded.last_entry_id > old.last_entry_id THEN excluded.unlimited ELSE old.unlimited END
"""
_ADD_ARCHIVE = "INSERT INTO journal_archives (tenant_id, month, ends_at, entries, sha256) VALUES ($1, $2, $3, $4, $5)"
_DONE = "SELECT month, sha256 FROM journal_archives WHERE tenant_id = $1"


@dataclass(frozen=True, slots=True)
class Archived:
    """A month that is out of the journal.

    Attributes:
        month: Its first day.
        file: Where its entries are.
        entries: How many.
        sha256: The file's digest, which the database keeps as well.
    """

    month: date
    file: Path
    entries: int
    sha256: str


def parse_month(text: str) -> date:
    """Reads `YYYY-MM`.

    Raises:
        ConfigurationInvalid: It is none.
    """
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError:
        raise ConfigurationInvalid(f"{text!r} is no month", remedy="write it as 2026-03") from None


def following(month: date) -> date:
    """Returns the month after."""
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def check_over(before: date, now: datetime) -> None:
    """Refuses months that are not over, or not for long enough.

    Args:
        before: The first month that stays.
        now: PostgreSQL's time, as entries have it.

    Raises:
        ConfigurationInvalid: It has not begun a day ago.
    """
    if now < datetime(before.year, before.month, 1, tzinfo=UTC) + MARGIN:
        raise ConfigurationInvalid(
            f"{before:%Y-%m} has not begun a day ago: by PostgreSQL's clock it is {now.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
            remedy="a month stays in the journal until a day after its end, for whoever began in it and still writes",
        )


def file_of(folder: Path, month: date) -> Path:
    """Returns where a month's entries lie."""
    return folder / f"journal-{month:%Y-%m}.jsonl.gz"


async def archive(owner_url: str, before: date, folder: Path, say: Callable[[str], None]) -> list[Archived]:
    """Takes every month before one out of the journal, oldest first. Run again, it goes on where it was stopped.

    A month is archived once. What comes after that, of a transaction that began in it and wrote when it was gone, stays in the journal.

    Args:
        owner_url: The database, as the schema's owner.
        before: The first month that stays.
        folder: Where the files go, one a month.
        say: Gets a line for each month.

    Raises:
        ConfigurationInvalid: The months are not over for a day, by PostgreSQL's clock, or the folder is none.
        Conflict: A month has entries of holds that are still open, or a file of a month archived before is not as it was.
        Unavailable: PostgreSQL is away, or somebody keeps the journal locked.
    """
    if not folder.is_dir():  # noqa: ASYNC240 (a command's own loop: nobody else waits)
        raise ConfigurationInvalid(f"{folder} is no folder", remedy="make it first")
    try:
        connection = await asyncpg.connect(
            owner_url, server_settings={"application_name": "holdfast-archive", "jit": "off"}
        )
    except (OSError, asyncpg.PostgresError) as error:
        raise Unavailable(f"cannot reach the database: {error}", remedy="check its URL") from None
    try:
        check_over(before, await connection.fetchval("SELECT now()"))
        tenants = [
            row["tenant_id"] for row in await connection.fetch("SELECT tenant_id FROM list_tenants() ORDER BY 1")
        ]
        await _take_strays_in(connection, before)
        once = await _check_files_of_before(connection, tenants, before, folder)
        done = []
        for name in [row[0] for row in await connection.fetch(_MONTHS)]:
            found = _MONTH.fullmatch(name)
            if found is None or (month := date(int(found[1]), int(found[2]), 1)) >= before:
                continue
            if month in once:  # its file is written, and stays the one that the database knows
                say(f"{month:%Y-%m} was archived before; what came after that stays in the journal")
                continue
            done.append(await _archive_month(connection, name, month, tenants, folder))
            say(f"{month:%Y-%m}: {done[-1].entries} entries are in {done[-1].file}, sha256 {done[-1].sha256}")
        return done
    finally:
        await connection.close()


async def _take_strays_in(connection: asyncpg.Connection, before: date) -> None:
    """Entries of months that nobody had made lie in the rest; they get their months."""
    for row in await connection.fetch("SELECT month FROM journal_strays()"):
        if row["month"].date() < before:
            make = partial(connection.execute, "SELECT make_journal_partitions($1, 1)", row["month"])
            await _patiently(connection, make)


async def _check_files_of_before(
    connection: asyncpg.Connection, tenants: list[UUID], before: date, folder: Path
) -> set[date]:
    """A file of an earlier run that lies in the folder has to be the one that the database knows. Returns the months archived."""
    known: dict[date, str] = {}
    for tenant_id in tenants:
        async with connection.transaction():
            await connection.execute(_TENANT, str(tenant_id))
            known |= {row["month"]: row["sha256"].hex() for row in await connection.fetch(_DONE, tenant_id)}
    for month, sha256 in known.items():
        path = file_of(folder, month)
        if month < before and path.exists() and digest_of(path) != sha256:
            raise Conflict(
                f"{path} is not as it was when {month:%Y-%m} was archived",
                remedy="put the file with the digest " + sha256,
            )
    return set(known)


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _archive_month(
    connection: asyncpg.Connection, name: str, month: date, tenants: list[UUID], folder: Path
) -> Archived:
    ends_at = datetime(following(month).year, following(month).month, 1, tzinfo=UTC)
    final = file_of(folder, month)
    part = final.with_name(final.name + ".part")
    async with connection.transaction():
        # whoever still writes into this month (a clock that was set back) waits, or was first
        await _patiently(connection, lambda: connection.execute(f"LOCK TABLE ONLY {name} IN EXCLUSIVE MODE"))
        counts = {}
        with _new_file(part) as file:
            _write(file, {"format": FORMAT, "v": VERSION, "month": f"{month:%Y-%m}"})
            for tenant_id in tenants:
                await connection.execute(_TENANT, str(tenant_id))
                if still_open := await connection.fetch(_OPEN.format(name), tenant_id):
                    raise Conflict(
                        f"{month:%Y-%m} has entries of holds that are still open, such as {still_open[0]['hold_id']}",
                        remedy="settle them first (`holdfast holds --state unknown`), or archive the months before only",
                    )
                counts[tenant_id] = 0
                async for row in connection.cursor(_ROWS.format(name), tenant_id, prefetch=_FETCH):
                    _write(file, _as_json(row))
                    counts[tenant_id] += 1
        sha256 = digest_of(part)
        for tenant_id, count in counts.items():
            if count:
                await connection.execute(_TENANT, str(tenant_id))
                await connection.execute(_ADD_SUMS.format(name), tenant_id, ends_at)
                await connection.execute(_ADD_ARCHIVE, tenant_id, month, ends_at, count, bytes.fromhex(sha256))
        part.replace(final)
        _sync(folder)
        detach = f"ALTER TABLE journal DETACH PARTITION {name}; DROP TABLE {name}"
        await _patiently(connection, lambda: connection.execute(detach))
    return Archived(month, final, sum(counts.values()), sha256)


async def _patiently(connection: asyncpg.Connection, work: Callable[[], Awaitable[object]]) -> None:
    """Does what needs a lock; others, who would wait behind it, wait a second at most."""
    for tries in range(1, _LOCK_TRIES + 1):
        try:
            async with connection.transaction():
                await connection.execute("SET LOCAL lock_timeout = '1s'")
                await work()
        except asyncpg.LockNotAvailableError:
            if tries == _LOCK_TRIES:
                raise Unavailable(
                    "somebody keeps the journal locked", remedy="run it again at a quieter time"
                ) from None
            await asyncio.sleep(_LOCK_PAUSE_S)
        else:
            return


@contextmanager
def _new_file(path: Path) -> Iterator[gzip.GzipFile]:
    """Yields a gzip file, on disk when the block ends; its bytes depend on what is written alone."""
    with path.open("wb") as raw:
        with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as file:
            yield file
        raw.flush()
        os.fsync(raw.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(file: gzip.GzipFile, value: object) -> None:
    file.write(canonical_bytes(value) + b"\n")


def _as_json(row: asyncpg.Record) -> dict[str, object]:
    """Returns an entry as JSON; what may not fit a float is text.

    Raises:
        TypeError: A column is of a type of which nobody has said how it is written.
    """
    return {name: _value(value) for name, value in row.items()}


def _value(value: object) -> object:
    if isinstance(value, list):
        return [_value(one) for one in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | date | UUID):
        return str(value)
    raise TypeError(f"a {type(value).__name__} has no form in a file of the journal")
