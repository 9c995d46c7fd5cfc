"""What a model call did cost, from its outcome and the estimate that its hold was made with."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.pricing.estimate import Estimate, worst_input_rate_sum, worst_output_rate
from holdfast.pricing.prices import priced_nano_usd
from holdfast.providers.model import ModelOutcome, Usage

BYTES_PER_TOKEN_MAX = 128
"""No token of the public vocabularies stands for more bytes, so that much output cannot have been fewer tokens."""
BLOCK_OVERHEAD_TOKENS = 64
"""Tokens that an answer and each of its tool calls may have besides their text."""


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The tokens that a call took.

    Attributes:
        input_tokens: What went in, from a cache or not.
        cached_tokens: What of it was read from a cache.
        output_tokens: What came out, reasoning included.
    """

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    @property
    def total(self) -> int:
        """What caps that count tokens count."""
        return self.input_tokens + self.output_tokens


def _believed(usage: Usage, outcome: ModelOutcome) -> Usage:
    """A provider's count of output is not believed below what was received."""
    least = -(-outcome.received_output_bytes // BYTES_PER_TOKEN_MAX)
    if usage.output_tokens >= least:
        return usage
    return Usage(
        input_tokens=usage.input_tokens,
        output_tokens=least,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        surcharge_percent=usage.surcharge_percent,
    )


def _partial_output_tokens(outcome: ModelOutcome, estimate: Estimate) -> int:
    """The most output that a stream without a final count may be billed for, as far as can be seen from here."""
    if estimate.prices_used.hides_reasoning:
        return estimate.output_tokens_bound
    overhead = BLOCK_OVERHEAD_TOKENS * (1 + len(outcome.tool_calls))
    return min(outcome.received_output_bytes + overhead, estimate.output_tokens_bound)


def _partial_cost_nano_usd(outcome: ModelOutcome, estimate: Estimate) -> int:
    price = estimate.prices_used
    reported = 0 if outcome.usage is None else price.cost_nano_usd(_believed(outcome.usage, outcome))
    seen_output = _partial_output_tokens(outcome, estimate)
    if outcome.usage is None:
        rate_sum = worst_input_rate_sum(price, estimate.input_tokens_bound)
        rate_sum += seen_output * worst_output_rate(price, estimate.input_tokens_bound)
        assumed = priced_nano_usd(rate_sum, price.surcharge_percent_max)
    else:
        usage = outcome.usage
        assumed = price.cost_nano_usd(
            Usage(
                input_tokens=usage.input_tokens,
                output_tokens=max(usage.output_tokens, seen_output),
                cache_read_tokens=usage.cache_read_tokens,
                cache_write_tokens=usage.cache_write_tokens,
                surcharge_percent=usage.surcharge_percent,
            )
        )
    # What is only assumed stays within the hold; what was reported counts in full, as debt if need be (LAW 3).
    return max(reported, min(assumed, estimate.max_cost_nano_usd))


def actual_llm_cost(outcome: ModelOutcome, estimate: Estimate) -> int | None:
    """Returns what a call cost, in nano-dollars.

    Returns:
        Reported usage at its own rates, which may exceed the hold; for an answer without a final count what was seen
        and at worst the hold; 0 if provably nothing was billed; None if nobody here can tell (LAW 4).
    """
    if outcome.cost == "nothing":
        return 0
    if outcome.cost == "unknown":
        return None
    if outcome.cost == "known" and outcome.usage is not None:
        return estimate.prices_used.cost_nano_usd(_believed(outcome.usage, outcome))
    return _partial_cost_nano_usd(outcome, estimate)


def actual_llm_tokens(outcome: ModelOutcome, estimate: Estimate) -> TokenCount | None:
    """Returns the tokens a call took, for rollups and for caps that count tokens; none and None as for its cost."""
    if outcome.cost == "nothing":
        return TokenCount()
    if outcome.cost == "unknown":
        return None
    usage = None if outcome.usage is None else _believed(outcome.usage, outcome)
    if usage is None:
        return TokenCount(estimate.input_tokens_bound, 0, _partial_output_tokens(outcome, estimate))
    output = usage.output_tokens
    if outcome.cost != "known":
        output = max(output, _partial_output_tokens(outcome, estimate))
    return TokenCount(usage.total_input_tokens, usage.cache_read_tokens, output)


def worst_llm_tokens(estimate: Estimate) -> TokenCount:
    """Returns the most tokens that a call can have taken, for one that nobody can tell of."""
    return TokenCount(estimate.input_tokens_bound, 0, estimate.output_tokens_bound)
