"""Recorded decisions as a rehearsal takes them: what was decided, on which facts, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

import orjson

from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.engine.deciding import ENGINE_VERSION
from holdfast_verdict.engine.facts import Estimate
from holdfast_verdict.engine.form import Action
from holdfast_verdict.engine.history import EventKind
from holdfast_verdict.sealing import guarded, told

ADMISSION: Final = "run.admission"
"""Kind of the record with which a run begins: whoever has it has all of the run's decisions."""
SETTLED_ALONE: Final = ("run", "sweeper")
"""Who settles a hold without knowing more than was stored."""

_TOOL: Final = "tool.call"
_BEFORE: Final = frozenset(
    {"action.unknown", "action.malformed", "price.unknown", "content.unsupported", "isolation.tier_unavailable"}
)
_VOID: Final = ("voided", "expired")


class Became(NamedTuple):
    """What became of an allowed action.

    Attributes:
        outcome: Its outcome; `None` while nobody knows, which stands against it as if it had succeeded.
        at_ms: When that was known.
        unread: Whether it is certain that nothing was read by it.
        retried: Whether it came to nothing and its step was tried again: both are one request.
        cost_nano_usd: What it cost, once that is known.
    """

    outcome: EventKind | None = None
    at_ms: int = 0
    unread: bool = False
    retried: bool = False
    cost_nano_usd: int | None = None


class Recorded(NamedTuple):
    """One record of the log.

    Attributes:
        decision_id: Its id.
        kind: Kind of the action, or of what else was decided.
        run_id: The run, or empty.
        at_ms: When it was decided.
        verdict: What held in the end, after the ledger had its say.
        part_a: What was evaluated: canonical JSON, with its personal values as far as they are kept; empty if it was deleted.
        superseded: Whether another decision took its place before anything came of it.
        became: What became of it, if it was allowed.
        principal: What is known of who acts besides what the record holds.
    """

    decision_id: str
    kind: str
    run_id: str
    at_ms: int
    verdict: str
    part_a: bytes | str
    superseded: bool = False
    became: Became | None = None
    principal: tuple[tuple[str, str | tuple[str, ...]], ...] = ()


def begins_child(record: Recorded) -> bool:
    """Says whether a record is that with which a run begins that another one has started."""
    if record.kind != ADMISSION or record.verdict != "allow":
        return False
    told = record.part_a if isinstance(record.part_a, bytes) else record.part_a.encode()
    return b'"parent_run_id":null' not in told


def parent_of(record: Recorded) -> str:
    """Returns the run that has started a child, by the record with which that begins; empty if it is not told."""
    try:
        return str(orjson.loads(record.part_a)["facts"]["parent_run_id"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""


class Unreadable(ValueError):  # the rehearsal counts it, and goes on
    """A record is not of the form that its engine writes."""


def outcome_of(state: str, settled_by: str, *, answered: bool, ok: bool, went_out: bool) -> EventKind | None:
    """Returns what became of a hold's action; `None` while nobody knows, which stands against it as if it had succeeded."""
    if state in _VOID:
        return "failed"
    if state != "committed":
        return "unknown" if state == "unknown" else None
    if not answered:
        return "succeeded" if settled_by not in SETTLED_ALONE else "unknown"  # a person who knows, or the deadline
    if ok:
        return "succeeded"
    return "unknown" if went_out else "failed"


class Decided(NamedTuple):
    """A record, read.

    Attributes:
        record: The record.
        part_a: Its evaluated part.
        action: The action, as the past has it: without arguments that were erased.
        guarded: The same, where something was erased, with arguments that tell whoever reads it (`sealing.Withheld`).
        policy_hash: Hash of the policy that decided, hex.
        role: Role of the run.
        step: Step of the run.
        refused: Whether something stood against the action whatever a policy says.
        was: Verdict, code and rule.
    """

    record: Recorded
    part_a: dict[str, Any]  # Any: JSON
    action: CanonicalAction
    guarded: Action | None
    policy_hash: str
    role: str
    step: int
    refused: bool
    was: tuple[str, str, str]

    @property
    def args(self) -> Mapping[str, Any]:  # Any: JSON
        """The arguments on which it is decided."""
        return self.action.args if self.guarded is None else self.guarded.args

    @property
    def names(self) -> dict[str, str]:
        """What the record says of who acts."""
        return {"agent": self.part_a["subject"]["agent"], "role": self.role, "run": self.record.run_id}

    @property
    def estimate(self) -> Estimate | None:
        """What the action could cost at worst, by the prices that stand in the record."""
        prices = self.part_a["prices"]
        if not prices:
            return Estimate(0, 0)
        money = prices.get("max_cost_nano_usd")
        if "input_tokens_bound" in prices:
            return Estimate(money, prices["input_tokens_bound"] + prices["output_tokens_bound"])
        return Estimate(money, 0 if "cpu_ms_bound" in prices else None)


def read(record: Recorded) -> Decided | str:
    """Reads a record.

    Returns:
        What was decided; a text that says of what engine it is, if no candidate can be asked about it; an empty text if it is
        about no action at all.

    Raises:
        Unreadable: It is not of its form.
    """
    try:
        part_a = orjson.loads(record.part_a)
        engine = part_a.get("engine", "")
        if engine != ENGINE_VERSION:
            return str(engine)
        value, boundary, subject = part_a["action"], part_a["boundary"], part_a["subject"]
        refusal, evaluated = part_a["refusal"], part_a["evaluated"]
        yields = {path: tuple(labels) for path, labels in boundary["yields"].items()}
        kind = value["kind"]
        action = CanonicalAction(
            value["tool"] if kind == _TOOL else kind,
            kind,
            value,
            orjson.dumps(value, option=orjson.OPT_SORT_KEYS),
            bytes.fromhex(part_a["action_digest"]),
            boundary["external"],
            yields,
        )
        sealed, gone = part_a.get("sealed"), None
        if sealed is not None:
            args = guarded(value["args"], sealed["paths"])
            gone = Action(action.name, args, action.digest, action.external is not False, yields)
            action = replace(action, value={**value, "args": told(value["args"])})
        return Decided(
            record,
            part_a,
            action,
            gone,
            part_a["policy_hash"],
            subject["role"],
            subject["step"],
            refusal is not None and refusal["code"] in _BEFORE,
            (evaluated["verdict"], evaluated["code"], evaluated["rule_id"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unreadable(f"the record is not of its form ({type(error).__name__})") from None
