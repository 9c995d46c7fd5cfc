"""The compiled form: what is written is read back; whatever is changed is refused or has another name."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast_verdict.policy import Policy
from holdfast_verdict.problems import PolicyRefused

AMOUNT = ["as_money", ["arg", "amount"], "usd"]


def form() -> dict[str, Any]:
    """A compiled form with one of each part."""
    rule = {"role": "clerk", "actions": ["pay"], "when": ["true"], "message": "", "gate": None, "limit": None}
    need = {"count": 1, "kind": "role", "name": "boss"}
    return {
        "v": 1,
        "roles": {"clerk": [], "senior": ["clerk"]},
        "rules": [
            {
                **rule,
                "id": "clerk/pay-1",
                "effect": "permit",
                "code": "policy.permitted",
                "when": [
                    "and",
                    ["<=", AMOUNT, ["money", 5_000_000_000]],
                    ["all_in", ["arg", "to"], [["domain", "acme.com"], ["is", ["text", "bob@example.org"]]]],
                    ["every", ["arg", "items"], "item", ["present", ["var", "item", "price"]]],
                    ["or", ["from", ["arg", "to"], ["tool", "crm.*"]], ["from", ["arg", "to"], "untrusted"]],
                    ["<", ["local", "Europe/Berlin", "hour"], ["int", 18]],
                    ["not", ["==", ["arg", "rate"], ["number", "12.5"]]],
                ],
            },
            {
                **rule,
                "id": "notify-first",
                "effect": "forbid",
                "role": "*",
                "code": "policy.invariant",
                "message": "Tell them first.",
                "when": ["not", ["happened", "w1"]],
            },
            {
                **rule,
                "id": "big",
                "effect": "gate",
                "role": "*",
                "code": "policy.gate",
                "gate": {
                    "needs": [need],
                    "expires_ms": 1_800_000,
                    "not_requester": True,
                    "escalate": {"after_ms": 600_000, "to": {**need, "name": "chief"}},
                },
            },
            {
                **rule,
                "id": "few",
                "effect": "limit",
                "code": "policy.limit",
                "limit": {
                    "measure": "sum",
                    "of": AMOUNT,
                    "ceiling": 2_000_000_000_000,
                    "unit": "nano_usd",
                    "window": {"rolling_ms": 86_400_000},
                    "per": "tenant",
                },
            },
        ],
        "labels": [{"actions": ["web.*"], "field": "", "labels": ["untrusted"], "where": ["true"]}],
        "watches": [
            {
                "id": "w1",
                "actions": ["notify"],
                "where": ["==", ["arg", "kind"], ["text", "mail"]],
                "event": "succeeded",
                "keep": "last",
                "of": None,
                "window_ms": 3_600_000,
                "scope": "run",
                "same": [[["arg", "invoice"], ["arg", "invoice"]]],
                "doubt": False,
            }
        ],
        "zones": ["Europe/Berlin"],
        "external": {"pay": True},
    }


def test_what_is_written_is_read_back() -> None:
    policy = Policy.from_json(form())
    assert policy.to_json() == form()
    assert Policy.from_json(policy.to_json()) == policy
    assert len(policy.policy_hash) == 32


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(node, dict | list):
        for key, member in node.items() if isinstance(node, dict) else enumerate(node):
            yield from places(member, (*path, key))


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Returns the document with another value there, or with what was there taken out if it is `KeyError`."""
    if not path:
        return value
    changed = copy.deepcopy(document)
    node = changed
    for key in path[:-1]:
        node = node[key]
    if value is KeyError:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return changed


NUMBERS: list[Any] = [True, False, 0, 1, -1, 2, 1.0, 2**53]
TEXTS: list[Any] = ["", "*", "x", "true", "a\x00", "\ud800", b"x"]
TREES: list[Any] = [[], {}, ["true"], ["x"], [[]], ["maybe"], ["not", ["true"]], {"x": 1}]
OTHERS: list[Any] = [KeyError, None, *NUMBERS, *TEXTS, *TREES]


def test_a_change_is_refused_or_has_another_name() -> None:
    whole, refused = Policy.from_json(form()), 0
    for path in places(form()):
        for other in OTHERS:
            changed = put(form(), path, other)
            if changed == form() and repr(changed) == repr(form()):
                continue
            try:
                policy = Policy.from_json(changed)
            except PolicyRefused as refusal:
                refused += refusal.problems[0].path.startswith("$")
            else:
                assert policy.policy_hash != whole.policy_hash, (path, other)
                assert Policy.from_json(policy.to_json()) == policy
    assert refused > 1_000


def test_a_field_more_is_refused() -> None:
    for path in places(form()):
        node = form()
        for key in path:
            node = node[key]
        if isinstance(node, dict) and path not in (("roles",), ("external",)):
            with pytest.raises(PolicyRefused, match="odd"):
                Policy.from_json(put(form(), (*path, "odd"), 1))


def test_a_deep_expression_is_refused() -> None:
    deep: list[Any] = ["true"]
    for _ in range(10_000):
        deep = ["not", deep]
    with pytest.raises(PolicyRefused, match="deeper"):
        Policy.from_json(put(form(), ("rules", 0, "when"), deep))


@pytest.mark.parametrize(
    "when",
    [
        ["happened", "w2"],
        ["count<=", "w1", 3],
        ["every", ["arg", "a"], "x", ["every", ["var", "x"], "x", ["true"]]],
        ["present", ["var", "x"]],
        ["and", ["true"]],
        ["run_has", "user"],
        ["in", ["arg", "a"], []],
        ["in", ["arg", "a"], [["glob", "a*b*"]]],
        ["==", ["number", "12.0"], ["number", "12"]],
        ["==", ["arg"], ["null"]],
    ],
)
def test_what_makes_no_sense_is_refused(when: list[Any]) -> None:
    with pytest.raises(PolicyRefused):
        Policy.from_json(put(form(), ("rules", 0, "when"), when))


@pytest.mark.parametrize("where", [["run_has", "secret"], ["happened", "w1"], ["from", ["arg", "a"], "user"]])
def test_a_watch_asks_about_its_action_alone(where: list[Any]) -> None:
    with pytest.raises(PolicyRefused, match="no place here"):
        Policy.from_json(put(form(), ("watches", 0, "where"), where))


@pytest.mark.parametrize(
    "roles", [{"a": ["a"]}, {"a": ["b"]}, {"a": ["b"], "b": ["a"]}, {"a": ["b"], "b": ["c"], "c": []}]
)
def test_roles_extend_what_there_is_and_all_of_it(roles: dict[str, list[str]]) -> None:
    with pytest.raises(PolicyRefused):
        Policy.from_json({**form(), "rules": [], "watches": [], "zones": [], "roles": roles})
