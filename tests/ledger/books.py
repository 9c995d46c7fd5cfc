"""The oracle: a second, simple ledger that replays the journal and says what each entry must be. It shares no code with the first."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from uuid import UUID

import orjson

from .world import Database, Record, Tenant


@dataclass(slots=True)
class Cap:
    """One cap, replayed; `past` holds every balance it ever had."""

    unit: str
    limit: int = 0
    unlimited: bool = False
    reserved: int = 0
    committed: int = 0
    debt: int = 0
    past: list[tuple[int | None, int, int, int]] = field(default_factory=list)

    def now(self) -> tuple[int | None, int, int, int]:
        return (None if self.unlimited else self.limit, self.reserved, self.committed, self.debt)

    def free(self) -> int:
        return self.limit - self.reserved - self.committed - self.debt

    def set_limit(self, limit: int, unlimited: bool) -> None:
        self.limit, self.unlimited = limit, unlimited
        while self.debt and (unlimited or self.reserved + self.committed < limit):
            paid = self.debt if unlimited else min(self.debt, limit - self.reserved - self.committed)
            self.debt -= paid
            self.committed += paid

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
    caps = {
        row["cap_id"]: Cap(row["unit"])
        for row in await database.fetch("SELECT cap_id, unit FROM caps WHERE tenant_id = $1", mine)
    }
    legs = {
        (row["hold_id"], row["cap_id"]): row["amount"]
        for row in await database.fetch("SELECT * FROM hold_legs WHERE tenant_id = $1", mine)
    }
    entries: dict[tuple[UUID, UUID], list[str]] = defaultdict(list)
    for cap in caps.values():
        cap.past.append(cap.now())
    for row in await database.fetch("SELECT * FROM journal_legs WHERE tenant_id = $1 ORDER BY entry_id", mine):
        cap = caps[row["cap_id"]]
        before = (cap.reserved, cap.committed, cap.debt)
        key = (row["hold_id"], row["cap_id"])
        if row["kind"] == "limit":
            cap.set_limit(row["limit_amount"], row["unlimited"])
        elif row["kind"] == "reserve":
            cap.reserve(legs[key])
        elif row["kind"] == "commit":
            came_to = actual[row["hold_id"]].get(cap.unit, 0)
            cap.settle(legs[key], 0 if cap.unit == "slots" else came_to)
        else:
            assert row["kind"] in ("void", "expire")
            cap.settle(legs[key], 0)
        if row["hold_id"]:
            entries[key].append(row["kind"])
        after = (cap.reserved, cap.committed, cap.debt)
        moved = (row["reserved_delta"], row["committed_delta"], row["debt_delta"])
        assert moved == tuple(b - a for a, b in zip(before, after, strict=True)), dict(row)
        cap.past.append(cap.now())
    await _check_caps(database, tenant, caps)
    await _check_windows(database, tenant)
    await _check_holds(database, tenant, legs, entries)
    await _check_decisions(database, tenant, caps)
    return caps


async def _check_caps(database: Database, tenant: Tenant, caps: dict[UUID, Cap]) -> None:
    for row in await database.fetch("SELECT * FROM caps WHERE tenant_id = $1", tenant.tenant_id):
        cap = caps[row["cap_id"]]
        assert (row["reserved"], row["committed"], row["debt"]) == (cap.reserved, cap.committed, cap.debt)
        assert (row["limit_amount"], row["unlimited"]) == (cap.limit, cap.unlimited)
        if not cap.unlimited:
            assert row["ceiling"] == max(cap.limit, cap.reserved + cap.committed)


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
            cap = caps[UUID(leg["cap_id"])]
            assert (limit, reserved, committed, debt) in cap.past, f"{leg} never stood in the books of this cap"
            short = short or (limit is not None and limit - reserved - committed - debt < int(leg["amount"]))
        if row["hold_id"] is not None:
            assert row["verdict"] == "allow"
            assert not short
        elif row["reason_codes"] == ["budget.cap_exceeded"]:
            assert short, "a false denial"
