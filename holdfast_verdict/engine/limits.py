"""Limits: what an action takes of each, as legs for the ledger, and whether it is known already that one does not fit."""

from __future__ import annotations

import math

from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.numbers import number_of
from holdfast_verdict.engine.program import CompiledRule
from holdfast_verdict.engine.unknown import Unknown
from holdfast_verdict.engine.verdict import Leg
from holdfast_verdict.policy import Limit


class Immeasurable(Exception):  # it becomes a deny, and never leaves the engine
    """What an action takes of a limit cannot be told from its own arguments."""


def leg_of(rule: CompiledRule, context: Context) -> Leg:
    """Returns what a limit asks to be held.

    Raises:
        Immeasurable: The argument that is added up is missing, is no number, or is finer than the unit.
    """
    limit = rule.rule.limit
    assert limit is not None  # the form of a policy says so
    scope = context.facts.principal.get(limit.per)
    named = scope if isinstance(scope, str) else None
    if named is not None:
        context.read["principal", limit.per] = named
    key = rule.key + (named or "")
    amount = 1 if limit.measure == "count" else _amount(rule, limit, context)
    return Leg(rule.rule.id, key, limit.unit, amount, limit.ceiling, limit.window, limit.per, named)


def _amount(rule: CompiledRule, limit: Limit, context: Context) -> int | None:
    if rule.measured is not None:
        number = number_of(rule.measured(context))
        if isinstance(number, Unknown):
            raise Immeasurable
        return max(math.ceil(number), 0)  # a negative amount makes no room, and a fraction counts whole
    estimate = context.estimate(limit.unit)
    return None if isinstance(estimate, Unknown) else max(estimate, 0)


def shortage(leg: Leg, context: Context) -> str | None:
    """Says why a leg cannot be held, as far as is known; a fact that is needed and was not given is a shortage, too.

    Returns:
        `None` if nothing stands against it, the missing fact's name after `?`, or a sentence.
    """
    usage = context.facts.usage
    if usage is None:
        if leg.amount is not None and leg.amount > leg.ceiling:
            return f"it takes {leg.amount} {leg.unit}, and the limit is {leg.ceiling}"
        return None  # the ledger holds the leg, in one transaction with the decision, or denies
    told = usage.get(leg.key)
    used = told if type(told) is int else None
    context.read["usage", leg.key] = used  # also that it was asked for in vain
    if leg.amount is None:
        return f"?estimate.{leg.unit}"
    if leg.scope is None:
        return f"?principal.{leg.per}"
    if used is None:
        return f"?usage of {leg.key}"
    if max(used, 0) + leg.amount > leg.ceiling:
        return f"it takes {leg.amount} {leg.unit}, {used} of {leg.ceiling} are used"
    return None
