"""Verifying a bundle: its lines on all cores, then what goes across them."""

from __future__ import annotations

import gc
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from holdfast_verdict.log.note import ED25519, VerifierKey
from holdfast_verdict.verify import lines
from holdfast_verdict.verify.across import Bundle, Rows
from holdfast_verdict.verify.approvals import check_approvals
from holdfast_verdict.verify.balances import check_balances
from holdfast_verdict.verify.chunks import Chunk, Context, LineChecker, Proved, read_policies
from holdfast_verdict.verify.findings import DoesNotHold, Finding
from holdfast_verdict.verify.lines import ALONE, FORMAT, ORDER, VERSION, Line
from holdfast_verdict.verify.outcomes import check_outcomes
from holdfast_verdict.verify.packing import Packed
from holdfast_verdict.verify.records import Decided
from holdfast_verdict.verify.releases import check_releases
from holdfast_verdict.verify.report import Report
from holdfast_verdict.verify.seal import check_lines, read_seal
from holdfast_verdict.verify.trust import Trust, check_consistency, check_since, open_checkpoint, parse_keys

TOLD_MAX: Final = 5_000
"""Up to so many lines every decision is told; beyond it they are counted."""

_BLOCK_BYTES: Final = 4_000_000
_TAIL: Final = frozenset({"consistency", "key", "checkpoint", "end"})
_TAIL_LINES_MAX: Final = 1_000
_LINE_BYTES_MAX: Final = 64_000_000

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
    """

    path: Path
    keys: tuple[VerifierKey, ...] = ()
    since: str = ""
    workers: int = 0


def verify(request: Request, say: Say | None = None) -> Report:
    """Verifies a bundle.

    Raises:
        OSError: The file cannot be read.
    """
    with _uncollected(), request.path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return _unreadable("the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as source:
            return _Verification(request, source).run(say)


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


def _unreadable(wrong: str) -> Report:
    return Report({}, Trust(), (Finding("audit.bundle", "the file", wrong, 1),), None, 0)


class _Verification:
    """One bundle's."""

    def __init__(self, request: Request, source: mmap.mmap) -> None:
        self._request = request
        self._source = source
        self._findings: list[Finding] = []

    def run(self, say: Say | None) -> Report:
        """Does all of it."""
        try:
            header, policy_lines = self._head()
        except DoesNotHold as wrong:
            return _unreadable(wrong.wrong)
        tail = self._tail()
        policies, found = read_policies(policy_lines)
        self._findings += found
        trust = self._trust(header, tail)
        checkpoint = trust.checkpoint
        total = len(self._source)
        blocks = list(self._blocks())
        context = Context(
            header["tenant_id"],
            policy_lines,
            checkpoint.size if checkpoint else 0,
            checkpoint.root if checkpoint else b"",
            tells=total < TOLD_MAX * 1_000,
        )
        gathered = _Gathered()
        done = 0
        for (start, end), chunk in zip(blocks, self._check(context, blocks), strict=True):
            gathered.add(chunk)
            done += end - start
            if say is not None:
                say(done, total)
        self._findings += gathered.findings
        if gathered.last != ORDER.index("end"):
            self._findings.append(
                Finding("audit.bundle", "the file", "it has no line of type end: it is cut off", gathered.lines)
            )
        for number, line in gathered.rows["end"]:
            if line["lines"] != gathered.lines:
                counted = f"it has {gathered.lines} lines and should have {line['lines']}"
                self._findings.append(Finding("audit.bundle", "the file", counted, number))
        bundle = gathered.bundle(header, policies)
        self._check_seal(header, gathered)
        self._check_proofs(gathered)
        if checkpoint is not None:
            self._findings += check_consistency(checkpoint, gathered.rows["consistency"])
        for check in (check_approvals, check_releases, check_outcomes, check_balances):
            self._findings += check(bundle)
        if self._request.since:
            trust = self._since(trust, gathered)
        return Report(header, trust, tuple(_once(self._findings)), bundle, gathered.lines)

    def _lines_from(self, start: int) -> Iterator[bytes]:
        while start < len(self._source):
            end = self._source.find(b"\n", start, start + _LINE_BYTES_MAX)
            if end < 0:
                return
            yield self._source[start:end]
            start = end + 1

    def _head(self) -> tuple[dict[str, Any], tuple[Line, ...]]:  # Any: as in Report
        found = self._lines_from(0)
        header: dict[str, Any] = lines.parse(next(found, b""))
        if header["type"] != "header" or header["format"] != FORMAT:
            raise DoesNotHold("audit.bundle", "it does not begin with the header of an audit bundle")
        if header["v"] != VERSION:
            raise DoesNotHold("audit.bundle", f"it is a bundle of version {header['v']}, and {VERSION} is known here")
        policies = []
        for raw in found:
            try:
                line = lines.parse(raw)
            except DoesNotHold:
                continue  # said when the lines are checked
            if line["type"] != "policy":
                break
            policies.append(line)
        return header, tuple(policies)

    def _tail(self) -> list[Line]:
        """Returns the lines behind the proofs, as far as they can be read; what is wrong with them is said with all lines."""
        tail = []
        end = len(self._source)
        for _ in range(_TAIL_LINES_MAX):
            start = self._source.rfind(b"\n", 0, max(end - 1, 0)) + 1
            try:
                line = lines.parse(self._source[start:end].removesuffix(b"\n"))
            except DoesNotHold:
                line = None
            if line is not None:
                if line["type"] not in _TAIL:
                    break
                tail.append(line)
            if not start:
                break
            end = start
        return tail[::-1]

    def _trust(self, header: dict[str, Any], tail: Sequence[Line]) -> Trust:  # Any: as in Report
        notes = [str(line["note"]) for line in tail if line["type"] == "checkpoint"]
        keys = [str(line["vkey"]) for line in tail if line["type"] == "key"]
        try:
            return open_checkpoint(header, notes, keys, self._request.keys)
        except DoesNotHold as wrong:
            self._findings.append(Finding(wrong.code, "the checkpoint", wrong.wrong))
            return Trust()

    def _blocks(self) -> Iterator[tuple[int, int]]:
        start = 0
        while start < len(self._source):
            end = self._source.find(b"\n", min(start + _BLOCK_BYTES, len(self._source) - 1)) + 1 or len(self._source)
            yield start, end
            start = end

    def _check(self, context: Context, blocks: Sequence[tuple[int, int]]) -> Iterator[Chunk]:
        workers = min(self._request.workers or len(os.sched_getaffinity(0)), len(blocks))
        if workers < 2:  # noqa: PLR2004 (one is this process)
            checker = LineChecker(context)
            yield from (checker.check(self._source[start:end]) for start, end in blocks)
            return
        # a process that has threads cannot be forked safely; one that has none spares its children the start
        method = "fork" if threading.active_count() == 1 else "forkserver"
        begin = (str(self._request.path), context)
        with ProcessPoolExecutor(workers, get_context(method), _begin, begin) as pool:
            yield from map(Packed.chunk, pool.map(_check_block, blocks))

    def _check_seal(self, header: dict[str, Any], gathered: _Gathered) -> None:  # Any: as in Report
        if not gathered.rows["seal"]:
            wrong = "it has no seal, so that it is whole is not proved"
            self._findings.append(Finding("audit.bundle", "the file", wrong))
            return
        number, line = gathered.rows["seal"][0]
        try:
            hash_, content, count = read_seal(header, line)
        except DoesNotHold as wrong:
            self._findings.append(Finding(wrong.code, lines.subject_of(line), wrong.wrong, number))
            return
        gathered.hashes[line["decision_id"]] = hash_
        named = self._subject_at
        lists = [each for _, each in gathered.rows["lines"]]
        self._findings += check_lines(bytes(gathered.digests), (content, count), lists, named)

    def _subject_at(self, number: int) -> str:
        """Names a line of the file."""
        for place, raw in enumerate(self._lines_from(0), 1):
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

    def _since(self, trust: Trust, gathered: _Gathered) -> Trust:
        try:
            brought = parse_keys(str(line["vkey"]) for _, line in gathered.rows["key"])
        except DoesNotHold:
            brought = ()  # said when the checkpoint was opened
        keys = self._request.keys or tuple(key for key in brought if key.algorithm == ED25519)
        proofs = [line for _, line in gathered.rows["consistency"]]
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
        if chunk.first >= 0:
            if chunk.first < self.last or (chunk.first == self.last and ORDER[chunk.first] in ALONE):
                wrong = f"a line of type {ORDER[chunk.first]} does not belong here"
                self.findings.append(Finding("audit.line", f"line {before + 1}", wrong, before + 1))
            self.last = chunk.last
        for finding in chunk.findings:
            line = finding.line + before
            subject = f"line {line}" if finding.subject == f"line {finding.line}" else finding.subject
            self.findings.append(finding._replace(line=line, subject=subject))
            if finding.subject.startswith("decision "):
                self.failed.add(finding.subject.split()[1])
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


def _once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Leaves out what was said of the same subject before."""
    yield from dict.fromkeys(findings)


_WORKER: list[tuple[mmap.mmap, LineChecker]] = []


def _begin(path: str, context: Context) -> None:
    gc.disable()  # a worker lives for one file
    _WORKER.clear()
    with Path(path).open("rb") as file:
        _WORKER.append((mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), LineChecker(context)))


def _check_block(block: tuple[int, int]) -> Packed:
    source, checker = _WORKER[0]
    return Packed.of(checker.check(source[block[0] : block[1]]))
