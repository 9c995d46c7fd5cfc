"""How fast decisions are verified offline: over what nobody can do without, by one core and by two."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import orjson

from bench.ledger.place import Customer, Server
from bench.report import Figure, Report
from holdfast.audit.content import Wanted
from holdfast.audit.export import LogBehind, export, log_of
from holdfast.database.engine import create_engine
from holdfast.tenancy.principals import Principal
from holdfast_verdict import Facts, Policy, decide
from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.canonical import canonical_bytes
from holdfast_verdict.log.note import VerifierKey
from holdfast_verdict.record import record_hash
from holdfast_verdict.verify.paths import Paths
from holdfast_verdict.verify.verifying import Request, verify

DECISIONS_MAX: Final = 12_000
_ENGINE: Final = "policy/1"
_OF_DECISIONS: Final = frozenset({"proof", "hold", "journal"})
"""Types of lines, beside its record, that are about one decision."""
_WAIT_S: Final = 10.0
_MARGIN: Final = timedelta(hours=1)

_SINCE: Final = """
    SELECT created_at FROM decisions WHERE tenant_id = $1 ORDER BY created_at DESC OFFSET $2 LIMIT 1
"""


async def export_to(path: Path, server: Server, customer: Customer) -> Path:
    """Exports the newest decisions of a tenant, as the API does, while its log is sequenced.

    Raises:
        LogBehind: Nothing was sequenced in time.
    """
    engine = create_engine(server.urls["holdfast_api"], process="bench-api", pool_size=2)
    now: datetime = await server.superuser.fetchval("SELECT clock_timestamp()")
    since = await server.superuser.fetchval(_SINCE, customer.tenant_id, DECISIONS_MAX) or now - _MARGIN
    wanted = Wanted(customer.tenant_id, None, since, now + _MARGIN)
    who = Principal(
        customer.tenant_id,
        "bench",
        customer.project_id,
        "bench",
        customer.user_id,
        "bench",
        UUID(int=0),
        frozenset({"auditor"}),
    )
    try:
        give_up = time.monotonic() + _WAIT_S
        while True:
            try:
                origin = await log_of(engine, customer.tenant_id, None)
                break
            except LogBehind:
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(0.1)
        with path.open("wb") as file:
            async for line in export(engine, who, wanted, origin):
                file.write(line)
    finally:
        await engine.dispose()
    return path


def trusted_keys(path: Path) -> tuple[VerifierKey, ...]:
    """Returns the keys of a bundle, which this benchmark trusts because it has made the log."""
    lines = map(orjson.loads, path.read_bytes().splitlines())
    return tuple(VerifierKey.parse(line["vkey"]) for line in lines if line["type"] == "key")


class _Floor:
    """What verifying a decision cannot do without: parsing its JSON, hashing its path, and one evaluation by the engine.

    Its JSON is all that the bundle has of the decision: its record with both parts, its proof, without which there is no path,
    its hold, without which nobody knows what became of it, and the entries of the journal that took and settled it. What is of
    no decision (caps, policies, the lists of digests) is not in it, and no form, digest, order or sum is looked at. What the
    evaluation reads, action and facts, are objects already. A step of a path that was hashed before is not hashed again.
    """

    def __init__(self, raw: bytes) -> None:
        self._lines: list[bytes] = []
        self._besides: list[bytes] = []
        proofs: dict[str, tuple[int, bytes]] = {}
        policies: dict[str, Policy] = {}
        size, root = 0, b""
        for line in raw.splitlines():
            read = orjson.loads(line)
            if read["type"] in _OF_DECISIONS and (read["type"] != "journal" or read["hold_id"] is not None):
                self._besides.append(line)
            match read["type"]:
                case "record":
                    self._lines.append(line)
                case "proof":
                    proofs[read["decision_id"]] = read["leaf_index"], _bytes(read["path"])
                case "policy" if read["engine"] == _ENGINE:
                    policies[read["policy_hash"]] = Policy.from_json(read["form"])
                case "checkpoint":
                    _, count, head, *_ = read["note"].splitlines()
                    size, root = int(count), _bytes(head)
        self._size, self._root = size, root
        self._beside = [self._prepared(orjson.loads(line), policies, proofs) for line in self._lines]

    @property
    def decisions(self) -> int:
        """How many there are."""
        return len(self._lines)

    def _prepared(
        self, record: dict[str, Any], policies: dict[str, Policy], proofs: dict[str, tuple[int, bytes]]
    ) -> tuple[tuple[int, bytes], Callable[[], object]]:  # Any: JSON
        a = orjson.loads(record["part_a"])
        proof = proofs[record["decision_id"]]
        if a.get("engine") != _ENGINE or a["refusal"] is not None:
            return proof, lambda: None  # a change of configuration: nothing is evaluated
        policy, facts, value = policies[a["policy_hash"]], Facts.from_json(a["facts"]), a["action"]
        name = value["tool"] if value["kind"] == "tool.call" else value["kind"]
        yields = {path: tuple(labels) for path, labels in a["boundary"]["yields"].items()}
        digest, external = bytes.fromhex(a["action_digest"]), a["boundary"]["external"]
        action = CanonicalAction(name, value["kind"], value, canonical_bytes(value), digest, external, yields)
        if (again := decide(policy, action, facts).code) != a["evaluated"]["code"]:
            raise AssertionError(f"the floor decides {again} where the record says {a['evaluated']}: it does less work")
        return proof, lambda: decide(policy, action, facts)

    def run(self) -> None:
        """Does it for each decision."""
        paths = Paths(self._size, self._root)
        for line, ((index, path), evaluated) in zip(self._lines, self._beside, strict=True):
            record = orjson.loads(line)
            a, b = record["part_a"].encode(), record["part_b"].encode()
            orjson.loads(a)
            orjson.loads(b)
            paths.check(record_hash(a, b), index, path)
            evaluated()
        for line in self._besides:
            orjson.loads(line)


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def _took_s(what: Callable[[], object], rounds: int) -> float:
    """Returns the best of some rounds: what disturbs only ever adds."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        what()
        taken.append(time.perf_counter() - began)
    return min(taken)


def measure_verifying(report: Report, path: Path, *, rounds: int) -> None:
    """Verifies a large bundle.

    Args:
        report: Gets the figures.
        path: The bundle.
        rounds: How often; the best counts.
    """
    raw = path.read_bytes()
    floor = _Floor(raw)
    keys = trusted_keys(path)
    found = verify(Request(path, keys, workers=1, tells=False))
    if found.bundle is not None:
        report.wrong.append("sums did not tell that the export holds: it was read line by line")
    if not found.holds:
        report.wrong += [f"the export does not hold: {each.subject}: {each.wrong}" for each in found.findings[:5]]
    ratios, one_core_s = [], []
    for _ in range(rounds):
        one = _took_s(lambda: verify(Request(path, keys, workers=1, tells=False)), 1)
        ratios.append(one / _took_s(floor.run, 1))
        one_core_s.append(one)
    two_s = _took_s(lambda: verify(Request(path, keys, workers=2, tells=False)), rounds)
    best = min(one_core_s)
    report.figures["verify_over_floor"] = Figure(statistics.median(ratios), "×", ("<=", 1.5))
    report.figures["verify_per_s_core"] = Figure(floor.decisions / best, "decisions/s")
    report.figures["verify_2core_over_1"] = Figure(best / two_s, "×", (">=", 1.7))
    report.figures["export_bytes_per_decision"] = Figure(round(len(raw) / floor.decisions), "bytes")
    report.figures["exported_decisions"] = Figure(floor.decisions, "decisions")
    report.notes.append(
        "the floor parses all JSON that is of a decision (its record and both parts, its proof, its hold, its entries of the journal), "
        "hashes its path with what was walked before, and evaluates facts that are read already; verifying checks every line's form, "
        "digest and order, the seal, and that holds, journal and balances add up besides"
    )
    report.notes.append(f"the export: sha256 {hashlib.sha256(raw).hexdigest()[:16]}, {len(raw):,} bytes")
