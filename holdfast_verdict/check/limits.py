"""Limits that let nothing through, and limits that nothing ever reaches."""

from __future__ import annotations

from collections.abc import Iterator

from holdfast_verdict.check.finding import Finding, Place
from holdfast_verdict.check.questions import Questions
from holdfast_verdict.policy import Limit, Policy, Rule


def limit_findings(questions: Questions, policy: Policy, dead: set[str]) -> list[Finding]:
    """Returns what there is to say about a policy's limits.

    Args:
        questions: The actions that there are.
        policy: The policy.
        dead: Rules that never fire, of which all is said already.
    """
    limits = [(rule, rule.limit) for rule in policy.rules if rule.limit is not None and rule.id not in dead]
    found = []
    for rule, limit in limits:
        if limit.ceiling == 0:
            found.append(_nothing(rule, limit, policy))
            continue
        tighter = next((other for other in _tighter(rule, limit, limits)), None)
        if tighter is not None:
            found.append(_never_reached(rule, tighter, policy))
    return found


def _place(policy: Policy, rule: Rule) -> Place:
    return Place(rule.id, policy.lines.get(rule.id, 0))


def _nothing(rule: Rule, limit: Limit, policy: Policy) -> Finding:
    return Finding(
        "limit-lets-nothing-through",
        f"limit {rule.id} has a ceiling of 0 {limit.unit}: it denies every action that takes any",
        "proved",
        _place(policy, rule),
        rule.role if rule.role != "*" else "",
        remedy="raise the ceiling, or say it with a forbid",
    )


def _never_reached(rule: Rule, tighter: Rule, policy: Policy) -> Finding:
    return Finding(
        "limit-never-reached",
        f"limit {rule.id} is never reached: {tighter.id} holds at least as much of the same, and less of it",
        "proved",
        _place(policy, rule),
        others=(_place(policy, tighter),),
        remedy="lower its ceiling, or remove it",
    )


def _tighter(rule: Rule, limit: Limit, limits: list[tuple[Rule, Limit]]) -> Iterator[Rule]:
    """Yields limits that add up at least all of what this one does, for the same whom and when, and have less room."""
    for other, its in limits:
        same = (its.measure, its.of, its.unit, its.per) == (limit.measure, limit.of, limit.unit, limit.per)
        if other.id == rule.id or not same or not _covers(other, rule):
            continue
        if (
            its.window == limit.window
            and (
                its.ceiling < limit.ceiling
                or (its.ceiling == limit.ceiling and other.id < rule.id and _covers(rule, other))
            )
        ) or (its.window == "total" and its.ceiling <= limit.ceiling):
            yield other


def _covers(wider: Rule, narrower: Rule) -> bool:
    return (
        wider.role in ("*", narrower.role)
        and (wider.when in (("true",), narrower.when))
        and ("*" in wider.actions or set(narrower.actions) <= set(wider.actions))
    )
