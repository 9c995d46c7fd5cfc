"""Whatever is changed in a bundle is found, and what was changed is named: flips, and lines that go, come, move or are there twice."""

from __future__ import annotations

import random
from collections.abc import Callable

import orjson
import pytest

from holdfast_verdict.verify.lines import RECORDS, Line, subject_of, write
from tests.verify.checking import Check, said, wrong
from tests.verify.record_golden import FOLDER

FLIPS = 350


@pytest.fixture(scope="module", params=["rules-2-run", "policy-1-run", "policy-1-sealed", "policy-1-erased"])
def golden(request: pytest.FixtureRequest) -> bytes:
    """Bundles with records whole, with sealed values, with erased ones, and without their part A."""
    return (FOLDER / f"{request.param}.jsonl").read_bytes()


def subjects(line: Line) -> set[str]:
    """How a finding may name a line, or what it belongs to."""
    named = {subject_of(line)}
    if line["type"] in (*RECORDS, "proof", "seal"):
        named |= {f"decision {line['decision_id']}", f"decision {line['decision_id']} (the export)"}
    return named


def named(report_text: str, number: int, line: Line) -> bool:
    return any(subject in report_text for subject in subjects(line)) or f" line {number}" in report_text


def test_every_flipped_bit_is_found_and_its_line_named(golden: bytes, check: Check) -> None:
    rng = random.Random(7)
    starts = [0, *(place + 1 for place, byte in enumerate(golden) if byte == 10)]
    lines = golden.splitlines()
    # of every line the same number of places, and not only of those that are long
    for number, raw in enumerate(lines, 1):
        line = orjson.loads(raw)
        for _ in range(-(-FLIPS // len(lines))):
            place = starts[number - 1] + rng.randrange(len(raw) + 1)
            flipped = bytearray(golden)
            flipped[place] ^= 1 << rng.randrange(8)
            report = check(bytes(flipped))
            assert not report.holds, f"bit of byte {place} in line {number}: {raw[:80]!r}"
            if line["type"] not in ("header", "lines", "key", "checkpoint", "consistency", "end"):
                assert named(said(report), number, line), f"line {number}: {said(report)}"


def dropped(lines: list[bytes], place: int) -> list[bytes]:
    return [*lines[:place], *lines[place + 1 :]]


def doubled(lines: list[bytes], place: int) -> list[bytes]:
    return [*lines[: place + 1], *lines[place:]]


def moved(lines: list[bytes], place: int) -> list[bytes]:
    others = dropped(lines, place)
    return [*others[: place + 1], lines[place], *others[place + 1 :]]


def counted(lines: list[bytes]) -> bytes:
    """Writes lines with an end that counts them rightly, as whoever changes a file would."""
    if lines and b'"type":"end"' in lines[-1]:
        lines = [*lines[:-1], write({"type": "end", "lines": len(lines)})]
    return b"".join(line + b"\n" for line in lines)


@pytest.mark.parametrize("change", [dropped, doubled, moved])
def test_each_line_that_is_dropped_doubled_or_moved_is_found(
    golden: bytes, check: Check, change: Callable[[list[bytes], int], list[bytes]]
) -> None:
    lines = golden.splitlines()
    for place in range(len(lines) - (change is moved)):
        line = orjson.loads(lines[place])
        after = orjson.loads(lines[place + 1]) if place + 1 < len(lines) else {}
        report = check(counted(change(lines, place)))
        assert not report.holds, f"{change.__name__} line {place + 1}: {lines[place][:80]!r}"
        if line["type"] in RECORDS:
            text = said(report)
            assert named(text, place + 1, line) or named(text, place + 2, after), text


def test_a_record_that_is_dropped_with_all_that_belongs_to_it_is_found(golden: bytes, check: Check) -> None:
    lines = [orjson.loads(raw) for raw in golden.splitlines()]
    for record in [line for line in lines if line["type"] in RECORDS]:
        left = [line for line in lines if line.get("decision_id") != record["decision_id"]]
        report = check(counted([write(line) for line in left]))
        place = lines.index(record) + 1
        assert ("audit.line", f"line {place} of the export") in wrong(report)


def test_a_file_that_is_cut_off_anywhere_is_found(golden: bytes, check: Check) -> None:
    rng = random.Random(11)
    places = [place + 1 for place, byte in enumerate(golden) if byte == 10][:-1]
    for place in [0, len(golden) - 1, *places, *(rng.randrange(len(golden)) for _ in range(50))]:
        assert not check(golden[:place]).holds, place


def test_nothing_can_stand_behind_the_end(golden: bytes, check: Check) -> None:
    for more in (b"\n", b"{}\n", b" ", golden.splitlines(keepends=True)[-1], golden):
        assert not check(golden + more).holds, more


def test_several_processes_find_what_one_finds(golden: bytes, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast_verdict.verify.reading.BLOCK_BYTES", 5_000)
    monkeypatch.setattr("holdfast_verdict.verify.verifying._SHARE_BYTES", 5_000)
    flipped = golden.replace(b"payments.refund", b"payments.refand", 3).replace(b"crm.note", b"crm.nota", 3)
    for bundle in (golden, flipped, golden[:-100]):
        one, two = check(bundle, workers=1), check(bundle, workers=2)
        assert wrong(one) == wrong(two)
        assert one.to_json() == two.to_json()
