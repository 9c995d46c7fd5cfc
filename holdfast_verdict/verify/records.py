"""Checking one record by itself: its hash, its form, its policy, and the same verdict and trace when it is evaluated again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from holdfast_verdict import sealing
from holdfast_verdict.record import RECORD_VERSION, record_hash, record_hash_of
from holdfast_verdict.verify.engine import EnginePolicy, Evaluated
from holdfast_verdict.verify.engines import ENGINES
from holdfast_verdict.verify.findings import DoesNotHold
from holdfast_verdict.verify.written import ENDLESS, Named, PartB

_PART_B: Final = frozenset({"v", "decision_id", "time_ms", "verdict", "reason_codes", "hold_id", "legs"})
_EVENT: Final = frozenset({"v", "kind", "facts"})
_SUBJECT: Final = frozenset({"tenant_id", "project_id", "user_id", "run_id", "step", "try", "agent", "role"})
_EVALUATED: Final = frozenset({"verdict", "code", "rule_id"})
_SEALED: Final = frozenset({"paths", "box"})
_ENDLESS: Final = (ENDLESS, None, None)

# INVARIANT: the ledger may refuse what the policy allows, by these codes, and can never allow what the policy does not
_LEDGER_DENIES: Final = frozenset(
    {"run.ended", "hold.key_conflict", "stop.active", "budget.no_cap", "budget.cap_exceeded", "approval.consumed"}
)
_DENIES_ANYTHING: Final = frozenset({"run.ended", "hold.key_conflict"})


class Leg(NamedTuple):
    """What a decision says of a cap: which it is, how it stood before, and what was asked of it."""

    cap_id: str
    named: Named
    amount: int
    limit: int | None
    reserved: int
    committed: int
    debt: int
    carried: int

    @property
    def fits(self) -> bool:
        """Whether the amount fits under the limit (LAW 3)."""
        used = self.reserved + self.committed + self.debt + self.carried
        return self.limit is None or self.limit - used >= self.amount


class Approved(NamedTuple):
    """An approval that a decision read among its facts, and used.

    Attributes:
        approval_id: Its id.
        binding: What it was given for, hex.
        rule_id: The gate that asked for it.
        expires_at_ms: Until when it could be given.
        consents: Names of the users whose consent counted, where the facts have them.
        agents: Names of the agents whose consent counted.
    """

    approval_id: str
    binding: str
    rule_id: str
    expires_at_ms: int
    consents: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()

    @classmethod
    def of(cls, fact: Mapping[str, Any]) -> Approved:  # Any: as the facts have it
        """Reads it from the facts."""
        given = fact.get("consents", ())
        users, agents = (tuple(each["by"] for each in given if each["kind"] == kind) for kind in ("user", "agent"))
        return cls(fact["approval_id"], fact["binding"], fact["rule_id"], fact["expires_at_ms"], users, agents)


class Decided(NamedTuple):
    """What the checks across records and the story need of a record.

    Attributes:
        decision_id: Its id.
        hash: Its record hash.
        kind: What was decided on.
        verdict: What came of it.
        code: Why.
        time_ms: When.
        hold_id: The hold that was granted, or empty.
        message: The sentence that was given with it; it is no part of the record.
        approval_id: The approval that it asked for or used, or empty; no part of the record either.
        run_id: The run, or empty.
        step: Number of the step, -1 if it is of none.
        try_number: Number of the try.
        agent: Name of the agent.
        role: Name of the role.
        user_id: Who the run is of.
        tool: The tool, or empty.
        rule_id: The rule that decided, or empty.
        digest: The action's digest, hex.
        policy_hash: Hash of the policy, hex.
        approvals: The approvals that it used.
        legs: The caps.
        facts: Of what is no action: what it was decided on.
        arguments: The action's arguments as JSON, if they are to be told.
        line: Number of its line.
        released: For an allow, the releases that it read among its facts: label, by whom, with which roles.
        deleted: Whether what was evaluated was deleted, so that only its hash is known.
        withheld: Where the erased value stood without which it could not be evaluated again, or empty.
    """

    decision_id: str
    hash: bytes
    kind: str
    verdict: str
    code: str
    time_ms: int
    hold_id: str
    message: str
    approval_id: str
    run_id: str
    step: int = -1
    try_number: int = -1
    agent: str = ""
    role: str = ""
    user_id: str = ""
    tool: str = ""
    rule_id: str = ""
    digest: str = ""
    policy_hash: str = ""
    approvals: tuple[Approved, ...] = ()
    legs: tuple[Leg, ...] = ()
    facts: Mapping[str, Any] | None = None  # Any: whatever JSON the record holds; what is read of it is looked at first
    arguments: str = ""
    line: int = 0
    released: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    deleted: bool = False
    withheld: str = ""


class Withheld(NamedTuple):
    """A record that could not be evaluated again.

    Attributes:
        decision_id: Its decision.
        path: Where the value stood that its policy asks for, and that was erased.
    """

    decision_id: str
    path: str


class Read(NamedTuple):
    """A record that holds by itself.

    Attributes:
        a: What was evaluated.
        b: What the ledger decided.
        hash: Its record hash.
        again: What came of evaluating it again; None for what is no action.
        told: Its arguments, as far as they are there.
        withheld: Where the erased value stood without which it could not be evaluated again, or empty.
    """

    a: dict[str, Any]  # Any: JSON of the form that was checked
    b: dict[str, Any]  # Any: the same
    hash: bytes
    again: Evaluated | None
    told: Any = None  # Any: JSON
    withheld: str = ""

    @property
    def used(self) -> list[Mapping[str, Any]]:  # Any: as the facts have them
        """The approvals that it used."""
        return self.again.approvals if self.again is not None and self.b["verdict"] == "allow" else []

    @property
    def released(self) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
        """For an allow, the releases that it read among its facts."""
        if self.again is None or self.b["verdict"] != "allow" or "released" not in self.a["facts"]:
            return ()
        return _released(self.a["facts"])


def read_part(
    name: str, text: str, version: int = RECORD_VERSION
) -> tuple[bytes, dict[str, Any]]:  # Any: JSON; its members are looked at before use
    """Reads a part of a record: its bytes, and what they say.

    Raises:
        DoesNotHold: It is no canonical JSON object, so that two readers might read it differently.
    """
    raw = text.encode()
    try:
        part = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise DoesNotHold("audit.record", f"part {name} is no JSON") from None
    if type(part) is not dict or orjson.dumps(part, option=orjson.OPT_SORT_KEYS) != raw:
        raise DoesNotHold("audit.record", f"part {name} is no canonical JSON object")
    if part.get("v") != version:
        raise DoesNotHold(
            "audit.engine", f"part {name} is a record of version {part.get('v')}, which is not known here"
        )
    return raw, part


class RecordChecker:
    """Checks records of one tenant, one after another.

    Args:
        tenant_id: Whose they have to be.
        policies: The policies of the bundle by hash.
        tells: Whether arguments are kept for the story.
    """

    def __init__(self, tenant_id: str, policies: Mapping[str, EnginePolicy], *, tells: bool) -> None:
        self._tenant_id = tenant_id
        self._policies = policies
        self._tells = tells

    def check(self, line: Mapping[str, Any], number: int) -> Decided:  # Any: of the form that `MEMBERS` says
        """Checks a record and returns what the checks across records need of it.

        Args:
            line: Its line.
            number: The line's number.

        Raises:
            DoesNotHold: Something of it does not hold.
        """
        return self.decided(self.read(line), line, number)

    def read(self, line: Mapping[str, Any], written: PartB | None = None) -> Read:  # Any: as in `check`
        """Checks a record by itself.

        Args:
            line: Its line.
            written: Its part B, if that was read as it is written.

        Raises:
            DoesNotHold: Something of it does not hold.
        """
        is_sealed = line.get("type") == "sealed"
        a_raw, a = read_part("A", line["part_a"], sealing.RECORD_VERSION if is_sealed else RECORD_VERSION)
        b_raw, b = _read_b(line) if written is None else _written_b(line, written)
        if is_sealed != ("sealed" in a):
            raise DoesNotHold("audit.record", "part A has other members than a record of its version has")
        hash_ = record_hash(a_raw, b_raw)
        if "engine" in a:
            return self._action(a, b, line, hash_)
        if a.keys() != _EVENT or type(a["facts"]) is not dict or b["legs"] != []:
            raise DoesNotHold("audit.record", "part A has other members than a record has")
        if a["kind"] != line["kind"]:
            raise DoesNotHold("audit.record", f"the line calls it {line['kind']}, and its record says {a['kind']}")
        return Read(a, b, hash_, None)

    def decided(self, read: Read, line: Mapping[str, Any], number: int) -> Decided:  # Any: as in `check`
        """Returns what the checks across records need of a record that holds by itself.

        Raises:
            DoesNotHold: Its caps are not of their form.
        """
        a, b, again = read.a, read.b, read.again
        verdict, code, hold_id, run_id = b["verdict"], b["reason_codes"][0], b["hold_id"] or "", line["run_id"] or ""
        if again is None:
            return Decided(
                b["decision_id"], read.hash, line["kind"], verdict, code, b["time_ms"], hold_id, line["message"],
                line["approval_id"] or "", run_id, facts=a["facts"], line=number,
            )  # fmt: skip
        subject, action = a["subject"], a["action"]
        return Decided(
            b["decision_id"], read.hash, line["kind"], verdict, code, b["time_ms"], hold_id, line["message"],
            line["approval_id"] or "", run_id, subject["step"], subject["try"], subject["agent"], subject["role"],
            subject["user_id"], action.get("tool") or "", again.rule_id, a["action_digest"], a["policy_hash"],
            tuple(map(Approved.of, read.used)), _legs(orjson.loads(line["part_b"])["legs"]), None,
            orjson.dumps(read.told).decode() if self._tells else "", number, read.released, withheld=read.withheld,
        )  # fmt: skip

    def check_deleted(self, line: Mapping[str, Any], number: int) -> Decided:  # Any: as in check
        """Checks what is left of a record whose part A was deleted: its hash, and what was decided.

        Raises:
            DoesNotHold: Something of it does not hold.
        """
        b_raw, b = _read_b(line)
        hash_ = record_hash_of(bytes.fromhex(line["part_a_sha256"]), b_raw)
        return Decided(
            b["decision_id"], hash_, line["kind"], b["verdict"], b["reason_codes"][0], b["time_ms"], b["hold_id"] or "",
            "", line["approval_id"] or "", line["run_id"] or "", legs=_legs(b["legs"]), line=number, deleted=True,
        )  # fmt: skip

    def _action(
        self, a: dict[str, Any], b: dict[str, Any], line: Mapping[str, Any], hash_: bytes
    ) -> Read:  # Any: as in read_part
        engine = ENGINES.get(a["engine"]) if type(a["engine"]) is str else None
        if engine is None:
            known = ", ".join(sorted(ENGINES))
            raise DoesNotHold("audit.engine", f"it was decided by engine {a['engine']}; those known here are {known}")
        subject, action = a.get("subject"), a.get("action")
        if a.keys() - engine.MAY_HAVE != engine.MEMBERS or type(subject) is not dict or subject.keys() != _SUBJECT:
            raise DoesNotHold("audit.record", "part A has other members than a record of its engine has")
        if subject["tenant_id"] != self._tenant_id:
            raise DoesNotHold("audit.record", f"it is a record of the tenant {subject['tenant_id']}")
        if subject["run_id"] != (line["run_id"] or ""):
            raise DoesNotHold("audit.record", f"the line names another run than the record, {subject['run_id']}")
        if type(action) is not dict or action.get("kind") != line["kind"]:
            raise DoesNotHold("audit.record", f"the line calls it {line['kind']}, and its action is another")
        if "sealed" in a:
            a = _opened(a, line)
        elif hashlib.sha256(orjson.dumps(action, option=orjson.OPT_SORT_KEYS)).hexdigest() != a["action_digest"]:
            raise DoesNotHold("audit.record", "its action has another digest than it says")
        policy = self._policies.get(a["policy_hash"])
        if policy is None or not isinstance(policy, engine):
            raise DoesNotHold(
                "audit.policy_hash", f"it was decided by policy {a['policy_hash']}, which is not in the file"
            )
        told = action.get("args") if "sealed" in a else a["action"].get("args")
        try:
            return Read(a, b, hash_, self._evaluate(policy, a, b), told)
        except sealing.Withheld as gone:
            return Read(a, b, hash_, _as_recorded(a, b), told, f"args{gone.pointer}")

    def _evaluate(
        self, policy: EnginePolicy, a: dict[str, Any], b: dict[str, Any]
    ) -> Evaluated:  # Any: as in read_part
        """Evaluates the record again."""
        evaluated = a["evaluated"]
        if type(evaluated) is not dict or evaluated.keys() != _EVALUATED:
            raise DoesNotHold("audit.record", "what was evaluated has other members than it should")
        try:
            again = policy.evaluate(a)
        except ValueError as error:
            raise DoesNotHold("audit.verdict", f"it cannot be evaluated again: {error}") from None
        says = (evaluated["verdict"], evaluated["code"], evaluated["rule_id"])
        if again[:3] != says:
            refused = evaluated["verdict"] == "deny" and evaluated["rule_id"] == again.rule_id
            if not (refused and evaluated["code"] in policy.REFUSALS.get(a["action"]["kind"], ())):
                raise DoesNotHold(
                    "audit.verdict",
                    f"evaluated again it is {_words(*again[:3])}; the record says {_words(*says)}",
                )
        if again.trace != a["trace"]:
            raise DoesNotHold("audit.verdict", f"evaluated again its trace is {again.trace}; the record's is another")
        _check_ledger(evaluated, b)
        return again


def _read_b(line: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:  # Any: as in read_part
    b_raw, b = read_part("B", line["part_b"])
    if b.keys() != _PART_B or type(b["reason_codes"]) is not list or len(b["reason_codes"]) != 1:
        raise DoesNotHold("audit.record", "part B has other members than a record has")
    if b["decision_id"] != line["decision_id"]:
        raise DoesNotHold("audit.record", f"the line calls it so, and its record is that of {b['decision_id']}")
    kinds = (type(b["time_ms"]), type(b["reason_codes"][0]), type(b["verdict"]), type(b["hold_id"]))
    if kinds not in ((int, str, str, str), (int, str, str, type(None))):
        raise DoesNotHold("audit.record", "the members of part B are not of their form")
    _check_b(b)
    return b_raw, b


def _written_b(line: Mapping[str, Any], written: PartB) -> tuple[bytes, dict[str, Any]]:  # Any: as in read_part
    if written.decision_id != line["decision_id"]:
        raise DoesNotHold("audit.record", f"the line calls it so, and its record is that of {written.decision_id}")
    b = {
        "decision_id": written.decision_id,
        "hold_id": written.hold_id,
        "legs": written.legs if written.legs != "[]" else [],
        "reason_codes": [written.code],
        "time_ms": int(written.time_ms),
        "verdict": written.verdict,
    }
    _check_b(b)
    return line["part_b"].encode(), b


def _check_b(b: Mapping[str, Any]) -> None:  # Any: as in read_part
    verdict, hold_id = b["verdict"], b["hold_id"] or ""
    if (verdict not in ("allow", "deny", "needs_approval")) or (hold_id and verdict != "allow"):
        raise DoesNotHold("audit.verdict", f"its verdict is {verdict}, and it grants the hold {hold_id or 'none'}")


def _opened(a: dict[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:  # Any: as in read_part
    """Returns part A with the values that the line brings put back, or with arguments that tell when a value is missing."""
    sealed = a["sealed"]
    paths = sealed.get("paths") if type(sealed) is dict else None
    if type(paths) is not list or sealed.keys() != _SEALED or not all(type(path) is str for path in paths):
        raise DoesNotHold("audit.record", "what is sealed in it is not of its form")
    if (line["salt"] is None) != (line["opened"] is None) or type(line["opened"]) not in (dict, type(None)):
        raise DoesNotHold("audit.record", "it has a salt without values, or values without a salt")
    try:
        if line["salt"] is not None:
            return sealing.opened(a, bytes.fromhex(line["salt"]), line["opened"])
        args = sealing.guarded(a["action"]["args"], paths)
    except sealing.NotThese as error:
        raise DoesNotHold("audit.record", f"its sealed values are not those of its line: {error}") from None
    return {**a, "action": {**a["action"], "args": args}}


def _as_recorded(a: dict[str, Any], b: dict[str, Any]) -> Evaluated:  # Any: as in read_part
    """Returns what the record says that came of it, where nobody can evaluate it again."""
    evaluated = a["evaluated"]
    _check_ledger(evaluated, b)
    used = [each for each in a["facts"].get("approvals", ()) if each["state"] == "approved"]
    return Evaluated(evaluated["verdict"], evaluated["code"], evaluated["rule_id"], a["trace"], used)


def _check_ledger(evaluated: Mapping[str, str], b: Mapping[str, Any]) -> None:  # Any: as in read_part
    """Sees that what the ledger made of the policy's verdict is the same or narrower."""
    code, verdict = b["reason_codes"][0], b["verdict"]
    if (verdict, code) != (evaluated["verdict"], evaluated["code"]):
        may = code in _DENIES_ANYTHING or (evaluated["verdict"] == "allow" and code in _LEDGER_DENIES)
        if verdict != "deny" or not may:
            says = _words(evaluated["verdict"], evaluated["code"])
            raise DoesNotHold(
                "audit.verdict", f"the policy says {says}, and what came of it is {_words(verdict, code)}"
            )
    if (verdict == "allow") != (b["hold_id"] is not None):
        raise DoesNotHold("audit.verdict", "an allow has a hold, and nothing else has one (LAW 1)")


def _released(facts: Mapping[str, Any]) -> tuple[tuple[str, str, tuple[str, ...]], ...]:  # Any: as in read_part
    # they were evaluated, so they have their form
    return tuple((each["label"], each["by"], tuple(each["roles"])) for each in facts["released"])


def _words(verdict: str, code: str, rule_id: str = "") -> str:
    return f"{verdict} ({code}{f', rule {rule_id}' if rule_id else ''})"


def _legs(legs: Any) -> tuple[Leg, ...]:  # Any: as in read_part
    try:
        return tuple(
            Leg(
                _text(leg["cap_id"]), named_in(leg), int(leg["amount"]), None if leg["limit"] is None else int(leg["limit"]),
                int(leg["reserved"]), int(leg["committed"]), int(leg["debt"]), int(leg.get("carried", 0)),
            )
            for leg in legs
        )  # fmt: skip
    except (TypeError, KeyError, ValueError, AttributeError):
        raise DoesNotHold("audit.record", "the caps of part B are not of their form") from None


def named_in(leg: Mapping[str, Any]) -> Named:  # Any: as in read_part
    """Returns what a leg of a decision says that its cap is of.

    Raises:
        KeyError, TypeError, ValueError: It does not say so.
    """
    scope_kind, scope_id = leg["scope"]
    window, _, _ = leg.get("window", _ENDLESS)
    return Named(_text(scope_kind), _text(scope_id), _text(leg["unit"]), _text(window))


def _text(value: Any) -> str:  # Any: as in read_part
    if type(value) is not str:
        raise TypeError
    return value
