"""What the price tables do not say about models, from the providers' model pages.

A model that is not listed gets the careful reading: its output bound is unknown, it may reason unseen, and a place of
inference may cost extra.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.pricing.bounds import Tokenizer

_REGIONAL_SURCHARGE_PERCENT = 10
"""Both providers take 10 % for inference that is kept in a region, for models since early 2026."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What bounds a model's bill besides its rates."""

    max_output_tokens: int | None
    hides_reasoning: bool
    surcharge_percent_max: int


_PUBLISHED: dict[str, Tokenizer] = {
    **dict.fromkeys(("gpt-3.5-turbo", "gpt-4", "gpt-4-turbo"), "cl100k_base"),
    **dict.fromkeys(
        (
            "gpt-4o",
            "gpt-4o-2024-05-13",
            "gpt-4o-mini",
            "chatgpt-4o-latest",
            "gpt-4.1",
            "gpt-4.1-mini",
            "gpt-4.1-nano",
            "o1",
            "o1-mini",
            "o1-preview",
            "o1-pro",
            "o3",
            "o3-mini",
            "o3-pro",
            "o4-mini",
            "gpt-5",
            "gpt-5-mini",
            "gpt-5-nano",
            "gpt-5-pro",
        ),
        "o200k_base",
    ),
}
"""OpenAI's models whose tokenizer its tiktoken library names; of newer ones nobody has said so, and other makers publish none."""


def tokenizer_of(provider_id: str, model_id: str) -> Tokenizer | None:
    """Returns a model's tokenizer if its maker has published it."""
    return _PUBLISHED.get(model_id) if provider_id == "openai" else None


_UNLISTED = Traits(None, hides_reasoning=True, surcharge_percent_max=_REGIONAL_SURCHARGE_PERCENT)


def _open_book(max_output_tokens: int) -> Traits:
    """A model before regional pricing that shows all output it bills."""
    return Traits(max_output_tokens, hides_reasoning=False, surcharge_percent_max=0)


def _reasoning(max_output_tokens: int) -> Traits:
    """A model before regional pricing that reasons unseen."""
    return Traits(max_output_tokens, hides_reasoning=True, surcharge_percent_max=0)


def _shown(max_output_tokens: int) -> Traits:
    """A model with regional pricing that reasons only when asked to."""
    return Traits(max_output_tokens, hides_reasoning=False, surcharge_percent_max=_REGIONAL_SURCHARGE_PERCENT)


def _current(max_output_tokens: int) -> Traits:
    """A model with regional pricing that reasons unseen by default."""
    return Traits(max_output_tokens, hides_reasoning=True, surcharge_percent_max=_REGIONAL_SURCHARGE_PERCENT)


_TRAITS: dict[str, Traits] = {
    "anthropic/claude-2": _open_book(4_096),
    "anthropic/claude-v1": _open_book(4_096),
    "anthropic/claude-3-haiku": _open_book(4_096),
    "anthropic/claude-3-sonnet": _open_book(4_096),
    "anthropic/claude-3-opus-latest": _open_book(4_096),
    "anthropic/claude-3-5-haiku-latest": _open_book(8_192),
    "anthropic/claude-3-5-sonnet": _open_book(8_192),
    "anthropic/claude-3-7-sonnet-latest": _open_book(64_000),
    "anthropic/claude-opus-4-0": _open_book(32_000),
    "anthropic/claude-opus-4-1": _open_book(32_000),
    "anthropic/claude-sonnet-4-0": _open_book(64_000),
    "anthropic/claude-sonnet-4-5": _open_book(64_000),
    "anthropic/claude-haiku-4-5": _open_book(64_000),
    "anthropic/claude-opus-4-5": _open_book(64_000),
    "anthropic/claude-sonnet-4-6": _shown(64_000),
    "anthropic/claude-opus-4-6": _shown(128_000),
    "anthropic/claude-opus-4-7": _shown(128_000),
    "anthropic/claude-opus-4-8": _shown(128_000),
    "anthropic/claude-opus-5": _current(128_000),
    "anthropic/claude-opus-5-5": _current(128_000),
    "anthropic/claude-sonnet-5": _current(128_000),
    "anthropic/claude-sonnet-5-5": _current(128_000),
    "anthropic/claude-fable-5-1": _current(128_000),
    "openai/gpt-3.5-turbo": _open_book(4_096),
    "openai/gpt-4": _open_book(8_192),
    "openai/gpt-4-turbo": _open_book(4_096),
    "openai/gpt-4o-2024-05-13": _open_book(4_096),
    "openai/gpt-4o": _open_book(16_384),
    "openai/gpt-4o-mini": _open_book(16_384),
    "openai/chatgpt-4o-latest": _open_book(16_384),
    "openai/gpt-4.1": _open_book(32_768),
    "openai/gpt-4.1-mini": _open_book(32_768),
    "openai/gpt-4.1-nano": _open_book(32_768),
    "openai/o1": _reasoning(100_000),
    "openai/o1-mini": _reasoning(65_536),
    "openai/o1-preview": _reasoning(32_768),
    "openai/o1-pro": _reasoning(100_000),
    "openai/o3": _reasoning(100_000),
    "openai/o3-mini": _reasoning(100_000),
    "openai/o3-pro": _reasoning(100_000),
    "openai/o4-mini": _reasoning(100_000),
    "openai/gpt-5": _reasoning(128_000),
    "openai/gpt-5-mini": _reasoning(128_000),
    "openai/gpt-5-nano": _reasoning(128_000),
    "openai/gpt-5-pro": _reasoning(272_000),
    "openai/gpt-5.1": _reasoning(128_000),
    "openai/gpt-5.2": _reasoning(128_000),
    "openai/gpt-5.4": _current(128_000),
    "openai/gpt-5.4-mini": _current(128_000),
    "openai/gpt-5.4-nano": _current(128_000),
    "openai/gpt-5.5": _current(128_000),
    "openai/gpt-5.6-luna": _current(128_000),
    "openai/gpt-5.6-sol": _current(128_000),
    "openai/gpt-5.6-terra": _current(128_000),
    "openai/gpt-6-astra": _current(128_000),
    "openai/gpt-6-luna": _current(128_000),
    "openai/gpt-6-sol": _current(128_000),
}


def traits_of(provider_id: str, model_id: str) -> Traits:
    """Returns what is known of a model, by the names that the price tables give provider and model."""
    return _TRAITS.get(f"{provider_id}/{model_id}", _UNLISTED)
