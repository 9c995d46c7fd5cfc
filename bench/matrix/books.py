"""Whether a cell's books are right, from what is stored: the journal, the balances, the decision records, and the bills."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from bench.matrix import ground as grounds
from bench.matrix import lies
from bench.matrix.ground import Ground
from holdfast.ledger import core
from holdfast.ledger.types import NANO_USD, CapView, Scope

JOURNAL: Final = "journal_legs"

_CAPS: Final = """
    SELECT tenant_id, cap_id, scope_kind, scope_id, unit, unlimited, limit_amount, ceiling, reserved, committed, debt,
           window_kind, newest
    FROM caps WHERE tenant_id = ANY($1)
"""
_ENTRIES: Final = f"""
    SELECT tenant_id, cap_id, hold_id, kind, reserved_delta, committed_delta, debt_delta, limit_amount, unlimited
    FROM {JOURNAL} WHERE tenant_id = ANY($1) ORDER BY entry_id
"""  # noqa: S608 (a constant name)
_HOLDS: Final = """
    SELECT h.tenant_id, h.hold_id, h.run_id, h.state, h.action, h.max_cost_nano_usd, h.cost_nano_usd,
           h.outward_at IS NOT NULL AS outward, o.cost_class, o.ok, o.result
    FROM holds h LEFT JOIN outcomes o ON o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id
    WHERE h.tenant_id = ANY($1)
"""
_DECISIONS: Final = """
    SELECT tenant_id, verdict, reason_codes, hold_id, reply, part_b FROM decisions
    WHERE tenant_id = ANY($1) AND kind = 'llm.call'
"""

Row = Any  # rows of asyncpg carry no types


@dataclass(slots=True)
class Findings:
    """What came of one cell, or of many.

    Attributes:
        overspend_nano_usd: What is over a cap and not recorded as debt, or billed and neither committed nor debt.
        false_denials: Denials of what would have fitted.
        nonterminal_holds: Holds that are not settled at the end.
        journal_mismatches: Balances, holds or records that the journal does not bear out.
        kills: Processes killed with -9.
        spared: Cells in which no call was at the cell's place when its process was killed.
        untold_nano_usd: Billed over the hold by a provider who told it to nobody that lived on: no books can have that.
        denied_by_outstanding_only: Denials in whose way only outstanding holds stood.
        used_nano_usd: What was used of the caps of cells whose demand exceeded them.
        usable_nano_usd: What whole requests could have used of them.
        wrong: Everything wrong, in words.
    """

    cells: int = 0
    holds: int = 0
    decisions: int = 0
    denials: int = 0
    exceeded: int = 0
    debts: int = 0
    overspend_nano_usd: int = 0
    false_denials: int = 0
    nonterminal_holds: int = 0
    journal_mismatches: int = 0
    untold_nano_usd: int = 0
    denied_by_outstanding_only: int = 0
    used_nano_usd: int = 0
    usable_nano_usd: int = 0
    kills: int = 0
    spared: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Adds up."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class _Cap:
    """One cap, replayed from the journal alone."""

    row: Row
    limit: int = 0
    unlimited: bool = False
    ceiling: int = 0
    reserved: int = 0
    committed: int = 0
    debt: int = 0
    past: set[tuple[int | None, int, int, int]] = field(default_factory=set)

    def stand(self) -> tuple[int | None, int, int, int]:
        return (None if self.unlimited else self.limit, self.reserved, self.committed, self.debt)


async def check(
    connection: asyncpg.Connection,
    found: Sequence[Ground],
    bills: Mapping[UUID, int] | None = None,
    turned_away: Mapping[UUID, int] = MappingProxyType({}),
) -> dict[UUID, Findings]:
    """Checks the cells that are over.

    Args:
        connection: As the superuser, whom no policy hinders.
        found: The cells' grounds.
        bills: What was billed for each hold that was billed at all, in nano-dollars; without it, it follows from the cell.
        turned_away: Tenants in which the last thing that happened was that a run was not admitted, with what it had to afford.
    """
    tenants = [ground.tenant_id for ground in found]
    tables: dict[str, dict[UUID, list[Row]]] = {}
    for name, query in {"caps": _CAPS, "entries": _ENTRIES, "holds": _HOLDS, "decisions": _DECISIONS}.items():
        tables[name] = defaultdict(list)
        for row in await connection.fetch(query, tenants):
            tables[name][row["tenant_id"]].append(row)
    return {
        ground.tenant_id: _Check(
            ground,
            {name: table[ground.tenant_id] for name, table in tables.items()},
            bills,
            turned_away.get(ground.tenant_id),
        ).run()
        for ground in found
    }


class _Check:
    """The check of one cell."""

    def __init__(
        self,
        ground: Ground,
        tables: Mapping[str, list[Row]],
        bills: Mapping[UUID, int] | None,
        turned_away_nano_usd: int | None,
    ) -> None:
        self._ground = ground
        self._turned_away_nano_usd = turned_away_nano_usd
        self._bills = bills
        self._tables = tables
        self._caps = {row["cap_id"]: _Cap(row) for row in tables["caps"]}
        self._refused_nano_usd: list[int] = []
        self.findings = Findings(cells=1, holds=len(tables["holds"]), decisions=len(tables["decisions"]))

    def run(self) -> Findings:
        self._replay()
        self._balances()
        self._holds()
        self._decisions()
        self._share()
        return self.findings

    def _wrong(self, what: str) -> None:
        self.findings.wrong.append(what)

    def _replay(self) -> None:
        """Goes through the journal: whatever a cap had at any moment stays within what it could have then (LAW 3)."""
        for cap in self._caps.values():
            cap.past.add(cap.stand())
        for entry in self._tables["entries"]:
            cap = self._caps[entry["cap_id"]]
            cap.limit, cap.unlimited = entry["limit_amount"], entry["unlimited"]
            cap.reserved += entry["reserved_delta"]
            cap.committed += entry["committed_delta"]
            cap.debt += entry["debt_delta"]
            used = cap.reserved + cap.committed
            # lowered under what is used, a cap is over its limit until that settles, and never more than it was then
            cap.ceiling = max(cap.limit, used) if entry["kind"] == "limit" else max(cap.limit, min(cap.ceiling, used))
            over = used - cap.ceiling
            if entry["kind"] == "reserve":
                over = used + cap.debt - cap.limit
            if over > 0 and not cap.unlimited:
                if cap.row["unit"] == NANO_USD:
                    self.findings.overspend_nano_usd += over
                self._wrong(f"{entry['kind']} took the cap on {cap.row['scope_kind']} {over} {cap.row['unit']} over it")
            cap.past.add(cap.stand())

    def _balances(self) -> None:
        for cap in self._caps.values():
            stored = (cap.row["reserved"], cap.row["committed"], cap.row["debt"])
            replayed = (cap.reserved, cap.committed, cap.debt)
            if stored != replayed or (cap.row["limit_amount"], cap.row["unlimited"]) != (cap.limit, cap.unlimited):
                self.findings.journal_mismatches += 1
                self._wrong(f"the cap on {cap.row['scope_kind']} stands at {stored}, its journal at {replayed}")

    # Holds ----------------------------------------------------------------------------------------------------------

    def _holds(self) -> None:
        entries: dict[UUID, list[Row]] = defaultdict(list)
        for entry in self._tables["entries"]:
            if entry["hold_id"] is not None:
                entries[entry["hold_id"]].append(entry)
        kinds = {"committed": "commit", "voided": "void", "expired": "expire"}
        for hold in self._tables["holds"]:
            mine = entries.pop(hold["hold_id"], [])
            if hold["state"] not in kinds:
                self.findings.nonterminal_holds += 1
                self._wrong(f"hold {hold['hold_id']} is {hold['state']} at the end")
                continue
            told = sorted(entry["kind"] for entry in mine)
            legs = len(mine) // 2
            if not legs or told != sorted(["reserve", kinds[hold["state"]]] * legs):
                self.findings.journal_mismatches += 1
                self._wrong(f"hold {hold['hold_id']} is {hold['state']}, its journal says {told}")
            self._bill(hold, mine)
        for hold_id in entries:
            self.findings.journal_mismatches += 1
            self._wrong(f"the journal has entries of a hold {hold_id} that does not exist")

    def _bill(self, hold: Row, entries: Sequence[Row]) -> None:
        """Compares what the provider billed with what the caps were charged."""
        money = {cap_id for cap_id, cap in self._caps.items() if cap.row["unit"] == NANO_USD}
        settled = [entry for entry in entries if entry["kind"] != "reserve" and entry["cap_id"] in money]
        charged = min((entry["committed_delta"] + entry["debt_delta"] for entry in settled), default=0)
        billed, held = self._billed(hold), hold["max_cost_nano_usd"]
        if billed > held and hold["result"] is None:
            # nobody who lived on was told; what is known is that it went outside, and so the whole hold is charged
            self.findings.untold_nano_usd += billed - held
            billed = held
        if charged < billed:
            self.findings.overspend_nano_usd += billed - charged
            self._wrong(f"hold {hold['hold_id']} was billed {billed} and charged {charged} ({hold['state']})")
        debt = max((entry["debt_delta"] for entry in settled), default=0)
        self.findings.debts += debt > 0
        if debt > 0 and billed <= held:
            self.findings.journal_mismatches += 1
            self._wrong(f"hold {hold['hold_id']} made a debt of {debt}, and its provider billed no more than was held")

    def _billed(self, hold: Row) -> int:
        """Returns the bill; the provider's ways are known, so it follows from how far the call came."""
        if self._bills is not None:
            return self._bills.get(hold["hold_id"], 0)
        if not hold["outward"]:
            return 0
        arguments = orjson.loads(hold["action"])["args"]
        model, max_tokens = str(arguments["model"]), int(arguments["max_tokens"])
        cell, tokens_in = self._ground.cell, lies.input_tokens(grounds.request(model, max_tokens))
        kind = self._kind_of(hold, tokens_in, max_tokens)
        return grounds.price(model).cost_nano_usd(lies.bill(cell, kind, tokens_in, max_tokens))

    def _kind_of(self, hold: Row, tokens_in: int, max_tokens: int) -> str:
        """Tells from a stored outcome which attempt this was; without one it is the worst: the cell's lie, all of it billed."""
        if hold["result"] is None:
            return "lie"
        stored = orjson.loads(hold["result"])
        for attempt in lies.attempts(self._ground.cell):
            made = lies.outcome(self._ground.cell, attempt.kind, tokens_in, max_tokens).to_json()
            if made == stored:
                return attempt.kind
        self.findings.journal_mismatches += 1
        self._wrong(f"hold {hold['hold_id']} has an outcome that nobody stored")
        return "lie"

    # Decisions ------------------------------------------------------------------------------------------------------

    def _decisions(self) -> None:
        """A denial is false if at its place in the journal every leg fitted; an allow, if one did not."""
        for decision in self._tables["decisions"]:
            legs = orjson.loads(decision["part_b"])["legs"]
            caps = [_cap_view(leg) for leg in legs]
            amounts = {leg["unit"]: int(leg["amount"]) for leg in legs}
            for cap in caps:
                stand = (None if cap.unlimited else cap.limit_amount, cap.reserved, cap.committed, cap.debt)
                if stand not in self._caps[cap.cap_id].past:
                    self.findings.journal_mismatches += 1
                    self._wrong(f"a decision saw the cap on {cap.scope.kind} at {stand}, where it never stood")
            refusal = core.refusal_for(caps, amounts)
            if decision["verdict"] == "allow":
                if refusal is not None:
                    self.findings.journal_mismatches += 1
                    self._wrong(f"an allow that did not fit: {refusal.message}")
                continue
            self._denial(decision, refusal, amounts.get(NANO_USD, 0))

    def _denial(self, decision: Row, refusal: core.Refusal | None, amount_nano_usd: int) -> None:
        self.findings.denials += 1
        self._refused_nano_usd.append(amount_nano_usd)
        if list(decision["reason_codes"]) != ["budget.cap_exceeded"] or refusal is None:
            self.findings.false_denials += 1
            self._wrong(f"a false denial: {', '.join(decision['reason_codes'])}, and every leg fitted")
            return
        retryable = bool(orjson.loads(decision["reply"])["retryable"])
        self.findings.denied_by_outstanding_only += retryable
        if retryable != refusal.outstanding:
            self.findings.false_denials += 1
            self._wrong(f"a denial says retryable {retryable}: {refusal.message}")

    def _share(self) -> None:
        """How much of the tight cap was used, of what whole requests could have used, where something was refused."""
        away = self._turned_away_nano_usd
        if not self.findings.denials and away is None:
            return
        ground = self._ground
        tight = (ground.tight.kind, NANO_USD, grounds.window(ground.cell), True)
        cap = next(
            cap
            for cap in self._caps.values()
            if (cap.row["scope_kind"], cap.row["unit"], cap.row["window_kind"], cap.row["newest"]) == tight
        )
        used = cap.reserved + cap.committed + cap.debt
        self.findings.exceeded = 1
        self.findings.used_nano_usd = min(used, cap.limit)
        # what is left and smaller than the smallest request that was refused, no whole request could have used
        left = max(cap.limit - used, 0)
        if away is not None:
            self._refused_nano_usd.append(away)
            if left >= away:
                self.findings.false_denials += 1
                self._wrong(f"a run that has to afford {away} was not admitted, and {left} was left")
        fits = left >= min(self._refused_nano_usd)
        self.findings.usable_nano_usd = self.findings.used_nano_usd + (left if fits else 0)


def _cap_view(leg: Mapping[str, Any]) -> CapView:  # JSON
    limit = leg["limit"]
    return CapView(
        cap_id=UUID(leg["cap_id"]),
        scope=Scope(leg["scope"][0], leg["scope"][1]),
        unit=leg["unit"],
        window_kind="total",
        unlimited=limit is None,
        limit_amount=0 if limit is None else int(limit),
        ceiling=0,
        reserved=int(leg["reserved"]),
        committed=int(leg["committed"]),
        debt=int(leg["debt"]),
    )
