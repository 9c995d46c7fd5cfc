"""Compiled policies and facts, as short as tests want them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.engine.facts import Facts
from holdfast_verdict.policy import Policy
from holdfast_verdict.provenance.origin import Origin

Json = dict[str, object]
CODES = {
    "forbid": "policy.forbidden",
    "permit": "policy.permitted",
    "limit": "policy.limit",
    "gate": "policy.gate",
}
TRUE = ["true"]
AMOUNT = ["arg", "amount"]
TO = ["arg", "to"]
USER = Origin(frozenset({"user"}))
WEB = Origin(frozenset({"tool"}), frozenset({"untrusted"}), ("web.fetch#1",))
CLEAN_MODEL = Origin(frozenset({"model"}))


def rule(
    effect: str,
    actions: str = "pay",
    when: Sequence[object] = ("true",),
    *,
    name: str = "",
    role: str | None = None,
    code: str = "",
    message: str = "",
    gate: Json | None = None,
    limit: Json | None = None,
) -> Json:
    return {
        "id": name or f"{effect}-{actions}",
        "effect": effect,
        "role": role or ("clerk" if effect == "permit" else "*"),
        "actions": actions.split(),
        "when": when,
        "code": code or CODES[effect],
        "message": message,
        "gate": gate,
        "limit": limit,
    }


def gate(*needs: tuple[int, str, str], expires_ms: int = 1000, not_requester: bool = True, **escalate: object) -> Json:
    return {
        "needs": [{"count": count, "kind": kind, "name": name} for count, kind, name in needs],
        "expires_ms": expires_ms,
        "not_requester": not_requester,
        "escalate": escalate or None,
    }


def limit(
    measure: str, ceiling: int, unit: str, *, of: object = None, window: object = "run", per: str = "run"
) -> Json:
    return {"measure": measure, "of": of, "ceiling": ceiling, "unit": unit, "window": window, "per": per}


def watch(
    name: str = "w",
    actions: str = "pay",
    *,
    event: str = "requested",
    keep: str = "count",
    of: object = None,
    window_ms: int | None = None,
    scope: str = "run",
    same: Sequence[object] = (),
    doubt: bool = True,
    where: Sequence[object] = ("true",),
) -> Json:
    return {
        "id": name,
        "actions": actions.split(),
        "where": where,
        "event": event,
        "keep": keep,
        "of": of,
        "window_ms": window_ms,
        "scope": scope,
        "same": same,
        "doubt": doubt,
    }


def document(*rules: Json, watches: Sequence[Json] = (), **members: object) -> Json:
    """Returns the compiled form of a policy with the roles clerk and boss, of which boss extends clerk."""
    return {
        "v": 1,
        "roles": {"clerk": [], "boss": ["clerk"]},
        "rules": list(rules),
        "labels": [],
        "watches": list(watches),
        "zones": [],
        "external": {},
        **members,
    }


def policy(*rules: Json, watches: Sequence[Json] = (), **members: object) -> Policy:
    return Policy.from_json(document(*rules, watches=watches, **members))


def call(tool: str = "pay", **args: JsonValue) -> dict[str, JsonValue]:
    return {"kind": "tool.call", "tool": tool, "args": args}


def clerk(**members: object) -> Facts:
    """Returns the facts of a run of a clerk that has read nothing."""
    principal: Mapping[str, object] = {"tenant": "acme", "user": "ann", "agent": "a", "role": "clerk", "run": "r1"}
    return Facts(principal=principal, **{"now_ms": 10_000, "labels": frozenset(), **members})  # type: ignore[arg-type]  # any member
