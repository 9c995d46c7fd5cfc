"""Rehearsing over an exported bundle, on a machine that never saw the server. Whether the bundle holds, `verify` says."""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
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
from holdfast_verdict.rehearse.places import (
    BundleUnreadable,
    Lane,
    Places,
    Share,
    lanes_of,
    line_at,
    opened,
    places_in,
    share_out,
)
from holdfast_verdict.rehearse.recorded import Became, Recorded, outcome_of
from holdfast_verdict.rehearse.rehearsing import Clocks
from holdfast_verdict.rehearse.tally import Tally
from holdfast_verdict.verify.lines import FORMAT, VERSION
from holdfast_verdict.verify.outcomes import BUDGET
from holdfast_verdict.verify.workers import cores, start_method

_VOID: Final = ("voided", "expired")
_AT_ONCE: Final = 1_000
_SAID_S: Final = 0.5
_VERDICT: Final = re.compile(r'.*,"verdict":"([a-z_]+)"\}').fullmatch
_VERDICT_CHARS: Final = 40

Say = Callable[[int, int], None]
"""Gets records done and records in all."""


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
    with opened(path) as source:
        shares = share_out(source, processes)
        if len(shares) < 2:  # noqa: PLR2004 (one is this process)
            [lane] = lanes_of([places_in(source, (0, len(source)), alone=True)], 1)
            return _Bundle(source, lane).rehearse(rehearsed, say)
    return _apart(rehearsed, shares, say)


@dataclass(frozen=True, slots=True)
class _Rehearsed:
    """What is rehearsed: the file, the candidate's compiled form, and what clocks say."""

    path: Path
    candidate: JsonValue
    clocks: Clocks | None


def _part_a(line: dict[str, Any]) -> bytes | str:  # Any: JSON
    if line["type"] == "deleted":
        return b""
    if line["type"] == "record" or line["salt"] is None:
        return str(line["part_a"])
    whole = sealing.opened(orjson.loads(line["part_a"]), bytes.fromhex(line["salt"]), line["opened"])
    return orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)


def _apart(rehearsed: _Rehearsed, shares: list[Share], say: Say | None) -> Tally:
    """Rehearses in several processes.

    First each looks through a share of the file for where lines stand; then each reads the lines of its own runs, wherever they are,
    and sends back what it has found. So no record is read by two, and none by this process.
    """
    context, whole = start_method(), Tally()
    done = context.RawArray("Q", len(shares))
    with ProcessPoolExecutor(len(shares), context, _begin, (done,)) as pool:
        places = [each.result() for each in [pool.submit(_look_through, rehearsed.path, share) for share in shares]]
        lanes = lanes_of(places, len(shares))
        total = sum(len(lane.records) for lane in lanes)
        running = {pool.submit(_lane, rehearsed, lane, number) for number, lane in enumerate(lanes)}
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


def _look_through(path: Path, share: Share) -> Places:
    with opened(path) as source:
        return places_in(source, share)


def _lane(rehearsed: _Rehearsed, lane: Lane, number: int) -> Tally:
    def say(records: int, _: int) -> None:
        _DONE[0][number] = records

    with opened(rehearsed.path) as source:
        return _Bundle(source, lane).rehearse(rehearsed, say)


class _Bundle:
    """A bundle: what frames its records, what became of them, and where they stand.

    Args:
        source: The file.
        lane: The lines that are rehearsed.
    """

    def __init__(self, source: mmap.mmap, lane: Lane) -> None:
        self._source = source
        self._lane = lane
        self.header: dict[str, Any] = {}  # Any: JSON
        self.deciders: list[Any] = []
        self._became: dict[str, Became] = {}
        for line in self._lines(lane.heads):
            if line["type"] == "header":
                self.header = line
            elif line["engine"] == ENGINE_VERSION:
                self._policy(line)
        if self.header.get("format") != FORMAT or self.header.get("v") != VERSION:
            raise BundleUnreadable("it is no audit bundle of a version that is known here")
        self._read_holds()

    def _read_holds(self) -> None:
        newest: dict[tuple[str, int], int] = {}
        void: list[tuple[str, tuple[str, int], int]] = []
        for line in self._lines(self._lane.holds):
            if line["superseded"] or line["kind"] == BUDGET:
                continue  # a budget is no action, and nothing is done by it
            key = line["run_id"], line["step"]
            if line["try"] > 1:
                newest[key] = max(newest.get(key, 1), line["try"])
            self._became[line["decision_id"]] = _became(line)
            if line["state"] in _VOID:
                void.append((line["decision_id"], key, line["try"]))
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

    def _lines(self, places: Sequence[int]) -> Iterator[Any]:  # Any: JSON
        for place in places:
            yield orjson.loads(line_at(self._source, place))

    def rehearse(self, rehearsed: _Rehearsed, say: Say | None) -> Tally:
        scope = self.header["scope"]
        rehearsal = Rehearsal(
            rehearsed.candidate,
            tuple(self.deciders),
            rehearsed.clocks,
            scope["from_ms"] if scope["run_id"] is None else None,
        )
        principal = (("tenant", str(self.header["tenant"])),)
        rehearser, records = rehearsal.rehearser(), self._lane.records
        for done, line in enumerate(self._lines(records)):
            rehearser.take(self._record(line, principal))
            if say is not None and done % _AT_ONCE == 0:
                say(done, len(records))
        if say is not None:
            say(len(records), len(records))
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
