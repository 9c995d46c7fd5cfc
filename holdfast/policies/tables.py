"""A role's table of rules as the text of a policy that means the same.

Roles had tables before they had texts. Nobody takes one any more: migration 0041 has translated those that were stored, files are
translated by `holdfast policy translate`, and an audit bundle says in both forms what decided then.

Where the language cannot say exactly what a row says, the text is the stricter of the two readings: a permit that cannot be said is
left out, and of a forbid or a gate the condition is, so that it holds more often (LAW 7). A comment in the text says so.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal

from holdfast.errors import RequestInvalid
from holdfast_verdict.actions.kinds import KINDS, NO_NAME
from holdfast_verdict.canonical import MAX_INTEGER, JsonValue
from holdfast_verdict.decide import Condition, Rule
from holdfast_verdict.expressions import MAX_TEXT, is_action
from holdfast_verdict.language.compiler import MAX_MESSAGE
from holdfast_verdict.language.grammar import reserved
from holdfast_verdict.language.source import read_text
from holdfast_verdict.language.wording import text as quoted
from holdfast_verdict.problems import PolicyRefused

_PRINCIPAL: Final = ("tenant", "project", "user", "agent", "role")
"""What tables knew of who acts. Other names were never there for them, also such as policies know today."""
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_DOTTED: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*\Z")
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_DOMAIN: Final = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\Z")
_TOOLS_LIKE_KINDS: Final = frozenset({"http.request"})
"""Tools that are called like a kind of action, of which there are no other actions: the name means the tool in both."""
_ALL_TOOLS: Final = ", ".join(["tools", *sorted(_TOOLS_LIKE_KINDS)])
"""In policies `tools` are those that are not called like a kind."""
_MEASURES: Final = ("bytes", "chars", "size", "host", "domain", "lower")

_NAME_LENGTH_MAX: Final = 100
_MARK_LENGTH: Final = 16

Fixed = Literal["always", "never"]
"""What a condition comes to whatever the action is."""


class RoleTableRefused(RequestInvalid):
    """A role's rules were sent as a table, and not as a text in the language of policies."""

    code: ClassVar[str] = "role.table"


@dataclass(frozen=True, slots=True)
class _Place:
    """A value of the action or of who acts, as the language writes it."""

    text: str
    is_principal: bool


def policy_text(roles: Mapping[str, Sequence[Rule]]) -> str:
    """Returns a policy of the same meaning as the tables of roles.

    Rules keep their ids. Where two roles have a rule of the same id, both are called by role and id: `support/refund-small`.

    Args:
        roles: The tables, by the role's name.

    Returns:
        Source text, to be compiled without a catalogue: tables may name arguments that no tool has.
    """
    ids = Counter(rule.rule_id for rules in roles.values() for rule in rules)
    lines: list[str] = []
    for role, rules in roles.items():
        lines += [*([""] if lines else []), f"role {name_text(role)} {{"]
        for rule in rules:
            name = rule.rule_id if ids[rule.rule_id] == 1 else f"{role}/{rule.rule_id}"
            lines += [f"  {line}" for line in _statement(rule, name)]
        lines.append("}")
    return "\n".join([*lines, ""])


def texts_of(tables: Mapping[str, Sequence[Rule]], taken: AbstractSet[str] = frozenset()) -> dict[str, str]:
    """Returns the text of each role's table. Decisions cite a rule by its id, so an id that two roles have is told apart.

    Args:
        tables: The tables, by the role's name.
        taken: Ids of rules that are none of theirs.

    Returns:
        The texts, by the role's name.
    """
    often = Counter(rule.rule_id for rules in tables.values() for rule in rules) + Counter(taken)
    used = {*taken, *(rule_id for rule_id, count in often.items() if count == 1)}
    texts = {}
    for role in sorted(tables):
        named = []
        for rule in tables[role]:
            rule_id = rule.rule_id if often[rule.rule_id] == 1 else _told_apart(role, rule.rule_id, used)
            used.add(rule_id)
            named.append(replace(rule, rule_id=rule_id))
        texts[role] = policy_text({role: named})
    return texts


def _told_apart(role: str, rule_id: str, taken: AbstractSet[str]) -> str:
    name = f"{role}.{rule_id}"
    if len(name) <= _NAME_LENGTH_MAX and name not in taken:
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:_MARK_LENGTH]
    return f"{mark}.{rule_id}"[:_NAME_LENGTH_MAX]


def name_text(name: str) -> str:
    """Returns a name as the language writes it: in quotes if it could be taken for something else."""
    return name if _WORD.match(name) and name not in reserved() else quoted(name)


def _can_be_said(text: str) -> bool:
    if len(text) > MAX_TEXT or any(letter < " " and letter not in "\n\t" for letter in text):
        return False
    try:
        read_text(quoted(text))
    except PolicyRefused:
        return False
    return True


def _action(rule: Rule) -> str | None:
    """Returns the pattern of the actions that a row speaks of; `None` for a tool whose name means something else in policies."""
    if rule.kind != "tool.call":
        return rule.kind
    if rule.tool == "*":
        return _ALL_TOOLS
    if rule.tool in KINDS and rule.tool not in _TOOLS_LIKE_KINDS:
        return None
    if rule.tool in NO_NAME or not is_action(rule.tool) or "*" in rule.tool:
        return None
    return rule.tool if _DOTTED.match(rule.tool) and rule.tool not in reserved() else quoted(rule.tool)


def _statement(rule: Rule, name: str) -> list[str]:
    grants = rule.effect == "permit"
    action = _action(rule)
    told = [_condition(condition, grants=grants) for condition in rule.conditions]
    doubt = [condition.path for condition, said in zip(rule.conditions, told, strict=True) if said is None]
    lines = []
    if action is None or doubt:
        why = "its tool's name" if action is None else f"what it asks of {', '.join(doubt)}"
        lines.append(f"# rule {name} is {'left out' if grants else 'stricter'}: no policy can say {why}")
        if grants:
            return lines
    said = ["always" if each is None else each for each in told]
    if "never" in said:
        return [*lines, f"# rule {name} never matches"]
    where = " and ".join(_joined(each) for each in said if each != "always")
    clause = f" where {where}" if where else ""
    named = f"{rule.effect} {action or _ALL_TOOLS}{clause} as {quoted(name)}"
    message = _message(rule.message)
    if rule.effect == "gate":
        head = f"gate {quoted(name)}: {action or _ALL_TOOLS}{clause}"
        return [*lines, f'{head} needs 1 of role("{rule.approver_role}"), expires {rule.expires_s}s{message}']
    code = f" code {quoted(rule.code)}" if rule.effect == "forbid" and rule.code else ""
    return [*lines, f"{named}{code}{message}"]


def _joined(condition: str) -> str:
    return f"({condition})" if " or " in condition else condition


def _message(message: str) -> str:
    line = "".join(letter if letter.isprintable() else " " for letter in message)[:MAX_MESSAGE]
    return f" because {quoted(line)}" if line and _can_be_said(line) else ""


def _place(path: str) -> _Place | None:
    """Returns what a path names; `None` if there never was such a thing."""
    root, *names = path.split(".")
    if root == "principal":
        return _Place(path, is_principal=True) if len(names) == 1 and names[0] in _PRINCIPAL else None
    text, plain = root, True
    for name in names:
        plain = plain and _FIELD.match(name) is not None and name not in _MEASURES
        text += f".{name}" if plain else f"[{quoted(name)}]"
    return _Place(text, is_principal=False)


def _constant(value: JsonValue) -> str | None:
    """Returns a text, whole number or truth as the language writes it, if it can."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if abs(value) <= MAX_INTEGER else None
    if not isinstance(value, str) or not _can_be_said(value):
        return None
    return f"exactly({quoted(value)})" if "*" in value else quoted(value)


def _condition(condition: Condition, *, grants: bool) -> str | Fixed | None:
    """Returns a condition as the language writes it; `None` for one that it cannot write, or that nobody can ever tell.

    A permit matches where its condition is true, and all else where it is not false. So only the one or only the other has to agree
    with the table, and the text says no more than that.
    """
    left = _place(condition.path)
    if left is None:
        return None
    if condition.other_path:
        right = _place(condition.other_path)
        return None if right is None else _between(condition.operator, left, right, grants=grants)
    value = condition.value
    operator = condition.operator
    if operator in ("==", "!="):
        return _equality(operator, left, value, grants=grants)
    if operator in ("<=", ">"):
        is_asked = type(value) is int and abs(value) <= MAX_INTEGER and not left.is_principal
        return f"{left.text} {operator} {value}" if is_asked else None
    if not isinstance(value, list | tuple):
        return None
    if operator in ("in", "not_in"):
        return _membership(operator, left, value, grants=grants)
    if operator in ("all_in_domains", "any_outside_domains") and not left.is_principal:
        domains = dict.fromkeys(each for each in value if isinstance(each, str) and _DOMAIN.match(each))
        return _domains(operator, left, tuple(domains), grants=grants)
    return None  # an operator of a newer table


def _equality(operator: str, left: _Place, value: JsonValue, *, grants: bool) -> str | Fixed | None:
    if value is None:
        return _null(operator, left, grants=grants)
    constant = _constant(value)
    if constant is None or (left.is_principal and not isinstance(value, str)):
        return None
    return f"{left.text} {operator} {constant}"


def _null(operator: str, left: _Place, *, grants: bool) -> str | Fixed:
    """Compares with null; what is missing is unknown, and equals nothing."""
    if left.is_principal:
        return "never" if operator == "==" else "always"
    there = f"{left.text} == {left.text}"
    if operator == "==":
        return f"{left.text} is absent and {there}" if grants else f"{left.text} is absent"
    return f"{left.text} is present" if grants else f"{left.text} is present or not {there}"


def _membership(operator: str, left: _Place, values: Sequence[JsonValue], *, grants: bool) -> str | Fixed | None:
    told = [(value, _constant(value)) for value in values if value is not None]
    if any(constant is None for _, constant in told):
        return None
    if left.is_principal:
        told = [(value, constant) for value, constant in told if isinstance(value, str)]
        if not told:
            nothing_alike = None if values and None not in values else "never"
            return nothing_alike if operator == "in" or nothing_alike is None else "always"
    members = dict.fromkeys(str(constant) for _, constant in told)
    is_in = operator == "in"
    parts = []
    if members:
        parts.append(f"{left.text} {'in' if is_in else 'not in'} [{', '.join(members)}]")
    if None in values and not left.is_principal:
        parts.append(str(_null("==" if is_in else "!=", left, grants=grants)))
    if not parts:  # an empty list: nothing is in it, and of what is missing nobody can tell
        return f"{left.text} {'!=' if is_in else '=='} {left.text}"
    return _all(parts) if not is_in else _any(parts)


def _all(parts: Iterable[str]) -> str:
    return " and ".join(_joined(part) for part in parts)


def _any(parts: Iterable[str]) -> str:
    listed = list(parts)
    return listed[0] if len(listed) == 1 else " or ".join(f"({part})" if " and " in part else part for part in listed)


def _domains(operator: str, left: _Place, domains: Sequence[str], *, grants: bool) -> str:
    member = f"address in domain({', '.join(map(quoted, domains))})" if domains else "address != address"
    if operator == "all_in_domains":
        return _all([f"every {left.text} as address: ({member})", *_not_empty(left, grants=grants)])
    return f"some {left.text} as address: (not {member})"


def _not_empty(left: _Place, *, grants: bool) -> list[str]:
    """Returns what is false for an empty list alone: of one nobody can tell whether `every` holds, and to tables it did not."""
    return [] if grants else [f"some {left.text} as address: (address == address)"]


def _between(operator: str, left: _Place, right: _Place, *, grants: bool) -> str | None:
    """Compares two values of the action. Tables ordered whole numbers alone, and took only lists for lists."""
    if operator in ("==", "!="):
        return f"{left.text} {operator} {right.text}"
    if operator in ("<=", ">"):
        if left.is_principal or right.is_principal:
            return None
        return _if(f"{left.text} {operator} {right.text}", [f"{left.text} > {MAX_INTEGER}"], grants=grants)
    if right.is_principal:
        return None  # a name is no list
    no_list = f"some {right.text} as member: (member != member)"
    if operator in ("in", "not_in"):
        found = f"{right.text} contains {left.text}"
        asked = found if operator == "in" else f"not {found}"
        return _if(asked, [no_list, f"{left.text} != {left.text}"], grants=grants)
    if left.is_principal:
        return None
    member = f"{right.text} contains domain(address)"
    if operator == "all_in_domains":
        every = f"every {left.text} as address: ({member})"
        return _if(_all([every, *_not_empty(left, grants=grants)]), [no_list], grants=grants)
    return _if(f"some {left.text} as address: (not {member})", [no_list], grants=grants)


def _if(asked: str, nonsense: Sequence[str], *, grants: bool) -> str:
    """Returns what is true (for a permit), or not false (for all else), only as far as the question makes sense.

    Args:
        asked: The question.
        nonsense: Conditions that are never true, and unknown where the question makes no sense.
        grants: Whether it stands in a permit.
    """
    if grants:
        return " and ".join([asked, *(f"not {each}" for each in nonsense)])
    return _any([asked, *nonsense])
