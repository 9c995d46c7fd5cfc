"""Comparing the lines of a large bundle that does not hold, in little memory: what belongs together is brought together by files.

Everything that is to be compared has a name that both sides know: the hold's id, the decision's id, a digest. It goes into one of
many parts of a temporary file by a hash of that name, and afterwards one part after another is looked at as a small bundle is. Only
what is few is kept: caps, approvals, the records about consents and releases, and a bounded number of findings.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, Final

from holdfast_verdict.verify.across import Bundle, Rows
from holdfast_verdict.verify.approvals import check_approvals
from holdfast_verdict.verify.balances import Namings, Running, check_entry, check_holds, check_limits
from holdfast_verdict.verify.chunks import Chunk, Proved
from holdfast_verdict.verify.engine import EnginePolicy
from holdfast_verdict.verify.findings import DoesNotHold, Finding
from holdfast_verdict.verify.lines import ORDER, hashes_in
from holdfast_verdict.verify.outcomes import check_outcomes
from holdfast_verdict.verify.records import Decided, Withheld
from holdfast_verdict.verify.releases import check_releases

FINDINGS_MAX: Final = 1_000
"""So many are looked for; then it is said that there may be more."""
_NAMED_MAX: Final = 20
_PART_BYTES: Final = 16_000_000
"""A part more for each of these of the file."""
_PARTS_MIN: Final = 4
_BUFFERED: Final = 10_000
_PAIR: Final = 2
_KEPT_KINDS: Final = frozenset({"approval", "release"})
_VOTE: Final = "approval.vote"
_HASH: Final = 32


class Buckets:
    """Things by name in a temporary file: all of one name are read together, in the order in which they came.

    Args:
        count: Into how many parts they are split.
    """

    def __init__(self, count: int) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (`close` closes it)
        self._places = [array("Q") for _ in range(count)]
        self._buffers: list[list[Any]] = [[] for _ in range(count)]  # Any: what is put in
        self._buffered = 0

    def put(self, name: str | bytes, thing: object) -> None:
        """Adds a thing."""
        raw = name if isinstance(name, bytes) else name.encode()
        self._buffers[zlib.crc32(raw) % len(self._buffers)].append(thing)
        self._buffered += 1
        if self._buffered >= _BUFFERED:
            self._write()

    def _write(self) -> None:
        self._file.seek(0, os.SEEK_END)
        for places, buffer in zip(self._places, self._buffers, strict=True):
            if buffer:
                places.append(self._file.tell())
                pickle.dump(buffer, self._file, pickle.HIGHEST_PROTOCOL)
                buffer.clear()
        self._buffered = 0

    def read(self) -> Iterator[list[Any]]:  # Any: as above
        """Yields what is in each part."""
        self._write()
        for places in self._places:
            things: list[Any] = []  # Any: as above
            for place in places:
                self._file.seek(place)
                things += pickle.load(self._file)  # noqa: S301 (written by this process, and no other can open it)
            yield things

    def close(self) -> None:
        """Deletes the file."""
        self._file.close()


class Spilled:
    """All chunks of a large file, in their order.

    Args:
        header: The bundle's header.
        policies: Its policies.
        size: How many bytes it has.

    Attributes:
        lines: How many lines there were.
        last: Place in the order of lines of the last.
        findings: What does not hold, at most about `FINDINGS_MAX`.
        totals: How many decisions there are, by what they were on, verdict and code.
        withheld: Records that could not be evaluated again.
        deleted: How many records are without their part A.
        rows: Lines of which there are few, by type.
        digests: What the sealed lines hash to.
    """

    def __init__(
        self,
        header: Mapping[str, Any],  # Any: as in Report
        policies: Mapping[str, EnginePolicy],
        size: int,
    ) -> None:
        self._header = header
        self._policies = policies
        self._parts = max(_PARTS_MIN, size // _PART_BYTES)
        self._by_hold, self._by_decision = Buckets(self._parts), Buckets(self._parts)
        self._kept: list[Decided] = []
        self._used: set[str] = set()
        self._holds: Rows = []
        self._running: Running | None = None
        self._namings = Namings()
        self._failed: set[str] = set()
        self._last_leaf = -1
        self.digests = Digests(self._parts)
        self.lines = 0
        self.last = -1
        self.findings: list[Finding] = []
        self.totals: Counter[tuple[str, str, str]] = Counter()
        self.withheld: list[Withheld] = []
        self.deleted = 0
        self.rows: dict[str, Rows] = {name: [] for name in ORDER}

    @property
    def is_full(self) -> bool:
        """Whether no more findings are taken."""
        return len(self.findings) >= FINDINGS_MAX

    def close(self) -> None:
        """Deletes all files."""
        for each in (self._by_hold, self._by_decision, self.digests):
            each.close()

    def add(self, chunk: Chunk) -> None:
        """Adds the next chunk."""
        before = self.lines
        for finding in chunk.found_behind(self.last, before):
            self.findings.append(finding)
            if finding.subject.startswith("decision "):
                self._failed.add(finding.subject.split()[1])
        if chunk.first >= 0:
            self.last = chunk.last
        self.digests.add(chunk.digests)
        for one in chunk.decided:
            self._decided(one._replace(line=one.line + before))
        for proof in chunk.proofs:
            if proof.leaf_index <= self._last_leaf:
                wrong, line = "its proof does not stand in its order", proof.line + before
                self.findings.append(Finding("audit.line", f"decision {proof.decision_id}", wrong, line))
            self._last_leaf = proof.leaf_index
            self._by_decision.put(proof.decision_id, proof._replace(line=proof.line + before))
        for number, row in chunk.others:
            self._other(number + before, row)
        self.lines += chunk.lines

    def _decided(self, one: Decided) -> None:
        self.totals[one.tool or one.kind, one.verdict, one.code] += 1
        self.deleted += one.deleted
        if one.withheld:
            self.withheld.append(Withheld(one.decision_id, one.withheld))
        self.findings += check_limits(one)
        self._namings.take(one)
        self._by_decision.put(one.decision_id, (one.decision_id, one.hash, one.line))
        if one.hold_id:
            self._by_hold.put(one.hold_id, one._replace(arguments="", message=""))
        if (
            one.kind in _KEPT_KINDS
            or one.tool == _VOTE
            or one.verdict == "needs_approval"
            or one.approvals
            or one.released
        ):
            self._kept.append(one)
            self._used.update([one.hold_id] if one.approvals else [])

    def _other(self, number: int, row: dict[str, Any]) -> None:  # Any: of the form that `lines.MEMBERS` says
        match row["type"]:
            case "hold":
                self._by_hold.put(row["hold_id"], (number, row))
                if row["hold_id"] in self._used:
                    self._holds.append((number, row))
            case "journal":
                if self._running is None:
                    self._running = Running(self.rows["cap"])
                if row["hold_id"] is not None:
                    self._by_hold.put(row["hold_id"], (number, row, self._running.stands(row)))
                self.findings += self._running.take(number, row)
            case "lines":
                self.digests.list(row)
            case kind:
                self.rows[kind].append((number, row))

    def logged(self, decision_id: str, hash_: bytes, number: int) -> None:
        """Adds the record of the export itself."""
        self._by_decision.put(decision_id, (decision_id, hash_, number))

    def check(self) -> Iterator[Finding]:
        """Compares all lines with those that they are about."""
        for things in self._by_decision.read():
            yield from _check_proofs(things, self._failed)
        kept = self._bundle(self._kept, self._holds, [])
        yield from check_approvals(kept)
        yield from check_releases(kept)
        yield from self._namings.check(self.rows["cap"])
        for things in self._by_hold.read():
            decided = [each for each in things if isinstance(each, Decided)]
            holds = [each for each in things if not isinstance(each, Decided) and len(each) == _PAIR]
            entries = [each for each in things if not isinstance(each, Decided) and len(each) > _PAIR]
            bundle = self._bundle(decided, holds, [(number, entry) for number, entry, _ in entries])
            yield from check_outcomes(bundle)
            yield from check_holds(bundle)
            for _, entry, stands in entries:
                yield from check_entry(bundle.by_hold.get(entry["hold_id"]), entry, stands)
        yield from (self._running or Running(self.rows["cap"])).close()

    def _bundle(self, decided: list[Decided], holds: Rows, journal: Rows) -> Bundle:
        return Bundle(
            header=self._header,
            policies=self._policies,
            decided=decided,
            by_id={one.decision_id: one for one in decided},
            by_hold={one.hold_id: one for one in decided if one.hold_id and one.kind != "hold.resolution"},
            approvals=self.rows["approval"],
            holds=holds,
            caps=self.rows["cap"],
            journal=journal,
            failed=frozenset(self._failed),
        )


def _check_proofs(things: list[Any], failed: set[str]) -> Iterator[Finding]:  # Any: proofs, and what records are
    hashes: dict[str, bytes] = {}
    proved: set[str] = set()
    for thing in things:
        if not isinstance(thing, Proved):
            decision_id, hash_, number = thing
            if decision_id in hashes:
                yield Finding("audit.line", f"decision {decision_id}", "its record is there twice", number)
            hashes[decision_id] = hash_
    for thing in things:
        if isinstance(thing, Proved):
            subject = f"decision {thing.decision_id}"
            if thing.decision_id in proved:
                yield Finding("audit.inclusion", subject, "it has two proofs", thing.line)
            proved.add(thing.decision_id)
            own = hashes.get(thing.decision_id)
            if own is None:
                if thing.decision_id not in failed:
                    yield Finding("audit.line", subject, "its proof is in the file and its record is not", thing.line)
            elif own.hex() != thing.hash:
                wrong = "its record is not the one that is in the log"
                yield Finding("audit.inclusion", subject, wrong, thing.line)
    for decision_id in hashes.keys() - proved:
        yield Finding("audit.inclusion", f"decision {decision_id}", "it has no proof that it is in the log")


class Digests:
    """Digests of the lines before the seal, as they are in the file and as the bundle lists them.

    Args:
        parts: Into how many parts they are split to be compared.
    """

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._there, self._told = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 (`close` closes them)
        self._hashes = hashlib.sha256(), hashlib.sha256()
        self._count = 0
        self._wrong: list[Finding] = []

    def add(self, digests: bytes | bytearray) -> None:
        """Goes on with lines of the file."""
        self._there.write(digests)
        self._hashes[0].update(digests)

    def list(self, line: Mapping[str, Any]) -> None:  # Any: as in `Spilled`
        """Goes on with a line of type `lines`."""
        if line["first"] != self._count + 1:
            wrong = f"it goes on at {line['first']} and not at {self._count + 1}"
            self._wrong.append(Finding("audit.line", "the list of lines", wrong))
        try:
            digests = hashes_in(line["sha256"])
        except DoesNotHold as wrong:
            self._wrong.append(Finding(wrong.code, "the list of lines", wrong.wrong))
            return
        self._told.write(digests)
        self._hashes[1].update(digests)
        self._count += len(digests) // _HASH

    def check(self, sealed: tuple[str, int], subject_at: Callable[[int], str]) -> Iterator[Finding]:
        """Does what `seal.check_lines` does."""
        yield from self._wrong[:FINDINGS_MAX]
        content, count = sealed
        there, told = (each.hexdigest() for each in self._hashes)
        if told != content or self._count != count:
            yield Finding("audit.line", "the list of lines", "it is not the one that was sealed")
            if there != content:
                wrong = "its lines are not those that were sealed; which of them cannot be told"
                yield Finding("audit.line", "the file", wrong)
        elif there != told:
            yield from self._named(subject_at)

    def _named(self, subject_at: Callable[[int], str]) -> Iterator[Finding]:
        buckets = Buckets(self._parts)
        for is_told, file in ((True, self._told), (False, self._there)):
            for number, digest in _digests(file):
                buckets.put(digest, (is_told, number, digest))
        wrong: list[tuple[int, str]] = []  # of lines of the file
        missing: list[int] = []  # lines of the export
        count = 0
        for things in buckets.read():
            left = Counter(digest for is_told, _, digest in things if is_told)
            for is_told, number, digest in things:
                if not is_told and left[digest]:
                    left[digest] -= 1
                elif not is_told:
                    twice = "it is there twice" if digest in left else "it was changed or added after the export"
                    wrong.append((number, twice))
            for is_told, number, digest in things:
                if is_told and left[digest]:
                    missing.append(number)
            count += len(wrong) + len(missing)
            wrong, missing = sorted(wrong)[:_NAMED_MAX], sorted(missing)[:_NAMED_MAX]
            count -= len(wrong) + len(missing)
        buckets.close()
        found = [Finding("audit.line", subject_at(number), said, number) for number, said in wrong]
        found += [
            Finding("audit.line", f"line {number} of the export", "it is not in the file as it was")
            for number in missing
        ]
        if not found:
            pairs = zip(_digests(self._there), _digests(self._told), strict=True)
            place = next(number for (number, one), (_, other) in pairs if one != other)
            found = [Finding("audit.line", subject_at(place), "it does not stand where it stood in the export", place)]
        yield from found[:_NAMED_MAX]
        count += max(0, len(found) - _NAMED_MAX)
        if count:
            yield Finding("audit.line", "the file", f"{count} more lines are not as they were")

    def close(self) -> None:
        """Deletes the files."""
        self._there.close()
        self._told.close()


def _digests(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    file.seek(0)
    number = 0
    while block := file.read(_HASH * 4_096):
        for place in range(0, len(block), _HASH):
            number += 1
            yield number, block[place : place + _HASH]
