"""Rehearsing over an exported bundle, on a machine that never saw the server. Whether the bundle holds, `verify` says."""

from __future__ import annotations

import heapq
import mmap
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from holdfast_verdict import sealing
from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.engine.deciding import ENGINE_VERSION
from holdfast_verdict.policy import Policy
from holdfast_verdict.problems import PolicyRefused
from holdfast_verdict.rehearse.asking import asks_of
from holdfast_verdict.rehearse.lanes import Rehearsal
from holdfast_verdict.rehearse.recorded import Became, Recorded, outcome_of
from holdfast_verdict.rehearse.rehearsing import Clocks
from holdfast_verdict.rehearse.tally import Tally
from holdfast_verdict.verify.lines import FORMAT, VERSION
from holdfast_verdict.verify.workers import cores, start_method

_VOID: Final = ("voided", "expired")
_AT_ONCE: Final = 1_000
_SAID_S: Final = 0.5
_RECORDS: Final = (b'"type":"record"', b'"type":"sealed"')
_HOLD: Final = b'"type":"hold"'
_HEAD: Final = (b'"type":"header"', b'"type":"policy"')
_RUN: Final = b'"run_id":"'
_TYPE_BYTES: Final = 80
"""In these last bytes of a line stands its type: members are sorted, and few come behind it."""
_VERDICT: Final = re.compile(r'.*,"verdict":"([a-z_]+)"\}').fullmatch
_VERDICT_CHARS: Final = 40

Say = Callable[[int, int], None]
"""Gets records done and records in all."""


class BundleUnreadable(ValueError):
    """A file is no bundle, or its records cannot be read."""


def rehearse_bundle(
    path: Path, candidate: Policy, *, clocks: Clocks | None = None, workers: int = 0, say: Say | None = None
) -> Tally:
    """Rehearses a candidate over the records of a bundle.

    Args:
        path: The bundle.
        candidate: The candidate.
        clocks: What clocks say.
        workers: How many processes; 0 = one per core.
        say: Gets the progress.

    Raises:
        OSError: The file cannot be read.
        BundleUnreadable: It is no bundle.
    """
    rehearsed = _Rehearsed(path, candidate.to_json(), clocks)  # type: ignore[arg-type]  # plain JSON, typed more widely there
    processes = 1 if asks_of(candidate).wide else cores(workers)
    with _opened(path) as source:
        lanes = _lanes(_runs(source), processes) if processes > 1 else []
        if len(lanes) < 2:  # noqa: PLR2004 (one is this process)
            return _Bundle(source, None).rehearse(rehearsed, say)
    return _apart(rehearsed, lanes, say)


@dataclass(frozen=True, slots=True)
class _Rehearsed:
    """What is rehearsed: the file, the candidate's compiled form, and what clocks say."""

    path: Path
    candidate: JsonValue
    clocks: Clocks | None


@contextmanager
def _opened(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file:
        try:
            source = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise BundleUnreadable("the file is empty") from None
        with source:
            try:
                yield source
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                if isinstance(error, BundleUnreadable):
                    raise
                raise BundleUnreadable(f"something in it is not of its form ({type(error).__name__})") from None


def _is_record(end: bytes) -> bool:
    return any(kind in end for kind in _RECORDS)


def _part_a(line: dict[str, Any]) -> bytes | str:  # Any: JSON
    if line["type"] == "record" or line["salt"] is None:
        return str(line["part_a"])
    whole = sealing.opened(orjson.loads(line["part_a"]), bytes.fromhex(line["salt"]), line["opened"])
    return orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)


def _run_of(raw: bytes) -> bytes:
    """Returns the run that a line names, without reading all of it; empty if it names none."""
    place = raw.rfind(_RUN) + len(_RUN)
    return raw[place : raw.find(b'"', place)] if place >= len(_RUN) else b""


def _runs(source: mmap.mmap) -> Counter[bytes]:
    """Counts the records of each run."""
    source.seek(0)
    return Counter(_run_of(raw) for raw in iter(source.readline, b"") if _is_record(raw[-_TYPE_BYTES:]))


def _lanes(runs: Counter[bytes], count: int) -> list[tuple[frozenset[bytes], int]]:
    """Shares runs out so that each lane has about as many records: the runs, and how many records they have."""
    lanes: list[tuple[int, int, set[bytes]]] = [(0, number, set()) for number in range(count)]
    for run, records in runs.most_common():
        taken, number, own = heapq.heappop(lanes)
        own.add(run)
        heapq.heappush(lanes, (taken + records, number, own))
    return [(frozenset(own), taken) for taken, _, own in lanes if own]


def _apart(rehearsed: _Rehearsed, lanes: list[tuple[frozenset[bytes], int]], say: Say | None) -> Tally:
    """Rehearses in a process for each lane; each reads the file itself, and sends back what it has found."""
    context, whole = start_method(), Tally()
    done = context.RawArray("Q", len(lanes))
    total = sum(records for _, records in lanes)
    with ProcessPoolExecutor(len(lanes), context, _begin, (done,)) as pool:
        running = {pool.submit(_lane, rehearsed, runs, number) for number, (runs, _) in enumerate(lanes)}
        tallies = list(running)
        while running:
            finished, running = wait(running, timeout=_SAID_S, return_when=FIRST_EXCEPTION)
            if say is not None:
                say(sum(done), total)
            if any(each.exception() is not None for each in finished):
                break
        for each in tallies:
            whole.merge(each.result())
    return whole


_DONE: list[Any] = []  # Any: an array shared between processes


def _begin(done: object) -> None:
    _DONE.append(done)


def _lane(rehearsed: _Rehearsed, runs: frozenset[bytes], number: int) -> Tally:
    def say(records: int, _: int) -> None:
        _DONE[0][number] = records

    with _opened(rehearsed.path) as source:
        return _Bundle(source, runs).rehearse(rehearsed, say)


class _Bundle:
    """A bundle: read once for what frames its records, and once for the records.

    Args:
        source: The file.
        runs: The runs whose records are rehearsed; `None` = all.
    """

    def __init__(self, source: mmap.mmap, runs: frozenset[bytes] | None) -> None:
        self._source = source
        self._runs = runs
        self.header: dict[str, Any] = {}  # Any: JSON
        self.deciders: list[Any] = []
        self.records = 0
        self._became: dict[str, Became] = {}
        newest: dict[tuple[str, int], int] = {}
        void: list[tuple[str, tuple[str, int], int]] = []
        for raw in self._lines():
            end = raw[-_TYPE_BYTES:]
            if _is_record(end):
                self.records += runs is None or _run_of(raw) in runs
                continue
            if _HOLD in end:
                if runs is not None and _run_of(raw) not in runs:
                    continue
            elif not any(kind in end for kind in _HEAD):
                continue
            line = orjson.loads(raw)
            match line.get("type"):
                case "header":
                    self.header = line
                case "policy" if line["engine"] == ENGINE_VERSION:
                    self._policy(line)
                case "hold" if not line["superseded"]:
                    key = line["run_id"], line["step"]
                    if line["try"] > 1:
                        newest[key] = max(newest.get(key, 1), line["try"])
                    self._became[line["decision_id"]] = _became(line)
                    if line["state"] in _VOID:
                        void.append((line["decision_id"], key, line["try"]))
        if self.header.get("format") != FORMAT or self.header.get("v") != VERSION:
            raise BundleUnreadable("it is no audit bundle of a version that is known here")
        for decision_id, key, tried in void:
            if tried < newest.get(key, 1):
                self._became[decision_id] = self._became[decision_id]._replace(retried=True)

    def _policy(self, line: dict[str, Any]) -> None:
        try:
            policy = Policy.from_json(line["form"])
        except PolicyRefused:
            return  # of what it recorded nothing is taken for the candidate's own
        if policy.policy_hash.hex() == line["policy_hash"]:
            self.deciders.append(line["form"])

    def _lines(self) -> Iterator[bytes]:
        self._source.seek(0)
        return iter(self._source.readline, b"")

    def rehearse(self, rehearsed: _Rehearsed, say: Say | None) -> Tally:
        scope = self.header["scope"]
        rehearsal = Rehearsal(
            rehearsed.candidate,
            tuple(self.deciders),
            rehearsed.clocks,
            scope["from_ms"] if scope["run_id"] is None else None,
        )
        principal = (("tenant", str(self.header["tenant"])),)
        rehearser, runs, done = rehearsal.rehearser(), self._runs, 0
        for raw in self._lines():
            if not _is_record(raw[-_TYPE_BYTES:]) or (runs is not None and _run_of(raw) not in runs):
                continue
            rehearser.take(self._record(orjson.loads(raw), principal))
            done += 1
            if say is not None and done % _AT_ONCE == 0:
                say(done, self.records)
        if say is not None:
            say(done, self.records)
        return rehearser.tally

    def _record(self, line: dict[str, Any], principal: tuple[tuple[str, str], ...]) -> Recorded:
        return Recorded(
            line["decision_id"],
            line["kind"],
            line["run_id"] or "",
            line["created_at_ms"],
            _verdict(line["part_b"]),
            _part_a(line),
            line["superseded_at_ms"] is not None,
            self._became.get(line["decision_id"]),
            principal,
        )


def _verdict(part_b: str) -> str:
    """Returns the verdict of a part B; it is the last of its members, if it is canonical."""
    found = _VERDICT(part_b[-_VERDICT_CHARS:])
    return found[1] if found is not None else str(orjson.loads(part_b)["verdict"])


def _became(line: dict[str, Any]) -> Became:  # Any: JSON
    """Returns what became of a hold's action; whether it was tried again, the other holds of its step say."""
    outcome = line["outcome"]
    void, went_out = line["state"] in _VOID, line["outward_at_ms"] is not None
    told = outcome_of(
        line["state"],
        line["settled_by"],
        answered=outcome is not None,
        ok=outcome is not None and outcome["ok"],
        went_out=went_out,
    )
    cost = line["cost_nano_usd"]
    return Became(
        told,
        line["settled_at_ms"] or line["unknown_at_ms"] or line["created_at_ms"],
        void and outcome is None and not went_out,
        cost_nano_usd=None if cost is None else int(cost),
    )
