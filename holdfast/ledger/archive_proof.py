"""Proving the books from archived months: what the files hold is what the database knows of them, entry by entry."""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Final
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.errors import ConfigurationInvalid, Conflict
from holdfast.ledger.archive import FORMAT, VERSION, digest_of, following, parse_month
from holdfast.ledger.archived_spend import Spend
from holdfast.ledger.auditor import Discrepancy, snapshot, tenants_of
from holdfast_verdict.canonical import JsonValue

_CHUNK: Final = 5_000
_ARCHIVES = text("SELECT month, sha256 FROM journal_archives WHERE tenant_id = :tenant_id ORDER BY month")
_SUMS = text("SELECT cap_id, entries, reserved, committed, debt FROM journal_sums WHERE tenant_id = :tenant_id")
_HOLDS = text("""
    SELECT hold_id, state, coalesce(cost_nano_usd, 0) AS cost, leg_cap_ids, leg_amounts FROM holds
    WHERE tenant_id = :tenant_id AND hold_id = ANY(:hold_ids)
""")
# none, but for entries that came when their month had been archived
_LATE = text("""
    SELECT hold_id, kind FROM journal WHERE tenant_id = :tenant_id AND hold_id IS NOT NULL
        AND created_at < (SELECT max(ends_at) FROM journal_archives WHERE tenant_id = :tenant_id)
""")
_SETTLED: Final = {"commit": "committed", "void": "voided", "expire": "expired"}

Entry = dict[str, JsonValue]


@dataclass(slots=True)
class _File:
    """One archived month, read once to its end.

    Attributes:
        path: Where it lies.
        month: Its first day.
        version: Of the form of its lines.
        sha256: Its digest.
        sums: Of each tenant's caps: entries, reserved, committed, debt.
    """

    path: Path
    month: date
    version: int
    sha256: str
    sums: dict[UUID, dict[UUID, list[int]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(lambda: [0] * 4))
    )


async def prove(engine: AsyncEngine, paths: Sequence[Path], say: Callable[[str], None]) -> list[Discrepancy]:
    """Compares files of archived months with what the database keeps of them.

    Args:
        engine: As the role `holdfast_auditor`.
        paths: The files of all months that were archived.
        say: Gets a line for each file that is read.

    Raises:
        ConfigurationInvalid: A file is none of a journal, or one of an archived month is missing.
        Conflict: A month was archived meanwhile.
    """
    tenants = dict(await tenants_of(engine))
    records, late = {}, {}
    for tenant_id in tenants:
        async with snapshot(engine, tenant_id) as connection:
            records[tenant_id] = await _records(connection, tenant_id)
            late[tenant_id] = await _late(connection, tenant_id)
    files = {f"{file.month:%Y-%m}": file for file in map(_opened, paths)}
    if missing := {month for kept in records.values() for month in kept} - set(files):
        raise ConfigurationInvalid(
            f"the file of {', '.join(sorted(missing))} is not among those given", remedy="name all archived months"
        )
    # another file than was written says nothing about the books
    found = [
        Discrepancy(
            "archive.file", slug, month, f"{files[month].path} has digest {files[month].sha256}; {sha256} was archived"
        )
        for tenant_id, slug in tenants.items()
        for month, sha256 in records[tenant_id].items()
        if files[month].sha256 != sha256
    ]
    if found:
        return found
    spend = {tenant_id: Spend() for tenant_id in tenants}
    for month, file in files.items():
        say(f"reading {file.path.name}")
        for tenant_id, chunk in _chunks(file.path):
            _add(file, tenant_id, chunk)
            if month in records.get(tenant_id, {}):
                async with snapshot(engine, tenant_id) as connection:
                    found += await _compare_holds(connection, tenant_id, tenants[tenant_id], chunk, late[tenant_id])
                    if file.version == VERSION:
                        await spend[tenant_id].add(connection, tenant_id, chunk)
    for tenant_id, slug in tenants.items():
        of_tenant = [files[month] for month in records[tenant_id]]
        for file in of_tenant:
            if file.version != VERSION:
                spend[tenant_id].leave_out(following(file.month))
        async with snapshot(engine, tenant_id) as connection:
            if since := set(await _records(connection, tenant_id)) - set(records[tenant_id]):
                raise Conflict(f"{min(since)} was archived meanwhile", remedy="name its file as well, and verify again")
            found += await _compare_sums(connection, tenant_id, slug, of_tenant)
            found += await spend[tenant_id].compare(connection, tenant_id, slug)
    return found


async def _records(connection: AsyncConnection, tenant_id: UUID) -> dict[str, str]:
    """Returns the digest of the file of each month that was archived."""
    rows = await connection.execute(_ARCHIVES, {"tenant_id": tenant_id})
    return {f"{row.month:%Y-%m}": row.sha256.hex() for row in rows}


async def _late(connection: AsyncConnection, tenant_id: UUID) -> set[tuple[str, bool]]:
    """Returns of which holds the journal has the reservation, or the settlement, though its time is one of archived months."""
    rows = await connection.execute(_LATE, {"tenant_id": tenant_id})
    return {(str(row.hold_id), row.kind == "reserve") for row in rows}


def _lines(path: Path) -> Iterator[Entry]:
    try:
        with gzip.open(path, "rb") as file:
            for line in file:
                yield orjson.loads(line)
    except (OSError, EOFError, orjson.JSONDecodeError) as error:
        raise ConfigurationInvalid(f"{path} cannot be read: {error}", remedy="put back the file as it was") from None


def _opened(path: Path) -> _File:
    """Looks at the first line of a file, which says what it is; both forms of lines that ever were are read."""
    header = next(_lines(path), {})
    version = header.get("v")
    if header.get("format") != FORMAT or version not in (1, VERSION):
        raise ConfigurationInvalid(f"{path} is no archived month of a journal")
    return _File(path, parse_month(str(header["month"])), version, digest_of(path))


def _chunks(path: Path) -> Iterator[tuple[UUID, list[Entry]]]:
    """Yields entries in the file's order, some thousands of one tenant at a time."""
    chunk: list[Entry] = []
    for number, entry in enumerate(_lines(path)):
        if number == 0:
            continue
        if chunk and (len(chunk) == _CHUNK or chunk[0]["tenant_id"] != entry["tenant_id"]):
            yield UUID(str(chunk[0]["tenant_id"])), chunk
            chunk = []
        chunk.append(entry)
    if chunk:
        yield UUID(str(chunk[0]["tenant_id"])), chunk


def _texts(entry: Entry, name: str) -> list[str]:
    value = entry[name]
    return [str(one) for one in value] if isinstance(value, list) else []


def _numbers(entry: Entry, name: str) -> list[int]:
    return [int(one) for one in _texts(entry, name)]


def _add(file: _File, tenant_id: UUID, chunk: Sequence[Entry]) -> None:
    sums = file.sums[tenant_id]
    for entry in chunk:
        moved = zip(*(_numbers(entry, f"{name}_deltas") for name in ("reserved", "committed", "debt")), strict=True)
        for cap_id, deltas in zip(_texts(entry, "cap_ids"), moved, strict=True):
            at = sums[UUID(cap_id)]
            for place, amount in enumerate((1, *deltas)):
                at[place] += amount


async def _compare_holds(
    connection: AsyncConnection, tenant_id: UUID, slug: str, chunk: Sequence[Entry], late: set[tuple[str, bool]]
) -> list[Discrepancy]:
    """Every entry says what its hold says: the same legs, the same end, the same cost; and the journal has it no longer."""
    entries = [entry for entry in chunk if entry["hold_id"] is not None]
    ids = list({UUID(str(entry["hold_id"])) for entry in entries})
    rows = await connection.execute(_HOLDS, {"tenant_id": tenant_id, "hold_ids": ids})
    holds = {str(row.hold_id): row for row in rows}
    found = []
    for entry in entries:
        hold, kind = holds.get(str(entry["hold_id"])), str(entry["kind"])
        sign = 1 if kind == "reserve" else -1
        right = (
            hold is not None
            and _texts(entry, "cap_ids") == [str(cap_id) for cap_id in hold.leg_cap_ids]
            and _numbers(entry, "reserved_deltas") == [sign * amount for amount in hold.leg_amounts]
            and (kind == "reserve" or (_SETTLED[kind] == hold.state and int(str(entry["cost_nano_usd"])) == hold.cost))
        )
        if not right:
            says = f"archived entry {entry['entry_id']} ({kind}) is not what its hold says"
            found.append(Discrepancy("archive.hold", slug, str(entry["hold_id"]), says))
        if (str(entry["hold_id"]), kind == "reserve") in late:
            says = f"archived entry {entry['entry_id']} ({kind}) is in the journal as well"
            found.append(Discrepancy("archive.hold", slug, str(entry["hold_id"]), says))
    return found


async def _compare_sums(
    connection: AsyncConnection, tenant_id: UUID, slug: str, files: Sequence[_File]
) -> list[Discrepancy]:
    found: list[Discrepancy] = []
    total: dict[UUID, list[int]] = defaultdict(lambda: [0] * 4)
    for file in files:
        for cap_id, amounts in file.sums[tenant_id].items():
            total[cap_id] = [a + b for a, b in zip(total[cap_id], amounts, strict=True)]
    kept = {row.cap_id: list(row[1:]) for row in await connection.execute(_SUMS, {"tenant_id": tenant_id})}
    for cap_id in sorted({*total, *kept}):
        if total.get(cap_id) != kept.get(cap_id):
            says = f"the files add up to {total.get(cap_id)}, the sums are {kept.get(cap_id)} (entries, reserved, committed, debt)"
            found.append(Discrepancy("archive.sums", slug, str(cap_id), says))
    return found
