"""The oracle: a second, simple ledger that replays the journal and says what each entry must be. It shares no code with the first."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from uuid import UUID

import orjson

from .world import Database, Record, Tenant

_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(slots=True, eq=False)
class Rolling:
    """The buckets of a rolling window that have begun, in that order."""

    window: timedelta
    begun: list[Cap] = field(default_factory=list)

    def counting(self) -> list[Cap]:
        """Those of which something may be in the window."""
        newest = self.begun[-1]
        return [cap for cap in self.begun if cap is newest or cap.ends_at + self.window > newest.starts_at]


@dataclass(slots=True, eq=False)
class Cap:
    """One cap, replayed; `past` holds every balance it ever had, and what older buckets of a rolling one had then."""

    unit: str
    limit: int = 0
    unlimited: bool = False
    reserved: int = 0
    committed: int = 0
    debt: int = 0
    starts_at: datetime = _NEVER
    ends_at: datetime = _NEVER
    rolling: Rolling | None = None
    past: list[tuple[int | None, int, int, int, int]] = field(default_factory=list)

    def now(self) -> tuple[int | None, int, int, int]:
        return (None if self.unlimited else self.limit, self.reserved, self.committed, self.debt)

    def used(self) -> int:
        return self.reserved + self.committed + self.debt

    def together(self) -> list[Cap]:
        """The buckets that share one limit with this one; itself alone if it is none, or counts no more."""
        counting = [] if self.rolling is None else self.rolling.counting()
        return counting if self in counting else [self]

    def free(self) -> int:
        return self.limit - sum(cap.used() for cap in self.together())

    def remember(self) -> None:
        for cap in self.together():
            cap.past.append((*cap.now(), sum(other.used() for other in cap.together() if other is not cap)))

    def set_limit(self, limit: int, unlimited: bool) -> None:
        for cap in self.together():
            cap.limit, cap.unlimited = limit, unlimited
        for cap in self.together():
            room = limit - sum(one.reserved + one.committed for one in self.together())
            paid = cap.debt if unlimited else min(cap.debt, max(room, 0))
            cap.debt -= paid
            cap.committed += paid

    def reserve(self, amount: int) -> None:
        assert self.unlimited or self.free() >= amount, "a grant over the limit"
        self.reserved += amount

    def settle(self, held: int, actual: int) -> None:
        self.reserved -= held
        self.committed += min(actual, held)
        over = max(actual - held, 0)
        fits = over if self.unlimited else max(min(over, self.free()), 0)
        self.committed += fits
        self.debt += over - fits


async def check_books(tenant: Tenant, actual: dict[UUID, dict[str, int]]) -> dict[UUID, Cap]:
    """Replays the tenant's journal, entry by entry, and compares it with everything that is stored.

    Args:
        tenant: Whose books.
        actual: What each committed hold came to by unit, as the test's own settlers meant it.
    """
    database = tenant.database
    mine = tenant.tenant_id
    caps = await _caps(database, mine)
    legs = {
        (row["hold_id"], row["cap_id"]): row["amount"]
        for row in await database.fetch("SELECT * FROM hold_legs WHERE tenant_id = $1", mine)
    }
    entries: dict[tuple[UUID, UUID], list[str]] = defaultdict(list)
    journal = await database.fetch("SELECT * FROM journal_legs WHERE tenant_id = $1 ORDER BY entry_id", mine)
    for _, group in groupby(journal, key=lambda row: row["entry_id"]):
        rows = list(group)
        of_entry = [caps[row["cap_id"]] for row in rows]
        before = [(cap.reserved, cap.committed, cap.debt) for cap in of_entry]
        for cap, row in zip(of_entry, rows, strict=True):
            key = (row["hold_id"], row["cap_id"])
            if row["kind"] == "limit":
                if cap.rolling is not None and cap not in cap.rolling.begun:
                    cap.rolling.begun.append(cap)
                if (
                    row["actor"] == "ledger"
                ):  # a window begins with the limit of those before it, and pays no debt of theirs
                    cap.limit, cap.unlimited = row["limit_amount"], row["unlimited"]
                    assert len({(one.limit, one.unlimited) for one in cap.together()}) == 1
                elif cap is of_entry[0]:
                    assert set(of_entry) == set(cap.together())
                    cap.set_limit(row["limit_amount"], row["unlimited"])
            elif row["kind"] == "reserve":
                assert cap.rolling is None or cap is cap.rolling.begun[-1]
                cap.reserve(legs[key])
            elif row["kind"] == "commit":
                came_to = actual[row["hold_id"]].get(cap.unit, 0)
                cap.settle(legs[key], 0 if cap.unit == "slots" else came_to)
            else:
                assert row["kind"] in ("void", "expire")
                cap.settle(legs[key], 0)
            if row["hold_id"]:
                entries[key].append(row["kind"])
        for cap, row, was in zip(of_entry, rows, before, strict=True):
            after = (cap.reserved, cap.committed, cap.debt)
            moved = (row["reserved_delta"], row["committed_delta"], row["debt_delta"])
            assert moved == tuple(b - a for a, b in zip(was, after, strict=True)), dict(row)
            cap.remember()
    await _check_caps(database, tenant, caps)
    await _check_windows(database, tenant)
    await _check_holds(database, tenant, legs, entries)
    await _check_decisions(database, tenant, caps)
    return caps


async def _caps(database: Database, tenant_id: UUID) -> dict[UUID, Cap]:
    """Returns every cap as it was before anything happened to it."""
    caps: dict[UUID, Cap] = {}
    families: dict[tuple[str, ...], Rolling] = {}
    for row in await database.fetch("SELECT * FROM caps WHERE tenant_id = $1", tenant_id):
        caps[row["cap_id"]] = cap = Cap(row["unit"])
        if row["rolling_hours"] is not None:
            name = (row["scope_kind"], row["scope_id"], row["unit"], row["window_kind"])
            cap.rolling = families.setdefault(name, Rolling(timedelta(hours=row["rolling_hours"])))
            cap.starts_at, cap.ends_at = row["starts_at"], row["ends_at"]
        cap.past.append((*cap.now(), 0))
    return caps


async def _check_caps(database: Database, tenant: Tenant, caps: dict[UUID, Cap]) -> None:
    for row in await database.fetch("SELECT * FROM caps WHERE tenant_id = $1", tenant.tenant_id):
        cap = caps[row["cap_id"]]
        assert (row["reserved"], row["committed"], row["debt"]) == (cap.reserved, cap.committed, cap.debt)
        assert (row["limit_amount"], row["unlimited"]) == (cap.limit, cap.unlimited)
        newest = cap.rolling is not None and cap is cap.rolling.begun[-1]
        older = [other for other in cap.together() if other is not cap] if newest else []
        carried = [sum(getattr(one, name) for one in older) for name in ("reserved", "committed", "debt")]
        assert [row["carried_reserved"], row["carried_committed"], row["carried_debt"]] == carried
        if not cap.unlimited:
            assert row["ceiling"] == max(cap.limit, cap.reserved + cap.committed + carried[0] + carried[1])


async def _check_windows(database: Database, tenant: Tenant) -> None:
    """Windows of one cap follow each other without an instant in two of them, and the last alone is in force."""
    rows = await database.fetch("SELECT * FROM caps WHERE tenant_id = $1 ORDER BY starts_at", tenant.tenant_id)
    of_cap: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for row in rows:
        of_cap[row["scope_kind"], row["scope_id"], row["unit"], row["window_kind"]].append(row)
    for windows in of_cap.values():
        assert [row["newest"] for row in windows] == [*[False] * (len(windows) - 1), True]
        for before, after in pairwise(windows):
            assert before["ends_at"] <= after["starts_at"]


async def _check_holds(
    database: Database, tenant: Tenant, legs: dict[tuple[UUID, UUID], int], entries: dict[tuple[UUID, UUID], list[str]]
) -> None:
    states = {
        row["hold_id"]: row["state"]
        for row in await database.fetch("SELECT hold_id, state FROM holds WHERE tenant_id = $1", tenant.tenant_id)
    }
    kinds = {"committed": ["commit"], "voided": ["void"], "expired": ["expire"]}
    assert set(entries) == set(legs)
    for (hold_id, cap_id), story in entries.items():
        assert story == ["reserve", *kinds.get(states[hold_id], [])], (hold_id, cap_id, states[hold_id], story)


async def _check_decisions(database: Database, tenant: Tenant, caps: dict[UUID, Cap]) -> None:
    """Every allow fitted at its place in the journal, and no denial was false: there, some leg did not fit."""
    rows = await database.fetch(
        "SELECT verdict, reason_codes, hold_id, part_b FROM decisions WHERE tenant_id = $1", tenant.tenant_id
    )
    for row in rows:
        legs = orjson.loads(row["part_b"])["legs"]
        short = False
        for leg in legs:
            limit = None if leg["limit"] is None else int(leg["limit"])
            reserved, committed, debt = int(leg["reserved"]), int(leg["committed"]), int(leg["debt"])
            cap, carried = caps[UUID(leg["cap_id"])], int(leg.get("carried", "0"))
            assert ("carried" in leg) == (cap.rolling is not None)
            assert (limit, reserved, committed, debt, carried) in cap.past, (
                f"{leg} never stood in the books of this cap"
            )
            short = short or (limit is not None and limit - carried - reserved - committed - debt < int(leg["amount"]))
        if row["hold_id"] is not None:
            assert row["verdict"] == "allow"
            assert not short
        elif row["reason_codes"] == ["budget.cap_exceeded"]:
            assert short, "a false denial"
