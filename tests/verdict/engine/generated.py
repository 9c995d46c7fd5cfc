"""Random policies, actions and facts, which meet one another often enough to decide every way."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.engine.facts import Approval, Consent, Estimate, Facts, HistoryFacts, LocalTime, Release
from holdfast_verdict.engine.history import Event
from holdfast_verdict.engine.unknown import UNKNOWN
from holdfast_verdict.policy import Policy
from holdfast_verdict.provenance.origin import Origin

from .policies import document, gate, limit, rule, watch

NAMES: Final = ("a", "b", "to")
TEXTS: Final = ("x", "bob@acme.com", "https://api.acme.com/", "/srv/data/x", "")
LABELS: Final = ("secret", "untrusted")
TOOLS: Final = ("pay", "read", "tell")
ZONE: Final = "Europe/Berlin"

scalars: st.SearchStrategy[Any] = (
    st.integers(-3, 3)
    | st.sampled_from(TEXTS)
    | st.booleans()
    | st.none()
    | st.sampled_from([{"$number": "0.5"}, {"$number": "2.25"}])
)
members: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
    max_leaves=5,
)
arguments: st.SearchStrategy[dict[str, JsonValue]] = st.dictionaries(st.sampled_from(NAMES), members, max_size=3)
actions = st.builds(
    lambda tool, args: {"kind": "tool.call", "tool": tool, "args": args}, st.sampled_from(TOOLS), arguments
)

_paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=2).map(lambda names: ["arg", *names])
_values: st.SearchStrategy[Any] = st.one_of(
    _paths,
    st.sampled_from([["principal", name] for name in ("tenant", "user", "project", "roles")]),
    st.integers(-3, 3).map(lambda number: ["int", number]),
    st.sampled_from(TEXTS).map(lambda text: ["text", text]),
    st.sampled_from(
        [
            ["null"],
            ["bool", True],
            ["number", "0.5"],
            ["money", 10_000_000],
            ["estimate", "nano_usd"],
            ["local", ZONE, "hour"],
            ["as_money", ["arg", "a"], "usd_cents"],
        ]
    ),
    st.tuples(st.sampled_from(["bytes", "chars", "size", "host", "domain", "lower"]), _paths).map(list),
)
_matchers = st.one_of(
    _values.map(lambda value: ["is", value]),
    st.sampled_from(
        [
            ["domain", "acme.com"],
            ["host", "*.acme.com"],
            ["path", "/srv/data"],
            ["cidr", "10.0.0.0/8"],
            ["glob", "bob*"],
            ["range", ["int", -1], ["int", 1]],
        ]
    ),
)
_plain: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([["true"], ["false"], ["happened", "last"], ["count<=", "count", 1]]),
    st.tuples(st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "starts", "ends", "contains"]), _values, _values).map(
        list
    ),
    st.tuples(
        st.sampled_from(["in", "all_in", "any_in", "none_in"]), _values, st.lists(_matchers, min_size=1, max_size=3)
    ).map(list),
    _values.map(lambda value: ["present", value]),
    st.tuples(_paths, st.sampled_from(["user", "model", "tool", *LABELS, ["tool", "read"]])).map(
        lambda pair: ["from", *pair]
    ),
    st.sampled_from(LABELS).map(lambda label: ["run_has", label]),
    st.sampled_from(LABELS).map(lambda label: ["released", label, "dpo"]),
    st.tuples(_values, st.integers(0, 3)).map(lambda pair: ["sum<=", "sum", *pair]),
    st.tuples(st.sampled_from(["every", "some"]), _paths, st.sampled_from(["==", "<"]), _values).map(
        lambda parts: [parts[0], parts[1], "m", [parts[2], ["var", "m"], parts[3]]]
    ),
)
conditions: st.SearchStrategy[Any] = st.recursive(
    _plain,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["and", "or"]), inner, inner).map(list), inner.map(lambda node: ["not", node])
    ),
    max_leaves=4,
)

WATCHES: Final = (
    watch(
        "last", "tell", event="succeeded", keep="last", window_ms=1000, doubt=False, same=[[["arg", "a"], ["arg", "a"]]]
    ),
    watch("count", "*", keep="count", window_ms=1000, scope="tenant", where=["present", ["arg", "a"]]),
    watch("sum", "pay", event="succeeded", keep="sum", of=["arg", "a"], window_ms=None, scope="user"),
)
_LIMITS: Final = (
    limit("count", 1, "calls"),
    limit("sum", 2, "units", of=["arg", "a"], window={"rolling_ms": 1000}, per="tenant"),
    limit("spend", 5, "nano_usd", window="day", per="project"),
)
_GATES: Final = (gate((1, "role", "finance")), gate((2, "role", "finance"), (1, "agent", "risk")))


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    rules = []
    for number in range(draw(st.integers(0, 6))):
        effect = draw(st.sampled_from(["permit", "permit", "forbid", "limit", "gate"]))
        rules.append(
            rule(
                effect,
                draw(st.sampled_from([*TOOLS, "*", "pay read", "external", "p*"])),
                draw(conditions),
                name=f"r{number}",
                role=draw(st.sampled_from(["clerk", "clerk", "boss"]))
                if effect == "permit"
                else draw(st.sampled_from(["*", "clerk"])),
                gate=draw(st.sampled_from(_GATES)) if effect == "gate" else None,
                limit=draw(st.sampled_from(_LIMITS)) if effect == "limit" else None,
            )
        )
    zones = [ZONE] if ZONE in repr(rules) else []
    labels = [{"actions": ["read"], "field": "", "labels": ["secret"], "where": ["present", ["arg", "a"]]}]
    return document(*rules, watches=WATCHES, zones=zones, labels=labels)


policies = documents().map(Policy.from_json)

_origins = st.builds(
    Origin,
    st.frozensets(st.sampled_from(["user", "tool", "model", "constant"]), min_size=1),
    st.frozensets(st.sampled_from(LABELS)),
    st.lists(st.sampled_from(["read#1", "user:2"]), max_size=2).map(tuple),
)
_leaf_paths = [
    *NAMES,
    *(f"{name}[{n}]" for name in NAMES for n in range(2)),
    *(f"{a}.{b}" for a in NAMES for b in NAMES),
]
_events = st.builds(
    Event,
    st.sampled_from(TOOLS),
    arguments,
    st.sampled_from(["requested", "succeeded", "failed", "unknown"]),
    st.integers(9_000, 10_000),
    st.none() | st.sampled_from([{"tenant": "acme", "run": "r1", "user": "ann"}, {"run": "r1"}]),
)
_approvals = st.builds(
    Approval,
    st.sampled_from(["a1", "a2"]),
    st.sampled_from([f"r{n}" for n in range(6)]),
    st.just("00"),
    st.sampled_from(["pending", "approved", "denied", "consumed"]),
    st.just(9_500),
    st.just(10_500),
    st.lists(st.just(Consent("bob", "user", ("finance",), 9_900)), max_size=1).map(tuple),
)
_usage = st.dictionaries(
    st.sampled_from(
        [f"r{n} {window}" for n in range(6) for window in ("run run=r1", "1000 tenant=acme", "day project=")]
    ),
    st.integers(0, 3),
)


def _watches(values: dict[str, Any]) -> HistoryFacts:
    return HistoryFacts(values)


_history = st.one_of(
    st.none(),
    st.lists(_events, max_size=5),
    st.dictionaries(
        st.sampled_from(["last", "count", "sum"]), st.integers(0, 2) | st.sampled_from([UNKNOWN, "now_ms"])
    ).map(_watches),
)


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    given = (("tenant", "acme"), ("user", "ann"), ("run", "r1"), ("project", "p"), ("roles", ["a", "dpo"]))
    principal: dict[str, object] = {"role": draw(st.sampled_from(["clerk", "clerk", "boss"])), "agent": "a"}
    principal.update((name, value) for name, value in given if draw(st.booleans()))
    return Facts(
        principal=principal,
        now_ms=draw(st.none() | st.just(10_000)),
        zones=draw(st.just({}) | st.just({ZONE: LocalTime("2026-03-02", 1, 30, 1)})),
        labels=draw(st.none() | st.frozensets(st.sampled_from(LABELS))),
        released=draw(st.just(()) | st.just((Release("secret", "zoe", ("dpo",)),))),
        origins=draw(st.none() | st.dictionaries(st.sampled_from(_leaf_paths), _origins)),
        history=draw(_history),
        usage=draw(st.none() | _usage),
        approvals=draw(st.lists(_approvals, max_size=2).map(tuple)),
        estimate=draw(st.none() | st.builds(Estimate, st.integers(0, 5) | st.none(), st.integers(0, 5) | st.none())),
    )
