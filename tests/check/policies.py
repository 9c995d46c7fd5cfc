"""Random small policies over a finite world, and every request that there is in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any, Final

from hypothesis import assume
from hypothesis import strategies as st

from holdfast_verdict.actions import CanonicalAction, Catalogue
from holdfast_verdict.check.encode import watch_key
from holdfast_verdict.check.request import Request
from holdfast_verdict.engine.facts import LocalTime
from holdfast_verdict.policy import Gate, Limit, Need, Policy, Rule, Watch
from holdfast_verdict.provenance.origin import Origin

Node = tuple[object, ...]

REQUESTS_MAX: Final = 1_500
WORDS: Final = ("alpha", "alps", "beta")
CATALOGUE: Final = Catalogue.of(
    {
        "do": {
            "parameters": {
                "type": "object",
                "properties": {
                    "n": {"type": "integer", "minimum": 0, "maximum": 2},
                    "w": {"enum": list(WORDS)},
                    "v": {
                        "anyOf": [
                            {"enum": ["alpha"]},
                            {"type": "null"},
                            {"type": "integer", "minimum": 1, "maximum": 1},
                        ]
                    },
                    "l": {"type": "array", "items": {"enum": ["alpha", "beta"]}, "maxItems": 2},
                    "o": {
                        "type": "object",
                        "properties": {"b": {"type": "boolean"}},
                        "additionalProperties": False,
                    },
                },
                "required": ["n"],
            }
        }
    }
)
WATCH: Final = Watch("w1", ("do",), ("true",), "succeeded", "count", None, None, "run", (), doubt=False)
WATCH_OF_SAME: Final = Watch(
    "w2", ("do",), ("true",), "succeeded", "last", None, None, "run", ((("arg", "w"), ("arg", "w")),), doubt=False
)
_MISSING: Final = object()


def _origin(*kinds: str, label: str = "") -> Origin:
    return Origin(frozenset(kinds), frozenset({label} - {""}), ("unlisted-tool#1",) if "tool" in kinds else ())


def arg(*names: str) -> Node:
    return ("arg", *names)


_NUMBERS: Final = st.sampled_from(
    [arg("n"), arg("v"), ("size", arg("l")), ("chars", arg("w")), ("local", "Europe/Berlin", "hour")]
)
_TEXTS: Final = st.sampled_from(
    [arg("w"), arg("v"), ("lower", arg("w")), ("principal", "tenant"), ("principal", "role")]
)
_ANY: Final = st.sampled_from([arg("n"), arg("w"), arg("v"), arg("l"), arg("o"), arg("o", "b"), arg("w", "deeper")])
_WORD: Final = st.sampled_from([("text", word) for word in (*WORDS, "gamma", "r", "al", "a")])
_INT: Final = st.integers(0, 5).map(lambda number: ("int", number))
_MATCHER: Final = st.one_of(
    _WORD.map(lambda word: ("is", word)),
    st.sampled_from(
        [
            ("glob", "al*"),
            ("glob", "*a"),
            ("glob", "al*a"),
            ("range", ("int", 1), ("int", 2)),
            ("is", ("null",)),
            ("is", arg("w")),
        ]
    ),
)
_MATCHERS: Final = st.lists(_MATCHER, min_size=1, max_size=3).map(tuple)
_MEMBER: Final = st.one_of(
    st.tuples(st.sampled_from(["==", "!="]), st.just(("var", "x")), st.one_of(_WORD, st.just(arg("w")))),
    st.tuples(st.sampled_from(["starts", "ends", "contains"]), st.just(("var", "x")), _WORD),
)
_ORIGIN: Final = st.sampled_from(["user", "tool", "model", "untrusted"])
_LEAF: Final = st.one_of(
    st.tuples(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), _NUMBERS, st.one_of(_INT, _NUMBERS)),
    st.tuples(st.sampled_from(["==", "!="]), _TEXTS, st.one_of(_WORD, _TEXTS)),
    st.tuples(st.sampled_from(["==", "!="]), _ANY, st.one_of(_WORD, _INT, st.sampled_from([("null",), ("bool", True)]))),
    st.tuples(st.sampled_from(["<", ">="]), _TEXTS, _WORD),
    st.tuples(st.sampled_from(["starts", "ends", "contains"]), _TEXTS, _WORD),
    st.tuples(st.sampled_from(["in", "all_in", "any_in", "none_in"]), _ANY, _MATCHERS),
    st.tuples(st.just("contains"), st.just(arg("l")), _WORD),
    st.tuples(st.just("present"), _ANY),
    st.tuples(st.sampled_from(["every", "some"]), st.just(arg("l")), st.just("x"), _MEMBER),
    st.tuples(st.just("from"), st.sampled_from([arg("n"), arg("l"), arg("w")]), _ORIGIN),
    st.tuples(
        st.just("only_from"),
        st.sampled_from([arg("n"), arg("l")]),
        st.sampled_from([("user",), ("user", "model"), ("tool", "user"), ("user", ("tool", "other.*"))]),
    ),
    st.just(("run_has", "secret")),
    st.just(("released", "secret", "dpo")),
    st.tuples(st.just("count<="), st.just("w1"), st.integers(0, 2)),
    st.just(("happened", "w2")),
)  # fmt: skip
CONDITIONS: Final = st.recursive(
    _LEAF,
    lambda inner: st.one_of(
        st.tuples(st.just("and"), inner, inner),
        st.tuples(st.just("or"), inner, inner),
        st.tuples(st.just("not"), inner),
    ),
    max_leaves=3,
)
_CODES: Final = {
    "forbid": "policy.forbidden",
    "permit": "policy.permitted",
    "gate": "policy.gate",
    "limit": "policy.limit",
}
_GATE: Final = Gate((Need(1, "role", "boss"),), 60_000)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """A policy with two roles and up to five rules on one action."""
    effects = draw(
        st.lists(st.sampled_from(["permit", "permit", "forbid", "forbid", "gate", "limit"]), min_size=1, max_size=5)
    )
    rules = []
    for number, effect in enumerate(["permit", *effects]):
        role = draw(st.sampled_from(["r", "s"] if effect == "permit" else ["*", "r"]))
        limit = Limit("sum", arg("n"), draw(st.integers(0, 3)), "units", "run", "run") if effect == "limit" else None
        rules.append(
            Rule(
                f"{effect}-{number}",
                effect,  # type: ignore[arg-type]  # of the four above
                role,
                ("do",),
                draw(st.one_of(st.just(("true",)), CONDITIONS)),
                _CODES[effect],
                gate=_GATE if effect == "gate" else None,
                limit=limit,
            )
        )
    watches = (WATCH, WATCH_OF_SAME)
    zones = ("Europe/Berlin",) if "Europe/Berlin" in repr(rules) else ()
    return Policy.from_json(Policy({"r": (), "s": ("r",)}, tuple(rules), (), watches, zones).to_json())


def requests(policy: Policy, role: str) -> list[Request]:
    """Returns every request of the small world, as far as the policy can tell them apart; too many are no test of this size."""
    asked = repr([rule.when for rule in policy.rules])
    asked += "'w'" if "'w2'" in asked else ""  # what past and present have in common has to be there

    def values(name: str, *possible: object) -> tuple[object, ...]:
        return possible if f"'{name}'" in asked else possible[:1]

    words = ("alpha", "beta")
    lists = ([], *([a] for a in words), *([a, b] for a in words for b in words))
    sides = (
        (0, 1, 2),
        values("w", _MISSING, *WORDS),
        values("v", _MISSING, "alpha", None, 1),
        values("l", _MISSING, *lists),
        values("o", _MISSING, {}, {"b": True}, {"b": False}),
    )
    facts = (
        values(
            "only_from" if "'only_from'" in asked else "from",
            _origin("user"),
            _origin("tool", label="untrusted"),
            _origin("model"),
            _origin("user", "tool"),
        ),
        values("run_has", False, True),
        values("released", False, True),
        values("count<=", 0, 1, 2),
        values("happened", 0, 1),
        values("hour", 0, 1, 2, 3, 4, 5, 6),
        values("tenant", "other", *WORDS, "gamma", "r", "al", "a"),
    )
    assume(math.prod(map(len, (*sides, *facts))) <= REQUESTS_MAX)
    given = [_args(each) for each in product(*sides)]
    known = list(product(*facts))
    return [_request(role, args, each, asks_origins="from'" in asked) for args in given for each in known]


def _args(values: tuple[object, ...]) -> dict[str, object]:
    return {name: value for name, value in zip("nwvlo", values, strict=True) if value is not _MISSING}


def _request(role: str, args: dict[str, object], facts: tuple[Any, ...], *, asks_origins: bool) -> Request:
    origin, secret, released, count, happened, hour, tenant = facts
    return Request(
        "do",
        args,
        {"tenant": tenant, "project": "p", "user": "u", "agent": "a", "run": "one", "role": role},
        frozenset({"secret"} if secret else ()),
        (("secret", "dpo"),) if released else (),
        _Everywhere(origin) if asks_origins else {},
        {watch_key(WATCH): count, watch_key(WATCH_OF_SAME): happened},
        {"Europe/Berlin": LocalTime("2026-01-05", hour, 0, 1)},
    )


class _Everywhere(dict[str, Origin]):
    """One origin for the number, the user's for all else: choices are nobody's words."""

    def __init__(self, origin: Origin) -> None:
        super().__init__({"n": origin, **{name: _origin("constant") for name in ("w", "l[0]", "l[1]")}})


class Cached:
    """The catalogue, which brings equal arguments to their form once."""

    def __init__(self) -> None:
        self._actions: dict[str, CanonicalAction] = {}

    def action(self, name: str, arguments: Mapping[str, object], /) -> CanonicalAction:
        key = repr(arguments)
        if key not in self._actions:
            self._actions[key] = CATALOGUE.action(name, arguments)
        return self._actions[key]


CACHED: Final = Cached()
