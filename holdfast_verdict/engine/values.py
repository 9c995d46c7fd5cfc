"""Values of expressions as closures: each reads one value from an evaluation, or answers UNKNOWN."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from holdfast_verdict.actions.readings import host_of, mail_domain
from holdfast_verdict.engine.context import Bound, Context
from holdfast_verdict.engine.numbers import decimal, nano_usd, number_of
from holdfast_verdict.engine.unknown import UNKNOWN, Unknown

Read = Callable[[Context], object]
Locate = Callable[[Context], Bound | Unknown]
Node = tuple[object, ...] | list[object]


class Unrunnable(ValueError):  # an error of a policy's form; a decision by it is a deny
    """A policy holds what this engine does not know."""


def parts(node: object) -> tuple[str, tuple[object, ...]]:
    """Splits an expression, a value or a matcher into its operator and operands."""
    if not isinstance(node, tuple | list) or not node or not isinstance(node[0], str):
        raise Unrunnable(f"{node!r} is no expression")
    return node[0], tuple(node[1:])


def compile_value(node: object) -> Read:
    """Compiles a value.

    Raises:
        Unrunnable: It is of an unknown form.
    """
    operator, operands = parts(node)
    if operator in ("arg", "var"):
        return _reader_of_path(operator, tuple(str(name) for name in operands))
    constant = _CONSTANTS.get(operator)
    if constant is not None:
        value = constant(*operands)
        return lambda _: value
    derived = _DERIVED.get(operator)
    if derived is not None:
        return _derived(derived, compile_value(operands[0]))
    match operator, operands:
        case "principal", (str(name),):
            return lambda context: context.principal(name)
        case "local", (str(zone), str(part)):
            return lambda context: getattr(context.local(zone), part, UNKNOWN)
        case "estimate", (str(unit),):
            return lambda context: context.estimate(unit)
        case "as_money", (inner, str(unit)):
            return _money(compile_value(inner), unit)
    raise Unrunnable(f"there is no value {operator!r}")


def is_constant(node: object) -> bool:
    """Says whether a value is the same whatever is decided."""
    return parts(node)[0] in _CONSTANTS


def constant_of(node: object) -> object:
    """Returns a constant's value."""
    operator, operands = parts(node)
    return _CONSTANTS[operator](*operands)


def compile_location(node: object) -> Locate:
    """Compiles the place in the arguments where a value stands; that of a derived value is where it is derived from."""
    operator, operands = parts(node)
    if operator == "arg":
        names = tuple(str(name) for name in operands)
        read = _reader_of_path("arg", names)

        def locate(context: Context) -> Bound | Unknown:
            value = read(context)
            return UNKNOWN if value is UNKNOWN else Bound(value, names)

        return locate
    if operator == "var":
        variable, *rest = (str(name) for name in operands)
        inner = tuple(rest)

        def locate_bound(context: Context) -> Bound | Unknown:
            bound = context.variables[variable]
            value = _descend(bound.value, inner)
            return UNKNOWN if value is UNKNOWN or bound.path is None else Bound(value, (*bound.path, *inner))

        return locate_bound
    if operator in _DERIVED or operator == "as_money":
        return compile_location(operands[0])
    return lambda _: UNKNOWN


def _descend(value: object, names: tuple[str, ...]) -> object:
    for name in names:
        if not isinstance(value, dict) or name not in value:
            return UNKNOWN
        value = value[name]
    return value


def _reader_of_path(operator: str, names: tuple[str, ...]) -> Read:
    if operator == "var":
        variable, inner = names[0], names[1:]
        return lambda context: _descend(context.variables[variable].value, inner)
    if len(names) == 1:
        name = names[0]
        return lambda context: context.args.get(name, UNKNOWN)
    return lambda context: _descend(context.args, names)


def _derived(derive: Callable[[object], object], inner: Read) -> Read:
    return lambda context: derive(inner(context))


def _money(inner: Read, unit: str) -> Read:
    def read(context: Context) -> object:
        number = number_of(inner(context))
        return UNKNOWN if isinstance(number, Unknown) else nano_usd(number, unit)

    nano_usd(0, unit)  # an unknown unit is found when the policy is loaded
    return read


def _on_text(function: Callable[[str], object]) -> Callable[[object], object]:
    def derive(value: object) -> object:
        derived = function(value) if isinstance(value, str) else None
        return UNKNOWN if derived is None else derived

    return derive


def _size(value: object) -> object:
    if isinstance(value, dict):
        return len(value) if number_of(value) is UNKNOWN else UNKNOWN
    return len(value) if isinstance(value, list | tuple) else UNKNOWN


def _constant_number(text: object) -> int | Fraction:
    number = decimal(text)
    if isinstance(number, Unknown):
        raise Unrunnable(f"{text!r} is no decimal number")
    return number


_DERIVED = {
    "bytes": _on_text(lambda text: len(text.encode())),
    "chars": _on_text(len),
    "size": _size,
    "host": _on_text(host_of),
    "domain": _on_text(mail_domain),
    "lower": _on_text(str.lower),
}
_CONSTANTS: dict[str, Callable[..., object]] = {
    "int": lambda value: value,
    "number": _constant_number,
    "money": lambda nano: nano,
    "text": lambda text: text,
    "bool": lambda truth: truth,
    "null": lambda: None,
}
