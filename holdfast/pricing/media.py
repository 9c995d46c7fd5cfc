"""How many input tokens an image or a sound can be at most, by the rules that the providers have published.

No wire here carries either yet: a request with one is refused (`content.unsupported`). These are the bounds that a wire which does
has to reserve with.

- OpenAI, "Images and vision": older models take a base and an amount for each tile of 512 pixels, after the image was made to fit 2,048
  pixels and its shorter side was made 768 long; others take the patches of 32 pixels, 1,536 of them at most, times a factor. Whether
  small images are made larger is not said, so the dearer reading counts.
- Anthropic, "Vision": an image takes a 750th of its pixels, by newer words its patches of 28 pixels, and is made smaller before it
  takes more than 4,784 tokens (1,600 on older models).
- OpenAI, "Managing costs": a second of sound takes 10 tokens when a person speaks, 20 when the model does.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, Literal

from holdfast.errors import ContentUnsupported
from holdfast.providers.model import Wire

ITEM_OVERHEAD_TOKENS = 16
"""Tokens that stand around an image or a sound."""
CLAUDE_IMAGE_TOKENS_MAX = 5_000
_CLAUDE_PIXELS_PER_TOKEN, _CLAUDE_PATCH_PX = 750, 28
_TILE_PX, _BOX_PX, _SHORT_SIDE_PX = 512, 2_048, 768
_PATCH_PX, _PATCHES_MAX = 32, 1_536
_SOUND_MS_PER_TOKEN: Final = MappingProxyType({"user": 100, "assistant": 50})

_TILES: Final = MappingProxyType(
    {
        "gpt-4-turbo": (85, 170),
        "gpt-4o": (85, 170),
        "gpt-4o-2024-05-13": (85, 170),
        "chatgpt-4o-latest": (85, 170),
        "gpt-4o-mini": (2_833, 5_667),
        "gpt-4.1": (85, 170),
        "o1": (75, 150),
        "o1-pro": (75, 150),
        "o3": (75, 150),
        "gpt-5": (70, 140),
    }
)
"""Tokens of the base and of a tile."""
_PATCH_PERCENT: Final = MappingProxyType(
    {"gpt-4.1-mini": 162, "gpt-4.1-nano": 246, "o4-mini": 172, "gpt-5-mini": 162, "gpt-5-nano": 246}
)
"""What a patch takes, in hundredths of a token."""


def image_tokens_bound(wire: Wire, model: str, width_px: int, height_px: int) -> int:
    """Returns an upper bound of the tokens of an image, at whatever detail it is looked at.

    Raises:
        ContentUnsupported: No rule of the model's is known here, or the image has no size (LAW 7).
    """
    if width_px <= 0 or height_px <= 0:
        raise ContentUnsupported(f"an image of {width_px} × {height_px} pixels", remedy="say how large it is")
    if wire == "anthropic":
        tokens = max(
            _parts(width_px * height_px, _CLAUDE_PIXELS_PER_TOKEN),
            _parts(width_px, _CLAUDE_PATCH_PX) * _parts(height_px, _CLAUDE_PATCH_PX),
        )
        return ITEM_OVERHEAD_TOKENS + min(tokens, CLAUDE_IMAGE_TOKENS_MAX)
    if model in _TILES:
        base, tile = _TILES[model]
        return ITEM_OVERHEAD_TOKENS + base + tile * _tiles(width_px, height_px)
    if model in _PATCH_PERCENT:
        patches = _parts(width_px, _PATCH_PX) * _parts(height_px, _PATCH_PX)
        return ITEM_OVERHEAD_TOKENS + _parts(min(patches, _PATCHES_MAX) * _PATCH_PERCENT[model], 100)
    raise ContentUnsupported(f"nobody has said here what an image costs on {model!r}", remedy="send text")


def _parts(whole: int, part: int) -> int:
    return -(-whole // part)


def _tiles(width_px: int, height_px: int) -> int:
    short, long = sorted((width_px, height_px))
    scaled = _parts(_SHORT_SIDE_PX, _TILE_PX) * _parts(long * _SHORT_SIDE_PX, short * _TILE_PX)
    box = max(long, _BOX_PX)  # sides are in 2,048ths of it
    if short * _BOX_PX >= _SHORT_SIDE_PX * box:
        return scaled
    fits = _parts(short * _BOX_PX, box * _TILE_PX) * _parts(long * _BOX_PX, box * _TILE_PX)
    return max(scaled, fits)  # nobody says whether it is made larger


def sound_tokens_bound(duration_ms: int, speaker: Literal["user", "assistant"]) -> int:
    """Returns an upper bound of the tokens of a sound in a conversation.

    Raises:
        ContentUnsupported: The duration is negative.
    """
    if duration_ms < 0:
        raise ContentUnsupported(f"a sound of {duration_ms} ms", remedy="say how long it is")
    return ITEM_OVERHEAD_TOKENS + _parts(duration_ms, _SOUND_MS_PER_TOKEN[speaker])
