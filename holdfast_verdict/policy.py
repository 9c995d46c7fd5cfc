"""The compiled form of a policy: what the language compiles to, what engines run, what `policy_hash` names.

It is a JSON document of one form. `Policy.from_json` refuses whatever it does not know — a version, an effect, an operator, a field —
because a rule that was skipped could have been the one that forbids (LAW 7). Comments, spaces and the places of rules in their
source are not part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar, cast, get_args

from holdfast_verdict.canonical import digest
from holdfast_verdict.expressions import (
    MAX_TEXT,
    ORIGIN_KINDS,
    Expr,
    Scope,
    Value,
    is_action,
    is_name,
    is_whole,
    read_expression,
    read_value,
    refuse,
    to_json,
)

FORM_VERSION: Final = 1
MAX_MEMBERS: Final = 10_000
"""How many rules, watches or names a list of the form may have."""
MAX_SPAN_MS: Final = 366 * 86_400_000
MAX_CONSENTS: Final = 100

Effect = Literal["forbid", "permit", "limit", "gate"]
Per = Literal["run", "tenant", "project", "user", "agent", "role"]
Measure = Literal["count", "sum", "spend", "tokens"]
Unit = Literal["nano_usd", "tokens", "calls", "units"]
Calendar = Literal["run", "total", "hour", "day", "month"]
Event = Literal["requested", "succeeded"]
Keep = Literal["last", "count", "sum"]
NeedKind = Literal["role", "agent", "signer"]

CODES: Final[Mapping[Effect, frozenset[str]]] = {
    "forbid": frozenset({"policy.forbidden", "policy.invariant", "policy.label", "policy.provenance"}),
    "permit": frozenset({"policy.permitted"}),
    "limit": frozenset({"policy.limit"}),
    "gate": frozenset({"policy.gate"}),
}
"""The codes that rules give of themselves. A forbid's author may write one of their own; see `is_code`."""
_OWN_CODE: Final = re.compile(r"[a-z][a-z0-9_.-]{0,99}\Z")
_RULE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}\Z")
_UNITS: Final[Mapping[str, tuple[str, ...]]] = {
    "count": ("calls",),
    "sum": ("nano_usd", "units"),
    "spend": ("nano_usd",),
    "tokens": ("tokens",),
}


def is_code(text: str) -> bool:
    """Says whether a text may be the reason code of a forbid."""
    return _OWN_CODE.match(text) is not None


def is_rule_name(text: str) -> bool:
    """Says whether a text may be the name that a policy gives to a rule."""
    return _RULE_NAME.match(text) is not None


@dataclass(frozen=True, slots=True)
class Need:
    """Whose consent a gate needs.

    Attributes:
        count: How many of them.
        kind: People by role, another agent, or an external signer.
        name: Which role, agent or signer.
    """

    count: int
    kind: NeedKind
    name: str

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        return {"count": self.count, "kind": self.kind, "name": self.name}


@dataclass(frozen=True, slots=True)
class Escalation:
    """Who is asked when nobody answered in time.

    Attributes:
        after_ms: How long nobody answered.
        to: Who is asked then.
    """

    after_ms: int
    to: Need


@dataclass(frozen=True, slots=True)
class Gate:
    """What must be consented to before an action runs.

    Attributes:
        needs: All of them are needed.
        expires_ms: How long the consents may take.
        not_requester: Whether who asked for the run may not consent.
        escalate: Who is asked later, if anybody.
    """

    needs: tuple[Need, ...]
    expires_ms: int
    not_requester: bool = True
    escalate: Escalation | None = None

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        escalate = self.escalate
        return {
            "needs": [need.to_json() for need in self.needs],
            "expires_ms": self.expires_ms,
            "not_requester": self.not_requester,
            "escalate": escalate and {"after_ms": escalate.after_ms, "to": escalate.to.to_json()},
        }


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of something there may be: a leg in the ledger.

    Attributes:
        measure: What is counted: calls, a sum over an argument, estimated spend, tokens.
        of: For a sum, the value that is added up.
        ceiling: What the total may not exceed, in `unit`.
        unit: Unit of the ceiling.
        window: A window of the calendar (UTC), the run, for ever, or a rolling one in milliseconds.
        per: Whose total it is.
    """

    measure: Measure
    of: Value | None
    ceiling: int
    unit: Unit
    window: Calendar | int
    per: Per

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        return {
            "measure": self.measure,
            "of": to_json(self.of),
            "ceiling": self.ceiling,
            "unit": self.unit,
            "window": {"rolling_ms": self.window} if isinstance(self.window, int) else self.window,
            "per": self.per,
        }


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        id: Name that verdicts cite; unique in its policy.
        effect: What it does when it matches.
        role: Role it speaks of, with those that extend it; `*` for all.
        actions: Patterns of the actions it speaks of: a name, `prefix*`, `*`, or `external`.
        when: When it matches; unknown lets a permit not match, and all else match (LAW 7).
        code: Reason code of the verdict; of a forbid it may be its author's own.
        message: A sentence of the author's for people and models, or empty.
        gate: For a gate, what it needs.
        limit: For a limit, how much.
    """

    id: str
    effect: Effect
    role: str
    actions: tuple[str, ...]
    when: Expr
    code: str
    message: str = ""
    gate: Gate | None = None
    limit: Limit | None = None

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        return {
            "id": self.id,
            "effect": self.effect,
            "role": self.role,
            "actions": list(self.actions),
            "when": to_json(self.when),
            "code": self.code,
            "message": self.message,
            "gate": self.gate and self.gate.to_json(),
            "limit": self.limit and self.limit.to_json(),
        }


@dataclass(frozen=True, slots=True)
class LabelRule:
    """What a run carries after an action succeeded.

    Attributes:
        actions: Patterns of the actions.
        field: Path of the output's field that carries the labels; empty for the whole output.
        labels: The labels; none if the policy says that the output is nobody's doing.
        where: Which of the actions; unknown counts as true.
    """

    actions: tuple[str, ...]
    field: str
    labels: tuple[str, ...]
    where: Expr

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        return {
            "actions": list(self.actions),
            "field": self.field,
            "labels": list(self.labels),
            "where": to_json(self.where),
        }


@dataclass(frozen=True, slots=True)
class Watch:
    """What history has to remember for a rule.

    Attributes:
        id: Name that expressions cite.
        actions: Patterns of the past actions.
        where: Which of them, asked when they happen, of them alone.
        event: What counts: that they were requested (and allowed), or that they succeeded.
        keep: Whether the last time, the number, or a sum is asked for.
        of: For a sum, the value that is added up.
        window_ms: How long ago it may have been; `None` for any time.
        scope: Whose history.
        same: Pairs of values: of the past action, and of the present one, that must be equal.
        doubt: What an unknown `where`, or an unknown value in `same`, counts as: false where the past action is a
            precondition, true where it stands against the present one.
    """

    id: str
    actions: tuple[str, ...]
    where: Expr
    event: Event
    keep: Keep
    of: Value | None
    window_ms: int | None
    scope: Per
    same: tuple[tuple[Value, Value], ...]
    doubt: bool

    def to_json(self) -> dict[str, object]:
        """Returns its JSON."""
        return {
            "id": self.id,
            "actions": list(self.actions),
            "where": to_json(self.where),
            "event": self.event,
            "keep": self.keep,
            "of": to_json(self.of),
            "window_ms": self.window_ms,
            "scope": self.scope,
            "same": to_json(self.same),
            "doubt": self.doubt,
        }


@dataclass(frozen=True, slots=True)
class Policy:
    """A compiled policy.

    Attributes:
        roles: Every role, with all the roles it extends, nearest first.
        rules: In the order of the source.
        labels: What outputs carry.
        watches: What history remembers.
        zones: The time zones whose local time is asked for, sorted.
        external: Actions of which the policy says whether they leave the tenant's boundary, whatever the catalogue says.
        lines: Line of each rule in its source, where there is one; not part of the form.
    """

    roles: Mapping[str, tuple[str, ...]]
    rules: tuple[Rule, ...]
    labels: tuple[LabelRule, ...] = ()
    watches: tuple[Watch, ...] = ()
    zones: tuple[str, ...] = ()
    external: Mapping[str, bool] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)

    def to_json(self) -> dict[str, object]:
        """Returns the compiled form as JSON; `from_json` reads it."""
        return {
            "v": FORM_VERSION,
            "roles": {name: list(parents) for name, parents in self.roles.items()},
            "rules": [rule.to_json() for rule in self.rules],
            "labels": [label.to_json() for label in self.labels],
            "watches": [watch.to_json() for watch in self.watches],
            "zones": list(self.zones),
            "external": dict(self.external),
        }

    @property
    def policy_hash(self) -> bytes:
        """SHA-256 of the canonical JSON: the policy's name."""
        return digest(self.to_json())

    @staticmethod
    def from_json(document: object) -> Policy:
        """Reads a compiled form.

        Raises:
            PolicyRefused: Anything in it is unknown, missing or of another type, or it contradicts itself.
        """
        return _policy(document)


T = TypeVar("T")


def _object(node: object, path: str, *fields: str) -> Mapping[str, object]:
    if not isinstance(node, dict):
        refuse(path, "Here stands an object.")
    if node.keys() != set(fields):
        odd = sorted(map(repr, node.keys() - set(fields))) or sorted(map(repr, set(fields) - node.keys()))
        refuse(
            path, f"The object has exactly the fields {', '.join(fields)}; {', '.join(odd[:5])} is not as it should be."
        )
    return node


def _list(node: object, path: str, least: int = 0) -> Sequence[object]:
    if not isinstance(node, list | tuple) or not least <= len(node) <= MAX_MEMBERS:
        refuse(path, f"Here stands a list of {least} to {MAX_MEMBERS} members.")
    return node


def _word(node: object, path: str, words: Iterable[str]) -> str:
    if not isinstance(node, str) or node not in words:
        refuse(path, f"Here stands one of {', '.join(sorted(words))}.")
    return node


def _text(node: object, path: str, most: int = MAX_TEXT, least: int = 0) -> str:
    if not isinstance(node, str) or not least <= len(node) <= most or not node.isprintable():
        refuse(path, f"Here stands text of {least} to {most} printable characters.")
    return node


def _name(node: object, path: str) -> str:
    if not is_name(node):
        refuse(path, "Here stands a name: a letter or digit, then letters, digits, `-` and `_`.")
    return cast("str", node)


def _whole(node: object, path: str, least: int, most: int) -> int:
    if not is_whole(node, least) or cast("int", node) > most:
        refuse(path, f"Here stands a whole number from {least} to {most}.")
    return cast("int", node)


def _flag(node: object, path: str) -> bool:
    if not isinstance(node, bool):
        refuse(path, "Here stands true or false.")
    return node


def _distinct(names: Sequence[T], path: str) -> tuple[T, ...]:
    if len(set(names)) != len(names):
        refuse(path, "Something stands here twice.")
    return tuple(names)


def _patterns(node: object, path: str) -> tuple[str, ...]:
    patterns = _list(node, path, 1)
    for number, pattern in enumerate(patterns):
        if not is_action(pattern):
            refuse(f"{path}[{number}]", "An action is a name, `prefix*`, `*` or `external`.")
    return _distinct(cast("Sequence[str]", patterns), path)


def _roles(node: object, path: str) -> Mapping[str, tuple[str, ...]]:
    if not isinstance(node, dict) or len(node) > MAX_MEMBERS:
        refuse(path, "Here stands an object of roles.")
    roles = {}
    for name, parents in node.items():
        place = f"{path}.{name}"
        _name(name, place)
        roles[name] = _distinct([_name(each, place) for each in _list(parents, place)], place)
    for name, parents in roles.items():
        for parent in parents:
            if parent not in roles or name in (parent, *roles[parent]) or not set(roles[parent]) <= set(parents):
                refuse(f"{path}.{name}", f"{parent!r} is no role that {name!r} could extend.")
    return roles


def _need(node: object, path: str) -> Need:
    fields = _object(node, path, "count", "kind", "name")
    kind = cast("NeedKind", _word(fields["kind"], f"{path}.kind", get_args(NeedKind)))
    return Need(_whole(fields["count"], f"{path}.count", 1, MAX_CONSENTS), kind, _name(fields["name"], f"{path}.name"))


def _gate(node: object, path: str) -> Gate:
    fields = _object(node, path, "needs", "expires_ms", "not_requester", "escalate")
    needs = [_need(each, f"{path}.needs[{n}]") for n, each in enumerate(_list(fields["needs"], f"{path}.needs", 1))]
    _distinct([(need.kind, need.name) for need in needs], f"{path}.needs")
    expires_ms = _whole(fields["expires_ms"], f"{path}.expires_ms", 1, MAX_SPAN_MS)
    escalate = None
    if fields["escalate"] is not None:
        place = f"{path}.escalate"
        later = _object(fields["escalate"], place, "after_ms", "to")
        after_ms = _whole(later["after_ms"], f"{place}.after_ms", 1, expires_ms - 1)
        escalate = Escalation(after_ms, _need(later["to"], f"{place}.to"))
    return Gate(tuple(needs), expires_ms, _flag(fields["not_requester"], f"{path}.not_requester"), escalate)


def _limit(node: object, path: str, scope: Scope) -> Limit:
    fields = _object(node, path, "measure", "of", "ceiling", "unit", "window", "per")
    measure = cast("Measure", _word(fields["measure"], f"{path}.measure", get_args(Measure)))
    unit = cast("Unit", _word(fields["unit"], f"{path}.unit", _UNITS[measure]))
    window: Calendar | int
    if isinstance(fields["window"], dict):
        rolling = _object(fields["window"], f"{path}.window", "rolling_ms")
        window = _whole(rolling["rolling_ms"], f"{path}.window.rolling_ms", 1, MAX_SPAN_MS)
    else:
        window = cast("Calendar", _word(fields["window"], f"{path}.window", get_args(Calendar)))
    if (fields["of"] is None) != (measure != "sum"):
        refuse(f"{path}.of", "A sum, and only a sum, is of a value.")
    return Limit(
        measure,
        None if fields["of"] is None else read_value(fields["of"], f"{path}.of", scope),
        _whole(fields["ceiling"], f"{path}.ceiling", 0, 2**53 - 1),
        unit,
        window,
        cast("Per", _word(fields["per"], f"{path}.per", get_args(Per))),
    )


def _code(node: object, path: str, effect: Effect) -> str:
    if effect == "forbid" and isinstance(node, str) and is_code(node):
        return node
    return _word(node, path, CODES[effect])


def _rule(node: object, path: str, scope: Scope, roles: Mapping[str, tuple[str, ...]]) -> Rule:
    fields = _object(node, path, "id", "effect", "role", "actions", "when", "code", "message", "gate", "limit")
    effect = cast("Effect", _word(fields["effect"], f"{path}.effect", get_args(Effect)))
    if (fields["gate"] is None) != (effect != "gate") or (fields["limit"] is None) != (effect != "limit"):
        refuse(path, "A gate, and only a gate, has a `gate`; a limit, and only a limit, has a `limit`.")
    role = _word(fields["role"], f"{path}.role", ("*", *roles))
    if effect == "permit" and role == "*":
        refuse(f"{path}.role", "A permit is given to a role.")
    return Rule(
        _text(fields["id"], f"{path}.id", least=1),
        effect,
        role,
        _patterns(fields["actions"], f"{path}.actions"),
        read_expression(fields["when"], f"{path}.when", scope),
        _code(fields["code"], f"{path}.code", effect),
        _text(fields["message"], f"{path}.message"),
        None if fields["gate"] is None else _gate(fields["gate"], f"{path}.gate"),
        None if fields["limit"] is None else _limit(fields["limit"], f"{path}.limit", scope),
    )


def _label(node: object, path: str, scope: Scope) -> LabelRule:
    fields = _object(node, path, "actions", "field", "labels", "where")
    labels = [_name(each, f"{path}.labels") for each in _list(fields["labels"], f"{path}.labels")]
    if set(labels) & set(ORIGIN_KINDS):
        refuse(f"{path}.labels", f"{', '.join(ORIGIN_KINDS)} are origins, not labels.")
    return LabelRule(
        _patterns(fields["actions"], f"{path}.actions"),
        _text(fields["field"], f"{path}.field"),
        _distinct(labels, f"{path}.labels"),
        read_expression(fields["where"], f"{path}.where", scope),
    )


def _watch(node: object, path: str, scope: Scope) -> Watch:
    fields = _object(node, path, "id", "actions", "where", "event", "keep", "of", "window_ms", "scope", "same", "doubt")
    keep = cast("Keep", _word(fields["keep"], f"{path}.keep", get_args(Keep)))
    if (fields["of"] is None) != (keep != "sum"):
        refuse(f"{path}.of", "A sum, and only a sum, is of a value.")
    same = []
    for number, pair in enumerate(_list(fields["same"], f"{path}.same")):
        place = f"{path}.same[{number}]"
        if not isinstance(pair, list | tuple) or len(pair) != 2:  # noqa: PLR2004 (a pair)
            refuse(place, "Here stands a pair of values.")
        same.append((read_value(pair[0], f"{place}[0]", scope), read_value(pair[1], f"{place}[1]", scope)))
    window_ms = fields["window_ms"]
    return Watch(
        _name(fields["id"], f"{path}.id"),
        _patterns(fields["actions"], f"{path}.actions"),
        read_expression(fields["where"], f"{path}.where", scope),
        cast("Event", _word(fields["event"], f"{path}.event", get_args(Event))),
        keep,
        None if fields["of"] is None else read_value(fields["of"], f"{path}.of", scope),
        None if window_ms is None else _whole(window_ms, f"{path}.window_ms", 1, MAX_SPAN_MS),
        cast("Per", _word(fields["scope"], f"{path}.scope", get_args(Per))),
        _distinct(same, f"{path}.same"),
        _flag(fields["doubt"], f"{path}.doubt"),
    )


def _external(node: object, path: str) -> Mapping[str, bool]:
    if not isinstance(node, dict) or len(node) > MAX_MEMBERS:
        refuse(path, "Here stands an object of actions.")
    for name, value in node.items():
        if not is_action(name) or "*" in name:
            refuse(path, "Here stand names of actions.")
        _flag(value, f"{path}.{name}")
    return dict(node)


def _policy(document: object) -> Policy:
    fields = _object(document, "$", "v", "roles", "rules", "labels", "watches", "zones", "external")
    if type(fields["v"]) is not int or fields["v"] != FORM_VERSION:
        refuse("$.v", f"Only version {FORM_VERSION} of the compiled form is known.")
    alone = Scope({}, alone=True)
    watches = [_watch(each, f"$.watches[{n}]", alone) for n, each in enumerate(_list(fields["watches"], "$.watches"))]
    _distinct([watch.id for watch in watches], "$.watches")
    labels = [_label(each, f"$.labels[{n}]", alone) for n, each in enumerate(_list(fields["labels"], "$.labels"))]
    scope = Scope({watch.id: watch.keep for watch in watches}, zones=alone.zones)
    roles = _roles(fields["roles"], "$.roles")
    rules = [_rule(each, f"$.rules[{n}]", scope, roles) for n, each in enumerate(_list(fields["rules"], "$.rules"))]
    _distinct([rule.id for rule in rules], "$.rules")
    zones = tuple(str(zone) for zone in _list(fields["zones"], "$.zones"))
    if list(zones) != sorted(scope.zones):
        refuse("$.zones", "The time zones are not those that the expressions ask for, sorted.")
    return Policy(
        roles, tuple(rules), tuple(labels), tuple(watches), zones, _external(fields["external"], "$.external")
    )
