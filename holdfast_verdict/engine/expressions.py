"""Conditions as closures, compiled once a policy: each answers true, false or unknown, and none raises for what an action holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

from holdfast_verdict.actions.paths import may_step_upwards
from holdfast_verdict.engine.context import Bound, Context
from holdfast_verdict.engine.matchers import ORDERS, Match, compile_matchers, equal, ordered, read_twice
from holdfast_verdict.engine.numbers import number_of
from holdfast_verdict.engine.unknown import UNKNOWN, Truth, Unknown, all_of, any_of
from holdfast_verdict.engine.values import (
    Read,
    Unrunnable,
    compile_location,
    compile_value,
    constant_of,
    is_constant,
    parts,
)
from holdfast_verdict.provenance.origin import Origin

Ask = Callable[[Context], Truth]


def conjuncts(node: object) -> tuple[object, ...]:
    """Splits a condition into those that must all hold, so that the one that failed can be named."""
    operator, operands = parts(node)
    if operator == "and":
        return tuple(part for operand in operands for part in conjuncts(operand))
    return () if operator == "true" else (node,)


def compile_expression(node: object) -> Ask:
    """Compiles a condition.

    Raises:
        Unrunnable: It is of an unknown form.
    """
    operator, operands = parts(node)
    compiler = _COMPILERS.get(operator)
    if compiler is None:
        raise Unrunnable(f"there is no condition {operator!r}")
    try:
        return compiler(operator, *operands)
    except TypeError as error:
        raise Unrunnable(f"{operator!r} has operands of another form: {error}") from None


def _truth(operator: str) -> Ask:
    truth = operator == "true"
    return lambda _: truth


def _and(_: str, *operands: object) -> Ask:
    asks = [compile_expression(operand) for operand in operands]

    def ask_all(context: Context) -> Truth:
        answer: Truth = True
        for ask in asks:
            truth = ask(context)
            if truth is False:
                return False
            if truth is None:
                answer = None
        return answer

    return ask_all


def _or(_: str, *operands: object) -> Ask:
    asks = [compile_expression(operand) for operand in operands]

    def ask_any(context: Context) -> Truth:
        answer: Truth = False
        for ask in asks:
            truth = ask(context)
            if truth is True:
                return True
            if truth is None:
                answer = None
        return answer

    return ask_any


def negated(truth: Truth) -> Truth:
    """Kleene's not."""
    return None if truth is None else not truth


def _not(_: str, operand: object) -> Ask:
    ask = compile_expression(operand)
    return lambda context: negated(ask(context))


def _equality(operator: str, left: object, right: object) -> Ask:
    read, other = compile_value(left), compile_value(right)
    if operator == "!=":
        return lambda context: negated(equal(read(context), other(context)))
    if is_constant(right) and isinstance(text := constant_of(right), str):

        def is_text(context: Context) -> Truth:
            value = read(context)
            return True if value == text else equal(value, text)

        return is_text
    return lambda context: equal(read(context), other(context))


def _order(operator: str, left: object, right: object) -> Ask:
    order, read, other = ORDERS[operator], compile_value(left), compile_value(right)
    return lambda context: ordered(order, read(context), other(context))


def _in(_: str, node: object, matchers: Iterable[object]) -> Ask:
    read, match = compile_value(node), compile_matchers(matchers)

    def ask(context: Context) -> Truth:
        value = read(context)
        return None if value is UNKNOWN or isinstance(value, list | tuple) else match(context, value)

    return ask


def _members(value: object) -> Sequence[object] | None:
    """Returns a list's members; a lone text or number is a list of one, and what else there is has no members."""
    if isinstance(value, list | tuple):
        return value
    return (value,) if isinstance(value, str) or not isinstance(number_of(value), Unknown) else None


def _membership(operator: str, node: object, matchers: Iterable[object]) -> Ask:
    read, match = compile_value(node), compile_matchers(matchers)
    ask_members = {"all_in": _all_match, "any_in": _any_matches, "none_in": _none_matches}[operator]

    def ask(context: Context) -> Truth:
        members = _members(read(context))
        if members is None:
            return None
        context.step(len(members))
        return ask_members(context, members, match)

    return ask


def _all_match(context: Context, members: Sequence[object], match: Match) -> Truth:
    return all_of(match(context, member) for member in members) if members else None  # nothing was shown of nobody


def _any_matches(context: Context, members: Sequence[object], match: Match) -> Truth:
    return any_of(match(context, member) for member in members)


def _none_matches(context: Context, members: Sequence[object], match: Match) -> Truth:
    return negated(_any_matches(context, members, match))


def _text_test(operator: str, left: object, right: object) -> Ask:
    read, other = compile_value(left), compile_value(right)
    test = str.startswith if operator == "starts" else str.endswith

    def ask(context: Context) -> Truth:
        text, part = read(context), other(context)
        if not isinstance(text, str) or not isinstance(part, str):
            return None
        # below a folder or a URL, what a text starts with says nothing if it goes up again later
        if operator == "starts" and "/" in part and may_step_upwards(text):
            return None
        return read_twice(text, lambda each: test(each, part))

    return ask


def _contains(_: str, left: object, right: object) -> Ask:
    read, other = compile_value(left), compile_value(right)

    def ask(context: Context) -> Truth:
        whole, part = read(context), other(context)
        if isinstance(whole, str):
            return read_twice(whole, lambda each: part in each) if isinstance(part, str) else None
        if not isinstance(whole, list | tuple):
            return None
        context.step(len(whole))
        return any_of(equal(member, part) for member in whole)

    return ask


def _present(_: str, node: object) -> Ask:
    operator, operands = parts(node)
    if operator == "arg":
        names = tuple(str(name) for name in operands)
        return lambda context: _stands(context.args, names)
    if operator == "var":
        variable, *rest = (str(name) for name in operands)
        inner = tuple(rest)
        return lambda context: _stands(context.variables[variable].value, inner)
    read = compile_value(node)
    return lambda context: True if read(context) is not UNKNOWN else None


def _stands(value: object, names: tuple[str, ...]) -> Truth:
    """Says whether something other than null stands at a path; below text or a number nobody can tell."""
    for name in names:
        if value is None:
            return False
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value is not None


def _quantified(operator: str, node: object, variable: str, condition: object) -> Ask:
    read, ask_member = compile_value(node), compile_expression(condition)
    locate = compile_location(node)
    is_every = operator == "every"

    def truths(context: Context, members: Sequence[object]) -> Iterable[Truth]:
        place = locate(context)
        path = None if isinstance(place, Unknown) else place.path
        for index, member in enumerate(members):
            context.step(1)
            context.variables[variable] = Bound(member, None if path is None else (*path, index))
            yield ask_member(context)

    def ask(context: Context) -> Truth:
        members = read(context)
        if not isinstance(members, list | tuple):
            return None
        if is_every:
            return all_of(truths(context, members)) if members else None  # nothing was shown of nobody
        return any_of(truths(context, members))

    return ask


def _origins(node: object, test: Callable[[Origin], Truth]) -> Callable[[Context], list[Truth]]:
    """Compiles what asks for the origin of each leaf below a value; there is no answer where there are no leaves."""
    locate = compile_location(node)

    def ask_leaves(context: Context) -> list[Truth]:
        place = locate(context)
        if isinstance(place, Unknown) or place.path is None:
            return [None]
        answers: list[Truth] = []
        for name, leaves in context.leaves(place.value, place.path).items():
            found = context.origin(name, leaves)
            answers.append(None if isinstance(found, Unknown) else test(found))
        return answers or [None]  # an empty list is from nowhere

    return ask_leaves


def _from(_: str, node: object, origin: object) -> Ask:
    named = origin if isinstance(origin, str) else [str(word) for word in cast("Sequence[object]", origin)]
    ask_leaves = _origins(node, lambda found: found.is_from(named))
    together = all_of if origin == "user" else any_of
    return lambda context: together(ask_leaves(context))


def _only_from(_: str, node: object, origins: Iterable[object]) -> Ask:
    kinds = {"constant"}
    tools: list[str] = []
    for origin in origins:
        if isinstance(origin, tuple | list):
            tools.append(str(origin[1]))
        else:
            kinds.add(str(origin))
    ask_leaves = _origins(node, lambda found: _is_only(found, kinds, tools))
    return lambda context: all_of(ask_leaves(context))


def _is_only(found: Origin, kinds: set[str], tools: list[str]) -> bool:
    """Says whether a leaf has no part from elsewhere: of tools, where only some are named, each source has to be one of them."""
    rest = frozenset(found.kinds) - kinds
    if rest and not (rest == {"tool"} and tools):
        return False
    if not rest:
        return bool(frozenset(found.kinds))
    sources = [source.rpartition("#")[0] for source in found.sources if "#" in source]
    return bool(sources) and all(
        any(name == tool or (tool.endswith("*") and name.startswith(tool[:-1])) for tool in tools) for name in sources
    )


def _run_has(_: str, label: str) -> Ask:
    def ask(context: Context) -> Truth:
        labels = context.labels()
        return None if isinstance(labels, Unknown) else label in labels

    return ask


def _released(_: str, label: str, role: str) -> Ask:
    return lambda context: any(release.label == label and role in release.roles for release in context.released())


def _happened(_: str, watch_id: str) -> Ask:
    def ask(context: Context) -> Truth:
        happened = context.watch(watch_id)
        return None if isinstance(happened, Unknown) else happened > 0

    return ask


def _count_at_most(_: str, watch_id: str, most: int) -> Ask:
    def ask(context: Context) -> Truth:
        count = context.watch(watch_id)
        return None if isinstance(count, Unknown) else count + 1 <= most  # the present one is one of them

    return ask


def _sum_at_most(_: str, watch_id: str, node: object, most: int) -> Ask:
    read = compile_value(node)

    def ask(context: Context) -> Truth:
        total, present = context.watch(watch_id), number_of(read(context))
        if isinstance(total, Unknown) or isinstance(present, Unknown):
            return None
        return total + max(present, 0) <= most  # a negative amount makes no room

    return ask


_COMPILERS: dict[str, Callable[..., Ask]] = {
    "true": _truth,
    "false": _truth,
    "and": _and,
    "or": _or,
    "not": _not,
    "==": _equality,
    "!=": _equality,
    **dict.fromkeys(ORDERS, _order),
    "in": _in,
    **dict.fromkeys(("all_in", "any_in", "none_in"), _membership),
    "starts": _text_test,
    "ends": _text_test,
    "contains": _contains,
    "present": _present,
    **dict.fromkeys(("every", "some"), _quantified),
    "from": _from,
    "only_from": _only_from,
    "run_has": _run_has,
    "released": _released,
    "happened": _happened,
    "count<=": _count_at_most,
    "sum<=": _sum_at_most,
}

__all__ = ["Ask", "Read", "compile_expression", "conjuncts", "negated"]
