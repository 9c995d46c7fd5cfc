"""Equality, order and the matchers of lists, each with three answers: types that do not go together are no "no"."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

import orjson

from holdfast_verdict.actions.paths import may_step_upwards
from holdfast_verdict.actions.readings import cidr_matcher, domain_matcher, host_matcher, path_matcher
from holdfast_verdict.actions.texts import folded_text
from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.numbers import number_of
from holdfast_verdict.engine.unknown import UNKNOWN, Truth, Unknown, any_of
from holdfast_verdict.engine.values import Unrunnable, compile_value, constant_of, is_constant, parts

_REMEMBERED: Final = 1024
_SHORT: Final = 256

Match = Callable[[Context, object], Truth]

ORDERS: Final = {
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}


def equal(left: object, right: object) -> Truth:
    """Compares as JSON does: 1 and true differ. What is of different types cannot be compared; null may, and equals null alone."""
    if isinstance(left, str) and isinstance(right, str):
        return left == right or _differ(left, right)
    if left is UNKNOWN or right is UNKNOWN:
        return None
    if left is None or right is None:
        return left is right
    if isinstance(left, bool) or isinstance(right, bool):
        return left == right if isinstance(left, bool) and isinstance(right, bool) else None
    one, other = number_of(left), number_of(right)
    if not isinstance(one, Unknown) and not isinstance(other, Unknown):
        return one == other
    if isinstance(one, Unknown) and isinstance(other, Unknown) and _are_alike(left, right):
        return orjson.dumps(left, option=orjson.OPT_SORT_KEYS) == orjson.dumps(right, option=orjson.OPT_SORT_KEYS)
    return None


def is_plain(text: str) -> bool:
    """Says whether all readers read a text alike: none drops, folds or trims anything of it."""
    return text.isascii() and text == text.strip()


def _differ(left: str, right: str) -> Truth:
    """Says of two texts that are not the same that they differ, unless a lenient reader takes them for the same."""
    if is_plain(left) and is_plain(right):
        return False
    return None if folded_text(left) == folded_text(right) else False


def read_twice(text: str, answer: Callable[[str], Truth]) -> Truth:
    """Asks about a text as it stands, and as a lenient reader takes it; if the two disagree, nobody can tell."""
    first = answer(text)
    return first if is_plain(text) or answer(folded_text(text)) is first else None


def _are_alike(left: object, right: object) -> bool:
    return (isinstance(left, list | tuple) and isinstance(right, list | tuple)) or (
        isinstance(left, dict) and isinstance(right, dict)
    )


def ordered(order: Callable[[object, object], bool], left: object, right: object) -> Truth:
    """Compares numbers exactly, and text by code points; nothing else has an order."""
    if type(left) is int and type(right) is int:
        return order(left, right)
    if isinstance(left, str) and isinstance(right, str):
        return order(left, right)
    one, other = number_of(left), number_of(right)
    return None if one is UNKNOWN or other is UNKNOWN else order(one, other)


def compile_matchers(nodes: Iterable[object]) -> Match:
    """Compiles a list of matchers, of which one has to match. Constant texts are looked up, not tried one by one."""
    texts: set[str] = set()
    others: list[Match] = []
    for node in nodes:
        operator, operands = parts(node)
        if operator == "is" and is_constant(operands[0]) and isinstance(constant := constant_of(operands[0]), str):
            texts.add(constant)
        else:
            others.append(_matcher(operator, operands))
    known, folded = frozenset(texts), frozenset(map(folded_text, texts))
    are_plain = all(map(is_plain, known))

    def look_up(_: Context, value: object) -> Truth:
        if not isinstance(value, str):
            return False if value is None or not known else None
        if value in known:
            return True
        return None if not (are_plain and is_plain(value)) and folded_text(value) in folded else False

    if not others:
        return look_up

    def try_all(context: Context, value: object) -> Truth:
        of_texts = look_up(context, value)
        if of_texts is True:
            return True
        context.step(len(others))
        return any_of((of_texts, *(match(context, value) for match in others)))

    return try_all


def _matcher(operator: str, operands: tuple[object, ...]) -> Match:
    match operator, operands:
        case "is", (node,):
            read = compile_value(node)
            return lambda context, value: equal(value, read(context))
        case "range", (low, high):
            return _range(low, high)
        case "glob", (str(pattern),):
            glob = _glob(pattern)
            if "/" in pattern.partition("*")[0]:
                return _on_text(lambda text: None if may_step_upwards(text) else read_twice(text, glob))
            return _on_text(lambda text: read_twice(text, glob))
        case (("domain" | "host" | "path" | "cidr"), (str(pattern),)):
            return _reading(_READINGS[operator], pattern)
    raise Unrunnable(f"there is no matcher {operator!r}")


def _reading(matcher: Callable[[str], Callable[[object], bool | None]], pattern: str) -> Match:
    """Compares what a text means; texts that are met again and again, as addresses and hosts are, are read once."""
    try:
        matches = matcher(pattern)
    except ValueError as error:
        raise Unrunnable(f"{pattern!r} cannot be compared with: {error}") from None
    remembered = lru_cache(_REMEMBERED)(matches)
    return _on_text(lambda text: remembered(text) if len(text) <= _SHORT else matches(text))


def _glob(pattern: str) -> Callable[[str], bool]:
    pieces = pattern.split("*")
    first, last = pieces[0], pieces[-1]
    if len(pieces) > 2 or len(pieces) == 1:  # noqa: PLR2004 (one star parts two pieces)
        raise Unrunnable(f"{pattern!r} has not exactly one star")
    least = len(first) + len(last)
    return lambda text: len(text) >= least and text.startswith(first) and text.endswith(last)


def _on_text(function: Callable[[str], Truth]) -> Match:
    return lambda _, value: function(value) if isinstance(value, str) else None


def _range(low: object, high: object) -> Match:
    least, most = compile_value(low), compile_value(high)

    def match(context: Context, value: object) -> Truth:
        above = ordered(ORDERS[">="], value, least(context))
        below = ordered(ORDERS["<="], value, most(context))
        return False if above is False or below is False else None if above is None or below is None else True

    return match


_READINGS: Final = {
    "domain": domain_matcher,
    "host": host_matcher,
    "path": path_matcher,
    "cidr": cidr_matcher,
}
