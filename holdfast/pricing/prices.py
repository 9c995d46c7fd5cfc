"""Prices of models, from the offline tables of `genai-prices` and an overlay of what those do not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import cast

import genai_prices
from genai_prices import data_snapshot
from genai_prices.types import ModelPrice, TieredPrices

from holdfast.errors import PriceUnknown
from holdfast.money import nano_usd_from_decimal
from holdfast.pricing.bounds import Tokenizer
from holdfast.pricing.overlay import tokenizer_of, traits_of
from holdfast.providers.model import Usage, Wire
from holdfast_verdict.canonical import JsonValue

TOKENS_PER_MTOK = 1_000_000
SIMULATED_PREFIX = "simulated-"
_PRICED_MEMBERS = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
_NOT_OF_TEXT_CALLS = ("web_searches_kcount", "storage_searches_kcount", "cache_write_1h_mtok")
"""Priced by the tables, but never part of what this package estimates: requests ask for no server-side search and for
no cache entry of an hour."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices of the four kinds of token, in nano-dollars for a million of them."""

    input_nano_usd_per_mtok: int
    output_nano_usd_per_mtok: int
    cache_read_nano_usd_per_mtok: int
    cache_write_nano_usd_per_mtok: int

    @property
    def dearest_input_nano_usd_per_mtok(self) -> int:
        """The dearest thing that an input token can be."""
        return max(self.input_nano_usd_per_mtok, self.cache_read_nano_usd_per_mtok, self.cache_write_nano_usd_per_mtok)

    def to_json(self) -> dict[str, JsonValue]:
        """Returns the rates by name."""
        return {name: getattr(self, name) for name in Rates.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class LongContextRates(Rates):
    """Rates of *all* tokens of a call whose whole input is over a bound."""

    above_input_tokens: int

    def to_json(self) -> dict[str, JsonValue]:
        """Returns the rates and their bound by name."""
        return {name: getattr(self, name) for name in LongContextRates.__dataclass_fields__}

    @classmethod
    def from_json(cls, value: Mapping[str, JsonValue]) -> LongContextRates:
        """Reads what `to_json` wrote."""
        return cls(**{name: cast(int, value[name]) for name in cls.__dataclass_fields__})


@dataclass(frozen=True, slots=True)
class Price(Rates):
    """All that decides what a call of one model costs; it is stored with the hold that was taken for it.

    Attributes:
        model: The model as it was asked for.
        long_context: Dearer rates, by ascending bound.
        surcharge_percent_max: What the place of inference may add to every rate.
        max_output_tokens: The most a model writes, None if not known.
        hides_reasoning: Output that is billed may never be shown.
        source: Where the rates come from.
        context_window: Input and output that the model takes together, None if not known.
        tokenizer: The model's tokenizer if it is public. It and the window choose how to estimate; settling needs neither, so
            they are not stored.
    """

    model: str
    long_context: tuple[LongContextRates, ...]
    surcharge_percent_max: int
    max_output_tokens: int | None
    hides_reasoning: bool
    source: str
    context_window: int | None = field(default=None, compare=False)
    tokenizer: Tokenizer | None = field(default=None, compare=False)

    def rates_at(self, total_input_tokens: int) -> Rates:
        """Returns the rates of a call with that much input."""
        rates: Rates = self
        for tier in self.long_context:
            if total_input_tokens > tier.above_input_tokens:
                rates = tier
        return rates

    def rates_up_to(self, total_input_tokens: int) -> tuple[Rates, ...]:
        """Returns all rates that a call with at most that much input may be billed at."""
        return (self, *(tier for tier in self.long_context if total_input_tokens > tier.above_input_tokens))

    def cost_nano_usd(self, usage: Usage) -> int:
        """Returns what reported usage costs, rounded up."""
        rates = self.rates_at(usage.total_input_tokens)
        amount = (
            usage.input_tokens * rates.input_nano_usd_per_mtok
            + usage.output_tokens * rates.output_nano_usd_per_mtok
            + usage.cache_read_tokens * rates.cache_read_nano_usd_per_mtok
            + usage.cache_write_tokens * rates.cache_write_nano_usd_per_mtok
        )
        return priced_nano_usd(amount, min(usage.surcharge_percent, self.surcharge_percent_max))

    def to_json(self) -> dict[str, JsonValue]:
        """Returns the price as a JSON object with a canonical form."""
        return {
            **Rates.to_json(self),
            "model": self.model,
            "long_context": [tier.to_json() for tier in self.long_context],
            "surcharge_percent_max": self.surcharge_percent_max,
            "max_output_tokens": self.max_output_tokens,
            "hides_reasoning": self.hides_reasoning,
            "source": self.source,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, JsonValue]) -> Price:
        """Reads what `to_json` wrote."""
        # The store returns exactly what `to_json` wrote, so each member has its declared type.
        members: dict[str, object] = dict(value)
        tiers = cast("list[Mapping[str, JsonValue]]", members["long_context"])
        members["long_context"] = tuple(LongContextRates.from_json(tier) for tier in tiers)
        return cls(**members)  # type: ignore[arg-type]  # see above


def priced_nano_usd(token_rate_sum: int, surcharge_percent: int) -> int:
    """Turns a sum of tokens times nano-dollars per million tokens into nano-dollars, rounded up once."""
    return -(-token_rate_sum * (100 + surcharge_percent) // (TOKENS_PER_MTOK * 100))


def _rate(value: Decimal | TieredPrices, input_tokens: int) -> int:
    """Returns the rate at that much input; a call over a tier's start pays the tier's price for all its tokens."""
    if isinstance(value, TieredPrices):
        price = value.base
        for tier in value.tiers:
            if input_tokens > tier.start:
                price = tier.price
        return nano_usd_from_decimal(price)
    return nano_usd_from_decimal(value)


def _rates(prices: Mapping[str, Decimal | TieredPrices], input_tokens: int) -> Rates:
    base = _rate(prices["input_mtok"], input_tokens)
    return Rates(
        input_nano_usd_per_mtok=base,
        output_nano_usd_per_mtok=_rate(prices["output_mtok"], input_tokens),
        # Where a cache has no price of its own, its tokens are input like any other.
        cache_read_nano_usd_per_mtok=_rate(prices.get("cache_read_mtok", prices["input_mtok"]), input_tokens),
        cache_write_nano_usd_per_mtok=_rate(prices.get("cache_write_mtok", prices["input_mtok"]), input_tokens),
    )


def _usable(prices: ModelPrice, model: str, *, writes: bool) -> dict[str, Decimal | TieredPrices]:
    known: dict[str, Decimal | TieredPrices] = {
        name: value for name, value in vars(prices).items() if name in _PRICED_MEMBERS and value is not None
    }
    if not writes:
        if "output_mtok" in known:
            raise PriceUnknown(f"{model!r} is no model of embeddings: it bills output", remedy=_REMEDY)
        known["output_mtok"] = Decimal(0)
    missing = [name for name in ("input_mtok", "output_mtok") if name not in known]
    if missing:
        raise PriceUnknown(f"{model!r} has no price for text ({', '.join(missing)} missing)", remedy=_REMEDY)
    others = {name for name, value in vars(prices).items() if value is not None}
    others -= {*_PRICED_MEMBERS, *_NOT_OF_TEXT_CALLS}
    if others:
        raise PriceUnknown(f"{model!r} is also billed by {', '.join(sorted(others))}", remedy=_REMEDY)
    return known


_REMEDY = "use a text model that the price tables know, or update genai-prices"


def price_of(wire: Wire, model: str, at: datetime, *, writes: bool = True) -> Price:
    """Returns the price of a model on a wire.

    A model named `simulated-…` costs what the model it imitates does, so that a rehearsal spends like the real thing.

    Args:
        wire: The wire, which names the provider whose price list counts.
        model: The provider's name of the model.
        at: The moment for which prices are asked; some change at known dates.
        writes: Whether the model answers in text; one that makes embeddings bills input alone.

    Raises:
        PriceUnknown: No price is known, or the model is billed by something that cannot be bounded here (LAW 7).
    """
    imitated = model.removeprefix(SIMULATED_PREFIX)
    try:
        provider, info = data_snapshot.get_snapshot().find_provider_model(imitated, None, wire, None)
    except LookupError:
        raise PriceUnknown(f"no price is known for {model!r} on the wire {wire!r}", remedy=_REMEDY) from None
    prices = _usable(info.get_prices(at), model, writes=writes)
    starts = {tier.start for value in prices.values() if isinstance(value, TieredPrices) for tier in value.tiers}
    traits = traits_of(provider.id, info.id)
    base = _rates(prices, 0)
    return Price(
        input_nano_usd_per_mtok=base.input_nano_usd_per_mtok,
        output_nano_usd_per_mtok=base.output_nano_usd_per_mtok,
        cache_read_nano_usd_per_mtok=base.cache_read_nano_usd_per_mtok,
        cache_write_nano_usd_per_mtok=base.cache_write_nano_usd_per_mtok,
        model=model,
        long_context=tuple(
            LongContextRates(
                **{name: getattr(tier, name) for name in Rates.__dataclass_fields__}, above_input_tokens=start
            )
            for start in sorted(starts)
            for tier in (_rates(prices, start + 1),)
        ),
        surcharge_percent_max=traits.surcharge_percent_max,
        max_output_tokens=traits.max_output_tokens,
        hides_reasoning=traits.hides_reasoning,
        source=f"genai-prices {genai_prices.__version__}: {provider.id}/{info.id}",
        context_window=info.context_window,
        # a rehearsal's tokens are not the tokens of the model that it imitates
        tokenizer=tokenizer_of(provider.id, info.id) if imitated == model else None,
    )
