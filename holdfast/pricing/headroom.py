"""What the caps have left, and how much a model call that asks for no bound may write within it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from holdfast.ledger.types import CALLS, NANO_USD, SLOTS, TOKENS, CapView
from holdfast.pricing.bounds import Tokenizer, counted_tokens_bound, input_tokens_bound
from holdfast.pricing.estimate import Estimate, estimate_of, worst_input_rate_sum, worst_output_rate
from holdfast.pricing.prices import TOKENS_PER_MTOK, Price
from holdfast.providers.model import ModelRequest

DEFAULT_MAX_TOKENS = 4_096
USEFUL_MAX_TOKENS_MIN = 256
UNITS = (NANO_USD, TOKENS, CALLS, SLOTS)
"""Units of the caps that a model call takes something from."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """The least that any cap which applies has left, by unit; None where no cap counts that unit.

    It was read without a lock: it is for judging how much to ask for, and never says what is granted.
    """

    nano_usd: int | None = None
    tokens: int | None = None
    calls: int | None = None

    def covers(self, estimate: Estimate) -> bool:
        """Says whether the worst case would fit."""
        needed = (
            (self.nano_usd, estimate.max_cost_nano_usd),
            (self.tokens, estimate.max_tokens_total),
            (self.calls, 1),
        )
        return all(available is None or amount <= available for available, amount in needed)


def headroom_of(caps: Iterable[CapView], *, funded: bool = False) -> Headroom:
    """Returns what caps that apply have left.

    Args:
        caps: The caps as they stand.
        funded: Whether the run's money was held at admission: then only the run's own money cap counts.
    """
    least: dict[str, int] = {}
    for cap in caps:
        if cap.unlimited or (funded and cap.unit == NANO_USD and cap.scope.kind != "run"):
            continue
        left = max(cap.limit_amount - cap.reserved - cap.committed - cap.debt, 0)
        least[cap.unit] = min(left, least.get(cap.unit, left))
    return Headroom(least.get(NANO_USD), least.get(TOKENS), least.get(CALLS))


def affordable_max_tokens(
    input_tokens: int,
    price: Price,
    headroom: Headroom,
    *,
    default: int = DEFAULT_MAX_TOKENS,
    useful_min: int = USEFUL_MAX_TOKENS_MIN,
) -> int | None:
    """Returns the `max_tokens` to put into a request that came without one, or None if nothing useful is affordable.

    A call takes the default if it needs no more than half of what the caps have left for output; else that half, so
    that one call does not starve the others; but never less than a useful answer.

    Args:
        input_tokens: The most input tokens the provider can count.
        price: The model's price.
        headroom: What the caps have left.
        default: The bound of a call that nothing stands in the way of.
        useful_min: The least output that is worth a call.
    """
    affordable = [2 * default]
    if headroom.nano_usd is not None:
        rate_sum = max(0, headroom.nano_usd) * TOKENS_PER_MTOK * 100 // (100 + price.surcharge_percent_max)
        rest = rate_sum - worst_input_rate_sum(price, input_tokens)
        rate = worst_output_rate(price, input_tokens)
        affordable.append(rest // rate if rate else (2 * default if rest >= 0 else -1))
    if headroom.tokens is not None:
        affordable.append(headroom.tokens - input_tokens)
    if min(affordable) < useful_min:
        return None
    wanted = min(default, max(useful_min, min(affordable) // 2))
    return wanted if price.max_output_tokens is None else min(wanted, price.max_output_tokens)


def fitted(
    request: ModelRequest,
    price: Price,
    headroom: Headroom,
    max_tokens: int | None,
    *,
    default: int = DEFAULT_MAX_TOKENS,
) -> Estimate:
    """Returns the worst case of a call as it is to be asked for: its output bound is the `max_tokens` to send.

    The input's bound comes from its bytes. Only where that does not fit what the caps have left, or the model's context
    window, is the input counted with the model's tokenizer, if its maker has published one.

    Where nothing useful is affordable it is the smallest useful call, for the ledger to refuse: what was read here
    without a lock may be stale, and only the ledger says which cap refuses, by how much, and whether waiting may help.

    Args:
        request: The request; its own `max_tokens` is not looked at.
        price: The model's price.
        headroom: What the caps have left.
        max_tokens: The agent's own bound, None if it sets none.
        default: The role's bound for calls whose agent sets none.

    Raises:
        RequestInvalid: The bound is not positive.
    """
    estimate = _fitted(input_tokens_bound(request), price, headroom, max_tokens, default, None)
    wanted = max_tokens or min(default, price.max_output_tokens or default)
    if price.tokenizer is None or _fits(estimate, headroom, wanted):
        return estimate
    counted = counted_tokens_bound(request, price.tokenizer)
    return _fitted(counted, price, headroom, max_tokens, default, price.tokenizer)


def _fitted(
    input_tokens: int,
    price: Price,
    headroom: Headroom,
    max_tokens: int | None,
    default: int,
    tokenizer: Tokenizer | None,
) -> Estimate:
    if max_tokens is None:
        max_tokens = affordable_max_tokens(input_tokens, price, headroom, default=default)
    if max_tokens is None:
        max_tokens = min(USEFUL_MAX_TOKENS_MIN, price.max_output_tokens or USEFUL_MAX_TOKENS_MIN)
    return estimate_of(price, input_tokens, max_tokens, tokenizer)


def _fits(estimate: Estimate, headroom: Headroom, wanted: int) -> bool:
    window = estimate.prices_used.context_window or estimate.max_tokens_total
    affordable = estimate.output_tokens_bound >= wanted and headroom.covers(estimate)
    return affordable and estimate.max_tokens_total <= window
