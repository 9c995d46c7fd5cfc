"""The worst case of a model call before it runs: what a hold has to cover (LAW 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from holdfast.errors import RequestInvalid
from holdfast.pricing.bounds import (
    MESSAGE_OVERHEAD_TOKENS,
    Tokenizer,
    counted_tokens_bound,
    input_tokens_bound,
    text_tokens_bound,
)
from holdfast.pricing.prices import Price, priced_nano_usd
from holdfast.providers.model import ModelRequest
from holdfast_verdict.canonical import JsonValue


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a call can cost at most, with everything that it follows from.

    Attributes:
        max_cost_nano_usd: The amount to hold.
        input_tokens_bound: The most input tokens the provider can count.
        output_tokens_bound: The most output tokens, reasoning included.
        prices_used: The price at which it was made; settling uses the same.
        counted_with: The tokenizer that counted the input; empty if its bytes did.
    """

    max_cost_nano_usd: int
    input_tokens_bound: int
    output_tokens_bound: int
    prices_used: Price
    counted_with: str = ""

    @property
    def max_tokens_total(self) -> int:
        """What the call can take at most from a cap that counts tokens."""
        return self.input_tokens_bound + self.output_tokens_bound

    def to_json(self) -> dict[str, JsonValue]:
        """Returns the estimate as a JSON object with a canonical form."""
        return {
            "max_cost_nano_usd": self.max_cost_nano_usd,
            "input_tokens_bound": self.input_tokens_bound,
            "output_tokens_bound": self.output_tokens_bound,
            "prices_used": self.prices_used.to_json(),
            "counted_with": self.counted_with,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, JsonValue]) -> Estimate:
        """Reads what `to_json` wrote."""
        return cls(
            max_cost_nano_usd=cast(int, value["max_cost_nano_usd"]),
            input_tokens_bound=cast(int, value["input_tokens_bound"]),
            output_tokens_bound=cast(int, value["output_tokens_bound"]),
            prices_used=Price.from_json(cast("Mapping[str, JsonValue]", value["prices_used"])),
            counted_with=str(value.get("counted_with", "")),
        )


def worst_input_rate_sum(price: Price, input_tokens: int) -> int:
    """Returns tokens times rate for that much input at the dearest rate that could apply: cache write, long context."""
    return input_tokens * max(rates.dearest_input_nano_usd_per_mtok for rates in price.rates_up_to(input_tokens))


def worst_output_rate(price: Price, input_tokens: int) -> int:
    """Returns the dearest output rate that could apply to a call with at most that much input."""
    return max(rates.output_nano_usd_per_mtok for rates in price.rates_up_to(input_tokens))


def _worst_cost_nano_usd(price: Price, input_tokens: int, output_tokens: int) -> int:
    rate_sum = worst_input_rate_sum(price, input_tokens) + output_tokens * worst_output_rate(price, input_tokens)
    return priced_nano_usd(rate_sum, price.surcharge_percent_max)


def estimate_llm(request: ModelRequest, price: Price, tokenizer: Tokenizer | None = None) -> Estimate:
    """Returns the worst case of a request: its input bound and its `max_tokens`, each at the dearest rate.

    Args:
        request: The request.
        price: The model's price.
        tokenizer: The model's tokenizer, to count the input with it; None takes the bound from bytes.

    Raises:
        RequestInvalid: `max_tokens` is not positive.
        ContentUnsupported: The request carries something that cannot be bounded.
    """
    bound = input_tokens_bound(request) if tokenizer is None else counted_tokens_bound(request, tokenizer)
    return estimate_of(price, bound, request.max_tokens, tokenizer)


def estimate_of(price: Price, input_tokens: int, max_tokens: int, tokenizer: Tokenizer | None = None) -> Estimate:
    """Returns the worst case of a call with at most that much input and output.

    Raises:
        RequestInvalid: `max_tokens` is not positive.
    """
    if max_tokens <= 0:
        raise RequestInvalid(f"max_tokens is {max_tokens}", remedy="ask for at least one token")
    return Estimate(
        max_cost_nano_usd=_worst_cost_nano_usd(price, input_tokens, max_tokens),
        input_tokens_bound=input_tokens,
        output_tokens_bound=max_tokens,
        prices_used=price,
        counted_with=tokenizer or "",
    )


def estimate_embedding(texts: Sequence[str], price: Price) -> Estimate:
    """Returns the worst case of embedding texts: input is all that is billed.

    Args:
        texts: The texts, sent in one request or in many.
        price: The model's price, of one that does not write.
    """
    bound = sum(MESSAGE_OVERHEAD_TOKENS + text_tokens_bound(text) for text in texts)
    return Estimate(_worst_cost_nano_usd(price, bound, 0), bound, 0, price)
