"""Checking lines one by one: what a worker does with its part of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.verify.engine import EnginePolicy
from holdfast_verdict.verify.engines import ENGINES
from holdfast_verdict.verify.findings import DoesNotHold, Finding
from holdfast_verdict.verify.lines import ALONE, ORDER, PLACE, SEALED, Line, hashes_in, parse, subject_of
from holdfast_verdict.verify.paths import Paths
from holdfast_verdict.verify.records import Decided, RecordChecker


@dataclass(frozen=True, slots=True)
class Context:
    """What a worker has to know before it reads its lines.

    Attributes:
        tenant_id: Whose the bundle is.
        policies: Lines of policies.
        size: Number of leaves of the tree that the checkpoint speaks of; 0 if there is none that holds.
        root: Its root.
        tells: Whether the story is told of each record.
    """

    tenant_id: str
    policies: tuple[Line, ...]
    size: int
    root: bytes
    tells: bool


class Proved(NamedTuple):
    """What a proof is of: the decision, its record hash, its number in the log, and the proof's line."""

    decision_id: str
    hash: str
    leaf_index: int
    line: int


@dataclass(slots=True)
class Chunk:
    """What was found in a part of a file. Lines are numbered from 1 within it.

    Attributes:
        lines: How many there were.
        digests: SHA-256 of each sealed line, behind each other.
        findings: What does not hold.
        decided: The records that hold by themselves.
        proofs: What the proofs are of.
        others: All other lines, with their numbers.
        first: Place in the order of lines of the first, -1 if there is none.
        last: That of the last.
    """

    lines: int = 0
    digests: bytearray = field(default_factory=bytearray)
    findings: list[Finding] = field(default_factory=list)
    decided: list[Decided] = field(default_factory=list)
    proofs: list[Proved] = field(default_factory=list)
    others: list[tuple[int, Line]] = field(default_factory=list)
    first: int = -1
    last: int = -1

    def found_behind(self, last: int, lines: int) -> Iterator[Finding]:
        """Yields what does not hold in it, where it stands in the file; also that it does not belong there.

        Args:
            last: Place in the order of lines of the line before it, -1 if there is none.
            lines: How many lines are before it.
        """
        if self.first >= 0 and (self.first < last or (self.first == last and ORDER[self.first] in ALONE)):
            wrong = f"a line of type {ORDER[self.first]} does not belong here"
            yield Finding("audit.line", f"line {lines + 1}", wrong, lines + 1)
        for finding in self.findings:
            line = finding.line + lines
            subject = f"line {line}" if finding.subject == f"line {finding.line}" else finding.subject
            yield finding._replace(line=line, subject=subject)


def read_policies(lines: tuple[Line, ...]) -> tuple[dict[str, EnginePolicy], list[Finding]]:
    """Reads policies and sees that each is the one that its hash names."""
    policies: dict[str, EnginePolicy] = {}
    findings = []
    for line in lines:
        try:
            name, policy = _read_policy(line)
            policies[name] = policy
        except DoesNotHold as wrong:
            findings.append(Finding(wrong.code, subject_of(line), wrong.wrong))
    return policies, findings


def _read_policy(line: Mapping[str, JsonValue]) -> tuple[str, EnginePolicy]:
    engine = ENGINES.get(str(line["engine"]))
    if engine is None:
        known = ", ".join(sorted(ENGINES))
        raise DoesNotHold("audit.engine", f"it is of engine {line['engine']}; those known here are {known}")
    try:
        policy = engine(line["form"], line["source"], line["beside"])
    except ValueError as error:
        raise DoesNotHold("audit.policy_hash", f"it cannot be read: {error}") from None
    if policy.policy_hash != line["policy_hash"]:
        raise DoesNotHold("audit.policy_hash", f"its hash is {policy.policy_hash}, so it is another policy")
    return policy.policy_hash, policy


class LineChecker:
    """Checks lines one by one.

    Args:
        context: What has to be known before.
    """

    def __init__(self, context: Context) -> None:
        policies, _ = read_policies(
            context.policies
        )  # what is wrong with them is said once, by who read the file's head
        self._records = RecordChecker(context.tenant_id, policies, tells=context.tells)
        self._paths = Paths(context.size, context.root) if context.size else None

    def check(self, block: bytes) -> Chunk:
        """Checks whole lines."""
        chunk = Chunk()
        lines = block.split(b"\n")
        if lines[-1] == b"":
            lines.pop()
        elif lines:
            chunk.findings.append(Finding("audit.bundle", "the file", "it ends in the middle of a line", len(lines)))
        for number, raw in enumerate(lines, 1):
            self._check_line(number, raw, chunk)
        chunk.lines = len(lines)
        return chunk

    def _check_line(self, number: int, raw: bytes, chunk: Chunk) -> None:
        line: Line | None = None
        try:
            line = parse(raw)
            kind = str(line["type"])
            if kind in SEALED:
                chunk.digests += hashlib.sha256(raw).digest()
            if PLACE[kind] != chunk.last or kind in ALONE:
                self._check_order(kind, chunk)
            if kind in ("record", "sealed"):
                chunk.decided.append(self._records.check(line, number))
            elif kind == "deleted":
                chunk.decided.append(self._records.check_deleted(line, number))
            elif kind == "proof":
                proved = Proved(line["decision_id"], line["record_hash"], line["leaf_index"], number)  # type: ignore[arg-type]  # `parse` has looked
                chunk.proofs.append(proved)
                self._check_path(proved, line["path"])
            else:
                chunk.others.append((number, line))
        except DoesNotHold as wrong:
            subject = subject_of(line) if line is not None else f"line {number}"
            chunk.findings.append(Finding(wrong.code, subject, wrong.wrong, number))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            # LAW 7: whatever of a record is of no form that anybody foresaw does not hold
            wrong_form = f"something in it is not of its form ({type(error).__name__})"
            subject = subject_of(line) if line is not None else f"line {number}"
            chunk.findings.append(Finding("audit.record", subject, wrong_form, number))

    def _check_order(self, kind: str, chunk: Chunk) -> None:
        place = PLACE[kind]
        if place < chunk.last or (place == chunk.last and kind in ALONE):
            raise DoesNotHold("audit.line", f"a line of type {kind} does not belong here")
        if chunk.first < 0:
            chunk.first = place
        chunk.last = place

    def _check_path(self, proved: Proved, path: object) -> None:
        hashes = hashes_in(path)
        if self._paths is None:
            raise DoesNotHold(
                "audit.inclusion", "there is no checkpoint that holds, so its place in the log is not proved"
            )
        self._paths.check(bytes.fromhex(proved.hash), proved.leaf_index, hashes)
