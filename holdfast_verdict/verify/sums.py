"""Sums that are the same only if the same things were added on both sides, in whatever order and by whichever process.

Each thing is turned into a number by a hash with a secret key, and the numbers are added up modulo 2^256: a multiset hash. The key is
drawn for each verification, when the file is there already, so that nobody can have made a file whose sums are the same by intent; by
chance, differing sides come to one sum less often than once in 2^128 times. Sums need no memory for each thing; those of parts add up.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Final

KEY_BYTES: Final = 32
MODULUS: Final = 1 << 256

# INVARIANT: for each pair, what the one side says is what the other says, each thing as often
PAIRS: Final = (
    ("recorded", "proved"),  # each record, and its proof
    ("granted", "held"),  # each allow, and the hold that it granted
    ("taken", "reserved"),  # each hold, and the entry of the journal that took it
    ("settled", "returned"),  # each settled hold, and the entry that settled it
    ("read", "stood"),  # balances and limits as each decision read them, and as the journal came to them
)
SIDES: Final = tuple(side for pair in PAIRS for side in pair)


def new_key() -> bytes:
    """Draws a key."""
    return secrets.token_bytes(KEY_BYTES)


def weigher(key: bytes) -> Callable[[str], int]:
    """Returns what turns a text into its number."""
    begun = hashlib.sha256(key)

    def weigh(text: str) -> int:
        hashed = begun.copy()
        hashed.update(text.encode())
        return int.from_bytes(hashed.digest(), "little")

    return weigh
