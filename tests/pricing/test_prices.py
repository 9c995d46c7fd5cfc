from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from genai_prices import data_snapshot

from holdfast.errors import PriceUnknown
from holdfast.pricing.overlay import _TRAITS
from holdfast.pricing.prices import Price, price_of
from holdfast.providers.model import Usage, Wire
from holdfast_verdict.canonical import canonical_bytes

NOW = datetime(2026, 11, 22, tzinfo=UTC)
WIRES: tuple[Wire, ...] = ("anthropic", "openai")


def test_a_price_is_exact_and_in_integers() -> None:
    price = price_of("anthropic", "claude-sonnet-4-5", NOW)
    assert price.input_nano_usd_per_mtok == 3_000_000_000
    assert price.output_nano_usd_per_mtok == 15_000_000_000
    assert price.cache_read_nano_usd_per_mtok == 300_000_000
    assert price.cache_write_nano_usd_per_mtok == 3_750_000_000
    assert [tier.above_input_tokens for tier in price.long_context] == [200_000]
    assert price.long_context[0].output_nano_usd_per_mtok == 22_500_000_000
    assert price.max_output_tokens == 64_000
    assert price.source.startswith("genai-prices ")


def test_a_call_over_a_tier_pays_its_rate_for_every_token() -> None:
    price = price_of("anthropic", "claude-sonnet-4-5", NOW)
    assert price.cost_nano_usd(Usage(200_000, 1)) == 200_000 * 3_000 + 15_000
    assert price.cost_nano_usd(Usage(200_001, 1)) == 200_001 * 6_000 + 22_500
    assert price.cost_nano_usd(Usage(1, 0, cache_read_tokens=200_000)) == 6_000 + 200_000 * 600


def test_the_smallest_fraction_is_rounded_up_once() -> None:
    price = price_of("openai", "gpt-5-nano", NOW)  # $0.05, so 50 nano-dollars a token; a cached one 5
    assert price.cost_nano_usd(Usage(1, 0)) == 50
    dated = price_of("openai", "gpt-oss-20b", NOW)  # $0.029: 29 nano-dollars
    assert dated.cost_nano_usd(Usage(1, 0, surcharge_percent=10)) == 32  # 31.9


def test_the_surcharge_never_exceeds_what_the_price_knows_of() -> None:
    old, new = price_of("anthropic", "claude-haiku-4-5", NOW), price_of("anthropic", "claude-sonnet-4-6", NOW)
    assert old.cost_nano_usd(Usage(1_000, 0, surcharge_percent=10)) == 1_000 * 1_000
    assert new.cost_nano_usd(Usage(1_000, 0, surcharge_percent=10)) == 1_100 * 3_000
    assert new.cost_nano_usd(Usage(1_000, 0, surcharge_percent=10**6)) == 1_100 * 3_000


def test_prices_follow_their_dates() -> None:
    before = price_of("anthropic", "claude-opus-4-6", datetime(2026, 3, 12, tzinfo=UTC))
    after = price_of("anthropic", "claude-opus-4-6", datetime(2026, 3, 13, tzinfo=UTC))
    assert (len(before.long_context), len(after.long_context)) == (1, 0)


def test_a_simulated_model_costs_what_it_imitates() -> None:
    real, simulated = price_of("openai", "gpt-4.1", NOW), price_of("openai", "simulated-gpt-4.1", NOW)
    assert simulated.model == "simulated-gpt-4.1"
    assert {**simulated.to_json(), "model": "gpt-4.1"} == real.to_json()


def test_a_model_that_is_not_listed_is_read_with_care() -> None:
    price = price_of("openai", "gpt-6.1-terra", NOW)
    assert (price.max_output_tokens, price.hides_reasoning, price.surcharge_percent_max) == (None, True, 10)


@pytest.mark.parametrize(
    ("wire", "model"),
    [
        ("openai", "no-such-model"),
        ("openai", ""),
        ("anthropic", "gpt-4.1"),
        ("anthropic", "simulated-"),
        ("openai", "whisper-1"),
        ("openai", "text-embedding-3-small"),
        ("openai", "gpt-realtime"),
        ("openai", "gpt-image-1"),
    ],
)
def test_what_cannot_be_bounded_has_no_price(wire: Wire, model: str) -> None:
    with pytest.raises(PriceUnknown) as caught:
        price_of(wire, model, NOW)
    assert caught.value.remedy


def test_every_price_of_both_wires_is_refused_or_made_of_canonical_integers() -> None:
    known = 0
    for provider in data_snapshot.get_snapshot().providers:
        for wire in WIRES:
            if provider.id != wire:
                continue
            for info in provider.models:
                try:
                    price = price_of(wire, info.id, NOW)
                except PriceUnknown:
                    continue
                known += 1
                stored = json.loads(canonical_bytes(price.to_json()))
                assert Price.from_json(stored) == price
                assert price.output_nano_usd_per_mtok > 0
    assert known > 80


def test_every_listed_trait_names_a_model_of_the_tables() -> None:
    known = {f"{p.id}/{info.id}" for p in data_snapshot.get_snapshot().providers for info in p.models}
    assert not set(_TRAITS) - known
