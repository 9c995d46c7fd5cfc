"""Forgeries of a bundle, each of which has to be found: bits turned, lines dropped, doubled, swapped and moved."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.audit.verifying import trusted_keys
from bench.report import Figure, Report
from holdfast_verdict.verify.verifying import Request, verify

SEED: Final = 9162
_BITS: Final = 8


def forgeries(raw: bytes, flips: int) -> Iterator[tuple[str, bytes]]:
    """Yields forged bundles with what was done to them.

    Args:
        raw: A bundle that holds.
        flips: How many bits are turned, one at a time, spread evenly over all bytes.
    """
    chance = random.Random(SEED)  # noqa: S311 (a choice that is to be the same again)
    lines = raw.splitlines(keepends=True)
    for number, line in enumerate(lines):
        before, after = b"".join(lines[:number]), b"".join(lines[number + 1 :])
        yield f"line {number + 1} dropped", before + after
        yield f"line {number + 1} doubled", before + line + line + after
        if number + 1 < len(lines) and lines[number + 1] != line:
            following = lines[number + 1]
            yield f"line {number + 1} swapped with the next", before + following + line + b"".join(lines[number + 2 :])
        other = chance.randrange(len(lines))
        if lines[other] != line:
            yield f"line {number + 1} written over by line {other + 1}", before + lines[other] + after
        yield f"all behind line {number + 1} cut off", before + line if after else before
    count = min(flips, len(raw))
    for turn in range(count):
        place, bit = turn * len(raw) // count, chance.randrange(_BITS)
        yield f"bit {bit} of byte {place} turned", raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :]


def measure_forging(report: Report, path: Path, *, flips: int) -> None:
    """Forges a small bundle in every way that is known here, and counts what is missed.

    Args:
        report: Gets the figures; what is missed is wrong.
        path: A bundle.
        flips: How many bits are turned.
    """
    raw, keys = path.read_bytes(), trusted_keys(path)
    if not verify(Request(path, keys, workers=1)).holds:
        report.wrong.append("the bundle that is to be forged does not hold as it is")
    forged, tried, missed = path.with_suffix(".forged"), 0, 0
    for what, content in forgeries(raw, flips):
        tried += 1
        forged.write_bytes(content)
        for tells in (False, True):  # by sums, and line by line
            if verify(Request(forged, keys, workers=1, tells=tells)).holds:
                missed += 1
                report.wrong.append(f"a forgery holds: {what}")
                break
    report.figures["mutations_tried"] = Figure(tried, "forgeries")
    report.figures["mutations_missed"] = Figure(missed, "forgeries", ("<=", 0))
    report.notes.append(f"forged is a bundle of {len(raw):,} bytes in {len(raw.splitlines())} lines, with keys given")
