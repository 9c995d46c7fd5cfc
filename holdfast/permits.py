"""Permits: the signed, single-use capability that an allow yields. Nothing executes without one (LAW 1).

Form: `base64url(payload) "." base64url(signature)`; the payload is canonical JSON, the signature Ed25519 (RFC 8032) over
`"holdfast permit v1" || 0x00 || payload`.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from holdfast.errors import PermitInvalid
from holdfast_verdict.canonical import canonical_bytes

_CONTEXT = b"holdfast permit v1\x00"
_LENGTH_MAX = 4096


@dataclass(frozen=True, slots=True)
class Permit:
    """What a permit says.

    Attributes:
        tenant_id: The tenant.
        run_id: The run, which is also the workflow's id.
        step: The action's number within the run.
        try_number: The try of that step.
        kind: The kind of action, such as `llm.call`.
        digest: SHA-256 of the canonical action, hex.
        hold_id: The hold it redeems.
        max_cost_nano_usd: What the hold reserved.
        expires_at_ms: Milliseconds of the epoch after which it is worth nothing.
        record_hash: Hash of the decision record, hex: the promise that the decision is in the log.
    """

    tenant_id: str
    run_id: str
    step: int
    try_number: int
    kind: str
    digest: str
    hold_id: str
    max_cost_nano_usd: int
    expires_at_ms: int
    record_hash: str


_FIELDS = tuple(Permit.__slots__)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def sign(permit: Permit, key: Ed25519PrivateKey) -> str:
    """Returns the signed permit. The same permit gives the same text."""
    # the cost goes as text: canonical JSON has integers up to 2^53 only
    fields = {name: getattr(permit, name) for name in _FIELDS}
    payload = canonical_bytes({**fields, "max_cost_nano_usd": str(permit.max_cost_nano_usd)})
    return f"{_encode(payload)}.{_encode(key.sign(_CONTEXT + payload))}"


def verify(token: str, key: Ed25519PublicKey, *, now_ms: int) -> Permit:
    """Checks signature and expiry of a permit.

    Args:
        token: What `sign` returned.
        key: The governor's public key.
        now_ms: Milliseconds of the epoch.

    Raises:
        PermitInvalid: It is malformed, altered, signed by somebody else, or expired.
    """
    if not token:
        raise PermitInvalid("there is no permit", remedy="executing activities need one; only the governor gives them")
    if len(token) > _LENGTH_MAX or token.count(".") != 1:
        raise PermitInvalid("the permit is malformed")
    payload_text, _, signature_text = token.partition(".")
    try:
        payload = _decode(payload_text)
        key.verify(_decode(signature_text), _CONTEXT + payload)
    except (binascii.Error, ValueError):
        raise PermitInvalid("the permit is malformed") from None
    except InvalidSignature:
        raise PermitInvalid("the permit's signature is wrong: it was altered or is not the governor's") from None
    if token != f"{payload_text}.{signature_text}" or _encode(payload) != payload_text:
        raise PermitInvalid("the permit is malformed")
    permit = _read(payload)
    if permit.expires_at_ms <= now_ms:
        raise PermitInvalid("the permit has expired", remedy="reserve anew")
    return permit


def claims(token: str) -> Permit | None:
    """Returns what a text says that claims to be a permit; None if it says nothing. No signature is looked at: it proves nothing."""
    try:
        return _read(_decode(token.partition(".")[0])) if len(token) <= _LENGTH_MAX else None
    except (ValueError, TypeError, KeyError):  # binascii's and JSON's errors are such
        return None


def _read(payload: bytes) -> Permit:
    fields = orjson.loads(payload)
    return Permit(**{**fields, "max_cost_nano_usd": int(fields["max_cost_nano_usd"])})


def private_key(raw: bytes) -> Ed25519PrivateKey:
    """Makes the signing key from its 32 bytes."""
    return Ed25519PrivateKey.from_private_bytes(raw)


def public_key(raw: bytes) -> Ed25519PublicKey:
    """Makes the verifying key from its 32 bytes."""
    return Ed25519PublicKey.from_public_bytes(raw)
