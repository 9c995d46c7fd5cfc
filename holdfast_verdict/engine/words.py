"""Conditions as a person reads them, for traces: which condition of a rule failed, in the words of the language."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from holdfast_verdict.engine.numbers import NANO_PER

_MEMBERSHIP: Final = {"in": "in", "all_in": "all in", "any_in": "any in", "none_in": "none in"}
_INFIX: Final = {"==", "!=", "<", "<=", ">", ">="}
_TESTS: Final = {"starts": "starts with", "ends": "ends with", "contains": "contains"}
_SHOWN: Final = 3


def in_words(node: object) -> str:
    """Writes a condition, a value or a matcher in words; long lists are cut."""
    if not isinstance(node, tuple | list) or not node:
        return str(node)
    operator, operands = str(node[0]), node[1:]
    if operator in _INFIX:
        return f"{in_words(operands[0])} {operator} {in_words(operands[1])}"
    if operator in _TESTS:
        return f"{in_words(operands[0])} {_TESTS[operator]} {in_words(operands[1])}"
    if operator in _MEMBERSHIP:
        return f"{in_words(operands[0])} {_MEMBERSHIP[operator]} {_list(operands[1])}"
    words = _condition(operator, operands)
    return words if words is not None else _value(operator, operands)


def _list(nodes: object) -> str:
    members = [in_words(node) for node in nodes] if isinstance(nodes, Sequence) else []
    more = [f"… {len(members) - _SHOWN} more"] if len(members) > _SHOWN else []
    return f"[{', '.join(members[:_SHOWN] + more)}]"


def _condition(operator: str, operands: Sequence[object]) -> str | None:
    match operator, operands:
        case (("and" | "or"), _):
            return f"({f' {operator} '.join(in_words(operand) for operand in operands)})"
        case "not", (inner,):
            return f"not {in_words(inner)}"
        case "present", (value,):
            return f"{in_words(value)} is present"
        case (("every" | "some"), (value, name, inner)):
            return f"{operator} {in_words(value)} as {name}: ({in_words(inner)})"
        case "from", (value, origin):
            return f"{in_words(value)} from {_origin(origin)}"
        case "run_has", (label,):
            return f"run has {label}"
        case "released", (label, role):
            return f"{label} released by role({_text(role)})"
        case "happened", (watch,):
            return f"{watch} happened"
        case "count<=", (watch, most):
            return f"count of {watch} <= {most}"
        case "sum<=", (watch, value, most):
            return f"sum of {watch} with {in_words(value)} <= {most}"
    return None


def _origin(origin: object) -> str:
    return f"tool({_text(origin[1])})" if isinstance(origin, tuple | list) else str(origin)


def _value(operator: str, operands: Sequence[object]) -> str:
    match operator, operands:
        case "arg", names:
            return ".".join(["args", *map(str, names)])
        case "var", names:
            return ".".join(map(str, names))
        case "principal", (name,):
            return f"principal.{name}"
        case (("bytes" | "chars" | "size" | "host" | "domain" | "lower"), ((*_,) as inner,)):
            return f"{in_words(inner)}.{operator}"
        case "as_money", (inner, _):
            return in_words(inner)
        case "money", (int(nano),):
            return f"usd({_money(nano)})"
        case "local", (zone, part):
            return f"{part} in {_text(zone)}"
        case "text", (text,):
            return _text(text)
        case "bool", (truth,):
            return "true" if truth is True else "false"
        case "range", (low, high):
            return f"{in_words(low)}..{in_words(high)}"
        case (("is" | "glob" | "path"), (inner,)):
            return in_words(inner) if isinstance(inner, tuple | list) else _text(inner)
        case (("domain" | "host" | "cidr"), (name,)):
            return f"{operator}({_text(name)})"
    return " ".join([*map(in_words, operands)] or [operator])


def _text(text: object) -> str:
    return json.dumps(text, ensure_ascii=False)


def _money(nano: int) -> str:
    dollars, rest = divmod(abs(nano), NANO_PER["usd"])
    sign = "-" if nano < 0 else ""
    return f"{sign}{dollars}" + (f".{rest:09d}".rstrip("0") if rest else "")
