"""Expressions of compiled policies: their one form, checked node by node, so that an engine never meets what it does not know.

An expression is a tuple `(operator, operand, …)`, a value and a matcher likewise; in JSON they are lists. Whatever is not listed
here is refused, never skipped (LAW 7).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn

from holdfast_verdict.canonical import MAX_INTEGER
from holdfast_verdict.problems import PolicyRefused, Problem

Expr = tuple[object, ...]
Value = tuple[object, ...]
Matcher = tuple[object, ...]

MAX_EXPRESSION_DEPTH: Final = 48
"""How deep an expression may nest: canonical JSON ends at 64."""
MAX_OPERANDS: Final = 10_000
MAX_TEXT: Final = 4_096

TRUE: Final[Expr] = ("true",)
FALSE: Final[Expr] = ("false",)

COMPARISONS: Final = ("==", "!=", "<", "<=", ">", ">=")
MEMBERSHIPS: Final = ("in", "all_in", "any_in", "none_in")
PRINCIPAL_FIELDS: Final = ("tenant", "project", "user", "agent", "role", "run", "roles")
LOCAL_PARTS: Final = ("hour", "minute", "minute_of_day", "weekday", "date")
ESTIMATES: Final = ("nano_usd", "tokens")
MONEY_UNITS: Final = ("usd", "usd_cents", "nano_usd")
ORIGIN_KINDS: Final = ("user", "model", "tool")

# kinds of operands: V value, E expression, M list of matchers, X name that is bound in the operands behind it, W watch, N whole
# number of at least 0, I whole number, L label, R role, O origin, S list of sources, T text; lower-case words are the sets of `_WORDS`
_EXPRESSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "true": (),
    "false": (),
    "not": ("E",),
    **dict.fromkeys((*COMPARISONS, "starts", "ends", "contains"), ("V", "V")),
    **dict.fromkeys(MEMBERSHIPS, ("V", "M")),
    "present": ("V",),
    "every": ("V", "X", "E"),
    "some": ("V", "X", "E"),
    "from": ("V", "O"),
    "only_from": ("V", "S"),
    "run_has": ("L",),
    "released": ("L", "R"),
    "happened": ("W",),
    "count<=": ("W", "N"),
    "sum<=": ("W", "V", "N"),
}
_VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "principal": ("principal",),
    **dict.fromkeys(("bytes", "chars", "size", "host", "domain", "lower"), ("V",)),
    "int": ("I",),
    "number": ("D",),
    "money": ("I",),
    "text": ("T",),
    "bool": ("B",),
    "null": (),
    "local": ("Z", "local"),
    "estimate": ("estimate",),
    "as_money": ("V", "unit"),
}
_MATCHERS: Final[Mapping[str, tuple[str, ...]]] = {
    "is": ("V",),
    "glob": ("G",),
    "domain": ("H",),
    "host": ("H",),
    "path": ("T",),
    "cidr": ("T",),
    "range": ("V", "V"),
}
_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "principal": PRINCIPAL_FIELDS,
    "local": LOCAL_PARTS,
    "estimate": ESTIMATES,
    "unit": MONEY_UNITS,
}
_WATCH_OF: Final = {"happened": "last", "count<=": "count", "sum<=": "sum"}
_NOT_OF_THE_ACTION_ALONE: Final = frozenset(
    {"from", "only_from", "run_has", "released", "happened", "count<=", "sum<="}
)

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,127}\Z")
_ACTION: Final = re.compile(r"[\x21-\x7e]{1,200}\Z")
_DECIMAL: Final = re.compile(r"-?(0|[1-9][0-9]{0,30})\.[0-9]{0,30}[1-9]\Z")
_ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}\Z")
_GLOB: Final = re.compile(r"[^*]*\*[^*]*\Z")
_HOST: Final = re.compile(r"(\*\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\Z|\[?[0-9a-f:.]{2,45}\]?\Z")


_FORMS: Final[Mapping[str, re.Pattern[str]]] = {"D": _DECIMAL, "Z": _ZONE, "G": _GLOB, "H": _HOST}


def refuse(path: str, message: str) -> NoReturn:
    """Raises the refusal of a compiled form."""
    raise PolicyRefused([Problem("policy.form", message, path=path)])


def is_name(value: object) -> bool:
    """Says whether a value may name a role, a label or a bound member."""
    return isinstance(value, str) and _NAME.match(value) is not None


def is_action(value: object) -> bool:
    """Says whether a value may name an action or, with one `*` at its end, several."""
    return isinstance(value, str) and _ACTION.match(value) is not None and "*" not in value[:-1]


def is_whole(value: object, least: int = -MAX_INTEGER) -> bool:
    """Says whether a value is an integer that canonical JSON has."""
    return type(value) is int and least <= value <= MAX_INTEGER


@dataclass(slots=True)
class Scope:
    """What an expression may speak of, and what it spoke of.

    Attributes:
        watches: What each watch keeps, by id.
        alone: Whether only the action and its principal may be asked about, not run, history or sources.
        zones: The time zones that were met.
    """

    watches: Mapping[str, str]
    alone: bool = False
    zones: set[str] = field(default_factory=set)


def read_expression(node: object, path: str, scope: Scope) -> Expr:
    """Returns an expression from its JSON.

    Raises:
        PolicyRefused: It has not the documented form.
    """
    return _expression(node, path, scope, frozenset(), 0)


def read_value(node: object, path: str, scope: Scope) -> Value:
    """Returns a value from its JSON; see `read_expression`."""
    return _value(node, path, scope, frozenset(), 0)


def to_json(node: object) -> object:
    """Returns an expression's JSON: lists where it has tuples."""
    return [to_json(member) for member in node] if isinstance(node, tuple) else node


def _parts(node: object, path: str, depth: int) -> tuple[str, tuple[object, ...]]:
    if depth > MAX_EXPRESSION_DEPTH:
        refuse(path, f"The expression is nested deeper than {MAX_EXPRESSION_DEPTH}.")
    if not isinstance(node, list | tuple) or not node or not isinstance(node[0], str):
        refuse(path, "An expression is a list that begins with its operator.")
    if len(node) > MAX_OPERANDS:
        refuse(path, f"The expression has more than {MAX_OPERANDS} operands.")
    return node[0], tuple(node[1:])


def _expression(node: object, path: str, scope: Scope, bound: frozenset[str], depth: int) -> Expr:
    operator, operands = _parts(node, path, depth)
    if operator in ("and", "or"):
        if len(operands) < 2:  # noqa: PLR2004 (a conjunction of one is another spelling of the same thing)
            refuse(path, f"`{operator}` joins at least two expressions.")
        return (
            operator,
            *(_expression(each, f"{path}[{n}]", scope, bound, depth + 1) for n, each in enumerate(operands, 1)),
        )
    kinds = _EXPRESSIONS.get(operator)
    if kinds is None:
        refuse(path, f"There is no expression {operator!r}.")
    if scope.alone and operator in _NOT_OF_THE_ACTION_ALONE:
        refuse(path, f"`{operator}` has no place here: only the action and its principal may be asked about.")
    if operator in _WATCH_OF and operands and scope.watches.get(str(operands[0])) != _WATCH_OF[operator]:
        refuse(path, f"`{operator}` names no watch that keeps {_WATCH_OF[operator]!r}.")
    return _operands(operator, operands, kinds, path, scope, bound, depth)


def _value(node: object, path: str, scope: Scope, bound: frozenset[str], depth: int) -> Value:
    operator, operands = _parts(node, path, depth)
    if operator in ("arg", "var"):
        names = operands[1:] if operator == "var" else operands
        if not operands or not all(isinstance(name, str) and 0 < len(name) <= MAX_TEXT for name in operands):
            refuse(path, f"`{operator}` is followed by names.")
        if operator == "var" and operands[0] not in bound:
            refuse(path, f"{operands[0]!r} is not bound here.")
        _texts(names, path)
        return (operator, *operands)
    kinds = _VALUES.get(operator)
    if kinds is None:
        refuse(path, f"There is no value {operator!r}.")
    return _operands(operator, operands, kinds, path, scope, bound, depth)


def _matcher(node: object, path: str, scope: Scope, bound: frozenset[str], depth: int) -> Matcher:
    operator, operands = _parts(node, path, depth)
    kinds = _MATCHERS.get(operator)
    if kinds is None:
        refuse(path, f"There is no matcher {operator!r}.")
    return _operands(operator, operands, kinds, path, scope, bound, depth)


def _operands(
    operator: str,
    operands: tuple[object, ...],
    kinds: tuple[str, ...],
    path: str,
    scope: Scope,
    bound: frozenset[str],
    depth: int,
) -> tuple[object, ...]:
    if len(operands) != len(kinds):
        refuse(path, f"`{operator}` takes {len(kinds)} operands, not {len(operands)}.")
    read: list[object] = [operator]
    for number, (operand, kind) in enumerate(zip(operands, kinds, strict=True), 1):
        place = f"{path}[{number}]"
        if kind == "E":
            read.append(_expression(operand, place, scope, bound, depth + 1))
        elif kind == "V":
            read.append(_value(operand, place, scope, bound, depth + 1))
        elif kind == "M":
            read.append(_matchers(operand, place, scope, bound, depth + 1))
        elif kind == "O":
            read.append(_origin(operand, place))
        elif kind == "S":
            read.append(_sources(operand, place))
        else:
            _check_leaf(operand, kind, place)
            if kind == "X":
                if operand in bound:
                    refuse(place, f"{operand!r} is bound already.")
                bound |= {str(operand)}
            elif kind == "Z":
                scope.zones.add(str(operand))
            read.append(operand)
    return tuple(read)


def _matchers(operand: object, path: str, scope: Scope, bound: frozenset[str], depth: int) -> tuple[Matcher, ...]:
    if not isinstance(operand, list | tuple) or not 0 < len(operand) <= MAX_OPERANDS:
        refuse(path, f"Here stands a list of 1 to {MAX_OPERANDS} matchers.")
    return tuple(_matcher(each, f"{path}[{n}]", scope, bound, depth + 1) for n, each in enumerate(operand))


def _origin(operand: object, path: str) -> object:
    if isinstance(operand, list | tuple):
        if len(operand) != 2 or operand[0] != "tool" or not is_action(operand[1]):  # noqa: PLR2004 (a pair)
            refuse(path, 'An origin is "user", "model", "tool", a label, or ["tool", NAME].')
        return tuple(operand)
    if not is_name(operand):
        refuse(path, 'An origin is "user", "model", "tool", a label, or ["tool", NAME].')
    return operand


def _sources(operand: object, path: str) -> tuple[object, ...]:
    if not isinstance(operand, list | tuple) or not 0 < len(operand) <= MAX_OPERANDS:
        refuse(path, f"Here stands a list of 1 to {MAX_OPERANDS} origins.")
    origins = [_origin(each, f"{path}[{n}]") for n, each in enumerate(operand)]
    if any(isinstance(each, str) and each not in ORIGIN_KINDS for each in origins):
        refuse(path, "Nothing comes from a label alone.")
    return tuple(origins)


def _texts(texts: tuple[object, ...], path: str) -> None:
    for text in texts:
        try:
            str(text).encode()
        except UnicodeEncodeError:
            refuse(path, "The text holds a lone surrogate.")


def _check_leaf(operand: object, kind: str, path: str) -> None:
    if kind in _WORDS:
        if operand not in _WORDS[kind]:
            refuse(path, f"Here stands one of {', '.join(_WORDS[kind])}.")
        return
    if kind == "B":
        fits = isinstance(operand, bool)
    elif kind in "NI":
        fits = is_whole(operand, 0 if kind == "N" else -MAX_INTEGER)
    elif kind in "LRXW":
        fits = is_name(operand) and operand not in (ORIGIN_KINDS if kind == "L" else ())
    elif not isinstance(operand, str) or len(operand) > MAX_TEXT:
        fits = False
    else:
        _texts((operand,), path)
        form = _FORMS.get(kind)
        fits = form is None or form.match(operand) is not None
    if not fits:
        refuse(
            path,
            f"{operand!r} has no place here."
            if isinstance(operand, str | int)
            else "Another thing has its place here.",
        )
