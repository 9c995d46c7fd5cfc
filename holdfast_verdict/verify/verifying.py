"""Verifying a bundle: a large one by sums over its lines, and what these do not settle line by line, then across lines."""

from __future__ import annotations

import gc
import mmap
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from holdfast_verdict.log.note import ED25519, VerifierKey
from holdfast_verdict.verify import lines
from holdfast_verdict.verify.across import Bundle, Rows
from holdfast_verdict.verify.approvals import check_approvals
from holdfast_verdict.verify.balances import check_balances
from holdfast_verdict.verify.chunks import Chunk, Context, LineChecker, Proved, read_policies
from holdfast_verdict.verify.engine import EnginePolicy
from holdfast_verdict.verify.findings import DoesNotHold, Finding, Unsure
from holdfast_verdict.verify.lines import ORDER, Line
from holdfast_verdict.verify.outcomes import check_outcomes
from holdfast_verdict.verify.packing import Packer
from holdfast_verdict.verify.reading import Source
from holdfast_verdict.verify.records import Decided, Withheld
from holdfast_verdict.verify.releases import check_releases
from holdfast_verdict.verify.report import Report
from holdfast_verdict.verify.seal import check_lines, read_seal
from holdfast_verdict.verify.spilling import FINDINGS_MAX, Spilled
from holdfast_verdict.verify.story import TOLD_MAX
from holdfast_verdict.verify.summed import Summed
from holdfast_verdict.verify.trust import Trust, check_consistency, check_since, open_checkpoint, parse_keys
from holdfast_verdict.verify.workers import Workers, cores

_SMALL_BYTES: Final = TOLD_MAX * 1_000
"""Up to this size a bundle that is to be told is read as a whole at once."""

_HELD_BYTES: Final = 100_000_000
"""Up to this size all lines are held in memory to be compared; those of a larger bundle go to temporary files."""

_SHARE_BYTES: Final = 4_000_000
"""A process more for each of these."""

_AHEAD: Final = 8
"""So many blocks for each process are given out at once."""

Say = Callable[[int, int], None]
"""Gets bytes done and bytes in all."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be verified.

    Attributes:
        path: The bundle.
        keys: Keys that the auditor trusts; none = those of the bundle are taken.
        since: A checkpoint that was seen before, as its note; empty if none.
        workers: How many processes; 0 = one per core, if the file is large.
        tells: Whether what happened is to be told, decision by decision, of a bundle that has not too many.
    """

    path: Path
    keys: tuple[VerifierKey, ...] = ()
    since: str = ""
    workers: int = 0
    tells: bool = True


def verify(request: Request, say: Say | None = None) -> Report:
    """Verifies a bundle.

    Raises:
        OSError: The file cannot be read.
    """
    with _uncollected(), request.path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return _unreadable("the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Verification(request, Source(data)).run(say or _silent)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keeps Python from searching for cycles: all that is read is kept to the end, and none of it forms one."""
    collected, frozen = gc.isenabled(), gc.get_freeze_count()
    gc.disable()
    try:
        yield
    finally:
        if not frozen:  # what was read becomes old without being looked through
            gc.freeze()
            gc.unfreeze()
        if collected:
            gc.enable()


def _silent(done: int, total: int) -> None:
    """Says nothing."""


def _unreadable(wrong: str) -> Report:
    return Report({}, Trust(), (Finding("audit.bundle", "the file", wrong, 1),), None, 0)


class _Verification:
    """One bundle's."""

    def __init__(self, request: Request, source: Source) -> None:
        self._request = request
        self._source = source
        self._findings: list[Finding] = []

    def run(self, say: Say) -> Report:
        """Does all of it."""
        try:
            header, policy_lines = self._source.head()
        except DoesNotHold as wrong:
            return _unreadable(wrong.wrong)
        policies, found = read_policies(policy_lines)
        self._findings += found
        trust = self._trust(header, self._source.tail())
        checkpoint = trust.checkpoint
        size, root = (checkpoint.size, checkpoint.root) if checkpoint else (0, b"")
        context = Context(header["tenant_id"], policy_lines, size, root, tells=self._source.size < _SMALL_BYTES)
        if not self._findings and not (self._request.tells and context.tells):
            report = self._summed(header, policies, trust, context, say)
            if report is not None and not (self._request.tells and report.records <= TOLD_MAX):
                return report
        if self._source.size > _HELD_BYTES:
            return self._spilled(header, policies, trust, context, say)
        return self._whole(header, policies, trust, context, say)

    def _summed(
        self, header: dict[str, Any], policies: dict[str, EnginePolicy], trust: Trust, context: Context, say: Say
    ) -> Report | None:  # Any: as in Report
        """Verifies by sums; None if these do not tell that all of it holds."""
        summed, done, total = Summed(header, policies, trust), 0, self._source.size

        def add(count: int) -> None:
            nonlocal done
            done += count
            say(done, total)

        try:
            summed.run(self._source, context, self._workers(), add)
        except Unsure:
            return None
        if self._request.since:
            trust = self._since(trust, summed.rows)
            if self._findings:
                self._findings = []  # it is found once more, with whatever else there is
                return None
        return Report(header, trust, (), None, summed.lines, summed.totals, summed.withheld)

    def _whole(
        self, header: dict[str, Any], policies: dict[str, EnginePolicy], trust: Trust, context: Context, say: Say
    ) -> Report:  # Any: as in Report
        """Verifies line by line, and names whatever does not hold."""
        gathered = _Gathered()
        done, total = 0, self._source.size
        blocks = list(self._source.blocks(0, total))
        for (start, end), chunk in zip(blocks, self._check(context, blocks), strict=True):
            gathered.add(chunk)
            done += end - start
            say(done, total)
        self._findings += gathered.findings
        self._check_end(gathered.last, gathered.lines, gathered.rows["end"])
        bundle = gathered.bundle(header, policies)
        self._check_seal(header, gathered)
        self._check_proofs(gathered)
        if trust.checkpoint is not None:
            self._findings += check_consistency(trust.checkpoint, gathered.rows["consistency"])
        for check in (check_approvals, check_releases, check_outcomes, check_balances):
            self._findings += check(bundle)
        if self._request.since:
            trust = self._since(trust, gathered.rows)
        totals = Counter((one.tool or one.kind, one.verdict, one.code) for one in bundle.decided)
        withheld = [Withheld(one.decision_id, one.withheld) for one in bundle.decided if one.withheld]
        deleted = sum(one.deleted for one in bundle.decided)
        return Report(header, trust, tuple(_once(self._findings)), bundle, gathered.lines, totals, withheld, deleted)

    def _spilled(
        self, header: dict[str, Any], policies: dict[str, EnginePolicy], trust: Trust, context: Context, say: Say
    ) -> Report:  # Any: as in Report
        """Verifies line by line, and names what does not hold up to a bound, in memory that does not grow with the file."""
        spilled, done, total = Spilled(header, policies, self._source.size), 0, self._source.size
        context = replace(context, tells=False)
        blocks = list(self._source.blocks(0, total))
        try:
            for (start, end), chunk in zip(blocks, self._check(context, blocks), strict=True):
                spilled.add(chunk)
                done += end - start
                say(done, total)
                if spilled.is_full:
                    break
            self._findings += spilled.findings
            if spilled.is_full:
                self._findings = [*self._findings[:FINDINGS_MAX], _more(done, total)]
            else:
                self._check_end(spilled.last, spilled.lines, spilled.rows["end"])
                self._check_sealed(header, spilled)
                if trust.checkpoint is not None:
                    self._findings += check_consistency(trust.checkpoint, spilled.rows["consistency"])
                found = list(islice(spilled.check(), FINDINGS_MAX))
                self._findings += found
                if len(found) == FINDINGS_MAX:
                    self._findings.append(
                        Finding("audit.bundle", "the file", "more does not hold, and was not looked for")
                    )
            if self._request.since:
                trust = self._since(trust, spilled.rows)
        finally:
            spilled.close()
        told = spilled.lines, spilled.totals, spilled.withheld, spilled.deleted
        return Report(header, trust, tuple(_once(self._findings)), None, *told)

    def _check_sealed(self, header: dict[str, Any], spilled: Spilled) -> None:  # Any: as in Report
        read = self._read_seal(header, spilled.rows["seal"])
        if read is not None:
            number, line, hash_, sealed = read
            spilled.logged(line["decision_id"], hash_, number)
            self._findings += spilled.digests.check(sealed, self._subject_at)

    def _check_end(self, last: int, count: int, ends: Rows) -> None:
        if last != ORDER.index("end"):
            wrong = "it has no line of type end: it is cut off"
            self._findings.append(Finding("audit.bundle", "the file", wrong, count))
        for number, line in ends:
            if line["lines"] != count:
                counted = f"it has {count} lines and should have {line['lines']}"
                self._findings.append(Finding("audit.bundle", "the file", counted, number))

    def _trust(self, header: dict[str, Any], tail: Sequence[Line]) -> Trust:  # Any: as in Report
        notes = [str(line["note"]) for line in tail if line["type"] == "checkpoint"]
        keys = [str(line["vkey"]) for line in tail if line["type"] == "key"]
        try:
            return open_checkpoint(header, notes, keys, self._request.keys)
        except DoesNotHold as wrong:
            self._findings.append(Finding(wrong.code, "the checkpoint", wrong.wrong))
            return Trust()

    def _workers(self) -> Workers:
        return Workers(self._request.path, min(cores(self._request.workers), self._source.size // _SHARE_BYTES + 1))

    def _check(self, context: Context, blocks: Sequence[tuple[int, int]]) -> Iterator[Chunk]:
        workers = self._workers()
        if workers.count < 2:  # noqa: PLR2004 (one is this process)
            checker = LineChecker(context)
            yield from (checker.check(self._source.data[start:end]) for start, end in blocks)
            return
        at_once = workers.count * _AHEAD  # what was found waits in memory until it is taken
        with workers.started(Packer, context) as pool:
            for first in range(0, len(blocks), at_once):
                for _, found in pool.submit(blocks[first : first + at_once], None):
                    yield found.result().chunk()

    def _check_seal(self, header: dict[str, Any], gathered: _Gathered) -> None:  # Any: as in Report
        read = self._read_seal(header, gathered.rows["seal"])
        if read is not None:
            _, line, hash_, sealed = read
            gathered.hashes[line["decision_id"]] = hash_
            lists = [each for _, each in gathered.rows["lines"]]
            self._findings += check_lines(bytes(gathered.digests), sealed, lists, self._subject_at)

    def _read_seal(
        self, header: dict[str, Any], rows: Rows
    ) -> tuple[int, dict[str, Any], bytes, tuple[str, int]] | None:  # Any: as in Report
        """Returns the seal's number, line and hash, and what it says of the lines; None if there is none that holds."""
        if not rows:
            wrong = "it has no seal, so that it is whole is not proved"
            self._findings.append(Finding("audit.bundle", "the file", wrong))
            return None
        number, line = rows[0]
        try:
            hash_, content, count = read_seal(header, line)
        except DoesNotHold as error:
            self._findings.append(Finding(error.code, lines.subject_of(line), error.wrong, number))
            return None
        return number, line, hash_, (content, count)

    def _subject_at(self, number: int) -> str:
        """Names a line of the file."""
        for place, raw in enumerate(self._source.lines_from(0), 1):
            if place == number:
                try:
                    return lines.subject_of(lines.parse(raw))
                except DoesNotHold:
                    break
        return f"line {number}"

    def _check_proofs(self, gathered: _Gathered) -> None:
        """Every record has one proof, which is for its hash, and there are no others."""
        proved: set[str] = set()
        last = -1
        for decision_id, hash_, leaf_index, number in gathered.proofs:
            subject = f"decision {decision_id}"
            if leaf_index <= last:
                self._findings.append(Finding("audit.line", subject, "its proof does not stand in its order", number))
            last = leaf_index
            if decision_id in proved:
                self._findings.append(Finding("audit.inclusion", subject, "it has two proofs", number))
            proved.add(decision_id)
            own = gathered.hashes.get(decision_id)
            if own is None:
                if decision_id not in gathered.failed:
                    wrong = "its proof is in the file and its record is not"
                    self._findings.append(Finding("audit.line", subject, wrong, number))
            elif own.hex() != hash_:
                self._findings.append(
                    Finding("audit.inclusion", subject, "its record is not the one that is in the log", number)
                )
        for decision_id in gathered.hashes.keys() - proved:
            wrong = "it has no proof that it is in the log"
            self._findings.append(Finding("audit.inclusion", f"decision {decision_id}", wrong))

    def _since(self, trust: Trust, rows: dict[str, Rows]) -> Trust:
        try:
            brought = parse_keys(str(line["vkey"]) for _, line in rows["key"])
        except DoesNotHold:
            brought = ()  # said when the checkpoint was opened
        keys = self._request.keys or tuple(key for key in brought if key.algorithm == ED25519)
        proofs = [line for _, line in rows["consistency"]]
        size, found = check_since(trust, self._request.since, proofs, keys)
        self._findings += found
        return trust if found else replace(trust, since=size)


class _Gathered:
    """All chunks of a file, in their order."""

    def __init__(self) -> None:
        self.lines = 0
        self.last = -1
        self.digests = bytearray()
        self.findings: list[Finding] = []
        self.decided: list[Decided] = []
        self.proofs: list[Proved] = []
        self.rows: dict[str, Rows] = {name: [] for name in ORDER}
        self.hashes: dict[str, bytes] = {}
        self.failed: set[str] = set()

    def add(self, chunk: Chunk) -> None:
        """Adds the next chunk."""
        before = self.lines
        for finding in chunk.found_behind(self.last, before):
            self.findings.append(finding)
            if finding.subject.startswith("decision "):
                self.failed.add(finding.subject.split()[1])
        if chunk.first >= 0:
            self.last = chunk.last
        self.digests += chunk.digests
        for one in chunk.decided:
            if one.decision_id in self.hashes:
                wrong = "its record is there twice"
                self.findings.append(Finding("audit.line", f"decision {one.decision_id}", wrong, one.line + before))
            self.hashes[one.decision_id] = one.hash
        self.decided += [one._replace(line=one.line + before) for one in chunk.decided] if before else chunk.decided
        self.proofs += [proof._replace(line=proof.line + before) for proof in chunk.proofs]
        for number, row in chunk.others:
            self.rows[str(row["type"])].append((number + before, row))
        self.lines += chunk.lines

    def bundle(self, header: dict[str, Any], policies: dict[str, Any]) -> Bundle:  # Any: as in Report
        """Returns what the checks across records look at."""
        granted = (one for one in self.decided if one.hold_id and one.kind != "hold.resolution")
        return Bundle(
            header=header,
            policies=policies,
            decided=self.decided,
            by_id={one.decision_id: one for one in self.decided},
            by_hold={one.hold_id: one for one in granted},
            approvals=self.rows["approval"],
            holds=self.rows["hold"],
            caps=self.rows["cap"],
            journal=self.rows["journal"],
            failed=frozenset(self.failed),
        )


def _more(done: int, total: int) -> Finding:
    wrong = f"so much does not hold in its first {done:,} of {total:,} bytes that the rest was not looked at"
    return Finding("audit.bundle", "the file", wrong)


def _once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Leaves out what was said of the same subject before."""
    yield from dict.fromkeys(findings)
