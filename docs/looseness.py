"""How loose the bounds of a text's tokens are, on a fixed set of texts, against what the public tokenizers really count."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import toktok

from holdfast.pricing.bounds import Tokenizer, counted_tokens_bound, text_tokens_bound
from holdfast.providers.model import ModelRequest

TOKENIZERS: Final[tuple[Tokenizer, ...]] = ("o200k_base", "cl100k_base")

_ENGLISH: Final = (
    "A hold is a reservation of the most that an action can cost. It is taken before the action runs, against every cap "
    "that applies, and it is granted whole or not at all. When the action has run, what it really cost is committed and the "
    "rest returns. Nobody has to trust the model for that: it never sees the caps, and no prompt can change them. "
)
_CODE: Final = '''\
def settle(balance: Balance, held: int, actual: int) -> Balance:
    """Commits what was spent and returns the rest."""
    within = min(actual, held)
    if within < 0:
        raise ValueError(f"a hold cannot come to {actual}")
    return replace(balance, reserved=balance.reserved - held, committed=balance.committed + within)


'''
_ORDERS: Final = json.dumps(
    [
        {"order_id": f"A-{1000 + n}", "total_usd_cents": 1250 + 37 * n, "status": "delivered", "items": [n, n + 1], "gift": n % 2 == 0}
        for n in range(8)
    ],
    indent=2,
)  # fmt: skip
_BYTES: Final = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(12))

TEXTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "English prose": 4 * _ENGLISH,
        "Python": 4 * _CODE,
        "JSON": _ORDERS,
        "Chinese": 12 * "预算上限在任何情况下都不会被超过，每一次调用之前都会先冻结最坏情况下的费用。",
        "Japanese": 12 * "どの操作も、実行される前に必ず承認され、最大の費用が確保されます。",
        "Emoji": 30 * "👍🏽🎉👩‍👩‍👧‍👦🏳️‍🌈🇩🇪",
        "base64": base64.b64encode(_BYTES).decode(),
        "Hex": _BYTES.hex(),
        "Spaces": 20_000 * " ",
    }
)


def _counted(text: str, tokenizer: Tokenizer) -> int:
    """Returns what a text adds to the bound of a request whose input is counted."""
    request = ModelRequest("openai", "", 1, text, [], [])
    return counted_tokens_bound(request, tokenizer) - counted_tokens_bound(
        ModelRequest("openai", "", 1, "", [], []), tokenizer
    )


def rows() -> Iterator[Sequence[str]]:
    """Yields name, bytes, and for each tokenizer the real tokens with both bounds as multiples of them."""
    for name, text in TEXTS.items():
        cells = [name, str(len(text.encode()))]
        for tokenizer in TOKENIZERS:
            real = int(toktok.batch_count([text], tokenizer, 1)[0])
            cells += [
                str(real),
                f"{text_tokens_bound(text) / real:.2f}",
                f"{_counted(text, tokenizer) / real:.2f}",
            ]
        yield cells


HEADINGS: Final = (
    "text",
    "bytes",
    *(
        heading
        for tokenizer in TOKENIZERS
        for heading in (f"tokens, `{tokenizer}`", "bound from bytes ÷ tokens", "bound by count ÷ tokens")
    ),
)
