"""Rehearsing over an exported bundle, on a machine that never saw the server. Whether the bundle holds, `verify` says."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from holdfast_verdict.engine.deciding import ENGINE_VERSION
from holdfast_verdict.policy import Policy
from holdfast_verdict.problems import PolicyRefused
from holdfast_verdict.rehearse.lanes import Lanes, Rehearsal
from holdfast_verdict.rehearse.recorded import Became, Recorded, outcome_of
from holdfast_verdict.rehearse.rehearsing import Clocks
from holdfast_verdict.rehearse.tally import Tally
from holdfast_verdict.verify.lines import FORMAT, VERSION

_VOID: Final = ("voided", "expired")
_AT_ONCE: Final = 1_000

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
    with path.open("rb") as file:
        try:
            source = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise BundleUnreadable("the file is empty") from None
        with source:
            try:
                return _Bundle(source).rehearse(candidate, clocks, workers, say)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                if isinstance(error, BundleUnreadable):
                    raise
                raise BundleUnreadable(f"something in it is not of its form ({type(error).__name__})") from None


class _Bundle:
    """A bundle: read once for what frames its records, and once for the records."""

    def __init__(self, source: mmap.mmap) -> None:
        self._source = source
        self.header: dict[str, Any] = {}  # Any: JSON
        self.deciders: list[Any] = []
        self.records = 0
        self._became: dict[str, Became] = {}
        newest: dict[tuple[str, int], int] = {}
        holds: list[dict[str, Any]] = []
        for raw in self._lines():
            if b'"type":"record"' in raw:
                self.records += 1
                continue
            if not any(kind in raw for kind in (b'"type":"header"', b'"type":"policy"', b'"type":"hold"')):
                continue
            line = orjson.loads(raw)
            match line.get("type"):
                case "header":
                    self.header = line
                case "policy" if line["engine"] == ENGINE_VERSION:
                    self._policy(line)
                case "hold" if not line["superseded"]:
                    key = line["run_id"], line["step"]
                    newest[key] = max(newest.get(key, 0), line["try"])
                    holds.append(line)
        if self.header.get("format") != FORMAT or self.header.get("v") != VERSION:
            raise BundleUnreadable("it is no audit bundle of a version that is known here")
        for line in holds:
            self._became[line["decision_id"]] = _became(line, newest[line["run_id"], line["step"]])

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

    def rehearse(self, candidate: Policy, clocks: Clocks | None, workers: int, say: Say | None) -> Tally:
        scope = self.header["scope"]
        rehearsal = Rehearsal(
            candidate.to_json(),  # type: ignore[arg-type]  # plain JSON, typed more widely there
            tuple(self.deciders),
            clocks,
            scope["from_ms"] if scope["run_id"] is None else None,
            workers,
        )
        principal = (("tenant", str(self.header["tenant"])),)
        some: list[Recorded] = []
        done = 0
        with Lanes(rehearsal) as lanes:
            for raw in self._lines():
                if b'"type":"record"' not in raw:
                    continue
                some.append(self._record(orjson.loads(raw), principal))
                if len(some) == _AT_ONCE:
                    lanes.take(some)
                    done += len(some)
                    some = []
                    if say is not None:
                        say(done, self.records)
            lanes.take(some)
            return lanes.finish()

    def _record(self, line: dict[str, Any], principal: tuple[tuple[str, str], ...]) -> Recorded:
        return Recorded(
            line["decision_id"],
            line["kind"],
            line["run_id"] or "",
            line["created_at_ms"],
            orjson.loads(line["part_b"])["verdict"],
            line["part_a"],
            line["superseded_at_ms"] is not None,
            self._became.get(line["decision_id"]),
            principal,
        )


def _became(line: dict[str, Any], newest: int) -> Became:
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
        void and line["try"] < newest,
        None if cost is None else int(cost),
    )
