"""Which labels an action's output will carry: what the catalogue says of its type, and what the policy adds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from holdfast_verdict.engine.context import Context
from holdfast_verdict.engine.program import Plan

Yields = tuple[tuple[str, tuple[str, ...]], ...]

UNTRUSTED: Final[Yields] = (("", ("untrusted",)),)


def yields_of(plan: Plan, declared: Mapping[str, Iterable[str]], context: Context) -> Yields:
    """Returns the labels by the output field's path, sorted; an unknown `where` labels, too (LAW 7).

    An output of which neither catalogue nor policy says anything is untrusted. A policy that says `yields nothing` vouches for it.
    """
    if not plan.labels and not declared:
        return UNTRUSTED
    spoken_of = bool(declared)
    fields: dict[str, set[str]] = {path: set(labels) for path, labels in declared.items()}
    for each in plan.labels:
        if each.where(context) is not False:
            spoken_of = True
            fields.setdefault(each.label.field, set()).update(each.label.labels)
    if not spoken_of:
        return UNTRUSTED
    return tuple((path, tuple(sorted(labels))) for path, labels in sorted(fields.items()) if labels)


def labels_after(labels: frozenset[str], yields: Yields) -> frozenset[str]:
    """Returns what a run carries once it has read an output."""
    for _, names in yields:
        labels = labels if labels.issuperset(names) else labels.union(names)
    return labels
