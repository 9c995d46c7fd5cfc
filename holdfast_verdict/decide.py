"""The deciding core: `decide(facts, action) -> Verdict`. Pure and total: it never raises and never allows by accident.

Rules are a table per role. Order: is the action known and well-formed → forbids → permits → gates. Default deny. A forbid
fires also where the field it asks about is missing or of another type, a permit does not, and a gate only narrows what was
permitted. Every gate that matches has to be satisfied; gates that ask the same people are satisfied by one consent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeGuard

from holdfast_verdict.canonical import JsonValue, NotCanonical, canonical_bytes, check_canonical, digest

ENGINE_VERSION = "rules/2"

Effect = Literal["forbid", "permit", "gate"]
Operator = Literal["==", "!=", "<=", ">", "in", "not_in", "all_in_domains", "any_outside_domains"]

ApprovalStanding = Literal["pending", "approved", "denied", "expired", "withdrawn", "consumed"]

_MISSING = object()


@dataclass(frozen=True, slots=True)
class Condition:
    """Compares a field of the action with a value, or with another field.

    Attributes:
        path: Such as `args.tenant` or `principal.tenant`.
        operator: How to compare; `all_in_domains` and `any_outside_domains` speak of mail addresses.
        value: What to compare with, unless `other_path` names it.
        other_path: A second path, or empty.
    """

    path: str
    operator: Operator
    value: JsonValue = None
    other_path: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a role's table.

    Attributes:
        rule_id: Name that decisions cite.
        effect: What it does when it matches.
        kind: Kind of action it speaks of, such as `tool.call`.
        tool: Tool it speaks of; `*` for all, empty for actions that have none.
        conditions: All must hold.
        code: Reason code that a forbid gives.
        message: Sentence for people and models.
        approver_role: For a gate, the role that must consent.
        expires_s: For a gate, how long the consent may take, in seconds.
    """

    rule_id: str
    effect: Effect
    kind: str
    tool: str = ""
    conditions: tuple[Condition, ...] = ()
    code: str = ""
    message: str = ""
    approver_role: str = "approver"
    expires_s: int = 86_400


@dataclass(frozen=True, slots=True)
class ApprovalFact:
    """An approval that was asked for this step.

    Attributes:
        approval_id: Its id.
        state: Where it stands.
        binding: What it was given for, hex; see `approval_binding`.
        rule_id: The gate that asked for it.
        expires_at_ms: Until when it may be given, milliseconds of the epoch.
    """

    approval_id: str
    state: ApprovalStanding
    binding: str
    rule_id: str
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything a decision may depend on, read before it is made.

    Attributes:
        principal: Tenant, project, user, agent, role by name.
        rules: The role's table.
        policy_hash: Hash of that table, hex.
        known: Whether the action's kind and tool exist and the agent was given them.
        malformed: Why the arguments are not what the tool takes; empty if they are.
        approval: The approval that goes with this try, if any.
    """

    principal: Mapping[str, str]
    rules: tuple[Rule, ...]
    policy_hash: str
    known: bool
    malformed: str = ""
    approval: ApprovalFact | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """Returns the facts as they stand in the decision record, without the rules, which `policy_hash` names."""
        approval = self.approval
        return {
            "principal": dict(self.principal),
            "known": self.known,
            "malformed": self.malformed,
            "approval": None
            if approval is None
            else {
                "approval_id": approval.approval_id,
                "state": approval.state,
                "binding": approval.binding,
                "rule_id": approval.rule_id,
                "expires_at_ms": approval.expires_at_ms,
            },
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided.

    Attributes:
        verdict: The third value asks for consent first.
        code: Stable reason code; `policy.permitted` for an allow.
        message: A sentence that a person or a model can act on.
        rule_id: The rule that decided, or empty.
        trace: Every rule that was looked at, with what came of it.
        gate: For `needs_approval`, the rule that asks.
    """

    verdict: Literal["allow", "deny", "needs_approval"]
    code: str
    message: str
    rule_id: str = ""
    trace: tuple[str, ...] = field(default=())
    gate: Rule | None = None


def rule_from_json(row: Mapping[str, JsonValue]) -> Rule:
    """Reads a rule from its stored form; see `rule_to_json`."""
    conditions = row.get("conditions") or ()
    assert isinstance(conditions, list | tuple)
    fields = {key: value for key, value in row.items() if key != "conditions"}
    return Rule(
        **fields,  # type: ignore[arg-type]  # stored by rule_to_json, and checked by the role's schema at the edge
        conditions=tuple(Condition(**condition) for condition in conditions),
    )


def rule_to_json(rule: Rule) -> dict[str, JsonValue]:
    """Returns the stored form of a rule."""
    return {
        "rule_id": rule.rule_id,
        "effect": rule.effect,
        "kind": rule.kind,
        "tool": rule.tool,
        "conditions": [
            {"path": c.path, "operator": c.operator, "value": c.value, "other_path": c.other_path}
            for c in rule.conditions
        ],
        "code": rule.code,
        "message": rule.message,
        "approver_role": rule.approver_role,
        "expires_s": rule.expires_s,
    }


def policy_hash(rules: tuple[Rule, ...]) -> bytes:
    """Returns the hash that names a table of rules."""
    return digest([rule_to_json(rule) for rule in rules])


def approval_binding(policy_hash_hex: str, action_digest: bytes, gate: Rule, expires_at_ms: int) -> bytes:
    """Returns what an approval is bound to: policy, exact arguments, approver set and expiry."""
    return digest([policy_hash_hex, action_digest.hex(), gate.rule_id, gate.approver_role, expires_at_ms])


def _is_mapping(value: object) -> TypeGuard[Mapping[str, object]]:
    return type(value) is dict or isinstance(value, Mapping)  # to ask the abstract class takes many times as long


def _lookup(path: str, action: Mapping[str, JsonValue], principal: Mapping[str, str]) -> object:
    root, _, rest = path.partition(".")
    value: object = {"args": action.get("args"), "principal": principal}.get(root, _MISSING)
    for name in filter(None, rest.split(".")):
        if not _is_mapping(value) or name not in value:
            return _MISSING
        value = value[name]
    return value


def _in_domain(address: object, domains: Sequence[object]) -> bool:
    """Says whether one plain mail address lies in one of the domains; text that could hold two addresses does not."""
    return isinstance(address, str) and address.count("@") == 1 and address.partition("@")[2].lower() in domains


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, list | tuple)


def _comparable(left: object, right: object) -> bool:
    """Says whether two JSON values may be asked to be equal: of one type, or one of them null."""
    return left is None or right is None or type(left) is type(right) or (_is_list(left) and _is_list(right))


def _equal(left: object, right: object) -> bool:
    return canonical_bytes(left) == canonical_bytes(right)  # in Python `1 == True`, in JSON they differ


def _ask(operator: str, left: object, right: object) -> bool | None:
    """Compares; `None` if the question makes no sense for these values, or the operator is from a newer table."""
    if operator in ("==", "!="):
        return _equal(left, right) == (operator == "==") if _comparable(left, right) else None
    if operator in ("<=", ">"):
        if not (type(left) is int and type(right) is int):
            return None
        return left <= right if operator == "<=" else left > right
    if not _is_list(right):
        return None
    if operator in ("in", "not_in"):
        if right and not any(_comparable(left, member) for member in right):
            return None
        return any(_equal(left, member) for member in right) == (operator == "in")
    if operator in ("all_in_domains", "any_outside_domains"):
        if not _is_list(left):
            return None
        inside = all(_in_domain(address, right) for address in left)
        return bool(left) and inside if operator == "all_in_domains" else not inside
    return None


def _matches(rule: Rule, action: Mapping[str, JsonValue], principal: Mapping[str, str]) -> bool:
    if rule.kind != action.get("kind") or rule.tool not in ("*", action.get("tool", "")):
        return False
    for condition in rule.conditions:
        left = _lookup(condition.path, action, principal)
        right = _lookup(condition.other_path, action, principal) if condition.other_path else condition.value
        answer = None if left is _MISSING or right is _MISSING else _ask(condition.operator, left, right)
        # INVARIANT (LAW 7): what is missing or cannot be compared lets a forbid and a gate fire, and a permit not
        if not (rule.effect != "permit" if answer is None else answer):
            return False
    return True


def decide(facts: Facts, action: Mapping[str, JsonValue]) -> Verdict:
    """Decides on an action.

    Args:
        facts: Everything the decision may depend on.
        action: The canonical action: `kind`, `tool` for tool calls, `args`.

    Returns:
        The verdict. Errors inside are denials too (LAW 7): this function does not raise.
    """
    trace: list[str] = []
    try:
        return _decide(facts, action, trace)
    except Exception as error:  # noqa: BLE001 (LAW 7: whatever breaks in here is a deny with a code of its own)
        trace.append(f"error {type(error).__name__}")
        return Verdict("deny", "policy.error", "the policy could not be evaluated, so it denies", trace=tuple(trace))


def _malformed(action: Mapping[str, JsonValue]) -> str:
    """Says what is wrong with an action's form; conditions are asked of whole actions only."""
    is_tool_call = action.get("kind") == "tool.call"
    needs = {"kind", "args", "tool"} if is_tool_call else {"kind", "args"}
    may_have = {*needs, "definition"} if is_tool_call else needs
    if not needs <= set(action) <= may_have:
        return f"an action of this kind has the members {', '.join(sorted(may_have))}"
    if not _is_mapping(action["args"]) or not all(
        isinstance(action[member], str) and action[member] for member in set(action) - {"args"}
    ):
        return "an action's kind, tool and definition are names, and its args an object"
    try:
        check_canonical(action)
    except NotCanonical as error:
        return f"the action has no canonical form: {error}"
    return ""


def _decide(facts: Facts, action: Mapping[str, JsonValue], trace: list[str]) -> Verdict:
    name = str(action.get("tool") or action.get("kind"))
    if facts.known is not True:
        return Verdict("deny", "action.unknown", f"{name} is no action that this agent has", trace=("unknown",))
    if malformed := facts.malformed or _malformed(action):
        return Verdict("deny", "action.malformed", malformed, trace=("malformed",))
    if any(rule.effect not in ("forbid", "permit", "gate") for rule in facts.rules):
        raise ValueError("an effect from a newer table: what it would forbid, nobody here knows")

    def matching(effect: Effect) -> Iterator[Rule]:
        for rule in facts.rules:
            if rule.effect == effect:
                matched = _matches(rule, action, facts.principal)
                trace.append(f"{effect} {rule.rule_id} {'matched' if matched else 'no'}")
                if matched:
                    yield rule

    if forbid := next(matching("forbid"), None):
        return Verdict(
            "deny",
            forbid.code or "policy.forbidden",
            forbid.message or f"{name} is forbidden by rule {forbid.rule_id}",
            forbid.rule_id,
            tuple(trace),
        )
    permit = next(matching("permit"), None)
    if permit is None:
        message = f"role {facts.principal.get('role', '?')} may not use {name} like this"
        return Verdict("deny", "policy.not_permitted", message, trace=tuple(trace))
    if gates := list(matching("gate")):
        if len(asked := {gate.approver_role for gate in gates}) > 1:
            message = f"needs the consent of {' and of '.join(sorted(asked))}; one action can ask only one of them"
            return Verdict("deny", "policy.gates_conflict", message, gates[0].rule_id, tuple(trace))
        return _decide_gate(facts, action, gates[0], permit, tuple(trace))
    return Verdict("allow", "policy.permitted", f"permitted by rule {permit.rule_id}", permit.rule_id, tuple(trace))


def _decide_gate(
    facts: Facts, action: Mapping[str, JsonValue], gate: Rule, permit: Rule, trace: tuple[str, ...]
) -> Verdict:
    approval = facts.approval
    if approval is None or approval.rule_id != gate.rule_id:
        message = gate.message or f"needs the consent of {gate.approver_role} (rule {gate.rule_id})"
        return Verdict("needs_approval", "approval.required", message, gate.rule_id, trace, gate)
    if approval.state == "approved":
        expected = approval_binding(facts.policy_hash, digest(action), gate, approval.expires_at_ms)
        if approval.binding != expected.hex():
            return Verdict(
                "deny", "approval.mismatch", "the approval was given for other arguments", gate.rule_id, trace
            )
        return Verdict(
            "allow", "policy.permitted", f"permitted by rule {permit.rule_id}, approved", gate.rule_id, trace
        )
    messages = {
        "denied": "the approver refused",
        "expired": "nobody consented in time",
        "withdrawn": "the request for consent was withdrawn",
        "consumed": "the approval was used already",
        "pending": "the approval is not decided yet",
    }
    return Verdict("deny", f"approval.{approval.state}", messages[approval.state], gate.rule_id, trace)


def canonical_action(action: Mapping[str, JsonValue]) -> bytes:
    """Returns the canonical bytes of an action: what is decided, digested and executed."""
    return canonical_bytes(action)
