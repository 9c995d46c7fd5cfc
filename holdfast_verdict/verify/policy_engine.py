"""Engine version `policy/1`: a compiled policy, evaluated by `holdfast_verdict.engine`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import orjson

from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.engine.deciding import decide, decide_read
from holdfast_verdict.engine.facts import Facts
from holdfast_verdict.engine.form import Action, Malformed, name_of
from holdfast_verdict.engine.gates import approval_binding
from holdfast_verdict.engine.program import Program, program_of
from holdfast_verdict.engine.verdict import Verdict
from holdfast_verdict.policy import Policy
from holdfast_verdict.problems import PolicyRefused
from holdfast_verdict.verify.engine import Evaluated

VERSION: Final = "policy/1"
_BOUNDARY: Final = {"external", "yields"}
_TOOL: Final = "tool.call"
_READ_MAX: Final = 1_000

# What may stand against an action beside its policy. INVARIANT (LAW 7): each of these denies, and none can allow.
_BEFORE: Final = frozenset({"action.unknown", "action.malformed"})
_BESIDE: Final = frozenset(
    {"policy.limit_unsupported", "policy.gates_conflict", "policy.gate_unsupported", "approval.not_in_code"}
)
_ANY: Final = _BEFORE | _BESIDE
_OF_KINDS: Final[Mapping[str, frozenset[str]]] = {
    "llm.call": frozenset({"price.unknown", "content.unsupported"}),
    "code.exec": frozenset({"isolation.tier_unavailable"}),
}


class CompiledPolicy:
    """A compiled policy; see `EnginePolicy`."""

    MEMBERS: ClassVar = frozenset(
        {
            "v", "engine", "subject", "action", "action_digest", "boundary", "facts", "policy_hash", "evaluated", "trace", "legs",
            "refusal", "prices",
        }
    )  # fmt: skip
    MAY_HAVE: ClassVar = frozenset({"sealed"})
    REFUSALS: ClassVar[Mapping[str, frozenset[str]]] = {}  # its records say themselves what stood against an action

    def __init__(self, form: JsonValue, source: JsonValue, beside: JsonValue) -> None:
        if beside is not None:
            raise ValueError("nothing decides beside a policy")
        try:
            self._policy = Policy.from_json(form)
        except PolicyRefused as error:
            raise ValueError(f"the compiled policy is refused: {error}") from None
        self._hash = self._policy.policy_hash
        self._read: dict[bytes, Facts] = {}
        try:
            self._program: Program | None = program_of(self._policy)
        except Exception:  # noqa: BLE001 (whatever breaks it, `decide` says so of each record)
            self._program = None
        self.policy_hash = self._hash.hex()

    def evaluate(self, part_a: Mapping[str, Any]) -> Evaluated:  # Any: JSON; its members are looked at before use
        """Evaluates a record."""
        refusal = part_a["refusal"]
        code = None if refusal is None else refusal["code"]
        if code is not None and code not in _ANY and code not in _OF_KINDS.get(part_a["action"]["kind"], ()):
            raise ValueError(f"the refusal {code} is none that engine policy/1 has for such an action")
        if code in _BEFORE:  # nothing was evaluated
            if part_a["legs"] != []:
                raise ValueError("it has limits, and was refused before anything was evaluated")
            return Evaluated("deny", code, "", [], [])
        verdict = self._decide(part_a)
        # as bytes: to Python 1 and true are the same, and to a ledger they are not
        if (verdict.legs or part_a["legs"] != []) and _written([leg.to_json() for leg in verdict.legs]) != _written(
            part_a["legs"]
        ):
            raise ValueError("evaluated again it asks for other limits to be held")
        trace = verdict.trace_json()
        if code is not None:
            return Evaluated("deny", code, verdict.rule_id, trace, [])
        used = [each for each in part_a["facts"].get("approvals", ()) if each["approval_id"] in verdict.approvals]
        return Evaluated(verdict.verdict, verdict.code, verdict.rule_id, trace, used)

    def _decide(self, part_a: Mapping[str, Any]) -> Verdict:  # Any: as in `evaluate`
        """Decides on a record's action. Its digest was compared with its bytes before, so that it is not made once more."""
        written = orjson.dumps(part_a["facts"])
        facts = self._read.get(written)
        if facts is None:
            facts = Facts.from_json(part_a["facts"])
            if len(self._read) >= _READ_MAX:
                self._read.clear()
            self._read[written] = facts  # one evaluation does not change the facts that it reads
        value, boundary = part_a["action"], part_a["boundary"]
        try:
            name = name_of(value)
        except Malformed:
            name = ""
        external = _external(boundary)
        if self._program is None or not name:
            return decide(self._policy, action_of(part_a), facts)
        yields = {path: tuple(labels) for path, labels in boundary["yields"].items()}
        return decide_read(
            self._program, Action(name, value["args"], bytes.fromhex(part_a["action_digest"]), external, yields), facts
        )

    def binding(self, rule_id: str, approver_role: str, action_digest: str, expires_at_ms: int) -> str | None:
        """Returns what a consent at a gate is bound to."""
        for rule in self._policy.rules:
            if rule.id == rule_id and rule.gate is not None:
                named = (
                    rule.gate.needs[0].name,
                    orjson.dumps(rule.gate.to_json(), option=orjson.OPT_SORT_KEYS).decode(),
                )
                if approver_role not in named:
                    return None
                digest = bytes.fromhex(action_digest)
                return approval_binding(self._hash, digest, rule_id, rule.gate, expires_at_ms).hex()
        return None


def _external(boundary: Mapping[str, Any]) -> bool:  # Any: as in `evaluate`
    external = boundary["external"] if boundary.keys() == _BOUNDARY else None
    if type(external) is not bool:
        raise ValueError("the boundary has other members than engine policy/1 reads")
    return external


def _written(legs: JsonValue) -> bytes:
    return orjson.dumps(legs, option=orjson.OPT_SORT_KEYS)


def action_of(part_a: Mapping[str, Any]) -> CanonicalAction:  # Any: as in `evaluate`
    """Returns the action that a record is about, with what was known of its boundary.

    Raises:
        ValueError: The record has another form.
    """
    value, boundary = part_a["action"], part_a["boundary"]
    return CanonicalAction(
        value["tool"] if value["kind"] == _TOOL else value["kind"],
        value["kind"],
        value,
        orjson.dumps(value, option=orjson.OPT_SORT_KEYS),
        bytes.fromhex(part_a["action_digest"]),
        _external(boundary),
        {path: tuple(labels) for path, labels in boundary["yields"].items()},
    )
