"""Judging caps as they were read: what the ledger's functions will say, for admission and estimates that take nothing.

The law is `reserved + committed + debt ≤ limit` (LAW 3). What decides is `ledger_reserve` in the schema, under lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from holdfast.ledger.types import NANO_USD, CapView
from holdfast.money import format_usd


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no hold is granted.

    Attributes:
        code: Stable reason code.
        message: Which cap refused, and by how much.
        cap_id: That cap, if there is one.
        outstanding: Whether outstanding holds alone stand in the way, so that waiting may help.
    """

    code: str
    message: str
    cap_id: UUID | None
    outstanding: bool


RUN_BUDGET = "run.budget"
"""Kind of the hold that guarantees a run's budget: nobody executes it, it is committed with what its run has used."""


def _amount(unit: str, amount: int) -> str:
    return format_usd(amount) if unit == NANO_USD else f"{amount} {unit}"


def per_window(kind: str) -> str:
    """Returns what a sentence says after a cap's scope, such as ` per day`; nothing for a cap that counts for ever."""
    return "" if kind == "total" else f" per {kind}"


def refusal_for(caps: Sequence[CapView], amounts: Mapping[str, int], *, funded: bool = False) -> Refusal | None:
    """Says whether a hold must be refused.

    Granted if and only if for each leg `limit − reserved − committed − debt ≥ amount`. Money needs a cap on the tenant:
    nothing is unlimited by omission.
    """
    needed = "run" if funded else "tenant"
    if amounts.get(NANO_USD, 0) > 0 and not any(cap.unit == NANO_USD and cap.scope.kind == needed for cap in caps):
        return Refusal("budget.no_cap", "the tenant has no money cap, so it cannot spend: set one first", None, False)
    for cap in caps:
        amount = amounts.get(cap.unit)
        if amount is None or cap.unlimited:
            continue
        left = cap.limit_amount - cap.reserved - cap.committed - cap.debt
        if left < amount:
            outstanding = cap.limit_amount - cap.committed - cap.debt >= amount
            message = (
                f"the cap on {cap.scope.kind}{per_window(cap.window_kind)} has {_amount(cap.unit, max(left, 0))} left of "
                f"{_amount(cap.unit, cap.limit_amount)}, and this may take {_amount(cap.unit, amount)}"
            )
            return Refusal("budget.cap_exceeded", message, cap.cap_id, outstanding)
    return None
