"""The third truth value. Conditions answer true, false or unknown (`None`); values that are not there are UNKNOWN."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final


class Unknown(enum.Enum):
    """What stands for a value that is missing, or is of a type of which the question makes no sense."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN

Truth = bool | None
"""True, false, or `None`: nobody can tell."""


def any_of(truths: Iterable[Truth]) -> Truth:
    """Kleene's or: one true is enough, and an unknown stands in the way of a false."""
    answer: Truth = False
    for truth in truths:
        if truth is True:
            return True
        if truth is not False:
            answer = None
    return answer


def all_of(truths: Iterable[Truth]) -> Truth:
    """Kleene's and: one false is enough, and an unknown stands in the way of a true."""
    answer: Truth = True
    for truth in truths:
        if truth is False:
            return False
        if truth is not True:
            answer = None
    return answer
