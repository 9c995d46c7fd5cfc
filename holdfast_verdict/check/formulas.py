"""Formulas with three truth values, as pairs of two: when it is true, when it is false. What is neither is unknown.

What is known while a formula is built is folded at once: z3 sees only what is open.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import z3

Formula = Any  # z3 ships no types: a BoolRef, or a Python bool where the answer is known already
Integer = Any  # z3 ships no types: an ArithRef of whole numbers, or a Python int


class Answer(NamedTuple):
    """When a condition is true, and when it is false."""

    true: Formula
    false: Formula

    @property
    def unknown(self) -> Formula:
        """When it is neither."""
        return conj(neg(self.true), neg(self.false))


YES = Answer(true=True, false=False)
NO = Answer(true=False, false=True)
UNKNOWN = Answer(true=False, false=False)


def neg(formula: Formula) -> Formula:
    """Not."""
    return not formula if isinstance(formula, bool) else z3.Not(formula)


def conj(*formulas: Formula) -> Formula:
    """And."""
    open_ones = [each for each in formulas if each is not True]
    if any(each is False for each in open_ones):
        return False
    return True if not open_ones else open_ones[0] if len(open_ones) == 1 else z3.And(open_ones)


def disj(*formulas: Formula) -> Formula:
    """Or."""
    open_ones = [each for each in formulas if each is not False]
    if any(each is True for each in open_ones):
        return True
    return False if not open_ones else open_ones[0] if len(open_ones) == 1 else z3.Or(open_ones)


def implies(when: Formula, then: Formula) -> Formula:
    """If … then …."""
    return disj(neg(when), then)


def either(test: Formula) -> Answer:
    """An answer that is never unknown."""
    return Answer(test, neg(test))


def guarded(known: Formula, answer: Answer) -> Answer:
    """An answer that is unknown unless something holds."""
    return Answer(conj(known, answer.true), conj(known, answer.false))


def all_of(answers: Iterable[Answer]) -> Answer:
    """Kleene's and."""
    given = list(answers)
    return Answer(conj(*(each.true for each in given)), disj(*(each.false for each in given)))


def any_of(answers: Iterable[Answer]) -> Answer:
    """Kleene's or."""
    given = list(answers)
    return Answer(disj(*(each.true for each in given)), conj(*(each.false for each in given)))


def negated(answer: Answer) -> Answer:
    """Kleene's not."""
    return Answer(answer.false, answer.true)
