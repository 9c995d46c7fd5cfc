"""The part of compiled policies that Cedar has, too, as Cedar text.

In the common part are: roles with `extends` (as groups of principals), actions by name, by prefix, `*` and `external` (as groups of
actions), `forbid`, `permit` and whether a gate asks; and conditions made of `true`, `false`, `and`, `or`, `not`, `==` and `!=` of
texts, whole numbers and truths, `<`, `<=`, `>`, `>=` of whole numbers, `in` a list of constants or ranges, patterns with one `*`,
`starts`, `ends`, `contains` of texts and lists, `all_in`, `any_in` and `none_in` of lists of texts, `present`, money in whole units,
`principal` fields, and labels of the run. Cedar has no third truth value: each condition becomes two, one that says when it is true
and one that says when it is false, and a forbid fires where the second does not hold.

Not in it are: history and windows, limits, provenance, `every` and `some`, `host`, `domain`, `path`, `cidr`, `lower`, lengths,
local time, fractions, values of several types, and who has to consent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Final, NamedTuple, cast

from holdfast_verdict.engine.numbers import NANO_PER
from holdfast_verdict.policy import Policy, Rule

Node = tuple[object, ...]


class NotCommon(ValueError):
    """Cedar has no such thing."""


class Both(NamedTuple):
    """When a condition is true, and when it is false, in Cedar."""

    true: str
    false: str


_ORDERS: Final = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def text(words: object) -> str:
    return '"' + str(words).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _pattern(words: str) -> str:
    return words.replace("\\", "\\\\").replace('"', '\\"').replace("*", "\\*")


def _all(parts: Iterable[str]) -> str:
    return "(" + " && ".join(parts) + ")"


def _any(parts: Iterable[str]) -> str:
    return "(" + " || ".join(parts) + ")"


def value(node: Node) -> tuple[list[str], str]:
    """Returns what must be there first, and the value."""
    match node:
        case "arg", *names:
            guards, place = [], "context.args"
            for name in cast("list[str]", names):
                guards.append(f"{place} has {name}")
                place = f"{place}.{name}"
            return guards, place
        case "principal", str(name):
            return [], f"principal.{name}"
        case (("int" | "money"), int(number)):
            return [], str(number)
        case "text", str(words):
            return [], text(words)
        case "bool", bool(truth):
            return [], str(truth).lower()
        case "as_money", (*_,) as inner, str(unit):
            guards, amount = value(tuple(inner))
            return guards, f"({amount} * {NANO_PER[unit]})"
    raise NotCommon(repr(node))


def _known(nodes: Iterable[Node], test: str, opposite: str) -> Both:
    guards = [guard for node in nodes for guard in value(node)[0]]
    return Both(_all([*guards, test]), _all([*guards, opposite]))


def condition(node: Node) -> Both:
    """Returns a condition.

    Raises:
        NotCommon: Cedar has no such thing.
    """
    operator, operands = str(node[0]), cast("tuple[Node, ...]", node[1:])
    match operator:
        case "true":
            return Both("true", "false")
        case "false":
            return Both("false", "true")
        case "and" | "or":
            parts = [condition(each) for each in operands]
            every, some = (_all, _any) if operator == "and" else (_any, _all)
            return Both(every(part.true for part in parts), some(part.false for part in parts))
        case "not":
            inner = condition(operands[0])
            return Both(inner.false, inner.true)
        case "==" | "!=":
            (_, left), (_, right) = value(operands[0]), value(operands[1])
            tests = (f"{left} == {right}", f"{left} != {right}")
            return _known(operands, *(tests if operator == "==" else tests[::-1]))
        case "<" | "<=" | ">" | ">=":
            (_, left), (_, right) = value(operands[0]), value(operands[1])
            return _known(operands, f"{left} {operator} {right}", f"{left} {_ORDERS[operator]} {right}")
        case "run_has":
            return Both(f"context.labels.contains({text(node[1])})", f"!context.labels.contains({text(node[1])})")
        case "present":
            guards, _ = value(operands[0])
            return Both(_all(guards), f"!{_all(guards)}")
        case _:
            return _of_texts(operator, node)


def _of_texts(operator: str, node: Node) -> Both:
    subject = cast("Node", node[1])
    guards, place = value(subject)
    match operator:
        case "starts" | "ends":
            words = _pattern(str(cast("Node", node[2])[1]))
            like = f'{place} like "{words}*"' if operator == "starts" else f'{place} like "*{words}"'
            return Both(_all([*guards, like]), _all([*guards, f"!({like})"]))
        case "contains":
            words = str(cast("Node", node[2])[1])
            holds = f"{place}.contains({text(words)})" if _is_list(subject) else f'{place} like "*{_pattern(words)}*"'
            return Both(_all([*guards, holds]), _all([*guards, f"!({holds})"]))
        case "in":
            tests = [_match(place, matcher) for matcher in cast("Sequence[Node]", node[2])]
            return Both(_all([*guards, _any(tests)]), _all([*guards, f"!{_any(tests)}"]))
        case "all_in" | "any_in" | "none_in":
            listed = "[" + ", ".join(text(cast("Node", each[1])[1]) for each in cast("Sequence[Node]", node[2])) + "]"
            some, every = f"{place}.containsAny({listed})", f"{listed}.containsAll({place})"
            if operator == "all_in":
                shown = f"!{place}.isEmpty()"
                return Both(_all([*guards, shown, every]), _all([*guards, shown, f"!{every}"]))
            true, false = (some, f"!{some}") if operator == "any_in" else (f"!{some}", some)
            return Both(_all([*guards, true]), _all([*guards, false]))
    raise NotCommon(operator)


def _is_list(node: Node) -> bool:
    return node[-1] in ("l", "to")


def _match(place: str, matcher: Node) -> str:
    match matcher:
        case "is", (("text" | "int"), constant):
            return f"{place} == {text(constant) if isinstance(constant, str) else constant}"
        case "glob", str(pattern):
            first, _, last = pattern.partition("*")
            return f'{place} like "{_pattern(first)}*{_pattern(last)}"'
        case "range", ("int", low), ("int", high):
            return f"({place} >= {low} && {place} <= {high})"
    raise NotCommon(repr(matcher))


def _scope(rule: Rule) -> str:
    who = "principal" if rule.role == "*" else f"principal in Role::{text(rule.role)}"
    groups = ", ".join(f"Action::{text(f'pattern {pattern}')}" for pattern in rule.actions)
    return f"{who}, action in [{groups}], resource"


def cedar_of(policy: Policy) -> tuple[str, str]:
    """Returns what permits and forbids as Cedar text, and the gates, of which a permit says that they ask.

    Raises:
        NotCommon: Some rule has what Cedar has not.
    """
    rules, gates = [], []
    for rule in policy.rules:
        both = condition(rule.when)
        if rule.effect == "permit":
            rules.append(f"permit ({_scope(rule)}) when {{ {both.true} }};")
        elif rule.effect == "forbid":
            rules.append(f"forbid ({_scope(rule)}) when {{ !({both.false}) }};")
        elif rule.effect == "gate":
            gates.append(f"permit ({_scope(rule)}) when {{ !({both.false}) }};")
        else:
            raise NotCommon(rule.effect)
    return "\n".join(rules), "\n".join(gates)


def entities_of(policy: Policy, actions: Iterable[tuple[str, bool]], tenants: Iterable[str]) -> str:
    """Returns the entities: roles, one principal for each role and tenant, actions with the patterns that cover them."""
    patterns = {pattern for rule in policy.rules for pattern in rule.actions}
    made: list[dict[str, object]] = [
        {
            "uid": {"type": "Role", "id": role},
            "attrs": {},
            "parents": [{"type": "Role", "id": each} for each in parents],
        }
        for role, parents in policy.roles.items()
    ]
    made += [
        {
            "uid": {"type": "Agent", "id": f"{role} {tenant}"},
            "attrs": {"tenant": tenant, "role": role},
            "parents": [{"type": "Role", "id": role}],
        }
        for role, tenant in product(policy.roles, tenants)
    ]
    made += [{"uid": {"type": "Action", "id": f"pattern {each}"}, "attrs": {}, "parents": []} for each in patterns]
    for name, external in actions:
        covering = [
            pattern
            for pattern in patterns
            if pattern == name
            or (pattern == "external" and external)
            or (pattern.endswith("*") and name.startswith(pattern[:-1]))
        ]
        parents = [{"type": "Action", "id": f"pattern {pattern}"} for pattern in covering]
        made.append({"uid": {"type": "Action", "id": name}, "attrs": {}, "parents": parents})
    return json.dumps(made)
