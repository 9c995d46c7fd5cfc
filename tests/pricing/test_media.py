"""Images, sound and embeddings: no bound is below what the providers' published rules come to, and what is not known is refused."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import ContentUnsupported, PriceUnknown
from holdfast.pricing.bounds import Tokenizer, counted_tokens_bound, input_tokens_bound
from holdfast.pricing.estimate import estimate_embedding
from holdfast.pricing.headroom import Headroom, fitted
from holdfast.pricing.media import image_tokens_bound, sound_tokens_bound
from holdfast.pricing.prices import price_of
from holdfast.providers.model import ModelRequest, Usage

from .published import count

unhurried = settings(max_examples=300, deadline=None)  # a busy machine is no failure
NOW = datetime(2026, 11, 22, tzinfo=UTC)
SIZES = st.integers(1, 8_000)


def tile_tokens(width: Fraction, height: Fraction, base: int, tile: int, *, enlarges: bool) -> int:
    """OpenAI's words, step by step."""
    shrink = min(Fraction(1), Fraction(2_048) / max(width, height))
    width, height = width * shrink, height * shrink
    scale = Fraction(768) / min(width, height)
    if scale < 1 or enlarges:
        width, height = width * scale, height * scale
    return base + tile * math.ceil(width / 512) * math.ceil(height / 512)


@unhurried
@given(SIZES, SIZES, st.booleans())
def test_no_image_takes_more_tiles(width: int, height: int, enlarges: bool) -> None:
    for model, base, tile in (("gpt-4o", 85, 170), ("gpt-4o-mini", 2_833, 5_667), ("o1", 75, 150)):
        real = tile_tokens(Fraction(width), Fraction(height), base, tile, enlarges=enlarges)
        assert real <= image_tokens_bound("openai", model, width, height)


@unhurried
@given(SIZES, SIZES)
def test_no_image_takes_more_patches(width: int, height: int) -> None:
    patches = math.ceil(width / 32) * math.ceil(height / 32)
    if patches > 1_536:  # made smaller until its patches are no more than that
        shrink = math.sqrt(32 * 32 * 1_536 / (width * height))
        patches = min(1_536, math.ceil(width * shrink / 32) * math.ceil(height * shrink / 32))
    for model, factor in (("gpt-4.1-mini", 1.62), ("gpt-5-nano", 2.46), ("o4-mini", 1.72)):
        assert math.ceil(patches * factor) <= image_tokens_bound("openai", model, width, height)


@unhurried
@given(SIZES, SIZES, st.sampled_from([(1_568, 1_600), (2_576, 4_784)]))
def test_no_image_takes_claude_more(width: int, height: int, bounds: tuple[int, int]) -> None:
    edge, most = bounds
    shrink = min(1.0, edge / max(width, height), math.sqrt(most * 750 / (width * height)))
    real = math.floor(width * shrink) * math.floor(height * shrink) / 750
    patches = min(most, math.ceil(width * shrink / 28) * math.ceil(height * shrink / 28))
    assert max(math.ceil(real), patches) <= image_tokens_bound("anthropic", "claude-opus-4-8", width, height)


def test_the_providers_own_examples() -> None:
    assert image_tokens_bound("openai", "gpt-4o", 1_024, 1_024) - 16 == 765
    assert image_tokens_bound("openai", "gpt-4o", 2_048, 4_096) - 16 == 1_105
    assert image_tokens_bound("openai", "gpt-5-mini", 1_024, 1_024) - 16 == math.ceil(1_024 * 1.62)
    assert image_tokens_bound("anthropic", "claude-sonnet-4-5", 1_092, 1_092) - 16 == 1_590


def test_a_model_without_a_known_rule_and_an_image_without_a_size_are_refused() -> None:
    for model, width, height in (("gpt-6-sol", 10, 10), ("nobody-knows-this", 10, 10), ("gpt-4o", 0, 10)):
        with pytest.raises(ContentUnsupported):
            image_tokens_bound("openai", model, width, height)
    with pytest.raises(ContentUnsupported):
        sound_tokens_bound(-1, "user")


@unhurried
@given(st.integers(0, 10**8))
def test_no_sound_takes_more(duration_ms: int) -> None:
    assert math.ceil(duration_ms / 1_000 * 10) <= sound_tokens_bound(duration_ms, "user")
    assert math.ceil(duration_ms / 1_000 * 20) <= sound_tokens_bound(duration_ms, "assistant")


@unhurried
@given(st.lists(st.text(max_size=200) | st.text("👩‍👩‍👧‍👦漢字\u0301 \n", max_size=200), max_size=20))
def test_no_embedding_costs_more(texts: list[str]) -> None:
    price = price_of("openai", "text-embedding-3-small", NOW, writes=False)
    estimate = estimate_embedding(texts, price)
    real = sum(count(text, "cl100k_base") for text in texts)
    assert price.cost_nano_usd(Usage(real, 0)) <= estimate.max_cost_nano_usd
    assert real <= estimate.max_tokens_total
    assert estimate.output_tokens_bound == 0


def test_a_model_that_writes_makes_no_embeddings_and_the_other_way_round() -> None:
    for model, writes in (("gpt-4o-mini", False), ("text-embedding-3-small", True)):
        with pytest.raises(PriceUnknown):
            price_of("openai", model, NOW, writes=writes)


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "user", "text": [{"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}]},
        {"kind": "user", "text": "look", "images": ["aGk="]},
        {"kind": "user", "text": "listen", "input_audio": {"data": "aGk=", "format": "wav"}},
        {"kind": "tool_result", "call_id": "c", "tool": "t", "ok": True, "content": [{"type": "image"}]},
        {"kind": "assistant", "text": "x", "tool_calls": {"call_id": "c"}},
        {"kind": "user", "text": None},
    ],
)
@pytest.mark.parametrize("tokenizer", [None, "o200k_base"])
def test_what_is_no_text_is_refused_and_never_estimated_without_it(
    entry: dict[str, Any], tokenizer: Tokenizer | None
) -> None:
    request = ModelRequest("openai", "gpt-4o", 10, "", [{"kind": "user", "text": "x"}, entry], [])
    with pytest.raises(ContentUnsupported):
        input_tokens_bound(request)
    with pytest.raises(ContentUnsupported):
        fitted(request, price_of("openai", "gpt-4o", NOW), Headroom(), None)
    if tokenizer is not None:
        with pytest.raises(ContentUnsupported):
            counted_tokens_bound(request, tokenizer)
