"""The payload codec: what travels through Temporal's history is encrypted, and nobody can alter it unseen.

Decoding lets unencrypted payloads through: a workflow that somebody starts by hand has a plain input, and it must end as a
refused and recorded run, not as a task that is retried for ever. Nothing is lost by that, because nothing in a workflow's
input is believed (ARCHITECTURE, rule 5), and Holdfast itself writes no payload unencrypted. What claims to be encrypted
and cannot be authenticated is refused (LAW 7).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes, PayloadCodec

from holdfast.errors import HoldfastError

ENCODING: Final = b"binary/holdfast-encrypted"
_KEY_ID: Final = "holdfast-key-id"
_NONCE_BYTES: Final = 12


class PayloadRefused(HoldfastError):
    """A payload claims to be encrypted by Holdfast, but was altered or is of another key (LAW 7)."""

    code = "codec.refused"
    status = 422


class EncryptingCodec(PayloadCodec):
    """AES-256-GCM with a random nonce for each payload.

    Args:
        key: 32 bytes. Its id, the start of its SHA-256, stands beside each payload.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._key_id = hashlib.sha256(key).hexdigest()[:16].encode("ascii")
        self._associated = ENCODING + b"\x00" + self._key_id

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypts payloads, metadata included."""
        return [self._encrypt(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypts what is encrypted and returns the rest as it is.

        Raises:
            PayloadRefused: A payload was altered, or encrypted with another key.
        """
        return [self._decrypt(payload) for payload in payloads]

    def _encrypt(self, payload: Payload) -> Payload:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, payload.SerializeToString(), self._associated)
        return Payload(metadata={"encoding": ENCODING, _KEY_ID: self._key_id}, data=nonce + sealed)

    def _decrypt(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != ENCODING:
            return payload
        if payload.metadata.get(_KEY_ID) != self._key_id:
            raise PayloadRefused(
                "a payload was encrypted with another key", remedy="give this process the same codec key"
            )
        try:
            plain = self._cipher.decrypt(payload.data[:_NONCE_BYTES], payload.data[_NONCE_BYTES:], self._associated)
            return Payload.FromString(plain)
        except (InvalidTag, ValueError, DecodeError):
            raise PayloadRefused("a payload was altered: it does not authenticate") from None


def data_converter(codec_key: bytes) -> DataConverter:
    """Returns the converter that every client and worker of Holdfast uses: pydantic messages, encrypted, failures too.

    Args:
        codec_key: 32 bytes, the same in all processes.
    """
    return dataclasses.replace(
        pydantic_data_converter,
        payload_codec=EncryptingCodec(codec_key),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )
