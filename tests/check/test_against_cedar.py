"""The stateless part of policies against Cedar: 100,000 random requests to random policies, and not one difference.

What is common to both is said in `cedar_text`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import cedarpy
import pytest

from holdfast_verdict import compile_policy
from holdfast_verdict.actions import Catalogue
from holdfast_verdict.engine.deciding import decide
from holdfast_verdict.engine.facts import Facts
from holdfast_verdict.policy import Effect, Gate, Need, Policy, Rule

from .cedar_text import NotCommon, cedar_of, condition, entities_of

Node = tuple[object, ...]

REQUESTS: Final = 100_000
PARTS: Final = 10  # which several processes can share
REQUESTS_PER_POLICY: Final = 100
WORDS: Final = ("alpha", "alps", "beta", "al*a", 'a"b', "a\\b", "", "Alpha", "é")
TENANTS: Final = ("alpha", "beta", "other")
ACTIONS: Final = (("crm.read", False), ("crm.write", True), ("mail", True))
_TEXT: Final = {"type": "string"}
CATALOGUE: Final = Catalogue.of(
    {
        name: {
            "external": external,
            "parameters": {
                "type": "object",
                "properties": {
                    "n": {"type": "integer"},
                    "m": {"type": "integer"},
                    "w": _TEXT,
                    "v": _TEXT,
                    "l": {"type": "array", "items": _TEXT},
                    "o": {"type": "object", "properties": {"b": {"type": "boolean"}, "w": _TEXT}},
                },
            },
        }
        for name, external in ACTIONS
    }
)
_GATE: Final = Gate((Need(1, "role", "boss"),), 60_000)
_CODES: Final[dict[Effect, str]] = {"forbid": "policy.forbidden", "permit": "policy.permitted", "gate": "policy.gate"}


def _number(dice: random.Random) -> Node:
    return dice.choice([("arg", "n"), ("arg", "m"), ("int", dice.randint(-3, 3))])


def _words(dice: random.Random) -> Node:
    return dice.choice(
        [("arg", "w"), ("arg", "v"), ("arg", "o", "w"), ("principal", "tenant"), ("text", dice.choice(WORDS))]
    )


def _leaf(dice: random.Random) -> Node:
    word = ("text", dice.choice(WORDS))
    listed = tuple(("is", ("text", each)) for each in dice.sample(WORDS, dice.randint(1, 3)))
    globs = tuple(("glob", each) for each in dice.sample(["al*", "*a", "al*a", "*", 'a"*', "a\\*"], 2))
    whole = (("is", ("int", dice.randint(-2, 2))), ("range", ("int", dice.randint(-3, 0)), ("int", dice.randint(0, 3))))
    money = ("money", dice.randint(-2, 2) * 10**9)
    kinds: list[Node] = [
        (dice.choice(["<", "<=", ">", ">=", "==", "!="]), _number(dice), _number(dice)),
        (dice.choice(["==", "!="]), _words(dice), _words(dice)),
        (dice.choice(["==", "!="]), ("arg", "o", "b"), ("bool", dice.random() < 0.5)),
        (dice.choice(["<", "<="]), ("as_money", ("arg", "n"), dice.choice(["usd", "usd_cents"])), money),
        (dice.choice(["starts", "ends", "contains"]), ("arg", dice.choice("wv")), word),
        ("contains", ("arg", "l"), word),
        ("in", ("arg", "w"), listed + globs if dice.random() < 0.5 else listed),
        ("in", ("arg", "n"), whole),
        (dice.choice(["all_in", "any_in", "none_in"]), ("arg", "l"), listed),
        ("present", dice.choice([("arg", "n"), ("arg", "w"), ("arg", "l"), ("arg", "o"), ("arg", "o", "b")])),
        ("run_has", dice.choice(["secret", "untrusted"])),
        ("==", ("principal", "role"), ("text", dice.choice(["r", "s", "t"]))),
        (dice.choice(["true", "false"]),),
    ]  # fmt: skip
    return dice.choice(kinds)


def _condition(dice: random.Random, depth: int) -> Node:
    if depth == 0 or dice.random() < 0.4:
        return _leaf(dice)
    operator = dice.choice(["and", "or", "not"])
    return (operator, *(_condition(dice, depth - 1) for _ in range(1 if operator == "not" else dice.randint(2, 3))))


def random_policy(dice: random.Random) -> Policy:
    """Makes a policy of the common part."""
    rules = []
    for number in range(dice.randint(2, 10)):
        effect: Effect = dice.choice(("permit", "permit", "permit", "forbid", "gate"))
        roles = ["r", "s", "t"] if effect == "permit" else ["*", "r", "s"]
        patterns = tuple(dice.sample(["crm.read", "crm.write", "mail", "crm.*", "*", "external"], dice.randint(1, 2)))
        when = ("true",) if dice.random() < 0.15 else _condition(dice, 3)
        gate = _GATE if effect == "gate" else None
        rules.append(Rule(f"{effect}-{number}", effect, dice.choice(roles), patterns, when, _CODES[effect], gate=gate))
    policy = Policy({"r": (), "s": ("r",), "t": ("s", "r")}, tuple(rules))
    return Policy.from_json(policy.to_json())


def random_args(dice: random.Random) -> dict[str, object]:
    """Makes arguments, of which any may be missing."""
    possible: dict[str, object] = {
        "n": dice.randint(-3, 3),
        "m": dice.randint(-3, 3),
        "w": dice.choice(WORDS),
        "v": dice.choice(WORDS),
        "l": [dice.choice(WORDS) for _ in range(dice.randint(0, 3))],
        "o": {
            key: given for key, given in (("b", dice.random() < 0.5), ("w", dice.choice(WORDS))) if dice.random() < 0.7
        },
    }
    return {name: given for name, given in possible.items() if dice.random() < 0.75}


def compare(policy: Policy, dice: random.Random, count: int) -> Iterator[tuple[str, str, object]]:
    """Yields what Cedar and the engine say on random requests, with the request."""
    rules, gates = cedar_of(policy)
    entities = cedarpy.Entities.from_json_str(entities_of(policy, ACTIONS, TENANTS))
    sets = [cedarpy.PolicySet.from_str(text) for text in (rules, gates)]
    asked: list[tuple[dict[str, Any], str]] = []
    for _ in range(count):
        name, role, tenant = dice.choice(ACTIONS)[0], dice.choice(["r", "s", "t"]), dice.choice(TENANTS)
        args, labels = random_args(dice), [label for label in ("secret", "untrusted") if dice.random() < 0.4]
        action = CATALOGUE.action(name, args)
        facts = Facts(principal={"tenant": tenant, "role": role}, labels=frozenset(labels))
        verdict: str = decide(policy, action, facts).verdict
        request = {
            "principal": {"type": "Agent", "id": f"{role} {tenant}"},
            "action": {"type": "Action", "id": name},
            "resource": {"type": "Nothing", "id": "nothing"},
            "context": {"args": args, "labels": labels},
        }
        asked.append((request, verdict))
    answers = [cedarpy.is_authorized_batch([request for request, _ in asked], each, entities) for each in sets]
    for (request, verdict), allowed, gated in zip(asked, *answers, strict=True):
        assert not [*allowed.diagnostics.errors, *gated.diagnostics.errors], request
        yield ("deny" if not allowed.allowed else "needs_approval" if gated.allowed else "allow"), verdict, request


@pytest.mark.parametrize("part", range(PARTS))
def test_random_policies_decide_as_cedar_does(part: int) -> None:
    dice = random.Random(20260105 + part)
    seen: Counter[str] = Counter()
    while seen.total() < REQUESTS // PARTS:
        policy = random_policy(dice)
        for by_cedar, verdict, request in compare(policy, dice, REQUESTS_PER_POLICY):
            assert verdict == by_cedar, (request, cedar_of(policy))
            seen[verdict] += 1
    assert min(seen[verdict] for verdict in ("allow", "deny", "needs_approval")) > seen.total() / 50


def test_a_policy_in_text_decides_as_cedar_does() -> None:
    text = """
    role r {
      permit mail where args.l all in ["alpha", "beta"] and args.n <= 2
      permit crm.* where args.w == principal.tenant or args.w in ["al*", "beta"]
    }
    role s extends r {
      permit external where args.n in [0..3]
      forbid crm.write when args.o.b == true
    }
    role t extends s { permit crm.read }
    label crm.read yields secret
    invariant no-secret: forbid external when run has secret
    gate many: mail where args.n > 0 needs 1 of role("boss"), expires 1h
    """
    policy = compile_policy(text, CATALOGUE)
    for by_cedar, verdict, request in compare(policy, random.Random(7), 500):
        assert verdict == by_cedar, request


@pytest.mark.parametrize(
    "node", [("happened", "w1"), ("from", ("arg", "w"), "user"), ("==", ("lower", ("arg", "w")), ("text", "a"))]
)
def test_what_cedar_has_not_is_refused_and_never_skipped(node: Node) -> None:
    with pytest.raises(NotCommon):
        condition(("and", ("true",), node))
