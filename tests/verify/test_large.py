"""A large bundle that does not hold is compared in memory that does not grow with it, and what is wrong is named all the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest

from holdfast_verdict.verify import reading, spilling, verifying
from holdfast_verdict.verify.lines import Line, write
from holdfast_verdict.verify.verifying import Request, verify
from tests.verify.checking import wrong
from tests.verify.record_golden import golden_file
from tests.verify.sealing import TestLog, content_of

SMALL, LARGE = 150, 1_200
GROWN_MAX = 1.5
"""By so much more memory a bundle of eight times as many decisions may take."""

_PEAK = """
import sys, tracemalloc
from pathlib import Path
from holdfast_verdict.verify import paths, reading, spilling, verifying
paths._WALKED_MAX = 100  # all bounds are small, so that a bundle which takes little time reaches them
verifying._HELD_BYTES, reading.BLOCK_BYTES, spilling._PART_BYTES, spilling._BUFFERED = 0, 100_000, 200_000, 100
if len(sys.argv) > 2:
    verifying._HELD_BYTES = 1 << 40
tracemalloc.start()
report = verifying.verify(verifying.Request(Path(sys.argv[1]), workers=1))
print(tracemalloc.get_traced_memory()[1], [finding.subject for finding in report.findings])
"""


def copies(count: int) -> Iterator[Line]:
    """A run's lines, in which one allow with its hold and its journal is there many times, each time of another id."""
    content: list[dict[str, Any]] = [dict(line) for line in content_of(golden_file("policy/1", "run").read_bytes())]
    entries = [
        line for line in content if line["type"] == "journal" and line["reason"] == "llm.call" and line["hold_id"]
    ]
    hold_id = entries[0]["hold_id"]
    hold = next(line for line in content if line["type"] == "hold" and line["hold_id"] == hold_id)
    record = next(line for line in content if line.get("decision_id") == hold["decision_id"])
    own = [line for line in content if line["type"] == "journal" and line["hold_id"] == hold_id]

    def again(line: dict[str, Any], number: int) -> dict[str, Any]:
        text = write(line).replace(hold_id.encode(), str(UUID(int=(7 << 100) + number)).encode())
        text = text.replace(hold["decision_id"].encode(), str(UUID(int=(8 << 100) + number)).encode())
        renamed: dict[str, Any] = orjson.loads(text)
        return renamed

    for kind in ("header", "policy"):
        yield from (line for line in content if line["type"] == kind)
    yield from (again(record, number) for number in range(count))
    yield from (again(hold, number) for number in range(count))
    yield from ({**line, "opening": None, "closing": None} for line in content if line["type"] == "cap")
    for number in range(count):
        for place, line in enumerate(own):
            yield {**again(line, number), "entry_id": 1 + number * len(own) + place}


def forged(folder: Path, count: int) -> tuple[Path, str]:
    """A bundle in which one decision in the middle took other amounts than its hold has; returns whose."""
    content, found = [], ""
    for line in copies(count):
        if line["type"] == "hold" and line["hold_id"] == str(UUID(int=(7 << 100) + count // 2)):
            legs: Any = line["legs"]
            legs[0]["amount"] = str(int(legs[0]["amount"]) + 1)
            found = str(line["decision_id"])
        content.append(line)
    path = folder / f"{count}.jsonl"
    # of its tree nothing is asked here but that it is one
    path.write_bytes(TestLog(str(content[0]["origin"])).bundle(content))
    return path, found


def peak(path: Path, *held: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", _PEAK, str(path), *held], capture_output=True, text=True, check=True)
    bytes_, _, subjects = done.stdout.partition(" ")
    return int(bytes_), subjects


def test_memory_does_not_grow_with_a_bundle_that_does_not_hold(tmp_path: Path) -> None:
    small, of_small = forged(tmp_path, SMALL)
    large, of_large = forged(tmp_path, LARGE)
    (first, named), (second, named_large) = peak(small), peak(large)
    assert f"decision {of_small}" in named
    assert f"decision {of_large}" in named_large
    assert second < GROWN_MAX * first
    assert peak(large, "held")[0] > 2 * second, "held in memory it takes far more, so this test can fail"


def test_so_much_that_is_wrong_is_named_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = forged(tmp_path, 60)
    monkeypatch.setattr(verifying, "_HELD_BYTES", 0)
    monkeypatch.setattr(reading, "BLOCK_BYTES", 20_000)
    for module in (verifying, spilling):
        monkeypatch.setattr(module, "FINDINGS_MAX", 5)
    path.write_bytes(path.read_bytes().replace(b"llm.call", b"llm.cull"))
    report = verify(Request(path, workers=1))
    assert len(report.findings) == 6
    assert "was not looked at" in report.findings[-1].wrong
    assert report.bundle is None


def test_lines_that_were_changed_are_named_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = forged(tmp_path, 60)
    lines = path.read_bytes().splitlines(keepends=True)
    places = [place for place, line in enumerate(lines) if b'"type":"hold"' in line]
    for place in places:
        lines[place] = lines[place].replace(b'"settled_by":"', b'"settled_by":"x')
    path.write_bytes(b"".join(lines))
    held = verify(Request(path, workers=1))
    monkeypatch.setattr(verifying, "_HELD_BYTES", 0)
    report = verify(Request(path, workers=1))
    assert sorted(wrong(report)) == sorted(wrong(held))
    assert f"{2 * len(places) - 20} more lines are not as they were" in {finding.wrong for finding in report.findings}
