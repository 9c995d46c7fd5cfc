"""Signatures of webhooks, in the form of Standard Webhooks (https://www.standardwebhooks.com), asymmetric: `v1a`, Ed25519.

The key is derived from the one that signs permits (HKDF, RFC 5869), so there is no further secret to keep, and whoever checks a
webhook keeps none: there is a public key, which cannot leak.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

FRESH_S: Final = 120
"""For so long a signature may be sent; receivers are told to refuse what is older than a few minutes."""

_CONTEXT: Final = b"holdfast webhooks v1"
_KEY_BYTES: Final = 32


def webhook_key(permit_key: Ed25519PrivateKey) -> Ed25519PrivateKey:
    """Derives the key that signs webhooks; from it nobody comes back to the one of the permits."""
    kdf = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=_CONTEXT)
    return Ed25519PrivateKey.from_private_bytes(kdf.derive(permit_key.private_bytes_raw()))


def public_key_text(public_key: bytes) -> str:
    """Returns a public key as receivers configure it: `whpk_` and base64."""
    return "whpk_" + base64.b64encode(public_key).decode()


def sign(key: Ed25519PrivateKey, message_id: str, signed_s: int, body: bytes) -> bytes:
    """Returns the signature of one attempt.

    Args:
        key: What signs.
        message_id: The same for every attempt at one delivery, so that a receiver can tell a repetition.
        signed_s: Time of this attempt, seconds of the epoch.
        body: The bytes that are sent.
    """
    return key.sign(b".".join((message_id.encode(), str(signed_s).encode(), body)))


def signed_headers(message_id: str, signed_s: int, signature: bytes) -> Mapping[str, str]:
    """Returns the three headers that go with a body."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(signed_s),
        "webhook-signature": "v1a," + base64.b64encode(signature).decode(),
    }
