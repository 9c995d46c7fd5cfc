"""Every byte of a bundle, each in turn another one: there is no byte that does not matter, and the line that it is in is named.

A line that does not hold by itself is found by the check of lines alone, which the verifier hands on as it is. A sealed line that
survives that has another digest than the seal lists, which is compared for every line; of these flips every sixteenth goes through
the whole verifier, and so does every flip of any other line. `python -m bench audit` puts every one through all of it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from holdfast_verdict.log.checkpoint import Checkpoint
from holdfast_verdict.log.note import Note
from holdfast_verdict.verify.chunks import Context, LineChecker
from holdfast_verdict.verify.lines import SEALED, Line, subject_of
from tests.verify.checking import Check, said, wrong

SEED = 9162
STRIDE = 16
ALL_LINES = frozenset({"header", "policy", "key", "checkpoint", "end"})
"""Lines that the others are checked against, or that are counted."""
UNNAMED = frozenset({"header", "lines", "key", "checkpoint", "consistency", "end"})
"""Lines that are about the whole file: a finding names what they vouch for."""


@dataclass(frozen=True, slots=True)
class Flip:
    """One byte that is another."""

    place: int
    number: int
    line: Line
    raw: bytes
    bundle: bytes


def flips(bundle: bytes, rng: random.Random) -> Iterator[Flip]:
    """Yields every byte of a bundle, line breaks among them, each as another byte."""
    start = 0
    for number, raw in enumerate(bundle.splitlines(keepends=True), 1):
        line = orjson.loads(raw)
        for at, byte in enumerate(raw):
            other = bytes([byte ^ 1 << rng.randrange(8)])
            flipped = raw[:at] + other + raw[at + 1 :]
            yield Flip(start + at, number, line, flipped, bundle[:start] + flipped + bundle[start + len(raw) :])
        start += len(raw)


def checker_of(bundle: bytes) -> LineChecker:
    """Returns what checks lines of a bundle, as the verifier makes it once it has read head and tail."""
    lines = [orjson.loads(raw) for raw in bundle.splitlines()]
    checkpoint = Checkpoint.parse(Note.parse(next(line["note"] for line in lines if line["type"] == "checkpoint")).text)
    policies = tuple(line for line in lines if line["type"] == "policy")
    checker = LineChecker(Context(lines[0]["tenant_id"], policies, checkpoint.size, checkpoint.root, tells=True))
    assert not checker.check(bundle).findings
    return checker


def names(flip: Flip, text: str) -> bool:
    """Says whether findings name the line that was changed, or what it belongs to."""
    own = {subject_of(flip.line), f"decision {flip.line.get('decision_id')}", f"line {flip.number}"}
    return flip.line["type"] in UNNAMED or any(subject in text for subject in own)


def test_there_is_no_byte_that_can_be_another_unseen(golden: bytes, check: Check) -> None:
    assert check(golden).holds
    checker = checker_of(golden)
    whole, alone, sealed = 0, 0, 0
    for flip in flips(golden, random.Random(SEED)):
        is_one_line = flip.raw.count(b"\n") == 1 and flip.raw.endswith(b"\n")
        if is_one_line and flip.line["type"] not in ALL_LINES:
            chunk = checker.check(flip.raw)
            if chunk.findings:
                alone += 1  # the finding is about this line, by its number if by nothing else
                continue
            if flip.line["type"] in SEALED:
                assert bytes(chunk.digests) == hashlib.sha256(flip.raw[:-1]).digest()
                sealed += 1
                if sealed % STRIDE:
                    continue
        whole += 1
        report = check(flip.bundle)
        assert not report.holds, f"byte {flip.place} of line {flip.number}: {flip.raw[:200]!r}"
        assert all(finding.code and finding.wrong for finding in report.findings)
        assert names(flip, said(report)), f"byte {flip.place} of line {flip.number}: {wrong(report)}"
    assert whole + alone + sealed - sealed // STRIDE == len(golden)
    assert min(whole, alone, sealed) > len(golden) // 20
