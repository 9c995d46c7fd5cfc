"""What a worker does with its part of a large bundle: each line is checked, and what it says of others goes into sums.

It names nothing. Where something does not hold, or is so odd that this cannot be told here, `Unsure` ends it, and the bundle is looked
at as a whole.

INVARIANT: what passes here passes `chunks`, `seal`, `outcomes` and `balances` as well; the tests put every forgery to both.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from holdfast_verdict.verify.chunks import Context, read_policies
from holdfast_verdict.verify.findings import DoesNotHold, Unsure
from holdfast_verdict.verify.forms import UUID
from holdfast_verdict.verify.legs import Cap, Legs, Moved, Moves, asked_of
from holdfast_verdict.verify.lines import ALONE, PLACE, SEALED, Line, hashes_in, parse
from holdfast_verdict.verify.outcomes import BUDGET, wrong_states
from holdfast_verdict.verify.paths import Paths
from holdfast_verdict.verify.records import Decided, Read, RecordChecker, Withheld
from holdfast_verdict.verify.sums import MODULUS, SIDES, weigher

_RETURNED: Final = frozenset({"voided", "expired"})
_ENTRY_OF: Final = {"commit": "committed", "void": "voided", "expire": "expired"}
_KEPT: Final = frozenset({"approval", "release"})
_VOTE: Final = "approval.vote"
_ADMISSION: Final = "run.admission"
_RESOLUTION: Final = "hold.resolution"


@dataclass(frozen=True, slots=True)
class Known:
    """What a worker has to know besides its lines' context.

    Attributes:
        context: What is known for checking lines one by one.
        read_at_ms: When the bundle was read.
        caps: The bundle's caps.
        key: The sums' key.
    """

    context: Context
    read_at_ms: int
    caps: Mapping[str, Cap]
    key: bytes


class Span(NamedTuple):
    """The least and the greatest of what rises from line to line; both None if there is none."""

    first: Any = None  # Any: numbers or texts, all of one kind
    last: Any = None  # Any: the same

    def on(self, value: Any) -> Span:  # Any: as above
        """Goes on.

        Raises:
            Unsure: It does not rise.
        """
        if self.last is None:
            return Span(value, value)
        if not value > self.last:
            raise Unsure
        return Span(self.first, value)

    def apart_from(self, value: Any) -> None:  # Any: as above
        """Sees that a value is none of those that were seen.

        Raises:
            Unsure: It may be one.
        """
        if self.last is not None and self.first <= value <= self.last:
            raise Unsure

    def joined(self, after: Span) -> Span:
        """Goes on with another part's."""
        return self if after.first is None else self.on(after.first)._replace(last=after.last)


_NONE: Final = Span()


@dataclass(slots=True)
class Part:
    """What was found in a part of a file.

    Attributes:
        lines: How many lines it has.
        first: Place in the order of lines of the first, -1 if there is none.
        last: That of the last.
        digests: SHA-256 of each sealed line, behind each other.
        sums: By side; see `sums`.
        ids: Ids of decisions.
        leaves: Numbers of proofs in the log.
        entries: Numbers of entries of the journal.
        totals: How many decisions there are, by what they were on, verdict and code.
        kept: Records that ask for consent, give it, use it, or are about releases.
        withheld: Records that could not be evaluated again, because a value that the policy asks for was erased.
        returned: Holds that left their consent for the next try.
        uncounted: Holds that were taken by entries which the balances do not count.
        moves: What happened to each cap.
        rows: Lines of approvals, of the seal and behind it.
        listed: Lines of type `lines`: where each begins, and its digests.
    """

    lines: int = 0
    first: int = -1
    last: int = -1
    digests: bytearray = field(default_factory=bytearray)
    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    ids: Span = _NONE
    leaves: Span = _NONE
    entries: Span = _NONE
    totals: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    kept: list[Decided] = field(default_factory=list)
    withheld: list[Withheld] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)
    moves: dict[str, Moves] = field(default_factory=dict)
    rows: list[tuple[int, Line]] = field(default_factory=list)
    listed: list[tuple[int, bytes]] = field(default_factory=list)


class LineSummer:
    """Checks lines, and sums up what they say of each other.

    Args:
        known: What has to be known before.
    """

    def __init__(self, known: Known) -> None:
        context = known.context
        policies, _ = read_policies(context.policies)
        self._records = RecordChecker(context.tenant_id, policies, tells=False)
        self._paths = Paths(context.size, context.root)
        self._read_at_ms = known.read_at_ms
        self._weigh = weigher(known.key)
        self._legs = Legs(known.caps, self._weigh)
        self._uncounted: Collection[str] = ()
        self._part = Part()
        self._does = {"record": self._record, "sealed": self._record, "hold": self._hold, "journal": self._entry, "proof": self._proof}

    def look(self, block: bytes, uncounted: Collection[str] = ()) -> Part:
        """Sums up whole lines.

        Args:
            block: The lines.
            uncounted: Holds whose entries the balances do not count, so that what their decisions read is compared with nothing.

        Raises:
            Unsure: Something does not hold, or it cannot be told here whether it does.
        """
        self._uncounted = uncounted
        part = self._part = Part()
        lines = block.split(b"\n")
        if lines.pop():
            raise Unsure  # it ends in the middle of a line
        sha256, digests, does = hashlib.sha256, [], self._does
        try:
            for number, raw in enumerate(lines, 1):
                line = parse(raw)
                kind: str = line["type"]  # type: ignore[assignment]  # `parse` has looked
                if kind in SEALED:
                    digests.append(sha256(raw).digest())
                if PLACE[kind] != part.last or kind in ALONE:
                    self._order(kind)
                do = does.get(kind)
                if do is None:
                    self._other(line, number)
                else:
                    do(line)
        except (DoesNotHold, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise Unsure from error
        part.lines = len(lines)
        part.digests += b"".join(digests)
        part.sums = {side: total % MODULUS for side, total in part.sums.items()}
        return part

    def _order(self, kind: str) -> None:
        part, place = self._part, PLACE[kind]
        if place < part.last or (place == part.last and kind in ALONE):
            raise Unsure
        if part.first < 0:
            part.first = place
        part.last = place

    def _other(self, line: Line, number: int) -> None:
        part = self._part
        match line["type"]:
            case "lines":
                part.listed.append((line["first"], hashes_in(line["sha256"])))  # type: ignore[arg-type]  # `parse` has looked
            case "deleted":
                raise Unsure  # that its hold is for what was decided, nobody can tell any more
            case "approval" | "seal" | "consistency" | "key" | "end":
                part.rows.append((number, line))

    def _record(self, line: Mapping[str, Any]) -> None:  # Any: of the form that `MEMBERS` says
        part, read = self._part, self._records.read(line)
        a, b, again, kind = read.a, read.b, read.again, line["kind"]
        verdict, code, hold_id = b["verdict"], b["reason_codes"][0], b["hold_id"] or ""
        part.ids = part.ids.on(b["decision_id"])
        part.sums["recorded"] += self._weigh(f"{b['decision_id']} {read.hash.hex()}")
        if read.withheld:
            part.withheld.append(Withheld(b["decision_id"], read.withheld))
        tool = "" if again is None else a["action"].get("tool") or ""
        part.totals[tool or kind, verdict, code] += 1
        if kind in _KEPT or tool == _VOTE or verdict == "needs_approval" or read.used or read.released:
            part.kept.append(self._records.decided(read, line, 0))
        if hold_id and (type(hold_id) is not str or not UUID.holds(hold_id)):
            raise Unsure
        if again is None:
            if hold_id and kind != _RESOLUTION:
                if kind != _ADMISSION:
                    raise Unsure
                part.sums["granted"] += self._weigh(_budget(hold_id, b["decision_id"], line["run_id"]))
            return
        self._action(read, line, hold_id)

    def _action(self, read: Read, line: Mapping[str, Any], hold_id: str) -> None:  # Any: as above
        part, b, code = self._part, read.b, read.b["reason_codes"][0]
        told = self._legs.read(b["legs"], granted=bool(hold_id))
        if b["verdict"] == "allow":
            if not told.fits:
                raise Unsure  # LAW 3
        elif code == "budget.cap_exceeded" and b["legs"] and told.fits:
            raise Unsure
        if not hold_id:
            return
        subject, kind = read.a["subject"], line["kind"]
        step, try_number = subject["step"], subject["try"]
        if type(step) is not int or type(try_number) is not int or kind in (_RESOLUTION, _ADMISSION):
            raise Unsure
        asked = told.asked
        part.sums["granted"] += self._weigh(
            f"{hold_id} {b['decision_id']} {line['run_id']} {step} {try_number} {read.a['action_digest']} {asked} {kind}"
        )
        if hold_id not in self._uncounted:
            part.sums["read"] += self._weigh(f"{hold_id} {asked} {told.limits}") * told.balances

    def _hold(self, line: Mapping[str, Any]) -> None:  # Any: as above
        part, hold_id, legs = self._part, line["hold_id"], line["legs"]
        if next(wrong_states(line, self._read_at_ms), None) is not None:
            raise Unsure
        asked = asked_of([leg["cap_id"] for leg in legs], [leg["amount"] for leg in legs])
        state, kind, decision_id, run_id = line["state"], line["kind"], line["decision_id"], line["run_id"]
        part.sums["held"] += self._weigh(
            _budget(hold_id, decision_id, run_id)
            if kind == BUDGET
            else f"{hold_id} {decision_id} {run_id} {line['step']} {line['try']} {line['digest']} {asked} {kind}"
        )
        if legs:
            part.sums["taken"] += self._weigh(f"{hold_id} {asked}")
            if line["settled_at_ms"] is not None:
                part.sums["settled"] += self._weigh(f"{hold_id} {state} {int(line['cost_nano_usd'] or 0)} {asked}")
        if state in _RETURNED or (line["unknown_at_ms"] is not None and line["idempotent"]):
            part.returned.append(hold_id)

    def _entry(self, entry: Mapping[str, Any]) -> None:  # Any: as above
        part, hold_id, kind, counts = self._part, entry["hold_id"], entry["kind"], entry["counts"]
        part.entries = part.entries.on(entry["entry_id"])
        moved, settles = Moved.of(entry["legs"]), _ENTRY_OF.get(kind)
        cost = None if settles is None else int(entry["cost_nano_usd"] or 0)
        if kind == "reserve" and hold_id is not None:
            if not moved.takes:
                raise Unsure
            asked = moved.asked()
            part.sums["reserved"] += self._weigh(f"{hold_id} {asked}")
            if not counts:
                part.uncounted.append(hold_id)
            elif entry["reason"] != BUDGET:
                weight = self._weigh(f"{hold_id} {asked} {' '.join([each or 'null' for each in moved.limits])}")
                part.sums["stood"] += weight * self._legs.stood(moved.caps, weight, part.moves)
        elif hold_id is not None:
            if settles is None:
                raise Unsure
            part.sums["returned"] += self._weigh(f"{hold_id} {settles} {cost} {moved.returned()}")
        self._legs.move(moved, cost, part.moves, counts=counts)

    def _proof(self, line: Mapping[str, Any]) -> None:  # Any: as above
        part, index, hash_ = self._part, line["leaf_index"], line["record_hash"]
        part.leaves = part.leaves.on(index)
        self._paths.check(bytes.fromhex(hash_), index, hashes_in(line["path"]))
        part.sums["proved"] += self._weigh(f"{line['decision_id']} {hash_}")


def _budget(hold_id: str, decision_id: str, run_id: str | None) -> str:
    return f"{hold_id} {decision_id} {run_id} {BUDGET}"
