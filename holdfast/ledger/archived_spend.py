"""Recomputing what archived days came to: rollups that the journal alone cannot prove any more, since files have its entries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.ledger.auditor import Discrepancy

_HOLDS: Final = text("""
    SELECT hold_id, kind, tool, coalesce(estimate #>> '{prices_used,model}', '') AS model FROM holds
    WHERE tenant_id = :tenant_id AND hold_id = ANY(:ids)
""")
_RUNS: Final = text("""
    SELECT run_id, project_id, user_id, agent_name, role_name FROM runs WHERE tenant_id = :tenant_id AND run_id = ANY(:ids)
""")
# the last day that `rollup.journal` leaves out: what is later is proved from the journal
_LAST_DAY: Final = text(
    "SELECT (max(through) AT TIME ZONE 'UTC')::date + 1 FROM journal_sums WHERE tenant_id = :tenant_id"
)
# days do not end where months do, and an entry may have come after its month was archived
_IN_JOURNAL: Final = text("""
    SELECT kind, hold_id, run_id, day, simulated, calls, tokens, input_tokens, cached_tokens, cost_nano_usd FROM journal
    WHERE tenant_id = :tenant_id AND kind = 'commit' AND day > :after AND day <= :last
""")
_BOOKED: Final = text("""
    SELECT day, run_id, kind, tool, model, simulated, project_id, user_id, agent, role,
        holds, calls, tokens, input_tokens, cached_tokens, cost_nano_usd
    FROM rollups WHERE tenant_id = :tenant_id AND day > :after AND day <= :last
""")
_NAMED_BY: Final = 10
_SUMMED: Final = ("calls", "tokens", "input_tokens", "cached_tokens", "cost_nano_usd")
_CHUNK: Final = 5_000

Columns = Mapping[str, Any]  # of an entry, as the table or a file has them


@dataclass(slots=True)
class Spend:
    """What a tenant's archived settlements come to: as many sums as there are rollups of those days.

    Attributes:
        after: The last day of which nothing can be said, since a file of the form before lacks what rollups are made of.
        sums: By what names a rollup, as text: holds, calls, tokens, those in, those cached, and nano-dollars.
    """

    after: date = date.min
    sums: dict[tuple[str, ...], list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0] * (1 + len(_SUMMED)))
    )

    def leave_out(self, ends_at: date) -> None:
        """Says nothing of a month, nor of the day that its last hours may be of, whatever the time zone.

        Args:
            ends_at: The first day after it.
        """
        self.after = max(self.after, ends_at + timedelta(days=1))

    async def add(self, connection: AsyncConnection, tenant_id: UUID, entries: Iterable[Columns]) -> None:
        """Adds what settlements came to.

        Args:
            connection: In the tenant's context.
            tenant_id: Tenant.
            entries: Entries of the journal, some thousands at most.
        """
        settled = [entry for entry in entries if entry["kind"] == "commit"]
        holds = await _by_id(connection, _HOLDS, tenant_id, [entry["hold_id"] for entry in settled])
        runs = await _by_id(connection, _RUNS, tenant_id, [entry["run_id"] for entry in settled])
        for entry in settled:
            hold = holds.get(str(entry["hold_id"]))
            if hold is None or hold[0] == "run.budget":  # `archive.hold` names an entry of no hold
                continue
            run = runs.get(str(entry["run_id"]), (None,) * 4)
            named = (entry["day"], entry["run_id"], *hold, entry["simulated"], *run)
            at = self.sums[tuple(map(str, named))]
            for place, amount in enumerate((1, *(int(entry[name] or 0) for name in _SUMMED))):
                at[place] += amount

    async def compare(self, connection: AsyncConnection, tenant_id: UUID, slug: str) -> list[Discrepancy]:
        """Names each rollup of an archived day that is not what its settlements come to.

        Args:
            connection: In the tenant's context; sees one moment.
            tenant_id: Tenant.
            slug: Its name.
        """
        last = await connection.scalar(_LAST_DAY, {"tenant_id": tenant_id})
        if last is None:
            return []
        days = {"tenant_id": tenant_id, "after": self.after, "last": last}
        left = [dict(row) for row in (await connection.execute(_IN_JOURNAL, days)).mappings()]
        for start in range(0, len(left), _CHUNK):
            await self.add(connection, tenant_id, left[start : start + _CHUNK])
        booked = {
            tuple(map(str, row[:_NAMED_BY])): list(row[_NAMED_BY:]) for row in await connection.execute(_BOOKED, days)
        }
        archived = {named: sums for named, sums in self.sums.items() if named[0] > str(self.after)}
        return [
            Discrepancy(
                "archive.rollup", slug, named[1],
                f"on {' '.join(named[0:1] + named[2:5])}: the rollup has {booked.get(named)}, the files and the journal add up to "
                f"{archived.get(named)} (holds, calls, tokens, in, cached, nano-dollars)",
            )
            for named in sorted({*booked, *archived})
            if booked.get(named) != archived.get(named)
        ]  # fmt: skip


async def _by_id(
    connection: AsyncConnection, query: TextClause, tenant_id: UUID, ids: Iterable[object]
) -> dict[str, tuple[object, ...]]:
    distinct = [UUID(one) for one in {str(one) for one in ids}]
    rows = await connection.execute(query, {"tenant_id": tenant_id, "ids": distinct})
    return {str(row[0]): tuple(row[1:]) for row in rows}
