"""How fast recorded decisions are rehearsed: over parsing their JSON and one evaluation, by one core and by two."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from bench.report import Figure, Report
from holdfast_verdict import Facts, Policy, decide
from holdfast_verdict.rehearse.bundle import rehearse_bundle
from holdfast_verdict.rehearse.recorded import Decided, Recorded, read

_ENGINE: Final = "policy/1"


class _Floor:
    """What rehearsing a decision cannot do without: parsing its JSON, and one evaluation of facts that are read already."""

    def __init__(self, raw: bytes, candidate: Policy) -> None:
        self._lines = [line for line in raw.splitlines() if b'"type":"record"' in line]
        self._asked = [self._prepared(orjson.loads(line), candidate) for line in self._lines]
        self.decisions = sum(each is not None for each in self._asked)

    @staticmethod
    def _prepared(line: dict[str, Any], candidate: Policy) -> Callable[[], object] | None:  # Any: JSON
        record = Recorded(line["decision_id"], line["kind"], line["run_id"] or "", 0, "allow", line["part_a"])
        decided = read(record)
        if not isinstance(decided, Decided):
            return None
        action, facts = decided.action, Facts.from_json(decided.part_a["facts"])
        return lambda: decide(candidate, action, facts)

    def run(self) -> None:
        """Does it for each decision."""
        for line, asked in zip(self._lines, self._asked, strict=True):
            record = orjson.loads(line)
            orjson.loads(record["part_a"])
            orjson.loads(record["part_b"])
            if asked is not None:
                asked()


def _took_s(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def measure_rehearsing(report: Report, path: Path, *, rounds: int) -> None:
    """Rehearses the policy that decided over a large bundle.

    Args:
        report: Gets the figures.
        path: The bundle.
        rounds: How often; the best counts.
    """
    raw = path.read_bytes()
    forms = [orjson.loads(line) for line in raw.splitlines() if b'"type":"policy"' in line]
    candidate = Policy.from_json([form["form"] for form in forms if form["engine"] == _ENGINE][-1])
    floor = _Floor(raw, candidate)
    found = rehearse_bundle(path, candidate, workers=1)
    if found.decisions != floor.decisions:
        report.wrong.append(f"{found.decisions} decisions were rehearsed, and there are {floor.decisions}")
    ratios, one_core_s = [], []
    for _ in range(rounds):
        one = _took_s(lambda: rehearse_bundle(path, candidate, workers=1))
        ratios.append(one / _took_s(floor.run))
        one_core_s.append(one)
    two_s = min(_took_s(lambda: rehearse_bundle(path, candidate, workers=2)) for _ in range(rounds))
    best = min(one_core_s)
    report.figures["rehearse_over_floor"] = Figure(statistics.median(ratios), "×", ("<=", 2))
    report.figures["rehearse_per_s_core"] = Figure(floor.decisions / best, "decisions/s")
    report.figures["rehearse_2core_over_1"] = Figure(best / two_s, "×")
    report.notes.append(
        "rehearsing looks the file through for where lines stand, reads the holds besides the records, and asks the policy that "
        "decided; each process of several looks a share through, and reads the lines of its own runs; the floor parses a decision's "
        "line and both parts, and evaluates facts that are read already"
    )
