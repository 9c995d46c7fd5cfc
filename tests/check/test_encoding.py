"""Each condition as a formula, pinned to one request after the other, has the engine's own answer, unknown included."""

from __future__ import annotations

import random
from collections.abc import Iterator

import z3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_verdict.check import texts
from holdfast_verdict.check.formulas import Formula, conj, neg
from holdfast_verdict.check.request import Request
from holdfast_verdict.check.ruling import Ruling, world_of
from holdfast_verdict.check.shape import kind_of, shape_of
from holdfast_verdict.check.world import Symbol, World, place
from holdfast_verdict.policy import Policy, Rule

from .policies import CACHED, CATALOGUE, CONDITIONS, WATCH, WATCH_OF_SAME, Node, requests

REQUESTS = 12
_NOTHING = object()


def pinned(world: World, symbol: Symbol, value: object) -> Iterator[Formula]:
    """Says that a symbol, and all in it that was asked about, is a value."""
    kind = None if value is _NOTHING else kind_of(value)
    yield from (flag if each == kind else neg(flag) for each, flag in symbol.is_.items())
    if kind == "text":
        yield symbol.text == world.number_of(str(value))
    elif kind == "number":
        assert isinstance(value, int)
        yield symbol.number == value * 10**symbol.places
    elif kind == "bool":
        yield symbol.truth == value
    elif kind == "list":
        assert isinstance(value, list)
        yield symbol.size == len(value)
        for member, each in zip(symbol.members, value, strict=False):
            yield from pinned(world, member, each)
    for name, each in symbol.fields.items():
        yield from pinned(world, each, value.get(name, _NOTHING) if isinstance(value, dict) else _NOTHING)


def facts_of(world: World, request: Request) -> Iterator[Formula]:
    """Says that everything is as in a request."""
    yield from pinned(world, world.args, dict(request.args))
    for name, symbol in world.principal.items():
        yield from pinned(world, symbol, request.principal[name])
    yield from (flag if label in request.labels else neg(flag) for label, flag in world.labels.items())
    yield from (flag if key in request.released else neg(flag) for key, flag in world.releases.items())
    yield from (count == request.watches[key] for key, count in world.watches.items())
    for zone, clock in world.zones.items():
        yield clock["hour"] == request.zones[zone].hour
    for symbol in world.symbols.values():
        origin = request.origins.get(place(symbol.path[1:])) if symbol.origins else None
        if origin is not None and "constant" not in origin.kinds:
            tools = {source.rpartition("#")[0] for source in origin.sources}
            for asked, flag in symbol.origins.items():
                is_so = asked[1] in tools if isinstance(asked, tuple) else asked in (*origin.kinds, *origin.labels)
                yield flag if is_so else neg(flag)


def words_of(world: World) -> Iterator[Formula]:
    """Says what is so of each text that was written somewhere."""
    for predicate in world.predicates.values():
        for words, number in list(world.texts.items()):
            truth, answer = texts.answer_of(predicate.condition, words), predicate.of(z3.IntVal(number))
            yield answer.true == (truth is True)
            yield answer.false == (truth is False)
    for words, number in list(world.texts.items()):
        yield conj(world.chars(number) == len(words), world.bytes(number) == len(words.encode()))
    for (hole, name), derived in world.derivations.items():
        for words, number in list(world.texts.items()):
            made = texts.derive(hole, words)
            if made is not None:
                same = world.symbols[name].text == number
                yield z3.Implies(same, derived == world.number_of(made))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(CONDITIONS, st.integers(0, 2**32))
def test_a_condition_means_as_a_formula_what_it_means_to_the_engine(when: Node, seed: int) -> None:
    rule = Rule("it", "forbid", "*", ("do",), when, "policy.forbidden")
    zones = ("Europe/Berlin",) if "Europe/Berlin" in repr(when) else ()
    policy = Policy.from_json(Policy({"r": (), "s": ("r",)}, (rule,), (), (WATCH, WATCH_OF_SAME), zones).to_json())
    about = CATALOGUE.types["do"]
    possible = requests(policy, "r")
    for request in random.Random(seed).sample(possible, min(REQUESTS, len(possible))):
        world = world_of("do", shape_of(about.parameters, about.formats), [(policy, True)])
        answer = Ruling(policy, world, external=True).answer(policy.rules[0])
        solver = z3.Solver()
        pins = [each for each in facts_of(world, request) if each is not True]
        solver.add(*world.facts, *pins, *words_of(world))
        solver.add(world.constants == len(world.texts))
        assert solver.check() == z3.sat, (when, request)
        meant = request.answer(policy, CACHED, "it")
        for formula, expected in ((answer.true, meant is True), (answer.false, meant is False)):
            otherwise = neg(formula) if expected else formula
            assert otherwise is False or solver.check(z3.And(otherwise, True)) == z3.unsat, (when, request, meant)
