"""What a worker does with its part of a large bundle: each line is checked, and what it says of others goes into sums.

It names nothing. Where something does not hold, or is so odd that this cannot be told here, `Unsure` ends it, and the bundle is looked
at as a whole.

INVARIANT: what passes here passes `chunks`, `seal`, `outcomes` and `balances` as well; the tests put every forgery to both.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from holdfast_verdict.verify.chunks import Context, read_policies
from holdfast_verdict.verify.findings import DoesNotHold, Unsure
from holdfast_verdict.verify.forms import UUID
from holdfast_verdict.verify.legs import Cap, Legs, Moved, Moves, Told, asked_of
from holdfast_verdict.verify.lines import ALONE, PLACE, SEALED, Line, hashes_in, parse
from holdfast_verdict.verify.outcomes import BUDGET, wrong_states
from holdfast_verdict.verify.paths import Paths
from holdfast_verdict.verify.records import Decided, Read, RecordChecker, Withheld
from holdfast_verdict.verify.sums import MODULUS, SIDES, weigher
from holdfast_verdict.verify.written import ENTRY, HOLD, HOLD_TAKEN, PROOF, decided_legs, part_b

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
        self._does = {
            "record": self._record,
            "sealed": self._record,
            "hold": self._hold,
            "journal": self._entry,
            "proof": self._proof,
        }
        self._takes = {"hold": self._written_hold, "journal": self._written_entry, "proof": self._written_proof}

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
        take: Callable[[str], bool] | None = None
        is_sealed = False
        try:
            for number, raw in enumerate(lines, 1):
                # nearly every line is of the type of the line before it
                if take is not None and take(str(raw, "latin-1")):
                    if is_sealed:
                        digests.append(sha256(raw).digest())
                    continue
                line = parse(raw)
                kind: str = line["type"]  # type: ignore[assignment]  # `parse` has looked
                if kind in SEALED:
                    digests.append(sha256(raw).digest())
                if PLACE[kind] != part.last or kind in ALONE:
                    self._order(kind)
                take, is_sealed = self._takes.get(kind), kind in SEALED
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
        part = self._part
        written = part_b(line["part_b"])
        read = self._records.read(line, written)
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
        if written is None and hold_id and (type(hold_id) is not str or not UUID.holds(hold_id)):
            raise Unsure
        if again is None:
            if hold_id and kind != _RESOLUTION:
                if kind != _ADMISSION:
                    raise Unsure
                part.sums["granted"] += self._weigh(_budget(hold_id, b["decision_id"], line["run_id"]))
            return
        granted = bool(hold_id)
        legs = self._legs.decided(b["legs"], granted=granted) if written is None else decided_legs(written.legs)
        self._action(read, line, hold_id, self._legs.read(legs, granted=granted), has_legs=bool(legs.caps))

    def _action(
        self,
        read: Read,
        line: Mapping[str, Any],  # Any: as above
        hold_id: str,
        told: Told,
        *,
        has_legs: bool,
    ) -> None:
        part, b, code = self._part, read.b, read.b["reason_codes"][0]
        if b["verdict"] == "allow":
            if not told.fits:
                raise Unsure  # LAW 3
        elif code == "budget.cap_exceeded" and has_legs and told.fits:
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

    def _written_hold(self, written: str) -> bool:
        found = HOLD(written)
        if found is None:
            return False
        line: dict[str, Any] = dict(zip(HOLD_TAKEN, found.groups(), strict=True))  # Any: as the form says
        asked = self._legs.asked(line["legs"])
        if asked is None:
            return False
        line["expires_at_ms"], line["idempotent"] = int(line["expires_at_ms"]), line["idempotent"] == "true"
        if line["outcome"] is not None:
            line["outcome"] = orjson.loads(line["outcome"])
        self._held(line, asked, has_legs=line["legs"] != "[]")
        return True

    def _hold(self, line: Mapping[str, Any]) -> None:  # Any: as above
        legs = line["legs"]
        asked = asked_of([leg["cap_id"] for leg in legs], [leg["amount"] for leg in legs])
        self._held(line, asked, has_legs=bool(legs))

    def _held(self, line: Mapping[str, Any], asked: str, *, has_legs: bool) -> None:  # Any: as above
        part, hold_id, state = self._part, line["hold_id"], line["state"]
        if next(wrong_states(line, self._read_at_ms), None) is not None:
            raise Unsure
        kind, decision_id, run_id = line["kind"], line["decision_id"], line["run_id"]
        part.sums["held"] += self._weigh(
            _budget(hold_id, decision_id, run_id)
            if kind == BUDGET
            else f"{hold_id} {decision_id} {run_id} {line['step']} {line['try']} {line['digest']} {asked} {kind}"
        )
        if has_legs:
            part.sums["taken"] += self._weigh(f"{hold_id} {asked}")
            if line["settled_at_ms"] is not None:
                part.sums["settled"] += self._weigh(f"{hold_id} {state} {int(line['cost_nano_usd'] or 0)} {asked}")
        if state in _RETURNED or (line["unknown_at_ms"] is not None and line["idempotent"]):
            part.returned.append(hold_id)

    def _written_entry(self, written: str) -> bool:
        found = ENTRY(written)
        if found is None:
            return False
        cost, counts, entry_id, hold_id, kind, legs, reason = found.groups()
        moved = self._legs.moved(legs)
        if moved is None:
            return False
        self._moved(moved, int(entry_id), hold_id, kind, cost, reason, counts=counts == "true")
        return True

    def _entry(self, entry: Mapping[str, Any]) -> None:  # Any: as above
        moved, cost = self._legs.moved_by(entry["legs"]), entry["cost_nano_usd"]
        given = entry["entry_id"], entry["hold_id"], entry["kind"], cost, entry["reason"]
        self._moved(moved, *given, counts=entry["counts"])

    def _moved(
        self,
        moved: Moved,
        entry_id: int,
        hold_id: str | None,
        kind: str,
        cost_: str | None,
        reason: str,
        *,
        counts: bool,
    ) -> None:
        part, settles = self._part, _ENTRY_OF.get(kind)
        part.entries = part.entries.on(entry_id)
        cost = None if settles is None else int(cost_ or 0)
        if kind == "reserve" and hold_id is not None:
            if not moved.takes:
                raise Unsure
            asked = moved.asked()
            part.sums["reserved"] += self._weigh(f"{hold_id} {asked}")
            if not counts:
                part.uncounted.append(hold_id)
            elif reason != BUDGET:
                weight = self._weigh(f"{hold_id} {asked} {moved.limits}")
                part.sums["stood"] += weight * self._legs.stood(moved, weight, part.moves)
        elif hold_id is not None:
            if settles is None:
                raise Unsure
            part.sums["returned"] += self._weigh(f"{hold_id} {settles} {cost} {moved.returned()}")
        self._legs.move(moved, cost, part.moves, counts=counts)

    def _written_proof(self, written: str) -> bool:
        found = PROOF(written)
        if found is None:
            return False
        decision_id, index, path, hash_ = found.groups()
        self._proved(decision_id, int(index), path, hash_)
        return True

    def _proof(self, line: Mapping[str, Any]) -> None:  # Any: as above
        self._proved(line["decision_id"], line["leaf_index"], line["path"], line["record_hash"])

    def _proved(self, decision_id: str, index: int, path: str, hash_: str) -> None:
        part = self._part
        part.leaves = part.leaves.on(index)
        self._paths.check(bytes.fromhex(hash_), index, hashes_in(path))
        part.sums["proved"] += self._weigh(f"{decision_id} {hash_}")


def _budget(hold_id: str, decision_id: str, run_id: str | None) -> str:
    return f"{hold_id} {decision_id} {run_id} {BUDGET}"
