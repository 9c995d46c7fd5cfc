"""Equality, order and the matchers of lists, each with three answers: types that do not go together are no "no"."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Final

import orjson

from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.numbers import number_of
from holdfast_verdict.engine.readers import (
    address_of,
    domain_of,
    glob_matches,
    host_matches,
    host_of,
    is_under,
    plain_host,
)
from holdfast_verdict.engine.unknown import UNKNOWN, Truth, Unknown, any_of
from holdfast_verdict.engine.values import Unrunnable, compile_value, constant_of, is_constant, parts

Match = Callable[[Context, object], Truth]

ORDERS: Final = {
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}


def equal(left: object, right: object) -> Truth:
    """Compares as JSON does: 1 and true differ. What is of different types cannot be compared; null may, and equals null alone."""
    if type(left) is str and type(right) is str:
        return left == right
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
    known = frozenset(texts)
    if not others:

        def look_up(_: Context, value: object) -> Truth:
            return value in known if isinstance(value, str) else False if value is None else None

        return look_up

    def try_all(context: Context, value: object) -> Truth:
        if isinstance(value, str) and value in known:
            return True
        of_texts: Truth = False if isinstance(value, str) or value is None or not known else None
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
            pieces = tuple(pattern.split("*"))
            return _on_text(lambda text: glob_matches(text, pieces))
        case "path", (str(folder),):
            return _on_text(lambda text: is_under(text, folder))
        case "domain", (str(domain),):
            return _on_text(lambda text: _host_is(domain_of(text), domain))
        case "host", (str(pattern),):
            written = pattern if pattern.startswith("*.") else plain_host(pattern)
            if isinstance(written, Unknown):
                raise Unrunnable(f"{pattern!r} is no host")
            return _on_text(lambda text: _host_is(host_of(text), written))
        case "cidr", (str(network),):
            return _cidr(network)
    raise Unrunnable(f"there is no matcher {operator!r}")


def _on_text(function: Callable[[str], Truth]) -> Match:
    return lambda _, value: function(value) if isinstance(value, str) else None


def _host_is(host: str | Unknown, pattern: str) -> Truth:
    return None if isinstance(host, Unknown) else host_matches(host, pattern)


def _range(low: object, high: object) -> Match:
    least, most = compile_value(low), compile_value(high)

    def match(context: Context, value: object) -> Truth:
        above = ordered(ORDERS[">="], value, least(context))
        below = ordered(ORDERS["<="], value, most(context))
        return False if above is False or below is False else None if above is None or below is None else True

    return match


def _cidr(text: str) -> Match:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise Unrunnable(f"{text!r} is no network: {error}") from None

    def match(host: str | Unknown) -> Truth:
        # a name may stand for any address, which nobody can tell who does not look it up
        address = None if isinstance(host, Unknown) else address_of(host)
        return None if address is None else address in network

    return _on_text(lambda value: match(host_of(value)))
