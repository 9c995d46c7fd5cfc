"""Runs in memory, decided by one policy and kept as records, to be rehearsed by another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import orjson

from holdfast_verdict import Catalogue, Policy, Session, compile_policy, sealing
from holdfast_verdict.canonical import canonical_bytes
from holdfast_verdict.engine.history import EventKind
from holdfast_verdict.record import policy_part_a
from holdfast_verdict.rehearse.recorded import ADMISSION, Became, Recorded
from holdfast_verdict.rehearse.rehearsing import Rehearser
from holdfast_verdict.rehearse.tally import Tally

_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "number"}
CATALOGUE: Final = Catalogue.of(
    {
        name: {"parameters": {"type": "object", "properties": properties}}
        for name, properties in (
            ("notify", {"invoice": _TEXT}),
            ("refund", {"invoice": _TEXT, "amount": _NUMBER}),
            ("send", {"to": _TEXT}),
            ("fetch", {"url": _TEXT}),
        )
    }
)
BEGIN_MS: Final = 1_764_000_000_000
SECOND: Final = 1_000


def policy(text: str) -> Policy:
    return compile_policy(text, CATALOGUE)


class Stage:
    """Runs that one policy decides; times go on from run to run."""

    def __init__(self, decider: Policy) -> None:
        self.decider = decider
        self.records: list[Recorded] = []
        self.now_ms = BEGIN_MS
        self._runs = 0

    def run(self, *, role: str = "desk", tenant: str = "acme", begun: bool = True, parent: Run | None = None) -> Run:
        """Begins a run; one that began before the records is not known whole."""
        self._runs += 1
        run_id = str(UUID(int=self._runs))
        if begun:
            part_a = canonical_bytes({"v": 1, "kind": ADMISSION, "facts": {"parent_run_id": parent and parent.run_id}})
            self.add(Recorded(self.name(), ADMISSION, run_id, self.now_ms, "allow", part_a))
        return Run(self, run_id, role, tenant)

    def name(self) -> str:
        return str(UUID(int=len(self.records) + 1000))

    def add(self, record: Recorded) -> None:
        self.records.append(record)

    def erase(self, *names: str, first: int | None = None) -> None:
        """Seals arguments of those names in all records, or the first of them, and throws salts and values away."""
        patterns = tuple((name,) for name in names)
        self.records[:first] = [_erased(record, patterns) for record in self.records[:first]]

    def rehearse(self, candidate: Policy, *, since_ms: int | None = None) -> Tally:
        rehearser = Rehearser(candidate, {self.decider.policy_hash.hex(): self.decider}, since_ms=since_ms)
        for record in self.records:
            rehearser.take(record)
        return rehearser.tally


def _erased(record: Recorded, patterns: tuple[sealing.Pattern, ...]) -> Recorded:
    part_a = orjson.loads(record.part_a)
    if "action" not in part_a:
        return record
    sealed = sealing.seal(part_a["action"], patterns, bytes(32))
    if not sealed.values:
        return record
    gone = {
        **part_a,
        "v": sealing.RECORD_VERSION,
        "action": sealed.value,
        "sealed": {"box": "", "paths": list(sealed.values)},
    }
    return record._replace(part_a=canonical_bytes(gone))


class Run:
    """One run."""

    def __init__(self, stage: Stage, run_id: str, role: str, tenant: str) -> None:
        self.stage = stage
        self.run_id = run_id
        self.principal = {
            "tenant": tenant, "project": "p", "user": "ann", "agent": "desk-1", "role": role, "run": run_id,
        }  # fmt: skip
        self.session = Session(stage.decider, CATALOGUE, self.principal, now_ms=stage.now_ms)
        self.step = 0

    def act(
        self,
        name: str,
        args: Mapping[str, Any],
        *,
        outcome: EventKind | None = "succeeded",
        again: bool = False,
        ledger: str = "",
        after_ms: int = SECOND,
    ) -> str:
        """Proposes an action, and keeps what was decided and what became of it; returns the verdict.

        Args:
            name: The action.
            args: Its arguments.
            outcome: What became of it, if it was allowed.
            again: Whether it is another try of the step before.
            ledger: What the ledger said to an allow, if it was not one.
            after_ms: Time since the decision before.
        """
        stage, session = self.stage, self.session
        stage.now_ms += after_ms
        session.now_ms = stage.now_ms
        self.step += 0 if again else 1
        verdict = session.propose(name, args)
        action = session.steps[-1].action
        assert action is not None
        became = None
        if verdict.allowed and not ledger:
            stage.now_ms += SECOND
            session.now_ms = stage.now_ms
            became = Became(outcome, stage.now_ms)
            if outcome == "succeeded":
                session.succeeded("done")
            elif outcome == "failed":
                session.failed()
            elif outcome == "unknown":
                session.unknown()
        subject = {
            "agent": "desk-1",
            "role": self.principal["role"],
            "run_id": self.run_id,
            "step": self.step,
            "try": 1,
        }
        part_a = policy_part_a(
            subject=subject,  # type: ignore[arg-type]  # plain JSON
            action=replace(action, parameters=None),
            policy_hash=stage.decider.policy_hash,
            verdict=verdict,
            refusal=None,
            prices={},
        )
        record = Recorded(
            stage.name(),
            action.kind,
            self.run_id,
            stage.now_ms - (SECOND if became else 0),
            ledger or verdict.verdict,
            part_a,
            became=became,
            principal=(("tenant", self.principal["tenant"]), ("project", "p"), ("user", "ann")),
        )
        stage.add(record)
        return verdict.verdict


def told(tally: Tally, view: str = "as_become") -> dict[tuple[str, str, str], int]:
    """Returns how often what would change, by change, action and the rule or fact that makes it so."""
    found: dict[tuple[str, str, str], int] = {}
    for group, count in tally.groups.items():
        number = getattr(count, view)
        if number:
            key = group.change, group.action, group.would[-1]
            found[key] = found.get(key, 0) + number
    return found
