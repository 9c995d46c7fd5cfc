"""The naive engine's arithmetic on balances: what the ledger had before its functions did it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from holdfast.ledger.types import NANO_USD, SLOTS, CapView, HoldState
from holdfast.money import format_usd


@dataclass(frozen=True, slots=True)
class Leg:
    """What a hold takes from one cap."""

    cap_id: UUID
    amount: int


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


@dataclass(frozen=True, slots=True)
class BalanceChange:
    """What a settlement, or a new limit, does to a cap."""

    reserved_delta: int
    committed_delta: int
    debt_delta: int
    ceiling: int


_NEXT: Mapping[HoldState, frozenset[HoldState]] = {
    "held": frozenset({"voided", "expired"}),
    "executing": frozenset({"voided", "unknown"}),
    "executed": frozenset({"committed", "voided", "unknown"}),
    "unknown": frozenset({"committed", "voided"}),
}
RUN_BUDGET = "run.budget"
"""Kind of the hold that guarantees a run's budget: nobody executes it, it is committed with what its run has used."""


def may_settle(kind: str, state: HoldState, to: HoldState, *, went_outward: bool) -> bool:
    """Says whether a hold may go from one state to another by settling (LAW 4).

    Args:
        kind: Kind of action.
        state: Where it stands.
        to: Where it should go.
        went_outward: Whether its outward request had begun: then its cost is not nothing only because nobody knows it.
    """
    if kind == RUN_BUDGET and (state, to) == ("held", "committed"):
        return True
    if (state, to) == ("executing", "voided") and went_outward:
        return False
    return to in _NEXT.get(state, frozenset())


def _amount(unit: str, amount: int) -> str:
    return format_usd(amount) if unit == NANO_USD else f"{amount} {unit}"


def legs_for(caps: Sequence[CapView], amounts: Mapping[str, int]) -> list[Leg]:
    """Returns the legs of a hold: one for each cap whose unit the action uses.

    Args:
        caps: The caps that apply.
        amounts: Worst case by unit.
    """
    return [Leg(cap.cap_id, amounts[cap.unit]) for cap in caps if cap.unit in amounts]


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
                f"the cap on {cap.scope.kind} has {_amount(cap.unit, max(left, 0))} left of "
                f"{_amount(cap.unit, cap.limit_amount)}, and this may take {_amount(cap.unit, amount)}"
            )
            return Refusal("budget.cap_exceeded", message, cap.cap_id, outstanding)
    return None


def settle_leg(cap: CapView, held: int, actual: int) -> BalanceChange:
    """Returns what settling one leg does.

    Up to the hold, the actual amount becomes committed and the rest returns. What exceeds the hold takes free headroom of the
    same cap first; what does not fit is debt.

    Args:
        cap: The cap as it stands, the hold still reserved on it.
        held: What the hold reserved here.
        actual: What it really came to.

    Raises:
        ValueError: The actual amount is negative.
    """
    if actual < 0:
        raise ValueError(f"a hold cannot come to {actual} {cap.unit}")
    if cap.unit == SLOTS:
        actual = 0
    within = min(actual, held)
    excess = actual - within
    headroom = max(cap.limit_amount - cap.reserved - cap.committed - cap.debt + held - within, 0)
    fits = excess if cap.unlimited else min(excess, headroom)
    committed = cap.committed + within + fits
    reserved = cap.reserved - held
    return BalanceChange(
        reserved_delta=-held,
        committed_delta=within + fits,
        debt_delta=excess - fits,
        # it only ever shrinks here, so that the CHECK against it still means something
        ceiling=max(cap.limit_amount, min(cap.ceiling, reserved + committed)),
    )


def change_limit(cap: CapView, limit_amount: int, *, unlimited: bool) -> BalanceChange:
    """Returns what a new limit does: raised, it pays off debt first; lowered, it stops new holds and never running ones."""
    used = cap.reserved + cap.committed
    paid = cap.debt if unlimited else min(cap.debt, max(limit_amount - used, 0))
    return BalanceChange(
        reserved_delta=0,
        committed_delta=paid,
        debt_delta=-paid,
        ceiling=max(limit_amount, used + paid),
    )
