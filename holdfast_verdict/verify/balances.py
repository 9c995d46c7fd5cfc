"""Balances: what was held and paid adds up, line by line, to what each decision read and to what the caps came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from holdfast_verdict.verify.across import Bundle, Rows, at
from holdfast_verdict.verify.findings import Finding
from holdfast_verdict.verify.records import Decided, Leg
from holdfast_verdict.verify.written import Named

_CODE: Final = "audit.balance"
_SETTLED: Final = {"commit": "committed", "void": "voided", "expire": "expired"}
_NAMES: Final = ("reserved", "committed", "debt")


def check_balances(bundle: Bundle) -> Iterator[Finding]:
    """Checks each decision's arithmetic, each hold against the journal, and each cap whose journal is whole."""
    namings = Namings()
    for one in bundle.decided:
        yield from check_limits(one)
        namings.take(one)
    yield from namings.check(bundle.caps)
    yield from check_holds(bundle)
    yield from _check_caps(bundle)


def check_limits(one: Decided) -> Iterator[Finding]:
    """No allow goes over a limit (LAW 3), and what was refused for want of room had none."""
    if one.verdict == "allow":
        for leg in one.legs:
            if not leg.fits:
                yield at(
                    one,
                    _CODE,
                    f"it took {leg.amount} {leg.named.unit} of cap {leg.cap_id}, which had less left (LAW 3)",
                )
    elif one.code == "budget.cap_exceeded" and one.legs and all(leg.fits for leg in one.legs):
        yield at(one, _CODE, "it was refused for want of room, and every cap had enough")


class Namings:
    """What decisions say that the caps which they read are of, each way of saying it once."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, Named], str] = {}

    def take(self, one: Decided) -> None:
        """Takes in what a decision says."""
        for leg in one.legs:
            self._first.setdefault((leg.cap_id, leg.named), one.decision_id)

    def check(self, caps: Rows) -> Iterator[Finding]:
        """Compares it with what the caps say themselves: a cap of another unit would be charged by another measure."""
        lines = {line["cap_id"]: (number, named_of(line)) for number, line in caps}
        for (cap_id, said), decision_id in self._first.items():
            number, named = lines.get(cap_id, (0, said))
            if said != named:
                wrong = f"it is of {_words(named)}; decision {decision_id} says of {_words(said)}"
                yield Finding(_CODE, f"cap {cap_id}", wrong, number)


def named_of(cap: Mapping[str, Any]) -> Named:  # Any: as in `across.Rows`
    """Returns what the line of a cap says that it is of."""
    return Named(cap["scope_kind"], cap["scope_id"], cap["unit"], cap["window"])


def _words(named: Named) -> str:
    return f"{named.scope_kind} {named.scope_id} in {named.unit} ({named.window})"


def check_holds(bundle: Bundle) -> Iterator[Finding]:
    """Each hold is taken once and returned at most once, with its amounts (LAW 4)."""
    moves: dict[str, list[dict[str, Any]]] = {line["hold_id"]: [] for _, line in bundle.holds}
    for number, entry in bundle.journal:
        moved = moves.get(entry["hold_id"])
        if moved is not None:
            moved.append(entry)
        elif entry["hold_id"] is not None:
            name = f"journal entry {entry['entry_id']}"
            yield Finding(_CODE, name, f"it is about hold {entry['hold_id']}, which is not in the file", number)
    for number, line in bundle.holds:
        for wrong in _wrong_moves(line, moves[line["hold_id"]]):
            yield Finding(_CODE, f"hold {line['hold_id']}", wrong, number)


def _wrong_moves(line: dict[str, Any], entries: list[dict[str, Any]]) -> Iterator[str]:
    taken = [entry for entry in entries if entry["kind"] == "reserve"]
    returned = [entry for entry in entries if entry["kind"] != "reserve"]
    amounts = {leg["cap_id"]: leg["amount"] for leg in line["legs"]}  # texts: each amount is written in one way only
    if len(taken) != (1 if amounts else 0):
        yield f"the journal has taken it {len(taken)} times"
    for entry in taken:
        if {leg["cap_id"]: (leg["reserved"], leg["committed"], leg["debt"]) for leg in entry["legs"]} != {
            cap_id: (amount, "0", "0") for cap_id, amount in amounts.items()
        }:
            yield f"journal entry {entry['entry_id']} took other amounts than it holds"
    settled = line["settled_at_ms"] is not None
    if len(returned) > 1 or (amounts and settled != bool(returned)):
        yield f"it is {line['state']}, and the journal has settled it {len(returned)} times"
    for entry in returned:
        if _SETTLED.get(entry["kind"]) != line["state"]:
            yield f"it is {line['state']}, and journal entry {entry['entry_id']} says {entry['kind']}"
        if {leg["cap_id"]: _negative(leg["reserved"]) for leg in entry["legs"]} != amounts:
            yield f"journal entry {entry['entry_id']} returns other amounts than it held"
        if int(entry["cost_nano_usd"] or 0) != int(line["cost_nano_usd"] or 0):
            yield f"it cost {line['cost_nano_usd']}, and journal entry {entry['entry_id']} says {entry['cost_nano_usd']}"


def _negative(amount: str) -> str:
    return amount[1:] if amount.startswith("-") else amount if amount == "0" else f"-{amount}"


Stands = dict[str, tuple[int, int, int]]
"""What is reserved, committed and debt of each cap whose journal is whole, right before an entry."""


class Running:
    """The caps' balances, entry by entry of the journal.

    Args:
        caps: The lines of the caps.
    """

    def __init__(self, caps: Rows) -> None:
        self._caps = {line["cap_id"]: (number, line) for number, line in caps}
        whole = {cap_id: line for cap_id, (_, line) in self._caps.items() if line["opening"] is not None}
        self._running = {cap_id: [int(line["opening"][name]) for name in _NAMES] for cap_id, line in whole.items()}
        self._last_id = -1

    def stands(self, entry: Mapping[str, Any]) -> Stands:  # Any: as in `across.Rows`
        """Returns how the caps of an entry stand before it; of one that the balances do not count, nothing."""
        if not entry["counts"]:
            return {}
        caps = (leg["cap_id"] for leg in entry["legs"])
        return {cap_id: tuple(self._running[cap_id]) for cap_id in caps if cap_id in self._running}  # type: ignore[misc]  # three numbers

    def take(self, number: int, entry: Mapping[str, Any]) -> Iterator[Finding]:  # Any: as above
        """Goes on with an entry."""
        name = _name(entry)
        if entry["entry_id"] <= self._last_id:
            yield Finding(_CODE, name, "it does not stand in its order", number)
        self._last_id = entry["entry_id"]
        cost = int(entry["cost_nano_usd"] or 0) if entry["kind"] in _SETTLED else None
        for leg in entry["legs"]:
            cap = self._caps.get(leg["cap_id"])
            if cap is None:
                yield Finding(_CODE, name, f"it moves cap {leg['cap_id']}, which is not in the file", number)
                continue
            if cost is not None and cap[1]["unit"] == "nano_usd":
                charged = int(leg["committed"]) + int(leg["debt"])
                if charged != cost:  # what caps of money were charged is what it cost
                    wrong = f"it cost {entry['cost_nano_usd']}, and cap {leg['cap_id']} was charged {charged}"
                    yield Finding(_CODE, name, wrong, number)
            balances = self._running.get(leg["cap_id"]) if entry["counts"] else None
            if balances is None:
                continue
            for place, column in enumerate(_NAMES):
                balances[place] += int(leg[column])
            if min(balances) < 0:
                yield Finding(_CODE, name, f"it leaves cap {leg['cap_id']} with less than nothing", number)

    def close(self) -> Iterator[Finding]:
        """Sees that all caps stand as they are said to."""
        for cap_id in sorted(self._running):
            number, line = self._caps[cap_id]
            closing = [int(line["closing"][name]) for name in _NAMES] if line["closing"] is not None else None
            if closing != self._running[cap_id]:
                wrong = (
                    f"the journal adds up to {self._running[cap_id]} (reserved, committed, debt), and it says {closing}"
                )
                yield Finding(_CODE, f"cap {cap_id}", wrong, number)


def check_entry(one: Decided | None, entry: Mapping[str, Any], stands: Stands) -> Iterator[Finding]:  # Any: as above
    """Compares what the decision that an entry is of has read with how the caps stood before the entry."""
    if one is None or entry["kind"] != "reserve":
        return
    before = {leg.cap_id: leg for leg in one.legs}
    for leg in entry["legs"]:
        said, balances = before.get(leg["cap_id"]), stands.get(leg["cap_id"])
        if said is not None and balances is not None:
            yield from _check_read(one, said, balances, leg["limit"])


def _check_caps(bundle: Bundle) -> Iterator[Finding]:
    running = Running(bundle.caps)
    for number, entry in bundle.journal:
        yield from check_entry(bundle.by_hold.get(entry["hold_id"]), entry, running.stands(entry))
        yield from running.take(number, entry)
    yield from running.close()


def _name(entry: Mapping[str, Any]) -> str:
    return f"journal entry {entry['entry_id']}"


def _check_read(one: Decided, said: Leg, balances: tuple[int, int, int], limit: str | None) -> Iterator[Finding]:
    """What a decision read of a cap is what the journal comes to right before it, and says of its limit."""
    if said.reserved != balances[0] or said.committed != balances[1] or said.debt != balances[2]:
        wrong = (
            f"it read cap {said.cap_id} as {said.reserved} reserved, {said.committed} committed, {said.debt} debt; "
            f"the journal before it comes to {balances[0]}, {balances[1]}, {balances[2]}"
        )
        yield at(one, _CODE, wrong)
    if limit != (None if said.limit is None else str(said.limit)):
        yield at(one, _CODE, f"it read a limit of {said.limit} on cap {said.cap_id}; the journal says {limit}")
